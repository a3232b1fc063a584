# SPDX-License-Identifier: Apache-2.0
"""Where a group stands: seek, redrive with progress, and why a record is or is not handed out."""
import random
import threading
import time
from urllib.parse import urlencode

from gateway import run, until
from rest import DMS, V1, add_group, bodies, good, group_numbers, group_path, handlers, make, publish, refused, settle, take


def seek(gateway, expected=204, **where):
    answer = gateway.call("POST", group_path(tail="/seek"), where)
    assert answer[0] == expected, answer
    return answer


def explain(gateway, offset, partition=0, queue="q", group="g"):
    return good(gateway.call("GET", group_path(queue, group, f"/explain?{urlencode({'offset': offset, 'partition': partition})}")))


def redrive(gateway, **what):
    return good(gateway.call("POST", group_path(tail="/redrive"), what), 202)


def redriven(gateway):
    """Progress, once it is through."""
    path = group_path(tail="/redrive")
    assert until(lambda: not good(gateway.call("GET", path))["running"], 20)
    return good(gateway.call("GET", path))


def die(gateway, *messages, **fields):
    """Makes dead letters of them."""
    make(gateway, redrive_policy="enable", max_consume_count=1, **fields)
    publish(gateway, *messages)
    left = len(messages)
    while left > 0:
        items = take(gateway, max_msgs=1000)
        left -= len(items)
        good(settle(gateway, "reject", handlers(items)))
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == len(messages))


def positions(gateway):
    make(gateway)
    publish(gateway, *range(5))
    time.sleep(0.05)
    middle = int(time.time() * 1000)
    time.sleep(0.05)
    publish(gateway, *range(5, 10))
    held = take(gateway, max_msgs=6)
    good(settle(gateway, "ack", handlers(held)[:3]))
    seek(gateway, to="earliest")
    refused(settle(gateway, "ack", handlers(held)[3:]), 400, 10542209)
    assert bodies(take(gateway)) == list(range(10))
    seek(gateway, offset=7)
    assert bodies(take(gateway)) == [7, 8, 9]
    seek(gateway, offset=2, partition=0)
    gateway.kill9()
    gateway.restart()
    assert bodies(take(gateway)) == list(range(2, 10))
    seek(gateway, time=middle)
    assert bodies(take(gateway)) == list(range(5, 10))
    seek(gateway, to="latest")
    assert take(gateway, time_wait=0) == []
    publish(gateway, "new")
    assert bodies(take(gateway)) == ["new"]
    # A waiter is served by a seek.
    found = []
    waiter = threading.Thread(target=lambda: found.extend(take(gateway, time_wait=20, max_msgs=100)))
    waiter.start()
    time.sleep(0.3)
    seek(gateway, offset=9)
    waiter.join(10)
    assert bodies(found) == [9, "new"], found


def bad_positions(gateway):
    make(gateway, partitions=2)
    path = group_path(tail="/seek")
    for where in ({}, {"offset": 1, "to": "latest"}, {"offset": -1, "partition": 0}, {"offset": "1", "partition": 0},
                  {"offset": 0}, {"offset": 0, "partition": 2}, {"offset": 0, "partition": "x"}, {"time": "now"}, {"time": -1},
                  {"to": "middle"}, {"to": 5}, {"offset": 1.5, "partition": 0}, {"to": None}):
        refused(gateway.call("POST", path, where), 400, 10540010)
    refused(gateway.call("POST", path, b"nothing"), 400, 10540012)
    refused(gateway.call("POST", path, {"offset": 5, "partition": 1}), 400, 10540014)
    refused(gateway.call("POST", group_path(group="none", tail="/seek"), {"to": "latest"}), 404, 10240405)
    refused(gateway.call("POST", group_path(queue="none", tail="/seek"), {"to": "latest"}), 404, 10240401)


def redrives(gateway):
    die(gateway, *({"body": i, "labels": ["odd" if i % 2 else "even"], "attributes": {"n": i}} for i in range(10)))
    assert good(gateway.call("GET", group_path(tail="/redrive"))) == {"running": False, "total": 0, "moved": 0, "failed": 0}
    redrive(gateway, ids=[3, 4])
    assert redriven(gateway) == {"running": False, "total": 2, "moved": 2, "failed": 0}
    again = take(gateway)
    assert sorted(bodies(again)) == [3, 4] and again[0]["message"].get("delivery_count") is None, again
    assert again[0]["message"]["attributes"] == {"n": again[0]["message"]["body"], "content-type": "application/json"}, again
    redrive(gateway, label="odd")
    assert redriven(gateway)["moved"] == 4
    assert sorted(bodies(take(gateway))) == [1, 5, 7, 9]
    # What was redriven is no dead letter any more.
    listed = good(gateway.call("GET", group_path(tail="/deadletters")))["records"]
    assert [record["body"] for record in listed] == [0, 2, 6, 8] and {record["fate"] for record in listed} == {"available"}
    assert group_numbers(gateway)["available_deadletters"] == 4
    gateway.kill9()
    gateway.restart()
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 4)
    redrive(gateway, all=True)
    assert redriven(gateway) == {"running": False, "total": 4, "moved": 4, "failed": 0}
    assert good(gateway.call("GET", group_path(tail="/deadletters")))["records"] == []
    assert take(gateway, dead="true", time_wait=0) == []
    # Twice does no harm; what does not exist moves nothing.
    redrive(gateway, all=True)
    assert redriven(gateway)["moved"] == 0
    redrive(gateway, ids=[3, 99999])
    assert redriven(gateway)["moved"] == 0
    path = group_path(tail="/redrive")
    for what in ({}, {"all": False}, {"all": 1}, {"all": True, "label": "x"}, {"ids": []}, {"ids": [-1]}, {"ids": ["1"]},
                 {"ids": 5}, {"ids": [1] * 1001}, {"label": "a b"}, {"label": ""}, {"label": 5}):
        refused(gateway.call("POST", path, what), 400, 10540010)
    refused(gateway.call("POST", group_path(group="none", tail="/redrive"), {"all": True}), 404, 10240405)


def redrive_while_consuming(gateway):
    """A thousand dead letters go back while they are consumed, die again and are redriven again: each ends once."""
    count = 1000
    die(gateway, *range(count))
    done, lock, stop = [], threading.Lock(), threading.Event()

    def consumer(number):
        chance = random.Random(number)
        while not stop.is_set():
            items = take(gateway, max_msgs=40)
            # A third of the attempts is rejected again. By chance: offsets and consumers both come in turn, and a
            # rule made of them rejects the last one for ever.
            for item in items:
                verb = "reject" if chance.random() < 1 / 3 else "ack"
                answer = settle(gateway, verb, [item["handler"]])
                assert answer[0] == 200, answer
                if verb == "ack":
                    with lock:
                        done.append(item["message"]["body"])

    consumers = [threading.Thread(target=consumer, args=(number,)) for number in range(3)]
    for thread in consumers:
        thread.start()
    deadline = time.monotonic() + 60
    while len(done) < count and time.monotonic() < deadline:
        answer = gateway.call("POST", group_path(tail="/redrive"), {"all": True})
        assert answer[0] in (202, 429), answer
        time.sleep(0.1)
    stop.set()
    for thread in consumers:
        thread.join()
    assert sorted(done) == list(range(count)), (len(done), len(set(done)))
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 0)


def explained(gateway):
    make(gateway, redrive_policy="enable", max_consume_count=2)
    publish(gateway, *range(6))
    assert explain(gateway, 0) == {"partition": 0, "offset": 0, "fate": "available", "failures": 0}
    items = handlers(take(gateway, max_msgs=5))
    told = explain(gateway, 0)
    assert told["fate"] == "leased" and abs(told["until"] / 1000 - time.time() - 30) < 5, told
    good(settle(gateway, "ack", items[:1]))
    assert explain(gateway, 0)["fate"] == "acknowledged"
    good(settle(gateway, "nack", items[1:2], delay_ms=60000))
    told = explain(gateway, 1)
    assert told["fate"] == "delayed" and told["failures"] == 1 and abs(told["until"] / 1000 - time.time() - 60) < 5, told
    good(settle(gateway, "reject", items[2:3]))
    assert until(lambda: explain(gateway, 2)["fate"] == "dead-lettered")
    assert explain(gateway, 2)["dead_offset"] == 0
    good(settle(gateway, "nack", items[3:4]))
    assert until(lambda: explain(gateway, 3)["fate"] == "available") and explain(gateway, 3)["failures"] == 1
    assert explain(gateway, 6)["fate"] == "not there yet" and explain(gateway, 10 ** 12)["fate"] == "not there yet"
    gateway.kill9()
    gateway.restart()
    fates = until(lambda: [explain(gateway, offset)["fate"] for offset in range(6)])
    assert fates == ["acknowledged", "delayed", "dead-lettered", "available", "available", "available"], fates
    good(gateway.call("POST", f"{V1}/queues/q/purge"))
    assert until(lambda: explain(gateway, 5)["fate"] == "behind retention")
    path = group_path(tail="/explain")
    refused(gateway.call("GET", path), 400, 10540014)
    refused(gateway.call("GET", f"{path}?offset=x"), 400, 10540014)
    refused(gateway.call("GET", f"{path}?offset=0&partition=1"), 400, 10540014)
    refused(gateway.call("GET", group_path(group="none", tail="/explain?offset=0")), 404, 10240405)


def explained_by_the_record(gateway):
    """Expired, filtered, blocked: what the record itself says."""
    make(gateway, "f", type="fifo")
    publish(gateway, *({"body": i, "group_id": "ab"[i % 2]} for i in range(4)), queue="f")
    told = explain(gateway, 2, queue="f")
    assert told == {"partition": 0, "offset": 2, "fate": "blocked", "failures": 0, "key": "a"}, told
    assert explain(gateway, 1, queue="f")["fate"] == "available"
    make(gateway, group=None)
    good(gateway.call("POST", f"{DMS}/queues/q/groups", {"groups": [{"name": "g"}]}), 201)
    publish(gateway, {"body": 0, "labels": ["red"]}, {"body": 1, "labels": ["blue"]}, {"body": 2, "expiry_ms": 1},
            {"body": 3, "labels": ["red"], "expiry_ms": 1})
    assert until(lambda: explain(gateway, 3)["fate"] == "expired")
    assert bodies(good(gateway.call("GET", f"{DMS}/queues/q/groups/g/messages?time_wait=1&tag=red"))) == [0]
    assert [explain(gateway, offset)["fate"] for offset in range(4)] == ["leased", "filtered", "filtered", "expired"]


def labels_of_a_group(gateway):
    """DMS: a group that asks for tags gets those alone, and goes on asking for them."""
    make(gateway, group=None)
    good(gateway.call("POST", f"{DMS}/queues/q/groups", {"groups": [{"name": "g"}, {"name": "h"}]}), 201)
    publish(gateway, *({"body": i, "labels": ["all", "odd" if i % 2 else "even"]} for i in range(20)))
    path = f"{DMS}/queues/q/groups/g/messages?time_wait=1"
    odd = good(gateway.call("GET", f"{path}&tag=odd&tag=nothing"))
    assert bodies(odd) == list(range(1, 20, 2)), bodies(odd)
    assert odd[0]["message"]["tags"] == ["all", "odd"]
    for other in ("", "&tag=even", "&tag=odd", "&tag=odd&tag=nothing&tag_type=and"):
        refused(gateway.call("GET", path + other), 400, 10542204)
    good(gateway.call("GET", f"{path}&tag=nothing&tag=odd"))
    assert len(good(gateway.call("GET", f"{DMS}/queues/q/groups/h/messages?time_wait=1"))) == 10
    add_group(gateway, "q", "i")
    both = good(gateway.call("GET", f"{DMS}/queues/q/groups/i/messages?time_wait=1&tag=odd&tag=all&tag_type=and"))
    assert bodies(both) == list(range(1, 20, 2))
    assert explain(gateway, 0, group="i")["fate"] == "filtered"


run(positions, bad_positions, redrives, redrive_while_consuming, explained, explained_by_the_record, labels_of_a_group)
