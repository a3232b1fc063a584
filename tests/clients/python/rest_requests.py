# SPDX-License-Identifier: Apache-2.0
"""MQTT in, REST out with requests and urllib: rest_requests.py HOST MQTT_PORT HTTP_PORT, on an empty gateway"""
import base64
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.request

import paho.mqtt.client as mqtt
import requests
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from checks import WAIT_SECONDS, Checks, payload, same

HOST, MQTT_PORT, HTTP_PORT = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ROOT = f"http://{HOST}:{HTTP_PORT}"
BASE = f"{ROOT}/v1.0/default"
TEXT = "plant/7/temperature"


class Rest:
    """The DMS calls, each with the status it must have."""

    def __init__(self):
        self.session = requests.Session()

    def call(self, method, path, status, body=None, **query):
        answer = self.session.request(method, BASE + path, json=body, params=query, timeout=WAIT_SECONDS)
        same(answer.status_code, status)
        return answer.json() if answer.content else None

    def queue_id(self, name):
        queues = self.call("GET", "/queues", 200)["queues"]
        return next(each["id"] for each in queues if each["name"] == name)

    def group(self, queue_id, name):
        made = self.call("POST", f"/queues/{queue_id}/groups", 201, {"groups": [{"name": name}]})["groups"]
        same((len(made), made[0]["name"], made[0]["id"][:2]), (1, name, "g-"))
        return f"/queues/{queue_id}/groups/{made[0]['id']}"

    def take(self, group, count):
        """Consumes until there are count items: fewer than max_msgs in one answer is normal."""
        items, until = [], time.monotonic() + WAIT_SECONDS
        while len(items) < count and time.monotonic() < until:
            items += self.call("GET", f"{group}/messages", 200, max_msgs=10, time_wait=1)
        same(len(items), count)
        return items

    def nothing(self, group):
        same(self.call("GET", f"{group}/messages", 200, time_wait=1), [])

    def ack(self, group, items, status="success"):
        body = {"message": [{"handler": item["handler"], "status": status} for item in items]}
        return self.call("POST", f"{group}/ack", 200, body)


def connected(version, on_message=None):
    up = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"rest-{version}", protocol=version)
    client.on_connect = lambda *_: up.put(True)
    client.on_message = on_message
    client.connect(HOST, MQTT_PORT)
    client.loop_start()
    up.get(timeout=WAIT_SECONDS)
    return client


def publish(client, topic, body, qos=1, **properties):
    packet = Properties(PacketTypes.PUBLISH)
    for name, value in properties.items():
        setattr(packet, name, value)
    info = client.publish(topic, body, qos, properties=packet if properties else None)
    info.wait_for_publish(WAIT_SECONDS)
    same(info.is_published(), True)


def by_topic(items):
    return {item["message"]["attributes"]["topic"]: item["message"] for item in items}


def mqtt_to_rest(check, rest):
    three, five = connected(mqtt.MQTTv311), connected(mqtt.MQTTv5)
    with check("the queue mqtt is there, and its group starts at the first record"):
        publish(three, TEXT, "21.5")
        mqtt_queue = rest.queue_id("mqtt")
        group = rest.group(mqtt_queue, "reader")
    if check.failed:
        return
    with check("MQTT QoS 1 in, group out: body as sent, attribute topic"):
        items = rest.take(group, 1)
        same(items[0]["message"], {"body": "21.5", "attributes": {"topic": TEXT}})
    with check("leased: not handed out twice"):
        rest.nothing(group)
    with check("status fail: handed out again"):
        same(rest.ack(group, items, "fail"), {"success": 0, "fail": 1})
        items = rest.take(group, 1)
        same(items[0]["message"]["body"], "21.5")
    with check("ack: nothing left"):
        same(rest.ack(group, items), {"success": 1, "fail": 0})
        rest.nothing(group)
        counters = rest.call("GET", f"/queues/{mqtt_queue}/groups", 200)["groups"][0]
        same((counters["consumed_messages"], counters["available_messages"]), (1, 0))
    with check("ack of what is settled: 400, 10542209"):
        answer = rest.session.post(f"{BASE}{group}/ack", timeout=WAIT_SECONDS,
                                   json={"message": [{"handler": items[0]["handler"], "status": "success"}]})
        same((answer.status_code, answer.json()["code"]), (400, 10542209))

    with check("long poll: answered when something arrives"):
        began = time.monotonic()
        timer = threading.Timer(0.5, publish, (three, "late/one", "x"))
        timer.start()
        items = rest.call("GET", f"{group}/messages", 200, time_wait=20)
        same([item["message"]["body"] for item in items], ["x"])
        same(0.4 < time.monotonic() - began < 15, True)  # it does not wait until the end
        rest.ack(group, items)

    with check("bodies of every kind, QoS 1 and 2"):
        publish(three, "kind/empty", "")
        publish(three, "kind/quoted", '{"not": "declared"}')
        publish(three, "kind/binary", payload(300), qos=2)
        publish(five, "kind/json", '{"a": [1, 2.50, "ü"]}', qos=2, ContentType="application/json")
        publish(five, "kind/properties", "p", ResponseTopic="answers/here", CorrelationData=b"c-1",
                UserProperty=[("color", "red"), ("size", "1"), ("color", "blue")])
        publish(three, "kind/fleeting", "QoS 0 is not kept", qos=0)
        items = rest.take(group, 5)
        got = by_topic(items)
        same(got["kind/empty"]["body"], "")
        same(got["kind/quoted"]["body"], '{"not": "declared"}')
        same((base64.b64decode(got["kind/binary"]["body"]), got["kind/binary"]["body_encoding"]),
             (payload(300), "base64"))
        same(got["kind/json"]["body"], {"a": [1, 2.5, "ü"]})
        same(got["kind/json"]["attributes"]["content-type"], "application/json")
        same(got["kind/properties"]["attributes"],
             {"topic": "kind/properties", "reply-to": "answers/here", "correlation-id": "c-1",
              "color": ["red", "blue"], "size": "1"})
        same(rest.ack(group, items), {"success": 5, "fail": 0})
        rest.nothing(group)

    with check("1 MiB of text, more than the limit of one answer"):
        body = "0123456789abcdef" * (1 << 16)
        publish(three, "large/text", body)
        publish(three, "large/after", "small")
        items = rest.take(group, 2)
        same(by_topic(items)["large/text"]["body"], body)
        same(rest.ack(group, items)["success"], 2)
        rest.nothing(group)

    with check("order of one topic, 200 messages"):
        for i in range(200):
            info = three.publish("order/one", str(i), 1)
        info.wait_for_publish(WAIT_SECONDS)
        seen = []
        while len(seen) < 200:
            items = rest.call("GET", f"{group}/messages", 200, time_wait=2)
            if not items:
                break
            seen += [int(item["message"]["body"]) for item in items]
            same(rest.ack(group, items)["fail"], 0)
        same(seen, list(range(200)))
        rest.nothing(group)

    with check("a second group has everything again"):
        other = rest.group(mqtt_queue, "second")
        same(len({item["handler"] for item in rest.take(other, 209)}), 209)
        same(rest.call("DELETE", other, 204), None)
    for client in three, five:
        client.disconnect()
        client.loop_stop()


def rest_to_rest(check, rest):
    with check("a queue made, filled, consumed and deleted over REST"):
        made = rest.call("POST", "/queues", 201, {"name": "orders", "queue_mode": "NORMAL"})
        orders = f"/queues/{made['id']}"
        same(rest.call("GET", orders, 200)["queue_mode"], "NORMAL")
        messages = [{"body": "text", "attributes": {"a": "1"}}, {"body": {"n": [1, None, True]}}, {"body": 17}]
        sent = rest.call("POST", f"{orders}/messages", 201, {"messages": messages, "returnId": True})["messages"]
        same([each["state"] for each in sent], [0, 0, 0])
        group = rest.group(made["id"], "billing")
        items = rest.take(group, 3)
        bodies = sorted((item["message"]["body"] for item in items), key=str)
        same(bodies, sorted((message["body"] for message in messages), key=str))
        same(rest.ack(group, items), {"success": 3, "fail": 0})
        rest.nothing(group)
        same(rest.call("DELETE", orders, 204), None)
        same(rest.call("GET", orders, 404)["code"], 10240401)
    with check("refusals carry DMS codes"):
        same(rest.call("POST", "/queues", 400, {"name": "no spaces"})["code"], 10240007)
        same(rest.call("POST", "/queues", 400, {"name": "mqtt"})["code"], 10240017)
        same(rest.call("GET", "/queues/nowhere/groups/g-1/messages", 404)["code"] in (10240401, 10240405), True)


def rest_to_mqtt(check, rest):
    with check("published over REST, delivered to an MQTT 5 subscriber"):
        messages = queue.Queue()
        client = connected(mqtt.MQTTv5, lambda c, u, message: messages.put(message))
        ready = queue.Queue()
        client.on_subscribe = lambda *_: ready.put(True)
        client.subscribe("from/+", 1)
        ready.get(timeout=WAIT_SECONDS)
        answer = rest.session.post(f"{ROOT}/v1/default/publish", timeout=WAIT_SECONDS, json={
            "topic": "from/rest",
            "messages": [{"body": "hello", "content_type": "text/plain", "attributes": {"a": ["1", "2"]}},
                         {"body": {"n": 1}}]})
        same(answer.ok, True)
        first, second = (messages.get(timeout=WAIT_SECONDS) for _ in range(2))
        same((first.topic, first.payload, first.qos), ("from/rest", b"hello", 1))
        same((first.properties.ContentType, first.properties.UserProperty), ("text/plain", [("a", "1"), ("a", "2")]))
        same((second.payload, second.properties.ContentType), (b'{"n":1}', "application/json"))
        client.disconnect()
        client.loop_stop()


def with_tls(check):
    with check("HTTPS"):
        answer = requests.get(f"https://{HOST}:{os.environ['HTTPS_PORT']}/v1.0/default/queues",
                              verify=os.environ["CA_FILE"], timeout=WAIT_SECONDS)
        same([each["name"] for each in answer.json()["queues"]], ["mqtt"])


def with_urllib(check):
    with check("urllib: health, metrics, OpenAPI"):
        for path in "healthz", "readyz", "metrics", "openapi.json":
            with urllib.request.urlopen(f"{ROOT}/{path}", timeout=WAIT_SECONDS) as answer:
                same((answer.status, len(answer.read()) > 0), (200, True))
    with check("urllib: a foreign Host and a foreign Origin are refused"):
        for header, value in (("Host", "attacker.example"), ("Origin", "http://attacker.example")):
            request = urllib.request.Request(f"{BASE}/queues", headers={header: value})
            try:
                with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
                    raise AssertionError(f"{header}: {answer.status}")
            except urllib.error.HTTPError as refused:
                same(400 <= refused.code < 500, True)


if __name__ == "__main__":
    checks = Checks("requests")
    calls = Rest()
    mqtt_to_rest(checks, calls)
    rest_to_rest(checks, calls)
    rest_to_mqtt(checks, calls)
    with_urllib(checks)
    with_tls(checks)
    sys.exit(1 if checks.failed else 0)
