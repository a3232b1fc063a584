#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Browsers that fall silent, or stop reading: they are asked, they end, they are counted; until then the gateway's
memory stays bounded, and others are not delayed."""
import socket
import time

from gateway import Gateway, run, until
from mqtt_stalled import RSS_MIB_MAX, rss_mib
from rest import bodies, group_numbers, make, publish, take
from websocket import PING, PONG, frame
from wire import Client
from ws_protocol import Link

SIZE, MESSAGES, STALLED = 60000, 500, 30


def figure(gateway, line):
    """Of /metrics; 0 where it does not stand."""
    wanted = f"polylog_{line} "
    return sum(float(one[len(wanted):]) for one in gateway.call("GET", "/metrics")[1].splitlines() if one.startswith(wanted))


def silence():
    """Who answers pings stays, who does not has gone."""
    gateway = Gateway(None, "http.ping_interval=1")
    with Link(gateway) as lively, Link(gateway) as dead, Client(gateway.mqtt_port, 5).connect("m") as writer:
        dead.ok("subscribe", sub="s", topic="t")
        began = time.monotonic()
        assert dead.socket.receive()[:2] == (PING, b"")
        pings = 0
        lively.socket.socket.settimeout(0.1)
        while figure(gateway, 'connections{protocol="polylog.v1"}') == 2:
            assert time.monotonic() < began + 20, "nobody has ended"
            try:
                if lively.socket.receive()[0] == PING:
                    lively.socket.send(frame(PONG))
                    pings += 1
            except TimeoutError:
                pass
        assert pings >= 1 and time.monotonic() - began > 1.5
        assert dead.socket.receive() is None
        assert figure(gateway, 'refused_total{protocol="http",reason="timeout"}') == 1
        lively.socket.socket.settimeout(20)
        lively.ok("subscribe", sub="s", topic="t")
        writer.publish("t", "x", 1)
        assert lively.delivery()["body"] == "x"
    assert gateway.stop() == 0


def event_stream(gateway, query):
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    line.settimeout(20)
    line.connect(("127.0.0.1", gateway.http_port))
    line.sendall(f"GET /v1/default/events?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = b""
    while b"retry: 2000\n\n" not in head:
        head += line.recv(4096)
    return line


def stalled():
    """Of what is stored, and of what nobody stores (QoS 0), which is dropped for them."""
    gateway = Gateway(None, "http.ping_interval=3")
    links, lines = [Link(gateway, receive_buffer=8192) for _ in range(STALLED)], []
    for link in links:
        link.ok("subscribe", sub="s", topic="flood")
    for _ in range(STALLED):
        lines.append(event_stream(gateway, "topic=flood"))
    with Client(gateway.mqtt_port, 5).connect("quick") as quick, Client(gateway.mqtt_port, 5).connect("w") as writer:
        quick.subscribe(("flood", 1))
        before, body = rss_mib(gateway), b"x" * SIZE
        for i in range(MESSAGES):  # each goes out when the one before has arrived at who reads
            writer.publish("flood", body, 1, packet_id=i + 1)
            assert len(quick.delivery().payload) == SIZE
            if i % 10 == 0:
                writer.publish("flood", body, 0)
                assert len(quick.delivery().payload) == SIZE
        after = rss_mib(gateway)
        assert after < RSS_MIB_MAX, (before, after)  # unbounded it would be 1.8 GB more
        assert figure(gateway, 'dropped_total{reason="slow"}') > STALLED
        for link in links[::2]:
            link.send("ping")  # with so much output waiting, nothing is read from now on: that is no way to stay
        assert until(lambda: figure(gateway, 'connections{protocol="polylog.v1"}') == 0, 60)
        assert until(lambda: figure(gateway, 'refused_total{protocol="events",reason="timeout"}') == STALLED, 60)
        assert figure(gateway, 'refused_total{protocol="http",reason="timeout"}') == STALLED
        writer.publish("flood", b"after", 1)
        assert quick.delivery().payload == b"after"
    for line in lines:
        line.close()
    for link in links:
        link.socket.socket.close()
    assert gateway.stop() == 0


def going(gateway):
    """A member of a group that says it goes, with output before it that it does not take: what comes then is for the
    others."""
    make(gateway)

    def is_taken():
        return group_numbers(gateway)["available_messages"] == 0
    line = event_stream(gateway, "queue=q&group=g")
    while until(is_taken, 0.3, 0.01):
        publish(gateway, "x" * SIZE)
    while not is_taken():  # it takes so much that there is room for the last one
        assert line.recv(65536)
    line.shutdown(socket.SHUT_WR)
    time.sleep(2)  # until it is heard: what it was handed before comes again, behind the rest
    publish(gateway, *range(100))
    got = []
    while len(got) < 100:
        more = bodies(take(gateway, max_msgs=100, time_wait=5))
        assert more, len(got)
        got += more
    assert got == list(range(100)), got
    line.close()


if __name__ == "__main__":
    run(silence, stalled, going)
