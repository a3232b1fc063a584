# SPDX-License-Identifier: Apache-2.0
"""Batches of Azure's clients over AMQP: one transfer whose data sections are whole messages (message-format 0x80013700)."""
import base64
import struct
import time

from proton import Message, symbol
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

from amqpwire import (ACCEPTED, ATTACH, DETACH, DISPOSITION, FLOW, INIT, OUTCOME, REJECTED, SASL, TRANSFER, Described, Symbol, Wire, decode,
                      disposition, frame)
from gateway import Gateway, queue, run, until
from mqtt_stalled import RSS_MIB_MAX, rss_mib
from transacting import bodies, coordinate, declare, discharge, messages

BATCH = 0x80013700
MB = 1024 * 1024


def data(content):
    return b"\x00\x53\x75\xb0" + struct.pack(">I", len(content)) + content


def batch(*inside):
    """The payload: messages, or bytes that are to be some."""
    return b"".join(data(one if isinstance(one, bytes) else one.encode()) for one in inside)


def texts(*inside, **fields):
    return batch(*[Message(body=text, **fields) for text in inside])


def transfers(number, payload, handle=0, settled=False, state=None, form=BATCH, size=15000):
    pieces = [payload[at:at + size] for at in range(0, len(payload), size)] or [b""]
    frames = [frame(TRANSFER, [handle, number, b"%d" % number, form, settled, len(pieces) > 1, None, state], pieces[0])]
    for i, piece in enumerate(pieces[1:], 2):
        frames.append(frame(TRANSFER, [handle, None, None, None, settled, i < len(pieces)], piece))
    return b"".join(frames)


def outcomes(wire, last):
    """Of all up to the last: code, and the condition where there is one."""
    got = {}
    while last not in got:
        said = wire.expect(DISPOSITION)
        first, until_, code = disposition(said)
        at = said.find(b"amqp:", said.find(b"\x00\x53\x25"))
        condition = said[at:at + said[at - 1]].decode() if code == REJECTED else None
        got.update((number, condition or code) for number in range(first, until_ + 1))
    return got


def sender(running, address, container="azure"):
    wire = Wire(running.amqp_port, 30)
    wire.open(container)
    wire.attach("s", 0, address)
    return wire


def relay(running, user=None):
    wire = Wire(running.amqp_port, 30)
    if user is not None:
        wire.send(SASL + frame(INIT, [Symbol("PLAIN"), f"\0{user}\0secret".encode()], kind=1))
        wire.expect_bytes(SASL)
        wire.expect(OUTCOME)
    wire.open()
    wire.send(frame(ATTACH, ["s", 0, False, None, None, Described(0x28, [None]), Described(0x29, [None]), None, None, 0]))
    wire.expect(FLOW)
    return wire


def send_one(running, address, payload, **how):
    """Its outcome."""
    with sender(running, address) as wire:
        wire.send(transfers(0, payload, **how))
        return outcomes(wire, 0)[0]


def each_message_is_one_of_its_own(running):
    """With its own properties, whatever the envelope's sections say, in order, as plain messages; before and behind it are others."""
    queue(running, "q")
    inside = [Message(body=f"{i}", id=f"id-{i}", subject=f"s{i}", properties={"n": i}, annotations={symbol("x-opt-mine"): i})
              for i in range(3)]
    envelope = inside[0].encode()
    envelope = envelope[:envelope.rindex(b"\x00\x53\x77")]  # without its body
    with sender(running, "q") as wire:
        wire.send(transfers(0, Message(body="before").encode(), form=0) + transfers(1, envelope + batch(*inside))
                  + transfers(2, Message(body="behind").encode(), form=0) + transfers(3, texts("settled", "too"), settled=True)
                  + transfers(4, texts("one")))
        got = outcomes(wire, 4)
        assert got == {0: ACCEPTED, 1: ACCEPTED, 2: ACCEPTED, 4: ACCEPTED}, got
        wire.attach("r", 1, "q", receiver=True)
        wire.send(frame(FLOW, [0, 99, 0, 99, 1, 0, 20]))
        received = []
        for _ in range(8):
            body = wire.expect(TRANSFER)
            fields, at = decode(b"\x00\x53\x14" + body)
            assert not fields.value[3], fields.value  # its format
            message = Message()
            message.decode((b"\x00\x53\x14" + body)[at:])
            received.append(message)
    assert [message.body for message in received] == ["before", "0", "1", "2", "behind", "settled", "too", "one"]
    assert [(message.id, message.subject, message.properties, message.annotations[symbol("x-opt-mine")])
            for message in received[1:4]] == [(f"id-{i}", f"s{i}", {"n": i}, i) for i in range(3)]
    counted = running.call("GET", "/metrics")[1]
    assert 'received_records_total{protocol="amqp"} 8' in counted, counted


def to_topics_and_by_the_relay(running):
    """Subscribers of a topic, also what is settled; the relay's messages each name their own node, in several protocols' queues."""
    for name in ("a", "b"):
        queue(running, name)
    connection = BlockingConnection(f"127.0.0.1:{running.amqp_port}", timeout=20)
    reader = connection.create_receiver("/topics/t/+", credit=20)
    assert send_one(running, "/topics/t/1", texts("x", "y")) == ACCEPTED
    with relay(running) as wire:
        wire.send(transfers(0, batch(Message(address="a", body="1"), Message(address="/topics/t/2", body="z"),
                                     Message(address="/queues/b", body="2"), Message(address="a", body="3")))
                  + transfers(1, batch(Message(address="a", body="not"), Message(address="/queues/none", body="there")))
                  + transfers(2, batch(Message(address="/topics/t/3", body="s")), settled=True)
                  + transfers(3, batch(Message(address="b", body="4"))))
        got = outcomes(wire, 3)
        assert got == {0: ACCEPTED, 1: "amqp:not-found", 3: ACCEPTED}, got
    received = [reader.receive(20) for _ in range(4)]
    seen = [(message.annotations[symbol("x-opt-topic")], message.body) for message in received]
    assert seen[:2] == [("t/1", "x"), ("t/1", "y")] and sorted(seen[2:]) == [("t/2", "z"), ("t/3", "s")], seen
    connection.close()
    got = bodies(running, "a"), bodies(running, "b")
    assert got == (["1", "3"], ["2", "4"]), got


def the_relay_makes_queues_for_it():
    """All that its messages name, before any of them is stored; one that cannot be made refuses all."""
    running = Gateway(None, "amqp.auto_create=true")
    try:
        with relay(running) as wire:
            fresh = [f"fresh-{i % 5}" for i in range(20)]
            wire.send(transfers(0, batch(*[Message(address=name, body=str(i)) for i, name in enumerate(fresh)]))
                      + transfers(1, Message(address="fresh-5", body="plain").encode(), form=0)
                      + transfers(2, batch(Message(address="fresh-6", body="x"), Message(address="no/name", body="y"),
                                           Message(address="fresh-7", body="z"))))
            got = outcomes(wire, 2)
            assert got == {0: ACCEPTED, 1: ACCEPTED, 2: "amqp:not-found"}, got
        for number in range(5):
            assert bodies(running, f"fresh-{number}") == [str(i) for i in range(number, 20, 5)]
        assert bodies(running, "fresh-5") == ["plain"] and bodies(running, "fresh-6") == []
    finally:
        running.stop()


def all_or_nothing(running):
    """A message that cannot be decoded, one of too many properties, a queue without room for all: nothing of the batch is stored."""
    queue(running, "q", partitions=4)
    queue(running, "full", max_records=3, overflow="refuse")
    good, many = Message(body="good"), Message(body="x", properties={f"p{i}": i for i in range(400)})
    cases = {"amqp:decode-error": [batch(good, b"\x00\x53\x75\xa0\xff", good), batch(good, b"no message at all"),
                                   good.encode(), b"\x00\x53\x75\xa0\xff", b"", Message(id=1, body=None).encode()],
             "amqp:link:message-size-exceeded": [batch(good, many)],
             "amqp:invalid-field": [batch(good, Message(body="x", annotations={symbol("x-opt-delivery-delay"): 8 * 86400000}))]}
    number = 0
    with sender(running, "q") as wire:
        for condition, payloads in cases.items():
            for payload in payloads:
                wire.send(transfers(number, payload))
                assert outcomes(wire, number)[number] == condition, (condition, payload)
                wire.send(transfers(number + 1, payload, settled=True))
                number += 2
        wire.send(transfers(number, batch(good, b"")))  # which is an empty message, as it would be alone
        assert outcomes(wire, number)[number] == ACCEPTED
        wire.send(transfers(number + 1, good.encode(), form=1))
        assert outcomes(wire, number + 1)[number + 1] == "amqp:not-implemented"
    assert sorted(str(body) for body in bodies(running, "q")) == ["None", "good"]
    assert send_one(running, "full", texts("1", "2")) == ACCEPTED
    assert send_one(running, "full", texts("3", "4")) == "amqp:resource-limit-exceeded"
    assert send_one(running, "full", texts("5")) == ACCEPTED
    assert bodies(running, "full") == ["1", "2", "5"]


def keys_ids_groups_and_delays_are_each_messages_own(running):
    queue(running, "keyed", partitions=4)
    queue(running, "fifo", type="fifo")
    queue(running, "later")
    keyed = [Message(body=i, annotations={symbol("x-opt-partition-key"): f"k{i % 7}"}) for i in range(50)]
    assert send_one(running, "keyed", batch(*keyed)) == ACCEPTED
    got = messages(running, "keyed")
    where = {}
    for message in got:
        where.setdefault(message.annotations[symbol("x-opt-partition-key")], set()).add(message.annotations[symbol("x-opt-partition")])
    assert len(got) == 50 and all(len(partitions) == 1 for partitions in where.values()), where
    assert len(set.union(*where.values())) > 1, where
    # The same id again, in the batch and in another one, is stored once; what has none is.
    known = [Message(body=text, id=text, annotations={symbol("x-opt-dedup"): True}) for text in ("a", "b", "a")]
    for inside in (known, known, [*known, Message(body="c"), Message(body="d", id="d", annotations={symbol("x-opt-dedup"): True})]):
        assert send_one(running, "keyed", batch(*inside)) == ACCEPTED
    assert sorted(bodies(running, "keyed")) == ["a", "b", "c", "d"]
    # What is behind an unsettled one of its group waits, other groups go on.
    assert send_one(running, "fifo", batch(*[Message(body=i, group_id=f"g{i % 2}") for i in range(6)])) == ACCEPTED
    connection = BlockingConnection(f"127.0.0.1:{running.amqp_port}", timeout=20)
    receiver = connection.create_receiver("fifo", credit=10)
    assert [receiver.receive(20).body for _ in range(2)] == [0, 1]
    time.sleep(0.3)
    assert not receiver.fetcher.has_message
    for expected in (2, 3):
        receiver.accept()
        assert receiver.receive(20).body == expected
    connection.close()
    # Some wait for their time, and the rest does not.
    delayed = [Message(body=i, annotations={symbol("x-opt-delivery-delay"): 3600000} if i % 2 else None) for i in range(6)]
    assert send_one(running, "later", batch(*delayed, Message(body="soon", annotations={symbol("x-opt-delivery-delay"): 200}))) == ACCEPTED
    assert running.call("GET", "/v1/default/queues/later")[1]["delayed"] in (3, 4)
    got = []
    assert until(lambda: got.extend(bodies(running, "later")) or len(got) == 4), got
    assert got == [0, 2, 4, "soon"], got


def what_is_behind_stays_behind(running):
    """Also where a batch goes to partitions of several workers, and what comes next to one of them."""
    queue(running, "q", partitions=8)
    keyed = [Message(body=i, annotations={symbol("x-opt-partition-key"): f"k{i % 10}"}) for i in range(400)]
    with sender(running, "q") as wire:
        number, at = 0, 0
        while at < len(keyed):
            size, settled = (1, 17, 3)[number % 3], number % 2 == 1
            inside = keyed[at:at + size]
            wire.send(transfers(number, batch(*inside) if size > 1 else inside[0].encode(), settled=settled, form=BATCH if size > 1 else 0))
            number, at = number + 1, at + size
        wire.send(transfers(number, texts("last")))
        got = outcomes(wire, number)
        assert set(got.values()) == {ACCEPTED} and len(got) == number // 2 + 1, got
    got = []
    assert until(lambda: got.extend(bodies(running, "q")) or len(got) == 401), len(got)
    got.remove("last")
    assert sorted(got) == list(range(400)), (len(got), sorted(set(range(400)) - set(got))[:10])
    for key in range(10):
        of_key = [body for body in got if body % 10 == key]
        assert of_key == sorted(of_key), of_key


def within_transactions(running):
    """Part of it as a whole: not seen before the commit, gone with a rollback; one that is refused refuses the commit."""
    queue(running, "q")
    with sender(running, "q") as wire:
        coordinate(wire)
        number = 0
        for payload, fail, outcome, stored in ((texts("a", "b"), False, ACCEPTED, ["a", "b"]), (texts("c", "d"), True, ACCEPTED, []),
                                               (batch(Message(body="e"), b"none"), False, "amqp:decode-error", [])):
            identity = declare(wire, number)
            state = Described(0x34, [identity, None])
            wire.send(transfers(number + 1, payload, state=state))
            first, _, code = disposition(said := wire.expect(DISPOSITION))
            assert (first, code) == (number + 1, 0x34 if outcome == ACCEPTED else REJECTED), said
            assert outcome == ACCEPTED or outcome.encode() in said
            wire.send(transfers(number + 2, texts("settled"), settled=True, state=state))
            assert bodies(running, "q") == []
            wire.send(discharge(identity, number + 3, fail))
            said = wire.expect(DISPOSITION)
            assert (b"amqp:transaction:rollback" in said) == (outcome != ACCEPTED), said
            assert bodies(running, "q") == (stored + ["settled"] if stored else [])
            number += 4
        wire.send(transfers(number, texts("x"), state=Described(0x34, [b"nonesuch", None])))
        assert b"amqp:transaction:unknown-id" in wire.expect(DISPOSITION)


def large_ones_and_many(running):
    """In many transfers, among those of others; an aborted one leaves nothing; more messages than a batch may have are refused."""
    queue(running, "q")
    queue(running, "small")
    big = [Message(body=bytes([i]) * 100000) for i in range(60)]
    with sender(running, "q") as wire:
        wire.attach("other", 1, "small")
        payload = batch(*big)
        wire.send(frame(TRANSFER, [0, 0, b"0", BATCH, False, True], payload[:10000]))
        wire.send(frame(TRANSFER, [0, 0, None, None, False, False, None, None, None, True]))
        pieces = [payload[at:at + 15000] for at in range(0, len(payload), 15000)]
        wire.send(frame(TRANSFER, [0, 1, b"1", BATCH, False, True], pieces[0])
                  + transfers(2, texts("between", "them"), handle=1))
        assert outcomes(wire, 2)[2] == ACCEPTED and bodies(running, "small") == ["between", "them"]
        wire.send(b"".join(frame(TRANSFER, [0, None, None, None, False, True], piece) for piece in pieces[1:-1])
                  + frame(TRANSFER, [0, None, None, None, False], pieces[-1]))
        assert outcomes(wire, 1)[1] == ACCEPTED
        assert [bytes(body) for body in bodies(running, "q")] == [one.body for one in big]
        one = Message(body="").encode()
        wire.send(transfers(3, batch(*10000 * [one])))
        assert outcomes(wire, 3)[3] == ACCEPTED
        wire.send(transfers(4, batch(*10001 * [one])))
        assert outcomes(wire, 4)[4] == "amqp:link:message-size-exceeded"
        assert running.call("GET", "/v1/default/queues/q/records?partition=0&offset=0&limit=1")[1]["end"] == 10060
        # What is more than a message may be ends the link, as of any message.
        wire.send(transfers(5, batch(*[Message(body=bytes(100000))] * 110), size=16000))
        assert b"amqp:link:message-size-exceeded" in wire.expect(DETACH)


class Aborter(MessagingHandler):
    """Sends half of each message, and after a while the rest, or that it is given up."""

    def __init__(self, url, plan):
        super().__init__()
        self.url, self.plan, self.outcomes = url, list(plan), []

    def on_start(self, event):
        self.sender = event.container.create_sender(self.url)

    def on_link_opened(self, event):
        self.go_on(event)

    def go_on(self, event):
        if not self.plan:
            self.sender.connection.close()
            return
        size, self.ends = self.plan.pop(0)
        encoded = Message(body="x" * size).encode()
        self.delivery, self.rest = self.sender.delivery(f"{len(self.plan)}"), encoded[len(encoded) // 2:]
        self.sender.stream(encoded[:len(encoded) // 2])
        event.container.schedule(0.2, self)

    def on_timer_task(self, event):
        if self.ends:
            self.sender.stream(self.rest)
            self.sender.advance()
        else:
            self.delivery.abort()
            self.outcomes.append("aborted")
            self.go_on(event)

    def on_accepted(self, event):
        self.outcomes.append("accepted")
        event.delivery.settle()
        self.go_on(event)


def what_proton_aborts_leaves_nothing(running):
    """Amid a large message in many transfers, behind others and before them on the same link."""
    queue(running, "q")
    plan = [(2 * MB, False), (100, True), (100000, False), (3 * MB, False), (MB, True)]
    aborter = Aborter(f"127.0.0.1:{running.amqp_port}/q", plan)
    Container(aborter).run()
    assert aborter.outcomes == ["accepted" if ends else "aborted" for _, ends in plan], aborter.outcomes
    assert [len(body) for body in bodies(running, "q")] == [100, MB]


def memory_for_many_is_bounded(running):
    """Who sends large batches one behind the other, and does not wait, is paced."""
    queue(running, "q", retention_bytes=4 * MB)
    payload = batch(*[Message(body=bytes(100000))] * 80)
    with sender(running, "q") as wire:
        highest = 0
        for number in range(24):
            wire.send(transfers(number, payload))
            highest = max(highest, rss_mib(running))
        got = outcomes(wire, 23)
    assert len(got) == 24 and set(got.values()) == {ACCEPTED}, got
    assert highest < RSS_MIB_MAX, highest  # as with messages of that size: 250


def a_rate_counts_each_message():
    running = Gateway(None, "limit.publish_rate=10")
    try:
        queue(running, "q")
        assert send_one(running, "q", texts(*"0123456789a")) == "amqp:resource-limit-exceeded"
        time.sleep(1.1)
        assert send_one(running, "q", texts(*"0123456789")) == ACCEPTED
        assert bodies(running, "q") == list("0123456789")
    finally:
        running.stop()


def rights_are_those_of_each():
    """Of the relay: what the user may not do with one message refuses them all."""
    running = Gateway()
    try:
        owner = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
        assert running.call("PUT", "/v1/default/users/ann", {"password": "secret"})[0] == 201
        assert running.call("PUT", "/v1/default/users/guest", {"password": "secret"}, owner)[0] == 201
        assert running.call("PUT", "/v1/default/users/guest/grants", {"grants": ["publish topic:yes/#"]}, owner)[0] == 200
        with relay(running, "guest") as wire:
            for number, (topics, outcome) in enumerate(((("yes/1", "no/1"), "amqp:unauthorized-access"), (("yes/1", "yes/2"), ACCEPTED))):
                wire.send(transfers(number, batch(*[Message(address=f"/topics/{topic}", body=topic) for topic in topics])))
                got = outcomes(wire, number)
                assert got == {number: outcome}, got
        counted = running.call("GET", "/metrics", None, owner)[1]
        assert "\npolylog_stored_records_total 2\n" in counted, counted
    finally:
        running.stop()


def what_is_accepted_survives_kill_9(running):
    """All of it, over several partitions, what is delayed included; and a link to a durable target knows it again as one delivery."""
    queue(running, "q", partitions=4)
    queue(running, "later")
    with sender(running, "q") as wire:
        wire.send(transfers(0, batch(*[Message(body=i, annotations={symbol("x-opt-partition-key"): str(i)}) for i in range(40)])))
        assert outcomes(wire, 0)[0] == ACCEPTED
        running.kill9()
    running.restart()
    assert sorted(bodies(running, "q")) == list(range(40))
    # Answers were lost: what the client sends again under its tag is not stored again.
    plain, late = texts("a", "b"), batch(Message(body="late", annotations={symbol("x-opt-delivery-delay"): 3600000}))
    for name, payload in (("q", plain), ("later", late)):
        wire = Wire(running.amqp_port)
        wire.open("durable")
        wire.attach(name, 0, name, durable=2, unsettled={})
        wire.send(transfers(0, payload))
        assert outcomes(wire, 0)[0] == ACCEPTED
        running.kill9()
        wire.socket.close()
        running.restart()
        with Wire(running.amqp_port) as wire:
            wire.open("durable")
            answer = wire.attach(name, 0, name, durable=2, unsettled={b"0": None})
            assert b"\xa0\x010" in answer, answer
            wire.send(transfers(0, payload))
            assert outcomes(wire, 0)[0] == ACCEPTED
    assert bodies(running, "q") == ["a", "b"]
    assert running.call("GET", "/v1/default/queues/later")[1]["delayed"] == 1


if __name__ == "__main__":
    run(each_message_is_one_of_its_own, to_topics_and_by_the_relay, the_relay_makes_queues_for_it, all_or_nothing,
        keys_ids_groups_and_delays_are_each_messages_own, what_is_behind_stays_behind, within_transactions, large_ones_and_many, what_proton_aborts_leaves_nothing, memory_for_many_is_bounded,
        a_rate_counts_each_message, rights_are_those_of_each, what_is_accepted_survives_kill_9)
