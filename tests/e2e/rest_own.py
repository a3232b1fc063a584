# SPDX-License-Identifier: Apache-2.0
"""Our own paths under /v1: publish, routes, queues with partitions, looking at records; and what MQTT makes of them."""
import json
import subprocess
import time
import urllib.parse

from gateway import run, until

V1 = "/v1/default"
DMS = "/v1.0/default"


def refused(answer, status, code):
    assert answer[0] == status and answer[1]["code"] == code, answer


def publish(gateway, **fields):
    status, body = gateway.call("POST", f"{V1}/publish", fields)
    assert status == 201, body
    return body["messages"]


def group(gateway, queue, name="g"):
    status, body = gateway.call("POST", f"{V1}/queues/{queue}/groups", {"groups": [{"name": name}]})
    assert status == 201, body


def consume(gateway, queue, name="g"):
    status, body = gateway.call("GET", f"{V1}/queues/{queue}/groups/{name}/messages?time_wait=1")
    assert status == 200, body
    return body


def mqtt_into_rest(gateway):
    """The first path through the house: a device publishes, curl consumes."""
    group(gateway, "mqtt")
    for payload in (b"21.5", b"\x00\xff\xfe binary", '{"t": 21.5}'.encode()):
        subprocess.run(["mosquitto_pub", "-p", str(gateway.mqtt_port), "-q", "1", "-t", "plant/1/temperature", "-s"],
                       input=payload, check=True)
    items = consume(gateway, "mqtt")
    assert [item["message"]["body"] for item in items] == ["21.5", "AP/+IGJpbmFyeQ==", '{"t": 21.5}'], items
    assert items[1]["message"]["body_encoding"] == "base64"
    assert all(item["message"]["attributes"] == {"topic": "plant/1/temperature"} for item in items)
    listed = gateway.call("GET", f"{DMS}/queues")[1]["queues"]
    assert [queue["produced_messages"] for queue in listed if queue["name"] == "mqtt"] == [3]


def rest_into_mqtt(gateway):
    with subprocess.Popen(["stdbuf", "-oL", "mosquitto_sub", "-p", str(gateway.mqtt_port), "-q", "1", "-t", "answers/#", "-v",
                           "-C", "2", "-W", "20", "-d"], stdout=subprocess.PIPE, text=True) as subscriber:
        while not (said := subscriber.stdout.readline()).startswith("Subscribed"):
            assert said, "it ended"
        publish(gateway, topic="answers/1", messages=[{"body": "yes"}, {"body": {"n": 1}}])
        out, _ = subscriber.communicate(timeout=20)
    got = [line for line in out.splitlines() if line.startswith("answers/")]
    assert got == ["answers/1 yes", 'answers/1 {"n":1}'], out


def publish_fields(gateway):
    assert gateway.call("POST", f"{V1}/queues", {"name": "a.b", "partitions": 3})[0] == 201
    group(gateway, "a.b")
    now = int(time.time() * 1000)
    results = publish(gateway, queue="a.b", key="shared", messages=[
        {"body": "aGk=", "body_encoding": "base64"}, {"body": "AP8=", "body_encoding": "base64", "key": "own"},
        {"body": "[1]", "content_type": "application/json"}, {"body": "<a/>", "content_type": "text/xml"},
        {"body": "x", "correlation_id": "c", "reply_to": "r", "message_id": "m", "expiry_ms": 60000,
         "attributes": {"n": 1}}])
    assert all(r["state"] == 0 and r["queue"] == "a.b" for r in results), results
    assert len({r["partition"] for r in results if r is not results[1]}) == 1      # one key, one partition
    assert len({r["id"] for r in results}) == 5
    items = consume(gateway, "a.b")
    by_body = {json.dumps(item["message"]["body"]): item["message"] for item in items}
    assert by_body['"hi"']["attributes"] == {"key": "shared"}
    assert by_body['"AP8="']["body_encoding"] == "base64" and by_body['"AP8="']["attributes"] == {"key": "own"}
    assert by_body["[1]"]["attributes"]["content-type"] == "application/json"
    assert by_body['"<a/>"']["attributes"]["content-type"] == "text/xml"
    attributes = by_body['"x"']["attributes"]
    assert now + 59000 < int(attributes.pop("expires-at")) < now + 90000
    assert attributes == {"key": "shared", "correlation-id": "c", "reply-to": "r", "message-id": "m", "n": 1}


def publish_refusals(gateway):
    path = f"{V1}/publish"
    one = [{"body": "x"}]
    refused(gateway.call("POST", path, b"{}x"), 400, 10540012)
    refused(gateway.call("POST", path, {"messages": one}), 400, 10540010)
    refused(gateway.call("POST", path, {"topic": "a", "queue": "mqtt", "messages": one}), 400, 10540010)
    refused(gateway.call("POST", path, {"topic": 1, "messages": one}), 400, 10540010)
    refused(gateway.call("POST", path, {"topic": "a"}), 400, 10540010)
    refused(gateway.call("POST", path, {"queue": "none", "messages": one}), 404, 10240401)
    for topic in ("", "a/+", "a/#", "nul\u0000", "x" * 70000):
        refused(gateway.call("POST", path, {"topic": topic, "messages": one}), 400, 10540010)
    for message in ({"body": "?", "body_encoding": "base64"}, {"body": "x", "body_encoding": "rot13"},
                    {"body": {}, "body_encoding": "base64"}, {"body": "x", "key": 1},
                    {"body": "x", "content_type": []}, {"body": "x", "expiry_ms": -1}, {"body": "x", "expires_at": "x"}):
        refused(gateway.call("POST", path, {"topic": "a", "messages": [message]}), 400, 10540001)
    refused(gateway.call("POST", path, {"queue": "mqtt", "retain": True, "messages": one}), 400, 10540010)
    # Nothing of a refused call was published.
    assert gateway.call("GET", f"{V1}/queues/mqtt/records")[1]["records"] == []


def retained(gateway):
    topics = [f"r/{i % 3}/{i}" for i in range(300)] + ["r/x", "other"]
    for topic in topics:
        publish(gateway, topic=topic, retain=True, messages=[{"body": "old"}, {"body": topic}])
    publish(gateway, topic="r/x", messages=[{"body": "not retained"}])

    def listed(**query):
        status, body = gateway.call("GET", f"{V1}/retained?" + urllib.parse.urlencode(query))
        assert status == 200, body
        return body["retained"], body["next"]

    records, following = listed(limit=1000)
    assert following is None and sorted(record["body"] for record in records) == sorted(topics)
    assert all(record["attributes"]["topic"] == record["body"] and record["publish_time"] for record in records)
    assert [record["body"] for record in listed(filter="r/x")[0]] == ["r/x"]
    assert listed(filter="r/x/#") == (listed(filter="r/x")[0], None) and listed(filter="none/+") == ([], None)
    pages, after = [], ""
    while after is not None:
        page, after = listed(filter="r/1/+", limit=30, after=after)
        assert len(page) == 30 or after is None
        pages += [record["body"] for record in page]
    assert sorted(pages) == sorted(topic for topic in topics if topic.startswith("r/1/"))
    publish(gateway, topic="r/x", retain=True, messages=[{"body": ""}])
    publish(gateway, topic="r/y", retain=True, messages=[{"body": "x", "expiry_ms": 1}])
    time.sleep(0.01)
    assert listed(filter="r/+") == ([], None)
    for query in ("filter=a%2Fb%2B", "after=%23", "limit=0", "limit=1001"):
        refused(gateway.call("GET", f"{V1}/retained?{query}"), 400, 10540014)


def routes(gateway):
    for name in ("hot", "cold"):
        assert gateway.call("POST", f"{V1}/queues", {"name": name})[0] == 201
    filters = {"a/+/t": "a%2F%2B%2Ft", "b/#": "b/%23", "/lead//empty/": "%2Flead%2F%2Fempty%2F", "sp ace/ü": "sp%20ace/%C3%BC"}
    for text, encoded in filters.items():
        status, route = gateway.call("PUT", f"{V1}/routes/{encoded}", {"queue": "hot"})
        assert status == 200 and route["filter"] == text and route["queue"] == "hot", route
        assert gateway.call("GET", f"{V1}/routes/{encoded}") == (200, route)
    listed = gateway.call("GET", f"{V1}/routes")[1]["routes"]
    assert {route["filter"] for route in listed} == set(filters), listed
    assert gateway.call("PUT", f"{V1}/routes/a/+/t", {"queue": "cold"})[1]["queue"] == "cold"
    assert publish(gateway, topic="a/1/t", messages=[{"body": "x"}])[0]["queue"] == "cold"
    assert publish(gateway, topic="b/c/d", messages=[{"body": "x"}])[0]["queue"] == "hot"
    assert publish(gateway, topic="/lead//empty/", messages=[{"body": "x"}])[0]["queue"] == "hot"
    assert publish(gateway, topic="lead/empty", messages=[{"body": "x"}])[0]["queue"] == "mqtt"
    subprocess.run(["mosquitto_pub", "-p", str(gateway.mqtt_port), "-q", "1", "-t", "b/x", "-m", "from mqtt"], check=True)
    records = gateway.call("GET", f"{V1}/queues/hot/records")[1]["records"]
    assert [r["body"] for r in records][-1] == "from mqtt" and records[-1]["attributes"]["topic"] == "b/x"
    refused(gateway.call("PUT", f"{V1}/routes/a%2F%23%2Fb", {"queue": "hot"}), 400, 10540014)
    refused(gateway.call("PUT", f"{V1}/routes/a%FF", {"queue": "hot"}), 400, 10540004)
    refused(gateway.call("PUT", f"{V1}/routes/c", {"queue": "none"}), 404, 10240401)
    refused(gateway.call("PUT", f"{V1}/routes/c", {}), 400, 10540010)
    assert gateway.call("DELETE", f"{V1}/routes/b%2F%23") == (204, None)
    refused(gateway.call("DELETE", f"{V1}/routes/b%2F%23"), 404, 10240401)
    refused(gateway.call("GET", f"{V1}/routes/b%2F%23"), 404, 10240401)
    assert publish(gateway, topic="b/c/d", messages=[{"body": "x"}])[0]["queue"] == "mqtt"


def own_queues(gateway):
    status, made = gateway.call("POST", f"{V1}/queues", {
        "name": "own", "type": "stream", "partitions": 5, "durability": "interval", "retention_ms": 5000000,
        "retention_bytes": 1000000})
    assert status == 201 and made["type"] == "stream" and made["durability"] == "interval", made
    assert made["partition_count"] == 5 == len(made["partitions"]) and made["retention_ms"] == 5000000
    assert made["retention_bytes"] == 1000000 and made["built_in"] is False and made["queue_mode"] == "KAFKA_HT"
    publish(gateway, queue="own", messages=[{"body": str(i), "key": str(i)} for i in range(50)])
    shown = gateway.call("GET", f"{V1}/queues/own")[1]
    assert shown["records"] == 50 == sum(p["end"] - p["start"] for p in shown["partitions"])
    assert sum(p["end"] > 0 for p in shown["partitions"]) > 1
    assert gateway.call("GET", f"{V1}/queues/{made['id']}")[1]["name"] == "own"
    refused(gateway.call("POST", f"{V1}/queues", {"name": "x", "partitions": 257}), 400, 10240009)
    refused(gateway.call("POST", f"{V1}/queues", {"name": "x", "type": "fifo", "partitions": 2}), 400, 10240009)
    refused(gateway.call("POST", f"{V1}/queues", {"name": "x", "durability": "none"}), 400, 10240009)
    refused(gateway.call("POST", f"{V1}/queues", {"name": "x", "retention_ms": 0}), 400, 10240027)
    # Ours are not counted in the limit of three, and may start at the end.
    for name in "abcd":
        group(gateway, "own", name)
    assert gateway.call("POST", f"{V1}/queues/own/groups", {"groups": [{"name": "late", "start": "latest"}]})[0] == 201
    assert consume(gateway, "own", "late") == []
    listed = gateway.call("GET", f"{V1}/queues/own/groups")[1]["groups"]
    assert [g["start"] for g in listed] == ["earliest"] * 4 + ["latest"], listed


def records(gateway):
    assert gateway.call("POST", f"{V1}/queues", {"name": "log"})[0] == 201
    for start in range(0, 30, 10):
        publish(gateway, queue="log", messages=[{"body": start + i} for i in range(10)])
        time.sleep(0.01)
    path = f"{V1}/queues/log/records"
    whole = gateway.call("GET", path)[1]
    assert [r["body"] for r in whole["records"]] == list(range(30)) == [r["offset"] for r in whole["records"]]
    assert whole["next"] == 30 == whole["end"] and whole["start"] == 0 and whole["partition"] == 0
    part = gateway.call("GET", f"{path}?offset=13&limit=4")[1]
    assert [r["offset"] for r in part["records"]] == [13, 14, 15, 16] and part["next"] == 17
    since = whole["records"][20]["time"]
    late = gateway.call("GET", f"{path}?time={since}")[1]["records"]
    assert late[-1]["offset"] == 29 and late[0]["time"] >= since and late[0]["offset"] <= 20
    assert gateway.call("GET", f"{path}?offset=30")[1]["records"] == []
    assert gateway.call("GET", f"{path}?time={since + 100000000}")[1]["records"] == []
    for query in ("partition=1", "limit=0", "limit=1001", "offset=x"):
        refused(gateway.call("GET", f"{path}?{query}"), 400, 10540014)


def settle(gateway):
    assert gateway.call("POST", f"{V1}/queues", {"name": "jobs"})[0] == 201
    group(gateway, "jobs")
    publish(gateway, queue="jobs", messages=[{"body": str(i)} for i in range(4)])
    receipts = [item["handler"] for item in consume(gateway, "jobs")]
    path = f"{V1}/queues/jobs/groups/g"
    assert gateway.call("POST", f"{path}/ack", {"receipts": receipts[:2]}) == (200, {"stale": [], "success": 2, "fail": 0})
    assert gateway.call("POST", f"{path}/nack", {"receipts": receipts[2:]}) == (200, {"stale": [], "success": 2, "fail": 0})
    again = consume(gateway, "jobs")
    assert [item["message"]["body"] for item in again] == ["2", "3"], again
    refused(gateway.call("POST", f"{path}/ack", {"receipts": receipts[2:]}), 400, 10542209)
    refused(gateway.call("POST", f"{path}/nack", {"receipts": receipts[2:]}), 400, 10542209)
    refused(gateway.call("POST", f"{path}/ack", {"receipts": ["x"]}), 400, 10542209)
    refused(gateway.call("POST", f"{path}/ack", {}), 400, 10540010)
    refused(gateway.call("POST", f"{path}/nack", {"receipts": receipts, "delay_ms": -5}), 400, 10540010)


def health(gateway):
    assert gateway.call("GET", "/healthz") == (200, {"status": "ok"})
    assert gateway.call("GET", "/readyz") == (200, {"status": "ready"})
    status, text = gateway.call("GET", "/metrics")
    assert status == 200
    for line in text.splitlines():
        assert line.startswith("#") or line.startswith("polylog_"), line
    # Connections of earlier calls may still be on their way out.
    assert until(lambda: 'polylog_connections{protocol="http"} 1\n' in gateway.call("GET", "/metrics")[1]), text
    status, document = gateway.call("GET", "/openapi.json")
    assert status == 200 and document["openapi"].startswith("3.0") and "/healthz" in document["paths"]
    for path in document["paths"]:
        if "{" not in path and path != "/metrics":
            assert gateway.call("GET", path)[0] == 200, path


def counted(gateway):
    """What was refused shows in the metrics."""
    before = gateway.call("GET", "/metrics")[1]
    gateway.call("GET", "/nothing")

    def refusals(text):
        return int(text.split('polylog_refused_total{protocol="http",reason="request"} ')[1].split()[0])

    assert until(lambda: refusals(gateway.call("GET", "/metrics")[1]) == refusals(before) + 1)


run(mqtt_into_rest, rest_into_mqtt, publish_fields, publish_refusals, retained, routes, own_queues, records, settle, health, counted)
