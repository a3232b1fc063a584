#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""MQTT over WebSocket, plain and over TLS: Paho, python3-websockets, and frames that are cut where it hurts."""
import asyncio
import os
import queue
import shutil
import socket
import ssl
import subprocess
import tempfile

from gateway import Gateway, run, until
from websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Socket, close_payload, frame
from wire import CONNACK, PUBACK, PUBLISH, Client, packet, properties, publish, text

try:
    import paho.mqtt.client as paho
    import websockets
except ImportError as missing:
    raise SystemExit(f"{missing.name} is missing: script/bootstrap names what is needed") from None

VERSIONS = {"mqttv31": paho.MQTTv31, "mqttv311": paho.MQTTv311, "mqttv5": paho.MQTTv5}


def connect_packet(client_id, version=4, keep_alive=60):
    return packet(1, 0, text("MQTT") + bytes([version, 2, 0, keep_alive]) + (properties([]) if version == 5 else b"") + text(client_id))


def subscribe_packet(topic, qos=0):
    return packet(8, 2, b"\0\1" + text(topic) + bytes([qos]))


PINGREQ, DISCONNECT = b"\xc0\0", b"\xe0\0"


def paho_everywhere(port, context=None):
    for name, version in VERSIONS.items():
        got = queue.Queue()
        client = paho.Client(f"browser-{name}", protocol=version, transport="websockets")
        if context is not None:
            client.tls_set_context(context)
        client.ws_set_options("/mqtt")
        client.on_message = lambda _client, _data, message: got.put((message.topic, message.qos, message.payload))
        client.on_connect = lambda client, *_: client.subscribe("web/#", 2)
        subscribed = queue.Queue()
        client.on_subscribe = lambda *_: subscribed.put(True)
        client.connect("127.0.0.1", port)
        client.loop_start()
        subscribed.get(timeout=20)
        sent = []
        for qos in (0, 1, 2):
            for size in (0, 100, 70000, 1 << 20):
                sent.append((f"web/{name}", qos, os.urandom(size)))
                client.publish(sent[-1][0], sent[-1][2], qos)
        for i in range(300):
            sent.append((f"web/{name}/many", 1, b"%d" % i))
            client.publish(f"web/{name}/many", b"%d" % i, 1)
        received = [got.get(timeout=20) for _ in sent]
        client.disconnect()
        client.loop_stop()
        # QoS 0 does not wait for the store, and Paho shows QoS 2 when it is released: each is in order by itself.
        for qos in (0, 1, 2):
            assert [m for m in received if m[1] == qos] == [m for m in sent if m[1] == qos], (name, qos)


def clients_of_others(gateway):
    paho_everywhere(gateway.http_port)


def ask_and_say_goodbye(port, context, request):
    """A request and TLS's close_notify in one segment, while TCP stays open."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                link.sendall(outgoing.read())
                incoming.write(link.recv(65536))
        tls.write(request)
        try:
            tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        link.sendall(outgoing.read())
        while link.recv(65536):
            pass


def over_tls():
    directory = tempfile.mkdtemp(prefix="polylog-wss-")
    try:
        cert, key = f"{directory}/cert.pem", f"{directory}/key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                        "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
        running = Gateway(None, f"tls.cert={cert}", f"tls.key={key}", "mqtt.tls_port=0", "http.tls_port=0")
        context = ssl.create_default_context(cafile=cert)
        paho_everywhere(running.ports["https"], context)
        with Socket(running.ports["https"], "/mqtt", protocols="mqtt", tls=context,
                    behind=frame(BINARY, connect_packet("eager"))) as link:
            assert link.receive()[1][0] >> 4 == CONNACK
            link.send_frame(CLOSE, close_payload(1000))
            link.expect_close(1000)
        for _ in range(5):
            ask_and_say_goodbye(running.ports["https"], context,
                                b"GET /v1/default/events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert running.stop() == 0
    finally:
        shutil.rmtree(directory)


def python_websockets(gateway):
    async def talk():
        address = f"ws://127.0.0.1:{gateway.http_port}/mqtt"
        async with websockets.connect(address, subprotocols=["mqtt"]) as link:
            assert link.subprotocol == "mqtt" and not link.extensions  # it offers compression
            await link.send(connect_packet("pw") + subscribe_packet("pw"))
            answers = b""
            while len(answers) < 9:
                answers += await link.recv()
            assert answers == b"\x20\x02\0\0" + b"\x90\x03\0\1\0"
            # 3 MiB arrive in frames that any client takes.
            await link.send(publish(4, "pw", b"x" * (3 << 20)))
            got = b""
            while len(got) < 3 << 20:
                piece = await link.recv()
                assert len(piece) <= 65536, len(piece)
                got += piece
            await (await link.ping())
            await link.send(DISCONNECT)
            await link.wait_closed()
            assert link.close_code == 1000, link.close_code

    asyncio.run(asyncio.wait_for(talk(), 60))


def pieces(gateway):
    """Packets do not care where frames begin and end, nor frames where segments do."""
    flow = connect_packet("pieces") + subscribe_packet("pieces") + publish(4, "pieces", b"a" * 300) + PINGREQ
    for size in (1, 2, 3, 7, 126, len(flow)):
        with Socket(gateway.http_port, "/ws", protocols="mqttv3.1") as link:
            for at in range(0, len(flow), size):
                link.send_frame(BINARY, flow[at:at + size], mask=os.urandom(4))
            got = b""
            while len(got) < 4 + 5 + len(publish(4, "pieces", b"a" * 300)) + 2:
                kind, payload, last, bits = link.receive()
                assert kind == BINARY and last and bits == 0
                got += payload
            assert got.count(b"a" * 300) == 1 and got.count(b"\xd0\0") == 1
    with Socket(gateway.http_port, "/ws", protocols="mqtt") as link:
        link.send(frame(BINARY, flow[:5], last=False) + frame(PING, b"p") + frame(CONTINUATION, flow[5:9], last=False) +
                  frame(CONTINUATION, flow[9:]), 1)
        kind, payload, *_ = link.receive()
        assert kind == PONG and payload == b"p"
        got = b""
        while b"\xd0\0" not in got or b"a" * 300 not in got:
            got += link.receive()[1]
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt", behind=frame(BINARY, flow)) as link:
        assert link.receive()[1][0] >> 4 == CONNACK


def many_and_mixed(gateway):
    """Publishes from TCP reach a WebSocket subscriber in order and the other way round, thousands at a time."""
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as web, Client(gateway.mqtt_port, 4) as plain:
        plain.connect("plain")
        plain.subscribe(("from/web", 1))
        web.send_frame(BINARY, connect_packet("web") + subscribe_packet("from/tcp", 0))
        got = b""
        while len(got) < 9:
            got += web.receive()[1]
        count = 3000
        plain.send(b"".join(publish(4, "from/tcp", b"%05d" % i) for i in range(count)))
        each = len(publish(4, "from/tcp", b"00000"))
        got = b""
        while len(got) < each * count:
            got += web.receive()[1]
        assert [got[at + each - 5:at + each] for at in range(0, len(got), each)] == [b"%05d" % i for i in range(count)]
        web.send(b"".join(frame(BINARY, publish(4, "from/web", b"%05d" % i, 1, i + 1)) for i in range(count)))
        seen = []
        while len(seen) < count:
            found = plain.receive()
            if found.type == PUBLISH:
                seen.append(found.payload)
                plain.send(packet(PUBACK, 0, found.id.to_bytes(2, "big")))
        assert seen == [b"%05d" % i for i in range(count)]
        acks = b""
        while len(acks) < 4 * count:
            acks += web.receive()[1]
        assert acks == b"".join(b"\x40\2" + (i + 1).to_bytes(2, "big") for i in range(count))


def refusals(gateway):
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send_frame(TEXT, connect_packet("text"))  # MQTT-6.0.0-1
        link.expect_close(1003)
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send_frame(BINARY, b"\x20\2\0\0")  # not a CONNECT
        link.expect_close(1000)
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send_frame(BINARY, connect_packet("five", 5))
        assert link.receive()[1][0] >> 4 == CONNACK
        link.send_frame(BINARY, b"\xf0\1\2")  # MQTT 5: DISCONNECT with a reason, then the Close frame
        kind, payload, *_ = link.receive()
        assert kind == BINARY and payload[0] == 0xE0 and payload[2] >= 0x80, payload
        link.expect_close(1000)
    with Socket(gateway.http_port, "/mqtt", protocols="mqtt") as link:
        link.send_frame(BINARY, connect_packet("last"))
        assert link.receive()[1][0] >> 4 == CONNACK
        # Those before are gone when both sides have said so.
        assert until(lambda: 'connections{protocol="websocket"} 1\n' in gateway.call("GET", "/metrics")[1])
        assert gateway.stop() == 0
        link.expect_close(1001)


def a_slow_browser(gateway):
    """Who does not read gets what fits; the rest is dropped and counted, others are not held up, nothing is kept."""
    def figure(name):
        lines = gateway.call("GET", "/metrics")[1].splitlines()
        return sum(int(float(line.split()[1])) for line in lines if line.startswith(name))

    with Socket(gateway.http_port, "/mqtt", protocols="mqtt", receive_buffer=8192) as slow, \
            Socket(gateway.http_port, "/mqtt", protocols="mqtt") as quick, Client(gateway.mqtt_port, 4) as source:
        for link, name in ((slow, "slow"), (quick, "quick")):
            link.send_frame(BINARY, connect_packet(name) + subscribe_packet("flood"))
            got = b""
            while len(got) < 9:
                got += link.receive()[1]
        source.connect("source")
        one = publish(4, "flood", b"x" * 10000)
        got = 0
        for i in range(1000):
            source.send(one)
            while got < (i + 1) * len(one):
                got += len(quick.receive()[1])
        assert figure('polylog_dropped_total{reason="slow') > 0
    assert until(lambda: figure('polylog_connections{protocol="websocket"}') == 0)


if __name__ == "__main__":
    run(clients_of_others, over_tls, python_websockets, pieces, many_and_mixed, refusals, a_slow_browser)
