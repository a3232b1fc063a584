#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Latency from MQTT to AMQP beside that from MQTT to MQTT: 10 publishers with QoS 1, RATE messages of 100 bytes a second in
all, each to a topic of its own with one subscriber, MQTT with QoS 1 or AMQP unsettled with 1000 credits. Counts from the
time at which a message was to be sent to that at which it was read. Runs take turns; the middle ones of each kind count.
usage: crosslatency.py [RATE [SECONDS [TURNS [--set KEY=VALUE...]]]]    10000, 3, 5; a polylogd of its own on RocksDB"""
import contextlib
import os
import select
import socket
import statistics
import struct
import sys
import time
from multiprocessing import Pipe, Process

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import amqpwire  # noqa: E402
import gateway  # noqa: E402
from amqpwire import DISPOSITION, FLOW, TRANSFER, Described, frame  # noqa: E402

PAIRS, CREDIT, WARM_SECONDS = 10, 1000, 0.5
SUBSCRIBE, PUBLISH, PUBACK = 0x82, 0x32, 0x40


def mqtt_connect(port, name):
    link = socket.create_connection(("127.0.0.1", port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + struct.pack(">H", len(name)) + name.encode()
    link.sendall(bytes([0x10, len(body)]) + body)
    assert link.recv(4) == b"\x20\x02\x00\x00"
    return link


def text(value):
    return struct.pack(">H", len(value)) + value.encode()


class MqttReader:
    def __init__(self, running, number):
        self.link, self.rest = mqtt_connect(running.mqtt_port, f"s{number}"), b""
        body = b"\x00\x01" + text(f"cross/{number}") + b"\x01"
        self.link.sendall(bytes([SUBSCRIBE, len(body)]) + body)
        assert self.link.recv(5)[4] == 1

    def take(self, now, times):
        data, at, answers = self.rest + self.link.recv(1 << 18), 0, []
        while len(data) - at >= 2:
            size, head = data[at + 1], 2
            if size & 0x80:
                if len(data) - at < 3:
                    break
                size, head = size & 0x7f | data[at + 2] << 7, 3
            if len(data) - at < head + size:
                break
            topic, = struct.unpack_from(">H", data, at + head)
            answers.append(bytes([PUBACK, 2]) + data[at + head + 2 + topic:at + head + 4 + topic])
            at += head + size
            times.append((now, *struct.unpack_from(">Q", data, at - 8)))
        self.rest = data[at:]
        self.link.sendall(b"".join(answers))


class AmqpReader:
    def __init__(self, running, number):
        self.wire, self.count = amqpwire.Wire(running.amqp_port, 60), 0
        self.link = self.wire.socket
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.wire.open(f"s{number}")
        self.wire.attach("r", 0, f"/topics/cross/{number}", receiver=True)
        self.flow()

    def flow(self):
        self.link.sendall(frame(FLOW, [self.count, 1 << 30, 0, 1 << 30, 0, self.count, CREDIT]))

    def take(self, now, times):
        data, at, first = self.wire.received + self.link.recv(1 << 18), 0, self.count
        while len(data) - at >= 8:
            size, = struct.unpack_from(">I", data, at)
            if len(data) - at < size:
                break
            if data[at + 10] == TRANSFER:
                times.append((now, *struct.unpack_from(">Q", data, at + size - 8)))
                self.count += 1
            at += size
        self.wire.received = data[at:]
        if self.count > first:
            self.link.sendall(frame(DISPOSITION, [True, first, self.count - 1, True, Described(0x24, [])]))
            if first // (CREDIT // 4) != self.count // (CREDIT // 4):
                self.flow()


def read(running, kind, count, pipe):
    readers = {reader.link.fileno(): reader for reader in (kind(running, i) for i in range(PAIRS))}
    poll, times = select.poll(), []
    for number in readers:
        poll.register(number, select.POLLIN)
    pipe.send("ready")
    while len(times) < count:
        ready = poll.poll(10000)
        assert ready, f"{len(times)} of {count} came"
        for number, _ in ready:
            readers[number].take(time.monotonic_ns(), times)
    pipe.send([now - sent for now, sent in times])


def publish(running, rate, seconds):
    links = [mqtt_connect(running.mqtt_port, f"p{i}") for i in range(PAIRS)]
    heads = [text(f"cross/{i}") for i in range(PAIRS)]
    start = time.monotonic_ns() + 1000000
    for number in range(int(rate * seconds)):
        due = start + number * 1000000000 // rate
        left = due - time.monotonic_ns()
        if left > 0:
            time.sleep(left / 1e9)
        pair = number % PAIRS
        body = heads[pair] + struct.pack(">H", number // PAIRS % 65535 + 1) + b"x" * 92 + struct.pack(">Q", due)
        links[pair].sendall(bytes([PUBLISH, len(body)]) + body)
        if number // PAIRS % 64 == 63:
            with contextlib.suppress(BlockingIOError):
                links[pair].recv(1 << 16, socket.MSG_DONTWAIT)
    return links


def run(running, kind, rate, seconds):
    here, there = Pipe()
    reader = Process(target=read, args=(running, kind, int(rate * (seconds + WARM_SECONDS)), there))
    reader.start()
    assert here.recv() == "ready"
    links = publish(running, rate, seconds + WARM_SECONDS)
    late = sorted(here.recv()[int(rate * WARM_SECONDS):])
    reader.join()
    for link in links:
        link.close()
    return [late[int(len(late) * part)] / 1000 for part in (0.5, 0.99)]


def main(rate=10000, seconds=3, turns=5, *sets):
    running = gateway.Gateway(None, "limit.connection_rate=0", *[each for each in sets if each != "--set"])
    found = {MqttReader: [], AmqpReader: []}
    for _ in range(int(turns)):
        for kind, results in found.items():
            results.append(run(running, kind, int(rate), float(seconds)))
    for kind, name in ((MqttReader, "MQTT to MQTT"), (AmqpReader, "MQTT to AMQP")):
        p50, p99 = (statistics.median(column) for column in zip(*found[kind]))
        print(f"{name}: p50 {p50:.0f} us, p99 {p99:.0f} us; of each run {[round(p) for _, p in found[kind]]}")
    running.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
