# SPDX-License-Identifier: Apache-2.0
"""Labels go in and come out; records are found by label and selector without being taken."""
import time
from urllib.parse import quote

import standstill
from gateway import run
from rest import DMS, V1, bodies, good, group_path, make, publish, records, refused, take


def tags(gateway):
    """The words of DMS: an array or a single string; shown to who consumes."""
    make(gateway)
    path = f"{DMS}/queues/q/messages"
    sent = [{"body": "two", "tags": ["a", "b-1"]}, {"body": "one", "tags": "c_2"}, {"body": "none", "tags": []},
            {"body": "null", "tags": None}, {"body": "long", "tags": ["x" * 64] * 3}]
    good(gateway.call("POST", path, {"messages": sent}), 201)
    shown = {item["message"]["body"]: item["message"] for item in take(gateway, base=DMS)}
    assert shown["two"]["tags"] == ["a", "b-1"] and shown["one"]["tags"] == ["c_2"], shown
    assert shown["long"]["tags"] == ["x" * 64] * 3
    assert "tags" not in shown["none"] and "tags" not in shown["null"]
    assert all(message["attributes"] == {} for message in shown.values()), shown
    for bad in (["a", "b", "c", "d"], ["x" * 65], [""], "", ["a b"], ["a,b"], ["ü"], [7], 7, {"a": 1}, ["a.b"], [["a"]]):
        refused(gateway.call("POST", path, {"messages": [{"body": "x", "tags": bad}]}), 400, 10540001)
    # Ours calls them labels, and knows dots.
    publish(gateway, {"body": "own", "labels": ["a.b", "c"]}, {"body": "string", "labels": "d"})
    found = records(gateway, offset=5)["records"]
    assert [record["labels"] for record in found] == [["a.b", "c"], ["d"]], found
    refused(gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x", "labels": ["a b"]}]}),
            400, 10540001)


def fields(gateway):
    make(gateway)
    publish(gateway, {"body": "x", "priority": 7, "subject": "s", "group_id": "g1", "group_sequence": 4})
    assert take(gateway)[0]["message"]["attributes"] == {
        "priority": "7", "subject": "s", "group-id": "g1", "group-sequence": "4"}
    for bad in ({"priority": 10}, {"priority": -1}, {"priority": "7"}, {"subject": 5}, {"group_id": []},
                {"group_sequence": 1.5}):
        refused(gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x", **bad}]}), 400, 10540001)


def search(gateway):
    make(gateway)
    for start in range(0, 3000, 1000):
        publish(gateway, *({"body": str(i), "labels": [f"n{i % 7}", "odd" if i % 2 else "even"], "attributes": {"n": i}}
                           for i in range(start, start + 1000)))
    found = records(gateway, label="n3", limit=1000)
    assert [int(r["body"]) for r in found["records"]] == [i for i in range(3000) if i % 7 == 3]
    assert found["next"] == 3000 == found["end"]
    found = records(gateway, label=["n3", "odd"], label_mode="all", limit=1000)["records"]
    assert [int(r["body"]) for r in found] == [i for i in range(3000) if i % 7 == 3 and i % 2]
    found = records(gateway, label=["n3", "n4"], limit=1000)["records"]
    assert [int(r["body"]) for r in found] == [i for i in range(3000) if i % 7 in (3, 4)]
    found = records(gateway, selector="n BETWEEN 1500 AND 1502 OR n = 2999")["records"]
    assert [int(r["body"]) for r in found] == [1500, 1501, 1502, 2999]
    found = records(gateway, selector="n > 100", label="n0", offset=2000, limit=2)
    assert [int(r["body"]) for r in found["records"]] == [2002, 2009] and found["next"] == 2010, found
    # The cursor walks through all of them, and nothing was taken.
    cursor, seen = 0, []
    while cursor < 3000:
        page = records(gateway, label="even", offset=cursor, limit=400)
        seen += [int(r["body"]) for r in page["records"]]
        cursor = page["next"]
    assert seen == list(range(0, 3000, 2))
    assert records(gateway, label="nowhere") == {"records": [], "partition": 0, "next": 3000, "start": 0, "end": 3000}
    assert bodies(take(gateway)) == [str(i) for i in range(10)]


def long_search(gateway):
    """A search that takes long gives way to others, and says where to go on."""
    make(gateway, group=None)
    filler = "x" * 20000
    for _ in range(40):
        publish(gateway, *({"body": filler, "attributes": {"t": "a" * 200}} for _ in range(100)))
    cursor, calls = 0, 0
    while True:
        started = time.monotonic()
        page = records(gateway, offset=cursor, selector=" OR ".join(["t LIKE '%a%b%c%d%'"] * 100))
        assert standstill.spent(started) < 10
        assert page["records"] == [] and page["next"] > cursor, page
        cursor, calls = page["next"], calls + 1
        if cursor >= page["end"]:
            break
    assert cursor == 4000 and calls < 60, (cursor, calls)


def bad_filters(gateway):
    make(gateway)
    path = f"{V1}/queues/q/records"
    for selector, where in (("n >", "at 4"), ("n = 'x", "at 5"), ("=", "at 1"), ("n = 1 n", "at 7"), ("JMSDestination = 'x'", "at 1"),
                            ("(" * 100 + "n=1" + ")" * 100, "at 65"), ("n = 1 OR " * 500 + "n = 1", "at 4097"),
                            ("x" * 4097, "at 4097"), ("n # 1", "at 3")):
        refused(gateway.call("GET", f"{path}?selector={quote(selector)}"), 400, 10540014, where)
        refused(gateway.call("GET", group_path(tail=f"/messages?time_wait=1&selector={quote(selector)}")), 400, 10540014, where)
    for query, code in (("label=a%20b", 10240004), ("label=" + "x" * 65, 10240004), ("label=a&label=b&label=c&label=d", 10540014),
                        ("label=a&label_mode=some", 10540014), ("time=x", 10540014), ("limit=1001", 10540014)):
        refused(gateway.call("GET", f"{path}?{query}"), 400, code)
    refused(gateway.call("GET", f"{V1}/queues/none/records?label=a"), 404, 10240401)
    assert good(gateway.call("GET", f"{path}?selector=&label=&offset=&time="))["records"] == []
    tag_path = f"{DMS}/queues/q/groups/g/messages?time_wait=1&"
    refused(gateway.call("GET", f"{tag_path}tag=a&tag_type=xor"), 500, 10550035)
    refused(gateway.call("GET", f"{tag_path}tag={'x' * 65}"), 400, 10240004)
    refused(gateway.call("GET", f"{tag_path}tag=a&tag=b&tag=c&tag=d"), 400, 10540014)


run(tags, fields, search, long_search, bad_filters)
