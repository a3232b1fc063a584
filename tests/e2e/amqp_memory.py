# SPDX-License-Identifier: Apache-2.0
"""What the gateway keeps of an AMQP connection is bounded, whatever its peer leaves unsettled, never reads or says of it."""
import socket
import struct
import time

from amqpwire import (ACCEPTED, ATTACH, BEGIN, CLOSE, DETACH, DISPOSITION, END, FLOW, RELEASED, TRANSFER, Described, Symbol, Wire, decode,
                      disposition, encode, frame, ubyte)
from gateway import Gateway, run, until
from mqtt_stalled import RSS_MIB_MAX, SANITIZED, rss_mib

MB = 1 << 20  # AddressSanitizer holds back 256 of them that were freed
WINDOW = 1 << 30
PIECE = 16000


def counted(running, reason):
    for line in running.call("GET", "/metrics")[1].splitlines():
        if line.startswith(f'polylog_refused_total{{protocol="amqp",reason="{reason}"}}'):
            return int(line.split()[-1])
    return 0


def figure(running, name, queue):
    return int(running.call("GET", "/metrics")[1].split(f'polylog_group_{name}{{queue="{queue}",group="amqp"}} ')[1].split()[0])


def body(number, size):
    return (b"%08d" % number) * (size // 8)


def data(content):
    return b"\x00\x53\x75\xb0" + struct.pack(">I", len(content)) + content


def publish(wire, handle, number, message, settled=False):
    for at in range(0, len(message), PIECE):
        more = at + PIECE < len(message)
        wire.send(frame(TRANSFER, [handle, number, struct.pack(">I", number), 0, settled, more], message[at:at + PIECE]))


class Reader:
    """Puts deliveries together, by the handle they come on; whole: handle, id, settled and message of each."""

    def __init__(self, wire):
        self.wire, self.parts, self.ids, self.whole, self.largest, self.aborted = wire, {}, {}, [], 0, 0

    def next_frame(self):
        said = self.wire.expect(TRANSFER)
        fields, at = decode(said)
        fields += [None] * (11 - len(fields))
        handle = fields[0]
        self.largest = max(self.largest, len(said))
        if fields[1] is not None:
            self.ids[handle] = fields[1]
        self.parts.setdefault(handle, []).append(said[at:])
        if fields[5] and not fields[9]:
            return None
        self.aborted += bool(fields[9])
        self.whole.append((handle, self.ids[handle], bool(fields[4]), b"".join(self.parts.pop(handle))))
        return self.whole[-1]

    def next(self):
        while True:
            whole = self.next_frame()
            if whole is not None:
                return whole


def flow(handle, credit, count=0, drain=False, frames=0):
    return frame(FLOW, [frames, WINDOW, 0, WINDOW, handle, count, credit, None, drain])


def large_messages_unsettled(running):
    """Whoever has credit gets them whole and in order; of what is unsettled, and was, hardly anything is kept."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] in (200, 201)
    with Wire(running.amqp_port, 30) as wire, Wire(running.amqp_port, 30) as sender:
        wire.open()
        sender.open("sender")
        sender.attach("q", 0, "q")
        sender.attach("t", 1, "/topics/t")
        for number in range(60):
            publish(sender, 0, number, data(body(number, MB)) if number % 3 else data(body(number, 96)))
        done = 0
        while done < 60:
            first, last, outcome = disposition(sender.expect(DISPOSITION))
            assert outcome == ACCEPTED
            done += last - first + 1
        wire.attach("r", 0, "q", receiver=True)
        links = 100
        for handle in range(1, links + 1):
            wire.attach(f"t{handle}", handle, "/topics/t", receiver=True)
        reader, before = Reader(wire), rss_mib(running)
        wire.send(flow(0, 60))
        for number in range(60):
            handle, _, settled, message = reader.next()
            assert handle == 0 and not settled
            assert message.endswith(body(number, MB if number % 3 else 96)), number
        wire.send(b"".join(flow(handle, 10) for handle in range(1, links + 1)))
        publish(sender, 1, 60, data(body(7, MB)))
        for _ in range(links):
            handle, _, _, message = reader.next()
            assert message.endswith(body(7, MB)), handle
        assert sorted(handle for handle, *_ in reader.whole[60:]) == list(range(1, links + 1))
        held = rss_mib(running)
        print(f"unsettled: {held - before} MiB more")
        assert held - before < (450 if SANITIZED else 40)
        wire.send(frame(DISPOSITION, [True, 0, 60 + links - 1, True, Described(ACCEPTED, [])]))
        assert until(lambda: figure(running, "backlog", "q") == 0)
        assert rss_mib(running) - before < (450 if SANITIZED else 40)


def large_messages_settled_drained_and_in_small_windows(running):
    """Sent settled, they say so in one of their frames at least; a drain is answered behind the last of them, and a window that
    holds a few frames only is filled again and again."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] in (200, 201)
    with Wire(running.amqp_port, 30) as wire, Wire(running.amqp_port, 30) as sender:
        sender.open("sender")
        sender.attach("q", 0, "q")
        for number in range(9):
            publish(sender, 0, number, data(body(number, (MB, 96, 20000)[number % 3])))
        while disposition(sender.expect(DISPOSITION))[1] < 8:
            pass
        wire.open()
        wire.attach("r", 0, "q", receiver=True, snd=ubyte(1))
        reader = Reader(wire)
        wire.send(frame(FLOW, [0, 7, 0, 7, 0, 0, 4]))
        frames = 0
        while len(reader.whole) < 4:
            reader.next_frame()
            frames += 1
            if frames % 7 == 0:
                wire.send(frame(FLOW, [frames, 7, 0, 7]))
        wire.send(flow(0, 10, 4, True, frames))
        for number in range(9):
            _, _, settled, message = reader.whole[number] if number < 4 else reader.next()
            assert settled and message.endswith(body(number, (MB, 96, 20000)[number % 3])), number
        fields, _ = decode(wire.expect(FLOW))
        assert fields[5:7] == [14, 0] and fields[8], fields
        assert figure(running, "backlog", "q") == 0
    assert rss_mib(running) < RSS_MIB_MAX


def large_messages_given_up(running):
    """Amid one its receiver settles it, detaches, or says an outcome; or its lease ends: it is ended by the book, what is behind it comes,
    and what nobody has done comes again."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] in (200, 201)
    with Wire(running.amqp_port, 30) as sender:
        sender.open("sender")
        sender.attach("q", 0, "q")
        for number in range(8):
            publish(sender, 0, number, data(body(number, 200000 if number % 2 == 0 else 96)))
        while disposition(sender.expect(DISPOSITION))[1] < 7:
            pass

    def begin(wire, frames, lease=None):
        wire.open()
        fields = ["r", 0, True, None, None, Described(0x28, ["q"]), Described(0x29, [None])]
        if lease:
            fields += [None, None, None, None, None, None, {Symbol("x-opt-lease"): lease}]
        wire.send(frame(ATTACH, fields))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, frames, 0, 1000, 0, 0, 2]))
        reader = Reader(wire)
        for _ in range(frames):
            assert reader.next_frame() is None
        return reader

    def rest(wire, reader, aborted):
        """Behind what was sent of the first one; the second is there whole."""
        wire.send(frame(FLOW, [0, 1000, 0, 1000]))
        first, second = reader.next(), reader.next()
        assert bool(reader.aborted) == aborted, reader.aborted
        assert second[3].endswith(body(int(second[3][-8:]), 96)), second[3][:100]
        return first, second

    for aborted, state, settled in ((True, Described(ACCEPTED, []), True), (False, Described(ACCEPTED, []), False)):
        with Wire(running.amqp_port, 10) as wire:
            reader = begin(wire, 2)
            wire.send(frame(DISPOSITION, [True, 0, 0, settled, state]))
            rest(wire, reader, aborted)
            wire.send(frame(DISPOSITION, [True, 1, 1, True, Described(ACCEPTED, [])]))
            assert until(lambda: figure(running, "in_flight", "q") == 0)
    assert figure(running, "backlog", "q") == 4
    with Wire(running.amqp_port, 10) as wire:  # part of what has come is no outcome
        reader = begin(wire, 3)
        wire.send(frame(DISPOSITION, [True, 0, 0, False, Described(0x23, [0, 0])]))
        first, _ = rest(wire, reader, False)
        assert first[3].endswith(body(4, 200000))
    for end in (DETACH, END, CLOSE, None):
        with Wire(running.amqp_port, 10) as wire:
            begin(wire, 3)
            if end is not None:
                wire.send(frame(end, [0, True] if end == DETACH else []))
                wire.expect(end)
        assert until(lambda: figure(running, "in_flight", "q") == 0)
    with Wire(running.amqp_port, 10) as wire:  # settled, and nothing of it may be sent, nor that it is aborted
        begin(wire, 3)
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(RELEASED, [])]))
        wire.send(frame(END, []) + frame(BEGIN, [None, 0, 9, 9]))
        wire.expect(BEGIN)
    assert until(lambda: figure(running, "in_flight", "q") == 0)
    with Wire(running.amqp_port, 10) as wire:
        reader = begin(wire, 3, 1000)
        time.sleep(2)
        wire.send(frame(FLOW, [3, 1000, 0, 1000, 0, 0, 10]))
        while len(reader.whole) < 5:
            reader.next()
        assert reader.aborted == 1
        assert sorted(message[-8:] for *_, message in reader.whole[1:]) == [b"%08d" % number for number in (4, 5, 6, 7)]
    assert rss_mib(running) < RSS_MIB_MAX


def many_unsettled_and_large_ones(running):
    """Who holds many deliveries gets large ones in smaller pieces, and all of them."""
    assert running.call("POST", "/v1/default/queues", {"name": "q"})[0] in (200, 201)
    with Wire(running.amqp_port, 30) as wire, Wire(running.amqp_port, 30) as sender:
        sender.open("sender")
        sender.attach("q", 0, "q")
        wire.open()
        wire.attach("r", 0, "q", receiver=True)
        wire.send(flow(0, 50000))
        reader, sent = Reader(wire), 0
        for size in (96, 96, 96, 96, 96, 96, 96, 96, 9600):
            for number in range(sent, sent + 1000):
                sender.send(frame(TRANSFER, [0, number, struct.pack(">I", number), 0], data(body(number, size))))
            sent += 1000
            while disposition(sender.expect(DISPOSITION))[1] < sent - 1:
                pass
        before, reader.largest = rss_mib(running), 0
        for number in range(sent):
            message = reader.next()[3]
            assert message.endswith(body(number, 96 if number < 8000 else 9600)), number
        assert reader.largest <= 4096, reader.largest
        wire.send(frame(DISPOSITION, [True, 0, sent - 1, True, Described(ACCEPTED, [])]))
        assert until(lambda: figure(running, "backlog", "q") == 0)


def fill(running, name, sizes, first=0):
    """A queue with messages of those sizes."""
    assert running.call("POST", "/v1/default/queues", {"name": name})[0] in (200, 201)
    with Wire(running.amqp_port, 30) as sender:
        sender.open("sender")
        sender.attach("s", 0, name)
        done = 0
        for number, size in enumerate(sizes):
            publish(sender, 0, number, data(body(number, size)))
            while number - done > 400 or (number == len(sizes) - 1 and done < len(sizes)):
                first, last, _ = disposition(sender.expect(DISPOSITION))
                done += last - first + 1


def who_reads_nothing_and_sends_on(running):
    """What is taken of its transfers is not kept until it is told so, which it never is; of a link that is refused neither."""
    fill(running, "q", [MB] * 12)
    for address, in_pieces in (("/topics/t", False), ("no:such", False), ("no:such", True)):
        with Wire(running.amqp_port, 5) as wire:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            wire.open()
            wire.attach("r", 1, "q", receiver=True)
            wire.attach("s", 2, address)
            wire.send(flow(1, 12))
            time.sleep(0.3)
            memory = rss_mib(running)
            try:
                if in_pieces:
                    wire.send(frame(TRANSFER, [2, 0, b"t", 0, True, True], data(bytes(900))))
                for start in range(0, 30000, 20):
                    wire.send(b"".join(frame(TRANSFER, [2, None, None, None, None, True], bytes(900)) if in_pieces else
                                       frame(TRANSFER, [2, number, b"t", 0, True], data(bytes(15000)))
                                       for number in range(start, start + 20)))
            except OSError:
                pass
            grown = rss_mib(running) - memory
            print(f"{address}: {grown} MiB more")
            assert grown < (450 if SANITIZED else 40), (address, grown)
        assert until(lambda: figure(running, "in_flight", "q") == 0)


def large_ones_that_wait():
    """For their queue, which is made for them, and for room: none is lost or mixed with another."""
    def to(name, content):
        return encode(Described(0x73, [None, None, name])) + data(content)

    running = Gateway(None, "amqp.auto_create=true")
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("relay", 0, None)
        messages = [to("a", body(0, 15000)), to("b", body(1, 45000)), to("a", body(2, 96)), to("c", body(3, 900) * 3), to("b", body(4, 15000))]
        for number, message in enumerate(messages):
            publish(wire, 0, number, message)
        done = 0
        while done < len(messages):
            first, last, outcome = disposition(wire.expect(DISPOSITION))
            assert outcome == ACCEPTED
            done += last - first + 1
        for handle, (name, numbers) in enumerate((("a", (0, 2)), ("b", (1, 4)), ("c", (3,))), 1):
            wire.attach(name, handle, name, receiver=True)
            wire.send(flow(handle, 9))
            reader = Reader(wire)
            for number in numbers:
                message = reader.next()[3]
                assert message.endswith(messages[number][-700:]) and len(message) > len(messages[number]), number
        for handle in range(4, 7):
            wire.attach(f"many{handle}", handle, f"many{handle}")
        for number in range(len(messages), 2400):
            publish(wire, 4 + number % 3, number, data(body(number, 15000)))
        while done < 2400:
            first, last, outcome = disposition(wire.expect(DISPOSITION))
            assert outcome == ACCEPTED
            done += last - first + 1
        for handle in range(4, 7):
            wire.attach(f"read{handle}", 3 + handle, f"many{handle}", receiver=True)
            wire.send(flow(3 + handle, 1000))
            numbers = [number for number in range(len(messages), 2400) if 4 + number % 3 == handle]
            reader = Reader(wire)
            assert sorted(reader.next()[3][-15000:] for _ in numbers) == [body(number, 15000) for number in numbers]
    assert running.stop() == 0


def states_of_many_deliveries(running):
    """What a receiver says of a range is not kept of each delivery in it; and what matters of it does, however large the rest."""
    count = 5000
    fill(running, "q", [96] * count)
    filler = ["x" * 100] * 50 + [None] * 150
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("r", 0, "q", receiver=True)
        wire.send(flow(0, count))
        reader = Reader(wire)
        for _ in range(count):
            reader.next()
        before = rss_mib(running)
        for state in (Described(0x77, filler), Described(0x23, [0, 0] + filler), Described(0x34, [b"none" * 1000])):
            for first in range(0, 50, 10) if state.code == 0x77 else (0,):
                wire.send(frame(DISPOSITION, [True, first, count - 1, False, state]))
            if state.code == 0x34:
                assert b"amqp:transaction:unknown-id" in wire.expect(DETACH)
            else:
                wire.send(frame(FLOW, [0, WINDOW, 0, WINDOW, 0, count, 0, None, False, True]))
                wire.expect(FLOW)
            print(f"{state.code:#x}: {rss_mib(running) - before} MiB more")
            assert rss_mib(running) - before < (100 if SANITIZED else 25), state.code
    fill(running, "few", [96] * 3)
    with Wire(running.amqp_port, 30) as wire:
        wire.open()
        wire.attach("r", 0, "few", receiver=True)
        wire.send(flow(0, 5))
        reader = Reader(wire)
        for _ in range(3):
            reader.next()
        notes = Described(0x27, [True, False, {Symbol("x-opt-note"): "n" * 200, Symbol("x-opt-more"): "m" * 200}])
        wire.send(frame(DISPOSITION, [True, 0, 1, True, notes]))
        wire.send(frame(DISPOSITION, [True, 2, 2, True, Described(0x25, [Described(0x1d, [Symbol("amqp:internal-error"), "e" * 2000])])]))
        for _ in range(2):
            message = reader.next()[3]
            assert b"x-opt-note" in message and b"n" * 200 in message and b"m" * 200 in message, message[:300]
        assert until(lambda: figure(running, "in_flight", "few") == 2)


def ranges_again_and_again(running):
    """Thirty bytes that say something of each of many deliveries, as fast as they can be written: others are served meanwhile."""
    count = 10000
    fill(running, "q", [96] * count)
    with Wire(running.amqp_port, 60) as wire, Wire(running.amqp_port, 60) as other:
        other.open("other")
        other.attach("s", 0, "q")
        wire.open()
        wire.attach("r", 0, "q", receiver=True)
        wire.send(flow(0, count))
        reader = Reader(wire)
        for _ in range(count):
            reader.next()
        for state in ([Described(0x23, [0, 0])], []):
            began = time.monotonic()
            wire.send(frame(DISPOSITION, [True, 0, count - 1, False] + state) * 100)
            other.send(frame(TRANSFER, [0, 0 if state else 1, b"t", 0], data(b"x")))
            assert disposition(other.expect(DISPOSITION))[2] == ACCEPTED
            took = time.monotonic() - began
            wire.send(frame(FLOW, [0, WINDOW, 0, WINDOW, 0, count, 0, None, False, True]))
            wire.expect(FLOW)
            all_of_it = time.monotonic() - began
            print(f"another one waited {took:.3f} s of {all_of_it:.3f}")
            assert took < all_of_it / 3, (took, all_of_it)


if __name__ == "__main__":
    run(large_messages_unsettled, large_messages_settled_drained_and_in_small_windows, large_messages_given_up, many_unsettled_and_large_ones,
        who_reads_nothing_and_sends_on, large_ones_that_wait, states_of_many_deliveries, ranges_again_and_again)
