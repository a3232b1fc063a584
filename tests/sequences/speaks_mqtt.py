# SPDX-License-Identifier: Apache-2.0
"""MQTT in unusual order: packets that are well formed or nearly so, answers to what came and to what never did."""
import struct

from names import BODIES, CLIENTS, FILTERS, QUEUES, TOPICS
import wire

ADDRESSES = ["$queue/q0", "$queue/q1", "$queue/none", "$delayed/1/a/b", "$delayed/1/$queue/q1", "$delayed/x/a", "$SYS/x"]
SPECIAL = ["$queue/q0", "$queue/q1", "$queue/mqtt", "$share/g0/$queue/q0", "$share/g1/$queue/q2", "$queue/q0/$dead/mqtt",
           "$queue/q1/$dead/g0", "$share/s/a/#", "$share/s/#", "$share/t/+/b", "$replay/earliest/a/#",
           "$replay/0/$queue/q0", "$replay/@0/#", "$SYS/#", "$delayed/1/a", "$queue/none"]
INVALID = ["", "a/#/b", "$share//a", "$share/s", "$replay/x/a"]
WRONG = 0.005  # how often what ends the connection is done


class Mqtt:
    port = "mqtt"

    def __init__(self, draw, house):
        self.draw, self.house = draw, house
        self.version = draw.choice([4, 5, 5, 5])
        self.input = b""
        self.aliases = {}
        self.owed = []    # (packet type, identifier) of answers that it has not given
        self.recent = []  # packets of its own, to be sent once more
        self.turns = [(getattr(self, name), weight) for name, weight in (
            ("publish", 30), ("answer", 30), ("subscribe", 12), ("unsubscribe", 4), ("wrong_answer", 6), ("again", 4),
            ("settle_by_topic", 4), ("ping", 2), ("goodbye", 0.4), ("auth", 0.15), ("connect", 0.15), ("broken", 0.3))]

    def first(self):
        return self.publish() if self.draw.random() < 0.02 else self.connect()

    def more(self, heard):
        self.listen(heard)
        turn, = self.draw.choices([turn for turn, _ in self.turns], [weight for _, weight in self.turns])
        said = turn()
        if self.draw.random() < 0.1 and turn != self.connect:
            self.recent = self.recent[-9:] + [said]
        return said

    def listen(self, heard):
        self.input += heard
        while len(self.input) >= 2:
            end = next((i for i in range(1, min(5, len(self.input))) if self.input[i] < 0x80), None)
            if end is None:
                return
            size, at = wire.take_varint(self.input, 1)
            if len(self.input) < at + size:
                return
            header, body, self.input = self.input[0], self.input[at:at + size], self.input[at + size:]
            self.owe(header, body)

    def owe(self, header, body):
        kind, qos = header >> 4, header >> 1 & 3
        if kind == wire.PUBLISH and qos:
            _, at = wire.take_text(body, 0)
            self.owed.append((wire.PUBACK if qos == 1 else wire.PUBREC, struct.unpack_from(">H", body, at)[0]))
        elif kind in (wire.PUBREC, wire.PUBREL):
            self.owed.append((wire.PUBREL if kind == wire.PUBREC else wire.PUBCOMP, struct.unpack_from(">H", body)[0]))
        self.owed = self.owed[-100:]

    def identifier(self):
        return 0 if self.draw.random() < WRONG else self.draw.choice([1, 1, 2, 3, 4, 5, 6, 7, 65535])

    def pairs(self, *choices):
        """Some of the properties, none of them for MQTT 3."""
        if self.version != 5:
            return b""
        return wire.properties([(name, self.draw.choice(values)) for name, often, *values in choices
                                if self.draw.random() < often])

    def connect(self):
        draw = self.draw
        who = self.house.credentials(draw)
        will = draw.random() < 0.3
        flags = (2 if draw.random() < 0.4 else 0) | (0xC0 if who else 0)
        flags |= 4 | draw.choice([0, 8, 16]) | draw.choice([0, 0x20]) if will else 0
        flags |= 1 if draw.random() < 0.005 else 0
        body = wire.text("MQTT") + bytes([self.version, flags]) + struct.pack(">H", draw.choice([0, 1, 5, 60, 65535]))
        body += self.pairs((wire.SESSION_EXPIRY, 0.7, 0, 1, 5, 60, 0xFFFFFFFF), (wire.RECEIVE_MAXIMUM, 0.5, 1, 2, 10, 65535),
                           (wire.ALIAS_MAXIMUM, 0.3, 0, 1, 5), (wire.MAXIMUM_PACKET, 0.1, 20, 100, 1000),
                           (wire.REQUEST_PROBLEM, 0.1, 0, 1), (wire.REQUEST_RESPONSE, 0.1, 0, 1),
                           (wire.AUTH_METHOD, 0.03, "SCRAM-SHA-256", "none"), (wire.USER, 0.1, ("a", "b")))
        body += wire.text(draw.choice([*CLIENTS, *CLIENTS, ""]))
        if will:
            body += self.pairs((wire.WILL_DELAY, 0.5, 0, 1, 5, 100), (wire.MESSAGE_EXPIRY, 0.2, 0, 1, 60))
            body += wire.text(draw.choice(TOPICS + ADDRESSES)) + wire.text(draw.choice(BODIES))
        body += b"".join(wire.text(word) for word in who or ())
        return wire.packet(wire.CONNECT, 0, body)

    def publish(self, topic=None, payload=None, qos=None):
        draw = self.draw
        topic = topic or draw.choice(TOPICS + TOPICS + ADDRESSES)
        qos = draw.choice([0, 1, 1, 2]) if qos is None else qos
        alias = None
        if self.version == 5 and draw.random() < 0.3:
            alias = 17 if draw.random() < WRONG else draw.choice([1, 2, 5, 16])
            if alias in self.aliases and draw.random() < 0.5 or draw.random() < WRONG:
                topic = ""
            else:
                self.aliases[alias] = topic
        flags = qos << 1 | (8 if qos and draw.random() < 0.2 else 0) | (1 if draw.random() < 0.1 else 0)
        body = wire.text(topic) + (struct.pack(">H", self.identifier()) if qos else b"")
        body += self.pairs((wire.ALIAS, alias is not None, alias),
                           (wire.MESSAGE_EXPIRY, 0.2, 0, 1, 60), (wire.RESPONSE_TOPIC, 0.1, "a", "b"),
                           (wire.CORRELATION, 0.1, b"c"), (wire.PAYLOAD_FORMAT, 0.1, 0, 1), (wire.CONTENT_TYPE, 0.1, "text/plain"),
                           (wire.USER, 0.2, ("dedup-id", "1"), ("dedup-id", "2"), ("delay", "5"), ("x", "y")))
        return wire.packet(wire.PUBLISH, flags, body + (draw.choice(BODIES) if payload is None else payload))

    def settle_by_topic(self):
        what = self.draw.choice([b"1", b"2 100", b"3 0", b"x", b"4 99999999999", bytes(self.draw.choice(self.house.receipts)) + b" 50"])
        queue = self.draw.choice(QUEUES)
        return self.publish(f"$queue/{queue}/" + self.draw.choice(["$nack", "$extend"]), what, 1)

    def filters(self):
        return [self.draw.choice(INVALID if self.draw.random() < WRONG else FILTERS + SPECIAL) for _ in range(self.draw.choice([1, 1, 1, 2, 8]))]

    def subscribe(self):
        body = struct.pack(">H", self.identifier())
        body += self.pairs((wire.SUBSCRIPTION_ID, 0.2, 1, 2, 268435455), (wire.USER, 0.1, ("lease", "1000"), ("lease", "1")),
                           (wire.USER, 0.2, ("show", "receipt"), ("show", "offset")), (wire.USER, 0.1, ("replay", "earliest"),
                                                                                       ("replay", "0"), ("replay", "@1")))
        for name in self.filters():
            option = self.draw.choice([0, 1, 1, 2])
            if self.version == 5 and self.draw.random() < 0.3:
                # No local is an error with a share.
                option |= self.draw.choice([8, 16, 32, 4 if not name.startswith("$share") or self.draw.random() < WRONG else 0])
            body += wire.text(name) + bytes([option])
        return wire.packet(wire.SUBSCRIBE, 2, body)

    def unsubscribe(self):
        body = struct.pack(">H", self.identifier()) + self.pairs((wire.USER, 0.1, ("a", "b")))
        return wire.packet(wire.UNSUBSCRIBE, 2, body + b"".join(wire.text(name) for name in self.filters()))

    def acknowledge(self, kind, identifier):
        body = struct.pack(">H", identifier)
        if self.version == 5 and self.draw.random() < 0.3:
            reason = self.draw.choice([0, 0x10, 0x80, 0x99, 0x97]) if kind in (wire.PUBACK, wire.PUBREC) else self.draw.choice([0, 0x92])
            body += bytes([reason]) + self.pairs((wire.USER, 0.3, ("delay", "100"), ("delay", "-1")), (wire.REASON_STRING, 0.1, "r"))
        return wire.packet(kind, 2 if kind == wire.PUBREL else 0, body)

    def answer(self):
        if not self.owed:
            return b""
        return self.acknowledge(*self.owed.pop(self.draw.choice([0, 0, 0, -1])))

    def wrong_answer(self):
        kind = self.draw.choice([wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP])
        identifier = self.draw.choice([entry[1] for entry in self.owed] + [self.identifier()])
        return self.acknowledge(kind, identifier)

    def again(self):
        return self.draw.choice(self.recent) if self.recent else b""

    def ping(self):
        return wire.packet(wire.PINGREQ, 0, b"")

    def goodbye(self):
        body = b"" if self.version != 5 else bytes([self.draw.choice([0, 4, 0x81])]) + self.pairs((wire.SESSION_EXPIRY, 0.5, 0, 1, 60))
        return wire.packet(wire.DISCONNECT, 0, body)

    def auth(self):
        return wire.packet(wire.AUTH, 0, self.draw.choice([b"", b"\x18\x00", b"\x19\x00"]))

    def broken(self):
        """Cut, of a wrong type, with wrong flags, or a client's packet with a byte changed."""
        said = bytearray(self.draw.choice([self.publish, self.subscribe, self.ping, self.connect])())
        at = self.draw.randrange(len(said))
        if self.draw.random() < 0.5:
            del said[at:]
        else:
            said[at] ^= 1 << self.draw.randrange(8)
        return bytes(said)
