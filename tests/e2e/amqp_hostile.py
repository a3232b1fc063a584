# SPDX-License-Identifier: Apache-2.0
"""What no AMQP client should send: refused in the protocol's own words, counted, and nobody else feels it."""
import random
import socket
import struct
import time

from proton.utils import BlockingConnection

from amqpwire import (ACCEPTED, AMQP, ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, FLOW, INIT, MECHANISMS, ONE, OPEN,
                      OUTCOME, REJECTED, SASL, TO, TRANSFER, Described, Raw, Symbol, Wire, decode, disposition, frame, sends,
                      ubyte)
from gateway import queue, run, until
from mqtt_stalled import RSS_MIB_MAX, rss_mib
from refusals import all_counted, close_of, counted, group, refused, serves

MB = 1 << 20
MOST = 0xffffffff


def garbage_ends_the_connection(running):
    choose = random.Random(5)
    beginnings = [b"", AMQP, SASL, AMQP + frame(OPEN, ["x"]), SASL + frame(INIT, [Symbol("PLAIN"), b""], kind=1)]
    for i in range(60):
        with Wire(running.amqp_port) as wire:
            wire.send(choose.choice(beginnings) + choose.randbytes(choose.choice((9, 100, 5000))))
            wire.socket.shutdown(1)
            wire.until_end()
    assert counted(running, "malformed") > 0
    serves(running)


def frames_out_of_turn(running):
    """Before open, on a session or link that is not there, on a channel or of a size beyond what was agreed."""
    queue(running, "q")
    turns = [
        (frame(BEGIN, [None, 0, 10, 10]), "amqp:illegal-state"),
        (frame(TRANSFER, [0, 0, b"t", 0]), "amqp:not-allowed"),
        (frame(OPEN, ["c"]) + frame(ATTACH, ["l", 0, False]), "amqp:not-allowed"),
        (frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 10, 10]) + frame(TRANSFER, [7, 0, b"t", 0], b"x") + frame(OPEN, ["c"]),
         "amqp:illegal-state"),
        (frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 10, 10], channel=60000), "amqp:connection:framing-error"),
        (frame(OPEN, ["c"]) + struct.pack(">IBBH", 100 * MB, 2, 0, 0), "amqp:connection:framing-error"),
        (struct.pack(">IBBH", 3, 2, 0, 0), "amqp:connection:framing-error"),
        (frame(OPEN, ["c" * 5000]), "amqp:invalid-field"),
    ]
    for data, condition in turns:
        with Wire(running.amqp_port) as wire:
            wire.send(AMQP + data)
            try:
                said = wire.until_end()
            except TimeoutError:
                raise AssertionError((data[:80], wire.received))
            assert close_of(said) == condition, (data[:60], said)
    assert counted(running, "malformed") + counted(running, "limit") >= len(turns)
    serves(running)


def raw(body, size=None, offset=2, kind=0):
    return struct.pack(">IBBH", 8 + len(body) if size is None else size, offset, kind, 0) + body


def ushort(value):
    return Raw(b"\x60" + struct.pack(">H", value))


def frames_that_are_none_end_the_connection(running):
    """Whole or cut anywhere, alone or before others, before open or after it: a close with the condition, counted once."""
    close = b"\x00\x53\x18\x45"
    opened = AMQP + frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 10, 10])
    framing, unknown, unreadable = "amqp:connection:framing-error", "amqp:not-implemented", "amqp:decode-error"
    turns = [
        (opened + raw(close, size=7), framing),
        (opened + raw(close, size=16385), framing),
        (opened + raw(close, offset=1), framing),
        (opened + raw(close, offset=4), framing),
        (opened + raw(close, kind=1), framing),
        (opened + raw(close, kind=9), framing),
        (opened + AMQP, framing),
        (AMQP + raw(close, offset=0), framing),
        (opened + frame(0x19, [1]), unknown),
        (opened + frame(0x0f, [1]), unknown),
        (AMQP + frame(0x77, ["x"]), unknown),
        (opened + raw(b"\x00\xa3\x0famqp:close:list\x45"), unknown),
        (opened + raw(b"\x00\x80\x00\x00\x00\x01\x00\x00\x00\x18\x45"), unknown),
        (opened + raw(b"\x40"), unreadable),
        (opened + raw(b"\x00\x53"), unreadable),
        (opened + raw(b"\x00\x53\x18\xc1\x01\x00"), unreadable),
        (opened + raw(b"\x00\x53\x12\xc0\xff\x05abc"), unreadable),
        (opened + raw(b"\x00\x53\x14\xc0\x02\x01\x40"), unreadable),
        (opened + frame(TRANSFER, [None, 0, b"1", 0]), unreadable),
        (opened + frame(ATTACH, ["z", None, True, None, None, Described(0x28, ["q"]), Described(0x29, [None])]), unreadable),
        (opened + frame(OPEN, ["c"]), "amqp:illegal-state"),
        (opened + frame(BEGIN, [None, 0, 9, 9]), "amqp:illegal-state"),
        (opened + frame(BEGIN, [ushort(0), 0, 9, 9], channel=1), "amqp:invalid-field"),
    ]
    count = 0
    for data, condition in turns:
        for behind, cut in ((b"", 0), (frame(BEGIN, [None, 0, 9, 9], channel=2) * 50, 0), (b"", len(data) - 3), (b"", len(data) - 9)):
            with Wire(running.amqp_port) as wire:
                if cut:
                    wire.send(data[:cut])
                    wire.expect_bytes(AMQP)
                wire.send(data[cut:] + behind)
                said = wire.until_end()
                assert b"\x00\x53\x18" in said and close_of(said) == condition, (data, behind, cut, said)
            count += 1
            assert counted(running, "malformed") == count, (data, behind, cut)
    serves(running)


def sasl_that_is_none_ends_the_connection(running):
    turns = [raw(b"", offset=1, kind=1), raw(b"\x00\x53\x41\x45", size=70000, kind=1), frame(INIT, [Symbol("PLAIN"), b""]),
             frame(OUTCOME, [0], kind=1), frame(0x46, [b""], kind=1), raw(b"\x40", kind=1), raw(b"\x00\x53\x41\xc0\xff\x05abc", kind=1),
             b"AMQX\x00\x01\x00\x00"]
    for count, data in enumerate(turns, 1):
        with Wire(running.amqp_port) as wire:
            wire.header(SASL)
            wire.expect(MECHANISMS)
            wire.send(data)
            wire.until_end()
        assert counted(running, "malformed") == count, data
    serves(running)


def sessions_have_a_limit(running):
    """Ended faster than the answers go out, by the peer or by us."""
    begin, end = frame(BEGIN, [None, 0, 9, 9]), frame(END, [])
    for count, turn in enumerate((begin + end, begin + frame(FLOW, [0, 9, 0, 9, 7]) + end), 1):
        with Wire(running.amqp_port, 30) as wire:
            wire.send(AMQP + frame(OPEN, ["c"]))
            wire.expect_bytes(AMQP)
            wire.expect(OPEN)
            before = rss_mib(running)
            try:
                for _ in range(100):
                    wire.send(turn * 300)
            except OSError:
                pass
            assert close_of(wire.until_end()) == "amqp:resource-limit-exceeded"
            assert rss_mib(running) - before < RSS_MIB_MAX / 20
        assert counted(running, "limit") == count
    with Wire(running.amqp_port) as wire:
        wire.send(AMQP + frame(OPEN, ["c"]))
        wire.expect_bytes(AMQP)
        for _ in range(400):
            wire.send(frame(BEGIN, [None, 0, 9, 9]) + frame(END, []))
            wire.expect(END)
    serves(running)


def who_has_one_channel_may_use_it_again(running):
    """In the same write, too; what more it begins than it has channels for is no session."""
    begin, end = frame(BEGIN, [None, 0, 9, 9]), frame(END, [])
    with Wire(running.amqp_port) as wire:
        wire.send(AMQP + frame(OPEN, ["c", None, None, ushort(0)]) + (begin + end) * 3 + begin + frame(DETACH, [9]) + end + begin)
        wire.expect_bytes(AMQP)
        for _ in range(4):
            wire.expect(BEGIN)
            wire.expect(END)
        wire.expect(BEGIN)
        assert not counted(running, "limit")
        wire.send(frame(BEGIN, [None, 0, 9, 9], channel=1))
        assert close_of(wire.until_end()) == "amqp:connection:framing-error"
    serves(running)


def a_message_that_is_none_is_rejected(running):
    queue(running, "q")
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        wire.send(frame(TRANSFER, [0, 0, b"1", 0], b"\x00\x53\x75\xa0\xff"))
        state = wire.expect(DISPOSITION)
        assert b"amqp:decode-error" in state, state
        wire.send(frame(TRANSFER, [0, 1, b"2", 0], b"\x00\x53\x75\xa0\x01x"))
        assert b"\x00\x53\x24" in wire.expect(DISPOSITION)
    assert counted(running, "malformed") == 1


def what_is_no_message_by_its_format_is_rejected(running):
    """Whole or in pieces, among others in one write; settled, it is counted."""
    queue(running, "q")
    batch, one = 0x80013701, b"\x00\x53\x75\xa0\x06" + ONE
    pieces = [frame(TRANSFER, [0, 2, b"2", batch, False, True], one), frame(TRANSFER, [0, None, None, None, False, True], one),
              frame(TRANSFER, [0, None, None, None, False], one)]
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        wire.send(frame(TRANSFER, [0, 0, b"0", 0], ONE) + frame(TRANSFER, [0, 1, b"1", batch], one + one) + b"".join(pieces)
                  + frame(TRANSFER, [0, 3, b"3", 0], ONE) + frame(TRANSFER, [0, 4, b"4", 1, True], ONE)
                  + frame(TRANSFER, [0, 5, b"5", batch, False, True], one)
                  + frame(TRANSFER, [0, 5, None, None, None, False, None, None, None, True]) + frame(TRANSFER, [0, 6, b"6", 0], ONE))
        outcomes = {}
        while 6 not in outcomes:
            said = wire.expect(DISPOSITION)
            first, last, outcome = disposition(said)
            assert outcome != REJECTED or b"amqp:not-implemented" in said, said
            outcomes.update((number, outcome) for number in range(first, last + 1))
        assert outcomes == {0: ACCEPTED, 1: REJECTED, 2: REJECTED, 3: ACCEPTED, 6: ACCEPTED}, outcomes
        wire.attach("r", 1, "q", receiver=True)
        wire.send(frame(FLOW, [0, 99, 0, 99, 1, 0, 9]))
        for _ in range(3):
            assert wire.expect(TRANSFER).endswith(ONE)
        nothing_comes(wire)
    assert counted(running, "malformed") == 3


def a_message_without_end_is_cut_off(running):
    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        piece = b"\x00\x53\x75\xb0" + struct.pack(">I", 100 * MB) + b"x" * 16000
        try:
            for i in range(1200):
                wire.send(frame(TRANSFER, [0, 0, b"1", 0, False, True], piece))
                piece = b"x" * 16000
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert b"amqp:link:message-size-exceeded" in wire.expect(DETACH)
    assert until(lambda: counted(running, "limit") == 1)
    serves(running)


def a_message_a_little_too_large_ends_the_link(running):
    """Only its last frame crosses the limit."""
    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        wire.send(frame(TRANSFER, [0, 0, b"1", 0, False, True],
                        b"\x00\x53\x75\xb0" + struct.pack(">I", 10 * 1024 * 1024 + 5000)))
        for _ in range(655):
            wire.send(frame(TRANSFER, [0, 0, b"1", 0, False, True], b"x" * 16000))
        wire.send(frame(TRANSFER, [0, 0, b"1", 0, False, False], b"x" * 10760))
        assert b"amqp:link:message-size-exceeded" in wire.expect(DETACH)
    serves(running)


def messages_that_never_end_have_a_limit_together(running):
    queue(running, "q")
    with Wire(running.amqp_port, 60) as wire:
        wire.open()
        for handle in range(6):
            wire.attach(f"s{handle}", handle, "q")
        begun = b"\x00\x53\x75\xb0" + struct.pack(">I", 9 * MB)
        for handle in range(6):
            for i in range(500):  # 8 MB of each, none of them too large by itself
                wire.send(frame(TRANSFER, [handle, handle, b"%d" % handle, 0, False, True],
                                (begun if i == 0 else b"") + b"x" * 16000))
        assert b"amqp:resource-limit-exceeded" in wire.expect(DETACH)
    serves(running)


def links_have_a_limit(running):
    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.send(b"".join(frame(ATTACH, [f"l{i}", i, False, None, None, Described(0x28, [None]),
                                          Described(0x29, ["q"]), None, None, 0]) for i in range(2100)))
        said = wire.until_end()
        assert b"amqp:resource-limit-exceeded" in said
    serves(running)


def links_of_ended_sessions_count(running):
    """Until the peer has ended them, too: Proton has them until then."""
    def attach(channel, handle):
        return frame(ATTACH, [f"l{handle}", handle, False, None, None] + TO, channel=channel)

    def fail(wire, channel, links):
        wire.send(frame(BEGIN, [None, 0, 9, 9], channel=channel) + b"".join(attach(channel, i) for i in range(links))
                  + frame(DETACH, [9999, True], channel=channel))
        assert b"amqp:session:unattached-handle" in wire.expect(END)

    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.header()
        wire.send(frame(OPEN, ["c"]))
        for _ in range(3):
            fail(wire, 0, 1000)
            wire.send(frame(END, []))
        assert all_counted(running) == {"malformed": 3, "limit": 0, "rights": 0, "timeout": 0}
        fail(wire, 0, 1000)
        wire.send(frame(BEGIN, [None, 0, 9, 9], channel=1) + b"".join(attach(1, i) for i in range(25)))
        assert b"amqp:resource-limit-exceeded" in wire.expect(DETACH)
        sends(wire, 23, 0, 1)
        wire.send(frame(END, []) + frame(DETACH, [24, True], channel=1) + attach(1, 24))
        wire.expect(ATTACH)
        sends(wire, 24, 1, 1)
        wire.send(frame(END, [], channel=1))
        wire.expect(END)
        fail(wire, 0, 1024)
        fail(wire, 1, 1024)
        wire.send(frame(BEGIN, [None, 0, 9, 9], channel=2) + attach(2, 0))
        assert close_of(wire.until_end()) == "amqp:resource-limit-exceeded"
    serves(running)


def who_reads_no_answers_is_ended(running):
    """Links that come and go, whose ends wait to be said: memory is bounded, and the connection ends over it."""
    queue(running, "q")
    for closed in (True, False):
        before = counted(running, "limit")
        turn = (frame(ATTACH, ["l" * 200, 0, False, None, None] + TO) + frame(DETACH, [0, closed])) * 300
        with Wire(running.amqp_port, 5) as wire:
            wire.open()
            memory = rss_mib(running)
            try:
                for _ in range(1000):
                    wire.send(turn)
                    if counted(running, "limit") > before:
                        break
            except OSError:
                pass
            assert counted(running, "limit") == before + 1, closed
            assert rss_mib(running) - memory < RSS_MIB_MAX / 4, closed
    serves(running)


def filters_that_are_too_large(running):
    """By name, as everything else that is no filter; they are so when they are written in full."""
    queue(running, "q")
    lists = Raw(b"\xd0" + struct.pack(">II", 4 + 200 * 4, 200) + b"\xc0\x02\x01\x40" * 200)
    value = Raw(b"\x00\xb3" + struct.pack(">I", 15000) + b"s" * 15000 + bytes(lists))
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.send(frame(ATTACH, ["f", 0, True, None, None, Described(0x28, ["q"] + [None] * 6 + [{Symbol("f"): value}]), Described(0x29, [None])]))
        assert b"amqp:invalid-field" in wire.expect(DETACH)


def nothing_comes(wire):
    seconds = wire.socket.gettimeout()
    wire.socket.settimeout(0.3)
    try:
        wire.expect(TRANSFER)
        raise AssertionError("a message came")
    except TimeoutError:
        wire.socket.settimeout(seconds)


def credit_beyond_measure(running):
    """All the credit there is, and never a settlement: it gets what is there, once, and holds no more than a lease."""
    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        for i in range(200):
            wire.send(frame(TRANSFER, [0, i, struct.pack(">I", i), 0, True], b"\x00\x53\x75\xa0\x01x"))
        wire.attach("r", 1, "q", receiver=True)
        wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 1, 0, MOST]))
        for _ in range(200):
            wire.expect(TRANSFER)
        assert group(running, "in_flight", "q") == 200 and group(running, "backlog", "q") == 200
        for credit in (0x7fffffff, 1 << 31, MOST):
            wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 1, 200, credit]))
        nothing_comes(wire)
    assert until(lambda: group(running, "in_flight", "q") == 0)
    assert not any(all_counted(running).values()), all_counted(running)
    serves(running)


def topics_have_a_limit_of_what_is_unsettled(running):
    """The same of a topic: what is beyond waits in the log, and comes when something is settled."""
    with Wire(running.amqp_port, 30) as wire, Wire(running.amqp_port, 30) as other:
        wire.open()
        wire.attach("r", 0, "/topics/t", receiver=True)
        wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 0, 0, 0x7fffffff]))
        other.open("other")
        other.attach("s", 0, "/topics/t")
        for start in range(0, 1500, 500):
            for i in range(start, start + 500):
                other.send(frame(TRANSFER, [0, i, struct.pack(">I", i), 0], b"\x00\x53\x75\xa0\x01x"))
            while disposition(other.expect(DISPOSITION))[1] < start + 499:
                pass
        for _ in range(1000):
            wire.expect(TRANSFER)
        nothing_comes(wire)
        wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 0, 1000, 600, None, True]))
        flow = decode(b"\x00\x53\x13" + wire.expect(FLOW))[0].value
        assert flow[4:7] == [0, 1600, 0], flow  # a drain does not wait for a settlement
        wire.send(frame(DISPOSITION, [True, 0, 999, True, Described(0x24, [])]))
        nothing_comes(wire)
        wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 0, 1600, 1000]))
        for _ in range(500):
            wire.expect(TRANSFER)
    assert not any(all_counted(running).values()), all_counted(running)  # it is no mistake to have credit
    serves(running)


def what_senders_leave_unsettled_has_a_limit(running):
    """With receiver-settle-mode second a delivery is there until its sender settles it, however many links it has."""
    def fill(wire, links):
        for handle in range(links):
            wire.send(frame(ATTACH, [f"l{handle}", handle, False, None, ubyte(1), Described(0x28, ["s"]), Described(0x29, ["/topics/t"]),
                                     None, None, 0]))
            wire.expect(FLOW)
            for i in range(1000):
                number = handle * 1000 + i
                wire.send(frame(TRANSFER, [handle, number, struct.pack(">I", number), 0], b"\x00\x53\x75\xa0\x01x"))
            while disposition(wire.expect(DISPOSITION))[1] < handle * 1000 + 999:
                pass
    before = all_counted(running)
    with Wire(running.amqp_port, 30) as wire:  # those of links that go are none any more
        wire.open()
        for _ in range(2):
            fill(wire, 9)
            for handle in range(9):
                wire.send(frame(DETACH, [handle, True]))
                wire.expect(DETACH)
            wire.send(frame(END, []))
            wire.expect(END)
            wire.send(frame(BEGIN, [None, 0, 10000, 10000]))
            wire.expect(BEGIN)
        fill(wire, 16)
        wire.send(frame(DISPOSITION, [False, 0, 999, True]))
        wire.send(frame(ATTACH, ["more", 20, False, None, ubyte(1), Described(0x28, ["s"]), Described(0x29, ["/topics/t"]), None, None, 0]))
        wire.expect(FLOW)
        for number in range(16000, 16384 + 1000):
            handle = 20 if number < 17000 else 0
            wire.send(frame(TRANSFER, [handle, number, struct.pack(">I", number), 0], b"\x00\x53\x75\xa0\x01x"))
        nothing = disposition(wire.expect(DISPOSITION))
        while nothing[1] < 16384 + 999:
            nothing = disposition(wire.expect(DISPOSITION))
        assert refused(running, before, None)
        wire.send(frame(TRANSFER, [0, 17384, b"last", 0], b"\x00\x53\x75\xa0\x01x"))
        assert b"amqp:resource-limit-exceeded" in wire.expect(CLOSE)
    serves(running)


def nested(depth, code=b"\xd0"):
    value = b"\x40"
    for _ in range(depth):
        value = code + struct.pack(">II", len(value) + 4, 1) + value
    return value


def values_within_values(running):
    """As deep as a frame has room for, wherever a value may be: passed over, since nobody looks there, or refused by name; more
    than may be kept end the session."""
    queue(running, "q")
    opened = frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 99, 99])
    target = [Described(0x28, [None]), Described(0x29, ["q"]), None, None, 0]
    empty = Described(0x29, [None])
    values = {
        "lists": Raw(nested(1500)),
        "descriptors": Raw(b"\x00" * 8000 + b"\x40"),
        "descriptors of values": Raw(b"\x00\x53\x01" * 4000 + b"\x40"),
        "arrays": Raw(b"\xf0" * 6000),
        "a map that is longer than it is": Raw(b"\xd1" + struct.pack(">II", 5, MOST) + b"\x40"),
        "an array that is longer than it is": Raw(b"\xf0" + struct.pack(">II", 5, MOST) + b"\x40"),
        "an array of long symbols": Raw(b"\xf0" + struct.pack(">II", 5 + 100 * 51, 100) + b"\xa3" + (b"\x32" + b"s" * 50) * 100),
    }
    many = ("lists", "descriptors", "descriptors of values", "an array that is longer than it is")

    def ends_over(wire, what):
        assert b"amqp:resource-limit-exceeded" in wire.expect(END), what
        wire.send(frame(CLOSE, []))
        assert wire.until_end().endswith(b"\x00\x53\x18\x45"), what

    for name, value in values.items():
        places = {
            "open": AMQP + frame(OPEN, ["c"] + [None] * 8 + [value]),
            "begin": AMQP + frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 9, 9, None, None, None, value]),
            "filter": AMQP + opened + frame(
                ATTACH, ["l", 0, True, None, None, Described(0x28, ["q", 0, None, 0, False, None, None, value]), empty]),
            "unsettled": AMQP + opened + frame(ATTACH, ["l", 0, True, None, None, Described(0x28, ["q"]), empty, value]),
            "properties": AMQP + opened + frame(
                ATTACH, ["l", 0, True, None, None, Described(0x28, ["q"]), empty] + [None] * 6 + [value]),
        }
        for place, data in places.items():
            before = all_counted(running)
            # A map of what is unsettled is not kept, if it is one.
            is_over = name in many and (place in ("filter", "properties") or (place == "unsettled" and "descriptors" in name))
            with Wire(running.amqp_port) as wire:
                wire.send(data)
                wire.expect_bytes(AMQP)
                if is_over:
                    ends_over(wire, (name, place))
                else:
                    wire.expect({"open": OPEN, "begin": BEGIN}.get(place, ATTACH))
                    wire.send(frame(CLOSE, []))
                    assert wire.until_end().endswith(b"\x00\x53\x18\x45"), (name, place, wire.received)
            assert refused(running, before, "" if is_over else None), (name, place, before, all_counted(running))
        # As the state of a transfer to us, where an end has to be found, and of a delivery from us, which is there.
        before, is_state = all_counted(running), name in ("a map that is longer than it is", "an array of long symbols")
        with Wire(running.amqp_port) as wire:
            wire.open()
            wire.attach("s", 0, "q")
            wire.expect(FLOW)
            wire.send(frame(TRANSFER, [0, 0, b"1", 0, False, False, None, Described(0x23, value)], ONE))
            if name in many:
                ends_over(wire, name)
            elif is_state:
                assert b"\x00\x53\x24" in wire.expect(DISPOSITION), name
            else:
                assert close_of(wire.until_end()) == "amqp:decode-error", name
        assert refused(running, before, None if is_state else ""), (name, before, all_counted(running))
        before = all_counted(running)
        with Wire(running.amqp_port) as wire:
            wire.open()
            wire.attach("s", 0, "q")
            sends(wire, 0, 0, 0)
            wire.attach("r", 1, "q", receiver=True)
            for _ in range(1 + is_state):
                wire.send(frame(FLOW, [0, 9, 0, 9, 1, 0, 9]))
                wire.expect(TRANSFER)
            wire.send(frame(DISPOSITION, [True, 0, 9, False, value]))
            if name in many:
                assert b"amqp:resource-limit-exceeded" in wire.expect(END), name
                wire.send(frame(END, []) + frame(BEGIN, [None, 0, 9, 9]))
                wire.attach("r", 1, "q", receiver=True)
                wire.send(frame(FLOW, [0, 9, 0, 9, 1, 0, 9]))
                wire.expect(TRANSFER)
            wire.send(frame(DISPOSITION, [True, 0, 9, True, Described(0x24, [])]) + frame(CLOSE, []))
            said = wire.until_end()
            assert said.endswith(b"\x00\x53\x18\x45"), (name, said)
        assert refused(running, before, "" if name in many else None), (name, before, all_counted(running))
        assert until(lambda: group(running, "backlog", "q") == 0), name
    serves(running)


def what_is_aborted_leaves_nothing(running):
    """Of a delivery in many frames, whatever had come of it, unsettled or settled; its credit comes back."""
    queue(running, "a")
    large = b"\x00\x53\x75\xb0" + struct.pack(">I", 40000)
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "a")
        wire.attach("t", 1, "a")
        number = 0
        for settled in (False, True):
            pieces = [frame(TRANSFER, [0, number, b"a%d" % number, 0, settled, True], large)]
            pieces += [frame(TRANSFER, [0, None, None, None, settled, True], b"x" * 15000) for _ in range(2)]
            pieces.append(frame(TRANSFER, [1, number + 1, b"t%d" % number, 0, True], ONE))  # amid it another link's
            pieces.append(frame(TRANSFER, [0, number, None, None, settled, False, None, None, None, True]))
            pieces.append(frame(TRANSFER, [0, number + 2, b"a%d" % number, 0, False, True], large))  # its tag is free
            pieces += [frame(TRANSFER, [0, None, None, None, None, more], b"y" * 10000) for more in (True, True, True, False)]
            wire.send(b"".join(pieces))
            assert disposition(wire.expect(DISPOSITION)) == (number + 2, number + 2, 0x24)
            number += 3
        for _ in range(3):
            both = [frame(TRANSFER, [0, number + i, b"%d" % i, 0, False, True], ONE)
                    + frame(TRANSFER, [0, number + i, None, None, None, False, None, None, None, True]) for i in range(700)]
            wire.send(b"".join(both))
            number += 700
            wire.expect(FLOW)
        sends(wire, 0, number, 0)
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=20)
    receiver = connection.create_receiver("a", credit=10)
    bodies = [receiver.receive(timeout=20).body for _ in range(5)]
    assert bodies == [b"x", b"y" * 40000, b"x", b"y" * 40000, b"x"], [body[:9] for body in bodies]
    connection.close()


def silence_is_filled(running):
    """As often as the peer wants to hear from us; what we want is said in our OPEN (half of what we wait for)."""
    with Wire(running.amqp_port) as wire:
        wire.header()
        wire.send(frame(OPEN, ["idle", None, None, None, 300]))
        said, _ = decode(b"\x00\x53\x10" + wire.expect(OPEN))
        assert said.value[4] == 30000, said.value
        began, empty = time.monotonic(), 0
        while empty < 6:
            assert wire.next_frame() == b""
            empty += 1
        assert 0.5 < time.monotonic() - began < 4, time.monotonic() - began
    with Wire(running.amqp_port) as wire:  # more often than we speak
        wire.send(AMQP + frame(OPEN, ["idle", None, None, None, 99]))
        assert close_of(wire.until_end()) == "amqp:not-implemented"


def links_that_come_and_go(running):
    """More on one connection, one after the other, than there may be at once, also of topics and of what is kept."""
    queue(running, "q")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        for i in range(1050):
            source = [["q"], ["/topics/a/+"], ["/topics/b", 2, Symbol("never")]][i % 3]
            wire.send(frame(ATTACH, [f"l{i % 50}", 0, True, None, None, Described(0x28, source),
                                     Described(0x29, [None])]))
            wire.expect(ATTACH)
            wire.send(frame(DETACH, [0, True]))
            wire.expect(DETACH)
        assert "polylog_subscriptions 0\n" in running.call("GET", "/metrics")[1]
    serves(running)


def deliveries_that_are_given_up(running):
    """Again and again a large part of a message, and then none of it."""
    queue(running, "q")
    with Wire(running.amqp_port, 60) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        begun = b"\x00\x53\x75\xb0" + struct.pack(">I", 9 * MB)
        for delivery in range(12):  # 96 MB together
            for i in range(500):
                wire.send(frame(TRANSFER, [0, delivery, b"%d" % delivery, 0, False, True],
                                (begun if i == 0 else b"") + b"x" * 16000))
            wire.send(frame(TRANSFER, [0, delivery, b"%d" % delivery, 0, True, False, None, None, None, True]))
        wire.send(frame(TRANSFER, [0, 12, b"last", 0], b"\x00\x53\x75\xa0\x01x"))
        assert b"\x00\x53\x24" in wire.expect(DISPOSITION)
    serves(running)


def who_does_not_read_the_end_is_cut_off(running):
    """It lives, its frames say, but takes nothing: the close, and what is before it, has a time to go out in."""
    def figure(name):
        text = running.call("GET", "/metrics")[1]
        return int(text.split(f'polylog_{name}{{protocol="amqp"}} ')[1].split()[0])

    def is_full(seen=[0]):
        before, seen[0] = seen[0], figure("delivered_records_total")
        return seen[0] == before > 0

    queue(running, "q")
    with Wire(running.amqp_port) as other:
        other.open("other")
        other.attach("s", 0, "q")
        for i in range(800):
            other.send(frame(TRANSFER, [0, i, struct.pack(">I", i), 0, True],
                             b"\x00\x53\x75\xb0" + struct.pack(">I", 15000) + bytes(15000)))
        other.send(frame(TRANSFER, [0, 800, b"last", 0], b"\x00\x53\x75\xa0\x01x"))
        other.expect(DISPOSITION)
    with Wire(running.amqp_port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        wire.open()
        wire.attach("r", 0, "q", receiver=True)
        wire.send(frame(FLOW, [0, 1000000, 0, 1000000, 0, 0, 1000000]))
        assert until(is_full, 20, 0.3)
        wire.send(frame(CLOSE, [None]))

        def ended():
            try:
                wire.send(struct.pack(">IBBH", 8, 2, 0, 0))
            except OSError:
                pass
            return figure("connections") == 0
        assert until(ended, 20, 0.5)


if __name__ == "__main__":
    run(garbage_ends_the_connection, frames_out_of_turn, frames_that_are_none_end_the_connection,
        sasl_that_is_none_ends_the_connection, sessions_have_a_limit, who_has_one_channel_may_use_it_again,
        a_message_that_is_none_is_rejected, a_message_without_end_is_cut_off, a_message_a_little_too_large_ends_the_link,
        messages_that_never_end_have_a_limit_together, links_have_a_limit, links_of_ended_sessions_count,
        who_reads_no_answers_is_ended, credit_beyond_measure, filters_that_are_too_large,
        what_is_no_message_by_its_format_is_rejected, topics_have_a_limit_of_what_is_unsettled,
        what_senders_leave_unsettled_has_a_limit, values_within_values, what_is_aborted_leaves_nothing, silence_is_filled,
        links_that_come_and_go, deliveries_that_are_given_up, who_does_not_read_the_end_is_cut_off)
