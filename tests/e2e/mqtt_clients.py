#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that people use: mosquitto_pub and mosquitto_sub, a bridge of Mosquitto's, and Paho in Python (Debian:
python3-paho-mqtt, mosquitto-clients, mosquitto), plain and over TLS."""

import atexit
import concurrent.futures
import contextlib
import os
import queue
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading

from certificates import certificates
from gateway import Gateway, run, until
from wire import Client

try:
    import paho.mqtt.client as paho
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.subscribeoptions import SubscribeOptions
except ImportError:
    raise SystemExit("python3-paho-mqtt is missing: script/bootstrap names what is needed") from None

VERSIONS = {"mqttv31": paho.MQTTv31, "mqttv311": paho.MQTTv311, "mqttv5": paho.MQTTv5}
MANY = 2000


def mosquitto(program, port, *arguments, **options):
    command = ["stdbuf", "-oL", program, "-h", "127.0.0.1", "-p", str(port), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def subscribed(port, *arguments):
    """A mosquitto_sub whose subscription holds: -d says so."""
    process = mosquitto("mosquitto_sub", port, "-d", "-W", "30", *arguments)
    for line in process.stdout:
        if "SUBACK" in line or "Subscribed" in line:
            return process
    raise AssertionError(process.stderr.read())


def lines_of(process):
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    noise = ("Client ", "Subscribed ", "Received ")
    return [line for line in out.splitlines() if not line.startswith(noise)]


class Paho:
    """A connected client; messages and answers come through queues."""

    def __init__(self, port, name, version, tls=None):
        self.messages, self.answers = queue.Queue(), queue.Queue()
        extra = {} if version == paho.MQTTv5 else {"clean_session": True}
        self.client = paho.Client(name, protocol=version, **extra)
        self.client.max_inflight_messages_set(500)
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_connect = lambda *arguments: self.answers.put(arguments[3])
        self.client.on_subscribe = lambda *arguments: self.answers.put(arguments[3])
        self.client.on_publish = lambda client, data, packet_id: self.answers.put(packet_id)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.connect("localhost" if tls else "127.0.0.1", port, 30)
        self.client.loop_start()
        try:
            assert self.answers.get(timeout=10) == 0
        except BaseException:
            self.client.loop_stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic, qos=None, options=None, properties=None):
        if options is not None or properties is not None:
            self.client.subscribe(topic, options=options or SubscribeOptions(qos), properties=properties)
        else:
            self.client.subscribe(topic, qos)
        return self.answers.get(timeout=10)

    def publish(self, topic, payload, qos, properties=None):
        self.client.publish(topic, payload, qos, properties=properties).wait_for_publish(10)

    def message(self):
        return self.messages.get(timeout=10)


def test_mosquitto_both_ways(gateway):
    for version in VERSIONS:
        for qos in "012":
            topic = "m/%s/%s" % (version, qos)
            reader = subscribed(gateway.mqtt_port, "-V", version, "-q", qos, "-t", "m/+/%s" % qos, "-C", "3", "-F", "%t %q %p")
            for payload in ("one", "two words", "drei ü"):
                writer = mosquitto("mosquitto_pub", gateway.mqtt_port, "-V", version, "-q", qos, "-t", topic, "-m", payload)
                lines_of(writer)
            assert lines_of(reader) == ["%s %s %s" % (topic, qos, payload) for payload in ("one", "two words", "drei ü")]


def test_mosquitto_properties(gateway):
    reader = subscribed(gateway.mqtt_port, "-V", "5", "-q", "1", "-t", "p", "-C", "1",
                        "-F", "%C %R %D %E %P %p")
    writer = mosquitto("mosquitto_pub", gateway.mqtt_port, "-V", "5", "-q", "1", "-t", "p", "-m", "body",
                       "-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", "r/1",
                       "-D", "publish", "correlation-data", "abc", "-D", "publish", "message-expiry-interval", "600",
                       "-D", "publish", "user-property", "k", "v1", "-D", "publish", "user-property", "k", "v2")
    lines_of(writer)
    found = lines_of(reader)[0]
    assert found.startswith("text/plain r/1 abc ") and "k:v1 k:v2" in found and found.endswith("body"), found
    assert found.split()[3] in ("599", "600"), found


def test_mosquitto_lines(gateway):
    """A file line by line, many at once: all of them arrive, in order."""
    for qos in "12":
        reader = subscribed(gateway.mqtt_port, "-q", qos, "-t", "lines/" + qos, "-C", str(MANY))
        writer = mosquitto("mosquitto_pub", gateway.mqtt_port, "-q", qos, "-t", "lines/" + qos, "-l")
        sender = threading.Thread(target=writer.communicate, args=("".join("line %d\n" % i for i in range(MANY)),))
        sender.start()
        assert lines_of(reader) == ["line %d" % i for i in range(MANY)]
        sender.join()


def test_paho_both_ways(gateway):
    for name, version in VERSIONS.items():
        with Paho(gateway.mqtt_port, "reader", version) as reader, Paho(gateway.mqtt_port, "writer", version) as writer:
            for qos in (0, 1, 2):
                reader.subscribe("y/%d" % qos, qos)
                for i in range(200):
                    writer.client.publish("y/%d" % qos, "%s %d" % (name, i), qos)
                got = [reader.message() for _ in range(200)]
                assert [message.payload.decode() for message in got] == ["%s %d" % (name, i) for i in range(200)]
                assert all(message.qos == qos for message in got)


def test_paho_properties(gateway):
    with Paho(gateway.mqtt_port, "reader", paho.MQTTv5) as reader, Paho(gateway.mqtt_port, "writer", paho.MQTTv5) as writer:
        identifier = Properties(PacketTypes.SUBSCRIBE)
        identifier.SubscriptionIdentifier = 4711
        reader.subscribe("v/#", 2, properties=identifier)
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/json"
        properties.ResponseTopic = "answers/here"
        properties.CorrelationData = b"\x00\x01"
        properties.PayloadFormatIndicator = 1
        properties.MessageExpiryInterval = 100
        properties.UserProperty = [("a", "1"), ("b", "2"), ("a", "1")]
        writer.publish("v/x", "{}", 2, properties)
        got = reader.message().properties
        assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("application/json", "answers/here", b"\x00\x01")
        assert got.UserProperty == [("a", "1"), ("b", "2"), ("a", "1")]
        assert got.PayloadFormatIndicator == 1 and got.MessageExpiryInterval in (99, 100)
        assert got.SubscriptionIdentifier == [4711]


def test_retained(gateway):
    """Retained by one client, shown to another one: the newest of each topic, and none that was deleted."""
    port = gateway.mqtt_port
    for topic, payload in (("kept/1", "old"), ("kept/1", "new"), ("kept/2", "two"), ("kept/3", "three")):
        assert mosquitto("mosquitto_pub", port, "-q", "1", "-r", "-t", topic, "-m", payload).wait(30) == 0
    assert mosquitto("mosquitto_pub", port, "-q", "1", "-r", "-t", "kept/3", "-n").wait(30) == 0
    for version in VERSIONS:
        reader = mosquitto("mosquitto_sub", port, "-V", version, "-q", "1", "-t", "kept/#", "-F", "%r %t %p", "-C", "2")
        assert sorted(lines_of(reader)) == ["1 kept/1 new", "1 kept/2 two"]
    for version in VERSIONS.values():
        with Paho(port, "reader", version) as reader:
            reader.subscribe("kept/+", 2)
            got = sorted((message.topic, message.payload, message.retain) for message in
                         (reader.message(), reader.message()))
            assert got == [("kept/1", b"new", 1), ("kept/2", b"two", 1)], got


def test_statistics(gateway):
    reader = mosquitto("mosquitto_sub", gateway.mqtt_port, "-t", "$SYS/broker/version", "-C", "1")
    assert lines_of(reader)[0].startswith("polylog ")


class Bridge:
    """A broker of Mosquitto's that is connected to the gateway as its documentation says, nothing else set: NAME/up/#
    goes there, NAME/down/# comes from there, NAME/both/# is exchanged."""

    def __init__(self, gateway, name, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        with open(os.path.join(folder, "bridge.conf"), "w", encoding="ascii") as file:
            file.write("listener %d 127.0.0.1\nallow_anonymous true\nconnection edge\naddress 127.0.0.1:%d\n"
                       "bridge_protocol_version %s\nremote_clientid %s\ncleansession false\nrestart_timeout 1\n"
                       "topic %s/up/# out 2\ntopic %s/down/# in 2\ntopic %s/both/# both 1\n"
                       % (self.port, gateway.mqtt_port, name, name, name, name, name))
        os.chmod(folder, 0o755)  # begun by root, it becomes a user of its own
        self.process = None
        atexit.register(self.stop, kill=True)
        self.start()

    def start(self):
        program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
        self.process = subprocess.Popen([program, "-c", os.path.join(self.folder, "bridge.conf")], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def stop(self, kill=False):
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait()

    def is_connected(self):
        with contextlib.suppress(OSError):
            with Paho(self.port, "probe", paho.MQTTv311) as probe:
                probe.subscribe("$SYS/broker/connection/+/state", 0)
                return probe.message().payload == b"1"
        return False


def nothing_more(client):
    try:
        message = client.messages.get(timeout=0.3)
    except queue.Empty:
        return
    raise AssertionError("%s %r came as well" % (message.topic, message.payload))


def bridged(gateway, name, version, folder):
    state = "$SYS/broker/connection/%s/state" % name
    up, down, both = (name + place for place in ("/up/x", "/down/x", "/both/"))
    with Paho(gateway.mqtt_port, "central " + name, version) as central:
        central.subscribe(state, 1)
        bridge = Bridge(gateway, name, folder)
        assert central.message().payload == b"1"
        with Paho(gateway.mqtt_port, "late " + name, version) as late:
            late.subscribe(state, 1)
            got = late.message()
            assert (got.payload, got.retain) == (b"1", True), got.payload
        central.subscribe(name + "/+/#", 2)
        assert until(bridge.is_connected)
        with Paho(bridge.port, "edge", paho.MQTTv311) as edge:
            edge.subscribe("#", 2)
            for i in range(20):
                edge.publish(up, "%d" % i, 2)
                central.publish(down, "%d" % i, 2)
                edge.publish(both + "edge", "%d" % i, 1)
                central.publish(both + "central", "%d" % i, 1)
            for client in central, edge:  # each sees what it publishes itself as well
                got = [client.message() for _ in range(80)]
                for topic in up, down, both + "edge", both + "central":
                    assert [int(m.payload) for m in got if m.topic == topic] == list(range(20)), (name, topic)
                nothing_more(client)
        bridge.stop(kill=True)
        assert central.message().payload == b"0"  # the will of Mosquitto's bridges
        for i in range(20):
            central.publish(down, "%d" % i, 1)
            central.message()
        bridge.start()
        assert central.message().payload == b"1"
        assert until(bridge.is_connected)
        bridge.stop()


def test_bridge(gateway):
    """Both ways each once and without a loop, also with a session that goes on; its state is retained here."""
    names = {"mqttv31": paho.MQTTv31, "mqttv311": paho.MQTTv311, "mqttv50": paho.MQTTv5}
    with tempfile.TemporaryDirectory(prefix="polylog-bridge-") as folder, \
            concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        for name in names:
            os.mkdir(os.path.join(folder, name))
        os.chmod(folder, 0o755)
        list(pool.map(lambda name: bridged(gateway, name, names[name], os.path.join(folder, name)), names))


def test_paho_large(gateway):
    payload = os.urandom(5 * 1024 * 1024)
    with Paho(gateway.mqtt_port, "reader", paho.MQTTv311) as reader, Paho(gateway.mqtt_port, "writer", paho.MQTTv5) as writer:
        reader.subscribe("large", 1)
        writer.publish("large", payload, 1)
        assert reader.message().payload == payload


def test_tls():
    folder = tempfile.mkdtemp(prefix="polylog-tls-")
    inside = certificates(folder)
    gateway = Gateway(None, "tls.cert=" + inside["server.pem"], "tls.key=" + inside["server.key"],
                      "tls.client_ca=" + inside["ca.pem"], "mqtt.tls_port=0", "http.tls_port=off")
    port = gateway.ports["mqtts"]
    trust = ssl.create_default_context(cafile=inside["ca.pem"])
    try:
        with Client(port, 5, tls=trust) as client:
            client.connect("nobody")
    except (OSError, AssertionError):
        pass
    else:
        raise AssertionError("a client without the certificate that was asked for got in")
    trust.load_cert_chain(inside["device.pem"], inside["device.key"])
    for version in VERSIONS.values():
        with Paho(port, "reader", version, trust) as reader, Paho(gateway.mqtt_port, "writer", version) as plain, \
                Paho(port, "writer2", version, trust) as secret:
            reader.subscribe("tls", 1)
            for i in range(100):
                (plain, secret)[i % 2].publish("tls", b"%d" % i, 1)
            assert [int(reader.message().payload) for _ in range(100)] == list(range(100))
    large = os.urandom(3 * 1024 * 1024)
    with Paho(port, "reader", paho.MQTTv5, trust) as reader, Paho(port, "writer", paho.MQTTv5, trust) as writer:
        reader.subscribe("large", 1)
        writer.publish("large", large, 1)
        assert reader.message().payload == large
    files = ("--cafile", inside["ca.pem"], "--cert", inside["device.pem"], "--key", inside["device.key"])
    reader = subscribed(port, *files, "-t", "cli", "-q", "2", "-C", "1")
    lines_of(mosquitto("mosquitto_pub", port, *files, "-t", "cli", "-q", "2", "-m", "hello"))
    assert lines_of(reader) == ["hello"]
    for oldest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=inside["ca.pem"])
        context.minimum_version = context.maximum_version = oldest
        context.load_cert_chain(inside["device.pem"], inside["device.key"])
        with Client(port, 5, tls=context).connect("device7") as client:
            assert client.publish("x", "y", 1) == 0
    stranger = ssl.create_default_context()  # trusts others
    try:
        Client(port, 5, tls=stranger)
    except ssl.SSLError:
        pass
    else:
        raise AssertionError("an unknown authority was trusted")
    assert gateway.stop() == 0
    shutil.rmtree(folder)


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
