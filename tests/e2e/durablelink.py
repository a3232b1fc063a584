# SPDX-License-Identifier: Apache-2.0
"""Subscriptions to topics that outlive their links, as Proton's Python client asks for them."""
from proton import UNDESCRIBED, Array, Data, Delivery, Described, Message, Terminus, symbol
from proton.reactor import Container, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

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


class Second(Durable):
    """Its receiver waits for what we say to an outcome."""

    def apply(self, link):
        super().apply(link)
        link.rcv_settle_mode = link.RCV_SECOND


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


def settle_second(receiver, deliveries, state=Delivery.ACCEPTED):
    for delivery in deliveries:
        delivery.update(state)
    receiver.connection.wait(lambda: all(delivery.settled for delivery in deliveries), timeout=SECONDS)


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


def share(connection, name="work", address="/topics/d/+", credit=100, more=(), options=()):
    return subscribe(connection, address, name, credit, [Shared(*more), *options])
