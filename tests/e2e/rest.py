# SPDX-License-Identifier: Apache-2.0
"""What the REST tests share: our own calls in a line each, and what a refusal looks like."""
from urllib.parse import urlencode

V1 = "/v1/default"
DMS = "/v1.0/default"


def refused(answer, status, code, *words):
    """All four keys, that code, and those words in its text."""
    got, body = answer
    assert got == status, answer
    assert set(body) == {"code", "message", "error_code", "error_msg"}, body
    assert body["code"] == code, body
    assert body["error_code"] == f"DMS.{code}" and body["error_msg"] == body["message"], body
    assert all(word in body["message"] for word in words), body


def good(answer, status=200):
    assert answer[0] == status, answer
    return answer[1]


def make(gateway, name="q", group="g", **fields):
    made = good(gateway.call("POST", f"{V1}/queues", {"name": name, **fields}), 201)
    if group is not None:
        add_group(gateway, name, group)
    return made


def add_group(gateway, queue, name, **fields):
    return good(gateway.call("POST", f"{V1}/queues/{queue}/groups", {"groups": [{"name": name, **fields}]}), 201)["groups"][0]


def publish(gateway, *messages, queue="q", headers=None, **fields):
    messages = [message if isinstance(message, dict) else {"body": message} for message in messages]
    target = {} if "topic" in fields else {"queue": queue}
    answer = good(gateway.call("POST", f"{V1}/publish", {**target, "messages": messages, **fields}, headers), 201)
    assert all(result["state"] == 0 for result in answer["messages"]), answer
    return answer["messages"]


def group_path(queue="q", group="g", tail=""):
    return f"{V1}/queues/{queue}/groups/{group}{tail}"


def take(gateway, queue="q", group="g", base=V1, **query):
    query.setdefault("time_wait", 1)
    return good(gateway.call("GET", f"{base}/queues/{queue}/groups/{group}/messages?{urlencode(query, doseq=True)}"))


def bodies(items):
    return [item["message"]["body"] for item in items]


def handlers(items):
    return [item["handler"] for item in items]


def settle(gateway, verb, receipts, queue="q", group="g", **fields):
    method = "PUT" if verb == "leases" else "POST"
    return gateway.call(method, group_path(queue, group, f"/{verb}"), {"receipts": receipts, **fields})


def records(gateway, queue="q", **query):
    return good(gateway.call("GET", f"{V1}/queues/{queue}/records?{urlencode(query, doseq=True)}"))


def group_numbers(gateway, queue="q", group="g"):
    listed = good(gateway.call("GET", f"{V1}/queues/{queue}/groups?include_deadletter=true"))["groups"]
    return next(one for one in listed if one["name"] == group)
