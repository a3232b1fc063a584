# SPDX-License-Identifier: Apache-2.0
"""A living queue: its limits change, it is full, it is emptied, it is copied."""
import os
import shutil
import tempfile
import threading
import time

from gateway import Gateway, run, until
from rest import DMS, V1, bodies, good, group_numbers, group_path, handlers, make, publish, records, refused, settle, take
from standstill import needs_pace


def change(gateway, **fields):
    return good(gateway.call("PATCH", f"{V1}/queues/q", fields))


def changed(gateway):
    made = make(gateway)
    assert (made["overflow"], made["max_records"], made["protect_bytes"], made["lease_ms"]) == ("drop_oldest", 0, 0, 30000), made
    wanted = {"description": "new", "retention_ms": 3600000, "retention_bytes": 5000000, "redrive_policy": "enable",
              "max_consume_count": 3, "overflow": "refuse", "max_records": 1000, "protect_bytes": 7,
              "lease_ms": 1800000}
    assert wanted.items() <= change(gateway, **wanted).items()
    assert wanted.items() <= good(gateway.call("GET", f"{V1}/queues/q")).items()
    gateway.kill9()
    gateway.restart()
    shown = good(gateway.call("GET", f"{V1}/queues/q"))
    assert wanted.items() <= shown.items() and shown["id"] == made["id"] and shown["created"] == made["created"], shown
    assert change(gateway, max_consume_count=5)["max_consume_count"] == 5
    assert change(gateway, lease_ms=0)["lease_ms"] == 30000
    assert change(gateway, retention_hours=2)["retention_ms"] == 7200000
    shown = change(gateway, max_records=0, protect_bytes=None, description="")
    assert (shown["max_records"], shown["protect_bytes"], shown["description"], shown["max_consume_count"]) == (0, 0, None, 5), shown
    assert change(gateway, redrive_policy="disable")["redrive_policy"] == "disable"
    path = f"{V1}/queues/q"
    for fields, code in (({}, 10240009), ({"name": "x"}, 10240009), ({"type": "fifo"}, 10240009), ({"partitions": 2}, 10240009),
                         ({"durability": "sync"}, 10240009), ({"description": "<"}, 10240010), ({"overflow": "maybe"}, 10240009), ({"lease_ms": 999}, 10240007), ({"lease_ms": 43200001}, 10240009),
                         ({"max_records": -1}, 10240009), ({"max_records": "5"}, 10240009), ({"retention_ms": 1.5}, 10240027),
                         ({"redrive_policy": "enable", "max_consume_count": 0}, 10240022), ({"max_consume_count": 101,
                          "redrive_policy": "enable"}, 10240022)):
        refused(gateway.call("PATCH", path, fields), 400, code)
    refused(gateway.call("PATCH", path, b"x"), 400, 10240009)
    refused(gateway.call("PATCH", f"{V1}/queues/none", {"description": "x"}), 404, 10240401)
    make(gateway, "s", type="stream")
    refused(gateway.call("PATCH", f"{V1}/queues/s", {"redrive_policy": "enable", "max_consume_count": 3}), 400, 10240009)
    assert good(gateway.call("PATCH", f"{V1}/queues/mqtt", {"retention_hours": 1}))["retention_ms"] == 3600000
    refused(gateway.call("PATCH", f"{DMS}/queues/q", {"description": "x"}), 405, 10240406)


def policy_takes_effect(gateway):
    """The failures that a record has already count when a policy comes."""
    make(gateway)
    publish(gateway, "x", "y")
    for _ in range(3):
        items = take(gateway)
        assert len(items) == 2
        good(settle(gateway, "nack", handlers(items)))
    change(gateway, redrive_policy="enable", max_consume_count=4)
    items = take(gateway)
    assert sorted(bodies(items)) == ["x", "y"]
    good(settle(gateway, "nack", handlers(items)))
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 2)


def full(gateway):
    make(gateway, overflow="refuse", max_records=50)
    publish(gateway, *range(50))
    answer = gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x"}]})
    assert answer[0] == 429, answer
    refused(answer, 429, 10240407)
    # What every group has done makes room.
    good(settle(gateway, "ack", handlers(take(gateway, max_msgs=50))))
    assert until(lambda: gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x"}]})[0] == 201, 20)
    # The other policy: the oldest go.
    change(gateway, overflow="drop_oldest", max_records=10)
    for start in range(0, 100, 10):
        publish(gateway, *range(start, start + 10))
    assert until(lambda: good(gateway.call("GET", f"{V1}/queues/q"))["records"] <= 20, 10)
    assert records(gateway)["records"][-1]["body"] == 99


@needs_pace
def purged(gateway):
    make(gateway, partitions=3)
    publish(gateway, *({"body": i, "key": str(i)} for i in range(500)))
    held = handlers(take(gateway, max_msgs=20))
    delayed = publish(gateway, {"body": "later", "delay_ms": 1500})
    assert good(gateway.call("POST", f"{V1}/queues/q/purge")) == {"records": 500}
    assert [records(gateway, partition=partition)["records"] for partition in range(3)] == [[], [], []]
    assert take(gateway, time_wait=0) == []
    assert gateway.call("POST", group_path(tail="/ack"), {"receipts": held})[0] in (200, 400)
    numbers = group_numbers(gateway)
    assert (numbers["available_messages"], numbers["lost"]) == (0, 0), numbers
    assert good(gateway.call("POST", f"{V1}/queues/q/purge")) == {"records": 0}
    publish(gateway, "after")
    assert bodies(take(gateway)) == ["after"] and delayed
    assert bodies(take(gateway, time_wait=10)) == ["later"]
    gateway.kill9()
    gateway.restart()
    assert sum(len(records(gateway, partition=partition)["records"]) for partition in range(3)) == 2
    refused(gateway.call("POST", f"{V1}/queues/none/purge"), 404, 10240401)


def purged_at_work(gateway):
    make(gateway)
    stop = threading.Event()

    def publisher():
        while not stop.is_set():
            publish(gateway, *(["x" * 100] * 50))

    def consumer():
        while not stop.is_set():
            items = take(gateway, max_msgs=100)
            if items:
                assert gateway.call("POST", group_path(tail="/ack"), {"receipts": handlers(items)})[0] in (200, 400)

    threads = [threading.Thread(target=target) for target in (publisher, publisher, consumer, consumer)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(0.15)
        good(gateway.call("POST", f"{V1}/queues/q/purge"))
    stop.set()
    for thread in threads:
        thread.join(30)
    good(gateway.call("POST", f"{V1}/queues/q/purge"))
    publish(gateway, "last")
    assert bodies(take(gateway)) == ["last"]
    assert until(lambda: group_numbers(gateway)["available_messages"] == 1)


def copied(gateway):
    """A backup of a running gateway is a store of its own."""
    make(gateway)
    publish(gateway, *range(100))
    good(settle(gateway, "ack", handlers(take(gateway))))
    place = tempfile.mkdtemp(prefix="polylog-e2e-")
    try:
        directory = os.path.join(place, "copy")
        assert gateway.call("POST", f"{V1}/backup", {"directory": directory}) == (204, None)
        publish(gateway, "later")
        refused(gateway.call("POST", f"{V1}/backup", {"directory": directory}), 400, 10540010)
        for bad in ("relative", "", 5, None, "/nul\u0000", "/" + "x" * 5000):
            refused(gateway.call("POST", f"{V1}/backup", {"directory": bad}), 400, 10540010)
        copy = Gateway(directory)
        try:
            assert [record["body"] for record in records(copy)["records"]] == list(range(100))
            assert bodies(take(copy, max_msgs=1000)) == list(range(10, 100))
        finally:
            assert copy.stop() == 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


run(changed, policy_takes_effect, full, purged, purged_at_work, copied)
