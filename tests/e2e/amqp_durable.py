# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0: subscriptions to topics that outlive their links, connections and the gateway."""
from proton import Delivery, Described, Message, Terminus, symbol
from proton.reactor import Container, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

from gateway import run, until

SECONDS = 20


class Durable(LinkOption):
    def __init__(self, policy=Terminus.EXPIRE_NEVER, timeout=0):
        self.policy, self.timeout = policy, timeout

    def apply(self, link):
        link.source.durability = Terminus.DELIVERIES
        link.source.expiry_policy = self.policy
        link.source.timeout = self.timeout


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



if __name__ == "__main__":
    run(it_is_there_after_a_detach, unsettled_comes_again_under_its_tag, what_is_released_comes_again,
        it_survives_the_gateway, another_topic_is_another_subscription, a_name_finds_what_there_is,
        it_expires_when_asked_to, retained_messages_come_first,
        retained_messages_and_what_is_released, one_link_has_it)
