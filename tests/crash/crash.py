#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill -9 under load, again and again on the same data, and every promise is held against the store.

After each round: all that was acknowledged is there, in the order of its topic and once; what a topic holds is
what was sent, without a gap; nothing that was refused is there; no (partition, offset) ever has another value
than it had; what a group was told is done never comes back, and in the end all that was acknowledged is done. usage: crash.py [--rounds N] [--seed N]"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from publishers import AmqpPublisher, JobConsumer, JobProducer, MqttPublisher, RestPublisher
from gateway import POLYLOGD, Gateway  # publishers has shown where it is

RECORDS = os.environ.get("RECORDS", "build/release/records")


def start(data):
    began = time.monotonic()
    gateway = Gateway(data, "retention.hours=72")
    return gateway, time.monotonic() - began


def read_store(data):
    """(partition, offset) -> (topic, value), from a copy: the gateway shall do its own recovery."""
    copy = data + ".copy"
    shutil.copytree(data, copy)
    try:
        result = subprocess.run([RECORDS, copy], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    finally:
        shutil.rmtree(copy)
    found = {}
    for line in result.stdout.splitlines():
        partition, offset, topic, value = line.split(" ")
        place = (int(partition), int(offset))
        assert place not in found, "offset %s:%s twice" % place
        found[place] = (topic, value)
    return found


def by_topic(store):
    topics = {}
    for (partition, offset) in sorted(store):
        topic, value = store[partition, offset]
        if topic == "":
            continue  # for a queue by its name
        topics.setdefault(topic, (partition, []))
        assert topics[topic][0] == partition, "%s lies in two partitions" % topic
        topics[topic][1].append(int(value))
    return {topic: values for topic, (_, values) in topics.items()}


def sent_order(publisher, topic):
    """The numbers a publisher sends to a topic, in order."""
    index = publisher.topics.index(topic)
    if isinstance(publisher, RestPublisher):
        return [n for n in range(publisher.sent) if n // 100 % len(publisher.topics) == index]
    return list(range(index, publisher.sent, len(publisher.topics)))


def check_publisher(publisher, topics):
    if publisher.error is not None:
        raise publisher.error
    for topic in publisher.topics:
        stored = topics.get(topic, [])
        sent = [n for n in sent_order(publisher, topic) if n not in publisher.refused]
        assert stored == sent[:len(stored)], "%s is not what was sent: %s" % (topic, first_difference(stored, sent))
        missing = publisher.acknowledged.intersection(sent[len(stored):])
        assert not missing, "%s: %d acknowledged are missing, first %d" % (topic, len(missing), min(missing))


def first_difference(stored, sent):
    for i, (left, right) in enumerate(zip(stored, sent)):
        if left != right:
            return "at %d stands %d, sent was %d" % (i, left, right)
    return "%d stored, %d sent" % (len(stored), len(sent))


class Run:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.data = tempfile.mkdtemp(prefix="polylog-crash-")
        self.store = {}
        self.publishers = []
        self.starts = []
        self.jobs, self.refused_jobs, self.done_jobs, self.asked_jobs = set(), set(), set(), set()
        self.path = None

    def work(self, name, gateway):
        """Jobs for a queue, and two consumers that share them."""
        if self.path is None:
            status, queue = gateway.call("POST", "/v1.0/default/queues", {"name": "jobs"})
            assert status == 201, queue
            path = "/v1.0/default/queues/%s/groups" % queue["id"]
            status, groups = gateway.call("POST", path, {"groups": [{"name": "workers"}]})
            assert status == 201, groups
            self.path = "%s/%s" % (path, groups["groups"][0]["id"])
        workers = [JobProducer(name, gateway.http_port, "jobs")]
        workers += [JobConsumer("%s-%d" % (name, i), gateway.http_port, self.path) for i in range(2)]
        for worker in workers:
            worker.start()
        return workers

    def account(self, workers):
        """After their end."""
        shown = [job for worker in workers if isinstance(worker, JobConsumer) for job in worker.shown]
        assert len(shown) == len(set(shown)), "shown twice within one run"
        again = self.done_jobs.intersection(shown)
        assert not again, "%d jobs that were done came back, as %s" % (len(again), min(again))
        refused = self.refused_jobs.intersection(shown)
        assert not refused, "refused jobs were shown, as %s" % min(refused)
        for worker in workers:
            if worker.error is not None:
                raise worker.error
            if isinstance(worker, JobConsumer):
                self.done_jobs |= worker.done
                self.asked_jobs |= worker.asked
            else:
                self.jobs |= worker.acknowledged
                self.refused_jobs |= worker.refused

    def finish_jobs(self, gateway):
        consumer = JobConsumer("last", gateway.http_port, self.path, until_empty=True)
        consumer.start()
        consumer.join(120)
        assert not consumer.is_alive()
        self.account([consumer])
        missing = self.jobs - self.done_jobs - self.asked_jobs
        assert not missing, "%d acknowledged jobs were never shown, as %s" % (len(missing), min(missing))
        print("%d jobs acknowledged, %d done" % (len(self.jobs), len(self.done_jobs)))

    def load(self, name, gateway):
        publishers = [MqttPublisher("%s-v%d-%d" % (name, version, i), gateway.mqtt_port, version, qos, window)
                      for i, (version, qos, window) in enumerate(
                          ((4, 1, 500), (4, 1, 20), (5, 1, 500), (5, 1, 1), (4, 2, 100), (5, 2, 300)))]
        publishers += [AmqpPublisher("%s-amqp-%d" % (name, window), gateway.amqp_port, window) for window in (1, 300)]
        publishers += [RestPublisher("%s-rest-%d" % (name, i), gateway.http_port) for i in range(2)]
        for publisher in publishers:
            publisher.start()
        self.publishers += publishers
        return publishers

    def check(self):
        store = read_store(self.data)
        for place, what in self.store.items():
            assert store.get(place) == what, "%d:%d was %r and is %r" % (*place, what, store.get(place))
        self.store = store
        topics = by_topic(store)
        for publisher in self.publishers:
            check_publisher(publisher, topics)

    def kill_round(self, number):
        gateway, seconds = start(self.data)
        self.starts.append(seconds)
        workers = self.work("k%d" % number, gateway)
        publishers = self.load("k%d" % number, gateway)
        time.sleep(self.random.uniform(0.2, 1.5))
        gateway.kill9()
        for publisher in publishers + workers:
            publisher.join(70)
            assert not publisher.is_alive()
        if self.random.random() < 0.4:  # and once more while it recovers
            self.kill_while_it_starts(self.random.uniform(0, 0.3))
        self.account(workers)
        self.check()
        self.say("killed", number, publishers, seconds)

    def kill_while_it_starts(self, seconds):
        command = [POLYLOGD, "--data", self.data, "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(seconds)
            process.kill()

    def graceful_round(self, number):
        """Everything in flight is answered: what is stored and what was acknowledged are the same."""
        gateway, seconds = start(self.data)
        self.starts.append(seconds)
        workers = self.work("g%d" % number, gateway)
        publishers = self.load("g%d" % number, gateway)
        time.sleep(0.7)
        began = time.monotonic()
        assert gateway.stop() == 0, gateway.stderr()
        took = time.monotonic() - began
        for publisher in publishers + workers:
            publisher.join(70)
            assert not publisher.is_alive()
        self.account(workers)
        self.check()
        topics = by_topic(self.store)
        for publisher in publishers:
            stored = {n for topic in publisher.topics for n in topics.get(topic, [])}
            assert stored == publisher.acknowledged, "%s: %d stored without an answer" % (
                publisher.topics[0], len(stored - publisher.acknowledged))
        self.say("ended in %.1f s" % took, number, publishers, seconds)

    def say(self, what, number, publishers, seconds):
        print("round %d: %s, start %.2f s, %d sent, %d acknowledged (REST %d), %d refused, %d in store" % (
            number, what, seconds, sum(p.sent for p in publishers), sum(len(p.acknowledged) for p in publishers),
            sum(len(p.acknowledged) for p in publishers if isinstance(p, RestPublisher)),
            sum(len(p.refused) for p in publishers), len(self.store)), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int(time.time())
    print("seed %d" % seed)
    run = Run(seed)
    try:
        for number in range(options.rounds):
            run.kill_round(number)
        run.graceful_round(options.rounds)
        gateway, seconds = start(run.data)
        run.starts.append(seconds)
        run.finish_jobs(gateway)
        assert gateway.stop() == 0
        run.check()
        print("%d starts, the longest %.2f s" % (len(run.starts), max(run.starts)))
    except BaseException:
        print("data is kept in %s" % run.data)
        raise
    shutil.rmtree(run.data)


if __name__ == "__main__":
    sys.exit(main())
