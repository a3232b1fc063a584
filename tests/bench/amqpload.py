#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Load over AMQP 1.0: 10 senders (unsettled, 500 under way), then 10 receivers (credit 100), then both at once, of SIZE bytes and
COUNT messages each. Says what the server spent: CPU time per message, from its threads' schedstat. What is sent and received first
is not counted: memory that a server has never touched is dear. The load is made of ready frames, so that this program does not hold
the server up much; the rates are lower bounds all the same.
usage: amqpload.py SIZE COUNT [PID PORT ADDRESS]    without the last three: a polylogd of its own on RocksDB, one worker
       amqpload.py targets SIZE COUNT ROUNDS        what it costs to send on links that may be resumed, in turns with others"""
import contextlib
import os
import socket
import statistics
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import amqpwire  # noqa: E402
import gateway  # noqa: E402

LINKS, WINDOW, CREDIT, PIECE = 10, 500, 100, 50
PLAIN = {}
TARGETS = {"plain": PLAIN, "remembered": {"unsettled": {}}, "durable": {"unsettled": {}, "durable": 2}}


def cpu_us(pid):
    return sum(int(open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii").read().split()[0])
               for task in os.listdir(f"/proc/{pid}/task")) / 1000


def transfers(size, count):
    head = b"\xa0" + bytes([size]) if size < 256 else b"\xb0" + struct.pack(">I", size)
    body = b"\x00\x53\x70\xc0\x02\x01\x41\x00\x53\x75" + head + b"x" * size  # durable
    frames = []
    for number in range(count):
        fields = b"\x04\x43\x70" + struct.pack(">I", number) + b"\xa0\x02" + struct.pack(">H", number & 0xffff) + b"\x43"
        performative = b"\x00\x53\x14\xc0" + bytes([len(fields)]) + fields
        frames.append(struct.pack(">IBBH", 8 + len(performative) + len(body), 2, 0, 0) + performative + body)
    return frames


def send(port, address, frames, name, link):
    with amqpwire.Wire(port, 60).open(name) as wire:
        said = amqpwire.decode(b"\x00\x53\x12" + wire.attach("s", 0, address, **link))[0].value
        assert said[6].value[1] in ((2,) if "durable" in link else (0, None)), said
        sent = done = 0
        while done < len(frames):
            room = min(100, len(frames) - sent, WINDOW - (sent - done))
            wire.send(b"".join(frames[sent:sent + room]))
            sent += room
            if sent - done >= WINDOW or sent == len(frames):
                first, last, outcome = amqpwire.disposition(wire.expect(amqpwire.DISPOSITION))
                assert outcome == amqpwire.ACCEPTED, outcome
                done += last - first + 1


def receive(port, address, counts, at, wires):
    with contextlib.suppress(OSError, EOFError), amqpwire.Wire(port, 60) as wire:
        wires.append(wire)
        wire.open(f"r{at}").attach("r", 0, address, receiver=True)
        wire.send(amqpwire.frame(amqpwire.FLOW, [0, 1 << 20, 0, 1 << 20, 0, 0, CREDIT]))
        got = 0
        while True:
            wire.expect(amqpwire.TRANSFER)
            got += 1
            if got % PIECE == 0:
                state = amqpwire.Described(amqpwire.ACCEPTED, [])
                wire.send(amqpwire.frame(amqpwire.DISPOSITION, [True, got - PIECE, got - 1, True, state]) +
                          amqpwire.frame(amqpwire.FLOW, [got, 1 << 20, 0, 1 << 20, 0, got, CREDIT]))
            counts[at] = got


@contextlib.contextmanager
def receivers(port, address):
    """Yields what each has received; at the end they go, and what they have not settled is there again."""
    counts, wires = [0] * LINKS, []
    threads = [threading.Thread(target=receive, args=(port, address, counts, i, wires)) for i in range(LINKS)]
    for thread in threads:
        thread.start()
    yield counts
    for wire in wires:
        wire.socket.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()


def measured(pid, messages, work):
    """What a message costs, and how many there are a second."""
    cpu, began = cpu_us(pid), time.monotonic()
    work()
    seconds = time.monotonic() - began
    return (cpu_us(pid) - cpu) / messages, messages / seconds


class Load:
    def __init__(self, pid, port, address, size, count):
        self.pid, self.port, self.address = pid, port, address
        self.frames, self.total = transfers(size, count), LINKS * count

    def send_all(self, link=PLAIN):
        threads = [threading.Thread(target=send, args=(self.port, self.address, self.frames, f"s{i}", link)) for i in range(LINKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def receive_all(self, wanted=None, beside=lambda: None):
        with receivers(self.port, self.address) as counts:
            beside()
            while sum(counts) < (self.total if wanted is None else wanted):
                time.sleep(0.005)

    def warm(self):
        self.send_all()
        self.receive_all(self.total - LINKS * PIECE)  # what is left makes up for what is received but not settled

    def all_ways(self, size):
        self.warm()
        for what, work in (("send", self.send_all), ("receive", self.receive_all),
                           ("both at once", lambda: self.receive_all(beside=self.send_all))):
            cost, rate = measured(self.pid, self.total, work)
            print(f"{what} {size} B: {cost:.2f} us of CPU per message, {rate:.0f}/s", flush=True)

    def targets(self, size, rounds):
        self.warm()
        costs = {name: [] for name in TARGETS}
        for _ in range(rounds):
            for name, link in TARGETS.items():
                costs[name].append(measured(self.pid, self.total, lambda link=link: self.send_all(link))[0])
                self.receive_all()  # all of it is there
        for name, all_ in costs.items():
            ratio = statistics.median(cost / plain for cost, plain in zip(all_, costs["plain"]))
            print(f"send {size} B, {name} target: {statistics.median(all_):.2f} us of CPU per message ({min(all_):.2f} to {max(all_):.2f}), "
                  f"{ratio:.2f} times a plain one", flush=True)


def main():
    arguments = sys.argv[1:]
    compares = arguments[0] == "targets"
    size, count = (int(text) for text in arguments[compares:compares + 2])
    running = None
    if not compares and len(arguments) > 2:
        pid, port, address = int(arguments[2]), int(arguments[3]), arguments[4]
    else:
        running = gateway.Gateway(None, "workers=1")
        running.call("POST", "/v1/default/queues", {"name": "load"})
        pid, port, address = running.pid, running.amqp_port, "load"
    load = Load(pid, port, address, size, count)
    if compares:
        load.targets(size, int(arguments[3]))
    else:
        load.all_ways(size)
    if running is not None:
        running.stop()


if __name__ == "__main__":
    main()
