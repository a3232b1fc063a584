# SPDX-License-Identifier: Apache-2.0
"""Links whose senders come back with what is unsettled to them: nothing is stored twice, nothing is taken for stored that was not."""
import contextlib
import itertools
import struct
import time

from amqpwire import (ACCEPTED, ATTACH, BEGIN, DETACH, DISPOSITION, FLOW, OPEN, REJECTED, RELEASED, TRANSFER, Described, Symbol, Wire,
                      decode, frame, ubyte)
from gateway import queue, run
from mqtt_stalled import RSS_MIB_MAX, rss_mib

FIRST, SECOND = 0, 1
RECEIVED = 0x23
NEVER = Symbol("never")
BODY = b"\x00\x53\x75\xa0"
groups = itertools.count()


def data(text):
    return BODY + bytes([len(text)]) + text


class Sender:
    """A link to q: attached at once; `said` is the gateway's ATTACH."""

    def __init__(self, running, unsettled=None, container="c", name="link", rcv=FIRST, expiry=None, durable=None, incomplete=None,
                 frame_max=None, address="q", wire=None, handle=0):
        self.handle, self.number = handle, 0
        if wire is None:
            wire = Wire(running.amqp_port)
            wire.header()
            wire.send(frame(OPEN, [container, None, frame_max]) + frame(BEGIN, [None, 0, 10000, 10000]))
            wire.expect(OPEN)
            wire.expect(BEGIN)
        self.wire = wire
        wire.send(frame(ATTACH, [name, handle, False, None, ubyte(rcv), Described(0x28, []), Described(0x29, [address, durable, expiry]),
                                 unsettled, incomplete, 0]))
        self.said = decode(b"\x00\x53\x12" + wire.expect(ATTACH))[0].value
        self.flow = wire.expect(FLOW)

    @property
    def unsettled(self):
        return self.said[7] if len(self.said) > 7 else None

    def send(self, tag, text, resume=None, settled=False, state=None, more=False, aborted=None, payload=None):
        fields = [self.handle, self.number, tag, 0, settled, more, None, state, resume, aborted]
        self.number += 1
        self.wire.send(frame(TRANSFER, fields, data(text) if payload is None else payload))

    def outcomes(self, count):
        """By delivery number: code of the outcome, and whether it is settled."""
        found = {}
        while len(found) < count:
            fields = decode(b"\x00\x53\x15" + self.wire.expect(DISPOSITION))[0].value
            last = fields[1] if fields[2] is None else fields[2]
            for number in range(fields[1], last + 1):
                found[number] = (fields[4].code, fields[3])
        return [found[number] for number in sorted(found)]

    def settle(self, first, last):
        self.wire.send(frame(DISPOSITION, [False, first, last, True, Described(ACCEPTED, [])]))

    def cut(self):
        self.wire.socket.close()


def stored(running, name="q"):
    """Everything in the queue, by a group of its own."""
    with Wire(running.amqp_port) as wire:
        wire.open("reader")
        fields = ["in", 0, True, ubyte(1), None, Described(0x28, [f"/queues/{name}/groups/g{next(groups)}"]), Described(0x29, [])]
        wire.send(frame(ATTACH, fields))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, 10000, 0, 10000, 0, 0, 5000, None, True]))
        found = []
        while True:
            body = wire.next_frame()
            if body[2:3] == bytes([FLOW]):
                return found
            if body[2:3] == bytes([TRANSFER]):
                at = body.index(b"\x00\x53\x75") + 3
                found.append(body[at + 2:at + 2 + body[at + 1]])


def a_tag_of_the_map_is_not_stored_again(running):
    """Cut before the outcomes were read: with the resume flag and without."""
    queue(running)
    for round_, resume in enumerate((True, None)):
        one = Sender(running, expiry=NEVER, name=f"l{round_}")
        for i in range(20):
            one.send(b"%d" % i, b"%d-%d" % (round_, i))
        if resume is None:
            one.outcomes(20)
        one.cut()
        two = Sender(running, {b"%d" % i: None for i in range(25)}, name=f"l{round_}")
        known = {int(tag): state for tag, state in two.unsettled.items()}
        assert all(state.code in (ACCEPTED, RECEIVED) for state in known.values()), known
        for i in range(25):
            two.send(b"%d" % i, b"%d-%d" % (round_, i), resume=resume if i in known else None)
        assert two.outcomes(25) == [(ACCEPTED, True)] * 25
        two.cut()
        assert sorted(stored(running)) == sorted(b"%d-%d" % (r, i) for r in range(round_ + 1) for i in range(25))


def a_tag_that_began_anew_is_another_delivery(running):
    """Its sender has seen the first settled, and what it sent then under the same tag never came."""
    queue(running)
    one = Sender(running, expiry=NEVER)
    one.send(b"0", b"a")
    assert one.outcomes(1) == [(ACCEPTED, True)]
    one.cut()
    two = Sender(running, {b"0": None})
    assert two.unsettled[b"0"].code == RECEIVED and two.unsettled[b"0"].value == [0, 0], two.unsettled
    two.send(b"0", b"b", resume=True)
    assert two.outcomes(1) == [(ACCEPTED, True)]
    # and on the same link, when the first is over
    two.send(b"0", b"c")
    two.send(b"0", b"c")
    assert two.outcomes(2) == [(ACCEPTED, True)] * 2
    two.cut()
    assert stored(running) == [b"a", b"b", b"c", b"c"]


def a_receiver_that_settles_second_says_what_became_of_it(running):
    queue(running)
    one = Sender(running, rcv=SECOND)
    assert one.said[4] == SECOND
    for i in range(3):
        one.send(b"%d" % i, b"%d" % i)
    assert one.outcomes(3) == [(ACCEPTED, None)] * 3
    one.settle(0, 0)
    one.send(b"4", b"4")
    one.outcomes(1)
    one.cut()
    two = Sender(running, {b"1": None, b"2": Described(ACCEPTED, []), b"3": None}, rcv=SECOND)
    assert {tag: state.code for tag, state in two.unsettled.items()} == {b"1": RECEIVED, b"2": RECEIVED}, two.unsettled
    two.send(b"1", b"1", resume=True, settled=True)
    two.send(b"2", b"2", resume=True)
    assert [outcome for outcome, _ in two.outcomes(1)] == [ACCEPTED]
    two.settle(1, 1)
    two.send(b"3", b"3")
    assert [outcome for outcome, _ in two.outcomes(1)] == [ACCEPTED]
    two.cut()
    three = Sender(running, {b"1": None, b"2": None, b"3": None}, rcv=SECOND)
    assert list(three.unsettled) == [b"3"], three.unsettled
    # the sender has settled it, and what it sent then with the tag was lost with that
    three.send(b"3", b"anew")
    assert [outcome for outcome, _ in three.outcomes(1)] == [ACCEPTED]
    three.cut()
    assert stored(running) == [b"0", b"1", b"2", b"4", b"3", b"anew"]


def what_is_settled_before_its_outcome_is_over(running):
    """Its tag is free at once: here in the same write, and the next delivery with it is lost."""
    queue(running)
    for rcv in (FIRST, SECOND):
        one = Sender(running, expiry=NEVER, rcv=rcv, name=f"l{rcv}")
        settle = frame(DISPOSITION, [False, 0, 0, True, Described(ACCEPTED, [])])
        between = frame(ATTACH, ["other", 1, False, None, None, Described(0x28, []), Described(0x29, ["q"])])  # dealt with alone
        one.wire.send(frame(TRANSFER, [0, 0, b"0", 0, False], data(b"0")) + between + settle)
        one.number = 1
        one.send(b"1", b"1")
        one.outcomes(1)
        one.cut()
        two = Sender(running, {b"0": None, b"1": None}, rcv=rcv, name=f"l{rcv}")
        assert list(two.unsettled) == [b"1"], two.unsettled
        two.cut()
    assert stored(running) == [b"0", b"1"] * 2


def credit_comes_back_when_the_sender_settles(running):
    queue(running)
    one = Sender(running, rcv=SECOND)
    for round_ in (1, 2):
        for i in range(1000):
            one.send(struct.pack(">I", i), b"x")
        one.outcomes(1000)
        one.settle(one.number - 1000, one.number - 1)
        credit = 0
        while credit < 1000:
            fields = decode(b"\x00\x53\x13" + one.wire.expect(FLOW))[0].value
            credit = max(credit, fields[5] + fields[6] - 1000 * round_)
    # once for a delivery, however often it is settled
    one.send(b"a", b"x")
    one.send(b"b", b"x")
    one.outcomes(2)
    settle = [frame(DISPOSITION, [False, number, number, True, Described(ACCEPTED, [])]) for number in (2000, 2001)]
    one.wire.send(b"".join(settle) * 500)
    one.send(b"c", b"x")
    body = one.wire.next_frame()
    while body[2:3] != bytes([DISPOSITION]) or decode(body)[0].value[1] != 2002:
        assert body[2:3] != bytes([FLOW]), decode(body)[0].value
        body = one.wire.next_frame()
    one.cut()
    assert len(stored(running)) == 2003


def a_sender_that_never_settles_has_its_credit_and_no_more(running):
    queue(running)
    one = Sender(running, rcv=SECOND)
    for i in range(1000):
        one.send(struct.pack(">I", i), b"x")
    assert one.outcomes(1000) == [(ACCEPTED, None)] * 1000
    one.send(b"more", b"x")
    fields = decode(b"\x00\x53\x16" + one.wire.expect(DETACH))[0].value
    assert fields[2].value[0] == "amqp:link:transfer-limit-exceeded", fields
    one.cut()
    assert len(stored(running)) == 1000


def what_is_said_to_come_again_and_never_came_is_left_alone(running):
    queue(running)
    one = Sender(running, {})
    assert one.unsettled == {}
    one.send(b"0", b"0", resume=True)
    one.send(b"1", b"", resume=True, settled=True, payload=b"")
    one.send(b"2", b"2")
    assert one.outcomes(2) == [(RELEASED, True), (ACCEPTED, True)]
    one.cut()
    # in pieces
    two = Sender(running, {b"2": None})
    two.send(b"2", b"", resume=True, more=True, payload=data(b"2")[:3])
    two.number -= 1
    two.send(b"2", b"", payload=data(b"2")[3:])
    two.send(b"4", b"", resume=True, more=True, payload=data(b"4")[:3])
    two.number -= 1
    two.send(b"4", b"", payload=data(b"4")[3:])
    two.send(b"5", b"5")
    assert two.outcomes(3) == [(ACCEPTED, True), (RELEASED, True), (ACCEPTED, True)]
    two.cut()
    assert stored(running) == [b"2", b"5"]


def null_begins_anew(running):
    """And so does another container, another name, and what was closed for good."""
    queue(running)
    one = Sender(running, expiry=NEVER)
    one.send(b"0", b"0")
    one.outcomes(1)  # or the next one, which takes the name, may come before it
    for again in ({}, {"container": "d", "unsettled": {b"0": None}}, {"name": "other", "unsettled": {b"0": None}}):
        one = Sender(running, expiry=NEVER, **again)
        assert not one.unsettled
        one.send(b"0", b"0")
        assert one.outcomes(1) == [(ACCEPTED, True)]
    one.wire.send(frame(DETACH, [0, True]))
    one.wire.expect(DETACH)
    one = Sender(running, {b"0": None}, name="other", wire=one.wire, handle=3)
    assert one.unsettled == {}
    one.cut()
    assert len(stored(running)) == 4


def detached_and_attached_again(running):
    queue(running)
    one = Sender(running, expiry=NEVER)
    for i in range(50):
        one.send(b"%d" % i, b"%d" % i)
    one.wire.send(frame(DETACH, [0]))
    one.wire.expect(DETACH)
    two = Sender(running, {b"%d" % i: None for i in range(50)}, wire=one.wire, handle=1)
    assert len(two.unsettled) == 50
    two.number = one.number
    for i in range(50):
        two.send(b"%d" % i, b"%d" % i, resume=True)
    assert two.outcomes(50) == [(ACCEPTED, True)] * 50
    two.send(b"49", b"x", aborted=True)  # given up: with that nothing is known of it
    two.wire.send(frame(DETACH, [1]))
    two.wire.expect(DETACH)
    three = Sender(running, {b"48": None, b"49": None}, wire=one.wire, handle=1)
    assert list(three.unsettled) == [b"48"]
    three.number = two.number
    three.send(b"48", b"", resume=True, more=True, payload=data(b"48")[:3])  # given up half way, and sent again
    three.number -= 1
    three.send(b"48", b"", aborted=True, payload=b"")
    three.send(b"48", b"48")
    assert three.outcomes(1) == [(ACCEPTED, True)]
    three.cut()
    assert len(stored(running)) == 50


def who_comes_later_has_the_name(running):
    """A connection that the gateway does not know to be lost yet may send nothing more."""
    queue(running)
    one = Sender(running, expiry=NEVER)
    one.send(b"0", b"0")
    one.outcomes(1)
    two = Sender(running, {b"0": None, b"1": None})
    one.send(b"1", b"1")
    fields = decode(b"\x00\x53\x16" + one.wire.expect(DETACH))[0].value
    assert fields[2].value[0] == "amqp:link:stolen", fields
    two.send(b"0", b"0", resume=True)
    two.send(b"1", b"1")
    assert two.outcomes(2) == [(ACCEPTED, True)] * 2
    two.cut()
    assert stored(running) == [b"0", b"1"]


def a_transfer_before_our_attach_ends_its_link(running):
    """No credit is given while what came before is owed: all in one write."""
    queue(running)
    one = Sender(running, rcv=SECOND)
    attach = ["link", 5, False, None, ubyte(SECOND), Described(0x28, []), Described(0x29, ["q"]), {b"x": None}, None, 0]
    one.wire.send(frame(TRANSFER, [0, 0, b"x", 0, False], data(b"x")) + frame(DETACH, [0]) + frame(ATTACH, attach) +
                  frame(TRANSFER, [5, 1, b"x", 0, False], data(b"x")))
    one.wire.expect(DETACH)
    one.wire.expect(ATTACH)
    fields = decode(b"\x00\x53\x16" + one.wire.expect(DETACH))[0].value
    assert fields[2].value[0] == "amqp:link:transfer-limit-exceeded", fields
    one.cut()
    two = Sender(running, {b"x": None}, rcv=SECOND)
    assert two.unsettled[b"x"].code == ACCEPTED, two.unsettled
    two.cut()
    assert stored(running) == [b"x"]


def what_was_rejected_is_told_again(running):
    queue(running, max_records=1, overflow="refuse")
    one = Sender(running, rcv=SECOND)
    one.send(b"0", b"0")
    one.send(b"1", b"1")
    assert [outcome for outcome, _ in one.outcomes(2)] == [ACCEPTED, REJECTED]
    one.cut()
    two = Sender(running, {b"0": None, b"1": None}, rcv=SECOND)
    assert two.unsettled[b"1"].code == RECEIVED
    two.send(b"1", b"1", resume=True)
    fields = decode(b"\x00\x53\x15" + two.wire.expect(DISPOSITION))[0].value
    assert fields[4].code == REJECTED and fields[4].value[0].value[0] == "amqp:resource-limit-exceeded", fields[4].value
    two.cut()


def a_map_that_does_not_fit_is_incomplete(running):
    """Then only what is resumed may come, and what does is known."""
    queue(running)
    one = Sender(running, rcv=SECOND)
    for i in range(200):
        one.send(b"%032d" % i, b"%d" % i)
    one.outcomes(200)
    one.cut()
    two = Sender(running, {b"%032d" % i: None for i in range(200)}, rcv=SECOND, frame_max=1024)
    assert two.said[8] is True and 0 < len(two.unsettled) < 30, two.said
    for i in range(200):
        two.send(b"%032d" % i, b"%d" % i, resume=True)
    assert [outcome for outcome, _ in two.outcomes(200)] == [ACCEPTED] * 200
    two.settle(0, 199)
    two.send(b"new", b"new")
    fields = decode(b"\x00\x53\x16" + two.wire.expect(DETACH))[0].value
    assert fields[1] is True and fields[2].value[0] == "amqp:illegal-state", fields
    two.cut()
    three = Sender(running, {}, rcv=SECOND, frame_max=1024)
    assert three.unsettled == {} and (len(three.said) < 9 or not three.said[8])
    three.send(b"new", b"new")
    three.outcomes(1)
    three.cut()
    assert len(stored(running)) == 201


def what_is_held_is_what_is_said(running):
    """What is not asked to be durable does not outlive the process: the time is ours, and after kill -9 nothing is known."""
    queue(running)
    one = Sender(running, expiry=NEVER, durable=1)
    target = one.said[6].value
    assert target[1] in (None, 0) and target[2] == "link-detach" and target[3] == 600, target
    one.send(b"0", b"0")
    one.outcomes(1)
    running.kill9()
    running.restart()
    two = Sender(running, {b"0": None}, expiry=NEVER)
    assert two.unsettled == {}
    two.send(b"0", b"0")
    two.outcomes(1)
    two.cut()
    assert stored(running) == [b"0", b"0"]
    plain = Sender(running, container="plain")
    assert plain.unsettled is None and plain.said[6].value[1:4] in ([0, None, 0], [0, "session-end", 0]), plain.said[6].value
    plain.cut()
    kept = Sender(running, name="kept", durable=2)
    assert kept.said[6].value[1:4] == [2, "link-detach", 600], kept.said[6].value
    kept.cut()


def what_is_durable_survives_kill_9(running):
    """The gateway dies somewhere between the first that is stored and the last answer: all is stored once, whatever was; to a queue of
    several partitions, to a topic, and by the relay."""
    queue(running, partitions=3)
    queue(running, "t")
    status, answer = running.call("PUT", "/v1/default/routes/t", {"queue": "t"})
    assert status in (200, 201, 204), answer
    delays = itertools.cycle((0, 0.002, 0.005, 0.01, 0.02, 0.05))
    seen = set()
    for round_ in range(9):
        address, name = (("q", "q"), ("/topics/t", "t"))[round_ % 2]
        one = Sender(running, {}, expiry=NEVER, durable=2, name="kept" + name, address=address)
        assert one.said[6].value[1:3] == [2, "never"], one.said[6].value
        texts = [b"%d-%d" % (round_, i) for i in range(500)]
        for i, text in enumerate(texts):
            one.send(struct.pack(">I", i), text)  # tags of the rounds before
        time.sleep(next(delays))
        running.kill9()
        running.restart()
        one.cut()
        tags = {struct.pack(">I", i): None for i in range(500)}
        two = Sender(running, tags, expiry=NEVER, durable=2, name="kept" + name, address=address)
        known = two.unsettled
        assert all(state.code == RECEIVED for state in known.values())
        for tag, text in zip(tags, texts, strict=True):
            two.send(tag, text, resume=True if tag in known else None)
        assert two.outcomes(500) == [(ACCEPTED, True)] * 500
        two.cut()
        found = [text for text in stored(running, name) if text.startswith(b"%d-" % round_)]
        assert sorted(found) == sorted(texts), (round_, len(found))
        seen.add(len(known) > 0)
    assert True in seen, "the gateway has never died behind the first that was stored"


def a_close_that_comes_with_the_attach_is_durable(running):
    """It is answered when nothing of what was kept can come back."""
    queue(running)
    one = Sender(running, {}, durable=2)
    one.send(b"0", b"0")
    one.outcomes(1)
    one.cut()
    with Wire(running.amqp_port) as wire:
        wire.open("c")
        wire.send(frame(ATTACH, ["link", 0, False, None, ubyte(FIRST), Described(0x28, []), Described(0x29, ["q", 2]), {b"0": None}, None, 0]) +
                  frame(DETACH, [0, True]))
        wire.expect(DETACH)
        running.kill9()
        running.restart()
    two = Sender(running, {b"0": None}, durable=2)
    assert two.unsettled == {}, two.unsettled
    two.cut()


def what_was_settled_is_over_after_kill_9(running):
    """Its tag with the same bytes is another delivery, once anything was stored behind the settling."""
    queue(running)
    one = Sender(running, {}, durable=2, rcv=SECOND)
    for tag in (b"0", b"1", b"2"):
        one.send(tag, tag)
    assert one.outcomes(3) == [(ACCEPTED, None)] * 3
    one.settle(0, 1)
    one.send(b"3", b"3")
    one.outcomes(1)
    running.kill9()
    running.restart()
    one.cut()
    two = Sender(running, {tag: None for tag in (b"0", b"2", b"3")}, durable=2, rcv=SECOND)
    assert sorted(two.unsettled) == [b"2", b"3"], two.unsettled
    for tag in (b"0", b"2", b"3"):
        two.send(tag, tag, resume=True if tag in two.unsettled else None)
    assert two.outcomes(3) == [(ACCEPTED, None)] * 3
    two.cut()
    assert sorted(stored(running)) == [b"0", b"0", b"1", b"2", b"3"]


def what_is_durable_ends_as_it_was_asked_to(running):
    """Without a map tags begin anew, and so they do when the link was closed; on a link that lives they may come again at any time."""
    queue(running)
    one = Sender(running, {}, durable=2)
    for i in range(2500):  # more than is kept
        one.send(b"%d" % (i % 2), b"%d" % (i % 4 // 2))
        if i % 500 == 499:
            one.outcomes(500)
    running.kill9()
    running.restart()
    assert len(stored(running)) == 2500
    two = Sender(running, {b"0": None, b"1": None}, durable=2)
    assert sorted(two.unsettled) == [b"0", b"1"]
    two.send(b"0", b"other", resume=True)
    two.send(b"1", b"1", resume=True)
    two.send(b"1", b"1")
    assert two.outcomes(3) == [(ACCEPTED, True)] * 3
    assert len(stored(running)) == 2502
    for anew in ("null", "closed"):
        two.wire.send(frame(DETACH, [0, anew == "closed"]))
        two.wire.expect(DETACH)
        if anew == "null":
            Sender(running, durable=2, wire=two.wire, handle=3)
        else:
            two.cut()
        running.kill9()
        running.restart()
        two = Sender(running, {b"1": None}, durable=2)
        assert two.unsettled == {}, (anew, two.unsettled)
        two.send(b"1", b"1")
        two.outcomes(1)
    assert len(stored(running)) == 2504
    # a name that is too long is not kept, and that is said
    three = Sender(running, {}, durable=2, expiry=NEVER, name="n" * 1100)
    assert three.said[6].value[1:3] in ([0, "link-detach"], [None, "link-detach"]), three.said[6].value
    three.cut()


def nothing_is_known_for_longer_than_the_gateway_allows(running):
    """The answer says for how long what is durable is kept. Then its rows have gone: after kill -9 nothing is known."""
    running.stop()
    running.sets.append("limit.session_expiry=2")
    running.start()
    queue(running)
    one = Sender(running, {}, durable=2, expiry=NEVER)
    assert one.said[6].value[1:4] == [2, "link-detach", 2], one.said[6].value
    one.send(b"0", b"0")
    one.outcomes(1)
    for wait, known in ((0, [b"0"]), (2.1, [])):
        one.wire.send(frame(DETACH, [0, False]))
        one.wire.expect(DETACH)
        one.cut()
        time.sleep(wait)
        running.kill9()
        running.restart()
        one = Sender(running, {b"0": None}, durable=2, expiry=NEVER)
        assert sorted(one.unsettled) == known, (wait, one.unsettled)
    one.send(b"0", b"0")
    one.outcomes(1)
    one.cut()
    assert stored(running) == [b"0", b"0"]


def answers_that_nobody_reads_do_not_pile_up(running):
    queue(running)
    one = Sender(running)
    with contextlib.suppress(ConnectionError):
        for i in range(30000):
            attach = [f"{i}{'n' * 1000}", 1, False, None, None, Described(0x28, []), Described(0x29, ["q"]), {}, None, 0]
            one.wire.send(frame(ATTACH, attach) + frame(DETACH, [1]))
    assert rss_mib(running) < RSS_MIB_MAX, rss_mib(running)
    limits = [line for line in running.call("GET", "/metrics")[1].splitlines() if 'protocol="amqp",reason="limit"' in line]
    assert limits[0].endswith(" 1"), limits
    one.cut()
    two = Sender(running)
    two.send(b"0", b"0")
    assert two.outcomes(1) == [(ACCEPTED, True)]
    two.cut()


def an_answer_repeats_the_default_outcome(running):
    queue(running)
    outcomes = [Described(ACCEPTED, []), Described(RELEASED, []), Described(0x27, [True, False, {Symbol("x-opt-delivery-delay"): 1500}])]
    for frame_max in (None, 512):
        for number, outcome in enumerate(outcomes):
            with Wire(running.amqp_port) as wire:
                wire.header()
                wire.send(frame(OPEN, ["c", None, frame_max]) + frame(BEGIN, [None, 0, 1000, 1000]))
                wire.expect(OPEN)
                wire.expect(BEGIN)
                source = Described(0x28, ["q", None, None, None, None, None, None, None, outcome])
                wire.send(frame(ATTACH, ["in", number, True, None, None, source, Described(0x29, [])]))
                said = decode(b"\x00\x53\x12" + wire.expect(ATTACH))[0].value[5].value
                assert said[0] == "q" and said[8].code == outcome.code and said[8].value == outcome.value, said[8].value
                wire.send(frame(FLOW, [0, 1000, 0, 1000, number, 0, 1, None, True]))
                wire.expect(FLOW)


run(a_tag_of_the_map_is_not_stored_again, a_tag_that_began_anew_is_another_delivery, a_receiver_that_settles_second_says_what_became_of_it,
    what_is_settled_before_its_outcome_is_over, credit_comes_back_when_the_sender_settles,
    a_sender_that_never_settles_has_its_credit_and_no_more, what_is_said_to_come_again_and_never_came_is_left_alone, null_begins_anew,
    detached_and_attached_again, who_comes_later_has_the_name, a_transfer_before_our_attach_ends_its_link, what_was_rejected_is_told_again, a_map_that_does_not_fit_is_incomplete,
    what_is_held_is_what_is_said, what_is_durable_survives_kill_9, a_close_that_comes_with_the_attach_is_durable, what_was_settled_is_over_after_kill_9, what_is_durable_ends_as_it_was_asked_to, nothing_is_known_for_longer_than_the_gateway_allows, answers_that_nobody_reads_do_not_pile_up, an_answer_repeats_the_default_outcome)
