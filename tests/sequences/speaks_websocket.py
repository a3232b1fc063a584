# SPDX-License-Identifier: Apache-2.0
"""WebSocket: another protocol's bytes, or frames of polylog.v1, cut into fragments, with control frames and closes in between."""
import json
import re

from names import CLIENTS, FILTERS, GROUPS, QUEUES, SELECTORS, TOPICS
from websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, TEXT, close_payload, deflated, frame

RECEIPT = re.compile(rb'"receipt":"([^"]+)"')


class Unframed:
    """What a server sent, without the frames around it."""

    def __init__(self):
        self.input, self.upgraded = b"", False

    def take(self, heard):
        self.input += heard
        if not self.upgraded:
            _, found, rest = self.input.partition(b"\r\n\r\n")
            if not found:
                return b""
            self.input, self.upgraded = rest, True
        out = []
        while len(self.input) >= 2:
            size, at = self.input[1] & 0x7F, 2
            if size >= 126:
                need = 2 if size == 126 else 8
                size, at = int.from_bytes(self.input[2:2 + need], "big"), 2 + need
            if len(self.input) < at + size:
                break
            if self.input[0] & 0x0F in (CONTINUATION, TEXT, BINARY):
                out.append(self.input[at:at + size])
            self.input = self.input[at + size:]
        return b"".join(out)


class Carrier:
    """Carries what inner says. kind: of the messages; whole: each a message of its own."""

    port = "http"

    def __init__(self, draw, house, inner, protocol, kind=BINARY):
        self.draw, self.house, self.inner, self.protocol, self.kind = draw, house, inner, protocol, kind
        self.deflates = kind == TEXT and draw.random() < 0.3  # the others are not compressed
        self.unframed = Unframed()

    def first(self):
        protocol = self.protocol if self.draw.random() < 0.98 else "none"
        lines = [f"GET {self.draw.choice(['/ws', '/mqtt', '/amqp'])} HTTP/1.1", "Host: localhost", "Upgrade: websocket",
                 "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
                 f"Sec-WebSocket-Protocol: {protocol}"]
        if self.deflates:
            lines.append("Sec-WebSocket-Extensions: permessage-deflate")
        head = "\r\n".join([*lines, "", ""]).encode()
        # Not waiting for the answer is not quite right, and must harm nobody.
        return head + self.framed(self.inner.first())

    def more(self, heard):
        said = self.framed(self.inner.more(self.unframed.take(heard)))
        if self.kind == TEXT and self.inner.owes_body:
            self.inner.owes_body = False
            said += frame(BINARY, b"body") if self.draw.random() < 0.97 else b""
        chance = self.draw.random()
        if chance < 0.05:
            said += frame(self.draw.choice([PING, PONG]), b"p" * self.draw.choice([0, 1, 125]))
        elif chance < 0.0515:
            said += frame(CLOSE, self.draw.choice([b"", b"\x03", close_payload(1000), close_payload(1005), close_payload(4000, b"bye")]))
        elif chance < 0.0535:
            said += self.draw.choice([frame(3), frame(CONTINUATION, b"x"), frame(self.kind, b"x", mask=None), frame(self.kind, b"x", bits=0x20),
                                      frame(TEXT, b"\xff\xff"), frame(PING, b"p" * 126), frame(self.kind, b"x", size_as=64), frame(self.kind, b"", last=False)])
        return said

    def framed(self, data):
        if not data and (self.kind == TEXT or self.draw.random() < 0.9):
            return b""
        kind, bits = self.kind, 0
        if self.deflates and self.draw.random() < 0.5:
            data, bits = deflated(data), RSV1
        pieces = []
        while self.draw.random() < 0.3 and len(data) > 1:
            cut = self.draw.randrange(len(data))
            pieces.append(data[:cut])
            data = data[cut:]
        pieces.append(data)
        out = b""
        for i, piece in enumerate(pieces):
            out += frame(kind if i == 0 else CONTINUATION, piece, last=i == len(pieces) - 1, bits=bits if i == 0 else 0)
            if i < len(pieces) - 1 and self.draw.random() < 0.2:
                out += frame(PING, b"between")
        return out


class Polylog:
    """The frames of polylog.v1, each turn one."""

    def __init__(self, draw, house):
        self.draw, self.house, self.number = draw, house, 0
        self.owes_body = False  # it has announced a binary message
        self.turns = [(getattr(self, name), weight) for name, weight in (
            ("publish", 25), ("settle", 25), ("subscribe", 15), ("unsubscribe", 6), ("credit", 8), ("fetch", 3), ("request", 3),
            ("ping", 2), ("connect", 0.2), ("odd", 0.3))]

    def first(self):
        return self.connect() if self.draw.random() < 0.97 else self.publish()

    def more(self, heard):
        self.house.receipts.extend(RECEIPT.findall(heard)[:20])
        turn, = self.draw.choices([turn for turn, _ in self.turns], [weight for _, weight in self.turns])
        return turn()

    def op(self, name, **members):
        self.number += 1
        if self.draw.random() < 0.9:
            members["id"] = self.number if self.draw.random() < 0.97 else self.draw.choice([0, -1, 2 ** 53, "x", 1])
        if self.draw.random() < 0.02 and members:
            members[self.draw.choice(sorted(members))] = self.draw.choice([None, -1, "", [], {}, 1e300, "a" * 300])
        return json.dumps({"op": name, **members}).encode()

    def some(self, **choices):
        """Each member that may be left out, with one of its values."""
        return {name: self.draw.choice(values) for name, values in choices.items() if self.draw.random() < 0.2}

    def connect(self):
        who = self.house.credentials(self.draw)
        members = {"user": who[0], "password": who[1]} if who else {}
        return self.op("connect", client_id=self.draw.choice(CLIENTS), **members)

    def target(self):
        return {"topic": self.draw.choice(TOPICS)} if self.draw.random() < 0.6 else {"queue": self.draw.choice([*QUEUES, "none"])}

    def publish(self):
        if self.draw.random() < 0.1:
            self.owes_body = True
            return self.op("publish", **self.target(), body_frame=True)
        return self.op("publish", **self.target(), **self.some(
            key=["k", "l"], labels=[["red"], ["red", "blue"], ["1", "2", "3", "4"]], delay_ms=[0, 1, 500], retain=[True], dedup_id=["d"],
            expiry_ms=[1, 1000], priority=[0, 9, 10], properties=[[["color", "red"], ["a", 1]], [["x"]]], message_id=["m"]),
            body=self.draw.choice(["text", 1, None, {"a": [1]}, "z" * 3000, ""]))

    def name(self):
        return self.draw.choice(["s0", "s1", "s2", "s3"])

    def subscribe(self):
        draw = self.draw
        where = draw.choice([{"topic": draw.choice(FILTERS)}, {"queue": draw.choice(QUEUES)},
                             {"queue": draw.choice(QUEUES), "group": draw.choice(GROUPS)},
                             {"queue": draw.choice(QUEUES), "group": draw.choice(GROUPS), "dead": True}])
        return self.op("subscribe", sub=self.name(), **where, **self.some(
            credit=[0, 1, 10, 1000000], labels=[["red"]], selector=SELECTORS, no_local=[True], lease_seconds=[1, 30], binary=[True],
            positions=[True], retained=[False], partition=[0, 1, 7], **{"from": ["earliest", "latest", {"offset": 0}, {"time": 0}]}))

    def unsubscribe(self):
        return self.op("unsubscribe", sub=self.name())

    def credit(self):
        return self.op("credit", sub=self.name(), credit=self.draw.choice([1, 10, 1000, 1000000, 0]))

    def settle(self):
        receipts = [self.draw.choice(self.house.receipts).decode() for _ in range(self.draw.choice([1, 1, 2, 20]))]
        what = {"receipt": receipts[0]} if len(receipts) == 1 else {"receipts": receipts}
        name = self.draw.choice(["ack", "ack", "nack", "reject", "extend"])
        what |= self.some(delay_ms=[0, 100]) if name == "nack" else {"seconds": self.draw.choice([1, 30, 301])} if name == "extend" else {}
        return self.op(name, **what)

    def fetch(self):
        return self.op("fetch", queue=self.draw.choice([*QUEUES, "mqtt"]), **self.some(
            limit=[1, 1000], selector=SELECTORS, partition=[0, 3], **{"from": ["earliest", {"offset": 3}, {"time": 0}]}))

    def request(self):
        return self.op("request", **self.target(), body="?", timeout_ms=self.draw.choice([1, 100, 2000]))

    def ping(self):
        return self.op("ping")

    def odd(self):
        return self.draw.choice([b"[]", b"{", b"{\"op\":1}", b"", b"{\"op\":\"none\",\"id\":1}", b"{\"op\":\"deliver\"}"])


def polylog(draw, house):
    return Carrier(draw, house, Polylog(draw, house), "polylog.v1", TEXT)
