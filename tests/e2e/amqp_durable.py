# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0: subscriptions to topics that outlive their links, connections and the gateway."""
import random
import select
import time

from proton import Delivery, Message, Terminus, symbol
from proton.utils import LinkDetached

from amqpwire import ATTACH, CLOSE, DETACH, FLOW, Described as Wired, Symbol, Wire, frame
from durablelink import (
    SECONDS, Durable, Nothing, Second, Selector, Shared, bodies, connect, detach, flush, look, nothing_more, refused,
    send, settle_second, share, subscribe, take)
from gateway import run, until


def it_is_there_after_a_detach(running):
    connection = connect(running)
    receiver = subscribe(connection)
    source = receiver.link.remote_source
    assert (source.durability, source.expiry_policy) == (Terminus.DELIVERIES, Terminus.EXPIRE_NEVER)
    send(running, 1, 2)
    assert bodies(take(receiver, 2)) == [1, 2]
    detach(receiver)
    send(running, 3, 4)
    receiver = subscribe(connection)
    assert bodies(take(receiver, 2)) == [3, 4]
    connection.close()
    send(running, 5)
    send(running, "other", topic="e/1")
    connection = connect(running)
    receiver = subscribe(connection)
    assert bodies(take(receiver, 1)) == [5]
    nothing_more(running, receiver)
    receiver.close()  # and so it is given up
    send(running, 6)
    receiver = subscribe(connection)
    nothing_more(running, receiver)
    connection.close()


def unsettled_comes_again_under_its_tag(running):
    connection = connect(running)
    receiver = subscribe(connection)
    send(running, *range(6))
    before = take(receiver, 6, state=None)
    assert len({tag for _, tag in before}) == 6
    for index in (4, 1):  # 1 and 4 are done
        receiver.fetcher.unsettled[index].update(Delivery.ACCEPTED)
        receiver.fetcher.unsettled[index].settle()
    detach(receiver)
    receiver = subscribe(connection)
    again = take(receiver, 4, state=None)
    assert again == [before[i] for i in (0, 2, 3, 5)], (before, again)
    detach(receiver)
    # Of little credit, and across a connection.
    connection.close()
    connection = connect(running)
    receiver = subscribe(connection, credit=1)
    assert take(receiver, 1) == before[:1]
    receiver.flow(3)
    assert take(receiver, 3) == [before[i] for i in (2, 3, 5)]
    connection.close()


def what_is_released_comes_again(running):
    connection = connect(running)
    receiver = subscribe(connection)
    send(running, 1, 2, 3)
    first = take(receiver, 3, state=None)
    for delivery in list(receiver.fetcher.unsettled):
        delivery.update(Delivery.RELEASED if delivery.tag == first[1][1] else Delivery.ACCEPTED)
        delivery.settle()
    assert take(receiver, 1) == first[1:2]
    nothing_more(running, receiver)
    connection.close()


def taken(receiver, state=None):
    """One more, and how often it has failed; settled as said."""
    message = receiver.receive(timeout=SECONDS)
    assert message.first_acquirer == (message.delivery_count == 0), message
    if state is not None:
        receiver.settle(state)
    return message.body, message.delivery_count


def failed(receiver):
    """So is the last one settled."""
    delivery = receiver.fetcher.unsettled[-1]
    delivery.local.failed = True
    receiver.settle(Delivery.MODIFIED)


def failures_are_counted(running):
    """As a queue's are: of what was modified with delivery-failed; and kept with the subscription."""
    connection = connect(running)
    receiver = subscribe(connection)
    send(running, "x")
    assert taken(receiver, Delivery.RELEASED) == ("x", 0)
    assert taken(receiver, Delivery.MODIFIED) == ("x", 0)
    assert taken(receiver) == ("x", 0)
    failed(receiver)
    assert taken(receiver, Delivery.RELEASED) == ("x", 1)
    assert taken(receiver) == ("x", 1)
    failed(receiver)
    assert taken(receiver) == ("x", 2)
    detach(receiver)  # is none
    receiver = subscribe(connection)
    assert taken(receiver) == ("x", 2)
    connection.close()
    assert running.stop() == 0
    running.restart()
    connection = connect(running)
    receiver = subscribe(connection)
    assert taken(receiver) == ("x", 2)
    failed(receiver)
    flush(connection)
    time.sleep(2.5)  # it is written once a second
    running.kill9()
    running.restart()
    connection = connect(running)
    receiver = subscribe(connection)
    assert taken(receiver, Delivery.ACCEPTED) == ("x", 3)
    send(running, "y")
    assert taken(receiver, Delivery.ACCEPTED) == ("y", 0)
    nothing_more(running, receiver)
    connection.close()


def a_member_gets_what_failed_elsewhere(running):
    """Of what is kept and of what is not, from whatever worker to whatever worker."""
    one, other = connect(running, "c"), connect(running, "c")
    for number in range(8):
        policy = Terminus.EXPIRE_NEVER if number % 2 else Terminus.EXPIRE_WITH_LINK
        first, second = (subscribe(connection, "/topics/d/+", f"f{number}|{i}", credit, [Shared(policy=policy)])
                         for i, connection, credit in ((1, one, 1), (2, other, 0)))
        send(running, "x")
        assert taken(first) == ("x", 0)
        failed(first)
        flush(one)
        second.flow(1)
        assert taken(second, Delivery.RELEASED) == ("x", 1)
        flush(other)
        first.flow(1)
        assert taken(first) == ("x", 1)
        failed(first)
        flush(one)
        second.flow(1)
        assert taken(second, Delivery.ACCEPTED) == ("x", 2)
        detach(first)
        detach(second)
    one.close()
    other.close()



def it_survives_the_gateway(running):
    connection = connect(running)
    receiver = subscribe(connection, options=[Durable(), Selector("n > 1")])
    sender = connection.create_sender("/topics/d/1")
    for n in range(4):
        sender.send(Message(body=n, properties={"n": n}, durable=True))
    first = take(receiver, 1)
    second = take(receiver, 1, state=None)
    assert bodies(first + second) == [2, 3]
    running.kill9()
    running.restart()
    connection = connect(running)
    sender = connection.create_sender("/topics/d/1")
    for n in (0, 5):
        sender.send(Message(body=n, properties={"n": n}, durable=True))
    receiver = subscribe(connection, options=[Durable(), Selector("n > 1")])
    got = take(receiver, 2)
    if got[0] == first[0]:  # was settled just before the end
        got = got[1:] + take(receiver, 1)
    assert got[0] == second[0] and got[1][0] == 5, (second, got)
    detach(receiver)
    sender.send(Message(body=7, properties={"n": 7}, durable=True))
    running.restart()
    connection = connect(running)
    receiver = subscribe(connection, options=[Durable(), Selector("n > 1")])
    assert bodies(take(receiver, 1)) == [7]
    connection.close()


def an_outcome_that_was_answered_is_durable(running):
    """To a receiver that settles second: whatever it is, in whatever order, also when the gateway dies at that moment."""
    for _ in range(2):
        connection = connect(running)
        receiver = subscribe(connection, credit=100, options=Second())
        send(running, *range(20))
        before = take(receiver, 20, state=None)
        unsettled = list(receiver.fetcher.unsettled)
        settle_second(receiver, unsettled[18:9:-1])
        settle_second(receiver, unsettled[:3], Delivery.REJECTED)
        running.kill9()
        running.restart()
        connection = connect(running)
        receiver = subscribe(connection, credit=100, options=Second())
        left = before[3:10] + before[19:]
        assert take(receiver, len(left), state=None) == left
        unsettled = list(receiver.fetcher.unsettled)
        settle_second(receiver, unsettled)
        for delivery in unsettled:
            delivery.settle()
        nothing_more(running, receiver)
        receiver.close()
        connection.close()


def what_is_answered_late_is_over(running):
    """An outcome whose answer is still owed when the link goes, or its receiver settles all the same."""
    connection = connect(running)
    receiver = subscribe(connection, credit=100, options=Second())
    send(running, *range(30))
    before = take(receiver, 30, state=None)
    unsettled = list(receiver.fetcher.unsettled)
    for delivery in unsettled[:10]:
        delivery.update(Delivery.ACCEPTED)
    connection.container.process()
    for delivery in unsettled[:5]:
        delivery.settle()
    for delivery in unsettled[10:20]:
        delivery.update(Delivery.ACCEPTED)
    detach(receiver)
    receiver = subscribe(connection, credit=100, options=Second())
    assert take(receiver, 10, state=None) == before[20:]
    unsettled = list(receiver.fetcher.unsettled)
    settle_second(receiver, unsettled[:1], Delivery.RELEASED)
    assert take(receiver, 1, state=None) == before[20:21]
    connection.close()


def another_topic_is_another_subscription(running):
    connection = connect(running)
    receiver = subscribe(connection)
    detach(receiver)
    send(running, "old")
    receiver = subscribe(connection, address="/topics/e/#")
    send(running, "new", topic="e/1")
    assert bodies(take(receiver, 1)) == ["new"]
    detach(receiver)
    receiver = subscribe(connection, address="/topics/e/#", options=[Durable(), Selector("n = 1")])
    send(running, "no", topic="e/1")
    send(running, "yes", topic="e/1", properties={"n": 1})
    assert bodies(take(receiver, 1)) == ["yes"]
    connection.close()


def a_name_finds_what_there_is(running):
    """As JMS clients unsubscribe."""
    connection = connect(running)
    refused(connection, lambda: look(connection, "sub"), "amqp:not-found")
    receiver = subscribe(connection)
    detach(receiver)
    send(running, 1)
    refused(connection, lambda: look(connection, "other"), "amqp:not-found")
    found = look(connection, credit=1)
    source = found.link.remote_source
    assert source.address == "/topics/d/+" and source.expiry_policy == Terminus.EXPIRE_NEVER, source.address
    assert bodies(take(found, 1)) == [1]
    found.close()
    refused(connection, lambda: look(connection, "sub"), "amqp:not-found")
    other = connect(running, "another")
    detach(subscribe(connection))
    refused(other, lambda: look(other, "sub"), "amqp:not-found")
    connection.close()
    other.close()


def it_expires_when_asked_to(running):
    link, session, whole = (Durable(policy, 60) for policy in (
        Terminus.EXPIRE_WITH_LINK, Terminus.EXPIRE_WITH_SESSION, Terminus.EXPIRE_WITH_CONNECTION))
    connection = connect(running)
    for number, options in enumerate((link, session, whole)):
        receiver = subscribe(connection, address=f"/topics/x/{number}", name=str(number), options=options)
        assert receiver.link.remote_source.timeout == 60
        detach(receiver)
        send(running, number, topic=f"x/{number}")
        receiver = subscribe(connection, address=f"/topics/x/{number}", name=str(number), options=options)
        assert bodies(take(receiver, 1)) == [number]
        detach(receiver)
    connection.close()
    connection = connect(running)
    for number, options in enumerate((link, session, whole)):
        send(running, "later", topic=f"x/{number}")
        receiver = subscribe(connection, address=f"/topics/x/{number}", name=str(number), options=options)
        assert bodies(take(receiver, 1)) == ["later"]
    # At once is not at all, and the answer says so.
    receiver = subscribe(connection, name="short", options=Durable(Terminus.EXPIRE_WITH_SESSION))
    assert receiver.link.remote_source.durability == Terminus.NONDURABLE
    short = Durable(Terminus.EXPIRE_WITH_LINK, 1)
    detach(subscribe(connection, name="second", options=short))

    def has_gone():
        try:
            detach(look(connection, "second"))
        except LinkDetached:
            flush(connection)
            return True
        return False

    assert has_gone() is False
    connection.close()
    connection = connect(running)
    assert until(has_gone, step=1.5)
    connection.close()


def none_is_kept_for_longer_than_the_gateway_allows(running):
    """The answer says for how long, and from when on; then it has gone."""
    running.stop()
    running.sets.append("limit.session_expiry=2")
    running.start()
    connection, other = connect(running), connect(running, "other")

    def kept(source):
        assert source.durability == Terminus.DELIVERIES
        return source.expiry_policy, source.timeout

    asked = {
        "never": (Durable(), (Terminus.EXPIRE_WITH_LINK, 2)),
        "long": (Durable(Terminus.EXPIRE_WITH_SESSION, 1000), (Terminus.EXPIRE_WITH_SESSION, 2)),
        "short": (Durable(Terminus.EXPIRE_WITH_LINK, 1), (Terminus.EXPIRE_WITH_LINK, 1)),
    }
    for name, (options, said) in asked.items():
        receiver = subscribe(other, name=name, options=options)
        assert kept(receiver.link.remote_source) == said, (name, kept(receiver.link.remote_source))
    other.close()
    receiver = subscribe(connection)
    send(running, 1)
    detach(receiver)
    found = look(connection, credit=10)
    assert kept(found.link.remote_source) == (Terminus.EXPIRE_WITH_LINK, 2)
    assert bodies(take(found, 1)) == [1]
    detach(found)
    receiver = subscribe(connection)  # goes on, and asks for ever again
    assert kept(receiver.link.remote_source) == (Terminus.EXPIRE_WITH_LINK, 2)
    detach(receiver)
    send(running, 2)
    time.sleep(2.1)
    refused(connection, lambda: look(connection), "amqp:not-found")
    receiver = subscribe(connection)
    nothing_more(running, receiver)
    connection.close()
    other = connect(running, "other")
    for name in asked:
        refused(other, lambda name=name: look(other, name), "amqp:not-found")
    other.close()


def retained_messages_come_first(running):
    connection = connect(running)
    for topic in "abc":
        send(running, topic, topic=f"r/{topic}", properties={"n": ord(topic)}, annotations={symbol("x-opt-retain"): True})
    chosen = [Durable(), Selector(f"n <> {ord('b')}")]
    receiver = subscribe(connection, address="/topics/r/+", options=chosen)
    first = take(receiver, 2, state=None)
    assert sorted(bodies(first)) == ["a", "c"]
    detach(receiver)
    receiver = subscribe(connection, address="/topics/r/+", options=chosen)
    assert take(receiver, 2) == first
    send(running, "d", topic="r/d", properties={"n": 1})
    assert bodies(take(receiver, 1)) == ["d"]
    connection.close()


def retained_messages_and_what_is_released(running):
    """What comes again in the middle of the retained messages begins nothing twice."""
    connection = connect(running)
    relay = connection.create_sender(None)
    for n in range(30):
        relay.send(Message(body=n, address=f"/topics/many/{n}", durable=True,
                           annotations={symbol("x-opt-retain"): True}))
    receiver = subscribe(connection, address="/topics/many/+", credit=3)
    seen = {}
    for _ in range(60):
        (body, tag), = take(receiver, 1, state=None)
        tags = seen.setdefault(body, [])
        receiver.settle(Delivery.ACCEPTED if tags else Delivery.RELEASED)
        tags.append(tag)
        receiver.flow(1)
    assert sorted(seen) == list(range(30)) and all(len(tags) == 2 and tags[0] == tags[1] for tags in seen.values()), seen
    nothing_more(running, receiver, "many/end")
    connection.close()


def one_link_has_it(running):
    one, two = connect(running), connect(running)
    first = subscribe(one)
    send(running, 1)
    tags = take(first, 1, state=None)
    second = subscribe(two)
    assert take(second, 1) == tags
    refused(one, lambda: first.receive(timeout=SECONDS), "amqp:link:stolen")
    nothing_more(running, second)
    one.close()
    two.close()

def first_detached(*wires):
    """Which of them is, and what it is told."""
    while True:
        wire = next((wire for wire in wires if wire.received), None) or select.select([w.socket for w in wires], [], [], SECONDS)[0][0]
        wire = next(w for w in wires if wire in (w, w.socket))
        body = wire.next_frame()
        if body[2:3] == bytes([DETACH]):
            return wire, body


def two_links_come_at_once(running):
    """One has it, also when the other takes it from there as its attach ends; who has lost it is told, and the gateway lives."""
    delays = random.Random(7)
    says, looks = Wired(0x28, ["/topics/d/+", 2, Symbol("never")]), None
    connection = connect(running, "twice")
    detach(subscribe(connection))
    connection.close()
    one, two = (Wire(running.amqp_port).open("twice") for _ in range(2))
    for number in range(45):
        for wire, source in zip((one, two), ((says, looks), (looks, says), (looks, looks))[number % 3]):
            wire.send(frame(ATTACH, ["sub", 0, True, None, None, source, Wired(0x29, [None])])
                      + frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1]))
            time.sleep(delays.uniform(0, 0.002))
        loser, why = first_detached(one, two)
        assert b"amqp:link:stolen" in why, (number, why)
        loser.send(frame(DETACH, [0, True]))
        winner = two if loser is one else one
        winner.send(frame(DETACH, [0]))
        assert b"amqp:" not in winner.expect(DETACH), number
    connection = connect(running, "twice")
    receiver = look(connection, credit=10)
    nothing_more(running, receiver)
    connection.close()


def a_drained_link_is_told(running):
    """Nothing lies in front of the end of a link whose credit a drain has used up."""
    one, two = connect(running), connect(running)
    first = subscribe(one, credit=2)
    first.link.drain(0)
    one.wait(lambda: first.link.credit == 0, timeout=SECONDS)
    send(running, 1, 2)
    second = subscribe(two)
    assert bodies(take(second, 2)) == [1, 2]
    refused(one, lambda: one.wait(lambda: False, timeout=SECONDS), "amqp:link:stolen")
    one.close()
    two.close()


def detached_before_it_was_attached(running):
    """It is answered, with an attach of nothing; what is kept is as it was, and the name is free."""
    for before in False, True:
        source = Wired(0x28, ["/topics/d/+", 2, Symbol("never")])
        with Wire(running.amqp_port) as wire:
            wire.open("hasty")
            for _ in range(3):
                wire.send(frame(ATTACH, ["sub", 0, True, None, None, source, Wired(0x29, [None])]) + frame(DETACH, [0]))
                assert b"/topics/" not in wire.expect(ATTACH)
                assert b"amqp:" not in wire.expect(DETACH)
        connection = connect(running, "hasty")
        if before:
            detach(look(connection))
        else:
            refused(connection, lambda: look(connection), "amqp:not-found")
            detach(subscribe(connection))
        connection.close()


def closed_before_it_was_attached(running):
    """An attach and its close in one segment: nothing is kept, even when the connection ends there as well."""
    source = Wired(0x28, ["/topics/d/+", 2, Symbol("never")])
    for leave in (b"", frame(CLOSE, [None])):
        connection = connect(running, "hasty")
        detach(subscribe(connection))
        connection.close()
        with Wire(running.amqp_port) as wire:
            wire.open("hasty")
            wire.send(frame(ATTACH, ["sub", 0, True, None, None, source, Wired(0x29, [None])])
                      + frame(DETACH, [0, True]) + leave)
            wire.expect(CLOSE if leave else DETACH)
        connection = connect(running, "hasty")
        refused(connection, lambda: look(connection), "amqp:not-found")
        connection.close()


def it_may_be_made_anew_in_the_same_write(running):
    """A close that is answered when it is durable, and an attach of that name behind it: one after the other."""
    source = Wired(0x28, ["/topics/again", 2, Symbol("never")])
    attach = frame(ATTACH, ["again", 0, True, None, None, source, Wired(0x29, [None])])
    with Wire(running.amqp_port) as wire:
        wire.open("again")
        wire.send(attach)
        wire.expect(ATTACH)
        for _ in range(3):
            wire.send(frame(DETACH, [0, True]) + attach)
            wire.expect(DETACH)
            wire.expect(ATTACH)
        wire.send(frame(CLOSE, []))
        wire.until_end()
    connection = connect(running, "again")
    detach(look(connection, "again"))
    connection.close()


def what_is_given_up_stays_so(running):
    """A close that was answered holds also when the gateway dies at that moment."""
    source = Wired(0x28, ["/topics/d/+", 2, Symbol("never")])
    for _ in range(2):
        with Wire(running.amqp_port) as wire:
            wire.open("killed")
            wire.send(frame(ATTACH, ["sub", 0, True, None, None, source, Wired(0x29, [None])]))
            wire.expect(ATTACH)
            wire.send(frame(DETACH, [0, True]))
            wire.expect(DETACH)
            running.kill9()
        running.start()
        connection = connect(running, "killed")
        refused(connection, lambda: look(connection), "amqp:not-found")
        detach(share(connection))
        connection.close()
        with Wire(running.amqp_port) as wire:
            wire.open("killed")
            wire.send(frame(ATTACH, ["work", 0, True, None, None, None, Wired(0x29, [None])]))
            wire.expect(ATTACH)
            wire.send(frame(DETACH, [0, True]))
            assert b"amqp:" not in wire.expect(DETACH)
            running.kill9()
        running.start()
        connection = connect(running, "killed")
        refused(connection, lambda: look(connection, "work"), "amqp:not-found")
        connection.close()


def a_close_before_the_attach_is_answered_stays_so(running):
    """Of one that was there, also when nothing is said but its name; what several links share is theirs, whatever such a link wanted."""
    target = Wired(0x29, [None])
    ways = {"sub": ["/topics/d/+", 2, Symbol("never")], "found": None,
            "work": ["/topics/d/+", 2, Symbol("never"), None, None, None, None, None, None, None, Symbol("shared")]}
    for name, source in ways.items():
        connection = connect(running, "killed")
        detach(share(connection) if name == "work" else subscribe(connection, name=name))
        connection.close()
        with Wire(running.amqp_port) as wire:
            wire.open("killed")
            wire.send(frame(ATTACH, [name, 0, True, None, None, source and Wired(0x28, source), target]) + frame(DETACH, [0, True]))
            assert b"amqp:" not in wire.expect(DETACH)
            running.kill9()
        running.start()
        connection = connect(running, "killed")
        if name == "work":
            detach(look(connection, name))
        else:
            refused(connection, lambda name=name: look(connection, name), "amqp:not-found")
        connection.close()
    with Wire(running.amqp_port) as wire:  # that several share it cannot be known so early, and it is not given up
        wire.open("killed")
        wire.send(frame(ATTACH, ["work", 0, True, None, None, None, target]) + frame(DETACH, [0, True]))
        assert b"amqp:resource-locked" in wire.expect(DETACH)
    connection = connect(running, "killed")
    detach(look(connection, "work"))
    connection.close()
    # A link of its own under the name of what is shared is refused, and that lasts as long as before.
    for leave in b"", frame(DETACH, [0, True]):
        with Wire(running.amqp_port) as wire:
            wire.open("killed")
            wire.send(frame(ATTACH, ["work", 0, True, None, None, Wired(0x28, ways["sub"][:2] + [Symbol("link-detach"), 1]),
                                     target]) + leave)
            wire.expect(DETACH)
        time.sleep(1.5)
        connection = connect(running, "killed")
        detach(look(connection, "work"))
        connection.close()


if __name__ == "__main__":
    run(it_is_there_after_a_detach, unsettled_comes_again_under_its_tag, what_is_released_comes_again,
        failures_are_counted, a_member_gets_what_failed_elsewhere, it_survives_the_gateway,
        an_outcome_that_was_answered_is_durable, what_is_answered_late_is_over, another_topic_is_another_subscription,
        a_name_finds_what_there_is, it_expires_when_asked_to, none_is_kept_for_longer_than_the_gateway_allows,
        retained_messages_come_first, retained_messages_and_what_is_released, one_link_has_it, two_links_come_at_once,
        a_drained_link_is_told, detached_before_it_was_attached, closed_before_it_was_attached,
        it_may_be_made_anew_in_the_same_write, what_is_given_up_stays_so, a_close_before_the_attach_is_answered_stays_so)
