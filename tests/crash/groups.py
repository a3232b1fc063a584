#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of what groups do: acknowledgements, failures and rejections that make dead letters, redrives,
delayed records that fire.

Publishers, consumers and whoever redrives work on while the gateway dies and comes back; each remembers what it was
promised. In the end everything is drained: what was acknowledged does not come again, all the rest is there exactly once,
as a record or as a dead letter, and no delayed record was ever early. usage: groups.py [--rounds N] [--seed N]"""

import argparse
import collections
import random
import shutil
import tempfile
import threading
import time

import publishers  # noqa: F401 - has shown where the next one is
from gateway import Gateway, exchange

V1 = "/v1/default"
GROUP = f"{V1}/queues/q/groups/g"
DELAYS_MS = (0, 0, 0, 100, 400, 900)


class Work:
    """Threads that go on through the deaths of the gateway, and what they know."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.gateway = None
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self.errors = []
        self.published = {}                      # body -> not before (time)
        self.done = set()                        # acknowledged, and that was answered
        self.asked = set()                       # acknowledged, and nobody knows
        self.told = collections.Counter()        # what happened, to see that it did
        self.threads = []

    def call(self, link, method, path, body=None):
        """The answer, or None when the gateway has gone."""
        try:
            link[0] = link[0] or self.gateway.connect(timeout=5)
            return exchange(link[0], method, path, body)
        except Exception:
            link[0] = None
            time.sleep(0.02)
            return None

    def start(self, *works):
        def run(work):
            try:
                link = [None]
                while not self.ended.is_set():
                    work(link)
            except Exception as error:
                self.errors.append(error)

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

    # What the threads do

    def publisher(self, name):
        numbers = iter(range(10 ** 9))

        def work(link):
            delay_ms = self.random.choice(DELAYS_MS)
            messages = [{"body": f"{name}-{next(numbers)}", "delay_ms": delay_ms} for _ in range(5)]
            began = time.time()
            answer = self.call(link, "POST", f"{V1}/publish", {"queue": "q", "messages": messages})
            if answer is not None and answer[0] == 201:
                with self.lock:
                    for message in messages:
                        self.published[message["body"]] = began + delay_ms / 1000
                    self.told["delayed" if delay_ms else "published"] += len(messages)
        return work

    def check_shown(self, body):
        with self.lock:
            assert body not in self.done, f"{body} was done and comes again"
            assert time.time() >= self.published.get(body, 0), f"{body} comes early"

    def consumer(self, dead):
        def work(link):
            answer = self.call(link, "GET", f"{GROUP}/messages?max_msgs=8&time_wait=1" + ("&dead=true" if dead else ""))
            if answer is None or answer[0] != 200 or not answer[1]:
                return
            items = {item["handler"]: item["message"]["body"] for item in answer[1]}
            for body in items.values():
                self.check_shown(body)
            verb = self.random.choice(("ack", "ack") if dead else ("ack", "ack", "nack", "nack", "reject"))
            if verb == "ack":
                with self.lock:
                    self.asked.update(items.values())
            answer = self.call(link, "POST", f"{GROUP}/{verb}", {"receipts": list(items)})
            if answer is None:
                return
            stale = set(answer[1].get("stale", ())) if answer[0] == 200 else set(items)
            with self.lock:
                settled = {body for i, body in enumerate(items.values()) if i not in stale and answer[0] == 200}
                self.told[verb + (" dead" if dead else "")] += len(settled)
                if verb == "ack":
                    self.done.update(settled)
        return work

    def redriver(self, link):
        answer = self.call(link, "POST", f"{GROUP}/redrive", {"all": True})
        if answer is not None and answer[0] in (200, 202):
            self.told["redrives"] += 1
        time.sleep(0.05)


def drain(gateway, dead):
    link, bodies = gateway.connect(), []
    while True:
        path = f"{GROUP}/messages?max_msgs=1000&time_wait=1" + ("&dead=true" if dead else "")
        status, items = exchange(link, "GET", path)
        assert status == 200, items
        if not items:
            return bodies
        bodies += [item["message"]["body"] for item in items]
        for i in range(0, len(items), 1000):
            receipts = [item["handler"] for item in items[i:i + 1000]]
            status, answer = exchange(link, "POST", f"{GROUP}/ack", {"receipts": receipts})
            assert status == 200 and answer["fail"] == 0, answer


def check(work, gateway):
    left = drain(gateway, False) + drain(gateway, True)
    twice = [body for body, count in collections.Counter(left).items() if count > 1]
    assert not twice, f"{len(twice)} are there twice, as {twice[0]}"
    again = work.done.intersection(left)
    assert not again, f"{len(again)} that were done are there, as {min(again)}"
    lost = set(work.published) - work.done - work.asked - set(left)
    assert not lost, f"{len(lost)} of {len(work.published)} are lost, as {min(lost)}"
    for what in ("published", "delayed", "ack", "nack", "reject", "ack dead", "redrives"):
        assert work.told[what] > 0, f"nothing of this happened: {what}"
    return left


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print("seed", options.seed)
    data = tempfile.mkdtemp(prefix="polylog-crash-")
    work = Work(options.seed)
    try:
        work.gateway = Gateway(data)
        made = {"name": "q", "partitions": 2, "redrive_policy": "enable", "max_consume_count": 2}
        assert work.gateway.call("POST", f"{V1}/queues", made)[0] == 201
        assert work.gateway.call("POST", f"{V1}/queues/q/groups", {"groups": [{"name": "g"}]})[0] == 201
        work.start(work.publisher("a"), work.publisher("b"), work.redriver, work.consumer(True),
                   *(work.consumer(False) for _ in range(4)))
        for _ in range(options.rounds):
            time.sleep(work.random.uniform(0.3, 1.2))
            work.gateway.kill9()
            work.gateway.restart()
        time.sleep(1)
        work.end()
        work.gateway.kill9()            # leases do not outlast it, so that all that is left can be had at once
        time.sleep(max(DELAYS_MS) / 1000)
        work.gateway.restart()
        left = check(work, work.gateway)
        print(dict(work.told), len(work.done), "done", len(left), "left")
        assert work.gateway.stop() == 0
    finally:
        if work.gateway is not None:
            work.ended.set()
            work.gateway._clean()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    main()
