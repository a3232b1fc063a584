#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of transactions: each takes a message from one queue, or from a durable subscription to a topic that
several share, and sends its number to three others, whose partitions and groups have different owners, and, with a delay, to
a fourth.

Clients work on while the gateway dies and comes back; some transactions are rolled back, some cannot be committed. In the
end everything is drained: of each transaction all four messages are there and what it took is not, or neither; what was
accepted is there, what was refused is not, and every message that was taken was taken by exactly one.
usage: transactions.py [--rounds N] [--seed N]"""

import argparse
import collections
import random
import re
import shutil
import struct
import tempfile
import threading
import time

import publishers  # noqa: F401 - has shown where the next ones are
from amqpwire import (ACCEPTED, ATTACH, DISPOSITION, FLOW, REJECTED, TRANSFER, Described, Symbol, Wire, disposition, encode,
                      frame, take_uint)
from gateway import Gateway, exchange

V1 = "/v1/default"
OUTPUTS = ("a", "b", "c", "later")  # the last one is sent to with a delay
COORDINATOR, RECEIVER, SENDERS, FULL = 0, 1, 2, 6  # handles
DECLARE, DISCHARGE, TRANSACTIONAL = 0x31, 0x32, 0x34
WORKERS = 4
SHARE = Described(0x28, ["/topics/crash/in", 2, Symbol("never"), *[None] * 7, Symbol("shared")])


def handle_of(flow):
    at = 3 if flow[0] == 0xc0 else 9
    for _ in range(5):
        handle, at = take_uint(flow, at)
    return handle


class Link:
    """One connection with a coordinator, a receiver from an input and a sender to each output."""

    def __init__(self, port, shares):
        self.wire = Wire(port, seconds=3)
        self.sent = self.came = 0
        self.wire.open()
        self.wire.send(frame(ATTACH, ["t", COORDINATOR, False, None, None, Described(0x28, [None]), Described(0x30, []),
                                      None, None, 0]))
        self.wire.expect(ATTACH)
        if shares:
            self.wire.send(frame(ATTACH, ["r", RECEIVER, True, None, None, SHARE, Described(0x29, [None])]))
            self.wire.expect(ATTACH)
        else:
            self.wire.attach("r", RECEIVER, "/queues/in/groups/g", receiver=True)
        for i, name in enumerate(OUTPUTS + ("full",)):
            self.wire.attach(name, SENDERS + i, name)

    def transfer(self, handle, payload, settled, state=None):
        self.wire.send(frame(TRANSFER, [handle, self.sent, str(self.sent).encode(), 0, settled, False, None, state],
                             payload))
        self.sent += 1

    def ask(self, code, fields):
        """The outcome, and the frame that says it."""
        self.transfer(COORDINATOR, b"\x00\x53\x77" + encode(Described(code, fields)), False)
        answer = self.wire.expect(DISPOSITION)
        return disposition(answer)[2], answer

    def declare(self):
        answer = self.ask(DECLARE, [None])[1]
        at = answer.index(b"\xa0\x08") + 2
        return answer[at:at + 8]

    def take(self):
        self.wire.send(frame(FLOW, [self.came, 1000, self.sent, 1000, RECEIVER, self.came, 1]))
        body = self.wire.expect(TRANSFER)
        self.came += 1
        return re.search(rb"in-\d+", body).group().decode()

    def drain(self):
        """What is there for the receiver, which accepts it."""
        bodies, before = [], -1
        while len(bodies) > before:
            before, first = len(bodies), self.came
            self.wire.send(frame(FLOW, [self.came, 1000, self.sent, 1000, RECEIVER, self.came, 100, None, True]))
            drained = False
            while not drained:
                body = self.wire.next_frame()
                drained = body[2] == FLOW and handle_of(body[3:]) == RECEIVER
                if body[2] == TRANSFER:
                    self.came += 1
                    bodies.append(re.search(rb"in-\d+", body).group().decode())
            if self.came > first:
                self.wire.send(frame(DISPOSITION, [True, first, self.came - 1, True, Described(ACCEPTED, [])]))
        return bodies

    def accept_within(self, identity):
        last = self.came - 1
        self.wire.send(frame(DISPOSITION, [True, last, last, True,
                                           Described(TRANSACTIONAL, [identity, Described(ACCEPTED, [])])]))

    def send_within(self, identity, handle, text, delay_ms=0):
        payload = b""
        if delay_ms > 0:
            payload = b"\x00\x53\x72\xc1\x1c\x02\xa3\x14x-opt-delivery-delay\x70" + struct.pack(">I", delay_ms)
        payload += b"\x00\x53\x75\xb0" + struct.pack(">I", len(text)) + text.encode()
        self.transfer(handle, payload, True, Described(TRANSACTIONAL, [identity, None]))


class Work:
    """Threads that go on through the deaths of the gateway, and what they know."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.gateway = None
        self.ended = threading.Event()
        self.errors = []
        self.offered = set()    # inputs that were stored, and that was answered
        self.accepted = set()   # transactions, by the text that they send
        self.refused = set()    # and those that were rolled back
        self.unknown = set()
        self.told = collections.Counter()
        self.threads = []

    def start(self, *works):
        def run(work):
            link = None
            while not self.ended.is_set():
                try:
                    link = work(link)
                except (OSError, EOFError):  # the gateway has gone, or there is nothing to take
                    link = None
                    time.sleep(0.02)
                except Exception as error:
                    self.errors.append(error)
                    raise

        for work in works:
            thread = threading.Thread(target=run, args=(work,))
            thread.start()
            self.threads.append(thread)

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def feeder(self):
        numbers = iter(range(10 ** 9))

        def work(link):
            link = link or self.gateway.connect(timeout=5)
            for where in ({"queue": "in"}, {"topic": "crash/in"}):
                messages = [{"body": f"in-{next(numbers)}"} for _ in range(10)]
                try:
                    answer = exchange(link, "POST", f"{V1}/publish", {**where, "messages": messages})
                except Exception:
                    raise OSError
                if answer[0] == 201:
                    self.offered.update(message["body"] for message in messages)
            time.sleep(0.02)
            return link
        return work

    def transactor(self, name, shares):
        numbers = iter(range(10 ** 9))

        def work(link):
            link = link or Link(self.gateway.amqp_port, shares)
            identity = link.declare()
            text = f"{name}-{next(numbers)}:{link.take()}"
            kind = self.random.choice(("commit",) * 6 + ("abort", "impossible"))
            link.accept_within(identity)
            for i, output in enumerate(OUTPUTS):
                link.send_within(identity, SENDERS + i, text, self.random.randint(1, 2000) if output == "later" else 0)
            if kind == "impossible":
                link.send_within(identity, FULL, text)
            self.unknown.add(text)
            outcome, answer = link.ask(DISCHARGE, [identity, kind == "abort"])
            assert outcome in (ACCEPTED, REJECTED), answer
            done = outcome == ACCEPTED and kind != "abort"
            assert done == (kind == "commit") or b"transaction:rollback" in answer or kind == "abort", answer
            self.unknown.discard(text)
            (self.accepted if done else self.refused).add(text)
            self.told["accepted" if done else kind] += 1
            self.told["of the share"] += done and shares
            return link
        return work


def drain(gateway, queue):
    link, bodies = gateway.connect(), []
    path = f"{V1}/queues/{queue}/groups/g"
    while True:
        status, items = exchange(link, "GET", f"{path}/messages?max_msgs=1000&time_wait=1")
        assert status == 200, items
        if not items:
            return bodies
        bodies += [item["message"]["body"] for item in items]
        status, answer = exchange(link, "POST", f"{path}/ack", {"receipts": [item["handler"] for item in items]})
        assert status == 200 and answer["fail"] == 0, answer


def check(work, gateway):
    left = collections.Counter(drain(gateway, "in") + Link(gateway.amqp_port, True).drain())
    while gateway.call("GET", f"{V1}/queues/later")[1]["delayed"] > 0:
        time.sleep(0.1)
    outputs = [collections.Counter(drain(gateway, name)) for name in OUTPUTS]
    done = outputs[0]
    for name, output in zip(OUTPUTS, outputs):
        assert max(output.values(), default=1) == 1, f"{output.most_common(1)} is more than once in {name}"
        torn = set(done) ^ set(output)
        assert not torn, f"{len(torn)} transactions are there in part, as {min(torn)}"
    lost = work.accepted - set(done)
    assert not lost, f"{len(lost)} of {len(work.accepted)} accepted transactions are lost, as {min(lost)}"
    there = work.refused & set(done)
    assert not there, f"{len(there)} that were refused are there, as {min(there)}"
    assert set(done) <= work.accepted | work.unknown
    taken = collections.Counter(text.partition(":")[2] for text in done)
    for body, count in (taken + left).items():
        assert count == 1, f"{body} was taken by {taken[body]}, and is there {left[body]} times"
    gone = work.offered - set(taken) - set(left)
    assert not gone, f"{len(gone)} inputs are lost, as {min(gone)}"
    for what in ("accepted", "of the share", "abort", "impossible"):
        assert work.told[what] > 0, f"nothing of this happened: {what}"
    return len(done), sum(left.values())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print("seed", options.seed)
    data = tempfile.mkdtemp(prefix="polylog-crash-")
    work = Work(options.seed)
    try:
        work.gateway = Gateway(data, "workers=3")
        for name in ("in",) + OUTPUTS:
            assert work.gateway.call("POST", f"{V1}/queues", {"name": name, "partitions": 2})[0] == 201
            assert work.gateway.call("POST", f"{V1}/queues/{name}/groups", {"groups": [{"name": "g"}]})[0] == 201
        full = {"name": "full", "max_records": 1, "overflow": "refuse"}
        assert work.gateway.call("POST", f"{V1}/queues", full)[0] == 201
        assert work.gateway.call("POST", f"{V1}/publish", {"queue": "full", "messages": [{"body": "x"}]})[0] == 201
        Link(work.gateway.amqp_port, True).wire.socket.close()  # from now on it keeps what is said
        work.start(work.feeder(), *(work.transactor(f"t{i}", i % 2 == 1) for i in range(WORKERS)))
        for _ in range(options.rounds):
            time.sleep(work.random.uniform(0.6, 1.2))
            work.gateway.kill9()
            work.gateway.restart()
        time.sleep(1)
        work.end()
        work.gateway.kill9()            # leases do not outlast it, so that all that is left can be had at once
        work.gateway.restart()
        done, left = check(work, work.gateway)
        print(dict(work.told), done, "done", len(work.unknown), "unknown", left, "left")
        assert work.gateway.stop() == 0
    finally:
        if work.gateway is not None:
            work.ended.set()
            work.gateway._clean()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
