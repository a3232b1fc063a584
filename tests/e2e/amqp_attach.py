# SPDX-License-Identifier: Apache-2.0
"""What the answer to an attach says is what holds, not what was asked for; and so does a flow that is asked for."""
import struct

from proton import Data, Described as Value, Message, Terminus, symbol
from proton.reactor import Filter, LinkOption
from proton.utils import BlockingConnection

from amqpwire import (ATTACH, BEGIN, DETACH, DISPOSITION, FLOW, OPEN, TRANSFER, Described, Symbol, Wire, decode, disposition, encode,
                      frame, ubyte)
from gateway import run

SECONDS = 20
NONE, CONFIGURATION, UNSETTLED = Terminus.NONDURABLE, Terminus.CONFIGURATION, Terminus.DELIVERIES
LINK, NEVER = Terminus.EXPIRE_WITH_LINK, Terminus.EXPIRE_NEVER


def connect(running):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)


class Asks(LinkOption):
    """For an end that lasts, with capabilities and outcomes; for the rest by name."""

    def __init__(self, capabilities=("made-up", "queue"), outcomes=("amqp:accepted:list", "made-up"), lasts=True, **more):
        self.capabilities, self.outcomes, self.lasts, self.more = capabilities, outcomes, lasts, more

    def apply(self, link):
        end = link.source if link.is_receiver else link.target
        put(end.capabilities, self.capabilities)
        if link.is_receiver:
            put(end.outcomes, self.outcomes)
        if self.lasts:
            end.durability, end.expiry_policy, end.timeout = UNSETTLED, NEVER, 70
        for name, value in self.more.items():
            setattr(end, name, value)


class First(Filter):
    def __init__(self):
        super().__init__({symbol("p"): Value(symbol("rabbitmq:stream-offset-spec"), "first")})


def put(data, symbols):
    data.put_array(False, Data.SYMBOL)
    data.enter()
    for text in symbols:
        data.put_symbol(text)
    data.exit()


def symbols_of(data):
    data.rewind()
    if not data.next():
        return []
    assert data.type() == Data.ARRAY, data.type()
    return [str(text) for text in data.get_py_array().elements]


def said(end):
    return symbols_of(end.capabilities), end.durability, end.expiry_policy, end.timeout


def of_source(connection, address, *options):
    receiver = connection.create_receiver(address, options=list(options), dynamic=address is None)
    end = receiver.link.remote_source
    answer = (*said(end), end.distribution_mode, symbols_of(end.outcomes))
    receiver.close()
    return answer


def of_target(connection, address, *options):
    sender = connection.create_sender(address, options=list(options))
    answer = said(sender.link.remote_target)
    sender.close()
    return answer


def sources_say_what_they_are(running):
    for name, kind in (("q", "standard"), ("st", "stream")):
        assert running.call("POST", "/v1/default/queues", {"name": name, "type": kind})[0] == 201
    connection = connect(running)
    copy, move = Terminus.DIST_MODE_COPY, Terminus.DIST_MODE_MOVE
    accepted = ["amqp:accepted:list"]
    # A group is there for good, of its links nothing is kept.
    for address in ("q", "/queues/q/groups/g", "/queues/q/groups/g/deadletters"):
        assert of_source(connection, address, Asks(distribution_mode=move)) == (["queue"], CONFIGURATION, NEVER, 0, move, accepted), address
    assert of_source(connection, "q", Asks(lasts=False))[1:4] == (NONE, Terminus.EXPIRE_WITH_SESSION, 0)
    assert of_source(connection, "q", Asks((), ()))[0::5] == ([], [])
    # Who reads along may do so again, from a place that it says itself.
    assert of_source(connection, "q", Asks(distribution_mode=copy)) == (["queue"], NONE, LINK, 0, copy, accepted)
    assert of_source(connection, "st", Asks(distribution_mode=move)) == (["queue"], NONE, LINK, 0, copy, accepted)
    assert of_source(connection, "/topics/t", First(), Asks(("shared", "topic")))[:4] == (["topic"], NONE, LINK, 0)
    assert of_source(connection, "/topics/t", Asks())[:4] == ([], UNSETTLED, NEVER, 0)
    assert of_source(connection, "/topics/t", Asks(("global", "shared", "made-up")))[:4] == (["shared", "global"], UNSETTLED, NEVER, 0)
    assert of_source(connection, "/topics/t", Asks(("global",), lasts=False))[0] == []
    assert of_source(connection, "$management", Asks())[:4] == ([], NONE, LINK, 0)
    connection.close()


def what_a_topic_does_not_do_is_not_said(running):
    """Its deliveries may come settled, others have what it moves, and a node has no properties that were only asked for."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] == 201
    properties = {Symbol("lifetime-policy"): Described(0x2b, []), Symbol("supported-dist-modes"): Symbol("move")}
    dynamic, temporary = [None, None, None, None, True, properties, Symbol("move")], [Symbol("temporary-queue")]
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        for handle, source in enumerate((["/topics/t", *[None] * 5, Symbol("move")], dynamic, [*dynamic, None, None, None, temporary],
                                         ["q", *[None] * 4, properties], ["$management", *[None] * 5, Symbol("move")])):
            if source[-1] is temporary:
                source[-1] = temporary[0]
            wire.send(frame(ATTACH, [f"r{handle}", handle, True, ubyte(0), None, Described(0x28, source), Described(0x29, [None])]))
            answer = decode(b"\x00\x53\x12" + wire.expect(ATTACH))[0].value
            said = answer[5].value + [None] * 11
            is_queue = handle in (2, 3)
            assert answer[3] == {4: 1}.get(handle, 0 if is_queue else 2), (source, answer[3])
            assert said[6] == {0: "copy", 1: "copy", 2: "move"}.get(handle), (source, said)
            if handle == 2:
                assert list(said[5]) == ["lifetime-policy"] and said[5]["lifetime-policy"].value == [], said
            else:
                assert not said[5], (source, said)


def addresses_are_repeated_as_they_were_written(running):
    for name, kind in (("q", "standard"), ("st", "stream")):
        assert running.call("POST", "/v1/default/queues", {"name": name, "type": kind})[0] == 201
    connection = connect(running)
    topic, copy = Asks(("topic",), lasts=False), Asks(lasts=False, distribution_mode=Terminus.DIST_MODE_COPY)
    for address, *options in (("q",), ("/queues/q",), ("/queues/q/",), ("/queues/q/groups/g",), ("/queues/q/groups/g/deadletters",),
                              ("q", copy), ("/queues/q/groups/g", copy), ("st",), ("/queues/st",), ("/topics/a/+/#",), ("/topics/t",),
                              ("t", topic), ("a/#", topic), ("/topics/t", topic), ("/topics/t", Asks()), ("$management",)):
        receiver = connection.create_receiver(address, options=options)
        assert receiver.link.remote_source.address == address, (address, receiver.link.remote_source.address)
        receiver.close()
    for address, *options in (("q",), ("/queues/q",), ("/queues/q/",), ("st",), ("/topics/t/u",), ("t", topic), (None,), ("$management",),
                              ("q", Asks()), ("/queues/q", Asks()), ("/topics/t", Asks())):
        sender = connection.create_sender(address, options=options)
        assert sender.link.remote_target.address == address, (address, sender.link.remote_target.address)
        sender.close()
    connection.close()


def targets_say_what_they_are(running):
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] == 201
    connection = connect(running)
    assert of_target(connection, "q", Asks(lasts=False))[0] == ["queue"]
    assert of_target(connection, "/topics/t", Asks(lasts=False))[0] == []
    assert of_target(connection, "t", Asks(("topic", "made-up"), lasts=False))[0] == ["topic"]
    assert of_target(connection, "$management", Asks()) == ([], NONE, LINK, 0)
    assert of_target(connection, "q", Asks()) == (["queue"], UNSETTLED, NEVER, 0)
    connection.close()
    with Wire(running.amqp_port, SECONDS) as wire:  # without a name nothing is kept
        wire.open("")
        target = Described(0x29, ["q", 2, Symbol("never"), 70])
        wire.send(frame(ATTACH, ["s", 0, False, None, None, Described(0x28, [None]), target, None, None, 0]))
        answer = wire.expect(ATTACH)
        assert b"never" not in answer and b"link-detach" in answer, answer


def transactions_are_local(running):
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        for handle, asked in enumerate((None, Symbol("amqp:distributed-transactions"))):
            source, coordinator = Described(0x28, [None]), Described(0x30, [asked])
            wire.send(frame(ATTACH, [f"c{handle}", handle, False, None, None, source, coordinator, None, None, 0]))
            answer = wire.expect(ATTACH)
            for name in (b"local-transactions", b"multi-txns-per-ssn", b"multi-ssns-per-txn"):
                assert b"amqp:" + name in answer, answer
            assert b"distributed" not in answer, answer
        for number, global_id, outcome in ((0, b"one", 0x25), (1, None, 0x33)):
            wire.send(frame(TRANSFER, [0, number, b"%d" % number, 0], b"\x00\x53\x77" + encode(Described(0x31, [global_id]))))
            answer = wire.expect(DISPOSITION)
            assert disposition(answer)[2] == outcome and (b"amqp:not-implemented" in answer) == (outcome == 0x25), answer


def a_link_without_a_target_is_refused(running):
    """Its attach is answered without one, and then it is detached."""
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        wire.send(frame(ATTACH, ["s", 0, False, None, None, Described(0x28, [None]), None, None, None, 0]))
        answer, _ = decode(b"\x00\x53\x12" + wire.expect(ATTACH))
        assert answer.value[6] is None, answer.value
        assert b"amqp:invalid-field" in wire.expect(DETACH)
        wire.send(frame(DETACH, [0, True]))
        wire.attach("s", 0, "/topics/t")  # the name and the handle are free again


def a_link_takes_the_name_from_one_of_another_session(running):
    """Of its direction; what is kept under the name comes to the newer one."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] == 201
    kept = Described(0x28, ["/topics/kept", 2, Symbol("never")])
    for source in (Described(0x28, ["q"]), kept):
        connection = connect(running)
        with Wire(running.amqp_port, SECONDS) as wire:
            wire.open("c" + str(source.value[0]))
            wire.send(frame(BEGIN, [None, 0, 1000, 1000], channel=1))
            wire.expect(BEGIN)
            wire.attach("same", 1, "q")
            receives = ["same", 0, True, None, None, source, Described(0x29, [None])]
            wire.send(frame(ATTACH, receives))
            wire.expect(ATTACH)
            connection.create_sender(source.value[0]).send(Message(body="x"))
            wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 1]))
            wire.expect(TRANSFER)
            wire.send(frame(ATTACH, receives, channel=1))
            assert b"amqp:link:stolen" in wire.expect(DETACH)
            wire.send(frame(DETACH, [0, True]))
            wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 1], channel=1))
            assert b"x" in wire.expect(TRANSFER)
            wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(0x24, [])], channel=1))
            wire.send(frame(TRANSFER, [1, 0, b"d", 0], b"\x00\x53\x75\xa0\x01y"))  # the sender has its own
            assert disposition(wire.expect(DISPOSITION)) == (0, 0, 0x24)
        connection.close()


def flow_of(wire):
    return decode(b"\x00\x53\x13" + wire.expect(FLOW))[0].value


def a_flow_that_asks_is_answered(running):
    """With what holds of the session and the link, as Proton says it when it has a reason to; also amid messages of many frames."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] == 201
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.header()
        wire.send(frame(OPEN, ["c", None, 1000]) + frame(BEGIN, [None, 7, 1000, 1000]) + frame(BEGIN, [None, 0, 9, 9], channel=3))
        wire.expect(BEGIN)
        wire.expect(BEGIN)
        wire.attach("other", 4, "q", receiver=True)
        wire.attach("s", 1, "q")
        credit = flow_of(wire)
        for number in range(5):
            body = b"\x00\x53\x75\xb0" + struct.pack(">I", 3000) + bytes(3000)
            for at in range(0, len(body), 600):
                piece = [1, number, b"%d" % number, 0, False, at + 600 < len(body)] if at == 0 else [1, None, None, None, None, at + 600 < len(body)]
                wire.send(frame(TRANSFER, piece, body[at:at + 600]))
            wire.expect(DISPOSITION)
        # Our side receives: five deliveries in six frames each, from 7 on.
        wire.send(frame(FLOW, [0, 1000, 37, 1000, 1, 5, None, None, None, True]))
        assert flow_of(wire) == [37, credit[1], 0, credit[3], credit[4], 5, credit[6] - 5, None, False]
        # It sends, and the peer has not seen all of it.
        wire.attach("r", 0, "q", receiver=True)
        wire.send(frame(FLOW, [0, 1000, 37, 1000, 0, 0, 3]))
        sent = 0
        for _ in range(3):
            more = True
            while more:
                fields = decode(b"\x00\x53\x14" + wire.expect(TRANSFER))[0].value
                more, sent = len(fields) > 5 and fields[5], sent + 1
        assert sent > 9, sent
        handle = decode(b"\x00\x53\x12" + wire.attach("r2", 9, "q", receiver=True))[0].value[1] - 1
        for count, more, left in ((0, 3, 0), (1, 2, 0)):
            wire.send(frame(FLOW, [0, 1000, 37, 1000, 0, count, more, None, None, True]))
            assert flow_of(wire) == [37, credit[1], sent, credit[3], handle, 3, left, None, False]
        wire.send(frame(FLOW, [0, 1000, 37, 1000, None, None, None, None, None, True]))
        assert flow_of(wire)[:4] == [37, credit[1], sent, credit[3]]
        # Proton's own, at a drain when two more have gone, and what is said behind it.
        wire.send(frame(FLOW, [0, 1000, 37, 1000, 0, 3, 10, None, True]))
        said = flow_of(wire)
        assert said[2] > sent and said[4:7] == [handle, 13, 0], said
        wire.send(frame(FLOW, [0, 1000, 37, 1000, 0, 13, 4, None, False, True]))
        assert flow_of(wire) == [37, credit[1], said[2], credit[3], handle, 13, 4, None, False]
        # Of another session, whose link has taken nothing.
        wire.send(frame(ATTACH, ["t", 0, True, None, None, Described(0x28, ["/topics/t"]), Described(0x29, [None])], channel=3))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, 9, 0, 9, 0, 0, 4, None, None, True], channel=3))
        assert flow_of(wire)[2:7] == [0, credit[3], 0, 0, 4]


if __name__ == "__main__":
    run(sources_say_what_they_are, addresses_are_repeated_as_they_were_written, what_a_topic_does_not_do_is_not_said, targets_say_what_they_are, transactions_are_local, a_link_without_a_target_is_refused,
        a_link_takes_the_name_from_one_of_another_session, a_flow_that_asks_is_answered)
