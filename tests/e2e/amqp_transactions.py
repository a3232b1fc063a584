# SPDX-License-Identifier: Apache-2.0
"""Local transactions over AMQP: what is sent and accepted within one happens at its commit, or not at all."""
import struct
import time

from proton import Message
from proton.handlers import MessagingHandler, TransactionHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

from amqpwire import (ATTACH, DETACH, DISPOSITION, END, FLOW, TRANSFER, Described, Raw, Symbol, Wire, decode, disposition,
                      encode, frame)
from gateway import Gateway, queue, run, until
from transacting import SECONDS, bodies, coordinate, declare, discharge, messages, offer, say, settled_within


class Sender(MessagingHandler, TransactionHandler):
    """Sends count messages to each address in one transaction, and ends it as said."""

    def __init__(self, url, addresses, count, commit):
        super().__init__()
        self.url, self.addresses, self.count, self.commits = url, addresses, count, commit
        self.result = None

    def on_start(self, event):
        self.container = event.container
        self.connection = event.container.connect(self.url, allowed_mechs="ANONYMOUS")
        self.senders = [event.container.create_sender(self.connection, address) for address in self.addresses]
        self.container.declare_transaction(self.connection, handler=self)

    def on_transaction_declared(self, event):
        for i in range(self.count):
            for sender in self.senders:
                event.transaction.send(sender, Message(body=i))
        event.transaction.commit() if self.commits else event.transaction.abort()

    def on_transaction_committed(self, event):
        self.end("committed")

    def on_transaction_aborted(self, event):
        self.end("aborted")

    def on_transaction_commit_failed(self, event):
        self.end("failed")

    def end(self, result):
        self.result = result
        self.connection.close()


class Worker(MessagingHandler, TransactionHandler):
    """Takes count messages, accepts each and sends its double, all in one transaction."""

    def __init__(self, url, source, target, count, commit):
        super().__init__(prefetch=0, auto_accept=False)
        self.url, self.source, self.target, self.count, self.commits = url, source, target, count, commit
        self.done, self.result, self.transaction = 0, None, None

    def on_start(self, event):
        self.connection = event.container.connect(self.url, allowed_mechs="ANONYMOUS")
        self.receiver = event.container.create_receiver(self.connection, self.source)
        self.sender = event.container.create_sender(self.connection, self.target)
        event.container.declare_transaction(self.connection, handler=self, settle_before_discharge=True)

    def on_transaction_declared(self, event):
        self.transaction = event.transaction
        self.receiver.flow(self.count)

    def on_message(self, event):
        self.transaction.accept(event.delivery)
        self.transaction.send(self.sender, Message(body=2 * event.message.body))
        self.done += 1
        if self.done == self.count:
            self.transaction.commit() if self.commits else self.transaction.abort()

    def on_transaction_committed(self, event):
        self.result = "committed"
        self.connection.close()

    def on_transaction_aborted(self, event):
        self.result = "aborted"
        self.connection.close()

    def on_transaction_commit_failed(self, event):
        self.result = "failed"
        self.connection.close()


def send_in_transaction(running, addresses, count, commit):
    sender = Sender(f"127.0.0.1:{running.amqp_port}", addresses, count, commit)
    Container(sender).run()
    return sender.result


def a_commit_shows_all_and_a_rollback_nothing(running):
    queue(running, "one")
    queue(running, "two")
    assert send_in_transaction(running, ["one", "two"], 5, False) == "aborted"
    assert bodies(running, "one") == []
    assert send_in_transaction(running, ["one", "two"], 5, True) == "committed"
    assert bodies(running, "one") == list(range(5))
    assert bodies(running, "two") == list(range(5))


def settlements_belong_to_it(running):
    queue(running, "in")
    queue(running, "out")
    offer(running, "in", 4)
    url = f"127.0.0.1:{running.amqp_port}"
    worker = Worker(url, "in", "out", 4, False)
    Container(worker).run()
    assert worker.result == "aborted"
    assert bodies(running, "out") == []
    worker = Worker(url, "in", "out", 4, True)  # all come again
    Container(worker).run()
    assert worker.result == "committed"
    assert bodies(running, "in") == []
    assert bodies(running, "out") == [0, 2, 4, 6]


def owners_commit_together(running):
    names = [f"q{i}" for i in range(6)]  # on different workers, each with partitions on both
    for name in names:
        queue(running, name, partitions=4)
    offer(running, "q0", 8)
    assert send_in_transaction(running, names[1:], 20, True) == "committed"
    worker = Worker(f"127.0.0.1:{running.amqp_port}", "q0", "q1", 8, True)
    Container(worker).run()
    assert worker.result == "committed"
    assert bodies(running, "q0") == []
    assert sorted(bodies(running, "q1")) == sorted(list(range(20)) + [2 * i for i in range(8)])
    for name in names[2:]:
        assert sorted(bodies(running, name)) == list(range(20))


def one_part_that_fails_refuses_all(running):
    queue(running, "in")
    queue(running, "out", partitions=4)
    queue(running, "full", max_records=1, overflow="refuse")
    offer(running, "in", 4)
    offer(running, "full", 1)
    assert send_in_transaction(running, ["out", "full"], 5, True) == "failed"
    assert bodies(running, "out") == []
    url = f"127.0.0.1:{running.amqp_port}"
    worker = Worker(url, "in", "full", 4, True)
    Container(worker).run()
    assert worker.result == "failed"
    assert bodies(running, "full") == [0]
    # It may work later: no fault of the messages.
    assert [(message.body, message.delivery_count) for message in messages(running, "in")] == [(i, 0) for i in range(4)]
    # What cannot be part of one is told at once, and refuses the commit too.
    wire = Wire(running.amqp_port)
    wire.open()
    wire.attach("s", 0, "out")
    coordinate(wire)
    identity = declare(wire, 0)
    wire.send(frame(TRANSFER, [0, 1, b"m", 0, False, False, None, Described(0x34, [identity, None])],
                    delayed(8 * 24 * 3600 * 1000)))
    assert b"amqp:invalid-field" in wire.expect(DISPOSITION)
    wire.send(frame(TRANSFER, [1, 2, b"d", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, False]))))
    assert b"amqp:transaction:rollback" in wire.expect(DISPOSITION)
    wire.socket.close()
    assert bodies(running, "out") == []


def delayed(ms):
    """A message with x-opt-delivery-delay."""
    return (b"\x00\x53\x72\xc1\x1c\x02\xa3\x14x-opt-delivery-delay\x70" + struct.pack(">I", ms) +
            b"\x00\x53\x75\xa0\x01x")


def waiting(running, name):
    return running.call("GET", f"/v1/default/queues/{name}")[1]["delayed"]


def delayed_messages_wait_from_the_commit_on(running):
    """Not before it, and never when there is none; also when the server dies meanwhile."""
    queue(running, "later")

    def send(wire, number, ms, settled=False):
        wire.send(frame(TRANSFER, [0, number, b"m%d" % number, 0, settled, False, None,
                                   Described(0x34, [identity, None])], delayed(ms)))
        if not settled:
            assert identity in wire.expect(DISPOSITION)

    def end(wire, number, fail=False):
        wire.send(frame(TRANSFER, [1, number, b"d%d" % number, 0],
                        b"\x00\x53\x77" + encode(Described(0x32, [identity, fail]))))
        assert b"rollback" not in wire.expect(DISPOSITION)

    wire = Wire(running.amqp_port)
    wire.open()
    wire.attach("s", 0, "later")
    coordinate(wire)
    identity = declare(wire, 0)
    send(wire, 1, 1)
    send(wire, 2, 3600 * 1000)
    end(wire, 3, fail=True)
    identity = declare(wire, 4)
    send(wire, 5, 3600 * 1000, settled=True)
    send(wire, 6, 1)
    time.sleep(0.1)
    assert waiting(running, "later") == 0 and bodies(running, "later") == []
    end(wire, 7)
    assert waiting(running, "later") >= 1
    assert until(lambda: [bytes(body) for body in bodies(running, "later")] == [b"x"])
    identity = declare(wire, 8)
    send(wire, 9, 1)  # has no end
    time.sleep(0.5)  # bodies() has settled without waiting, which is not durable at once
    running.kill9()
    running.restart()
    wire.socket.close()
    assert waiting(running, "later") == 1 and bodies(running, "later") == []


def outcomes_keep_what_they_say(running):
    """The delay of a modified one, and one that is long."""
    delay = Raw(b"\xc1\x1c\x02\xa3\x14x-opt-delivery-delay\x70" + struct.pack(">I", 3600 * 1000))
    error = Described(0x1d, [Symbol("test:error"), "d" * 3000])
    for name, outcome in (("later", Described(0x27, [True, False, delay])), ("bad", Described(0x25, [error]))):
        queue(running, name)
        say(running, name, name)
        wire = Wire(running.amqp_port)
        wire.open()
        coordinate(wire)
        wire.attach("r", 0, name, receiver=True)
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1]))
        wire.expect(TRANSFER)
        identity = declare(wire, 0)
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(0x34, [identity, outcome])]))
        wire.send(discharge(identity, 1, False))
        assert b"rollback" not in wire.expect(DISPOSITION)
        wire.socket.close()
        assert bodies(running, name) == []


def what_is_undeliverable_here_is_for_others(running):
    """Also where the queue keeps no dead letters, and though it is part of a commit."""
    annotations = {Symbol("x-why"): "not mine"}
    for name, fields in (("plain", {}), ("redriven", {"redrive_policy": "enable", "max_consume_count": 9})):
        queue(running, name, **fields)
        say(running, name, "first", "second")
        with Wire(running.amqp_port) as wire:
            wire.open()
            coordinate(wire)
            wire.attach("r", 0, name, receiver=True)
            wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 2]))
            for _ in range(2):
                wire.expect(TRANSFER)
            identity = declare(wire, 0)
            for number, failed in enumerate((False, True)):
                state = Described(0x34, [identity, Described(0x27, [failed, True, annotations])])
                wire.send(frame(DISPOSITION, [True, number, number, True, state]))
            wire.send(discharge(identity, 1, False))
            assert disposition(wire.expect(DISPOSITION))[2] == 0x24
            wire.send(frame(FLOW, [2, 1000, 2, 1000, 0, 2, 2]))
            got = sorted((m.body, m.delivery_count, {str(k): v for k, v in m.annotations.items()}["x-why"]) for m in messages(running, name))
            assert got == [("first", 0, "not mine"), ("second", 1, "not mine")], got
            wire.socket.settimeout(0.3)
            try:
                raise AssertionError(wire.expect(TRANSFER))  # it was for others
            except TimeoutError:
                pass
    # Why it was rejected is to be found in the dead letter, too.
    say(running, "redriven", "bad")
    with Wire(running.amqp_port) as wire:
        wire.open()
        coordinate(wire)
        wire.attach("r", 0, "redriven", receiver=True)
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1]))
        wire.expect(TRANSFER)
        identity = declare(wire, 0)
        error = Described(0x25, [Described(0x1d, [Symbol("shop:bad"), "no such article"])])
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(0x34, [identity, error])]))
        wire.send(discharge(identity, 1, False))
        assert disposition(wire.expect(DISPOSITION))[2] == 0x24
    dead = "/v1/default/queues/redriven/groups/amqp/deadletters"
    assert until(lambda: running.call("GET", dead)[1]["records"])
    told = running.call("GET", dead)[1]["records"][0]["attributes"]
    assert (told["dead-letter-error"], told["dead-letter-description"]) == ("shop:bad", "no such article"), told


def what_cannot_be_part_of_it_refuses_it(running):
    """A request to the management, which is not done, and a message that is too large."""
    queue(running, "out")
    request = Message(id="1", reply_to="answers", properties={"operation": "CREATE", "type": "queue", "name": "inside"})
    for number in range(2):
        wire = Wire(running.amqp_port)
        wire.open()
        coordinate(wire)
        wire.attach("m", 0, "$management")
        wire.attach("s", 2, "out")
        identity = declare(wire, 0)
        state = Described(0x34, [identity, None])
        wire.send(frame(TRANSFER, [2, 1, b"m1", 0, True, False, None, state], b"\x00\x53\x75\xa0\x01x"))
        if number == 0:
            wire.send(frame(TRANSFER, [0, 2, b"m2", 0, False, False, None, state], request.encode()))
            assert b"amqp:not-implemented" in wire.expect(DISPOSITION)
        else:
            piece = bytes(16000)
            wire.send(frame(TRANSFER, [2, 2, b"m2", 0, True, True, None, state], piece))
            for _ in range(11 * 1024 * 1024 // len(piece)):
                wire.send(frame(TRANSFER, [2, None, None, None, None, True], piece))
            assert b"message-size-exceeded" in wire.expect(DETACH)
        wire.send(discharge(identity, 3, False))
        assert b"amqp:transaction:rollback" in wire.expect(DISPOSITION)
        wire.socket.close()
    assert bodies(running, "out") == []
    assert running.call("GET", "/v1/default/queues/inside")[0] == 404


def a_lost_connection_rolls_back(running):
    wire, identity = receive_within(running, "in")
    wire.attach("s", 2, "in")
    wire.send(frame(TRANSFER, [2, 1, b"m", 0, True, False, None, Described(0x34, [identity, None])],
                    b"\x00\x53\x75\xa0\x01x"))
    wire.socket.close()
    assert until(lambda: bodies(running, "in") == ["in"])
    assert bodies(running, "in") == []


def a_commit_that_cannot_be_is_refused(running):
    queue(running, "going")
    queue(running, "staying")
    wire = Wire(running.amqp_port)
    wire.open()
    wire.attach("s", 0, "going")
    coordinate(wire)
    identity = declare(wire, 0)
    state = Described(0x34, [identity, None])
    wire.send(frame(TRANSFER, [0, 1, b"m", 0, False, False, None, state], b"\x00\x53\x75\xa0\x01x"))
    wire.expect(DISPOSITION)
    running.call("DELETE", "/v1/default/queues/going")
    wire.send(frame(TRANSFER, [1, 2, b"d2", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, False]))))
    assert b"amqp:transaction:rollback" in wire.expect(DISPOSITION)
    wire.send(frame(TRANSFER, [1, 3, b"d3", 0], b"\x00\x53\x77" + encode(Described(0x32, [b"12345678", False]))))
    assert b"amqp:transaction:unknown-id" in wire.expect(DISPOSITION)
    wire.send(frame(TRANSFER, [1, 4, b"d4", 0], b"\x00\x53\x77\x40"))
    assert b"amqp:decode-error" in wire.expect(DISPOSITION)
    for i in range(64):
        declare(wire, 5 + i)
    wire.send(frame(TRANSFER, [1, 69, b"last", 0], b"\x00\x53\x77" + encode(Described(0x31, [None]))))
    assert b"amqp:resource-limit-exceeded" in wire.expect(DISPOSITION)
    # Of a transaction that there is not.
    wire.attach("t", 2, "staying")
    wire.send(frame(TRANSFER, [2, 70, b"n", 0, False, False, None, Described(0x34, [b"12345678", None])],
                    b"\x00\x53\x75\xa0\x01x"))
    assert b"amqp:transaction:unknown-id" in wire.expect(DISPOSITION)
    wire.socket.close()


def what_takes_too_long_says_so():
    """Transfer, settlement and discharge; what was done in it is undone."""
    running = Gateway(None, "limit.transaction_expiry=1")
    try:
        wire, identity = receive_within(running, "in")
        wire.attach("s", 2, "in")
        wire.send(frame(TRANSFER, [2, 1, b"m", 0, True, False, None, Described(0x34, [identity, None])], b"\x00\x53\x75\xa0\x01x"))
        assert until(lambda: bodies(running, "in") == ["in"])
        wire.send(frame(TRANSFER, [2, 2, b"n", 0, False, False, None, Described(0x34, [identity, None])], b"\x00\x53\x75\xa0\x01x"))
        assert b"amqp:transaction:timeout" in wire.expect(DISPOSITION)
        for number in (3, 4):
            wire.send(discharge(identity, number, False))
            assert b"amqp:transaction:timeout" in wire.expect(DISPOSITION)
        wire.send(discharge(b"\0" * 8, 5, False))
        assert b"amqp:transaction:unknown-id" in wire.expect(DISPOSITION)
        connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        connection.create_sender("in").send(Message(body="more"))
        connection.close()
        wire.send(frame(FLOW, [1, 1000, 5, 1000, 0, 1, 1]))
        wire.expect(TRANSFER)
        wire.send(settled_within(identity, 1))
        assert b"amqp:transaction:timeout" in wire.expect(DETACH)
        wire.socket.close()
        assert bodies(running, "in") == ["more"]
    finally:
        running.stop()


def receive_within(running, name, settled=True):
    """A connection whose transaction holds one settlement of a receiver, handle 0, behind the coordinator, handle 1."""
    queue(running, name)
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
    connection.create_sender(name).send(Message(body=name))
    connection.close()
    wire = Wire(running.amqp_port)
    wire.open()
    coordinate(wire)
    wire.attach("r", 0, name, receiver=True)
    wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1]))
    wire.expect(TRANSFER)
    identity = declare(wire, 0)
    wire.send(settled_within(identity, 0, settled))
    return wire, identity


def what_is_settled_in_two_steps_is_settled_once(running):
    # Accepted within the transaction, and settled only then: after a rollback it goes to others.
    wire, identity = receive_within(running, "x", settled=False)
    wire.send(settled_within(identity, 0) + discharge(identity, 1, True))
    wire.expect(DISPOSITION)
    assert [(message.body, message.delivery_count) for message in messages(running, "x")] == [("x", 1)]
    wire.socket.close()
    # Left to us: it is settled as what it was, within the transaction.
    wire, identity = receive_within(running, "y", settled=False)
    wire.send(discharge(identity, 1, False))
    both = [wire.expect(DISPOSITION), wire.expect(DISPOSITION)]
    ours = b"\x00\x53\x34"
    assert [ours in answer and b"\xa0\x08" + identity in answer and b"\x00\x53\x24" in answer.split(ours)[1]
            for answer in both].count(True) == 1, both
    assert bodies(running, "y") == []
    wire.socket.close()


def a_receiver_may_leave_before_its_transaction(running):
    detach = frame(DETACH, [0, True])
    # It goes, then all goes.
    wire, _ = receive_within(running, "a")
    wire.send(detach)
    wire.expect(DETACH)
    wire.socket.close()
    wire, _ = receive_within(running, "b")
    wire.send(detach + frame(END, []))
    wire.expect(END)
    wire.socket.close()
    # It goes while its settlement is on its way: the commit is answered.
    wire, identity = receive_within(running, "c")
    wire.send(frame(TRANSFER, [1, 1, b"d", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, False]))) + detach)
    wire.expect(DISPOSITION)
    wire.socket.close()
    assert bodies(running, "a") == ["a"] and bodies(running, "b") == ["b"]


def a_coordinator_gives_credit_back_once(running):
    """However often what it has answered is settled."""
    with Wire(running.amqp_port) as wire:
        wire.open()
        coordinate(wire)
        both = [discharge(b"\0" * 8, i, False) + 2 * frame(DISPOSITION, [False, i, i, True, Described(0x24, [])]) for i in range(600)]
        wire.send(b"".join(both))  # what is settled comes before it is said that it is
        most, body = 0, b"   "
        wire.send(discharge(b"\0" * 8, 600, False))
        while body[2] != DISPOSITION or decode(body)[0].value[1] != 600:
            body = wire.next_frame()
            if body[2] == FLOW:
                most = max(most, sum(decode(body)[0].value[5:7]))
        assert 1000 < most <= 1601, most


def another_coordinator_may_discharge_and_leave(running):
    """The answer belongs to the link that brought the discharge; when that has gone there is none, and the commit goes on."""
    queue(running, "out")
    for i in range(4):
        wire = Wire(running.amqp_port)
        wire.open()
        coordinate(wire)
        wire.attach("s", 2, "out")
        wire.send(frame(ATTACH, ["other", 3, False, None, None, Described(0x28, [None]), Described(0x30, []), None, None, 0]))
        wire.expect(ATTACH)
        identity = declare(wire, 0)
        wire.send(frame(TRANSFER, [2, 1, b"m", 0, True, False, None, Described(0x34, [identity, None])], b"\x00\x53\x75\xa0\x01x"))
        commit = frame(TRANSFER, [3, 2, b"d", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, False])))
        if i == 0:
            wire.send(commit)
            assert disposition(wire.expect(DISPOSITION)) == (2, 2, 0x24)
        else:
            wire.send(commit + frame(DETACH, [3, True]))
            wire.expect(DETACH)
            declare(wire, 3)  # the first coordinator goes on
        wire.socket.close()
    assert until(lambda: running.call("GET", "/v1/default/queues/out/records?partition=0&offset=0")[1]["end"] == 4)


def a_new_queue_is_made_before_its_transaction_ends():
    """A message of the relay that waits for its queue is part of the commit that comes behind it."""
    running = Gateway(None, "amqp.auto_create=true")
    try:
        for number, settled in enumerate((False, True)):
            with Wire(running.amqp_port) as wire:
                wire.open()
                coordinate(wire)
                wire.send(frame(ATTACH, ["relay", 2, False, None, None, Described(0x28, [None]), Described(0x29, [None]), None, None, 0]))
                wire.expect(FLOW)
                identity = declare(wire, 0)
                names = [f"fresh-{number}-{i}" for i in range(3)]
                wire.send(b"".join(
                    frame(TRANSFER, [2, 1 + i, b"%d" % i, 0, settled, False, None, Described(0x34, [identity, None])],
                          encode(Described(0x73, [None, None, name])) + b"\x00\x53\x77\xa1\x01x")
                    for i, name in enumerate(names)) + discharge(identity, 4, False))
                while disposition(answer := wire.expect(DISPOSITION))[1] < 4:
                    assert b"amqp:" not in answer, answer
                assert disposition(answer)[2] == 0x24, answer
            assert [bodies(running, name) for name in names] == 3 * [["x"]]
    finally:
        running.stop()


if __name__ == "__main__":
    run(a_commit_shows_all_and_a_rollback_nothing, delayed_messages_wait_from_the_commit_on, settlements_belong_to_it,
        owners_commit_together, one_part_that_fails_refuses_all, outcomes_keep_what_they_say,
        what_is_undeliverable_here_is_for_others, what_cannot_be_part_of_it_refuses_it, a_lost_connection_rolls_back,
        a_commit_that_cannot_be_is_refused, what_takes_too_long_says_so, a_receiver_may_leave_before_its_transaction,
        what_is_settled_in_two_steps_is_settled_once, a_coordinator_gives_credit_back_once,
        a_new_queue_is_made_before_its_transaction_ends, another_coordinator_may_discharge_and_leave)
