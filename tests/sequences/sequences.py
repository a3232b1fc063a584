#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of frames, well formed and nearly so, of all protocols on several connections at once, against a running
gateway over a few names, so that they meet.

It fails when the process dies, /healthz is not answered, memory grows beyond a limit, a sanitizer reports, or a
witness that behaves well loses a message or gets one twice. One thread draws every turn from the seed; only what the
gateway answers, and when, is not from it. usage: sequences.py [--seed N] [--count SEEDS] [--seconds OF_EACH]
[--only mqtt,websocket,http,amqp] [--memory MB]"""
import argparse
import collections
import random
import re
import sys
import time

from names import GROUPS, PASSWORDS, QUEUES, WITNESS, WITNESS_PASSWORD, House
from connection import Connection
from gateway import Gateway, until
from speaks_amqp import Amqp
from speaks_http import Http
from speaks_mqtt import Mqtt
from speaks_websocket import Carrier, polylog
from witness import Witness

CONNECTIONS = 12
GONE_REMEMBERED = 12
TURN_SECONDS = 0.0005
REPORT = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:|Assertion")
SPEAKERS = {
    "mqtt": [Mqtt],
    "websocket": [polylog, lambda draw, house: Carrier(draw, house, Mqtt(draw, house), "mqtt")],
    "http": [Http],
    "amqp": [Amqp, lambda draw, house: Carrier(draw, house, Amqp(draw, house), "amqp")],
}


class Failure(Exception):
    pass


class Campaign:
    """One seed, one gateway. kinds: names of SPEAKERS."""

    def __init__(self, seed, kinds, memory_mb):
        self.seed, self.draw = seed, random.Random(seed)
        self.speakers = [speaker for kind in kinds for speaker in SPEAKERS[kind]]
        self.weights = [4 / len(SPEAKERS[kind]) for kind in kinds for _ in SPEAKERS[kind]]
        self.memory_mb = memory_mb
        self.house = House(users=self.draw.random() < 0.4)
        self.connections = [None] * CONNECTIONS
        self.gone = collections.deque(maxlen=GONE_REMEMBERED)
        self.opened = self.turns = self.peak_mb = 0
        self.gateway = Gateway(None, "amqp.auto_create=true")
        if self.house.users:
            for name, password in [*PASSWORDS.items(), (WITNESS, WITNESS_PASSWORD)]:
                self.administer(name, password)
        for queue in QUEUES:
            assert self.call("POST", "/queues", {"name": queue})[0] == 201
            assert self.call("POST", f"/queues/{queue}/groups", {"groups": [{"name": group} for group in GROUPS[:2]]})[0] == 201
        self.witness = Witness(self.gateway, self.house.users)

    def call(self, method, path, body=None, owner=True):
        """As the owner, who is the first user and may do everything, where there are users."""
        headers = {"Authorization": "Basic b3duZXI6bw=="} if self.house.users and owner else None
        return self.gateway.call(method, "/v1/default" + path, body, headers)

    def administer(self, name, password):
        made = self.call("POST", "/users", {"name": name, "password": password}, owner=name != "owner")
        assert made[0] == 201, made
        if name != "owner":
            assert self.call("PUT", f"/users/{name}/grants", {"grants": ["publish,consume topic:#", "publish,consume queue:*"]})[0] == 200

    def run(self, seconds):
        end, looked = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            try:
                self.turn()
            except ConnectionRefusedError:
                until(lambda: not self.gateway.alive(), 5)
                self.look()
                raise
            if time.monotonic() > looked + 0.1:
                self.look()
                looked = time.monotonic()
        for i in range(CONNECTIONS):
            self.let_go(i)
        self.witness.end()
        self.look()
        code = self.gateway.stop()
        self.look_for_reports()
        if code != 0:
            raise Failure(f"the gateway ended with {code}")

    def turn(self):
        self.turns += 1
        i = self.draw.randrange(CONNECTIONS)
        if self.connections[i] is None or self.connections[i].ended:
            self.let_go(i)
            self.connections[i] = self.open()
        else:
            self.act(self.connections[i])
        for connection in self.connections:
            if connection is not None:
                connection.pump()
        time.sleep(TURN_SECONDS)

    def open(self):
        self.opened += 1
        draw = random.Random(f"{self.seed}-{self.opened}")
        speaker, = draw.choices(self.speakers, self.weights)
        speaker = speaker(draw, self.house)
        return Connection(f"{self.opened} ({type(speaker).__name__})", self.gateway.ports[speaker.port], speaker, draw, draw.random() < 0.08)

    def act(self, connection):
        chance = self.draw.random()
        if chance < 0.002:
            connection.reset()
        elif chance < 0.004:
            connection.half_close()
        elif chance < 0.008 or (connection.only_listens and chance < 0.1):
            connection.close()
        else:
            connection.speak()

    def let_go(self, i):
        if self.connections[i] is not None:
            self.connections[i].close()
            self.gone.append(self.connections[i])
            self.connections[i] = None

    def look(self):
        if not self.gateway.alive():
            raise Failure(f"polylogd has died: {self.gateway.process.returncode}")
        self.look_for_reports()
        self.witness.look()
        if self.witness.failure:
            raise Failure(f"the witness, {self.witness.failure}")
        with open(f"/proc/{self.gateway.pid}/statm", encoding="ascii") as numbers:
            now = int(numbers.read().split()[1]) * 4 // 1024
        self.peak_mb = max(now, self.peak_mb)
        if now > self.memory_mb:
            raise Failure(f"{now} MB of memory")

    def look_for_reports(self):
        found = REPORT.search(self.gateway.stderr())
        if found:
            raise Failure(f"it says {found.group(0)}")

    def tell(self, failure):
        print(f"FAIL seed {self.seed}, turn {self.turns}: {failure}\n{self.gateway.stderr()[-6000:]}")
        print("what was said last, oldest first; those that have gone come first:")
        for connection in [*self.gone, *filter(None, self.connections)]:
            print(f"connection {connection.name}{', reads little' if connection.reads_little else ''}{', ended' if connection.ended else ''}")
            for said in connection.said:
                print(f"    {said.hex() if len(said) < 4000 else said[:4000].hex() + '...'}")


def passes(seed, options):
    campaign = Campaign(seed, options.only.split(","), options.memory)
    began = time.monotonic()
    try:
        campaign.run(options.seconds)
        print(f"ok   seed {seed}{', users' if campaign.house.users else ''}: {campaign.turns} turns, {campaign.opened} connections, "
              f"{campaign.witness.published} of the witness, {campaign.peak_mb} MB, {time.monotonic() - began:.0f} s", flush=True)
        return True
    except Exception as failure:
        campaign.tell(repr(failure))
        return False
    finally:
        campaign.witness.ending.set()
        campaign.gateway._clean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--only", default=",".join(SPEAKERS))
    parser.add_argument("--memory", type=int, default=1500)
    options = parser.parse_args()
    sys.exit(0 if all([passes(seed, options) for seed in range(options.seed, options.seed + options.count)]) else 1)


main()
