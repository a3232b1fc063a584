# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0 to and from queues, with Qpid Proton's own client: attach, outcomes, credit, drain, what a message keeps."""
import socket
import threading
import uuid

from proton import (Delivery, Described, Message, SSLDomain, Timeout, byte, decimal64, float32, int32, symbol, timestamp, ubyte, uint,
                    ulong, Endpoint)
from proton.handlers import MessagingHandler
from proton.reactor import AtLeastOnce, AtMostOnce, Container, Filter, LinkOption, Selector
from proton.utils import BlockingConnection, ConnectionClosed, LinkDetached

import gateway
from amqpwire import (ACCEPTED, AMQP, ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, FLOW, OPEN, REJECTED, TRANSFER,
                      Described as Performative, Symbol, Wire, decode, disposition, frame)
from gateway import queue, run, until
from refusals import group
from standstill import needs_pace
from websocket import BINARY, Socket

SECONDS = 20


def connect(running, **options):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, **options)


def send(connection, address, *messages):
    sender = connection.create_sender(address)
    for message in messages:
        sender.send(message)
    sender.close()


def receive(connection, address, count, outcome="accept", **options):
    receiver = connection.create_receiver(address, credit=count, **options)
    messages = []
    for _ in range(count):
        messages.append(receiver.receive(timeout=SECONDS))
        getattr(receiver, outcome)()
    receiver.close()
    return messages


def refused(call, condition):
    try:
        call()
    except LinkDetached as error:
        assert error.condition == condition, error
        return
    raise AssertionError(f"not refused with {condition}")


def what_is_sent_is_received_in_order(running):
    queue(running, "orders")
    connection = connect(running)
    send(connection, "orders", *[Message(body=f"b{i}", id=i) for i in range(50)])
    assert [m.body for m in receive(connection, "/queues/orders", 50)] == [f"b{i}" for i in range(50)]
    # Accepted is done: nothing comes again, and another group begins at the first record.
    assert [m.id for m in receive(connection, "/queues/orders/groups/other", 50)] == list(range(50))
    connection.close()


def every_type_keeps_its_value(running):
    queue(running, "types")
    connection = connect(running)
    sent = Message(
        id=uuid.UUID(int=5), user_id=b"me", address="somewhere", subject="subject", reply_to="types",
        correlation_id=ulong(2 ** 63), content_type="text/plain", content_encoding="gzip", expiry_time=0,
        creation_time=12.5, group_id="group", group_sequence=7, reply_to_group_id="back", priority=9, durable=True,
        annotations={symbol("x-own"): [1, {"a": "b"}], symbol("x-opt-partition-key"): "key"},
        instructions={symbol("x-hop"): 1},
        properties={"text": "ä", "true": True, "int": int32(-5), "long": 2 ** 40, "uint": uint(70000), "null": None,
                    "ulong": ulong(1), "ubyte": ubyte(3), "double": 2.5, "float": float32(0.5), "bytes": b"text",
                    "raw": b"\xff", "uuid": uuid.UUID(int=9), "time": timestamp(123), "symbol": symbol("s"),
                    "subject": "mine", "topic": "mine too", "decimal": decimal64(77), "labels": "mine, too",
                    "pl-types": "mine", "pl-x": uint(5), "pl-pl-": None},
        body={"list": [1, 2.5, None, "x"], "described": Described(symbol("d"), [True])})
    send(connection, "types", sent)
    got, = receive(connection, "types", 1)
    for field in ("id", "user_id", "address", "subject", "reply_to", "correlation_id", "content_type",
                  "content_encoding", "creation_time", "group_id", "group_sequence", "reply_to_group_id", "priority",
                  "durable", "body", "instructions"):
        assert getattr(got, field) == getattr(sent, field), (field, getattr(got, field))
        assert type(getattr(got, field)) is type(getattr(sent, field)), field
    for name in {*got.properties, *sent.properties}:
        assert got.properties.get(name) == sent.properties.get(name), (name, got.properties.get(name))
    assert got.properties.keys() == sent.properties.keys()
    for name, value in sent.properties.items():
        assert type(got.properties[name]) is type(value), (name, type(got.properties[name]))
    assert got.annotations[symbol("x-own")] == [1, {"a": "b"}]
    assert got.annotations[symbol("x-opt-partition-key")] == "key"
    assert got.annotations[symbol("x-opt-offset")] == 0
    connection.close()


def annotations_are_what_they_were(running):
    """Of whatever type they came, and those that asked something of the gateway too. Where a record lies is the gateway's to say."""
    queue(running, "notes")
    running.call("POST", "/v1/default/queues/notes/groups", {"groups": [{"name": "g"}]})
    connection = connect(running)
    own = {symbol("x-opt-offset"): "mine", symbol("x-opt-enqueued-time"): "mine", symbol("x-opt-partition"): "mine"}
    taken = {symbol("x-opt-partition-key"): symbol("k"), symbol("x-opt-labels"): [symbol("a"), "b"], symbol("x-opt-dedup"): True,
             symbol("x-opt-delivery-delay"): uint(1), symbol("x-opt-retain"): False}
    lists = [taken, {symbol("x-opt-labels"): "a,b"}, {symbol("x-opt-labels"): symbol("a")}, {symbol("x-opt-labels"): []},
             {symbol("x-opt-labels"): ["a", "b"]}, {symbol("x-opt-partition-key"): "k"}, {symbol("x-opt-partition-key"): b"k"},
             {symbol("x-opt-partition-key"): b"\xff"}, {symbol("x-opt-partition-key"): symbol("k"), symbol("x-own"): 1},
             {symbol("x-opt-delivery-time"): timestamp(1)}, {symbol("x-opt-retain"): True}, {symbol("x-opt-dedup"): False}]
    send(connection, "notes", *[Message(id=str(i), body=i, annotations={**given, **own}) for i, given in enumerate(lists)])
    got = {m.body: m.annotations for m in receive(connection, "notes", len(lists))}
    for i, given in enumerate(lists):
        shown = {name: value for name, value in got[i].items() if name not in own}
        assert shown == given and got[i][symbol("x-opt-offset")] != "mine", (shown, given)
        for name, value in given.items():
            assert type(shown[name]) is type(value), (name, shown[name])
            if isinstance(value, list):
                assert list(map(type, shown[name])) == list(map(type, value)), shown[name]
    # They are taken for what they say all the same.
    items = running.call("GET", "/v1/default/queues/notes/groups/g/messages?max_msgs=20")[1]
    first, = [item["message"] for item in items if item["message"]["body"] == "0"]
    assert first["labels"] == ["a", "b"] and first["attributes"]["key"] == "k", first
    connection.close()


def bodies_are_what_they_were(running):
    queue(running, "bodies")
    connection = connect(running)
    bodies = ["text", b"bytes", "", b"", None, 5, [1, "two"], {"a": {"b": [None]}}, "x" * 1000, b"y" * 1000, True,
              uuid.UUID(int=1), "z" * 300000]
    send(connection, "bodies", *[Message(body=body, inferred=isinstance(body, bytes)) for body in bodies])
    for body, got in zip(bodies, receive(connection, "bodies", len(bodies))):
        assert got.body == body and type(got.body) is type(body), (got.body, body)
    connection.close()


def outcomes_decide(running):
    queue(running, "work", redrive_policy="enable", max_consume_count=2)
    connection = connect(running)
    send(connection, "work", Message(body="a"))
    receiver = connection.create_receiver("work", credit=1)
    first = receiver.receive(timeout=SECONDS)
    assert first.delivery_count == 0 and first.first_acquirer
    receiver.release(delivered=False)
    receiver.flow(1)
    again = receiver.receive(timeout=SECONDS)
    assert again.body == "a" and again.delivery_count == 0 and not again.first_acquirer
    receiver.fetcher.unsettled[-1].local.failed = True
    receiver.settle(Delivery.MODIFIED)
    receiver.flow(1)
    third = receiver.receive(timeout=SECONDS)
    assert third.delivery_count == 1 and not third.first_acquirer
    receiver.reject()
    receiver.close()
    dead, = receive(connection, "/queues/work/groups/amqp/deadletters", 1)
    assert dead.body == "a"
    connection.close()


def what_was_not_settled_is_offered_again(running):
    queue(running, "again")
    connection = connect(running)
    send(connection, "again", *[Message(body=i) for i in range(3)])
    receiver = connection.create_receiver("again", credit=3)
    tags = []
    for _ in range(3):
        receiver.receive(timeout=SECONDS)
        tags.append(receiver.fetcher.unsettled[-1].tag)
    receiver.close()
    other = connect(running)
    receiver = other.create_receiver("again", credit=3)
    got = [receiver.receive(timeout=SECONDS).body for _ in range(3)]
    assert got == [0, 1, 2]
    assert [delivery.tag for delivery in receiver.fetcher.unsettled] == tags
    other.close()
    connection.close()


class Lease(LinkOption):
    def __init__(self, ms):
        self.ms = ms

    def apply(self, link):
        link.properties = {symbol("x-opt-lease"): self.ms}


def a_lease_lasts_as_long_as_asked(running):
    queue(running, "leased")
    connection, other = connect(running), connect(running)
    send(connection, "leased", Message(body="x"))
    holder = connection.create_receiver("leased", credit=1, options=Lease(uint(1000)))
    assert holder.receive(timeout=SECONDS).delivery_count == 0
    again = other.create_receiver("leased", credit=1).receive(timeout=SECONDS)  # the holder has not settled
    assert again.delivery_count >= 1
    refused(lambda: other.create_receiver("leased", name="l", options=Lease(uint(5))), "amqp:invalid-field")
    connection.close()
    other.close()


def settled_both_ways(running):
    queue(running, "settled")
    connection = connect(running)
    sender = connection.create_sender("settled", options=AtMostOnce())
    for i in range(10):
        sender.send(Message(body=i))
    assert [m.body for m in receive_settled(connection, "settled", 10)] == list(range(10))
    connection.close()
    # Done as soon as they had left.
    drainer = Drainer(f"127.0.0.1:{running.amqp_port}", "settled", 5)
    Container(drainer).run()
    assert drainer.bodies == []


def outcomes_of(wire, count, body=b"\0\x53\x75\xa0\x01x"):
    """The codes for so many that are sent together, and the conditions of those that are rejected."""
    wire.send(b"".join(frame(TRANSFER, [0, i, b"%d" % i, 0], body) for i in range(count)))
    codes, conditions = {}, set()
    while len(codes) < count:
        fields = decode(b"\0\x53\x15" + wire.expect(DISPOSITION))[0].value
        for number in range(fields[1], (fields[1] if fields[2] is None else fields[2]) + 1):
            codes[number] = fields[4].code
        if fields[4].code == REJECTED:
            conditions.add(fields[4].value[0].value[0])
    return [codes[number] for number in range(count)], conditions


def what_is_too_much_is_rejected(running):
    queue(running, "full", max_records=3, overflow="refuse")
    with Wire(running.amqp_port) as wire:
        wire.open().attach("s", 0, "full")
        assert outcomes_of(wire, 5) == ([ACCEPTED] * 3 + [REJECTED] * 2, {"amqp:resource-limit-exceeded"})
    connection = connect(running)
    assert len(receive_settled(connection, "full", 3)) == 3
    connection.close()


@needs_pace
def who_sends_too_fast_is_refused():
    running = gateway.Gateway(None, "limit.publish_rate=50")
    queue(running, "q")
    with Wire(running.amqp_port) as wire, Wire(running.amqp_port) as slow:
        wire.open().attach("s", 0, "q")
        slow.open().attach("s", 0, "q")
        codes, conditions = outcomes_of(wire, 200)
        assert codes[:50] == [ACCEPTED] * 50 and codes.count(REJECTED) > 50 and set(codes) == {ACCEPTED, REJECTED}, codes
        assert conditions == {"amqp:resource-limit-exceeded"}, conditions
        assert outcomes_of(slow, 1)[0] == [ACCEPTED]  # another connection has its own
    assert running.stop() == 0


def receive_settled(connection, address, count):
    receiver = connection.create_receiver(address, credit=count, options=AtMostOnce())
    messages = [receiver.receive(timeout=SECONDS) for _ in range(count)]
    receiver.close()
    return messages


class Drainer(MessagingHandler):
    """Takes what there is, with a drain, and says how much came before it was over."""

    def __init__(self, url, address, credit):
        super().__init__(prefetch=0, auto_accept=True)
        self.url, self.address, self.credit = url, address, credit
        self.bodies, self.drained = [], False

    def on_start(self, event):
        self.connection = event.container.connect(self.url, allowed_mechs="ANONYMOUS")
        self.receiver = event.container.create_receiver(self.connection, self.address)

    def on_link_opened(self, event):
        self.receiver.drain(self.credit)

    def on_message(self, event):
        self.bodies.append(event.message.body)
        self.look()

    def on_link_flow(self, event):
        self.look()

    def look(self):
        if self.receiver.credit == 0 and not self.drained and self.receiver.queued == 0:
            self.drained = True
            self.connection.close()


def a_drain_ends_with_what_there_is(running):
    queue(running, "drained")
    connection = connect(running)
    send(connection, "drained", *[Message(body=i) for i in range(7)])
    connection.close()
    drainer = Drainer(f"127.0.0.1:{running.amqp_port}", "drained", 20)
    Container(drainer).run()
    assert drainer.bodies == list(range(7)) and drainer.drained


def a_drain_is_answered_where_no_credit_is_left(running):
    """2.6.7: the flow state comes, once for each: where as many come as there is credit, in the drain or before it, where there is
    none, and where it gives less than has been used."""
    queue(running, "drained")
    connection = connect(running)
    ways = {"group": ["drained"], "topic": ["/topics/drained"], "browser": ["drained"] + [None] * 5 + [Symbol("copy")]}
    for way, source in ways.items():
        with Wire(running.amqp_port, SECONDS) as wire:
            wire.open()
            wire.send(frame(ATTACH, ["r", 0, True, None, None, Performative(0x28, source), Performative(0x29, [None])]))
            wire.expect(ATTACH)

            def flow(count, credit, drain, transfers):
                wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, count, credit, None, drain]))
                for _ in range(transfers):
                    wire.expect(TRANSFER)

            def drained(count):
                said = decode(b"\x00\x53\x13" + wire.expect(FLOW))[0].value
                assert said[4:7] + said[8:9] == [0, count, 0, True], (way, said)
            flow(0, 0, True, 0)
            drained(0)
            flow(0, 5, False, 0)
            send(connection, source[0], *[Message(body=i) for i in range(5)])
            flow(0, 5, True, 5)
            drained(5)
            flow(0, 3, True, 0)
            drained(5)
            send(connection, source[0], *[Message(body=i) for i in range(5)])
            flow(5, 5, True, 5)
            drained(10)
            flow(10, 2, True, 0)
            drained(12)
            flow(12, 0, True, 0)
            drained(12)
            wire.send(frame(CLOSE, []))
            assert b"\x00\x53\x13" not in wire.until_end(), way
    connection.close()


def a_large_message_in_many_transfers(running):
    queue(running, "large")
    connection = connect(running)
    body = bytes(range(256)) * 20000  # 5 MB
    send(connection, "large", Message(body=body))
    got, = receive(connection, "large", 1)
    assert got.body == body
    refused(lambda: send(connection, "large", Message(body=b"x" * (11 << 20))), "amqp:link:message-size-exceeded")
    connection.close()


def addresses_that_lead_nowhere(running):
    queue(running, "here")
    connection = connect(running)
    refused(lambda: connection.create_sender("nowhere"), "amqp:not-found")
    refused(lambda: connection.create_receiver("nowhere"), "amqp:not-found")
    refused(lambda: connection.create_receiver("/queues/here/groups/none/deadletters"), "amqp:not-found")
    refused(lambda: connection.create_sender("/queues/here/groups/g"), "amqp:not-allowed")
    refused(lambda: connection.create_sender("/topics/a/+"), "amqp:invalid-field")
    refused(lambda: connection.create_receiver("/strange/here"), "amqp:not-found")
    connection.close()


def queues_are_made_on_demand():
    running = gateway.Gateway(None, "amqp.auto_create=true")
    connection = connect(running)
    send(connection, "made", Message(body="x"))
    assert receive(connection, "made", 1)[0].body == "x"
    assert receive_nothing(connection, "made by reading".replace(" ", "-"))
    assert receive_nothing(connection, "/queues/made-with/groups/its-group")
    relay = connection.create_sender(None)
    large = "y" * 100000
    # Not one by one: what comes behind a queue that is being made waits for it.
    deliveries = [relay.link.send(Message(address=address, body=body)) for address, body in (
        ("by-relay", "1"), ("by-relay", large), ("by-relay-too", large), ("no name", "x"), ("by-relay", "2"))]
    connection.wait(lambda: all(delivery.remote_state for delivery in deliveries))
    assert [delivery.remote_state for delivery in deliveries] == [Delivery.ACCEPTED] * 3 + [Delivery.REJECTED, Delivery.ACCEPTED]
    assert deliveries[3].remote.condition.name == "amqp:invalid-field", deliveries[3].remote.condition
    assert [m.body for m in receive(connection, "by-relay", 3)] == ["1", large, "2"]
    assert receive(connection, "by-relay-too", 1)[0].body == large
    what_ends_a_link_waits_for_what_came_before(running, connection)
    connection.close()
    assert running.stop() == 0


def what_ends_a_link_waits_for_what_came_before(running, connection):
    """In one write a message to a queue that is made for it and the end of its link, session or connection, or another link that
    takes its name: the message is there."""
    def relay(channel):
        return frame(ATTACH, ["relay", 0, False, None, None, Performative(0x28, [None]), Performative(0x29, [None]), None, None, 0],
                     channel=channel)

    ends = {
        "detach": frame(DETACH, [0, False]), "close": frame(DETACH, [0, True]), "end": frame(END, []), "closed": frame(CLOSE, []),
        "fails": frame(DETACH, [9, True]), "stolen": relay(1),
    }
    for name, end in ends.items():
        with Wire(running.amqp_port) as wire:
            wire.open()
            wire.send(frame(BEGIN, [None, 0, 9, 9], channel=1) + relay(0))
            wire.expect(FLOW)
            to = f"before-{name}".encode()
            message = b"\x00\x53\x73\xc0" + bytes([5 + len(to), 3]) + b"\x40\x40\xa1" + bytes([len(to)]) + to + b"\x00\x53\x75\xa0\x01x"
            wire.send(frame(TRANSFER, [0, 0, b"1", 0, True], message) + end)
            wire.expect({"end": END, "closed": CLOSE, "fails": END}.get(name, DETACH))
        assert receive(connection, f"before-{name}", 1)[0].body == b"x", name


def clients_of_the_jms_kind_learn_what_an_address_is(running):
    """Qpid JMS puts topic-prefix before topics, and takes an address to reply to for that of a queue when a queue brought
    the message, unless an annotation says otherwise."""
    queue(running, "asked")
    connection = connect(running)
    assert connection.conn.remote_properties[symbol("topic-prefix")] == "/topics/"
    kind = symbol("x-opt-jms-reply-to")
    send(connection, "asked", Message(reply_to="/topics/answers"), Message(reply_to="answers"), Message(reply_to="/elsewhere"),
         Message(reply_to="/topics/answers", annotations={kind: byte(3)}), Message())
    got = [(m.annotations or {}).get(kind) for m in receive(connection, "asked", 5)]
    assert got == [byte(1), None, None, byte(3), None], got
    # And to the sort of address that it was sent to: a topic, read from the queue that its route leads to.
    assert running.call("PUT", "/v1/default/routes/sent%2F%23", {"queue": "asked"})[0] in (200, 201, 204)
    kind = symbol("x-opt-jms-dest")
    send(connection, "/topics/sent/x", Message(), Message(annotations={kind: byte(3)}))
    send(connection, "asked", Message())
    got = [(m.annotations or {}).get(kind) for m in receive(connection, "asked", 3)]
    assert got == [byte(1), byte(3), None], got
    connection.close()


def each_container_has_a_broadcast_group_for_itself(running):
    """Under whatever id it has: that of a client of the JMS kind is no name, and neither is a long one."""
    queue(running, "all")
    path = "/v1/default/queues/all/groups"
    assert running.call("POST", path, {"groups": [{"name": "g", "mode": "broadcast"}]})[0] in (200, 201)
    ids = ("plain_1.x", "ID:8ea0b0a5-7a0e-4c9b-a2d8-11e0b0f7c3d2:1", "ID:" + "x" * 90, "ID:" + "x" * 91, "id.ID.3Ax", "ID:x")
    connection = connect(running)
    send(connection, "all", Message(body="first"))
    connection.close()
    for turn in ("first", "second"):
        for name in ids:
            container = Container(Once(running.amqp_port, "/queues/all/groups/g", got := []))
            container.container_id = name
            container.run()
            assert got == [turn], (name, got)
        connection = connect(running)
        send(connection, "all", Message(body="second"))
        connection.close()
    names = [group["name"] for group in running.call("GET", path)[1]["groups"]]
    assert len(names) == 1 + len(ids) and {"g/plain_1.x", "g/id.ID.3A8ea0b0a5-7a0e-4c9b-a2d8-11e0b0f7c3d2.3A1", "g/id.ID.3Ax",
                                           "g/id.id.2EID.2E3Ax"} < set(names), names


class Once(MessagingHandler):
    """Takes one message."""

    def __init__(self, port, address, got):
        super().__init__(prefetch=1, auto_accept=False)
        self.port, self.address, self.got = port, address, got

    def on_start(self, event):
        self.connection = event.container.connect(f"amqp://127.0.0.1:{self.port}", allowed_mechs="ANONYMOUS")
        event.container.create_receiver(self.connection, self.address)

    def on_link_error(self, event):
        self.connection.close()

    def on_message(self, event):
        self.got.append(event.message.body)
        event.delivery.update(Delivery.ACCEPTED)

    def on_settled(self, event):
        self.connection.close()


def receive_nothing(connection, address):
    receiver = connection.create_receiver(address, credit=1)
    receiver.close()
    return True


def selectors_choose(running):
    queue(running, "chosen")
    connection = connect(running)
    send(connection, "chosen", *[Message(body=i, properties={"n": i, "color": "red" if i % 2 else "blue"})
                                 for i in range(10)])
    odd = receive(connection, "chosen", 3, options=Selector("color = 'red' AND n > 3"))
    assert [m.body for m in odd] == [5, 7, 9]
    rest = receive(connection, "chosen", 7)
    assert [m.body for m in rest] == [0, 1, 2, 3, 4, 6, 8]
    refused(lambda: connection.create_receiver("chosen", options=Selector("color = = 1")), "amqp:invalid-field")
    connection.close()


def delays_and_expiry(running):
    queue(running, "later")
    connection = connect(running)
    send(connection, "later",
         Message(body="second", annotations={symbol("x-opt-delivery-delay"): uint(700)}),
         Message(body="first"),
         Message(body="never", ttl=0.001))
    got = receive(connection, "later", 2)
    assert [m.body for m in got] == ["first", "second"]
    connection.close()


def a_message_that_comes_twice_is_stored_once(running):
    queue(running, "once")
    connection = connect(running)
    on_request = {symbol("x-opt-dedup"): True}
    send(connection, "once", *[Message(id=name, body=i, annotations=on_request) for i, name in enumerate("abab")],
         Message(id="a", body=4), Message(body=5))
    assert [m.body for m in receive(connection, "once", 4)] == [0, 1, 4, 5]
    connection.close()


def a_group_of_messages_has_one_receiver(running):
    """In a fifo queue, by group-id: what is behind an unsettled one of its group waits, other groups go on."""
    queue(running, "fifo", type="fifo")
    connection = connect(running)
    send(connection, "fifo", *[Message(body=i, group_id=f"g{i % 2}") for i in range(8)])
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        wire.attach("r", 0, "fifo", receiver=True)
        wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 1]))
        wire.expect(TRANSFER)
        receiver = connection.create_receiver("fifo", credit=10)
        assert [receiver.receive(timeout=SECONDS).body for _ in range(4)] == [1, 3, 5, 7]
        try:
            raise AssertionError(receiver.receive(timeout=0.3))
        except Timeout:
            pass
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Performative(0x24, [])]))
        got = [receiver.receive(timeout=SECONDS) for _ in range(3)]
        assert [(message.body, message.group_id) for message in got] == [(2, "g0"), (4, "g0"), (6, "g0")], got
    connection.close()


class Framed:
    """A WebSocket as a socket, for Wire: each write is a binary message, and what comes is one stream."""

    def __init__(self, websocket):
        self.websocket = websocket

    def sendall(self, data):
        self.websocket.send_frame(BINARY, data)

    def recv(self, _):
        kind, payload = self.websocket.receive_message()
        assert kind == BINARY, kind
        return payload


def over_websocket(running):
    """The same as over TCP, wherever its messages begin and end."""
    queue(running, "web")
    with Socket(running.http_port, "/amqp", protocols="amqp") as websocket:
        assert websocket.protocol == "amqp"
        wire = Wire.__new__(Wire)
        wire.socket, wire.received = Framed(websocket), b""
        wire.open("web")
        wire.attach("s", 0, "web")
        sent = frame(TRANSFER, [0, 0, b"d", 0], b"\x00\x53\x75\xa0\x05hello")
        for at in range(0, len(sent), 7):
            wire.send(sent[at:at + 7])
        assert disposition(wire.expect(DISPOSITION)) == (0, 0, 0x24)
        wire.attach("r", 1, "web", receiver=True)
        wire.send(frame(FLOW, [0, 100, 1, 100, 1, 0, 1]) + frame(FLOW, [0, 100, 1, 100]))
        assert b"hello" in wire.expect(TRANSFER)
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Performative(0x24, [])]) + frame(CLOSE, []))
        wire.expect(CLOSE)
        websocket.expect_close(1000)


def the_relay_sends_anywhere(running):
    queue(running, "one")
    queue(running, "two")
    connection = connect(running)
    sender = connection.create_sender(None)
    sender.send(Message(address="one", body=1))
    sender.send(Message(address="/queues/two", body=2))
    try:
        sender.send(Message(address="three", body=3))
        raise AssertionError("sent to nowhere")
    except Exception as error:
        assert "not-found" in str(error) or "REJECTED" in str(error), error
    assert receive(connection, "one", 1)[0].body == 1
    assert receive(connection, "two", 1)[0].body == 2
    connection.close()


def a_queue_that_goes_ends_its_links(running):
    queue(running, "going")
    connection = connect(running)
    receiver = connection.create_receiver("going", credit=1)
    sender = connection.create_sender("going")
    running.call("DELETE", "/v1/default/queues/going")
    refused(lambda: receiver.receive(timeout=SECONDS), "amqp:resource-deleted")
    try:
        sender.send(Message(body="x"))
        raise AssertionError("sent to what is gone")
    except Exception as error:
        assert "REJECTED" in str(error) or "not-found" in str(error), error
    connection.close()


def users_log_in():
    running = gateway.Gateway(None)
    status, answer = running.call("PUT", "/v1/default/users/ann", {"password": "secret"})
    assert status in (200, 201, 204), answer
    for options in ({"user": "ann", "password": "secret", "allowed_mechs": "PLAIN"},):
        connection = connect(running, **options)
        connection.close()
    for options in ({"user": "ann", "password": "wrong", "allowed_mechs": "PLAIN"}, {"allowed_mechs": "ANONYMOUS"}):
        try:
            connect(running, **options)
            raise AssertionError(f"let in with {options}")
        except Exception as error:
            assert "unauthorized-access" in str(error), error
    assert running.stop() == 0


def an_end_says_so(running):
    queue(running, "end")
    connection = connect(running)
    receiver = connection.create_receiver("end", credit=1)
    stopping = threading.Thread(target=running.stop)
    stopping.start()
    try:
        receiver.receive(timeout=SECONDS)
        raise AssertionError("received from an ended gateway")
    except ConnectionClosed:
        assert connection.conn.remote_condition.name == "amqp:connection:forced", connection.conn.remote_condition
    stopping.join()


def an_end_says_where_to_go(running):
    for reference, wanted in (("other.example.org:5673", ("other.example.org", 5673)), ("[::1]", ("::1", 5672))):
        ending = gateway.Gateway(None, f"amqp.server_reference={reference}")
        queue(ending, "end")
        connection = connect(ending)
        sender = connection.create_sender("end")
        sender.send(Message(body="in time"))
        receiver = connection.create_receiver("end", credit=2)
        assert receiver.receive(timeout=SECONDS).body == "in time"
        stopping = threading.Thread(target=ending.stop)
        stopping.start()
        try:
            receiver.receive(timeout=SECONDS)
            raise AssertionError("received from an ended gateway")
        except ConnectionClosed:
            condition = connection.conn.remote_condition
        stopping.join()
        assert condition.name == "amqp:connection:redirect", condition
        info = {str(key): value for key, value in condition.info.items()}
        assert info == {"hostname": wanted[0], "network-host": wanted[0], "port": wanted[1]}, info


def settled_without_an_outcome(running, address, outcome):
    """Takes one message of the address, with that default outcome of the source, and settles it without one."""
    with Wire(running.amqp_port) as wire:
        wire.open("wire")
        source = [address, None, None, None, None, None, None, None, outcome]
        wire.send(frame(ATTACH, ["r", 0, True, None, None, Performative(0x28, source), Performative(0x29, [None])]))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 1]))
        wire.expect(TRANSFER)
        wire.send(frame(DISPOSITION, [True, 0, 0, True, None]) + frame(CLOSE, []))
        wire.until_end()


def an_outcome_for_what_is_settled_without_one(running):
    queue(running, "q", redrive_policy="enable", max_consume_count=9)
    connection = connect(running)
    again = {"none": (None, 0), "released": (Performative(0x26, []), 0), "no outcome": (Performative(0x77, []), 0),
             "modified": (Performative(0x27, [False]), 0), "failed": (Performative(0x27, [True]), 1),
             "undeliverable": (Performative(0x27, [None, True]), 0)}
    for name, (outcome, count) in again.items():
        send(connection, "q", Message(body=name))
        settled_without_an_outcome(running, "q", outcome)
        message, = receive(connection, "q", 1)
        assert (message.body, message.delivery_count) == (name, count), (name, message)
    for name, code in (("rejected", 0x25), ("accepted", 0x24)):
        send(connection, "q", Message(body=name))
        settled_without_an_outcome(running, "q", Performative(code, []))
    send(connection, "q", Message(body="last"))
    assert receive(connection, "q", 1)[0].body == "last"
    send(connection, "q", Message(body="rejected by name"))
    receive(connection, "q", 1, "reject")
    assert [m.body for m in receive(connection, "/queues/q/groups/amqp/deadletters", 2)] == ["rejected", "rejected by name"]
    connection.close()


def an_outcome_of_each_link_when_all_come_at_once(running):
    """Behind the open in one write, while nobody knows yet who it is."""
    queue(running, "q")
    connection = connect(running)
    for settles in (0, 1):
        send(connection, "q", Message(body="x"))
        with Wire(running.amqp_port) as wire:
            outcomes = [None, None]
            outcomes[settles] = Performative(0x24, [])
            wire.send(AMQP + frame(OPEN, ["wire"]) + frame(BEGIN, [None, 0, 9, 9]) + b"".join(
                frame(ATTACH, [f"r{i}", i, True, None, None, Performative(0x28, ["q"] + [None] * 7 + [outcome]),
                               Performative(0x29, [None])]) for i, outcome in enumerate(outcomes)))
            wire.expect_bytes(AMQP)
            wire.expect(ATTACH)
            wire.expect(ATTACH)
            wire.send(frame(FLOW, [0, 9, 0, 9, settles, 0, 1]))
            wire.expect(TRANSFER)
            wire.send(frame(DISPOSITION, [True, 0, 0, True, None]) + frame(CLOSE, []))
            wire.until_end()
        assert until(lambda: group(running, "backlog", "q") == 0, 2), settles
    connection.close()


class Between:
    """Stands between a client and the gateway, and says for the client what it never would."""

    def __init__(self, port):
        self.gateway = socket.create_connection(("127.0.0.1", port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        self.client = self.listener.accept()[0]
        threading.Thread(target=self._carry, args=(self.gateway, self.client), daemon=True).start()
        self._carry(self.client, self.gateway)

    def _carry(self, source, target):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)

    def say(self, data):
        self.gateway.sendall(data)


class TwoSessions(MessagingHandler):
    """When both have a sender with credit, the first one's session is ended for what is said in its name; then the second sends."""

    def __init__(self, between):
        super().__init__()
        self.between, self.said, self.outcomes, self.events = between, set(), 0, []

    def on_start(self, event):
        self.container, self.connection = event.container, event.container.connect(f"127.0.0.1:{self.between.port}", reconnect=False)
        self.sessions = [self.connection.session() for _ in range(2)]
        for session in self.sessions:
            session.open()
        self.senders = [event.container.create_sender(session, "q", name=f"s{i}") for i, session in enumerate(self.sessions)]

    def on_sendable(self, event):
        self.said.add(event.link.name)
        if self.said == {"s0", "s1"}:
            self.said.add("all")
            self.between.say(frame(FLOW, [0, 9, 0, 9, 77, 0, 9]))

    def on_session_error(self, event):
        self.events.append((event.session == self.sessions[0], event.session.remote_condition.name))
        event.session.close()
        self.senders[1].send(Message(body="on the other"))
        # And a new one, which gets the channel of the one that has ended.
        self.sessions.append(self.connection.session())
        self.sessions[2].open()
        event.container.create_sender(self.sessions[2], "q", name="s2").send(Message(body="on a new one"))

    def on_accepted(self, event):
        self.outcomes += 1
        if self.outcomes == 2:
            self.connection.close()

    def on_transport_error(self, event):
        self.events.append(event.transport.condition)

    def on_connection_error(self, event):
        self.events.append(event.connection.remote_condition)


def a_client_outlives_its_session(running):
    """Proton's own: what it never says ends the session it is said in, and nothing else on its connection."""
    queue(running, "q")
    handler = TwoSessions(Between(running.amqp_port))
    Container(handler).run()
    assert handler.events == [(True, "amqp:session:unattached-handle")], handler.events
    assert handler.outcomes == 2
    connection = connect(running)
    assert {m.body for m in receive(connection, "q", 2)} == {"on the other", "on a new one"}
    connection.close()


if __name__ == "__main__":
    run(a_group_of_messages_has_one_receiver, over_websocket, a_client_outlives_its_session, an_outcome_for_what_is_settled_without_one, an_outcome_of_each_link_when_all_come_at_once, what_is_sent_is_received_in_order, every_type_keeps_its_value, annotations_are_what_they_were, bodies_are_what_they_were, outcomes_decide,
        what_was_not_settled_is_offered_again, a_lease_lasts_as_long_as_asked, settled_both_ways, a_drain_ends_with_what_there_is, a_drain_is_answered_where_no_credit_is_left,
        a_large_message_in_many_transfers, addresses_that_lead_nowhere, queues_are_made_on_demand, selectors_choose, what_is_too_much_is_rejected, who_sends_too_fast_is_refused,
        delays_and_expiry, a_message_that_comes_twice_is_stored_once, the_relay_sends_anywhere, clients_of_the_jms_kind_learn_what_an_address_is,
        each_container_has_a_broadcast_group_for_itself, a_queue_that_goes_ends_its_links, users_log_in, an_end_says_so,
        an_end_says_where_to_go)
