#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The WebSocket subprotocol polylog.v1, operation by operation, and Server-Sent Events."""
import base64
import http.client
import json
import os
import threading
import time

try:
    import jsonschema
except ImportError:
    raise SystemExit("python3-jsonschema is missing: script/bootstrap names what is needed") from None

from gateway import Gateway, run, until
from standstill import needs_pace
from websocket import BINARY, TEXT, Refused, Socket, deflated, frame, RSV1
from wire import Client


with open(os.path.join(os.path.dirname(__file__), "../../docs/websocket.schema.json"), encoding="utf-8") as schema:
    SCHEMA = jsonschema.Draft202012Validator(json.load(schema))


class Link:
    """A connection that speaks polylog.v1; answers are found by id, deliveries wait in order."""

    def __init__(self, gateway, connect=True, **named):
        self.socket = Socket(gateway.http_port, "/ws", protocols="polylog.v1", **named)
        self.next_id = 0
        self.aside = []
        if connect:
            assert self.ask("connect", client_id="test")["op"] == "ok"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.socket.close()

    def send(self, op, **members):
        self.socket.send_frame(TEXT, json.dumps({"op": op, **members}).encode())

    def receive(self):
        kind, payload = self.socket.receive_message()
        if kind != TEXT:
            return payload
        frame = json.loads(payload)
        SCHEMA.validate(frame)  # what the gateway sends is what the specification says
        return frame

    def begin(self, op, **members):
        self.next_id += 1
        self.send(op, id=self.next_id, **members)
        return self.next_id

    def answer(self, number):
        while True:
            got = self.receive()
            if isinstance(got, dict) and got.get("op") in ("ok", "error") and got.get("id") == number:
                return got
            self.aside.append(got)

    def ask(self, op, **members):
        return self.answer(self.begin(op, **members))

    def ok(self, op, **members):
        got = self.ask(op, **members)
        assert got["op"] == "ok", (op, members, got)
        SCHEMA.validate({"op": op, "id": 1, **members})  # and what it takes
        return got

    def fails(self, code, op, **members):
        got = self.ask(op, **members)
        assert got["op"] == "error" and got["code"] == code and got["text"], (code, op, members, got)
        return got

    def delivery(self):
        got = self.aside.pop(0) if self.aside else self.receive()
        assert isinstance(got, bytes) or got["op"] == "deliver", got
        return got

    def bodies(self, count):
        return [self.delivery()["body"] for _ in range(count)]

    def silence(self, seconds=0.3):
        assert not self.aside, self.aside
        self.ok("ping")
        before = self.socket.socket.gettimeout()
        self.socket.socket.settimeout(seconds)
        try:
            got = self.receive()
        except TimeoutError:
            return
        finally:
            self.socket.socket.settimeout(before)
        raise AssertionError(f"{got} instead of nothing")


def make_queue(gateway, name, group=None, **fields):
    status, queue = gateway.call("POST", "/v1.0/default/queues", {"name": name, **fields})
    assert status == 201, (status, queue)
    if group:
        status, made = gateway.call("POST", f"/v1.0/default/queues/{queue['id']}/groups", {"groups": [{"name": group}]})
        assert status == 201, (status, made)
    return queue["id"]


MESSAGE = {
    "key": "k1", "content_type": "text/plain; charset=utf-8", "content_encoding": "identity", "message_id": "m-1",
    "correlation_id": "c-1", "reply_to": "answers", "subject": "s", "group_id": "g", "group_sequence": 7, "priority": 5,
    "labels": ["red", "blue"], "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b",
    "properties": [["color", "blue"], ["count", 5], ["ratio", 2.5], ["yes", True], ["color", "again"], ["none", None],
                   ["bytes", {"base64": "/wA="}], ["list", [1, {"a": "b"}]]],
}


def every_field_comes_through(gateway):
    make_queue(gateway, "q", "g")
    with Link(gateway) as link:
        link.ok("subscribe", sub="live", topic="a/#")
        link.ok("subscribe", sub="leased", queue="q", group="g")
        link.ok("subscribe", sub="read", queue="q")
        expires = int(time.time() * 1000) + 600000
        answer = link.ok("publish", topic="a/b", body="ü\n\"", expires_at=expires, **MESSAGE)
        assert answer["queue"] == "mqtt" and answer["partition"] >= 0 and answer["offset"] == 0, answer
        live = link.delivery()
        answer = link.ok("publish", queue="q", body="ü\n\"", expires_at=expires, **MESSAGE)
        assert answer["queue"] == "q" and answer["partition"] == 0 and answer["offset"] == 0, answer
        pair = [link.delivery(), link.delivery()]
        leased, read = sorted(pair, key=lambda got: got["sub"])
        assert (live["sub"], leased["sub"], read["sub"]) == ("live", "leased", "read")
        assert leased["receipt"] and leased["delivery_count"] == 0 and "receipt" not in read
        assert (leased["queue"], leased["partition"], leased["offset"]) == ("q", 0, 0)
        for got in (live, leased, read):
            assert got["body"] == "ü\n\"" and "body_encoding" not in got
            assert abs(got["time"] - time.time() * 1000) < 60000 and got["expires_at"] == expires
            assert got["publisher"] == "-/test", got
            for name, value in MESSAGE.items():
                shown = "id" if name == "message_id" else name
                if name == "properties":
                    value = [[n, '[1,{"a":"b"}]' if n == "list" else v] for n, v in value]
                assert got[shown] == value, (shown, got[shown], value)
        assert live["topic"] == "a/b" and "topic" not in leased
        # Bodies that are JSON, text, bytes, nothing.
        for body, extra in (({"a": [1, 2.5, None]}, {}), ([], {}), (17, {}), (None, {}), ("", {}), ("text", {})):
            link.ok("publish", topic="a", body=body, **extra)
            got = link.delivery()
            assert got["body"] == body, (body, got)
            assert (got.get("content_type") == "application/json") == (not isinstance(body, str)), got
        raw = bytes(range(256))
        link.ok("publish", topic="a", body=base64.b64encode(raw).decode(), body_encoding="base64")
        got = link.delivery()
        assert got["body_encoding"] == "base64" and base64.b64decode(got["body"]) == raw
        # Without an id nothing is answered; refusals are.
        link.send("publish", topic="a", body="silent")
        assert link.delivery()["body"] == "silent"
        link.silence()


def retained(gateway):
    """Kept as the last of its topic, by whoever published it; shown to who subscribes, unless he does not want it."""
    with Link(gateway) as link, Client(gateway.mqtt_port, 5).connect("m") as mqtt:
        link.ok("publish", topic="r/1", body={"old": 1}, retain=True)
        link.ok("publish", topic="r/1", body={"new": 1}, retain=True, subject="s")
        mqtt.publish("r/2", "from mqtt", 1, retain=True)
        mqtt.publish("r/3", "never stored as a record", 0, retain=True)
        link.ok("publish", topic="r/4", body="gone", retain=True)
        link.ok("publish", topic="r/4", body="", retain=True)
        link.ok("publish", topic="r/5", body="not kept")
        link.ok("subscribe", sub="none", topic="r/#", retained=False)
        link.silence()
        link.ok("unsubscribe", sub="none")
        link.ok("subscribe", sub="all", topic="r/+")
        got = {one["topic"]: one for one in (link.delivery() for _ in range(3))}
        link.silence()
        assert all(one["retained"] is True and one["retain"] is True for one in got.values()), got
        assert {topic: one["body"] for topic, one in got.items()} == {
            "r/1": {"new": 1}, "r/2": "from mqtt", "r/3": "never stored as a record"}, got
        assert got["r/1"]["subject"] == "s"
        mqtt.subscribe(("r/1", 1))
        assert mqtt.delivery().payload == b'{"new":1}'
        link.ok("publish", topic="r/1", body="live", retain=True)  # it is new, whatever becomes of it
        live = link.delivery()
        assert live["body"] == "live" and live["retain"] is True and "retained" not in live, live
        link.ok("subscribe", sub="few", topic="r/+", credit=1)  # as there is credit
        assert link.delivery()["sub"] == "few"
        link.silence()
        link.ok("credit", sub="few", credit=5)
        assert [link.delivery()["retained"] for _ in range(2)] == [True, True]
        link.silence()


def binary_frames(gateway):
    with Link(gateway) as link, Link(gateway) as other:
        link.ok("subscribe", sub="s", topic="bin", binary=True)
        other.ok("subscribe", sub="s", topic="bin")
        raw = os.urandom(100000)
        number = link.begin("publish", topic="bin", body_frame=True)
        link.socket.send_frame(BINARY, raw)
        assert link.answer(number)["op"] == "ok"
        got = link.delivery()
        assert got["body_frame"] is True and "body" not in got and link.delivery() == raw
        assert base64.b64decode(other.delivery()["body"]) == raw
        link.socket.send_frame(BINARY, b"nobody asked")
        assert link.receive()["op"] == "closing"
        link.socket.expect_close(1002)
    with Link(gateway) as link:
        link.begin("publish", topic="bin", body_frame=True)
        link.send("ping")  # instead of the body
        assert link.receive()["code"] == "malformed"


def credit_and_order(gateway):
    make_queue(gateway, "q", "g")
    with Link(gateway) as link, Link(gateway) as source:
        link.ok("subscribe", sub="t", topic="n", credit=3)
        link.ok("subscribe", sub="q", queue="q", group="g", credit=2)
        link.ok("subscribe", sub="r", queue="q", credit=1)
        for i in range(10):
            source.ok("publish", topic="n", body=str(i))
            source.ok("publish", queue="q", body=str(i))
        got = {"t": [], "q": [], "r": []}

        def take(count):
            for _ in range(count):
                one = link.delivery()
                got[one["sub"]].append(one["body"])

        take(6)
        assert {name: len(seen) for name, seen in got.items()} == {"t": 3, "q": 2, "r": 1}, got
        link.silence()
        for _ in range(3):
            link.ok("credit", sub="t", credit=2)
            link.ok("credit", sub="q", credit=2)
            link.ok("credit", sub="r", credit=3)
            take(7)
            link.silence()
        link.ok("credit", sub="t", credit=100)
        link.ok("credit", sub="q", credit=100)
        link.ok("credit", sub="r", credit=100)
        take(1 + 2)
        want = [str(i) for i in range(10)]
        assert got == {"t": want, "q": want, "r": want}, got
        link.fails("not_found", "credit", sub="x", credit=1)
        link.fails("invalid", "credit", sub="t", credit=-1)


def settling(gateway):
    queue = make_queue(gateway, "q", "g", redrive_policy="enable", max_consume_count=2)
    with Link(gateway) as link:
        link.ok("subscribe", sub="s", queue="q", group="g", credit=100, lease_seconds=30)
        for body in ("done", "again", "later", "bad", "slow"):
            link.ok("publish", queue="q", body=body)
        first = {got["body"]: got for got in (link.delivery() for _ in range(5))}
        link.ok("ack", receipts=[first["done"]["receipt"]])
        link.fails("stale", "ack", receipt=first["done"]["receipt"])
        link.ok("nack", receipt=first["again"]["receipt"])
        again = link.delivery()
        assert again["body"] == "again" and again["delivery_count"] == 1 and again["receipt"] != first["again"]["receipt"]
        started = time.monotonic()
        link.ok("nack", receipt=first["later"]["receipt"], delay_ms=400)
        later = link.delivery()
        assert later["body"] == "later" and time.monotonic() - started >= 0.39
        link.ok("reject", receipt=first["bad"]["receipt"])
        link.ok("extend", receipt=first["slow"]["receipt"], seconds=60)
        link.ok("ack", receipts=[again["receipt"], later["receipt"]])
        link.ok("subscribe", sub="dead", queue="q", group="g", dead=True)
        dead = link.delivery()
        assert dead["sub"] == "dead" and dead["body"] == "bad", dead
        link.ok("ack", receipt=dead["receipt"])
        link.ok("ack", receipt=first["slow"]["receipt"])
        link.fails("stale", "ack", receipts=["1.0.0.0.1"])
        link.fails("stale", "extend", receipt="ffff.0.0.0.1", seconds=1)
        for receipts in ([], ["x"], [1], ["1.2.3.4"], ["1.2.3.4.5.6"], ["1.2.3.4."], ["1" * 17 + ".2.3.4.5"]):
            link.fails("invalid", "ack", receipts=receipts)
        link.fails("invalid", "extend", receipt=first["slow"]["receipt"])
        link.fails("invalid", "nack", receipt=first["slow"]["receipt"], delay_ms=-1)
        link.silence()
        # What is not settled goes to others when the subscription ends, or the connection.
        link.ok("publish", queue="q", body="left")
        assert link.delivery()["body"] == "left"
        link.ok("unsubscribe", sub="s")
        link.fails("not_found", "unsubscribe", sub="s")
        with Link(gateway) as other:
            other.ok("subscribe", sub="s", queue="q", group="g")
            assert other.delivery()["body"] == "left"
        link.ok("subscribe", sub="s", queue="q", group="g")
        got = link.delivery()
        assert got["body"] == "left" and got["delivery_count"] == 0, got
        link.ok("ack", receipt=got["receipt"])
        # A group that is new is made, and begins at the earliest record, or where it is told to.
        with Link(gateway) as other:
            other.ok("subscribe", sub="late", queue="q", group="late", **{"from": "latest"})
            other.ok("subscribe", sub="early", queue="q", group="early")
            assert other.delivery()["body"] == "done"
            other.ok("unsubscribe", sub="early")
            other.aside = []
            other.ok("publish", queue="q", body="new")
            got = other.delivery()
            assert (got["sub"], got["body"]) == ("late", "new"), got
            other.ok("ack", receipt=got["receipt"])
            other.fails("invalid", "subscribe", sub="bad", queue="q", group="a b")
        got = link.delivery()
        link.ok("ack", receipt=got["receipt"])
        status, shown = gateway.call("GET", f"/v1.0/default/queues/{queue}/groups")
        assert shown["groups"][0]["available_messages"] == 0, shown


@needs_pace
def leases_run_out(gateway):
    make_queue(gateway, "q", "g")
    with Link(gateway) as link, Link(gateway) as other:
        for i in range(4):
            link.ok("publish", queue="q", body=str(i))
        link.ok("subscribe", sub="s", queue="q", group="g", lease_seconds=1, credit=4)
        got = [link.delivery() for _ in range(4)]
        link.ok("extend", receipt=got[1]["receipt"], seconds=30)
        link.ok("ack", receipt=got[3]["receipt"])
        other.ok("subscribe", sub="t", queue="q", group="g", credit=10)
        expired = [link.receive() for _ in range(2)]
        assert [(one["op"], one["sub"]) for one in expired] == [("expired", "s")] * 2, expired
        assert {one["receipt"] for one in expired} == {got[0]["receipt"], got[2]["receipt"]}
        link.fails("stale", "ack", receipt=got[0]["receipt"])
        again = [other.delivery() for _ in range(2)]
        assert {one["body"] for one in again} == {"0", "2"} and all(one["delivery_count"] == 1 for one in again), again
        link.ok("ack", receipt=got[1]["receipt"])
        other.ok("ack", receipts=[one["receipt"] for one in again])


def replay_and_fetch(gateway):
    make_queue(gateway, "q")
    with Link(gateway) as link:
        for i in range(20):
            link.ok("publish", queue="q", body=str(i), labels=["even" if i % 2 == 0 else "odd"], properties=[["n", i]])
        cut = int(time.time() * 1000) + 1
        time.sleep(0.01)
        for i in range(20, 40):
            link.ok("publish", queue="q", body=str(i), labels=["even" if i % 2 == 0 else "odd"], properties=[["n", i]])
        for name, start, first in (("a", "earliest", 0), ("b", {"offset": 33}, 33), ("c", {"time": cut}, 20)):
            link.ok("subscribe", sub=name, queue="q", **{"from": start})
            assert link.bodies(40 - first) == [str(i) for i in range(first, 40)]
            link.ok("unsubscribe", sub=name)
        link.ok("subscribe", sub="d", queue="q", labels=["odd"], selector="n > 30", **{"from": "earliest"})
        assert link.bodies(5) == ["31", "33", "35", "37", "39"]
        link.ok("publish", queue="q", body="41", labels=["odd"], properties=[["n", 41]])
        assert link.bodies(1) == ["41"]
        page = link.ok("fetch", queue="q", limit=7, **{"from": {"offset": 5}})
        assert [r["body"] for r in page["records"]] == [str(i) for i in range(5, 12)] and page["next"] == 12 and page["end"] == 41
        page = link.ok("fetch", queue="q", selector="n between 3 and 4", **{"from": "earliest"})
        assert [r["body"] for r in page["records"]] == ["3", "4"] and page["next"] == 41 and page["records"][0]["offset"] == 3
        page = link.ok("fetch", queue="q", **{"from": {"time": cut}})
        assert page["records"][0]["body"] == "20"
        page = link.ok("fetch", queue="q", **{"from": {"offset": 41}})
        assert page["records"] == [] and page["next"] == 41
        # Replay of topics: what is stored, then what comes.
        for i in range(5):
            link.ok("publish", topic=f"t/{i}", body=str(i))
        link.ok("subscribe", sub="e", topic="t/+", **{"from": "earliest"})
        assert sorted(link.bodies(5)) == [str(i) for i in range(5)]
        link.ok("publish", topic="t/x", body="live")
        assert link.bodies(1) == ["live"]
        for bad in (5, "now", {"offset": -1}, {"time": "x"}, {"offset": 1, "time": 1}, {}):
            link.fails("invalid", "subscribe", sub="z", queue="q", **{"from": bad})
        link.fails("invalid", "fetch", queue="q", **{"from": "latest"})
        link.fails("invalid", "fetch", queue="q", partition=1, **{"from": "earliest"})
        link.fails("not_found", "fetch", queue="nowhere", **{"from": "earliest"})


def request_and_reply(gateway):
    with Link(gateway) as asks, Link(gateway) as serves, Client(gateway.mqtt_port, 5) as device:
        serves.ok("subscribe", sub="s", topic="service/+")
        numbers = [asks.begin("request", topic="service/add", body=i) for i in range(5)]
        for _ in numbers:
            got = serves.delivery()
            serves.fails("invalid", "publish", topic=got["reply_to"], retain=True, body="kept")
            serves.ok("publish", topic=got["reply_to"], correlation_id=got["correlation_id"], body=got["body"] + 1)
        found = {}
        for number in numbers:
            found[number] = asks.answer(number)["body"] if number not in found else None
        assert sorted(found.values()) == [1, 2, 3, 4, 5], found
        got = asks.fails("timed_out", "request", topic="service/deaf", body="?", timeout_ms=200)
        assert got["retry"] is True
        asks.fails("not_found", "request", queue="nowhere", body="?")
        # A device that speaks MQTT answers.
        device.connect("device")
        device.subscribe("device/cmd")
        number = asks.begin("request", topic="device/cmd", body="blink")
        command = device.delivery()
        device.publish(command.get(8).decode(), b"\x00blinked\xff", props=[(9, command.get(9))])
        got = asks.answer(number)
        assert base64.b64decode(got["body"]) == b"\x00blinked\xff", got


def refusals(gateway):
    with Link(gateway, connect=False) as link:
        link.send("ping", id=1)
        assert link.receive()["code"] == "unauthenticated"
        assert link.receive()["op"] == "closing"
        link.socket.expect_close(1008)
    for text in (b"", b"{", b"[]", b"1", b'{"op":1}', b'{"id":1}', b'{"op":"ping","id":-1}', b'{"op":"ping","id":"1"}',
                 b'{"op":"ping","op":"ping"}', b"\xef\xbb\xbf{}", b'{"op":"ping","id":1e400}', b"[" * 100000):
        with Link(gateway) as link:
            link.socket.send_frame(TEXT, text)
            assert link.receive()["code"] == "malformed"
            assert link.receive()["code"] == "malformed"
            link.socket.expect_close(1002)
    with Link(gateway) as link:
        link.fails("unsupported", "fly")
        link.fails("invalid", "publish", body="x")
        link.fails("invalid", "publish", topic="a", queue="q", body="x")
        link.fails("invalid", "publish", topic="a")
        link.fails("invalid", "publish", topic="a/#", body="x")
        link.fails("not_found", "publish", queue="nowhere", body="x")
        for field, value in (("priority", 10), ("priority", "1"), ("labels", ["a b"]), ("labels", ["a"] * 4), ("properties", [["a"]]),
                             ("properties", {"a": 1}), ("properties", [["topic", "x"]]), ("properties", [["publisher", "x"]]), ("key", 1),
                             ("body_encoding", "hex"), ("content_type", 5), ("delay_ms", -1), ("expires_at", "soon")):
            link.fails("invalid", "publish", topic="a", body="x", **{field: value})
        link.fails("invalid", "publish", topic="a", body="!", body_encoding="base64")
        link.fails("invalid", "subscribe", sub="s")
        link.fails("invalid", "subscribe", topic="s")
        link.fails("invalid", "subscribe", sub="s", topic="a/#/b")
        link.fails("invalid", "subscribe", sub="s", topic="a", group="g")
        link.fails("invalid", "subscribe", sub="s", topic="a", selector="((")
        link.fails("not_found", "subscribe", sub="s", queue="nowhere")
        link.ok("subscribe", sub="s", topic="a")
        link.fails("exists", "subscribe", sub="s", topic="b")
        for i in range(99):
            link.ok("subscribe", sub=f"s{i}", topic="b")
        link.fails("over_quota", "subscribe", sub="more", topic="b")
        got = link.ask("connect")
        assert got["code"] == "unauthenticated"
    with Link(gateway, connect=False) as link:  # nobody is known yet
        link.socket.send_frame(TEXT, b" " * 70000)
        link.socket.expect_close(1009)
    with Link(gateway) as link:
        assert gateway.stop() == 0
        assert link.receive() == {"op": "closing", "code": "shutting_down", "text": "shutting down"}
        link.socket.expect_close(1001)


def users(gateway):
    status, _ = gateway.call("POST", "/v1/default/users", {"name": "boss", "password": "secret"})
    assert status == 201, status
    basic = {"Authorization": "Basic " + base64.b64encode(b"boss:secret").decode()}
    for name, grants in (("ann", ["publish topic:a/#", "consume topic:a/#"]),):
        assert gateway.call("POST", "/v1/default/users", {"name": name, "password": "pw"}, basic)[0] == 201
        status, text = gateway.call("PUT", f"/v1/default/users/{name}/grants", {"grants": grants}, basic)
        assert status in (200, 204), (status, text)
    for members in ({}, {"user": "ann", "password": "wrong"}, {"user": "nobody", "password": "pw"}):
        with Link(gateway, connect=False) as link:
            link.fails("unauthenticated", "connect", **members)
            assert link.receive()["op"] == "closing"
            link.socket.expect_close(1008)
    ann = "Authorization: Basic " + base64.b64encode(b"ann:pw").decode()
    with Link(gateway, connect=False, extra=[ann]) as link:
        link.ok("connect")
        link.ok("subscribe", sub="s", topic="a/+")
        link.fails("denied", "subscribe", sub="t", topic="#")
        link.fails("denied", "subscribe", sub="t", topic="#", **{"from": "earliest"})
        link.fails("denied", "subscribe", sub="u", queue="mqtt")
        link.fails("denied", "fetch", queue="mqtt", **{"from": "earliest"})
        link.ok("publish", topic="a/b", body="x")
        link.fails("denied", "publish", topic="b", body="x")
        assert link.delivery()["publisher"] == "ann/"
    with Link(gateway, connect=False, extra=["Origin: https://any.example"]) as link:
        link.ok("connect", user="ann", password="pw", client_id="page")
    try:  # credentials that a browser adds by itself do not help a foreign page
        Link(gateway, connect=False, extra=["Origin: https://evil.example", ann])
        raise AssertionError("a foreign page used borrowed credentials")
    except Refused as refusal:
        assert refusal.status == 403
    status, made = gateway.call("POST", "/v1/default/tokens", {"expires_in": 600},
                                {"Authorization": ann.partition(" ")[2]})
    assert status == 201, made
    token = made["token"]
    for members, extra in (({"token": token}, []), ({"token": token, "user": "ann"}, []), ({}, ["X-Auth-Token: " + token]),
                           ({}, ["Authorization: Bearer " + token])):
        with Link(gateway, connect=False, extra=extra) as link:
            link.ok("connect", **members)
            link.ok("publish", topic="a/b", body="x")
            link.fails("denied", "publish", topic="b", body="x")
    for members in ({"token": token[:-1]}, {"token": token, "user": "boss"}, {"token": ""}):
        with Link(gateway, connect=False) as link:
            link.fails("unauthenticated", "connect", **members)
    for query, expected in (("&access_token=" + token, 200), ("&access_token=" + token[:-1], 401), ("", 401)):
        line = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=20)
        line.request("GET", "/v1/default/events?topic=a/b" + query)
        assert line.getresponse().status == expected, query
        line.close()
    with Link(gateway, connect=False) as link:
        link.ok("connect", user="ann", password="pw")
        assert gateway.call("DELETE", "/v1/default/users/ann", None, basic)[0] in (200, 204)
        assert link.receive()["code"] == "denied"
        link.socket.expect_close(1008)


def compressed(gateway):
    with Link(gateway, extensions="permessage-deflate") as link, Link(gateway, extensions="permessage-deflate; server_max_window_bits=10") as small, \
            Link(gateway) as plain:
        for one in (link, small, plain):
            one.ok("subscribe", sub="s\"1", topic="c")
        body = json.dumps([{"temperature": i, "unit": "C"} for i in range(200)])
        text = json.dumps({"op": "publish", "id": 77, "topic": "c", "body": body}).encode()
        link.socket.send(frame(TEXT, deflated(text), bits=RSV1))
        sizes = []
        for one in (link, small, plain):
            while True:
                kind, payload, last, bits = one.socket.receive()
                if b'"op":"ok"' not in payload and not (bits & RSV1 and len(payload) < 200):
                    break
            sizes.append((len(payload), bits))
            from websocket import inflated
            got = json.loads(inflated(payload) if bits & RSV1 else payload)
            assert got["op"] == "deliver" and got["sub"] == "s\"1" and got["body"] == body
        assert sizes[0][1] == RSV1 and sizes[0][0] < len(body) // 4, sizes
        assert sizes[1][1] == sizes[2][1] == 0, sizes


def a_slow_reader(gateway):
    """It gets everything that is stored, from the log, when it reads again (what it costs meanwhile: ws_stalled.py)."""
    with Link(gateway, receive_buffer=8192) as slow, Link(gateway) as source:
        slow.ok("subscribe", sub="s", topic="flood")
        body = "x" * 20000
        for i in range(0, 400, 20):
            numbers = [source.begin("publish", topic="flood", body=f"{i + k:05d}{body}") for k in range(20)]
            for number in numbers:
                assert source.answer(number)["op"] == "ok"
        assert [slow.delivery()["body"][:5] for _ in range(400)] == [f"{i:05d}" for i in range(400)]


def events(gateway):
    make_queue(gateway, "q", "g")
    with Link(gateway) as source:
        def read(path, count, headers=None):
            """The first count events: [(id, data)]."""
            link = http.client.HTTPConnection("127.0.0.1", gateway.http_port, timeout=20)
            link.request("GET", path, headers=headers or {})
            answer = link.getresponse()
            assert answer.status == 200 and answer.headers["Content-Type"] == "text/event-stream", answer.status
            found, number, data = [], None, []
            opened.set()
            while len(found) < count:
                line = answer.readline().decode().rstrip("\n")
                if line.startswith("id: "):
                    number = line[4:]
                elif line.startswith("data: "):
                    data.append(line[6:])
                elif line == "" and data:
                    found.append((number, json.loads("\n".join(data))))
                    data = []
            link.close()
            return found

        def in_background(path, count):
            result = []
            thread = threading.Thread(target=lambda: result.extend(read(path, count)))
            thread.start()
            return thread, result

        opened = threading.Event()
        thread, live = in_background("/v1/default/events?topic=e/%2B", 3)
        assert opened.wait(20)
        time.sleep(0.2)  # the head is out before the follower stands
        source.ok("publish", topic="other", body="no")
        for body in ('{\n"a": 1\r\n}', "two", "three"):
            source.ok("publish", topic="e/1", body=body, content_type="application/json" if body[0] == "{" else "text/plain")
        thread.join(20)
        assert [data["body"] for _, data in live] == [{"a": 1}, "two", "three"], live
        source.ok("publish", topic="e/2", body="four")
        # From where the second one ended, nothing is lost and nothing comes twice.
        rest = read("/v1/default/events?topic=e/%2B", 2, {"Last-Event-ID": live[1][0]})
        assert sorted(data["body"] for _, data in rest) == ["four", "three"], rest
        every = read("/v1/default/events?topic=e/%2B&from=earliest", 4)
        assert len(every) == 4
        for i in range(10):
            source.ok("publish", queue="q", body=str(i))
        assert [data["body"] for _, data in read("/v1/default/events?queue=q&from=earliest", 10)] == [str(i) for i in range(10)]
        # A group: once for all of its members, done when sent.
        assert [data["body"] for _, data in read("/v1/default/events?queue=q&group=g", 10)] == [str(i) for i in range(10)]
        source.ok("subscribe", sub="s", queue="q", group="g")
        source.silence()
        for path, status in (("/v1/default/events", 400), ("/v1/default/events?queue=q&topic=a", 400), ("/v1/default/events?queue=x", 404),
                             ("/v1/default/events?queue=q&group=x", 404), ("/v1/other/events?queue=q", 400), ("/v1/default/events?topic=a&group=g", 400),
                             ("/v1/default/events?topic=%23a", 400), ("/v1/default/events?topic=a&from=x", 400)):
            got, answer = gateway.call("GET", path)
            assert got == status and answer["error_msg"], (path, got, answer)
    assert until(lambda: 'connections{protocol="http"} 1' in gateway.call("GET", "/metrics")[1])
    allowed = Gateway(None, "http.origins=https://page.example")
    link = http.client.HTTPConnection("127.0.0.1", allowed.http_port, timeout=20)
    link.request("GET", "/v1/default/events?topic=a", headers={"Origin": "https://page.example"})
    answer = link.getresponse()
    assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert allowed.stop() == 0
    assert answer.read().startswith(b"retry: ")
    link.close()


if __name__ == "__main__":
    run(every_field_comes_through, retained, binary_frames, credit_and_order, settling, leases_run_out, replay_and_fetch, request_and_reply, refusals, users,
        compressed, a_slow_reader, events)
