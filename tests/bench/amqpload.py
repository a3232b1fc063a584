#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Load over AMQP 1.0: 10 senders (unsettled, 500 under way), then 10 receivers (credit 100), then both at once, of SIZE bytes and
COUNT messages each. Says what the server spent: CPU time per message, from its threads' schedstat. What is sent and received first
is not counted: memory that a server has never touched is dear. The load is made of ready frames, so that this program does not hold
the server up much; the rates are lower bounds all the same.
usage: amqpload.py SIZE COUNT [PID PORT ADDRESS]    without the last three: a polylogd of its own on RocksDB, one worker"""
import contextlib
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import amqpwire  # noqa: E402
import gateway  # noqa: E402

LINKS, WINDOW, CREDIT, PIECE = 10, 500, 100, 50


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


def send(port, address, frames, name):
    with amqpwire.Wire(port, 60).open(name) as wire:
        wire.attach("s", 0, address)
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


def measured(what, pid, messages, work):
    cpu, began = cpu_us(pid), time.monotonic()
    work()
    seconds = time.monotonic() - began
    print(f"{what}: {(cpu_us(pid) - cpu) / messages:.2f} us of CPU per message, {messages / seconds:.0f}/s", flush=True)


def main():
    size, count = int(sys.argv[1]), int(sys.argv[2])
    running = None
    if len(sys.argv) > 3:
        pid, port, address = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    else:
        running = gateway.Gateway(None, "workers=1")
        running.call("POST", "/v1/default/queues", {"name": "load"})
        pid, port, address = running.pid, running.amqp_port, "load"
    frames, total = transfers(size, count), LINKS * count

    def send_all():
        threads = [threading.Thread(target=send, args=(port, address, frames, f"s{i}")) for i in range(LINKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def receive_all(wanted=total, beside=lambda: None):
        with receivers(port, address) as counts:
            beside()
            while sum(counts) < wanted:
                time.sleep(0.005)

    send_all()
    receive_all(total - LINKS * PIECE)  # what is left makes up for what is received but not settled
    measured(f"send {size} B", pid, total, send_all)
    measured(f"receive {size} B", pid, total, receive_all)
    measured(f"both at once {size} B", pid, total, lambda: receive_all(beside=send_all))
    if running is not None:
        running.stop()


if __name__ == "__main__":
    main()
