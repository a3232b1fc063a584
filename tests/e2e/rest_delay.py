# SPDX-License-Identifier: Apache-2.0
"""Delayed messages: never early, soon after, over a crash, and never when they were canceled."""
import random
import threading
import time

import standstill
from gateway import run, until
from rest import DMS, V1, add_group, bodies, good, handlers, make, publish, refused, settle, take
from standstill import needs_pace


def arrivals(gateway, count, **query):
    """(body, when it had come, its message) of so many, in milliseconds."""
    got = []
    while len(got) < count:
        items = take(gateway, time_wait=10, **query)
        assert items, got
        got += [(item["message"]["body"], time.time() * 1000, item["message"]) for item in items]
    return got


def in_time(gateway):
    make(gateway)
    began, started = time.monotonic(), time.time() * 1000
    results = publish(gateway, {"body": "late", "delay_ms": 1500}, {"body": "soon", "delay_ms": 500, "labels": ["l"]}, "now")
    published = time.time() * 1000
    assert "offset" in results[2] and "offset" not in results[0], results
    assert started - 500 <= results[0]["due"] - 1500 <= published + 500, (started, results, published)
    got = arrivals(gateway, 3)
    lost = standstill.since(began) * 1000
    assert [body for body, _, _ in got] == ["now", "soon", "late"], got
    for (_, at, _), due in zip(got, (started, results[1]["due"], results[0]["due"])):
        assert due - 1 <= at < due + 900 + lost, (got, results, lost)
    assert got[1][2]["labels"] == ["l"] and got[1][2]["attributes"] == {}, got


def words_of_dms(gateway):
    make(gateway)
    path = f"{DMS}/queues/q/messages"
    started = time.time() * 1000
    answer = good(gateway.call("POST", path, {"returnId": True, "messages": [
        {"body": "a", "delayTime": 400.9}, {"body": "b", "delay_time": 800}, {"body": "c", "delayTime": 0}, {"body": "d", "delayTime": None}]}), 201)
    assert all(result["state"] == 0 and result["id"] for result in answer["messages"]), answer
    got = arrivals(gateway, 4, base=DMS)
    assert [body for body, _, _ in got] == ["c", "d", "a", "b"], got
    assert got[2][1] - started >= 400 and got[3][1] - started >= 800, (started, got)
    for delay in (-1, 604800001, "5", True, [], 1e300):
        refused(gateway.call("POST", path, {"messages": [{"body": "x", "delayTime": delay}]}), 400, 10540001)
    good(gateway.call("POST", path, {"messages": [{"body": "x", "delayTime": 604800000}]}), 201)
    for mode in ("KAFKA_HA", "KAFKA_HT"):
        make(gateway, mode, group=None, queue_mode=mode)
        for base in (DMS, "/v2/default"):
            refused(gateway.call("POST", f"{base}/queues/{mode}/messages", {"messages": [{"body": "x", "delayTime": 5000}]}),
                    400, 10540010, "delayTime")
        assert good(gateway.call("GET", f"{V1}/queues/{mode}/records"))["records"] == []
        refused(gateway.call("POST", f"{V1}/publish", {"queue": mode, "messages": [{"body": "x", "delay_ms": 5}]}), 400, 10540010)
        # By way of a topic, too.
        good(gateway.call("PUT", f"{V1}/routes/{mode}", {"queue": mode}))
        refused(gateway.call("POST", f"{V1}/publish", {"topic": mode, "messages": [{"body": "x", "delay_ms": 5}]}), 400, 10540010)


@needs_pace
def canceled(gateway):
    make(gateway)
    results = publish(gateway, *({"body": i, "delay_ms": 1500} for i in range(4)), {"body": "far", "delay_ms": 500000000})
    path = f"{V1}/queues/q/delayed"
    assert gateway.call("DELETE", f"{path}/{results[1]['id']}") == (204, None)
    refused(gateway.call("DELETE", f"{path}/{results[1]['id']}"), 404, 10240406)
    gateway.kill9()
    gateway.restart()
    assert gateway.call("DELETE", f"{path}/{results[2]['id']}") == (204, None)
    assert gateway.call("DELETE", f"{path}/{results[4]['id']}") == (204, None)
    found = []
    while len(found) < 2:
        found += take(gateway, time_wait=10)
    assert sorted(bodies(found)) == [0, 3], bodies(found)
    assert take(gateway, time_wait=1) == []
    refused(gateway.call("DELETE", f"{path}/{results[0]['id']}"), 404, 10240406)       # delivered
    for bad in ("x", "1-2", "%20", "0-0-0-0", "g-1-1", "1" * 200):
        refused(gateway.call("DELETE", f"{path}/{bad}"), 400, 10540014)
    refused(gateway.call("DELETE", f"{path}/1-1-1"), 404, 10240406)
    refused(gateway.call("DELETE", f"{V1}/queues/none/delayed/1-1-1"), 404, 10240401)
    make(gateway, "other")
    mine = publish(gateway, {"body": "x", "delay_ms": 100000})[0]["id"]
    refused(gateway.call("DELETE", f"{V1}/queues/other/delayed/{mine}"), 404, 10240406)     # another queue's
    assert gateway.call("DELETE", f"{path}/{mine}") == (204, None)


def over_a_crash(gateway):
    """Hundreds, some due while the gateway is away: each comes once, none before its time."""
    make(gateway, partitions=3)
    add_group(gateway, "q", "h")
    due = {}
    for start in range(0, 600, 100):
        messages = [{"body": i, "delay_ms": random.randrange(1, 6000)} for i in range(start, start + 100)]
        sent = time.time() * 1000
        results = publish(gateway, *messages)
        published = time.time() * 1000
        for message, result in zip(messages, results):
            due[message["body"]] = sent + message["delay_ms"]
            assert sent - 500 <= result["due"] - message["delay_ms"] <= published + 500, (message, result)
    early, seen = [], []

    def drain(seconds):
        until_time = time.monotonic() + seconds
        while time.monotonic() < until_time and len(seen) < 600:
            items = take(gateway, time_wait=1, max_msgs=100)
            now = time.time() * 1000
            early.extend(body for body in bodies(items) if due[body] > now)
            seen.extend(bodies(items))
            if items:
                assert good(settle(gateway, "ack", handlers(items)))["fail"] == 0

    for _ in range(3):
        drain(1)
        gateway.kill9()
        gateway.restart()
    drain(20)
    assert not early, early
    assert sorted(seen) == list(range(600)), len(seen)
    # The other group has them once as well.
    again = []
    while items := take(gateway, group="h", max_msgs=1000):
        again += bodies(items)
    assert sorted(again) == list(range(600))


def at_work(gateway):
    """Many wait while others publish without delay; the queue goes, and what waited goes with it."""
    make(gateway)
    for _ in range(20):
        publish(gateway, *({"body": "later", "delay_ms": 600000} for _ in range(1000)))
    waits = []

    def publisher():
        for _ in range(100):
            started = time.monotonic()
            publish(gateway, "now")
            waits.append(time.monotonic() - started)

    threads = [threading.Thread(target=publisher) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits)[len(waits) // 2] < 0.25
    taken = 0
    while items := take(gateway, max_msgs=1000, time_wait=0):
        assert set(bodies(items)) == {"now"}
        taken += len(items)
    assert taken == 300
    text = gateway.call("GET", "/metrics")[1]
    assert "polylog_delay_lateness_seconds" in text
    assert gateway.call("DELETE", f"{V1}/queues/q") == (204, None)
    make(gateway)
    assert until(lambda: take(gateway, time_wait=1) == [])


run(in_time, words_of_dms, canceled, over_a_crash, at_work)
