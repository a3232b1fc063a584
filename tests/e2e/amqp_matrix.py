# SPDX-License-Identifier: Apache-2.0
"""Every field of docs/mapping.md from every protocol to every other: published to one topic, read by MQTT 5, MQTT
3.1.1, AMQP and WebSocket (each live and from the queue) and REST. The outcome is the table in docs/interoperability.md, which this test
compares; --write makes it anew."""
import base64
import os
import sys
import time

from proton import Message, symbol, uint
from proton.utils import BlockingConnection

from gateway import run, until
from ws_protocol import Link
from wire import (CONTENT_TYPE, CORRELATION, MESSAGE_EXPIRY, RESPONSE_TOPIC, USER, Client)

SECONDS = 20
PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "interoperability.md")
TOPIC = "matrix/t"
EXPIRY_S = 600

# Field, value in neutral form. bodies are bytes.
FIELDS = [
    ("body, text", "body", "käse".encode()),
    ("body, bytes", "body", b"\x00\xff\xfe"),
    ("topic", "topic", TOPIC),
    ("key", "key", "k1"),
    ("content type", "content-type", "text/plain"),
    ("content encoding", "content-encoding", "identity"),
    ("message id", "message-id", "m-1"),
    ("correlation id, text", "correlation-id", b"c-1"),
    ("correlation id, bytes", "correlation-id", b"\xff\x01"),
    ("reply to", "reply-to", "answers/1"),
    ("subject", "subject", "s-1"),
    ("priority", "priority", 7),
    ("expiry", "expiry", EXPIRY_S),
    ("labels", "labels", ["a", "b"]),
    ("group id", "group-id", "g-1"),
    ("group sequence", "group-sequence", 5),
    ("user properties", "users", [("x", "1"), ("y", "ä")]),
    ("user properties, repeated", "users", [("x", "1"), ("x", "2")]),
    ("user properties, names of the gateway", "users", [("pl-types", "1"), ("pl-x", "2"), ("pl-pl-text", "3")]),
    ("trace", "users", [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]),
]
# Names under which fields travel where a protocol has no place of its own for them.
AS_USER = ("key", "content-encoding", "message-id", "subject", "priority", "labels", "group-id", "group-sequence")


# ------------------------------------------------ MQTT

def publish_mqtt(running, version, field, value):
    props, payload = [], b"b"
    if field == "body":
        payload = value
    elif field == "content-type":
        props.append((CONTENT_TYPE, value))
    elif field == "correlation-id":
        props.append((CORRELATION, value))
    elif field == "reply-to":
        props.append((RESPONSE_TOPIC, value))
    elif field == "expiry":
        props.append((MESSAGE_EXPIRY, value))
    elif field == "users":
        props += [(USER, pair) for pair in value]
    elif field == "labels":
        props += [(USER, ("label", label)) for label in value]
    elif field in AS_USER:
        props.append((USER, (field, str(value))))
    with Client(running.mqtt_port, version).connect("publisher") as client:
        assert client.publish(TOPIC, payload, qos=1, **({"props": props} if version == 5 else {})) < 0x80


def read_mqtt(packet, version):
    got = {"topic": packet.topic, "body": packet.payload}
    if version < 5:
        return got
    for field, name in (("content-type", CONTENT_TYPE), ("correlation-id", CORRELATION), ("reply-to", RESPONSE_TOPIC),
                        ("expiry", MESSAGE_EXPIRY)):
        if packet.get(name) is not None:
            value = packet.get(name)
            got[field] = value.decode() if isinstance(value, bytes) and field != "correlation-id" else value
    users = [(pair[0], pair[1]) for pair in packet.users()]
    for name, value in users:
        if name in ("labels", "label"):
            got.setdefault("labels", []).extend(value.split(","))
        elif name in ("priority", "group-sequence"):
            got[name] = int(value)
        elif name in AS_USER:
            got[name] = value
    got["users"] = [pair for pair in users if pair[0] not in AS_USER + ("label", "to")]
    return got


# ------------------------------------------------ AMQP

SENDERS = {}

def publish_amqp(running, field, value):
    message = Message(body=b"b", inferred=True)
    if field == "body":
        message.body = value
    elif field == "correlation-id":
        try:
            message.correlation_id = value.decode()
        except UnicodeDecodeError:
            message.correlation_id = value
    elif field == "reply-to":
        message.reply_to = "/topics/" + value
    elif field == "expiry":
        message.ttl = value
    elif field == "key":
        message.annotations = {symbol("x-opt-partition-key"): value}
    elif field == "labels":
        message.annotations = {symbol("x-opt-labels"): value}
    elif field == "users":
        if len(dict(value)) < len(value):
            return False  # a map has no name twice
        message.properties = dict(value)
    elif field != "topic":
        setattr(message, {"message-id": "id"}.get(field, field.replace("-", "_")), value)
    if running.pid not in SENDERS:
        connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        SENDERS[running.pid] = connection.create_sender("/topics/" + TOPIC)
    SENDERS[running.pid].send(message)
    return True


def as_bytes(value):
    return value.encode() if isinstance(value, str) else bytes(value)


def read_amqp(message):
    got = {"body": as_bytes(message.body), "users": list((message.properties or {}).items())}
    annotations = message.annotations or {}
    repeated = annotations.get(symbol("x-opt-duplicates"))
    if repeated:
        got["users"] = list(zip(repeated[::2], repeated[1::2]))
    if message.address and message.address.startswith("/topics/"):
        got["topic"] = message.address[8:]
    if message.correlation_id is not None:
        got["correlation-id"] = as_bytes(message.correlation_id)
    if message.reply_to:
        got["reply-to"] = message.reply_to[8:] if message.reply_to.startswith("/topics/") else message.reply_to
    if message.ttl:
        got["expiry"] = message.ttl
    if symbol("x-opt-partition-key") in annotations:
        got["key"] = annotations[symbol("x-opt-partition-key")]
    if symbol("x-opt-labels") in annotations:
        got["labels"] = annotations[symbol("x-opt-labels")]
    if symbol("x-opt-topic") in annotations:
        got["topic"] = annotations[symbol("x-opt-topic")]
    for field, value in (("message-id", message.id), ("content-type", message.content_type),
                         ("content-encoding", message.content_encoding), ("subject", message.subject),
                         ("priority", message.priority), ("group-id", message.group_id),
                         ("group-sequence", message.group_sequence)):
        if value:
            got[field] = str(value) if isinstance(value, str) else value
    return got


# ------------------------------------------------ REST

def publish_rest(running, field, value):
    message = {"body": "b"}
    if field == "body":
        try:
            message["body"] = value.decode()
        except UnicodeDecodeError:
            message.update(body=base64.b64encode(value).decode(), body_encoding="base64")
    elif field == "correlation-id":
        try:
            message["correlation_id"] = value.decode()
        except UnicodeDecodeError:
            message["attributes"] = {"correlation-id": {"base64": base64.b64encode(value).decode()}}
    elif field == "expiry":
        message["expiry_ms"] = value * 1000
    elif field == "users":
        message["attributes"] = {}
        for name, text in value:
            message["attributes"].setdefault(name, []).append(text)
    elif field == "content-encoding":
        message["attributes"] = {field: value}
    elif field != "topic":
        message[field.replace("-", "_")] = value
    status, answer = running.call("POST", "/v1/default/publish", {"topic": TOPIC, "messages": [message]})
    assert status == 201, answer
    return True


def read_rest(item):
    message = item["message"]
    body = message["body"]
    got = {"body": base64.b64decode(body) if message.get("body_encoding") else str(body).encode(), "users": []}
    if "labels" in message:
        got["labels"] = message["labels"]
    for name, value in message["attributes"].items():
        if name == "expires-at":
            got["expiry"] = (int(value) - time.time() * 1000) / 1000
        elif name == "correlation-id":
            got[name] = base64.b64decode(value["base64"]) if isinstance(value, dict) else value.encode()
        elif name in ("priority", "group-sequence"):
            got[name] = int(value)
        elif name in AS_USER + ("topic", "content-type", "reply-to"):
            got[name] = value
        else:
            got["users"] += [(name, text) for text in (value if isinstance(value, list) else [value])]
    return got


# ------------------------------------------------ WebSocket (polylog.v1)

LINKS = {}
WEBSOCKET_TEXTS = ("key", "content-type", "content-encoding", "correlation-id", "reply-to", "subject", "group-id")


def text_or_bytes(value):
    """As JSON has it: text, or {"base64"} where it is none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def publish_websocket(running, field, value):
    message = {"body": "b"}
    if field == "body":
        body = text_or_bytes(value)
        message = {"body": body} if isinstance(body, str) else {"body": body["base64"], "body_encoding": "base64"}
    elif field == "correlation-id":
        message["correlation_id"] = text_or_bytes(value)
    elif field == "expiry":
        message["expiry_ms"] = value * 1000
    elif field == "users" and value[0][0] == "traceparent":
        message["traceparent"] = value[0][1]
    elif field == "users":
        message["properties"] = [list(pair) for pair in value]
    elif field != "topic":
        message[field.replace("-", "_")] = value
    if running.pid not in LINKS:
        LINKS[running.pid] = Link(running)
    LINKS[running.pid].ok("publish", topic=TOPIC, **message)
    return True


def read_websocket(frame):
    body = frame["body"]
    got = {"body": base64.b64decode(body) if "body_encoding" in frame else str(body).encode(), "topic": frame["topic"],
           "users": [tuple(pair) for pair in frame.get("properties", [])]}
    for field in WEBSOCKET_TEXTS:
        value = frame.get(field.replace("-", "_"))
        if value is not None:
            got[field] = base64.b64decode(value["base64"]) if isinstance(value, dict) else value
    if isinstance(got.get("correlation-id"), str):
        got["correlation-id"] = got["correlation-id"].encode()
    if "traceparent" in frame:
        got["users"].append(("traceparent", frame["traceparent"]))
    if "expires_at" in frame:
        got["expiry"] = (frame["expires_at"] - time.time() * 1000) / 1000
    for field, member in (("message-id", "id"), ("priority", "priority"), ("labels", "labels"), ("group-sequence", "group_sequence")):
        if member in frame:
            got[field] = frame[member]
    return got


# ------------------------------------------------ the table

PUBLISHERS = {
    "MQTT 5": lambda running, field, value: publish_mqtt(running, 5, field, value) or True,
    "MQTT 3.1.1": lambda running, field, value: field in ("body", "topic") and
        (publish_mqtt(running, 4, field, value) or True),
    "AMQP": publish_amqp,
    "REST": publish_rest,
    "WebSocket": publish_websocket,
}
READERS = ("MQTT 5", "MQTT 3.1.1", "AMQP live", "AMQP queue", "REST", "WebSocket live", "WebSocket queue")


def arrived(field, wanted, got):
    value = got.get(field)
    if field == "expiry":
        return value is not None and EXPIRY_S - 30 <= value <= EXPIRY_S
    if field in ("labels", "users"):
        return value is not None and [tuple(v) if isinstance(v, (list, tuple)) else v for v in value] == wanted
    return value == wanted


def cell(reader, field, wanted, got):
    if reader == "MQTT 3.1.1" and field not in ("body", "topic"):
        return "-"
    return "yes" if arrived(field, wanted, got) else "no"


class Readers:
    """Everybody who reads what is published."""

    def __init__(self, running):
        self.running = running
        running.call("POST", "/v1/default/queues", {"name": "home"})
        running.call("PUT", "/v1/default/routes/matrix%2F%23", {"queue": "home"})
        running.call("POST", "/v1/default/queues/home/groups", {"groups": [{"name": "g"}, {"name": "w"}]})
        self.five = Client(running.mqtt_port, 5).connect("five")
        self.three = Client(running.mqtt_port, 4).connect("three")
        for client in (self.five, self.three):
            client.subscribe((TOPIC, 1))
        self.connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        self.live = self.connection.create_receiver("/topics/" + TOPIC, credit=1000)
        self.queue = self.connection.create_receiver("home", credit=1000)
        self.link = Link(running)
        self.link.ok("subscribe", sub="live", topic=TOPIC)
        self.link.ok("subscribe", sub="queue", queue="home", group="w")

    def read(self):
        got = {"MQTT 5": read_mqtt(self.five.delivery(), 5), "MQTT 3.1.1": read_mqtt(self.three.delivery(), 4)}
        for name, receiver in (("AMQP live", self.live), ("AMQP queue", self.queue)):
            got[name] = read_amqp(receiver.receive(timeout=SECONDS))
            receiver.accept()
        for frame in self.link.delivery(), self.link.delivery():
            got["WebSocket " + frame["sub"]] = read_websocket(frame)
            if "receipt" in frame:
                self.link.ok("ack", receipt=frame["receipt"])
        got["REST"] = read_rest(until(self.consume, SECONDS)[0])
        return got

    def consume(self):
        path = "/v1/default/queues/home/groups/g/"
        items = self.running.call("GET", path + "messages?time_wait=1")[1]
        if items:
            self.running.call("POST", path + "ack", {"receipts": [item["handler"] for item in items]})
        return items

    def close(self):
        self.five.close()
        self.three.close()
        self.connection.close()
        self.link.socket.socket.close()


def make_table(running):
    readers = Readers(running)
    lines = ["| field | from | " + " | ".join(READERS) + " |", "|---|---|" + "---|" * len(READERS)]
    for title, field, value in FIELDS:
        for publisher, publish in PUBLISHERS.items():
            if not publish(running, field, value):
                continue
            got = readers.read()
            cells = [cell(reader, field, value, got[reader]) for reader in READERS]
            lines.append(f"| {title} | {publisher} | " + " | ".join(cells) + " |")
            if "no" in cells:
                print(title, publisher, {r: got[r] for r, c in zip(READERS, cells) if c == "no"}, file=sys.stderr)
    readers.close()
    return "\n".join(lines) + "\n"


HEAD = """# What arrives where

Made by `tests/e2e/amqp_matrix.py --write`, and compared by it on every run: each field of `docs/mapping.md` published to
one topic by each protocol, and read by every other. `yes`: it arrived; `-`: that protocol has no place for it; `no`: it
does not arrive.

"""


def every_field_arrives(running):
    table = make_table(running)
    if WRITES:
        with open(PAGE, "w", encoding="utf-8") as page:
            page.write(HEAD + table)
    with open(PAGE, encoding="utf-8") as page:
        assert page.read() == HEAD + table, table


WRITES = "--write" in sys.argv
sys.argv = [word for word in sys.argv if word != "--write"]

if __name__ == "__main__":
    run(every_field_arrives)
