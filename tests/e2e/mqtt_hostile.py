#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input: the protocol's own refusal, a counter in /metrics, and no effect on others."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time

import standstill
from gateway import Gateway, run, until
from wire import *  # noqa: F403 - the names of the protocol

CONNECT_4 = b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1x"
CONNECT_5 = b"\x10\x0e\0\4MQTT\5\2\0\x3c\0\0\1x"


def series(gateway):
    status, text = gateway.call("GET", "/metrics")
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, value in pairs}


def refusals(gateway, reason):
    return series(gateway).get('polylog_refused_total{protocol="mqtt",reason="%s"}' % reason, 0)


def connections(gateway):
    return series(gateway)['polylog_connections{protocol="mqtt"}']


class Bystander:
    """Somebody else: while the block runs, its messages keep going round within a moment."""

    def __init__(self, gateway, moment=1.0):
        self.gateway, self.moment = gateway, moment

    def __enter__(self):
        self.over, self.error, self.rounds, self.worst = False, None, 0, 0
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            with Client(self.gateway.mqtt_port, 5).connect("bystander") as client:
                client.subscribe(("by/stander", 1))
                while not self.over:
                    began = time.monotonic()
                    client.send(publish(5, "by/stander", b"%d" % self.rounds, 1, self.rounds % 100 + 1))
                    got = []
                    while len(got) < 2:
                        found = client.receive()
                        got.append(found.type)
                        if found.type == PUBLISH:
                            client.ack(PUBACK, found.id)
                    assert sorted(got) == [PUBLISH, PUBACK], got
                    if time.monotonic() - began > self.worst:
                        self.worst = max(self.worst, standstill.spent(began))
                    self.rounds += 1
                    time.sleep(0.005)
        except Exception as error:  # noqa: BLE001 - shown when the block ends
            self.error = error

    def __exit__(self, kind, *_):
        self.over = True
        self.thread.join()
        if kind is None:
            assert self.error is None, repr(self.error)
            assert self.rounds > 0 and self.worst < self.moment, "%.3f s" % self.worst


def test_garbage(gateway):
    chance = random.Random(1)
    with Bystander(gateway):
        before = refusals(gateway, "malformed")
        pieces = [bytes(chance.randrange(256) for _ in range(chance.randrange(1, 300))) for _ in range(200)]
        pieces += [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100, b"\xff" * 100,
                   b"\x10\x00", b"\x30\x02\x00\x00", b"\xc0\x00", b"\xe0\x00"]
        for first in (b"", CONNECT_4, CONNECT_5):
            for piece in pieces:
                with socket.create_connection(("127.0.0.1", gateway.mqtt_port), timeout=10) as link:
                    link.sendall(first + piece)
                    link.shutdown(socket.SHUT_WR)
                    try:
                        while link.recv(65536):
                            pass
                    except ConnectionResetError:
                        pass
        assert refusals(gateway, "malformed") > before + 100
        assert until(lambda: connections(gateway) == 1)


def test_second_connect(gateway):
    for version, first, reason in ((4, CONNECT_4, None), (5, CONNECT_5, 0x82)):
        with Client(gateway.mqtt_port, version) as client:
            client.send(first)
            assert client.expect(CONNACK).reason == 0
            client.send(first)
            assert client.expect_end() == reason
    with Client(gateway.mqtt_port, 5) as client:  # and what is sent behind a CONNECT at once is not lost
        client.send(CONNECT_5 + publish(5, "a", b"x", 1) + b"\xc0\0")
        assert client.expect(CONNACK).reason == 0
        assert sorted(client.receive().type for _ in range(2)) == [PUBACK, PINGRESP]


def test_refused_connects(gateway):
    cases = (
        (5, {"client_id": "x" * 1025}, 0x85),
        (4, {"client_id": "x" * 1025}, 2),
        (4, {"client_id": "", "clean": False}, 2),
        (5, {"client_id": "a", "props": [(AUTH_METHOD, b"SCRAM-SHA-1")]}, 0x8C),
        (6, {"client_id": "a"}, 0x84),
    )
    for version, options, reason in cases:
        with Client(gateway.mqtt_port, version) as client:
            client.connect(accept=False, **options)
            client.version = 5 if version > 4 else version
            assert client.expect_end() == reason, (version, options)
    for version in (3, 4, 5):
        with Client(gateway.mqtt_port, version).connect("x" * 1024) as client:
            client.ping()
    with Client(gateway.mqtt_port, 5).connect("") as client:
        assert client.connack.get(ASSIGNED_ID)


def test_subscriptions_by_the_thousand(gateway):
    with Bystander(gateway), Client(gateway.mqtt_port, 5).connect("many") as client, \
            Client(gateway.mqtt_port, 4).connect("old") as old:
        for first in range(0, 1000, 100):
            reasons = client.subscribe(*[("many/%d/+" % i, 1) for i in range(first, first + 100)])
            assert reasons == [1] * 100
        assert client.subscribe(("one/more", 1)) == [0x97]
        assert client.subscribe(("many/7/+", 2)) == [2]  # replaces one
        assert client.unsubscribe("many/8/+") == [0]
        assert client.subscribe(("one/more", 1), ("and/one", 1)) == [1, 0x97]
        assert old.subscribe(*[("old/%d" % i, 0) for i in range(1000)]) == [0] * 1000
        assert old.subscribe(("one/more", 1)) == [0x80]
        assert old.publish("many/999/x", "x", 1) == 0
        assert client.delivery().topic == "many/999/x"
        body = b"\0\1\0" + b"".join(text("f/%d" % i) + b"\0" for i in range(1001))
        client.send(packet(SUBSCRIBE, 2, body))
        assert client.expect_end() == 0x97
    assert until(lambda: connections(gateway) == 0)


def test_topics_at_the_limit(gateway):
    longest, deepest = "t" * 65535, "/".join("d" * 128)
    with Client(gateway.mqtt_port, 5, timeout=20).connect("a") as client:
        for topic in (longest, deepest, "ü" * 32767, "a\U0001F600/\u4e2d"):
            assert client.subscribe((topic, 1)) == [1]
            client.send(publish(5, topic, b"x", 1))
            found = sorted((client.receive() for _ in range(2)), key=lambda packet: packet.type)
            assert [packet.type for packet in found] == [PUBLISH, PUBACK] and found[1].reason == 0
            assert found[0].topic == topic
            client.ack(PUBACK, found[0].id)
            assert client.unsubscribe(topic) == [0]
        assert client.subscribe(("x/" * 127 + "#", 1)) == [1]
    for topic_filter in ("/".join("d" * 129), "x/" * 128 + "#"):
        with Client(gateway.mqtt_port, 5).connect("b") as client:
            client.send(packet(SUBSCRIBE, 2, b"\0\1\0" + text(topic_filter) + b"\0"))
            answer = client.receive()
            assert answer.type == DISCONNECT and answer.reason == 0x8F or answer.reasons == [0x8F], answer
    with Client(gateway.mqtt_port, 5).connect("c") as client:
        client.send(publish(5, "/".join("d" * 129), b"x", 1))
        answer = client.receive()
        assert answer.reason == 0x90, answer


def test_invalid_texts(gateway):
    bad = (b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80", b"a\0b", b"\xff", b"\xf4\x90\x80\x80")
    before = refusals(gateway, "malformed")
    for value in bad:
        for frame in (publish(5, value, b"x", 1), packet(SUBSCRIBE, 2, b"\0\1\0" + text(value) + b"\0"),
                      packet(UNSUBSCRIBE, 2, b"\0\1\0" + text(value)),
                      publish(5, "a", b"x", 1, props=[(USER, (value, b"v"))]),
                      publish(5, "a", b"x", 1, props=[(CONTENT_TYPE, value)])):
            with Client(gateway.mqtt_port, 5).connect("a") as client:
                client.send(frame)
                assert client.expect_end() in (0x81, 0x82, 0x8F, 0x90), (value, frame)
    assert refusals(gateway, "malformed") == before + 5 * len(bad)
    for topic in ("a/+", "#", "a/#", ""):
        with Client(gateway.mqtt_port, 5).connect("a") as client:
            client.send(publish(5, topic, b"x", 1))
            assert client.expect_end() in (0x82, 0x90)
    for topic_filter in ("a/#/b", "a+", "+a/b", "a#", "$share/g/", "$share/g", "$share/+/t", "$queue/no/q"):
        with Client(gateway.mqtt_port, 5).connect("a") as client:
            client.send(packet(SUBSCRIBE, 2, b"\0\1\0" + text(topic_filter) + b"\0"))
            answer = client.receive()
            reason = answer.reason if answer.type == DISCONNECT else answer.reasons[0]
            assert reason in (0x8F, 0x9E, 0x82), (topic_filter, answer)


def test_slow_loris(gateway):
    """A CONNECT must be complete within ten seconds; those who dawdle cost others nothing."""
    with Bystander(gateway):
        before, began = refusals(gateway, "timeout"), time.monotonic()
        links = [socket.create_connection(("127.0.0.1", gateway.mqtt_port), timeout=60) for _ in range(200)]
        for at in range(3):
            for link in links[50:]:
                with contextlib.suppress(OSError):  # the time may be over already
                    link.sendall(CONNECT_5[at:at + 1])
            time.sleep(2)
        for link in links:
            try:
                assert link.recv(100) == b""
            except ConnectionResetError:
                pass
            link.close()
        assert time.monotonic() - began > 9 and standstill.spent(began) < 15
        assert refusals(gateway, "timeout") == before + 200
    assert until(lambda: connections(gateway) == 0)


def certificate(folder):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], cwd=folder, check=True, capture_output=True)
    return os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem")


def test_half_open_tls():
    folder = tempfile.mkdtemp(prefix="polylog-tls-")
    cert, key = certificate(folder)
    gateway = Gateway(None, "tls.cert=" + cert, "tls.key=" + key, "mqtt.tls_port=0", "http.tls_port=off")
    port = gateway.ports["mqtts"]
    hello = bytes.fromhex("16030100c8010000c40303") + os.urandom(60)
    with Bystander(gateway):
        links = []
        for i in range(60):
            link = socket.create_connection(("127.0.0.1", port), timeout=60)
            if i % 3 == 1:
                link.sendall(hello)  # the beginning of one
            if i % 3 == 2:
                link.sendall(b"\x10\x0dnot TLS at all")
            links.append(link)
        began = time.monotonic()
        for link in links:
            try:
                while link.recv(1000):
                    pass
            except ConnectionResetError:
                pass
            link.close()
        assert standstill.spent(began) < 15
    assert until(lambda: connections(gateway) == 0)
    assert gateway.stop() == 0
    shutil.rmtree(folder)


def test_connect_storm(gateway):
    """Connections come and go, politely or not; nothing of them stays."""
    chance = random.Random(2)
    with Bystander(gateway):
        for _ in range(10):
            clients = [Client(gateway.mqtt_port, 4 + i % 2) for i in range(100)]
            for i, client in enumerate(clients):
                client.connect("storm%d" % i, accept=False)
            for client in clients:
                assert client.expect(CONNACK).reason == 0
                if chance.random() < 0.5:
                    client.send(b"\x82\x08\0\1" + (b"\0" if client.version == 5 else b"") + text("s") + b"\1")
                if chance.random() < 0.5:
                    client.disconnect()
                client.close()
        assert until(lambda: connections(gateway) == 1)


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
