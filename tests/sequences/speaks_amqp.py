# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0 in unusual order: sessions and links that come and go, deliveries in many pieces, settlements of what there is and
is not, drains, durable ends and shares, dynamic nodes, transactions, requests to $management."""
import struct

from names import CLIENTS, GROUPS, QUEUES, SELECTORS
from amqpwire import (AMQP, ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, FLOW, INIT, OPEN, SASL, TRANSFER, Described, Raw, Symbol,
                      decode, encode, frame, ubyte)

DECLARE, DISCHARGE, DECLARED, TRANSACTIONAL = 0x31, 0x32, 0x33, 0x34
COORDINATOR, SOURCE, TARGET = 0x30, 0x28, 0x29
SOURCES = ["/topics/a", "/topics/a/#", "q0", "/queues/q1", "/queues/q0/groups/g0", "/queues/q0/groups/g0/deadletters", "/queues/none",
           "none/..", "$management", "s0", None]
TARGETS = ["/topics/a", "/topics/a/b", "q0", "/queues/q1", "q2", "s0", "none/..", "$management", "", None]
CAPABILITIES = [None, None, Symbol("topic"), Symbol("temporary-queue"), Symbol("queue")]
SHARED = Raw(b"\xe0\x10\x02\xa3\x06shared\x06global")
SOLE = Symbol("sole-connection-for-container")
TAGS = [b"t", b"", b"x" * 32, *(b"u%d" % i for i in range(9))]
KINDS = ["standard", "fifo", "stream"]
EMPTY = b"\0\0\0\x08\x02\0\0\0"  # keeps alive
WIDE = 0xFFFFFFFF


class Link:
    def __init__(self, name, receives):
        self.name, self.receives = name, receives
        self.coordinates = False
        self.continues = False  # the last transfer said that more comes
        self.delivery = None
        self.pieces = []  # of a large message, that are to come
        self.manages = False


class Session:
    def __init__(self):
        self.next_delivery, self.links = 0, {}


class Amqp:
    port = "amqp"

    def __init__(self, draw, house):
        self.draw, self.house = draw, house
        self.sessions = {}
        self.transactions = [b"\0", b"12345678"]

    def first(self):
        who = self.house.credentials(self.draw)
        said = b""
        if who:
            said = SASL + frame(INIT, [Symbol("PLAIN"), f"\0{who[0]}\0{who[1]}".encode()], kind=1)
        return said + AMQP + frame(OPEN, [self.draw.choice(CLIENTS), None, self.draw.choice([None, 512, 100000]),
                                          Raw(b"\x60" + self.draw.choice([b"\xff\xff", b"\0\x05"])), self.draw.choice([None, 1000, 60000]),
                                          None, None, None, SOLE if self.draw.random() < 0.05 else None])

    def more(self, heard):
        self.learn(heard)
        channel = self.draw.choice([0, 0, 1, 2])
        session = self.sessions.get(channel)
        if session is None and self.draw.random() < 0.97:
            session = self.sessions[channel] = Session()
            session.next_delivery = self.draw.choice([0, 5, WIDE - 1])
            return frame(BEGIN, [None, session.next_delivery, self.draw.choice([0, 5, 1000, WIDE]), self.draw.choice([0, 1000])], channel=channel)
        session = session or Session()
        turn, = self.draw.choices([self.attach, self.transfer, self.flow, self.disposition, self.detach, self.transaction, self.end],
                                  [24, 30, 14, 14, 7, 8, 1.5])
        return turn(session, channel)

    def learn(self, heard):
        """The transactions that were declared."""
        at = heard.find(b"\x00\x53\x33")
        while at >= 0:
            try:
                state, _ = decode(heard, at)
                self.transactions = [*self.transactions[-8:], state.value[0]]
            except (IndexError, AttributeError, UnicodeDecodeError, TypeError):
                pass  # cut where what was heard ends
            at = heard.find(b"\x00\x53\x33", at + 1)

    def outcome(self):
        return self.draw.choice([Described(0x24, []), Described(0x24, []), Described(0x25, []), Described(0x26, []),
                                 Described(0x27, [True, True]), Described(0x27, [True, False]), Described(0x23, [1, 5]),
                                 Described(0x25, [Described(0x1d, [Symbol("x:y"), "z" * self.draw.choice([1, 40, 3000])])]),
                                 Described(0x27, [False, False, {Symbol("x-opt-delivery-delay"): 50, Symbol("x-a"): "n" * 40}])])

    def state(self):
        if self.draw.random() < 0.25:
            return Described(TRANSACTIONAL, [self.draw.choice(self.transactions), self.draw.choice([None, self.outcome()])])
        return self.draw.choice([None, None, self.outcome()])

    def handle(self, session, wanted=lambda link: True):
        """One that is attached, or, rarely, one that may not be. None: there is none."""
        if self.draw.random() < 0.02:
            return self.draw.choice([0, 1, 2, 3, 0x80000000, WIDE])
        known = [handle for handle, link in session.links.items() if wanted(link)]
        return self.draw.choice(known) if known else None

    def attach(self, session, channel):
        draw = self.draw
        handle, receives = draw.choice([0, 1, 2, 3, 4, 0x80000000, WIDE]), draw.random() < 0.5
        if handle in session.links and draw.random() < 0.97:
            return b""
        link = Link(draw.choice(["a", "b", "c", "d", "e", "d|1", "d|2", "d|global"]), receives)
        taken = any((one.name, one.receives) == (link.name, receives) for one in session.links.values())
        if taken and draw.random() < 0.97:
            link.name = f"n{draw.randrange(10 ** 6)}"
        session.links[handle] = link
        durable, expiry = draw.choice([0, 0, 0, 1, 2]), Symbol(draw.choice(["never", "session-end", "link-detach", "connection-close"]))
        timeout = draw.choice([0, 5, 60])
        source = Described(SOURCE, [draw.choice(SOURCES) if receives else None, durable if receives else 0, expiry, timeout, *self.choice_of_source()])
        if receives and draw.random() < 0.1:  # several connections have it, by whatever link
            expiry = Symbol("never")
            source = Described(SOURCE, ["/topics/a/#", 2, expiry, 0, False, None, None, None, None, None,
                                        draw.choice([SHARED, Symbol("shared")])])
        address = None if receives else draw.choice(TARGETS)
        link.manages = address == "$management"
        target = Described(TARGET, [address, 0 if receives else durable, expiry, timeout, draw.random() < 0.05, None, draw.choice(CAPABILITIES)])
        if not receives and draw.random() < 0.15:
            link.coordinates, target = True, Described(COORDINATOR, [])
        if draw.random() < 0.04:
            source = None
        if draw.random() < 0.02:
            target = None
        unsettled = draw.choice([None, None, {}, {tag: self.state() for tag in draw.sample(TAGS, draw.randrange(len(TAGS)))}])
        return frame(ATTACH, [link.name, handle, receives, draw.choice([None, ubyte(0), ubyte(1), ubyte(2)]),
                              draw.choice([None, ubyte(0), ubyte(1)]), source, target, unsettled, draw.choice([None, None, True]),
                              None if receives else draw.choice([0, 0, 7, WIDE]), draw.choice([None, None, Raw(b"\x80" + b"\0" * 6 + b"\x08\0")]),
                              None, None, draw.choice([None, {Symbol("x-opt-lease"): 1000}])], channel=channel)

    def choice_of_source(self):
        """The fields of a source from dynamic on, often none."""
        draw = self.draw
        if draw.random() < 0.6:
            return []
        filters = draw.choice([None, None, self.filter("apache.org:selector-filter:string", draw.choice(SELECTORS)),
                               self.filter("rabbitmq:stream-offset-spec", draw.choice(["first", "last", "next", "0", "7", "x"])),
                               self.filter("apache.org:no-local-filter:list", [])])
        return [draw.choice([False, False, True]), None, draw.choice([None, Symbol("move"), Symbol("copy")]), filters,
                draw.choice([None, self.outcome()]), None, draw.choice(CAPABILITIES)]

    def filter(self, name, value):
        return {Symbol("f"): Raw(b"\x00" + encode(Symbol(name)) + encode(value))}

    def transfer(self, session, channel):
        draw = self.draw
        handle = self.handle(session, lambda link: not link.receives)
        if handle is None:
            return b""
        link = session.links.get(handle) or Link("", False)
        if link.coordinates and draw.random() < 0.9:
            return self.transaction(session, channel)
        if link.continues:
            identity = draw.choice([None, link.delivery])
        else:
            identity = link.delivery = session.next_delivery
            session.next_delivery = (session.next_delivery + 1) & WIDE
        if draw.random() < 0.02:
            identity = draw.choice([None, 7, session.next_delivery])
        if not link.continues and draw.random() < 0.06:
            return self.large(session, handle, link, channel)
        if link.pieces and link.continues and draw.random() < 0.9:
            return self.piece(handle, link, channel)
        more, aborted = draw.choice([False, False, True, None]), draw.random() < 0.1
        link.continues, link.pieces = bool(more) and not aborted, []
        return frame(TRANSFER, [handle, identity, draw.choice([*TAGS, None]), 0, draw.choice([None, None, True, False]),
                                more, None, self.state(), draw.choice([None, None, None, True]), aborted or None, draw.choice([None, True])],
                     self.request() if link.manages and draw.random() < 0.9 else
                     draw.choice([b"\x00\x53\x75\xa0\x01x", b"\x00\x53\x77\xa1\x02hi", b"\x00\x53\x75\xb0\0\0\x08\0" + b"l" * 2048, b"",
                                  b"\x00\x53\x75", b"\xa0\x02xx", self.addressed()]), channel=channel)

    def large(self, session, handle, link, channel):
        """The first piece of it, and with luck others at once."""
        draw = self.draw
        size, piece = draw.choice([3000, 20000, 150000]), draw.choice([900, 1100, 5000, 15000])
        message = b"\x00\x53\x75\xb0" + struct.pack(">I", size) + b"L" * size
        link.pieces = [message[at:at + piece] for at in range(0, len(message), piece)]
        link.continues = True
        first = frame(TRANSFER, [handle, link.delivery, draw.choice(TAGS), 0, draw.choice([None, True]), True, None, self.state()],
                      link.pieces.pop(0), channel=channel)
        return first + b"".join(self.piece(handle, link, channel) for _ in range(draw.choice([0, 1, 5, 200])) if link.continues)

    def piece(self, handle, link, channel):
        aborted = self.draw.random() < 0.02
        payload = link.pieces.pop(0) if link.pieces else b""
        link.continues = bool(link.pieces) and not aborted
        if aborted:
            link.pieces = []
        return frame(TRANSFER, [handle, None, None, None, None, link.continues, None, None, None, aborted or None], payload, channel=channel)

    def request(self):
        """To $management; s0 is there only when somebody has made it so."""
        draw = self.draw
        operation = draw.choice(["CREATE", "READ", "UPDATE", "DELETE", "QUERY", "GET-TYPES", "none"])
        kind = draw.choice(["queue", "queue", "group"])
        name = draw.choice(["q0", "q1", "s0", "s0", "none/.."] if kind == "queue" else ["q0/groups/g0", "q1/groups/g5", "s0/groups/g0"])
        attributes = draw.choice([None, {"kind": draw.choice(KINDS)}, {"lease_ms": 1000}, {"max_consume_count": 2}, {"selector": "a = 1"},
                                  {"partitions": draw.choice([1, 3, 0, WIDE])}, {"max_records": draw.choice([0, 5])}])
        reply_to = draw.choice([None, "q2", "/topics/a", "r"])
        return (encode(Described(0x73, ["m", None, None, None, reply_to])) + encode(Described(0x74, {"operation": operation, "type": kind, "name": name}))
                + encode(Described(0x77, attributes)))

    def addressed(self):
        """A message for the anonymous relay, with a delay now and then."""
        annotations = b"\x00\x53\x72\xc1\x1c\x02\xa3\x14x-opt-delivery-delay\x70\0\0\0\x64" if self.draw.random() < 0.3 else b""
        return annotations + encode(Described(0x73, [None, None, self.draw.choice(["q0", "/topics/a", "none/.."])])) + b"\x00\x53\x75\xa0\x01r"

    def transaction(self, session, channel):
        draw = self.draw
        handle = self.handle(session, lambda link: link.coordinates)
        if handle is None:
            return b""
        identity = session.next_delivery
        session.next_delivery = (session.next_delivery + 1) & WIDE
        if draw.random() < 0.4:
            body = Described(DECLARE, [None])
        else:
            body = Described(DISCHARGE, [draw.choice(self.transactions[-3:]), draw.choice([True, False, None])])
        return frame(TRANSFER, [handle, identity, b"x%d" % identity, 0, draw.choice([False, False, None, True])], b"\x00\x53\x77" + encode(body),
                     channel=channel)

    def flow(self, session, channel):
        draw = self.draw
        fields = [draw.choice([None, 0, 1]), draw.choice([0, 10, 1000, WIDE]), 0, draw.choice([0, 1000]), draw.choice([None, self.handle(session)]),
                  draw.choice([None, 0, 5]), draw.choice([None, 0, 1, 10, 1000, WIDE]), None, draw.choice([None, True, False]),
                  draw.choice([None, True]), draw.choice([None, {Symbol("x"): "y" * 2000}])]
        return frame(FLOW, fields[:draw.choice([10, 10, 11, 7, 5])], channel=channel)

    def disposition(self, session, channel):
        draw = self.draw
        first = draw.choice([0, 0, 1, 2, 3, 5, WIDE - 1, session.next_delivery])
        last = draw.choice([None, first, (first + 1) & WIDE, (first + 5) & WIDE, (first + 300) & WIDE])
        return frame(DISPOSITION, [draw.choice([True, True, False]), first, last, draw.choice([None, True, False]), self.state()], channel=channel)

    def detach(self, session, channel):
        handle = self.handle(session)
        if handle is None:
            return b""
        session.links.pop(handle, None)
        return frame(DETACH, [handle, self.draw.choice([True, False, None])], channel=channel)

    def end(self, session, channel):
        if self.draw.random() < 0.1:
            return frame(CLOSE, [])
        if self.draw.random() < 0.2:
            return EMPTY
        self.sessions.pop(channel, None)
        return frame(END, [], channel=channel)
