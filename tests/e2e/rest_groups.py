# SPDX-License-Identifier: Apache-2.0
"""What groups hand out: by selector, by message group in order; and queues that go away under them."""
import threading
import time

from gateway import exchange, run, until
from rest import DMS, V1, add_group, bodies, good, group_numbers, group_path, handlers, make, publish, refused, settle, take
from wire import Client


def selectors(gateway):
    """A consumer's selector leaves the rest for others."""
    make(gateway)
    publish(gateway, *({"body": i, "attributes": {"n": i, "colour": "red" if i % 3 == 0 else "blue"}} for i in range(30)))
    red = take(gateway, selector="colour = 'red'", max_msgs=100)
    assert bodies(red) == list(range(0, 30, 3)), bodies(red)
    assert take(gateway, selector="colour = 'red'", time_wait=0) == []
    few = take(gateway, selector="n IN (4, 5, 6) AND colour LIKE 'b%'")
    assert bodies(few) == [4, 5]
    rest = take(gateway, max_msgs=100)
    assert bodies(rest) == [i for i in range(30) if i % 3 and i not in (4, 5)]
    # What is given back is found again, by whom it suits.
    good(settle(gateway, "nack", handlers(red)))
    assert take(gateway, selector="colour = 'blue'", time_wait=0) == []
    assert bodies(take(gateway, selector="colour = 'red' AND n > 20")) == [21, 24, 27]
    # One that waits is served by what comes for it.
    found = []
    waiter = threading.Thread(target=lambda: found.extend(take(gateway, selector="n = 99", time_wait=20)))
    waiter.start()
    time.sleep(0.3)
    publish(gateway, {"body": "no", "attributes": {"n": 98}}, {"body": "yes", "attributes": {"n": 99}})
    waiter.join(10)
    assert bodies(found) == ["yes"], found


def group_selectors(gateway):
    """What a group's selector does not name is done for it: whoever takes, in whatever protocol, after a crash too."""
    make(gateway, group=None)
    add_group(gateway, "q", "red", selector="colour = 'red'")
    add_group(gateway, "q", "all")
    add_group(gateway, "q", "each", mode="broadcast", selector="n < 2")
    path = f"{V1}/queues/q/groups"
    for selector, words in (("colour =", "at 9"), ("(" * 70 + "TRUE" + ")" * 70, "deep"), ("a" * 5000, "longer"), (7, "text"),
                            (" OR ".join(f"n = {i} AND m{i} = 1" for i in range(70)), "names")):
        refused(gateway.call("POST", path, {"groups": [{"name": "x"}, {"name": "y", "selector": selector}]}), 400, 10240009, words)
        refused(gateway.call("PATCH", f"{path}/red", {"selector": selector}), 400, 10240009, words)
    refused(gateway.call("PATCH", f"{path}/red", {"start": "latest"}), 400, 10240009, "start")
    refused(gateway.call("PATCH", f"{path}/red", {}), 400, 10240009)
    refused(gateway.call("PATCH", f"{path}/none", {"selector": "TRUE"}), 404, 10240405)
    assert gateway.call("PATCH", f"{DMS}/queues/q/groups/red", {"selector": "TRUE"})[0] == 405
    shown = {one["name"]: one["selector"] for one in good(gateway.call("GET", path))["groups"]}
    assert shown == {"red": "colour = 'red'", "all": None, "each": "n < 2"}, shown
    colours = ("red", "blue", "green")
    publish(gateway, *({"body": i, "attributes": {"n": i, "colour": colours[i % 3]}} for i in range(12)))
    assert bodies(take(gateway, group="red", selector="n > 5")) == [6, 9]  # both hold
    gateway.kill9()
    gateway.restart()
    first = take(gateway, group="red", max_msgs=2)
    assert bodies(first) == [0, 3]
    good(settle(gateway, "ack", handlers(first), group="red"))
    explain = lambda offset: good(gateway.call("GET", group_path(group="red", tail=f"/explain?offset={offset}")))["fate"]
    assert [explain(offset) for offset in (0, 1, 6, 7)] == ["acknowledged", "filtered", "available", "filtered"]
    with Client(gateway.mqtt_port, 5).connect("m") as reader:
        reader.subscribe(("$share/red/$queue/q", 1))
        assert [reader.delivery().payload for _ in range(2)] == [b"6", b"9"]
    assert until(lambda: group_numbers(gateway, group="red")["available_messages"] == 0)
    changed = good(gateway.call("PATCH", f"{path}/red", {"selector": "colour = 'blue'"}))
    assert changed["selector"] == "colour = 'blue'" and changed["name"] == "red", changed
    publish(gateway, *({"body": 12 + i, "attributes": {"n": 12 + i, "colour": colours[i]}} for i in range(3)))
    gateway.kill9()
    gateway.restart()
    assert bodies(take(gateway, group="red")) == [13]  # what was passed over stays done
    assert len(take(gateway, group="all", max_msgs=100)) == 15
    assert bodies(take(gateway, group="each", consumer="ann")) == [0, 1]
    refused(gateway.call("PATCH", f"{path}/each%2Fann", {"selector": "TRUE"}), 400, 10240009, "broadcast")
    good(gateway.call("PATCH", f"{path}/each", {"selector": None}))
    publish(gateway, {"body": "new"})
    assert bodies(take(gateway, group="each", consumer="ann")) == ["new"]  # the rest was passed over
    assert len(take(gateway, group="each", consumer="ben", max_msgs=100)) == 16
    shown = {one["name"]: one["selector"] for one in good(gateway.call("GET", path))["groups"]}
    assert shown["each"] is None and shown["each/ann"] is None, shown


def many_selectors(gateway):
    """More different selectors at once than a group may have: refused or served, never stuck."""
    make(gateway)
    publish(gateway, *({"body": i, "attributes": {"n": i}} for i in range(300)))
    answers = []

    def one(number):
        answers.append(gateway.call("GET", group_path(tail=f"/messages?time_wait=20&selector=n%20%3D%20{number}")))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 300
    served = [answer for answer in answers if answer[0] == 200]
    assert len(served) >= 16 and all(answer[0] in (200, 429) for answer in answers), [a for a in answers if a[0] not in (200, 429)]
    got = [item["message"]["body"] for answer in served for item in answer[1]]
    assert len(got) == len(set(got)) == len(served), (len(got), len(served))


def fifo(gateway):
    """Global order: what was taken and not settled holds back all that follows. Groups: only those of the same."""
    make(gateway, queue_mode="FIFO")
    publish(gateway, *range(20))
    first = take(gateway, base=DMS)
    assert bodies(first) == list(range(10))
    assert take(gateway, base=DMS) == []
    path = f"{DMS}/queues/q/groups/g/ack"
    entries = [{"handler": handler, "status": "success" if i < 4 else "fail"} for i, handler in enumerate(handlers(first))]
    assert gateway.call("POST", path, {"message": entries}) == (200, {"success": 4, "fail": 6})
    again = take(gateway, base=DMS)
    assert bodies(again) == list(range(4, 14)), bodies(again)
    assert good(settle(gateway, "ack", handlers(again)))["fail"] == 0
    assert bodies(take(gateway)) == list(range(14, 20))
    make(gateway, "g", queue_mode="FIFO")
    publish(gateway, *({"body": f"{group}{i}", "group_id": group} for i in range(3) for group in "ab"), queue="g")
    one = take(gateway, "g", max_msgs=1)
    assert bodies(one) == ["a0"]
    others = take(gateway, "g")
    assert bodies(others) == ["b0", "b1", "b2"], bodies(others)
    assert settle(gateway, "nack", handlers(one), queue="g")[0] == 200
    assert bodies(take(gateway, "g")) == ["a0", "a1", "a2"]


def broadcast(gateway):
    """Every consumer gets every message, under leases of its own, and goes on where it was after a crash."""
    make(gateway, group=None, partitions=2, redrive_policy="enable", max_consume_count=1)
    add_group(gateway, "q", "all", mode="broadcast")
    add_group(gateway, "q", "new", mode="broadcast", start="latest")
    publish(gateway, *({"body": i, "key": str(i)} for i in range(20)))

    def everything(consumer, group="all", count=20):
        items = []
        while len(items) < count:
            more = take(gateway, group=group, consumer=consumer, max_msgs=20, time_wait=3)
            assert more, (consumer, bodies(items))
            items += more
        return items

    assert take(gateway, group="new", consumer="late", time_wait=0) == []
    got = {name: everything(name) for name in ("ann", "ben")}
    for items in got.values():
        assert sorted(bodies(items)) == list(range(20))
    assert take(gateway, group="all", consumer="ann", time_wait=0) == []
    for name, fine in (("ann", 20), ("ben", 5)):
        answer = good(settle(gateway, "ack", handlers(got[name])[:fine], group="all"))
        assert answer["success"] == fine, answer
    # Receipts of two consumers in one call: those of the first are settled.
    mixed = [got["ben"][5]["handler"], got["ann"][0]["handler"]]
    assert settle(gateway, "ack", mixed, group="all")[1]["success"] == 1
    refused(gateway.call("GET", group_path(group="all", tail="/messages?time_wait=0")), 400, 10540014, "consumer")
    refused(gateway.call("GET", group_path(group="all", tail="/messages?time_wait=0&consumer=a%2Fb")), 400, 10540014, "consumer")
    refused(gateway.call("POST", group_path(group="all", tail="/seek"), {"to": "earliest"}), 400, 10540010)
    gateway.kill9()
    gateway.restart()
    assert sorted(bodies(everything("ben", count=14))) == sorted(bodies(got["ben"])[6:])
    assert take(gateway, group="all", consumer="ann", time_wait=0) == []
    publish(gateway, {"body": 20, "key": "x"})
    assert bodies(everything("ann", count=1)) == bodies(everything("late", group="new", count=1)) == [20]
    # What a consumer rejects is its own dead letter; it stands elsewhere when it seeks.
    again = everything("cid", count=21)
    good(settle(gateway, "reject", handlers(again)[:1], group="all"))
    assert bodies(take(gateway, group="all%2Fcid", dead="true", time_wait=5)) == bodies(again)[:1]
    listed = {one["name"]: one["mode"] for one in good(gateway.call("GET", f"{V1}/queues/q/groups"))["groups"]}
    assert listed == {"all": "broadcast", "new": "broadcast", "all/ann": "consumer", "all/ben": "consumer",
                      "all/cid": "consumer", "new/late": "consumer"}, listed
    assert [one["name"] for one in good(gateway.call("GET", f"{DMS}/queues/q/groups"))["groups"]] == ["all", "new"]
    assert gateway.call("DELETE", group_path(group="all%2Fben"))[0] == 204
    assert sorted(bodies(everything("ben", count=21))) == list(range(21))      # it is new again
    assert gateway.call("DELETE", group_path(group="all"))[0] == 204
    gateway.kill9()
    gateway.restart()
    listed = [one["name"] for one in good(gateway.call("GET", f"{V1}/queues/q/groups"))["groups"]]
    assert listed == ["new", "new/late"], listed


def broadcast_at_once(gateway):
    """The same new consumer from many connections at the same moment is one."""
    make(gateway, group=None)
    add_group(gateway, "q", "g", mode="broadcast")
    publish(gateway, *range(200))
    got, lock = [], threading.Lock()

    def consume(name):
        while items := take(gateway, consumer=name, max_msgs=7, time_wait=1):
            with lock:
                got.extend((name, body) for body in bodies(items))
            good(settle(gateway, "ack", handlers(items)))

    threads = [threading.Thread(target=consume, args=(name,)) for name in ("a", "b") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [(name, body) for name in ("a", "b") for body in range(200)], len(got)


def consumers_that_stay_away(gateway):
    """A consumer that has not come for long goes when retention has removed what it had not done; nobody else does."""
    make(gateway, group=None, max_records=10)
    add_group(gateway, "q", "all", mode="broadcast", consumer_idle_ms=400)
    add_group(gateway, "q", "patient", mode="broadcast")
    path = f"{V1}/queues/q/groups"
    for wrong in (-1, "1h", 315360000001):
        refused(gateway.call("PATCH", f"{path}/all", {"consumer_idle_ms": wrong}), 400, 10240009, "consumer_idle_ms")
    refused(gateway.call("POST", path, {"groups": [{"name": "x", "consumer_idle_ms": 5}]}), 400, 10240012, "broadcast")

    def listed():
        return {one["name"]: one for one in good(gateway.call("GET", path))["groups"]}

    assert (listed()["all"]["consumer_idle_ms"], listed()["patient"]["consumer_idle_ms"]) == (400, 604800000)
    publish(gateway, *range(5))
    for group, consumer in (("all", "gone"), ("all", "done"), ("patient", "gone")):
        items = take(gateway, group=group, consumer=consumer, time_wait=5)
        assert len(items) == 5
        if consumer == "done":
            good(settle(gateway, "ack", handlers(items), group=group))
    shown = listed()["all/gone"]
    assert abs(shown["taken"] - time.time() * 1000) < 20000 and shown["overtaken"] is False, shown
    time.sleep(0.6)
    assert {"all/gone", "all/done"} <= set(listed())        # all that it is owed is there
    gateway.kill9()
    gateway.restart()
    publish(gateway, *range(20))
    assert until(lambda: "all/gone" not in listed())
    assert until(lambda: publish(gateway, "more") and listed()["patient/gone"]["overtaken"])
    good(gateway.call("PATCH", f"{path}/patient", {"consumer_idle_ms": 300}))
    assert until(lambda: "patient/gone" not in listed())
    # It is new again when it comes.
    publish(gateway, *range(10))
    assert bodies(take(gateway, group="all", consumer="gone", max_msgs=100, time_wait=5))[-10:] == list(range(10))


def deleted_under_load(gateway):
    """Publishers, consumers and waiters of a queue that goes: each is told, none hangs, nothing crashes."""
    stop = threading.Event()
    seen, lock = set(), threading.Lock()

    def told(status):
        with lock:
            seen.add(status)

    def publisher():
        link = gateway.connect()
        while not stop.is_set():
            told(exchange(link, "POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x"}] * 20})[0])

    def consumer():
        link = gateway.connect()
        while not stop.is_set():
            status, items = exchange(link, "GET", group_path(tail="/messages?max_msgs=50&time_wait=5&selector=TRUE"))
            told(status)
            if status == 200 and items:
                status, answer = exchange(link, "POST", group_path(tail="/ack"), {"receipts": handlers(items)})
                of_the_one_before = status == 400 and answer["code"] == 10542209  # there is another of that name by now
                told(404 if of_the_one_before else status)

    def searcher():
        link = gateway.connect()
        while not stop.is_set():
            told(exchange(link, "GET", f"{V1}/queues/q/records?selector=body%20%3D%201&limit=1000")[0])

    threads = [threading.Thread(target=target) for target in (publisher, publisher, consumer, consumer, searcher)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        make(gateway)
        time.sleep(0.3)
        assert gateway.call("DELETE", f"{V1}/queues/q") == (204, None)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert {200, 201, 404} <= seen <= {200, 201, 404, 429}, seen
    make(gateway)
    publish(gateway, "alone")
    assert bodies(take(gateway)) == ["alone"]


run(selectors, group_selectors, many_selectors, fifo, broadcast, broadcast_at_once, consumers_that_stay_away, deleted_under_load)
