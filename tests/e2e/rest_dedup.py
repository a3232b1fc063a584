# SPDX-License-Identifier: Apache-2.0
"""What is published twice is stored once: by Idempotency-Key, by a producer's numbers, by MQTT's user property and the
CLI's option, also when the gateway dies between the two."""
import subprocess
import threading
import time

from gateway import POLYLOG, Gateway, exchange, run, until
from rest import DMS, V1, good, make, records, refused
from wire import *  # noqa: F403 - the names of the protocol


def post(gateway, *bodies, queue="q", headers=None, **fields):
    messages = [body if isinstance(body, dict) else {"body": body} for body in bodies]
    return gateway.call("POST", f"{V1}/publish", {"queue": queue, "messages": messages, **fields}, headers)


def offsets(answer):
    return [(message["partition"], message["offset"]) for message in good(answer, 201)["messages"]]


def numbered(producer, number, epoch=None):
    headers = {"Producer-Id": producer, "Producer-Seq": str(number)}
    return headers if epoch is None else {**headers, "Producer-Epoch": str(epoch)}


def keyed(gateway):
    make(gateway, partitions=4)
    first = offsets(post(gateway, "a", "b", "c", headers={"Idempotency-Key": "k1"}))
    assert len({partition for partition, _ in first}) == 1 and [offset for _, offset in first] == [0, 1, 2]
    assert offsets(post(gateway, "a", "b", "c", headers={"Idempotency-Key": "k1"})) == first
    assert offsets(post(gateway, "a", headers={"Idempotency-Key": "k1"})) == first[:1]
    assert offsets(post(gateway, {"body": "x", "dedup_id": "k1"})) == first[:1]
    assert offsets(post(gateway, "a", "b", headers={"idempotency-key": "k2"}))[0] not in first
    # DMS callers may say it, too, and get the id of the original.
    call = lambda: good(gateway.call("POST", f"{DMS}/queues/q/messages", {"messages": [{"body": 1}], "returnId": True},
                                     {"Idempotency-Key": "k3"}), 201)
    assert call() == call()
    total = sum(len(records(gateway, partition=partition)["records"]) for partition in range(4))
    assert total == 6, total
    assert 'polylog_duplicate_records_total 6' in gateway.call("GET", "/metrics")[1]


def by_number(gateway):
    make(gateway)
    assert offsets(post(gateway, "a", "b", headers=numbered("ann", 0))) == [(0, 0), (0, 1)]
    assert offsets(post(gateway, "b", "c", headers=numbered("ann", 1))) == [(0, 1), (0, 2)]
    refused(post(gateway, "e", headers=numbered("ann", 4)), 400, 10540014, "next one")
    assert offsets(post(gateway, "d", headers=numbered("ann", 3))) == [(0, 3)]
    assert offsets(post(gateway, "A", headers=numbered("ann", 0, 1))) == [(0, 4)]
    refused(post(gateway, "e", headers=numbered("ann", 4)), 400, 10542209, "epoch")
    assert offsets(post(gateway, "x", headers=numbered("ben", 17))) == [(0, 5)]
    assert [record["body"] for record in records(gateway)["records"]] == ["a", "b", "c", "d", "A", "x"]


def bad_input(gateway):
    make(gateway, partitions=2)
    for headers, messages, words in (
            ({"Producer-Id": "p"}, ["a"], ["Producer-Seq"]),
            ({"Producer-Id": "p", "Producer-Seq": "-1"}, ["a"], ["Producer-Seq"]),
            ({"Producer-Id": "p", "Producer-Seq": "2147483648"}, ["a"], ["Producer-Seq"]),
            ({"Producer-Id": "p", "Producer-Seq": "one"}, ["a"], ["Producer-Seq"]),
            (numbered("p", 0, 32768), ["a"], ["Producer-Epoch"]),
            (numbered("p", 0), [{"body": "a", "key": "k"}], ["key"]),
            (numbered("p", 0), [{"body": "a", "dedup_id": "k"}], ["both"]),
            ({**numbered("p", 0), "Idempotency-Key": "k"}, ["a"], ["both"]),
            ({"Idempotency-Key": "k" * 257}, ["a"], ["256"]),
            (numbered("p", 0), [{"body": "a", "delay_ms": 5}], ["delayed"]),
            ({}, [{"body": "a", "dedup_id": 7}], ["string"]),
            ({}, [{"body": "a", "dedup_id": ""}], ["1 to 256"])):
        answer = post(gateway, *messages, headers=headers)
        refused(answer, 400, 10540001 if words == ["string"] else 10540010, *words)
    assert records(gateway)["records"] == records(gateway, partition=1)["records"] == []
    for dedup_ms in (-1, 604800001, "1h"):
        refused(gateway.call("PATCH", f"{V1}/queues/q", {"dedup_ms": dedup_ms}), 400, 10240009, "dedup_ms")


def window(gateway):
    assert make(gateway)["dedup_ms"] == 600000
    first = offsets(post(gateway, "a", headers={"Idempotency-Key": "k"}))
    assert good(gateway.call("PATCH", f"{V1}/queues/q", {"dedup_ms": 1}))["dedup_ms"] == 1
    time.sleep(0.01)
    assert offsets(post(gateway, "b", headers={"Idempotency-Key": "k"})) != first
    assert good(gateway.call("PATCH", f"{V1}/queues/q", {"dedup_ms": None}))["dedup_ms"] == 600000


def delayed(gateway):
    """One that waits has its id from the moment it is taken in: the same again gets the original's answer, whichever of
    the two is delayed, after a crash and when it has fired, too."""
    make(gateway)
    later = lambda ms, *ids, **more: good(post(gateway, *({"body": one, "dedup_id": one, "delay_ms": ms} for one in ids), **more), 201)["messages"]
    first = later(600, "a", "b")
    assert all("offset" not in one for one in first) and len({one["id"] for one in first}) == 2, first
    assert later(5000, "b", "a", "b") == [first[1], first[0], first[1]]
    assert good(post(gateway, {"body": "now", "dedup_id": "b"}), 201)["messages"] == first[1:]
    plain = good(post(gateway, {"body": "p", "dedup_id": "p"}), 201)["messages"]
    assert later(50, "p", "c", "c")[0] == plain[0] and plain[0]["offset"] == 0
    # By the head's key, with others that have none; a partition is the id's.
    key = {"Idempotency-Key": "k"}
    both = [{"body": "k0", "delay_ms": 100}, {"body": "k1", "delay_ms": 100}]
    once = good(post(gateway, *both, headers=key), 201)["messages"]
    assert good(post(gateway, *both, headers=key), 201)["messages"] == once
    canceled = later(60000, "gone")[0]
    assert gateway.call("DELETE", f"{V1}/queues/q/delayed/{canceled['id']}")[0] == 204
    assert later(60000, "gone")[0] == canceled          # it was there, as one that was consumed was
    gateway.kill9()
    gateway.restart()
    assert later(60000, "a")[0] == first[0]
    assert good(post(gateway, *both, headers=key), 201)["messages"] == once
    assert until(lambda: len(records(gateway)["records"]) == 6)
    assert later(60000, "a")[0] == first[0]
    assert [one["body"] for one in records(gateway)["records"]][0] == "p"
    assert sorted(one["body"] for one in records(gateway)["records"]) == ["a", "b", "c", "k0", "k1", "p"]
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for packet in (1, 2):
            assert writer.publish("$delayed/0/$queue/q", "m", packet, packet, props=[(USER, ("dedup-id", "m"))]) == 0
        assert writer.publish("$queue/q", "m", 1, 3, props=[(USER, ("dedup-id", "m")), (USER, ("delay", "50"))]) == 0
    assert until(lambda: len(records(gateway)["records"]) == 7)
    time.sleep(0.2)
    assert len(records(gateway)["records"]) == 7


def limits():
    """More ids, or producers, than may be remembered: what is new is refused until something may be forgotten; what is
    known is answered all the same, and records without an id go in."""
    gateway = Gateway(None, "workers=1", "limit.dedup_ids=20", "limit.producers=3")
    make(gateway)
    one = lambda id, **more: post(gateway, {"body": id, "dedup_id": id, **more})
    first = [offsets(one(str(i))) for i in range(19)]
    waits = good(one("19", delay_ms=60000), 201)["messages"]
    refused(one("20"), 429, 10240407)
    refused(one("20", delay_ms=5), 429, 10240407)
    mixed = good(post(gateway, *({"body": id, "dedup_id": id} for id in ("3", "20", "19")), "plain"), 201)["messages"]
    assert [result["state"] for result in mixed] == [0, 1, 0, 0], mixed
    assert (mixed[0]["partition"], mixed[0]["offset"]) == first[3][0] and mixed[2] == waits[0], mixed
    good(gateway.call("PATCH", f"{V1}/queues/q", {"dedup_ms": 1}))
    assert until(lambda: one("20")[0] == 201), "what is too old makes room"
    for name in ("ann", "ben", "cid"):
        assert post(gateway, "x", headers=numbered(name, 0))[0] == 201
    refused(post(gateway, "x", headers=numbered("dan", 0)), 429, 10240407)
    assert post(gateway, "x", headers=numbered("cid", 1))[0] == 201
    gateway.kill9()
    gateway.restart()
    refused(post(gateway, "x", headers=numbered("dan", 0)), 429, 10240407)
    assert post(gateway, "x", headers=numbered("ben", 1))[0] == 201
    gateway.stop()


def mqtt_and_cli(gateway):
    make(gateway)
    good(gateway.call("PUT", f"{V1}/routes/d%2F%23", {"queue": "q"}))
    def same(value):
        return [(USER, ("dedup-id", value))]
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for packet, value in enumerate(("one", "two", "one", "one")):
            assert writer.publish("d/x", value, 1, packet + 1, props=same(value)) == 0
        writer.publish("d/x", "two", props=same("two"))          # QoS 0, too
        assert writer.publish("d/x", "three", 2, 9, props=same("three")) == 0
        assert writer.publish("d/x", "none", 1, 10, props=same("")) >= 0x80
    for _ in range(2):
        subprocess.run([POLYLOG, "--url", f"http://127.0.0.1:{gateway.http_port}", "publish", "--queue", "q", "--id", "four",
                        "four"], check=True)
    assert [record["body"] for record in records(gateway)["records"]] == ["one", "two", "three", "four"]
    assert offsets(post(gateway, "again", headers={"Idempotency-Key": "two"})) == [(0, 1)]


def death_between():
    """Publishers repeat until they hear an answer, while the gateway is killed: each message is there once, at the
    offset that was answered."""
    gateway = Gateway()
    make(gateway, partitions=3)
    answered, ended = {}, threading.Event()

    def publisher(name):
        number, link = 0, None
        while not ended.is_set():
            body = f"{name}-{number}"
            headers = {"Idempotency-Key": body} if name < 3 else numbered(f"p{name}", number)
            try:
                link = link or gateway.connect(timeout=5)
                status, answer = exchange(link, "POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": body}]}, headers)
            except Exception:
                link = None
                time.sleep(0.02)
                continue
            assert status in (201, 503), (status, answer)
            if status == 201:
                heard = body in answered or number % 5 != 0      # some as if they had not been
                answered.setdefault(body, []).append(answer["messages"][0])
                number += heard

    threads = [threading.Thread(target=publisher, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.5)
        gateway.kill9()
        gateway.restart()
    assert until(lambda: len(answered) > 100, 60), len(answered)
    ended.set()
    for thread in threads:
        thread.join()
    stored = {}
    for partition in range(3):
        offset = 0
        while True:
            page = records(gateway, partition=partition, offset=offset, limit=1000)
            for record in page["records"]:
                assert record["body"] not in stored, record
                stored[record["body"]] = (partition, record["offset"])
            if not page["records"]:
                break
            offset = page["next"]
    for body, messages in answered.items():
        assert all(stored[body] == (one["partition"], one["offset"]) for one in messages), (body, messages, stored[body])
    assert len(stored) - len(answered) <= 6, (len(stored), len(answered))
    gateway.stop()


run(keyed, by_number, bad_input, window, delayed, limits, mqtt_and_cli, death_between)
