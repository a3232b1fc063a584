# SPDX-License-Identifier: Apache-2.0
"""Local transactions over AMQP: what is sent and accepted within one happens at its commit, or not at all."""
import struct
import time

from proton import Delivery, Message
from proton.handlers import MessagingHandler, TransactionHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

from amqpwire import (ATTACH, DETACH, DISPOSITION, END, FLOW, TRANSFER, Described, Raw, Symbol, Wire,
                      decode, disposition, encode, frame, ubyte)
from gateway import Gateway, run, until

SECONDS = 20


def queue(running, name, **fields):
    status, answer = running.call("POST", "/v1/default/queues", {"name": name, **fields})
    assert status in (200, 201), answer


def messages(running, address):
    """Everything that is there now; accepted, which is durable then."""
    got = []
    container = Container(Emptier(f"127.0.0.1:{running.amqp_port}", address, got))
    container.run()
    return got


def bodies(running, address):
    return [message.body for message in messages(running, address)]


class Emptier(MessagingHandler):
    def __init__(self, url, address, got):
        super().__init__(prefetch=0, auto_accept=False)
        self.url, self.address, self.got = url, address, got
        self.owed, self.drained = 0, False

    def on_start(self, event):
        self.connection = event.container.connect(self.url, allowed_mechs="ANONYMOUS")
        self.receiver = event.container.create_receiver(self.connection, self.address)

    def on_link_opened(self, event):
        self.receiver.drain(100)

    def on_message(self, event):
        self.got.append(event.message)
        event.delivery.update(Delivery.ACCEPTED)
        self.owed += 1

    def on_settled(self, event):
        event.delivery.settle()
        self.owed -= 1
        self.end()

    def on_link_flow(self, event):
        self.drained |= self.receiver.credit == 0 and self.receiver.queued == 0
        self.end()

    def end(self):
        if self.drained and self.owed == 0:
            self.connection.close()


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


def offer(running, name, count):
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
    sender = connection.create_sender(name)
    for i in range(count):
        sender.send(Message(body=i))
    connection.close()


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


class TopicReader:
    """A connection with a coordinator, handle 1, a sender to the queue out, handle 2, and a receiver, handle 0."""

    def __init__(self, running, source):
        self.wire, self.sent = Wire(running.amqp_port), 0
        self.wire.open()
        coordinate(self.wire)
        self.wire.attach("s", 2, "out")
        self.wire.send(frame(ATTACH, ["r", 0, True, None, None, source, Described(0x29, [None])]))
        self.wire.expect(ATTACH)
        self.wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 100]))

    def begin(self, *settled):
        """A transaction with a message, and the deliveries of these numbers as settled."""
        self.identity = declare(self.wire, self.sent)
        state = Described(0x34, [self.identity, None])
        self.wire.send(frame(TRANSFER, [2, self.sent + 1, b"m%d" % self.sent, 0, True, False, None, state],
                             b"\x00\x53\x75\xa0\x01x"))
        self.sent += 2
        for number in settled:
            self.wire.send(settled_within(self.identity, number))

    def end(self, fail=False):
        self.wire.send(frame(TRANSFER, [1, self.sent, b"d%d" % self.sent, 0],
                             b"\x00\x53\x77" + encode(Described(0x32, [self.identity, fail]))))
        self.sent += 1

    def commit(self):
        self.end()
        return b"transaction:rollback" not in self.wire.expect(DISPOSITION)

    def take(self, *texts, answers=0, failures=0):
        """Deliveries with these texts come, in this order, after so many failures, and so many dispositions among or
        behind them."""
        texts = list(texts)
        while texts or answers > 0:
            body = self.wire.next_frame()
            if body[2:3] == bytes([TRANSFER]):
                assert texts and texts.pop(0) in body, body
                message = Message()
                message.decode(body[body.index(b"\x00\x53\x70"):])
                assert (message.delivery_count, message.first_acquirer) == (failures, failures == 0), (message, failures)
            if body[2:3] == bytes([DISPOSITION]):
                first, last, _ = disposition(body[3:])
                answers -= last - first + 1

    def roll_back(self, *texts, failures=1):
        """These come again, and count it."""
        self.end(fail=True)
        self.take(*texts, answers=1, failures=failures)


def say(running, topic, *bodies):
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
    sender = connection.create_sender(topic)
    for body in bodies:
        sender.send(Message(body=body, durable=True))
    connection.close()


def settlements_of_topics_belong_to_it(running):
    """What nobody keeps is over with the commit; after a rollback it comes again."""
    queue(running, "out")
    reader = TopicReader(running, Described(0x28, ["/topics/within/t"]))
    say(running, "/topics/within/t", "first", "second")
    reader.take(b"first", b"second")
    reader.begin(1, 0)
    reader.roll_back(b"second", b"first")
    reader.begin(2)
    reader.wire.send(frame(DISPOSITION, [True, 3, 3, False,
                                         Described(0x34, [reader.identity, Described(0x24, [])])]))
    reader.roll_back(b"second", failures=2)  # what was not settled stays with the receiver
    reader.begin(3, 4)
    assert bodies(running, "out") == []
    assert reader.commit()
    assert len(bodies(running, "out")) == 1
    say(running, "/topics/within/t", "third")
    reader.take(b"third")
    # Credit is the receiver's also for what comes again.
    reader.begin(5)
    reader.wire.send(frame(FLOW, [6, 1000, reader.sent, 1000, 0, 6, 0]))
    reader.roll_back()
    say(running, "/topics/within/t", "fourth")
    reader.wire.send(frame(FLOW, [6, 1000, reader.sent, 1000, 0, 6, 5, None, True]))
    reader.take(b"third", failures=1)
    reader.take(b"fourth")
    reader.wire.expect(FLOW)  # drained
    # Given back within it, which is part of the commit.
    reader.wire.send(frame(FLOW, [8, 1000, reader.sent, 1000, 0, 8, 5]))
    reader.begin()
    for number, outcome in ((6, Described(0x26, [])), (7, Described(0x27, [True]))):
        reader.wire.send(frame(DISPOSITION, [True, number, number, True, Described(0x34, [reader.identity, outcome])]))
    reader.end()
    reader.take(b"third", answers=1, failures=1)
    reader.take(b"fourth", failures=1)
    reader.wire.socket.close()


def settlements_of_kept_subscriptions_are_stored_with_it(running):
    queue(running, "out")
    source = Described(0x28, ["/topics/within/k", 2, Symbol("never")])
    reader = TopicReader(running, source)
    say(running, "/topics/within/k", "first")
    reader.take(b"first")
    reader.begin(0)
    running.kill9()  # before the commit
    running.restart()
    reader = TopicReader(running, source)
    reader.take(b"first")
    reader.begin(0)
    reader.roll_back(b"first")
    assert bodies(running, "out") == []
    reader.begin(1)
    assert reader.commit()
    running.kill9()
    running.restart()
    assert len(bodies(running, "out")) == 1
    reader = TopicReader(running, source)
    say(running, "/topics/within/k", "second", "third")
    reader.take(b"second", b"third")
    # Whoever has gone has settled nothing, and the other transaction goes on.
    reader.begin(0)
    first = reader.identity
    reader.begin(1)
    second, reader.identity = reader.identity, first
    reader.wire.send(frame(DETACH, [0, False]))
    reader.wire.expect(DETACH)
    assert not reader.commit()
    reader.identity = second
    assert not reader.commit()
    assert bodies(running, "out") == []
    reader.wire.socket.close()
    reader = TopicReader(running, source)
    reader.take(b"second", b"third")
    reader.begin(1)  # two of one session at a time
    first = reader.identity
    reader.begin(0)
    reader.end()
    reader.identity = first
    reader.end()
    reader.take(answers=2)
    reader.wire.socket.close()
    assert len(bodies(running, "out")) == 2


def taken_over_within_it(running, settles_first):
    """Whoever has the subscription then has what was settled, too, and the commit is refused."""
    queue(running, "out")
    source = Described(0x28, ["/topics/within/o", 2, Symbol("never")])
    one = TopicReader(running, source)
    say(running, "/topics/within/o", "first", "second")
    one.take(b"first", b"second")
    if settles_first:
        one.begin(0)
        declare(one.wire, one.sent)  # what was settled has come
        one.sent += 1
    two = TopicReader(running, source)
    assert b"amqp:link:stolen" in one.wire.expect(DETACH)
    if not settles_first:
        one.begin(0)
    assert not one.commit()
    assert bodies(running, "out") == []
    two.take(b"first", b"second")
    two.begin(0, 1)
    assert two.commit()
    assert len(bodies(running, "out")) == 1


def a_kept_subscription_may_be_taken_over_within_it(running):
    taken_over_within_it(running, True)


def what_is_settled_behind_the_end_of_its_link_refuses_the_commit(running):
    taken_over_within_it(running, False)


def a_message_without_credit_refuses_the_commit(running):
    """It ends its link, and one behind it meets none."""
    queue(running, "out")
    queue(running, "more")
    one = TopicReader(running, Described(0x28, ["/topics/without"]))
    text = b"\x00\x53\x75\xa0\x01x"
    one.wire.send(frame(ATTACH, ["more", 3, False, None, ubyte(1), Described(0x28, []), Described(0x29, ["more"]), None,
                                 None, 0]))
    one.wire.expect(ATTACH)
    one.wire.expect(FLOW)
    for i in range(1000):  # all of the credit, and the outcomes stay unsettled
        one.wire.send(frame(TRANSFER, [3, one.sent, b"%d" % one.sent, 0], text))
        one.sent += 1
    one.take(answers=1000)
    for link_is_there in True, False:
        one.begin()
        one.wire.send(frame(TRANSFER, [3, one.sent, b"%d" % one.sent, 0, False, False, None,
                                       Described(0x34, [one.identity, None])], text))
        one.sent += 1
        if link_is_there:
            assert b"amqp:link:transfer-limit-exceeded" in one.wire.expect(DETACH)
        else:
            one.wire.expect(DISPOSITION)  # settled, without an outcome
        assert not one.commit()
    assert bodies(running, "out") == []
    one.begin()
    assert one.commit()
    assert len(bodies(running, "out")) == 1


SHARED = [None, None, None, None, None, None, None, Symbol("shared")]


def settlements_of_shared_subscriptions(running):
    """Of those that live as long as their links."""
    queue(running, "out")
    source = Described(0x28, ["/topics/within/s", 0, None, *SHARED])
    reader = TopicReader(running, source)
    say(running, "/topics/within/s", "first")
    reader.take(b"first")
    reader.begin(0)
    reader.roll_back(b"first")
    reader.begin(1)
    assert reader.commit()
    say(running, "/topics/within/s", "second")
    reader.take(b"second")
    # Who leaves during the commit has settled it all the same: it is not another's.
    other = TopicReader(running, source)
    reader.begin(2)
    reader.end()
    reader.wire.send(frame(DETACH, [0, True]))
    reader.take(answers=1)
    say(running, "/topics/within/s", "third")
    other.take(b"third")
    reader.wire.socket.close()
    other.wire.socket.close()
    assert len(bodies(running, "out")) == 2


def settlements_of_kept_shares(running, names=("d", "e")):
    """They are stored with the commit, or what was settled goes to any member."""
    queue(running, "out")
    queue(running, "full", max_records=1, overflow="refuse")
    offer(running, "full", 1)
    for name in names:  # with two workers of different homes
        source = Described(0x28, [f"/topics/within/{name}", 2, Symbol("never"), *SHARED])
        reader = TopicReader(running, source)
        say(running, f"/topics/within/{name}", "first")
        reader.take(b"first")
        reader.begin(0)
        reader.roll_back(b"first")
        reader.begin(1)
        reader.roll_back(b"first", failures=2)
        reader.wire.socket.close()
        running.stop()  # then what it counted is stored
        running.restart()
        reader = TopicReader(running, source)
        reader.take(b"first", failures=2)
        reader.begin(0)
        running.kill9()  # before the commit
        running.restart()
        reader = TopicReader(running, source)
        reader.take(b"first", failures=2)
        assert bodies(running, "out") == []
        # What refuses another part leaves it as it was.
        reader.wire.attach("f", 3, "full")
        reader.begin(0)
        reader.wire.send(frame(TRANSFER, [3, reader.sent, b"f", 0, True, False, None,
                                          Described(0x34, [reader.identity, None])], b"\x00\x53\x75\xa0\x01x"))
        reader.sent += 1
        reader.end()
        reader.take(b"first", answers=1, failures=2)  # which was no fault of it
        assert bodies(running, "out") == []
        reader.begin(1)
        assert reader.commit()
        running.kill9()
        running.restart()
        assert len(bodies(running, "out")) == 1
        # Two members of two connections: what a lost one settled, and did not commit, is the other's.
        one, other = TopicReader(running, source), TopicReader(running, source)
        say(running, f"/topics/within/{name}", "second", "third")
        texts = [member.wire.expect(TRANSFER) for member in (one, other)]
        assert sorted(b"second" in text for text in texts) == [False, True]
        one.begin(0)
        other.begin(0)
        other.wire.socket.close()
        one.take(b"second" if b"second" in texts[1] else b"third")
        first = one.identity
        one.begin(1)
        one.end()
        one.identity = first
        one.end()
        one.take(answers=2)
        one.wire.socket.close()
        assert len(bodies(running, "out")) == 2
        # Released, or modified, within one it is anybody's with the commit; rejected it is nobody's.
        one = TopicReader(running, source)
        say(running, f"/topics/within/{name}", "fourth", "fifth", "sixth")
        one.take(b"fourth", b"fifth", b"sixth")
        one.begin()
        for number, outcome in ((0, 0x26), (1, 0x25), (2, 0x27)):
            state = Described(0x34, [one.identity, Described(outcome, [])])
            one.wire.send(frame(DISPOSITION, [True, number, number, True, state]))
        one.end()
        one.take(b"fourth", b"sixth", answers=1)
        one.wire.send(frame(DISPOSITION, [True, 3, 4, True, Described(0x24, [])]))
        say(running, f"/topics/within/{name}", "seventh")
        one.take(b"seventh")
        # Who leaves before the commit has settled nothing.
        one.begin(5)
        one.wire.send(frame(DETACH, [0, False]))
        one.wire.expect(DETACH)
        assert not one.commit()
        one.wire.socket.close()
        one = TopicReader(running, source)
        one.take(b"seventh")
        one.begin(0)
        one.end()
        one.wire.send(frame(DETACH, [0, False]))  # and during it, all of it
        one.take(answers=1)
        one.wire.socket.close()
        one = TopicReader(running, source)
        say(running, f"/topics/within/{name}", "eighth")
        one.take(b"eighth")
        one.begin(0)
        assert one.commit()
        one.wire.socket.close()
        assert len(bodies(running, "out")) == 3


def settlements_of_kept_shares_with_one_worker():
    gateway = Gateway(None, "workers=1")
    settlements_of_kept_shares(gateway, "d")
    assert gateway.stop() == 0


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


def an_outcome_for_what_names_none(running):
    """The source's default is that of what is settled within a transaction without an outcome, too."""
    queue(running, "q", redrive_policy="enable", max_consume_count=9)
    default = [None] * 7
    later = Raw(b"\xc1\x1a\x02\xa3\x14x-opt-delivery-delay\x60\xea\x60")  # an ushort, 60 s
    for name, outcome, left in (("none", None, ["none"]), ("accepted", Described(0x24, []), []),
                                ("failed", Described(0x27, [True]), ["failed"]),
                                ("later", Described(0x27, [True, False, later]), [])):
        say(running, "q", name)
        wire = Wire(running.amqp_port)
        wire.open()
        coordinate(wire)
        wire.send(frame(ATTACH, ["r", 0, True, None, None, Described(0x28, ["q", *default, outcome]),
                                 Described(0x29, [None])]))
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1]))
        wire.expect(TRANSFER)
        identity = declare(wire, 0)
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(0x34, [identity, None])]))
        wire.send(discharge(identity, 1, False))
        assert b"rollback" not in wire.expect(DISPOSITION)
        wire.socket.close()
        got = messages(running, "q")
        assert [message.body for message in got] == left, (name, got)
        assert all(message.delivery_count == (name == "failed") for message in got), (name, got)
    reader = TopicReader(running, Described(0x28, ["/topics/within/u", *default, Described(0x24, [])]))
    say(running, "/topics/within/u", "first")
    reader.take(b"first")
    identity = declare(reader.wire, 0)
    reader.wire.send(frame(DISPOSITION, [True, 0, 0, True, Described(0x34, [identity, None])]))
    reader.wire.send(discharge(identity, 1, False))
    reader.wire.expect(DISPOSITION)
    say(running, "/topics/within/u", "second")
    reader.take(b"second")  # and not the first once more
    reader.wire.socket.close()


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


def settled_within(identity, number, settled=True):
    """The receiver has settled delivery number, as accepted within the transaction."""
    return frame(DISPOSITION, [True, number, number, settled, Described(0x34, [identity, Described(0x24, [])])])


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


def discharge(identity, number, fail):
    return frame(TRANSFER, [1, number, b"end", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, fail])))


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


def coordinate(wire):
    wire.send(frame(0x12, ["tx", 1, False, None, None, Described(0x28, [None]), Described(0x30, []), None, None, 0]))
    wire.expect(0x12)


def declare(wire, number):
    wire.send(frame(TRANSFER, [1, number, str(number).encode(), 0],
                    b"\x00\x53\x77" + encode(Described(0x31, [None]))))
    answer = wire.expect(DISPOSITION)
    assert b"\x00\x53\x33" in answer, answer
    at = answer.index(b"\xa0\x08") + 2
    return answer[at:at + 8]


if __name__ == "__main__":
    run(a_commit_shows_all_and_a_rollback_nothing, delayed_messages_wait_from_the_commit_on,
        settlements_belong_to_it, owners_commit_together, one_part_that_fails_refuses_all, settlements_of_topics_belong_to_it,
        settlements_of_kept_subscriptions_are_stored_with_it, a_kept_subscription_may_be_taken_over_within_it,
        what_is_settled_behind_the_end_of_its_link_refuses_the_commit, a_message_without_credit_refuses_the_commit,
        settlements_of_shared_subscriptions,
        settlements_of_kept_shares, settlements_of_kept_shares_with_one_worker,
        outcomes_keep_what_they_say, what_is_undeliverable_here_is_for_others, an_outcome_for_what_names_none, what_cannot_be_part_of_it_refuses_it,
        a_lost_connection_rolls_back, a_commit_that_cannot_be_is_refused, what_takes_too_long_says_so, a_receiver_may_leave_before_its_transaction, what_is_settled_in_two_steps_is_settled_once,
        a_coordinator_gives_credit_back_once, a_new_queue_is_made_before_its_transaction_ends, another_coordinator_may_discharge_and_leave)
