# SPDX-License-Identifier: Apache-2.0
"""What was answered is still there after kill -9: messages, queues, groups, routes, what a group has acknowledged."""
import threading
import time

from gateway import exchange, run, until

V1 = "/v1/default"


def setup(gateway):
    assert gateway.call("POST", f"{V1}/queues", {"name": "q", "partitions": 2})[0] == 201
    assert gateway.call("POST", f"{V1}/queues/q/groups", {"groups": [{"name": "g"}]})[0] == 201
    assert gateway.call("PUT", f"{V1}/routes/a%2F%23", {"queue": "q"})[0] == 200


def drain(gateway, acknowledge=True):
    bodies = []
    while True:
        status, items = gateway.call("GET", f"{V1}/queues/q/groups/g/messages?time_wait=1")
        assert status == 200, items
        if not items:
            return bodies
        bodies.extend(item["message"]["body"] for item in items)
        if acknowledge:
            status, settled = gateway.call("POST", f"{V1}/queues/q/groups/g/ack",
                                           {"receipts": [item["handler"] for item in items]})
            assert settled == {"stale": [], "success": len(items), "fail": 0}, settled


def killed_while_publishing(gateway):
    """Four publishers, three kills: nothing that was answered with 201 is missing."""
    setup(gateway)
    acknowledged, lock, ended = set(), threading.Lock(), threading.Event()

    def publisher(number):
        sequence = 0
        link = None
        while not ended.is_set():
            sequence += 1
            body = f"{number}-{sequence}"
            try:
                link = link or gateway.connect(timeout=5)
                status, _ = exchange(link, "POST", f"{V1}/publish", {"topic": "a/b", "messages": [{"body": body, "key": body}]})
                if status == 201:
                    with lock:
                        acknowledged.add(body)
            except Exception:
                link = None
                time.sleep(0.05)

    threads = [threading.Thread(target=publisher, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(1)
        gateway.kill9()
        gateway.restart()
    time.sleep(0.5)
    assert until(lambda: len(acknowledged) > 100, 60), len(acknowledged)
    ended.set()
    for thread in threads:
        thread.join()
    found = drain(gateway)
    assert acknowledged <= set(found), len(acknowledged - set(found))
    assert len(found) == len(set(found))
    # And what has been acknowledged stays so.
    gateway.kill9()
    gateway.restart()
    assert drain(gateway) == []


def leases_come_back(gateway):
    """Leases are not kept; failures are."""
    setup(gateway)
    gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": i, "key": str(i)} for i in range(6)]})
    path = f"{V1}/queues/q/groups/g"

    def take(count):
        items = []
        while len(items) < count:      # not all partitions are seen at the same moment
            status, more = gateway.call("GET", f"{path}/messages?time_wait=5")
            assert status == 200 and more, (more, items)
            items += more
        return items

    receipts = {item["message"]["body"]: item["handler"] for item in take(6)}
    assert gateway.call("POST", f"{path}/ack", {"receipts": [receipts[0], receipts[1]]})[0] == 200
    assert gateway.call("POST", f"{path}/nack", {"receipts": [receipts[2]]})[0] == 200
    gateway.kill9()
    gateway.restart()
    assert gateway.call("POST", f"{path}/ack", {"receipts": [receipts[3]]})[0] == 400      # of an earlier life
    again = take(4)
    assert sorted(item["message"]["body"] for item in again) == [2, 3, 4, 5], again
    failures = {item["message"]["body"]: item["message"].get("delivery_count", 0) for item in again}
    assert failures[2] == 1 and failures[4] == 0, failures


def catalog_is_kept(gateway):
    setup(gateway)
    gateway.call("POST", f"{V1}/queues", {"name": "gone"})
    gateway.call("DELETE", f"{V1}/queues/gone")
    before = [gateway.call("GET", path) for path in (f"{V1}/queues", f"{V1}/routes", f"{V1}/queues/q/groups")]
    gateway.kill9()
    gateway.restart()
    after = [gateway.call("GET", path) for path in (f"{V1}/queues", f"{V1}/routes", f"{V1}/queues/q/groups")]
    assert before == after, (before, after)
    assert gateway.stop() == 0
    gateway.restart()
    assert gateway.call("GET", f"{V1}/routes") == before[1]


run(killed_while_publishing, leases_come_back, catalog_is_kept)
