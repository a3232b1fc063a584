# SPDX-License-Identifier: Apache-2.0
"""Dead letters: what fails too often or is rejected goes there, is looked at, consumed and acknowledged; and receipts of
every kind that do not count."""
import time

import standstill
from gateway import run, until
from rest import (DMS, V1, add_group, bodies, good, group_numbers, group_path, handlers, make, publish, refused, settle, take)
from standstill import needs_pace


def fail(gateway, times, **query):
    """Everything there is fails so many times."""
    for _ in range(times):
        items = take(gateway, **query)
        assert items
        good(settle(gateway, "nack", handlers(items)))


def deadletters(gateway, query="time_wait=1", base=DMS):
    return good(gateway.call("GET", f"{base}/queues/q/groups/g/deadletters?{query}"))


def dms_dead_letters(gateway):
    make(gateway, group=None, redrive_policy="enable", max_consume_count=2)
    good(gateway.call("POST", f"{DMS}/queues/q/groups", {"groups": [{"name": "g"}, {"name": "other"}]}), 201)
    path = f"{DMS}/queues/q/groups/g"
    good(gateway.call("POST", f"{DMS}/queues/q/messages", {"messages": [{"body": str(i), "tags": ["t"]} for i in range(3)]}), 201)
    for count in (None, 1):
        items = take(gateway, base=DMS)
        assert bodies(items) == ["0", "1", "2"] and items[0]["message"].get("delivery_count") == count, items
        entries = [{"handler": handler, "status": "fail"} for handler in handlers(items)]
        assert gateway.call("POST", f"{path}/ack", {"message": entries}) == (200, {"success": 0, "fail": 3})
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 3), group_numbers(gateway)
    numbers = group_numbers(gateway)
    assert (numbers["produced_deadletters"], numbers["available_messages"]) == (3, 0), numbers
    assert group_numbers(gateway, group="other")["available_deadletters"] == 0
    assert take(gateway, base=DMS) == []
    assert len(take(gateway, group="other", base=DMS)) == 3
    dead = deadletters(gateway)
    assert bodies(dead) == ["0", "1", "2"] and dead[0]["message"]["tags"] == ["t"], dead
    told = dead[1]["message"]["attributes"]
    assert told["dead-letter-reason"] == "failures" and told["dead-letter-queue"] == "q" and told["dead-letter-group"] == "g"
    assert told["dead-letter-offset"] == "1" and told["dead-letter-count"] == "2", told
    assert abs(int(told["dead-letter-time"]) / 1000 - time.time()) < 60
    assert deadletters(gateway) == []       # leased
    entries = [{"handler": handler, "status": status} for handler, status in zip(handlers(dead), ("success", "success", "fail"))]
    refused(gateway.call("POST", f"{path}/ack", {"message": entries}), 400, 10542209)   # they are not the queue's
    assert gateway.call("POST", f"{path}/deadletters/ack", {"message": entries}) == (200, {"success": 2, "fail": 1})
    refused(gateway.call("POST", f"{path}/deadletters/ack", {"message": entries}), 400, 10542209)
    again = deadletters(gateway)
    assert bodies(again) == ["2"], again
    gateway.kill9()
    gateway.restart()
    assert bodies(deadletters(gateway)) == ["2"]
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 1)
    for query, code in (("max_msgs=11", 10240014), ("time_wait=0", 10240021), ("ack_wait=1", 10542206)):
        refused(gateway.call("GET", f"{path}/deadletters?{query}"), 400, code)
    refused(gateway.call("GET", f"{DMS}/queues/q/groups/none/deadletters"), 404, 10240405)


def no_policy_no_dead_letters(gateway):
    make(gateway)
    publish(gateway, "x")
    fail(gateway, 5)
    assert take(gateway)[0]["message"]["delivery_count"] == 5
    assert deadletters(gateway) == []


def rejected(gateway):
    make(gateway, redrive_policy="enable", max_consume_count=10)
    publish(gateway, "bad", "good", {"body": "worse", "labels": ["l"]})
    items = take(gateway)
    assert settle(gateway, "reject", [handlers(items)[0], handlers(items)[2]]) == (200, {"stale": [], "success": 2, "fail": 0})
    refused(settle(gateway, "reject", handlers(items)[:1]), 400, 10542209)
    assert until(lambda: group_numbers(gateway)["available_deadletters"] == 2)
    # Looked at without a lease, by label too.
    listed = good(gateway.call("GET", group_path(tail="/deadletters")))
    assert [record["body"] for record in listed["records"]] == ["bad", "worse"] and listed["end"] == 2, listed
    assert listed["records"][0]["attributes"]["dead-letter-reason"] == "rejected"
    some = good(gateway.call("GET", group_path(tail="/deadletters?label=l")))["records"]
    assert [record["body"] for record in some] == ["worse"] and some[0]["offset"] == 1
    assert len(good(gateway.call("GET", group_path(tail="/deadletters?offset=1")))["records"]) == 1
    # Ours takes them with dead=true, and settles them with the same calls.
    dead = take(gateway, dead="true")
    assert bodies(dead) == ["bad", "worse"]
    assert settle(gateway, "ack", handlers(dead)[:1])[0] == 200
    assert settle(gateway, "nack", handlers(dead)[1:])[0] == 200
    assert bodies(take(gateway, dead="true")) == ["worse"]
    assert settle(gateway, "ack", handlers(items)[1:2])[0] == 200
    # Where none are kept, what is rejected is done.
    make(gateway, "plain")
    publish(gateway, "x", queue="plain")
    assert settle(gateway, "reject", handlers(take(gateway, "plain")), queue="plain")[0] == 200
    assert take(gateway, "plain") == []


@needs_pace
def later(gateway):
    """A nack with a delay: not before, and soon after; also when the gateway was away meanwhile."""
    make(gateway)
    publish(gateway, "a", "b")
    items = take(gateway)
    started = time.monotonic()
    assert settle(gateway, "nack", handlers(items)[:1], delay_ms=1500) == (200, {"stale": [], "success": 1, "fail": 0})
    assert settle(gateway, "nack", handlers(items)[1:])[0] == 200
    assert bodies(take(gateway)) == ["b"]
    found = take(gateway, time_wait=10)
    assert bodies(found) == ["a"] and time.monotonic() - started >= 1.5 and standstill.spent(started) < 5
    assert found[0]["message"]["delivery_count"] == 1
    due = time.time() + 4
    assert settle(gateway, "nack", handlers(found), delay_ms=4000)[0] == 200
    gateway.kill9()
    gateway.restart()
    assert bodies(take(gateway)) == ["b"]       # its lease went with the gateway
    assert bodies(take(gateway, time_wait=20)) == ["a"] and time.time() >= due
    for delay in (-1, 604800001, "5", 1.5, True):
        refused(settle(gateway, "nack", ["x"], delay_ms=delay), 400, 10540010)


def longer(gateway):
    """A lease that is renewed lasts; one that is not does not."""
    make(gateway)
    publish(gateway, "kept", "lost")
    items = take(gateway, ack_wait=15)
    time.sleep(8)
    assert settle(gateway, "leases", handlers(items)[:1], seconds=20) == (200, {"stale": [], "success": 1, "fail": 0})
    found = take(gateway, time_wait=12)
    assert bodies(found) == ["lost"], found
    assert settle(gateway, "leases", handlers(items)) == (200, {"stale": [1], "success": 1, "fail": 1})
    assert settle(gateway, "ack", handlers(items)) == (200, {"stale": [1], "success": 1, "fail": 1})
    refused(settle(gateway, "leases", handlers(items)), 400, 10542209)
    for seconds in (14, 301, "30", -1):
        refused(settle(gateway, "leases", handlers(found), seconds=seconds), 400, 10540010)


def receipts(gateway):
    """Unknown, foreign, stale, repeated: refused, and nothing else is touched."""
    make(gateway)
    add_group(gateway, "q", "h")
    publish(gateway, *"abcd")
    mine, theirs = handlers(take(gateway)), handlers(take(gateway, group="h"))
    for verb in ("ack", "nack", "reject", "leases"):
        refused(settle(gateway, verb, [theirs[0]]), 400, 10542209, "entry 0")
        refused(settle(gateway, verb, [mine[0], "nonsense"]), 400, 10542209, "entry 1")
        refused(settle(gateway, verb, [mine[0], 5]), 400, 10542209)
        refused(settle(gateway, verb, [mine[0][:-1]]), 400, 10542209)
        refused(settle(gateway, verb, [mine[0][:-1] + ("A" if mine[0][-1] != "A" else "B")]), 400, 10542209)
        refused(settle(gateway, verb, []), 400, 10540010)
        refused(settle(gateway, verb, "x"), 400, 10540010)
        refused(settle(gateway, verb, None), 400, 10540010)
        refused(settle(gateway, verb, ["x"] * 1001), 400, 10540010)
        refused(settle(gateway, verb, mine, queue="none"), 404, 10240401)
        refused(settle(gateway, verb, mine, group="none"), 404, 10240405)
    assert settle(gateway, "ack", [mine[0], mine[0], mine[1]]) == (200, {"stale": [1], "success": 2, "fail": 1})
    assert settle(gateway, "ack", mine) == (200, {"stale": [0, 1], "success": 2, "fail": 2})
    assert settle(gateway, "ack", theirs, group="h") == (200, {"stale": [], "success": 4, "fail": 0})
    # Receipts of a group that was made anew under the same name are foreign too.
    publish(gateway, "e")
    old = handlers(take(gateway))
    assert gateway.call("DELETE", group_path()) == (204, None)
    add_group(gateway, "q", "g")
    refused(settle(gateway, "ack", old), 400, 10542209)


def acknowledged_by_the_hundred_thousand(gateway):
    """A hundred thousand leases out at once, acknowledged a thousand a call, in no order; memory does not follow."""
    make(gateway)
    count, body = 100000, "x" * 100
    for _ in range(count // 1000):
        publish(gateway, *([body] * 1000))
    out = []
    while len(out) < count:
        items = take(gateway, max_msgs=1000, ack_wait=300)
        assert items, len(out)
        out += handlers(items)
    assert len(set(out)) == count and take(gateway) == []

    def resident_kb():
        with open(f"/proc/{gateway.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    before = resident_kb()
    calls = [out[start::count // 1000] for start in range(count // 1000)]
    started = time.monotonic()
    for call in calls:
        assert settle(gateway, "ack", call) == (200, {"stale": [], "success": 1000, "fail": 0})
    spent = time.monotonic() - started
    for call in calls[:5]:
        refused(settle(gateway, "ack", call), 400, 10542209)
    assert resident_kb() - before < 64 * 1024, (before, resident_kb())
    numbers = group_numbers(gateway)
    assert (numbers["available_messages"], numbers["consumed_messages"], numbers["in_flight"]) == (0, count, 0), numbers
    print(f"     {count} acknowledged in {spent:.1f} s")
    gateway.kill9()
    gateway.restart()
    assert take(gateway) == []


run(dms_dead_letters, no_policy_no_dead_letters, rejected, later, longer, receipts, acknowledged_by_the_hundred_thousand)
