#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Subscribers that stop reading: the gateway's memory stays bounded, others are not delayed, and when they read on
they get everything, in order, once. --messages N makes it longer."""

import argparse
import re
import struct
import sys
import threading
import time

import standstill
from gateway import POLYLOGD, Gateway
from wire import *  # noqa: F403 - the names of the protocol

SIZE, TOPICS, STALLED, WINDOW = 1000, 7, 4, 2000
with open(POLYLOGD, "rb") as binary:
    SANITIZED = re.search(rb"__[at]san_init", binary.read()) is not None
# Sanitizers keep freed memory and a shadow of all of it: there the bound only ends what runs away.
RSS_MIB_MAX = 1600 if SANITIZED else 400


def rss_mib(gateway):
    with open("/proc/%d/status" % gateway.pid, encoding="ascii") as file:
        return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1)) // 1024


def message(number):
    body = text("stall/%d" % (number % TOPICS)) + struct.pack(">H", number % 60000 + 1)
    return packet(PUBLISH, 2, body + (b"%d " % number).ljust(SIZE, b"."))


def publish_all(gateway, count):
    """Paced by its acknowledgements; returns how long the longest took."""
    with Client(gateway.mqtt_port, 4, timeout=60).connect("writer") as writer:
        sent = answered = 0
        worst = last = time.monotonic() - time.monotonic()
        while answered < count:
            room = min(WINDOW - (sent - answered), count - sent)
            writer.send(b"".join(message(sent + i) for i in range(room)))
            sent += room
            last = time.monotonic()
            data = writer.socket.recv(1 << 18)
            assert data, "the publisher was cut off"
            while len(data) % 4:
                data += writer.socket.recv(4 - len(data) % 4)
            answered += len(data) // 4
            worst = max(worst, time.monotonic() - last)
    return worst


class Observer(threading.Thread):
    """Sends to itself all the while, and notes how long the slowest took."""

    def __init__(self, gateway):
        super().__init__(daemon=True)
        self.gateway, self.over, self.worst, self.rounds = gateway, False, 0, 0

    def run(self):
        with Client(self.gateway.mqtt_port, 5, timeout=60).connect("observer") as client:
            client.subscribe(("observed", 1))
            while not self.over:
                began = time.monotonic()
                client.publish("observed", "x", 1)
                client.delivery()
                if time.monotonic() - began > self.worst:
                    self.worst = max(self.worst, standstill.spent(began))
                self.rounds += 1
                time.sleep(0.01)


class Stalled:
    def __init__(self, gateway, number, version, props=()):
        self.client = Client(gateway.mqtt_port, version, timeout=60, receive_buffer=65536)
        self.client.connect("stalled%d" % number, keep_alive=0, props=props)
        assert self.client.subscribe(("stall/#", 1)) == [1]
        self.next = list(range(TOPICS))
        self.got = 0

    def read_until(self, count):
        """Everything in the order of its topic; whole receive buffers at once, for speed."""
        client, at = self.client, 0
        view = client.input
        skip = 1 if client.version == 5 else 0
        while self.got < count:
            acks = bytearray()
            while True:
                if len(view) - at < 5:
                    break
                size, start = take_varint(view, at + 1)
                if len(view) < start + size:
                    break
                assert view[at] == 0x32, "%02x" % view[at]
                topic = view[start + 8] - 48
                packet_id = view[start + 9:start + 11]
                number = int(view[start + 11 + skip:start + 20 + skip].split(b" ")[0])
                assert number % TOPICS == topic and number == self.next[topic], (
                    "message %d of topic %d instead of %d" % (number, topic, self.next[topic]))
                self.next[topic] += TOPICS
                self.got += 1
                acks += b"\x40\x02" + packet_id
                at = start + size
            del view[:at]
            at = 0
            client.send(acks)
            if self.got < count:
                data = client.socket.recv(1 << 20)
                assert data, "cut off after %d" % self.got
                view += data


def main():
    parser = argparse.ArgumentParser(description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("--messages", type=int, default=40000 if SANITIZED else 200000)
    count = parser.parse_args().messages
    gateway = Gateway()
    stalled = [Stalled(gateway, i, 4 + i % 2) for i in range(STALLED)]
    # One that never takes more than a few at once catches up with the same reads.
    stalled.append(Stalled(gateway, STALLED, 5, [(RECEIVE_MAXIMUM, 20)]))
    observer = Observer(gateway)
    observer.start()
    began = time.monotonic()
    worst = publish_all(gateway, count)
    took = time.monotonic() - began
    print("%d messages in %.1f s, the longest wait for an answer %.3f s, RSS %d MiB" % (count, took, worst, rss_mib(gateway)))
    assert rss_mib(gateway) < RSS_MIB_MAX
    began = time.monotonic()
    failures = []

    def read(one):
        try:
            one.read_until(count)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append("%s: %r after %d" % (one.client.version, error, one.got))

    readers = [threading.Thread(target=read, args=(one,)) for one in stalled]
    peak = 0
    for reader in readers:
        reader.start()
    for reader in readers:
        while reader.is_alive():
            reader.join(0.2)
            peak = max(peak, rss_mib(gateway))
    took = time.monotonic() - began
    observer.over = True
    observer.join(60)
    print("%d readers caught up in %.1f s, RSS at most %d MiB; the observer waited %.3f s at most, %d rounds" % (
        len(stalled), took, peak, observer.worst, observer.rounds))
    assert not failures, failures
    assert peak < RSS_MIB_MAX
    assert observer.rounds > 20 and observer.worst < 2
    for one in stalled:
        one.client.send(packet(PINGREQ, 0, b""))
        assert one.client.expect(PINGRESP)  # nothing comes twice
        one.client.close()
    assert gateway.stop() == 0


if __name__ == "__main__":
    sys.exit(main())
