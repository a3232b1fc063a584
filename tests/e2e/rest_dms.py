# SPDX-License-Identifier: Apache-2.0
"""The calls of the Distributed Message Service: queues, groups, messages, with their answers and refusals."""
import threading
import time
import uuid

import standstill
from gateway import exchange, run

BASE = "/v1.0/default"


def refused(answer, status, code):
    got, body = answer
    assert got == status, answer
    assert set(body) == {"code", "message", "error_code", "error_msg"}, body
    assert body["code"] == code, body
    assert body["error_code"] == f"DMS.{code}" and body["error_msg"] == body["message"], body


def make(gateway, name="orders", group="workers", base=BASE, **fields):
    status, queue = gateway.call("POST", f"{base}/queues", {"name": name, **fields})
    assert status == 201, queue
    status, groups = gateway.call("POST", f"{base}/queues/{queue['id']}/groups", {"groups": [{"name": group}]})
    assert status == 201, groups
    return queue["id"], groups["groups"][0]["id"]


def send(gateway, queue, *messages, **fields):
    status, body = gateway.call("POST", f"{BASE}/queues/{queue}/messages", {"messages": list(messages), **fields})
    assert status == 201, body
    return body["messages"]


def consume(gateway, queue, group, query="time_wait=1"):
    status, body = gateway.call("GET", f"{BASE}/queues/{queue}/groups/{group}/messages?{query}")
    assert status == 200, body
    return body


def ack(gateway, queue, group, entries):
    return gateway.call("POST", f"{BASE}/queues/{queue}/groups/{group}/ack", {"message": entries})


def queues(gateway):
    for base in (BASE, "/v2/default"):
        status, made = gateway.call("POST", f"{base}/queues", {"name": "queue_001", "description": "first"})
        assert status == 201 and set(made) == {"id", "name"} and made["name"] == "queue_001", made
        assert str(uuid.UUID(made["id"])) == made["id"]
        refused(gateway.call("POST", f"{base}/queues", {"name": "queue_001"}), 400, 10240017)
        status, shown = gateway.call("GET", f"{base}/queues/{made['id']}")
        assert status == 200
        assert shown["name"] == "queue_001" and shown["description"] == "first" and shown["queue_mode"] == "NORMAL"
        assert shown["reservation"] == 4320 and shown["max_msg_size_byte"] == 524288
        assert shown["produced_messages"] == 0 and shown["group_count"] == 0
        assert abs(shown["created"] / 1000 - time.time()) < 60 and shown["eff_date"] == shown["created"]
        assert "redrive_policy" not in shown
        status, listed = gateway.call("GET", f"{base}/queues")
        assert status == 200 and listed["total"] == 2 == len(listed["queues"]), listed
        assert {queue["name"] for queue in listed["queues"]} == {"mqtt", "queue_001"}
        assert gateway.call("DELETE", f"{base}/queues/{made['id']}") == (204, None)
        refused(gateway.call("GET", f"{base}/queues/{made['id']}"), 404, 10240401)
        refused(gateway.call("DELETE", f"{base}/queues/{made['id']}"), 404, 10240401)


def queue_modes(gateway):
    for mode, reservation in (("NORMAL", 4320), ("FIFO", 4320), ("KAFKA_HA", 2160), ("KAFKA_HT", 2160)):
        fields = {"name": f"q-{mode}", "queue_mode": mode}
        if mode.startswith("KAFKA"):
            fields["retention_hours"] = 36
        status, made = gateway.call("POST", f"{BASE}/queues", fields)
        assert status == 201, made
        assert ("kafka_topic" in made) == mode.startswith("KAFKA"), made
        shown = gateway.call("GET", f"{BASE}/queues/{made['id']}")[1]
        assert shown["queue_mode"] == mode and shown["reservation"] == reservation, shown
    status, made = gateway.call("POST", f"{BASE}/queues", {
        "name": "dead", "redrive_policy": "enable", "max_consume_count": 7})
    for flag in ("true", "True", "TRUE"):
        shown = gateway.call("GET", f"{BASE}/queues/{made['id']}?include_deadletter={flag}")[1]
        assert shown["redrive_policy"] == "enable" and shown["max_consume_count"] == 7, shown
    listed = gateway.call("GET", f"{BASE}/queues?include_deadletter=True")[1]["queues"]
    assert all("redrive_policy" in queue for queue in listed)


def queue_refusals(gateway):
    cases = [
        ({}, 10240011), ({"name": ""}, 10240011), ({"name": "x" * 65}, 10240011), ({"name": 7}, 10240011),
        ({"name": "a b"}, 10240007), ({"name": "a/b"}, 10240007), ({"name": "a.b"}, 10240007),
        ({"name": "grün"}, 10240007),
        ({"name": "a", "description": "x" * 161}, 10240013), ({"name": "a", "description": "<b>"}, 10240010),
        ({"name": "a", "queue_mode": "STRANGE"}, 10240009), ({"name": "a", "queue_mode": 1}, 10240009),
        ({"name": "a", "redrive_policy": "maybe"}, 10240009),
        ({"name": "a", "redrive_policy": "enable"}, 10240022),
        ({"name": "a", "redrive_policy": "enable", "max_consume_count": 101}, 10240022),
        ({"name": "a", "redrive_policy": "enable", "max_consume_count": "3"}, 10240022),
        ({"name": "a", "queue_mode": "KAFKA_HA", "retention_hours": 73}, 10240027),
        ({"name": "a", "queue_mode": "KAFKA_HA", "retention_hours": 0}, 10240027),
        ({"name": "a", "queue_mode": "KAFKA_HA", "retention_hours": 1.5}, 10240027),
        ({"name": "a", "retention_hours": 10}, 10240028),
    ]
    for body, code in cases:
        refused(gateway.call("POST", f"{BASE}/queues", body), 400, code)
    refused(gateway.call("POST", f"{BASE}/queues", b"{"), 400, 10240009)
    refused(gateway.call("POST", f"{BASE}/queues", b"[]"), 400, 10240009)
    refused(gateway.call("POST", f"{BASE}/queues"), 400, 10240009)
    refused(gateway.call("GET", f"{BASE}/queues/{uuid.uuid4()}"), 404, 10240401)
    refused(gateway.call("GET", f"{BASE}/queues/no%20uuid%20at%20all"), 400, 10240015)
    refused(gateway.call("GET", "/v1.0/other/queues"), 401, 10240104)
    refused(gateway.call("GET", f"{BASE}/nothing"), 404, 10240406)
    refused(gateway.call("PUT", f"{BASE}/queues", {}), 405, 10240406)
    mqtt = next(q for q in gateway.call("GET", f"{BASE}/queues")[1]["queues"] if q["name"] == "mqtt")
    refused(gateway.call("DELETE", f"{BASE}/queues/{mqtt['id']}"), 403, 10240309)


def groups(gateway):
    queue, first = make(gateway)
    assert first.startswith("g-") and str(uuid.UUID(first[2:])) == first[2:]
    path = f"{BASE}/queues/{queue}/groups"
    refused(gateway.call("POST", path, {"groups": [{"name": "workers"}]}), 400, 10240018)
    refused(gateway.call("POST", path, {"groups": [{"name": "x" * 33}]}), 400, 10240012)
    refused(gateway.call("POST", path, {"groups": [{"name": "a b"}]}), 400, 10240007)
    refused(gateway.call("POST", path, {"groups": [{"name": "b"}, {"name": "b"}]}), 400, 10240018)
    refused(gateway.call("POST", path, {"groups": []}), 400, 10240009)
    refused(gateway.call("POST", path, {"groups": [{"name": n} for n in "abcd"]}), 400, 10240019)
    status, made = gateway.call("POST", path, {"groups": [{"name": "b"}, {"name": "c"}]})
    assert status == 201 and [group["name"] for group in made["groups"]] == ["b", "c"], made
    refused(gateway.call("POST", path, {"groups": [{"name": "d"}]}), 400, 10240019)
    send(gateway, queue, {"body": "one"}, {"body": "two"})
    items = consume(gateway, queue, first, "max_msgs=1&time_wait=1")
    assert ack(gateway, queue, first, [{"handler": items[0]["handler"]}]) == (200, {"success": 1, "fail": 0})
    status, listed = gateway.call("GET", path)
    assert status == 200 and listed["queue_id"] == queue and listed["queue_name"] == "orders"
    numbers = {g["name"]: (g["produced_messages"], g["consumed_messages"], g["available_messages"])
               for g in listed["groups"]}
    assert numbers == {"workers": (2, 1, 1), "b": (2, 0, 2), "c": (2, 0, 2)}, numbers
    assert "produced_deadletters" not in listed["groups"][0]
    listed = gateway.call("GET", f"{path}?include_deadletter=True&include_messages_num=false")[1]
    assert listed["redrive_policy"] == "disable"
    assert all(g["produced_messages"] == 0 == g["produced_deadletters"] for g in listed["groups"])
    page = gateway.call("GET", f"{path}?page_size=2&current_page=2")[1]["groups"]
    assert [g["name"] for g in page] == ["c"], page
    assert gateway.call("GET", f"{path}?page_size=2&current_page=9")[1]["groups"] == []
    assert len(gateway.call("GET", f"{path}?page_size=2")[1]["groups"]) == 3
    assert gateway.call("DELETE", f"{path}/{first}") == (204, None)
    refused(gateway.call("DELETE", f"{path}/{first}"), 404, 10240405)
    refused(gateway.call("GET", f"{path}/{first}/messages"), 404, 10240405)
    refused(gateway.call("GET", f"{path}/what%20is%20this/messages"), 400, 10240016)


def messages(gateway):
    queue, group = make(gateway)
    bodies = ["text", "", "ünïcode \u0001 \"quoted\" \\ \U0001f600", {"a": [1, 2.5, None, True]}, [1, 2], 17, False,
              {"deep": {"er": "x" * 1000}}]
    results = send(gateway, queue, *({"body": body} for body in bodies), returnId=True)
    assert all(r["state"] == 0 and r["error"] is None and r["error_code"] is None and r["id"] for r in results)
    assert len({r["id"] for r in results}) == len(bodies)
    items = consume(gateway, queue, group)
    assert [item["message"]["body"] for item in items] == bodies, items
    assert all(set(item) == {"message", "handler"} for item in items)
    assert consume(gateway, queue, group) == []          # leased: nobody gets them again
    status, settled = ack(gateway, queue, group,
                          [{"handler": item["handler"], "status": "success"} for item in items])
    assert (status, settled) == (200, {"success": len(bodies), "fail": 0})
    assert consume(gateway, queue, group) == []
    # null has no body: an absent one is refused, null is a value
    assert send(gateway, queue, {"body": None})[0]["state"] == 0
    item = consume(gateway, queue, group)[0]
    assert item["message"]["body"] is None


def attributes(gateway):
    queue, group = make(gateway)
    sent = {"text": "v", "number": 17, "real": 2.5, "yes": True, "no": False, "nothing": None, "empty": "",
            "list": ["a", "b"], "mixed": [1, "1", True], "umlaut-ü": "ß", "bytes": {"base64": "AP8="},
            "content-type": "text/x-own", "correlation-id": "c-1", "reply-to": "answers", "key": "k1"}
    send(gateway, queue, {"body": "b", "attributes": sent})
    shown = consume(gateway, queue, group)[0]["message"]["attributes"]
    assert shown == sent, shown
    send(gateway, queue, {"body": "b"})
    assert consume(gateway, queue, group)[0]["message"]["attributes"] == {}
    # An object has no form of its own among headers.
    send(gateway, queue, {"body": "b", "attributes": {"object": {"a": 1}}})
    assert consume(gateway, queue, group)[0]["message"]["attributes"] == {"object": '{"a":1}'}


def expiry(gateway):
    queue, group = make(gateway)
    now = int(time.time() * 1000)
    send(gateway, queue, {"body": "gone", "attributes": {"expires-at": now - 1000}},
         {"body": "here", "attributes": {"expires-at": str(now + 60000)}})
    items = consume(gateway, queue, group)
    assert [item["message"]["body"] for item in items] == ["here"], items
    assert items[0]["message"]["attributes"]["expires-at"] == str(now + 60000)


def message_refusals(gateway):
    queue, group = make(gateway)
    stream, _ = make(gateway, "stream", queue_mode="KAFKA_HA")
    path = f"{BASE}/queues/{queue}/messages"

    def one(message):
        return gateway.call("POST", path, {"messages": [message]})

    refused(gateway.call("POST", path, b'{"messages":[{"body":"x"'), 400, 10540012)
    refused(gateway.call("POST", path, b'"text"'), 400, 10540012)
    refused(gateway.call("POST", path, b'{"messages":[{"body":"\xff\xfe"}]}'), 400, 10540012)
    refused(gateway.call("POST", path, b"[" * 100000), 400, 10540012)
    refused(gateway.call("POST", path, {}), 400, 10540010)
    refused(gateway.call("POST", path, {"messages": {}}), 400, 10540010)
    refused(gateway.call("POST", path, {"messages": []}), 400, 10540010)
    refused(gateway.call("POST", path, {"messages": [{"body": "x"}] * 11}), 400, 10540010)
    refused(one({}), 400, 10540001)
    refused(one("text"), 400, 10540001)
    refused(one({"body": "x", "attributes": []}), 400, 10540001)
    refused(one({"body": "x", "attributes": {"": "x"}}), 400, 10540001)
    refused(one({"body": "x", "attributes": {"publisher": "x"}}), 400, 10540001)
    refused(one({"body": "x", "attributes": {"publisher": "x"}}), 400, 10540001)
    refused(one({"body": "x", "attributes": {"expires-at": "soon"}}), 400, 10540001)
    refused(one({"body": "x", "attributes": {str(i): "x" for i in range(300)}}), 400, 10540001)
    refused(one({"body": "x" * 524289}), 400, 10540011)
    refused(gateway.call("POST", path, {"messages": [{"body": "x" * 100000}] * 6}), 400, 10540011)
    assert one({"body": "x" * 524288})[0] == 201
    refused(one({"body": "x", "delay_time": -1}), 400, 10540001)
    refused(gateway.call("POST", f"{BASE}/queues/{stream}/messages",
                         {"messages": [{"body": "x", "delayTime": 5000}]}), 400, 10540010)
    assert one({"body": "x", "tags": [], "delayTime": 0})[0] == 201
    consume_path = f"{BASE}/queues/{queue}/groups/{group}/messages"
    for query, code in (("max_msgs=0", 10240014), ("max_msgs=11", 10240014), ("max_msgs=x", 10240014),
                        ("time_wait=0", 10240021), ("time_wait=61", 10240021), ("time_wait=-1", 10240021),
                        ("ack_wait=14", 10542206), ("ack_wait=301", 10542206)):
        refused(gateway.call("GET", f"{consume_path}?{query}"), 400, code)
    assert gateway.call("GET", f"{consume_path}?max_msgs=&time_wait=1&ack_wait=")[0] == 200


def consume_bytes(gateway):
    """No more than 512 KB in one answer, but always at least one message."""
    queue, group = make(gateway)
    for _ in range(3):
        send(gateway, queue, {"body": "x" * 300000})
    assert len(consume(gateway, queue, group)) == 1
    assert len(consume(gateway, queue, group)) == 1


def acknowledge(gateway):
    queue, group = make(gateway)
    send(gateway, queue, *({"body": str(i)} for i in range(6)))
    items = consume(gateway, queue, group)
    handlers = [item["handler"] for item in items]
    # In order up to the first failed one; the rest fails with it.
    status, settled = ack(gateway, queue, group, [
        {"handler": handlers[0], "status": "success"}, {"handler": handlers[1]},
        {"handler": handlers[2], "status": "fail"}, {"handler": handlers[3], "status": "success"}])
    assert (status, settled) == (200, {"success": 2, "fail": 2}), settled
    again = consume(gateway, queue, group)
    assert sorted(item["message"]["body"] for item in again) == ["2", "3"], again
    assert all(item["message"]["delivery_count"] == 1 for item in again)
    refused(ack(gateway, queue, group, [{"handler": handlers[0]}]), 400, 10542209)       # twice
    refused(ack(gateway, queue, group, [{"handler": handlers[2]}]), 400, 10542209)       # an earlier hand-out
    refused(ack(gateway, queue, group, [{"handler": "nonsense"}]), 400, 10542209)
    refused(ack(gateway, queue, group, [{"handler": 7}]), 400, 10542209)
    refused(ack(gateway, queue, group, [{"status": "success"}]), 400, 10542209)
    refused(ack(gateway, queue, group, [{"handler": handlers[4], "status": "reject"}]), 400, 10540003)
    refused(ack(gateway, queue, group, []), 400, 10540010)
    refused(gateway.call("POST", f"{BASE}/queues/{queue}/groups/{group}/ack", b"?"), 400, 10540012)
    other, other_group = make(gateway, "other")
    refused(ack(gateway, other, other_group, [{"handler": handlers[4]}]), 400, 10542209)
    # One that is stale ends what counts: the rest has failed, and comes again.
    assert ack(gateway, queue, group, [{"handler": handlers[4]}, {"handler": handlers[0]}, {"handler": handlers[5]}]) == \
        (200, {"success": 1, "fail": 2})
    again = {item["message"]["body"]: item for item in consume(gateway, queue, group)}
    assert list(again) == ["5"] and again["5"]["message"]["delivery_count"] == 1, again
    # A stale one in front: nothing has happened.
    fifth = again["5"]["handler"]
    refused(ack(gateway, queue, group, [{"handler": handlers[0]}, {"handler": fifth}]), 400, 10542209)
    assert ack(gateway, queue, group, [{"handler": fifth}]) == (200, {"success": 1, "fail": 0})


def lease_runs_out(gateway):
    queue, group = make(gateway)
    send(gateway, queue, {"body": "x"})
    started = time.monotonic()
    first = consume(gateway, queue, group, "ack_wait=15&time_wait=1")
    second = consume(gateway, queue, group, "time_wait=30")
    waited = time.monotonic() - started
    assert len(second) == 1 and waited >= 15 and standstill.spent(started) < 20, (waited, second)
    assert second[0]["message"]["delivery_count"] == 1
    refused(ack(gateway, queue, group, [{"handler": first[0]["handler"]}]), 400, 10542209)
    assert ack(gateway, queue, group, [{"handler": second[0]["handler"]}])[0] == 200


def long_poll(gateway):
    queue, group = make(gateway)
    started = time.monotonic()
    assert consume(gateway, queue, group, "time_wait=2") == []
    assert 1.9 < time.monotonic() - started and standstill.spent(started) < 15
    found = []
    waiter = threading.Thread(target=lambda: found.extend(consume(gateway, queue, group, "time_wait=20")))
    waiter.start()
    time.sleep(0.5)
    started = time.monotonic()
    send(gateway, queue, {"body": "now"})
    waiter.join()
    assert standstill.spent(started) < 10  # woken, not timed out
    assert [item["message"]["body"] for item in found] == ["now"]


def waiter_that_leaves(gateway):
    """A client that goes away while it waits takes nothing with it."""
    queue, group = make(gateway)
    for _ in range(3):
        link = gateway.connect()
        link.request("GET", f"{BASE}/queues/{queue}/groups/{group}/messages?time_wait=30")
        time.sleep(0.2)
        link.close()
    time.sleep(0.3)
    send(gateway, queue, {"body": "for the living"})
    assert len(consume(gateway, queue, group)) == 1


def group_deleted_while_waiting(gateway):
    queue, group = make(gateway)
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(
        gateway.call("GET", f"{BASE}/queues/{queue}/groups/{group}/messages?time_wait=30")))
    waiter.start()
    time.sleep(0.3)
    assert gateway.call("DELETE", f"{BASE}/queues/{queue}") == (204, None)
    waiter.join(10)
    assert answers and answers[0][0] == 404, answers


def quotas(gateway):
    status, body = gateway.call("GET", f"{BASE}/quotas/dms")
    assert status == 200 and len(body["quotas"]["resources"]) == 1
    before = body["quotas"]["resources"][0]
    assert before["type"] == "queue" and before["used"] == 0 and before["quota"] >= 30
    gateway.call("POST", f"{BASE}/queues", {"name": "one"})
    for path in (f"{BASE}/quotas/dms", "/v2/default/quotas", "/v2/default/quotas/dms"):
        assert gateway.call("GET", path)[1]["quotas"]["resources"][0]["used"] == 1


def groups_are_apart(gateway):
    """Each group gets every message, in order, whatever others do; many consumers of one share it."""
    queue, first = make(gateway)
    second = gateway.call("POST", f"{BASE}/queues/{queue}/groups", {"groups": [{"name": "b"}]})[1]["groups"][0]["id"]
    for start in range(0, 100, 10):
        send(gateway, queue, *({"body": i} for i in range(start, start + 10)))

    def drain(group, into):
        link = gateway.connect()
        while True:
            status, items = exchange(link, "GET", f"{BASE}/queues/{queue}/groups/{group}/messages?time_wait=1")
            assert status == 200
            if not items:
                return
            into.extend(item["message"]["body"] for item in items)
            status, settled = exchange(link, "POST", f"{BASE}/queues/{queue}/groups/{group}/ack",
                                       {"message": [{"handler": item["handler"]} for item in items]})
            assert settled == {"success": len(items), "fail": 0}

    alone = []
    drain(first, alone)
    assert alone == list(range(100)), alone
    parts = [[] for _ in range(4)]
    threads = [threading.Thread(target=drain, args=(second, part)) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sum(parts, [])) == list(range(100)), parts


run(queues, queue_modes, queue_refusals, groups, messages, attributes, expiry, message_refusals, consume_bytes,
    acknowledge, lease_runs_out, long_poll, waiter_that_leaves, group_deleted_while_waiting, quotas, groups_are_apart)
