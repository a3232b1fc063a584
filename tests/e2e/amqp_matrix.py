# SPDX-License-Identifier: Apache-2.0
"""Every row of docs/mapping.md: each field from every protocol to every other (published to one topic, read by MQTT 5, MQTT
3.1.1, AMQP and WebSocket, live and from the queue, and REST), and what each protocol does for the tables of addresses, settlement
and refusal (matrix_rules.py). The outcome is docs/interoperability.md, which this test compares; --write makes it anew."""
import base64
import os
import sys
import time

from amqpwire import ATTACH, FLOW, TRANSFER, Described, Symbol, Wire, decode, encode, frame
from proton import Message, Timeout, symbol, uint
from proton.reactor import Container
from proton.utils import BlockingConnection

from gateway import run, until
from matrix_rules import make_rules
from standstill import needs_pace
from ws_protocol import Link
from wire import (CONTENT_TYPE, CORRELATION, MESSAGE_EXPIRY, RESPONSE_TOPIC, USER, Client)

SECONDS = 20
PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "interoperability.md")
TOPIC = "matrix/t"
EXPIRY_S = 600
DELAY_S = 2
AFTER = b"after"
SHOW = [(USER, ("show", "offset"))]

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
    ("retained, as published", "retain", True),
    ("dedup id", "dedup", "d-1"),
    ("position", "position", None),
    ("publish time", "time", None),
    ("publisher", "publisher", None),
    ("labels", "labels", ["a", "b"]),
    ("group id", "group-id", "g-1"),
    ("group sequence", "group-sequence", 5),
    ("user properties", "users", [("x", "1"), ("y", "ä")]),
    ("user properties, repeated", "users", [("x", "1"), ("x", "2")]),
    ("user properties, names of the gateway", "users", [("pl-types", "1"), ("pl-x", "2"), ("pl-pl-text", "3")]),
    ("trace", "users", [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]),
]
# Names under which fields travel where a protocol has no place of its own for them.
NOT_USERS = ("label", "to", "topic", "offset", "partition", "dedup-id")
AS_USER = ("key", "content-encoding", "message-id", "subject", "priority", "labels", "group-id", "group-sequence")


# ------------------------------------------------ MQTT

def publish_mqtt(running, version, field, value):
    props, payload, topic = [], b"b", TOPIC
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
    elif field == "dedup":
        props.append((USER, ("dedup-id", value)))
    elif field == "delay" and version == 5:
        props += [(USER, ("delay", str(value * 1000))), (MESSAGE_EXPIRY, EXPIRY_S)]
    elif field == "delay":
        topic = f"$delayed/{value}/{TOPIC}"
    elif field in AS_USER:
        props.append((USER, (field, str(value))))
    with Client(running.mqtt_port, version).connect("publisher") as client:
        more = {"props": props} if version == 5 else {}
        assert client.publish(topic, payload, qos=1, retain=field == "retain", **more) < 0x80
    return True


def read_mqtt(packet, version):
    got = {"topic": packet.topic, "body": packet.payload, "retain": bool(packet.flags & 1)}
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
        elif name == "topic":
            got["topic"] = value
        elif name == "offset":
            got["position"] = int(value)
        elif name in AS_USER:
            got[name] = value
    got["users"] = [pair for pair in users if pair[0] not in AS_USER + NOT_USERS]
    return got


# ------------------------------------------------ AMQP

SENDERS = {}
NOTHING = ("topic", "position", "time", "publisher")  # what a message has anyhow

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
    elif field == "dedup":
        message.id, message.annotations = value, {symbol("x-opt-dedup"): True}
    elif field == "retain":
        message.annotations = {symbol("x-opt-retain"): True}
    elif field == "delay":
        message.ttl, message.annotations = EXPIRY_S, {symbol("x-opt-delivery-delay"): uint(value * 1000)}
    elif field not in NOTHING:
        setattr(message, {"message-id": "id"}.get(field, field.replace("-", "_")), value)
    if running.pid not in SENDERS:
        container = Container()
        container.container_id = "sender"
        connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, container=container)
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
    for field, name in (("position", "x-opt-offset"), ("retain", "x-opt-retain"), ("time", "x-opt-enqueued-time")):
        if symbol(name) in annotations:
            got[field] = annotations[symbol(name)]
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
    elif field == "dedup":
        message["dedup_id"] = value
    elif field == "delay":
        message.update(delay_ms=value * 1000, expiry_ms=EXPIRY_S * 1000)
    elif field not in NOTHING + ("retain",):
        message[field.replace("-", "_")] = value
    call = {"topic": TOPIC, "messages": [message], "retain": field == "retain"}
    status, answer = running.call("POST", "/v1/default/publish", call)
    assert status == 201, answer
    return True


def read_rest(item):
    message = item["message"]
    body = message["body"]
    got = {"body": base64.b64decode(body) if message.get("body_encoding") else str(body).encode(), "users": [],
           "position": message["offset"]}
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
    elif field == "dedup":
        message["dedup_id"] = value
    elif field == "delay":
        message.update(delay_ms=value * 1000, expiry_ms=EXPIRY_S * 1000)
    elif field not in NOTHING:
        message[field.replace("-", "_")] = value
    if running.pid not in LINKS:
        LINKS[running.pid] = Link(running)
    LINKS[running.pid].ok("publish", topic=TOPIC, **message)
    return True


def read_websocket(frame):
    body = frame["body"]
    got = {"body": base64.b64decode(body) if "body_encoding" in frame else str(body).encode(), "topic": frame["topic"],
           "users": [tuple(pair) for pair in frame.get("properties", []) if pair[0] not in NOT_USERS],
           "retain": frame.get("retain"), "position": frame.get("offset"), "time": frame["time"], "publisher": frame.get("publisher")}
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
    "MQTT 5": lambda running, field, value: publish_mqtt(running, 5, field, value),
    "MQTT 3.1.1": lambda running, field, value: field in OLD_MQTT and publish_mqtt(running, 4, field, value),
    "AMQP": publish_amqp,
    "REST": publish_rest,
    "WebSocket": publish_websocket,
}
WHO = {"MQTT 5": "-/publisher", "MQTT 3.1.1": "-/publisher", "AMQP": "-/sender", "REST": "-/", "WebSocket": "-/test"}
READERS = ("MQTT 5", "MQTT 5 queue", "MQTT 3.1.1", "AMQP live", "AMQP queue", "REST", "WebSocket live", "WebSocket queue")
OLD_MQTT = NOTHING + ("body", "retain", "delay")  # what MQTT 3.1.1 can say
# Who has no place for it, as docs/mapping.md says.
PLACELESS = {
    "retain": ("MQTT 5 queue", "REST"),
    "position": ("MQTT 5", "AMQP live"),
    "time": ("MQTT 5", "MQTT 5 queue", "AMQP live", "REST"),
    "publisher": ("MQTT 5", "MQTT 5 queue", "AMQP live", "AMQP queue", "REST"),
}


def arrived(field, wanted, got):
    value = got.get(field)
    if field == "expiry":
        return value is not None and EXPIRY_S - 30 <= value <= EXPIRY_S
    if field == "time":
        return value is not None and abs(value / 1000 - time.time()) < SECONDS
    if field == "dedup":
        return got["body"] == b"b" and got["again"] == AFTER
    if field == "delay":
        return got["after"] >= DELAY_S
    if field in ("labels", "users"):
        return value is not None and [tuple(v) if isinstance(v, (list, tuple)) else v for v in value] == wanted
    return value == wanted


def cell(reader, field, wanted, got):
    if reader in PLACELESS.get(field, ()) or (reader == "MQTT 3.1.1" and field not in ("body", "topic", "delay", "dedup")):
        return "-"
    return "yes" if arrived(field, wanted, got) else "no"


class Readers:
    """Everybody who reads what is published."""

    def __init__(self, running):
        self.running, self.count, self.items = running, 0, []
        running.call("POST", "/v1/default/queues", {"name": "home"})
        running.call("PUT", "/v1/default/routes/matrix%2F%23", {"queue": "home"})
        running.call("POST", "/v1/default/queues/home/groups", {"groups": [{"name": "g"}, {"name": "w"}]})
        self.five = Client(running.mqtt_port, 5).connect("five")
        self.three = Client(running.mqtt_port, 4).connect("three")
        self.five.subscribe((TOPIC, 1 | 8))
        self.three.subscribe((TOPIC, 1))
        self.kept = Client(running.mqtt_port, 5).connect("kept")
        self.kept.subscribe(("$share/m/$queue/home", 1), props=SHOW)
        self.connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        self.live = self.connection.create_receiver("/topics/" + TOPIC, credit=1000)
        self.queue = self.connection.create_receiver("home", credit=1000)
        self.link = Link(running)
        self.link.ok("subscribe", sub="live", topic=TOPIC)
        self.link.ok("subscribe", sub="queue", queue="home", group="w")

    def read(self):
        self.count += 1
        got = {"MQTT 5": read_mqtt(self.five.delivery(), 5), "MQTT 3.1.1": read_mqtt(self.three.delivery(), 4),
               "MQTT 5 queue": read_mqtt(self.kept.delivery(), 5)}
        for name, receiver in (("AMQP live", self.live), ("AMQP queue", self.queue)):
            got[name] = read_amqp(receiver.receive(timeout=SECONDS))
            receiver.accept()
        for frame in self.link.delivery(), self.link.delivery():
            got["WebSocket " + frame["sub"]] = read_websocket(frame)
            if "receipt" in frame:
                self.link.ok("ack", receipt=frame["receipt"])
        if not self.items:
            self.items = until(self.consume, SECONDS)
        got["REST"] = read_rest(self.items.pop(0))
        return got

    def expect_nothing(self):
        for client in self.five, self.three, self.kept:
            client.expect_silence(0.05)
        for receiver in self.live, self.queue:
            try:
                raise AssertionError(f"{receiver.receive(timeout=0.05)} instead of nothing")
            except Timeout:
                pass
        self.link.silence(0.05)
        self.items += self.consume(0)
        assert not self.items, self.items

    def consume(self, seconds=1):
        path = "/v1/default/queues/home/groups/g/"
        items = self.running.call("GET", path + f"messages?time_wait={seconds}")[1]
        if items:
            self.running.call("POST", path + "ack", {"receipts": [item["handler"] for item in items]})
        return items

    def close(self):
        for client in self.five, self.three, self.kept:
            client.close()
        self.connection.close()
        self.link.socket.socket.close()


def read_field(running, readers, publisher, field, value):
    """What each reader has got; None where that protocol cannot say it."""
    publish = PUBLISHERS[publisher]
    if field == "dedup":
        value += publisher
    if not publish(running, field, value):
        return None
    if field == "dedup":
        publish(running, field, value)
        publish(running, "body", AFTER)
    got = readers.read()
    if field == "dedup":
        again = readers.read()
        for reader in READERS:
            got[reader]["again"] = again[reader]["body"]
    return got


def line_of(title, publisher, field, value, got):
    cells = [cell(reader, field, value, got[reader]) for reader in READERS]
    if "no" in cells:
        print(title, publisher, {r: got[r] for r, c in zip(READERS, cells) if c == "no"}, file=sys.stderr)
    return f"| {title} | {publisher} | " + " | ".join(cells) + " |"


def delays(running, readers):
    """All wait together. Who has an expiry sees what is left of it when the delay is over."""
    began, said, left = {}, [], []
    for publisher, publish in PUBLISHERS.items():
        began[publisher] = time.monotonic()
        if publish(running, "delay", DELAY_S):
            said.append(publisher)
            time.sleep(0.02)  # they are due in this order
    readers.expect_nothing()
    assert time.monotonic() - began["MQTT 5"] < DELAY_S - 0.2, "the machine stood still"
    lines = []
    for publisher in said:
        got = readers.read()
        for reader in READERS:
            got[reader]["after"] = time.monotonic() - began[publisher]  # of them all, and none came early
        lines.append(line_of("delay", publisher, "delay", DELAY_S, got))
        if publisher != "MQTT 3.1.1":
            cells = ["-" if reader == "MQTT 3.1.1" else
                     "yes" if EXPIRY_S - SECONDS <= got[reader].get("expiry", 0) <= EXPIRY_S - DELAY_S else "no" for reader in READERS]
            left.append(f"| expiry, counted down | {publisher} | " + " | ".join(cells) + " |")
    return lines + left


def forget(running):
    with Client(running.mqtt_port, 5).connect("publisher") as client:
        client.publish(TOPIC, b"", 1, retain=True)


def retained(running):
    """To a subscription that comes later, as retained; REST lists it."""
    lines = []
    for publisher, publish in PUBLISHERS.items():
        publish(running, "retain", True)
        got = {}
        for name, version in (("MQTT 5", 5), ("MQTT 3.1.1", 4)):
            with Client(running.mqtt_port, version).connect("late") as late:
                late.subscribe((TOPIC, 1))
                got[name] = bool(late.delivery().flags & 1)
        connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        late = connection.create_receiver("/topics/" + TOPIC, credit=10)
        got["AMQP live"] = late.receive(timeout=SECONDS).annotations[symbol("x-opt-retain")]
        connection.close()
        with Link(running) as link:
            link.ok("subscribe", sub="late", topic=TOPIC)
            got["WebSocket live"] = link.delivery().get("retained", False)
        got["REST"] = TOPIC in str(running.call("GET", "/v1/default/retained")[1])
        cells = [{True: "yes", False: "no", None: "-"}[got.get(reader)] for reader in READERS]
        lines.append(f"| retained, to who comes later | {publisher} | " + " | ".join(cells) + " |")
        forget(running)
        assert TOPIC not in str(running.call("GET", "/v1/default/retained")[1])
    return lines


def footer(running):
    """What follows the body: AMQP alone has it."""
    given = {Symbol("x-sum"): "1f"}
    forget(running)
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        for handle, address in enumerate(("/topics/" + TOPIC, "home")):
            wire.send(frame(ATTACH, [address, handle, True, None, None, Described(0x28, [address]), Described(0x29, [None])]))
            wire.expect(ATTACH)
        target = Described(0x29, ["/topics/" + TOPIC])
        wire.send(frame(ATTACH, ["s", 2, False, None, None, Described(0x28, [None]), target, None, None, 0]))
        wire.expect(FLOW)
        for handle in 0, 1:
            wire.send(frame(FLOW, [0, 100, 0, 100, handle, 0, 5]))
        wire.send(frame(TRANSFER, [2, 0, b"d", 0], encode(Described(0x75, b"b")) + encode(Described(0x78, given))))
        came = {}
        while len(came) < 2:
            transfer = wire.expect(TRANSFER)
            fields, end = decode(transfer)
            foot, payload = None, transfer[end:]
            while payload:
                section, end = decode(payload)
                payload = payload[end:]
                foot = section.value if section.code == 0x78 else foot
            if foot is not None:
                came["AMQP queue" if fields[0] else "AMQP live"] = "yes" if foot == given else "no"
    return ["| footer | AMQP | " + " | ".join(came.get(reader, "-") for reader in READERS) + " |"]


def make_table(running):
    readers = Readers(running)
    lines = ["| field | from | " + " | ".join(READERS) + " |", "|---|---|" + "---|" * len(READERS)]
    for title, field, value in FIELDS:
        for publisher in PUBLISHERS:
            got = read_field(running, readers, publisher, field, value)
            if got is not None:
                wanted = {"position": readers.count - 1, "publisher": WHO[publisher]}.get(field, value)
                lines.append(line_of(title, publisher, field, wanted, got))
    lines += delays(running, readers)
    readers.close()
    return "\n".join(lines + footer(running) + retained(running)) + "\n"


HEAD = """# What arrives where

Made by `tests/e2e/amqp_matrix.py --write`, and compared by it on every run: each row of `docs/mapping.md`.

## Fields
Published to one topic by each protocol, and read by every other. `yes`: it arrived; `-`: that protocol has no place for it; `no`: it
does not arrive.

"""


@needs_pace
def every_field_arrives(running):
    page = HEAD + make_table(running) + make_rules(running)
    if WRITES:
        with open(PAGE, "w", encoding="utf-8") as to:
            to.write(page)
    with open(PAGE, encoding="utf-8") as there:
        assert there.read() == page, page


WRITES = "--write" in sys.argv
sys.argv = [word for word in sys.argv if word != "--write"]

if __name__ == "__main__":
    run(every_field_arrives)
