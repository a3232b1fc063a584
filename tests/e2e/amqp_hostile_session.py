# SPDX-License-Identifier: Apache-2.0
"""What no AMQP client should send in a session: names of what is not there, more than it has credit for. It ends, and no other does."""
from amqpwire import (ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, FLOW, OF, ONE, TO, TRANSFER, Described, Wire, decode,
                      disposition, frame, sends, ubyte)
from gateway import queue, run
from refusals import all_counted, close_of, counted, refused, serves

MOST = 0xffffffff


def ends_with(running, condition, *frames, reason="malformed"):
    """Both ways of link are there as s (0) and r (1), and a delivery is on its way to r; then the frames, and a close."""
    before = all_counted(running)
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        wire.attach("r", 1, "q", receiver=True)
        wire.send(frame(TRANSFER, [0, 0, b"0", 0, True], b"\x00\x53\x75\xa0\x01x") + frame(FLOW, [0, 9, 0, 9, 1, 0, 1]))
        wire.expect(TRANSFER)
        for data in frames:
            wire.send(data)
        wire.send(frame(CLOSE, []))
        said = wire.until_end()
        assert (close_of(said) if said[-1:] != b"\x45" else None) == condition, (frames, said)
    assert refused(running, before, condition, reason), (frames, before, all_counted(running))


def ends_session(running, condition, *frames):
    """Links of both ways are there as s (0) and r (1), and an unsettled delivery has come from s; then the frames. The session
    ends with the condition and discards what comes until it is ended; another one goes on, and so does its channel."""
    before = all_counted(running)
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "q")
        wire.attach("r", 1, "q", receiver=True)
        wire.send(frame(BEGIN, [None, 0, 9, 9], channel=5) + frame(ATTACH, ["o", 0, False, None, None] + TO, channel=5))
        wire.expect(ATTACH)
        wire.send(b"".join(frames))
        said, = [value for value, _ in [decode(b"\x00\x53\x17" + wire.expect(END))]]
        assert said.value[0].value[0] == condition, (frames, said.value[0].value)
        # Whatever it is, and however large.
        wire.send(frame(TRANSFER, [0, 0, b"0", 0], ONE * 2000) + frame(FLOW, [0, 9, 0, 9, 77]) + frame(BEGIN, [None, 0, 9, 9])
                  + frame(ATTACH, ["t", 0, False, None, None] + TO) + frame(DISPOSITION, [True, 5, 4, True]))
        sends(wire, 0, 0, 5)
        wire.send(frame(END, []) + frame(BEGIN, [None, 0, 9, 9]) + frame(ATTACH, ["s", 0, False, None, None] + TO))
        wire.expect(BEGIN)
        wire.expect(ATTACH)
        sends(wire, 0, 7, 0)
        sends(wire, 0, 1, 5)
        wire.send(frame(CLOSE, []))
        assert wire.until_end()[-1:] == b"\x45", (frames, wire.received)
    assert refused(running, before, condition), (frames, before, all_counted(running))


def what_names_nothing_ends_its_session(running):
    """2.7 and 2.8.17: by name, counted once, and nobody else's links and sessions feel it. Some of it was the end of the process."""
    queue(running, "q")
    unattached, in_use, invalid = "amqp:session:unattached-handle", "amqp:session:handle-in-use", "amqp:invalid-field"
    wrong_way = "amqp:not-allowed"
    begun = frame(TRANSFER, [0, 0, b"1", 0, False, True], ONE)
    for condition, *frames in (
            (unattached, frame(FLOW, [0, MOST, MOST, MOST, 3, MOST, MOST])),
            (unattached, frame(TRANSFER, [9, 0, b"1", 0], ONE)),
            (unattached, frame(TRANSFER, [MOST, 0, b"t" * 5000, 0])),
            (unattached, frame(DETACH, [9, True])),
            (unattached, frame(DETACH, [0, True]) * 2),
            (unattached, frame(DETACH, [0, True]), frame(TRANSFER, [0, 1, b"1", 0], ONE)),
            (unattached, frame(DETACH, [1, False]), frame(FLOW, [0, 9, 0, 9, 1, 0, 9])),
            ("amqp:resource-limit-exceeded", frame(TRANSFER, [0, 0, b"t" * 257, 0], ONE)),
            (in_use, frame(ATTACH, ["z", 0, False, None, None] + TO)),
            (in_use, frame(ATTACH, ["z", 0, True, None, None] + OF)),
            (in_use, frame(ATTACH, ["z", 1, True, None, None] + OF)),
            (invalid, frame(ATTACH, ["s", 2, False, None, None] + TO)),
            # Which Proton would take for the first one's.
            (invalid, frame(ATTACH, ["z", MOST, False, None, None] + TO), frame(ATTACH, ["z", 2, False, None, None] + TO)),
            # Proton's own mark of a handle that is none.
            ("amqp:not-implemented", frame(ATTACH, ["z", MOST - 1, False, None, None] + TO)),
            (wrong_way, frame(TRANSFER, [1, 0, b"1", 0], ONE)),
            (wrong_way, frame(TRANSFER, [1, 0, b"1", 0, True], ONE)),
            (wrong_way, frame(TRANSFER, [1, 0, b"1", 0, False, True], ONE)),
            (invalid, frame(TRANSFER, [0, 0, b"1", 0], ONE), frame(TRANSFER, [0, 7, b"1", 0], ONE)),
            (invalid, begun, frame(TRANSFER, [0, 5, b"1", 0], ONE)),
            (invalid, begun, frame(TRANSFER, [0, 1, b"1", 0], ONE)),
            # Proton has an assertion there, and behind a message of several parts it loses what has no id.
            (invalid, frame(TRANSFER, [0, None, b"1", 0, False, True], ONE)),
            (invalid, begun, frame(TRANSFER, [0, None, b"1", 0], b""), frame(TRANSFER, [0, None, b"2", 0], ONE)),
            # Settled is settled, whatever has said so.
            (invalid, begun, frame(TRANSFER, [0, 0, b"1", 0, True, True]), frame(TRANSFER, [0, 0, b"1", 0, False])),
            (invalid, begun, frame(DISPOSITION, [False, 0, None, True]), frame(TRANSFER, [0, None, None, None, False])),
            (invalid, begun, frame(DISPOSITION, [False, MOST, 3, True]), frame(TRANSFER, [0, None, None, None, False])),
            (invalid, frame(DISPOSITION, [True, 0, MOST, True, Described(0x24, [])])),
            (invalid, frame(DISPOSITION, [True, 5, 4, True])),
            (invalid, frame(DISPOSITION, [False, 5, 4, True]))):
        ends_session(running, condition, *frames)
    serves(running)


def credit_is_held_to(running):
    """Also while what is settled has not given its credit back, which comes back in large pieces: the link ends, no other."""
    queue(running, "q")
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "q", rcv=ubyte(1))
        wire.attach("t", 1, "q")
        for i in range(100):
            wire.send(frame(TRANSFER, [0, i, b"%d" % i, 0], ONE))
            assert disposition(wire.expect(DISPOSITION)) == (i, i, 0x24)
        wire.send(frame(DISPOSITION, [False, 0, 99, True]))
        wire.send(b"".join(frame(TRANSFER, [0, 100 + i, b"%d" % i, 0], ONE) for i in range(900)))
        while disposition(wire.expect(DISPOSITION))[1] != 999:
            pass
        assert not any(all_counted(running).values()), all_counted(running)
        # Proton has an assertion against what is settled in another order than it came, as the second one would be.
        wire.send(frame(TRANSFER, [0, 1000, b"more", 0], ONE) + frame(TRANSFER, [0, 1001, b"most", 0], ONE) +
                  frame(DISPOSITION, [False, 1000, 1000, True]))
        assert b"amqp:link:transfer-limit-exceeded" in wire.expect(DETACH)
        wire.send(frame(DETACH, [0, True]))
        wire.send(frame(TRANSFER, [1, 1002, b"t", 0], ONE))
        while disposition(wire.expect(DISPOSITION)) != (1002, 1002, 0x24):
            pass
    assert counted(running, "limit") == 1
    serves(running)


def what_comes_behind_a_refused_transfer(running):
    """And what ends the link it is on, in the same write: before there is credit, which a new queue's link has to wait for, and
    beyond it. It was the end of the process."""
    def transfers(first, end):
        return b"".join(frame(TRANSFER, [0, i, b"%d" % i, 0], ONE) for i in range(first, end))

    running.sets = ["amqp.auto_create=true"]
    running.restart()
    queue(running, "q")
    ends = {"detach": frame(DETACH, [0, True]), "end": frame(END, []), "failure": frame(DETACH, [9, True])}
    for name, end in ends.items():
        to = [Described(0x28, [None]), Described(0x29, [f"new-{name}"]), None, None, 0]
        for attach, count in ((frame(ATTACH, ["s", 0, False, None, None] + to), 3), (None, 1004)):
            before = all_counted(running)
            with Wire(running.amqp_port) as wire:
                wire.open()
                if attach is None:
                    wire.attach("s", 0, "q")
                    wire.expect(FLOW)
                wire.send((attach or b"") + transfers(0, count) + end)
                said = wire.expect(END if end[10:11] == b"\x17" or name == "failure" else DETACH)
                assert name != "detach" or b"amqp:link:transfer-limit-exceeded" in said, said
                wire.send(frame(CLOSE, []))
                assert wire.until_end()[-1:] == b"\x45", wire.received
            wrong = {"limit": 1, "malformed": name == "failure"}
            assert all_counted(running) == {reason: before[reason] + wrong.get(reason, 0) for reason in before}, (name, count)
    serves(running)


def what_is_unsettled_stays_so_when_its_session_is_ended(running):
    """The sender is told nothing of a delivery that has no outcome yet: no settlement, which would be the end of it. One to a
    receiver comes again."""
    queue(running, "q")
    with Wire(running.amqp_port) as wire, Wire(running.amqp_port) as other:
        wire.open()
        wire.attach("s", 0, "q")
        wire.attach("r", 1, "q", receiver=True)
        sends(wire, 0, 0, 0)
        wire.send(frame(FLOW, [0, 9, 0, 9, 1, 0, 1]))
        wire.expect(TRANSFER)
        # So that it waits for a window, which the session's end does not.
        sends(wire, 0, 1, 0)
        wire.send(frame(FLOW, [1, 0, 0, 9, 1, 1, 9]))
        wire.send(frame(TRANSFER, [0, 2, b"2", 0], ONE) + frame(DETACH, [9, True]) + frame(CLOSE, []))
        said = wire.until_end()
        assert b"unattached-handle" in said and b"\x00\x53\x15" not in said and said[-1:] == b"\x45", said
        other.open("other")
        other.attach("r", 0, "q", receiver=True)
        other.send(frame(FLOW, [0, 9, 0, 9, 0, 0, 9]))
        for _ in range(3):
            other.expect(TRANSFER)


def ranges_and_handles_beyond_measure(running):
    """Numbers that name nothing, and all there are at once: refused by name and counted, or harmless, and at once."""
    queue(running, "q")
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", MOST, "q")
        wire.send(frame(TRANSFER, [MOST, 0, b"1", 0], b"\x00\x53\x75\xa0\x01x"))
        assert b"\x00\x53\x24" in wire.expect(DISPOSITION)
    no_channel = "amqp:not-allowed"  # Proton's word
    for condition, *frames in (
            (None, frame(DETACH, [0, True]), frame(ATTACH, ["z", 0, True, None, None] + OF)),
            (None, frame(BEGIN, [None, 0, 9, 9], channel=1) + frame(ATTACH, ["z", 0, True, None, None] + OF, channel=1)),
            (no_channel, frame(END, [], channel=7)),
            (no_channel, frame(ATTACH, ["a", 0, False] + [None, None] + TO, channel=9)),
            (no_channel, frame(END, []) * 2),
            ("amqp:connection:framing-error", frame(BEGIN, [None, 0, 9, 9], channel=256)),
            (None, frame(FLOW, [MOST, 0, MOST, 0, 1, MOST, MOST]))):
        ends_with(running, condition, *frames)
    for role in (True, False):
        for first, last in ((MOST, 0), (1 << 31, MOST), (MOST, MOST), (77, 99)):
            ends_with(running, None, frame(DISPOSITION, [role, first, last, True, Described(0x24, [])]))
    serves(running)


def a_transfer_to_who_sends_moves_no_message(running):
    """What is sent to a receiver's own link does not get under its deliveries: they would have each other's tags."""
    queue(running, "q")
    with Wire(running.amqp_port) as wire, Wire(running.amqp_port) as other:
        wire.open()
        wire.attach("r", 0, "q", receiver=True)
        other.open("other")
        other.attach("s", 0, "q")
        other.send(frame(TRANSFER, [0, 0, b"0", 0], b"\x00\x53\x75\xa0\x05first"))
        other.expect(DISPOSITION)
        wire.send(frame(TRANSFER, [0, 0, b"mine", 0], b"\x00\x53\x75\xa0\x05thing") + frame(FLOW, [0, 9, 0, 9, 0, 0, 9]))
        assert b"amqp:not-allowed" in wire.expect(END)
        wire.send(frame(CLOSE, []))
        assert b"mine" not in wire.until_end()
        other.attach("r", 1, "q", receiver=True)
        other.send(frame(FLOW, [0, 9, 0, 9, 1, 0, 9]))
        assert b"first" in other.expect(TRANSFER)


if __name__ == "__main__":
    run(what_names_nothing_ends_its_session, credit_is_held_to, what_comes_behind_a_refused_transfer,
        what_is_unsettled_stays_so_when_its_session_is_ended, ranges_and_handles_beyond_measure,
        a_transfer_to_who_sends_moves_no_message)
