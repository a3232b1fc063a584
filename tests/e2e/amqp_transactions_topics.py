# SPDX-License-Identifier: Apache-2.0
"""Local transactions over AMQP of who receives from topics: what is settled within one is over at its commit, or comes again."""
from proton import Message

from amqpwire import (ATTACH, DETACH, DISPOSITION, FLOW, TRANSFER, Described, Raw, Symbol, Wire, disposition, encode, frame,
                      ubyte)
from gateway import Gateway, queue, run
from transacting import bodies, coordinate, declare, discharge, messages, offer, say, settled_within


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


if __name__ == "__main__":
    run(settlements_of_topics_belong_to_it, settlements_of_kept_subscriptions_are_stored_with_it,
        a_kept_subscription_may_be_taken_over_within_it, what_is_settled_behind_the_end_of_its_link_refuses_the_commit,
        a_message_without_credit_refuses_the_commit, settlements_of_shared_subscriptions, settlements_of_kept_shares,
        settlements_of_kept_shares_with_one_worker, an_outcome_for_what_names_none)
