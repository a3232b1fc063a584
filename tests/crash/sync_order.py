#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Proof by strace that what is acknowledged is on disk: for every PUBACK (and PUBREC) that leaves a socket, the
record was written to the log file, then an fdatasync of that file began and returned, then the answer was sent.

Without strace nothing is proved, so it fails then."""

import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from publishers import MqttPublisher, wire
from gateway import Gateway, until

SINGLE, PUBLISHERS, SECONDS = 40, 6, 1.5
CALL = re.compile(r"^(\d+)\.(\d{6}) (\w+)\((\d+)<(.*?)(?<!-)>(.*) = (-?\d+)[^<]*<(\d+)\.(\d{6})>$")
STRINGS = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Trace:
    def __init__(self, pid):
        self.folder = tempfile.mkdtemp(prefix="polylog-strace-")
        command = ["strace", "-ff", "-o", self.folder + "/t", "-p", str(pid), "-ttt", "-T", "-yy", "-xx",
                   "-s", "4000000", "-e", "trace=fdatasync,fsync,write,pwrite64,writev,sendmsg,sendto,recvfrom,read"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        for line in self.process.stderr:
            if b"attached" in line:
                break
        else:
            raise RuntimeError("strace could not attach: the proof cannot be made")
        threads = len(os.listdir("/proc/%d/task" % pid))
        assert until(lambda: len(glob.glob(self.folder + "/t.*")) >= threads, 20), "strace sees not all threads"

    def end(self):
        """Calls as (start, end in microseconds, name, path, result, text), by start."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        calls = []
        for path in glob.glob(self.folder + "/t.*"):
            with open(path, encoding="ascii") as file:
                for line in file:
                    match = CALL.match(line)
                    if match:
                        start = int(match[1]) * 1000000 + int(match[2])
                        end = start + int(match[8]) * 1000000 + int(match[9])
                        calls.append((start, end, match[3], plain(match[5]), int(match[7]), match[6]))
        shutil.rmtree(self.folder)
        return sorted(calls, key=lambda call: call[:2])


def plain(path):
    """-xx shows paths in hexadecimal too."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), path)


def content(text, size):
    return b"".join(bytes.fromhex(part.replace("\\x", "")) for part in STRINGS.findall(text))[:max(size, 0)]


def packets(stream, events):
    """(packet, index of the event that completed it) of a byte stream given as (bytes, event) pieces."""
    waiting = b""
    for piece, event in events:
        waiting += piece
        while len(waiting) >= 2:
            try:
                size, at = wire.take_varint(waiting, 1)
            except IndexError:
                break
            if len(waiting) < at + size:
                break
            yield waiting[0], waiting[at:at + size], event
            waiting = waiting[at + size:]
    assert not waiting or stream is None, "half a packet is left on %s" % stream


class Proof:
    def __init__(self, calls):
        self.writes = []  # (end, bytes) to log files
        self.syncs = []  # (start, end)
        self.received, self.sent = {}, {}
        for start, end, name, path, result, text in calls:
            if path.endswith(".log"):
                if name in ("write", "pwrite64"):
                    self.writes.append((end, content(text, result)))
                elif name in ("fdatasync", "fsync"):
                    assert result == 0
                    self.syncs.append((start, end))
            elif path.startswith("TCP:") and result > 0:
                if name in ("recvfrom", "read"):
                    self.received.setdefault(path, []).append((content(text, result), end))
                else:
                    self.sent.setdefault(path, []).append((content(text, result), start))
        # RocksDB cuts what it writes into blocks; a value may lie across a border.
        self.places = {}
        for end, data in self.writes:
            for match in re.finditer(rb"<[^<>]{1,60}>", data):
                self.places.setdefault(match[0], end)

    def check(self):
        """How many answers were proved, and how many of them from the write of their very value on."""
        proved = by_value = 0
        for path, pieces in self.sent.items():
            publishes = {}
            for header, body, when in packets(None, self.received.get(path, [])):
                if header >> 4 == wire.PUBLISH and header & 6:
                    topic, at = wire.take_text(body, 0)
                    value = re.search(rb"<[^<>]{1,60}>$", body)
                    publishes[body[at:at + 2]] = (when, value and value[0])
            for header, body, when in packets(None, pieces):
                if header >> 4 not in (wire.PUBACK, wire.PUBREC):
                    continue
                read, value = publishes[body[:2]]
                written = self.places.get(value)
                since = written if written is not None else read
                assert since <= when, "%s %s was answered before it was written" % (path, value)
                assert any(since <= start and end <= when for start, end in self.syncs), (
                    "%s %s was answered at %d without a sync since %d" % (path, value, when, since))
                proved += 1
                by_value += written is not None
        return proved, by_value


class TaggedPublisher(MqttPublisher):
    """Values that can be found again in the log file."""

    def _next(self):
        number, self.sent = self.sent, self.sent + 1
        body = wire.text(self.topics[number % len(self.topics)])
        body += (number % 60000 + 1).to_bytes(2, "big") + (b"\0" if self.version == 5 else b"")
        return wire.packet(wire.PUBLISH, self.qos << 1, body + b"<%s:%d>" % (self.name.encode(), number))


def one_by_one(gateway):
    for version, qos in ((4, 1), (5, 1), (4, 2)):
        with wire.Client(gateway.mqtt_port, version).connect("single-%d-%d" % (version, qos)) as client:
            for i in range(SINGLE):
                assert client.publish("single", "<s%d-%d:%d>" % (version, qos, i), qos, packet_id=i + 1) == 0


def under_load(gateway):
    publishers = [TaggedPublisher("load-%d" % i, gateway.mqtt_port, 4 + i % 2, 1 + i % 2, 50)
                  for i in range(PUBLISHERS)]
    for publisher in publishers:
        publisher.start()
    time.sleep(SECONDS)
    for publisher in publishers:
        publisher.finish()
    for publisher in publishers:
        publisher.join(60)
        assert publisher.error is None, publisher.error
        assert len(publisher.acknowledged) == publisher.sent
    return sum(publisher.sent for publisher in publishers)


def prove(name, gateway, work, least):
    trace = Trace(gateway.pid)
    work(gateway)
    proof = Proof(trace.end())
    proved, by_value = proof.check()
    assert proved >= least and by_value > proved * 0.9, (proved, by_value, least)
    print("%s: %d answers, each sent after the fdatasync that covers it returned (%d followed by value, %d syncs)" % (
        name, proved, by_value, len(proof.syncs)))


def main():
    if shutil.which("strace") is None:
        raise SystemExit("strace is missing: the proof cannot be made")
    gateway = Gateway()
    prove("one by one", gateway, one_by_one, 3 * SINGLE)
    prove("under load", gateway, under_load, 1000)
    assert gateway.stop() == 0


if __name__ == "__main__":
    sys.exit(main())
