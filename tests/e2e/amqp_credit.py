# SPDX-License-Identifier: Apache-2.0
"""Credit, drain, windows and leases of an AMQP receiver at their ends: what it has taken back, all there is, and what has not left
in time."""
import struct
import time

from amqpwire import (ACCEPTED, ATTACH, BEGIN, DISPOSITION, FLOW, OPEN, RELEASED, TRANSFER, Described, Symbol, Wire, decode, disposition,
                      frame)
from gateway import run, until

SECONDS = 20
MOST = 0xffffffff
WINDOW = 1 << 30
UNSETTLED_MAX = 16384  # of all that a connection browses
DATA = b"\x00\x53\x75\xa0\x01x"


def queue(running, name):
    status, answer = running.call("POST", "/v1/default/queues", {"name": name})
    assert status in (200, 201), answer


def fill(running, address, count, message=DATA):
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open("fills")
        wire.attach("s", 0, address)
        for i in range(count):
            wire.send(frame(TRANSFER, [0, i, struct.pack(">I", i), 0], message))
            if i % 500 == 499 or i == count - 1:
                while disposition(wire.expect(DISPOSITION))[1] < i:
                    pass


def figure(running, name, of):
    return int(running.call("GET", "/metrics")[1].split(f'polylog_group_{name}{{queue="{of}",group="amqp"}} ')[1].split()[0])


def attach(wire, source, handle=0, window=1000, lease=None):
    """On a session with that window for transfers."""
    wire.header()
    wire.send(frame(OPEN, ["takes"]) + frame(BEGIN, [None, 0, window, 1000]))
    wire.expect(BEGIN)
    fields = ["r", handle, True, None, None, Described(0x28, source), Described(0x29, [None])]
    if lease:
        fields += [None, None, None, None, None, None, {Symbol("x-opt-lease"): lease}]
    wire.send(frame(ATTACH, fields))
    wire.expect(ATTACH)


def browser_of(address):
    return [address] + [None] * 5 + [Symbol("copy")]


def flow_state(wire):
    """delivery-count, link-credit and drain of the next FLOW."""
    fields = decode(b"\x00\x53\x13" + wire.expect(FLOW))[0].value
    return fields[5], fields[6], fields[8]


def a_drain_ends_where_credit_is_taken_back(running):
    """What waits for a window, and has no credit any more, is not waited for; it comes when it has some again."""
    queue(running, "q")
    fill(running, "q", 5)
    for source in (["q"], browser_of("q")):
        with Wire(running.amqp_port, SECONDS) as wire:
            attach(wire, source, window=2)
            wire.send(frame(FLOW, [0, 2, 0, 1000, 0, 0, 5]))
            for _ in range(2):
                wire.expect(TRANSFER)
            wire.send(frame(FLOW, [2, 0, 0, 1000, 0, 2, 0, None, True]))
            assert flow_state(wire) == (2, 0, True)
            wire.send(frame(FLOW, [2, WINDOW, 0, 1000, 0, 2, 1, None, True]))
            wire.expect(TRANSFER)
            assert flow_state(wire) == (3, 0, True)
            wire.send(frame(FLOW, [3, WINDOW, 0, 1000, 0, 3, 9, None, True]))
            for _ in range(2):
                wire.expect(TRANSFER)
            assert flow_state(wire) == (12, 0, True)


def a_drain_ends_where_no_more_is_browsed(running):
    """A browser that settles nothing is shown no more than that, and a drain does not wait for it to settle."""
    queue(running, "q")
    fill(running, "q", UNSETTLED_MAX + 5)
    with Wire(running.amqp_port, SECONDS) as wire:
        attach(wire, browser_of("q"), window=WINDOW)
        wire.send(frame(FLOW, [0, WINDOW, 0, 1000, 0, 0, WINDOW, None, True]))
        for _ in range(UNSETTLED_MAX):
            wire.expect(TRANSFER)
        assert flow_state(wire) == (WINDOW, 0, True)
        wire.send(frame(DISPOSITION, [True, 0, UNSETTLED_MAX - 1, True, Described(ACCEPTED, [])]))
        wire.send(frame(FLOW, [UNSETTLED_MAX, WINDOW, 0, 1000, 0, WINDOW, 10, None, True]))
        for _ in range(5):
            wire.expect(TRANSFER)
        assert flow_state(wire) == (WINDOW + 10, 0, True)


def what_has_not_left_in_time_is_not_settled(running):
    """Others have what waited for a window until its lease ran out. It is no delivery that its receiver may take for done: whatever it
    makes of it comes too late, as if it had been there."""
    queue(running, "q")
    fill(running, "q", 3)
    with Wire(running.amqp_port, SECONDS) as wire, Wire(running.amqp_port, SECONDS) as other:
        attach(wire, ["q"], window=0, lease=1000)
        wire.send(frame(FLOW, [0, 0, 0, 1000, 0, 0, 3]))
        assert until(lambda: figure(running, "in_flight", "q") == 3)
        assert until(lambda: figure(running, "in_flight", "q") == 0)
        time.sleep(0.5)  # the connection hears of it a little later
        attach(other, ["q"])
        other.send(frame(FLOW, [0, 100, 0, 1000, 0, 0, 3]))
        for _ in range(3):
            other.expect(TRANSFER)
        wire.send(frame(FLOW, [0, 100, 0, 1000, 0, 0, 3]))
        for number in range(3):
            fields = decode(wire.expect(TRANSFER))[0]
            assert fields[1] == number and not any(fields[4:5]), fields
        wire.send(frame(DISPOSITION, [True, 0, 0, False, Described(ACCEPTED, [])]))
        assert disposition(wire.expect(DISPOSITION)) == (0, 0, RELEASED)
        wire.send(frame(DISPOSITION, [True, 1, 2, True, Described(ACCEPTED, [])]))
        wire.send(frame(FLOW, [3, 100, 0, 1000, 0, 3, 0, None, True]))
        assert flow_state(wire) == (3, 0, True)
        assert figure(running, "backlog", "q") == figure(running, "in_flight", "q") == 3
        other.send(frame(DISPOSITION, [True, 0, 2, True, Described(ACCEPTED, [])]))
        assert until(lambda: figure(running, "backlog", "q") == 0)


def all_the_credit_there_is(running):
    """It is an unsigned number. More than half of them are as many as that: nobody has so many messages."""
    queue(running, "q")
    fill(running, "q", 3)
    for credit in (1 << 31, MOST):
        for more in ([], [None, False, True], [None, None, False, {Symbol("x"): "y" * 2000}]):
            with Wire(running.amqp_port, SECONDS) as wire:
                attach(wire, ["q"])
                wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, credit, *more]))
                if more[2:3] == [True]:
                    count, left, _ = flow_state(wire)
                    assert count + left == 0x7fffffff, (count, left)
                for _ in range(3):
                    wire.expect(TRANSFER)
                wire.send(frame(FLOW, [3, 1000, 0, 1000, 0, 3, credit, None, True]))
                assert flow_state(wire) == (3 + 0x7fffffff, 0, True)


if __name__ == "__main__":
    run(all_the_credit_there_is, a_drain_ends_where_credit_is_taken_back, a_drain_ends_where_no_more_is_browsed, what_has_not_left_in_time_is_not_settled)
