# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0: subscriptions to topics that outlive their links, connections and the gateway."""
import contextlib
import random
import select
import time

from proton import UNDESCRIBED, Array, Data, Delivery, Described, Message, Terminus, Timeout, symbol
from proton.reactor import Container, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

from amqpwire import ATTACH, CLOSE, DETACH, FLOW, Described as Wired, Symbol, Wire, frame
from gateway import run, until

SECONDS = 20


class Durable(LinkOption):
    def __init__(self, policy=Terminus.EXPIRE_NEVER, timeout=0):
        self.policy, self.timeout = policy, timeout

    def apply(self, link):
        link.source.durability = Terminus.DELIVERIES
        link.source.expiry_policy = self.policy
        link.source.timeout = self.timeout


class Shared(Durable):
    """A subscription of several links, as JMS clients ask for it."""

    def __init__(self, *more, **fields):
        super().__init__(**fields)
        self.names = [symbol(name) for name in ("shared", "topic", *more)]

    def apply(self, link):
        super().apply(link)
        link.source.capabilities.put_object(Array(UNDESCRIBED, Data.SYMBOL, *self.names))


class Selector(Filter):
    def __init__(self, text):
        super().__init__({symbol("s"): Described(symbol("apache.org:selector-filter:string"), text)})


class Nothing(LinkOption):
    """A source of which nothing is said: whatever there is under the link's name."""

    def apply(self, link):
        link.source.type = Terminus.UNSPECIFIED


def connect(running, container="durable"):
    one = Container()
    one.container_id = container
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, container=one)


def subscribe(connection, address="/topics/d/+", name="sub", credit=10, options=None):
    return connection.create_receiver(address, credit=credit, name=name, options=options or Durable())


def flush(connection):
    """Whatever was said before has arrived: a link's name may be used again."""
    connection.create_sender("/topics/flush").close()


def detach(receiver):
    receiver.link.detach()
    flush(receiver.connection)


def look(connection, name="sub", credit=0):
    return connection.create_receiver(None, name=name, credit=credit, options=Nothing())


def send(running, *bodies, topic="d/1", **fields):
    connection = connect(running, "sender")
    sender = connection.create_sender(f"/topics/{topic}")
    for body in bodies:
        sender.send(Message(body=body, durable=True, **fields))
    connection.close()


def take(receiver, count, state=Delivery.ACCEPTED):
    """Bodies and delivery tags."""
    got = []
    for _ in range(count):
        body = receiver.receive(timeout=SECONDS).body
        delivery = receiver.fetcher.unsettled[-1]
        got.append((body, delivery.tag))
        if state is not None:
            receiver.settle(state)
    return got


def bodies(got):
    return [body for body, _ in got]


def nothing_more(running, receiver, topic="d/1"):
    send(running, "end", topic=topic)
    assert bodies(take(receiver, 1)) == ["end"]


def refused(connection, action, condition):
    try:
        action()
    except LinkDetached as error:
        assert error.condition == condition, error
        flush(connection)
    else:
        raise AssertionError(f"no {condition}")


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


class Second(Durable):
    """Its receiver waits for what we say to an outcome."""

    def apply(self, link):
        super().apply(link)
        link.rcv_settle_mode = link.RCV_SECOND


def settle_second(receiver, deliveries, state=Delivery.ACCEPTED):
    for delivery in deliveries:
        delivery.update(state)
    receiver.connection.wait(lambda: all(delivery.settled for delivery in deliveries), timeout=SECONDS)


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


def share(connection, name="work", address="/topics/d/+", credit=100, more=(), options=()):
    return subscribe(connection, address, name, credit, [Shared(*more), *options])


def gather(receivers, count):
    """What comes to each, all accepted."""
    got, end = [[] for _ in receivers], time.monotonic() + SECONDS
    while sum(map(len, got)) < count:
        assert time.monotonic() < end, got
        for its, receiver in zip(got, receivers):
            with contextlib.suppress(Timeout):
                its.append(receiver.receive(timeout=0.05).body)
                receiver.accept()
    for receiver in receivers:
        flush(receiver.connection)  # and it is known
    return got


def several_links_share(running):
    """Of one container or of several; while nobody is there, and beyond the gateway."""
    one, two, three = connect(running, "c"), connect(running, "c"), connect(running, "d")
    members = [share(one), share(two, "work|2")]
    source = members[0].link.remote_source
    assert (source.durability, source.expiry_policy) == (Terminus.DELIVERIES, Terminus.EXPIRE_NEVER)
    world = [share(connection, "w|global", more=["global"]) for connection in (one, three)]
    send(running, *range(20))
    for pair in members, world:
        got = gather(pair, 20)
        assert all(got) and sorted(got[0] + got[1]) == list(range(20)), got
    # What one had and did not settle is another's.
    detach(members[0])
    send(running, "lost")
    assert bodies(take(members[1], 1, state=None)) == ["lost"]
    detach(members[1])
    back = share(one, "work|7")
    assert gather([back], 1) == [["lost"]]
    gather(world, 1)
    for receiver in (back, *world):
        detach(receiver)
    send(running, 1, 2, 3)
    running.kill9()
    running.restart()
    send(running, 4)
    one, two = connect(running, "c"), connect(running, "e")
    for pair in ([share(one, "work"), share(one, "work|2")], [share(two, f"w|global{i}", more=["global"]) for i in (1, 2)]):
        seen = set()
        while not {1, 2, 3, 4} <= seen:  # what was settled just before the end may come again
            seen |= set(sum(gather(pair, 1), []))
    one.close()
    two.close()


def what_a_member_releases_is_anybodys(running):
    connection = connect(running)
    first, second = share(connection, credit=1), share(connection, "work|2", credit=0)
    send(running, "x")
    take(first, 1, Delivery.RELEASED)
    second.flow(1)
    assert bodies(take(second, 1)) == ["x"]
    first.flow(1)
    nothing_more(running, first)
    connection.close()


def a_share_ends_when_it_is_given_up(running):
    """As JMS clients unsubscribe: by the name of the first link, and only when nobody receives."""
    for name, more in (("work", ()), ("work|global", ("global",))):
        one, two = connect(running, "c"), connect(running, "c")
        refused(one, lambda: look(one, name), "amqp:not-found")
        receiver = share(one, name, more=more)
        refused(two, lambda: look(two, name), "amqp:resource-locked")
        receiver.close()  # the subscription is the others' too
        flush(one)
        send(running, 1)
        found = look(two, name)
        assert found.link.remote_source.address == "/topics/d/+", found.link.remote_source.address
        detach(found)
        receiver = share(two, name, more=more)
        assert gather([receiver], 1) == [[1]]
        detach(receiver)
        send(running, 2)
        look(one, name).close()
        refused(one, lambda: look(one, name), "amqp:not-found")
        send(running, 3)
        receiver = share(one, name, more=more)
        nothing_more(running, receiver)
        detach(receiver)
        look(two, name).close()
        one.close()
        two.close()


def what_links_share_ends_after_the_last_of_them(running):
    """Where the gateway limits it: while one is there it does not, also when that ends with the gateway."""
    running.stop()
    running.sets.append("limit.session_expiry=2")
    running.start()
    connection = connect(running)
    members = [share(connection), share(connection, "work|2"), share(connection, "back"), share(connection, "left")]
    for member in members:
        source = member.link.remote_source
        assert (source.durability, source.expiry_policy, source.timeout) == (Terminus.DELIVERIES, Terminus.EXPIRE_WITH_LINK, 2)
    detach(members[0])
    time.sleep(3.5)  # its time, and more than one look at what is over
    detach(members[1])
    flush(connection)
    send(running, 1)
    member = share(connection)
    assert gather([member], 1) == [[1]]
    running.kill9()
    running.restart()
    time.sleep(1.5)
    send(running, 2)
    connection = connect(running)
    member = share(connection, "back")
    assert sorted(gather([member], 2)[0]) == [1, 2]
    member = share(connection)
    detach(member)
    send(running, 3)

    def has_gone():
        try:
            detach(look(connection, "work"))
        except LinkDetached:
            flush(connection)
            return True
        return False

    assert until(has_gone, step=2.5)
    time.sleep(1.5)  # what it kept goes with the next look at what is over
    refused(connection, lambda: look(connection, "left"), "amqp:not-found")
    receiver = share(connection)
    nothing_more(running, receiver)
    connection.close()


def a_share_is_of_one_topic_and_selector(running):
    connection = connect(running)
    other, chosen = connect(running), [Selector("n > 1")]
    members = [share(connection, options=chosen), share(connection, "work|2", options=chosen)]
    for options in ([], [Selector("n > 2")]):
        refused(connection, lambda: share(connection, "work|3", options=options), "amqp:resource-locked")
    refused(connection, lambda: share(connection, "work|3", "/topics/e/+", options=chosen), "amqp:resource-locked")
    refused(other, lambda: subscribe(other, name="work"), "amqp:resource-locked")

    def send_all(*numbers):
        for n in numbers:
            send(running, n, properties={"n": n})

    send_all(0, 1, 2, 3)
    assert sorted(sum(gather(members, 2), [])) == [2, 3]
    for member in members:
        detach(member)
    send_all(1, 4, 5)
    running.restart()
    connection = connect(running)
    member = share(connection, options=chosen)
    assert gather([member], 2) == [[4, 5]]
    detach(member)
    send_all(6)
    member = share(connection)  # nobody is there: another subscription begins
    send_all(0)
    assert gather([member], 1) == [[0]]
    detach(member)
    look(connection, "work").close()
    # One of a link and one of several are not of one name, and one of several has no time of its own.
    detach(subscribe(connection, name="single"))
    refused(connection, lambda: share(connection, "single|2"), "amqp:resource-locked")
    limited = Shared(policy=Terminus.EXPIRE_WITH_CONNECTION, timeout=9)
    refused(connection, lambda: subscribe(connection, name="t", options=limited), "amqp:not-implemented")
    connection.close()


def one_name_is_of_one_kind(running):
    """Who asks for the other kind is refused, and what has the name goes on, under its own expiry."""
    one, two = connect(running, "c"), connect(running, "c")
    minute = Durable(Terminus.EXPIRE_WITH_LINK, 60)
    single = subscribe(one, name="work", options=minute)
    send(running, 1)
    tags = take(single, 1, state=None)
    for name in ("work", "work|2"):
        refused(two, lambda name=name: share(two, name), "amqp:resource-locked")
    single.settle(Delivery.ACCEPTED)
    nothing_more(running, single)
    assert bodies(tags) == [1]
    detach(single)
    refused(two, lambda: share(two), "amqp:resource-locked")
    found = look(two, "work")
    assert found.link.remote_source.timeout == 60, found.link.remote_source.timeout
    found.close()
    # The other way round, also when the refused one would have lasted for a moment only.
    member = share(two)
    short = Durable(Terminus.EXPIRE_WITH_LINK, 1)
    refused(one, lambda: subscribe(one, name="work", options=short), "amqp:resource-locked")
    nothing_more(running, member)
    detach(member)
    time.sleep(1.5)  # its time, were it that of the share
    send(running, 2)
    detach(look(one, "work"))
    member = share(one)
    assert gather([member], 1) == [[2]]
    detach(member)
    look(one, "work").close()
    one.close()
    two.close()


def many_links_come_at_once(running):
    """They make one subscription, and each waits for another."""
    connections, links = [connect(running, "c") for _ in range(3)], []
    for number, connection in enumerate(connections):
        session = connection.conn.session()
        session.open()
        for i in range(3):
            link = session.receiver(f"many|{number}-{i}")
            link.source.address = "/topics/d/+"
            Shared().apply(link)
            link.open()
            links.append((connection, link))
    for connection in connections:
        connection.container.process()
    for connection, link in links:
        connection.wait(lambda link=link: link.remote_source.address, timeout=SECONDS)
        assert link.remote_source.address == "/topics/d/+", link.remote_condition
    for connection in connections:
        connection.close()


if __name__ == "__main__":
    run(several_links_share, what_a_member_releases_is_anybodys, a_share_ends_when_it_is_given_up,
        what_links_share_ends_after_the_last_of_them,
        a_share_is_of_one_topic_and_selector, one_name_is_of_one_kind, many_links_come_at_once,
        it_is_there_after_a_detach, unsettled_comes_again_under_its_tag, what_is_released_comes_again,
        failures_are_counted, a_member_gets_what_failed_elsewhere,
        it_survives_the_gateway, an_outcome_that_was_answered_is_durable, what_is_answered_late_is_over,
        another_topic_is_another_subscription, a_name_finds_what_there_is,
        it_expires_when_asked_to, none_is_kept_for_longer_than_the_gateway_allows, retained_messages_come_first,
        retained_messages_and_what_is_released, one_link_has_it, two_links_come_at_once, a_drained_link_is_told,
        detached_before_it_was_attached, closed_before_it_was_attached, what_is_given_up_stays_so, a_close_before_the_attach_is_answered_stays_so)
