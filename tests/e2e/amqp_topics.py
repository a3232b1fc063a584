# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0 and the topic space: live subscriptions with wildcards, requests and replies across protocols, nodes of a
client's own."""
import time

from proton import Message, symbol
from proton.reactor import AtMostOnce, DynamicNodeProperties, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

import gateway
from gateway import run
from wire import Client

SECONDS = 20


class NoLocal(Filter):
    def __init__(self):
        from proton import Described
        super().__init__({symbol("no-local"): Described(symbol("apache.org:no-local-filter:list"), [])})


class Capability(LinkOption):
    def __init__(self, name):
        self.name = name

    def apply(self, link):
        end = link.source if link.is_receiver else link.target
        end.capabilities.put_object(symbol(self.name))


def connect(running, **options):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, **options)


def send(connection, address, *messages, **options):
    sender = connection.create_sender(address, **options)
    for message in messages:
        sender.send(message)
    sender.close()


def take(receiver, count):
    messages = []
    for _ in range(count):
        messages.append(receiver.receive(timeout=SECONDS))
        receiver.accept()
    return messages


def filters_match_topics(running):
    connection = connect(running)
    exact = connection.create_receiver("/topics/a/b", credit=10)
    plus = connection.create_receiver("/topics/a/+", credit=10)
    everything = connection.create_receiver("/topics/#", credit=10)
    send(connection, "/topics/a/b", Message(body="1"))
    send(connection, "/topics/a/c", Message(body="2"))
    send(connection, "/topics/x", Message(body="3"))
    assert [m.body for m in take(exact, 1)] == ["1"]
    assert [m.body for m in take(plus, 2)] == ["1", "2"]
    assert [m.body for m in take(everything, 3)] == ["1", "2", "3"]
    # The same filter twice on one connection, and nothing after a link has gone.
    second = connection.create_receiver("/topics/a/b", credit=10, name="second")
    exact.close()
    send(connection, "/topics/a/b", Message(body="4"))
    assert [m.body for m in take(second, 1)] == ["4"]
    connection.close()


def credit_is_kept(running):
    connection = connect(running)
    receiver = connection.create_receiver("/topics/c", credit=2)
    send(connection, "/topics/c", *[Message(body=i) for i in range(5)])
    assert [m.body for m in take(receiver, 2)] == [0, 1]
    receiver.flow(3)
    assert [m.body for m in take(receiver, 3)] == [2, 3, 4]
    connection.close()


def settled_subscriptions(running):
    connection = connect(running)
    receiver = connection.create_receiver("/topics/s", credit=3000, options=AtMostOnce())
    sender = connection.create_sender("/topics/s", options=AtMostOnce())
    for i in range(1500):
        sender.send(Message(body=i))
    assert [receiver.receive(timeout=SECONDS).body for _ in range(1500)] == list(range(1500))
    connection.close()


def no_local_spares_ones_own(running):
    one, two = connect(running), connect(running)
    receiver = one.create_receiver("/topics/n", credit=10, options=NoLocal())
    send(one, "/topics/n", Message(body="own"))
    send(two, "/topics/n", Message(body="other"))
    assert take(receiver, 1)[0].body == "other"
    one.close()
    two.close()


def capabilities_say_what_an_address_is(running):
    connection = connect(running)
    receiver = connection.create_receiver("news/sport", credit=1, options=Capability("topic"))
    assert receiver.link.remote_source.address == "news/sport"
    send(connection, "news/sport", Message(body="x"), options=Capability("topic"))
    assert take(receiver, 1)[0].body == "x"
    connection.close()


def mqtt_and_amqp_meet(running):
    connection = connect(running)
    receiver = connection.create_receiver("/topics/from/+", credit=10)
    with Client(running.mqtt_port, 5).connect("device") as device:
        device.subscribe(("to/#", 1))
        device.publish("from/mqtt", b"hello", qos=1)
        got, = take(receiver, 1)
        assert (got.body, got.address) == (b"hello", "/topics/from/mqtt")
        send(connection, "/topics/to/mqtt", Message(body="back", subject="s"))
        packet = device.receive()
        assert packet.topic == "to/mqtt" and packet.payload == b"back", packet
    connection.close()


def a_request_gets_its_reply(running):
    """A dynamic node is the requester's own, also for a device that answers over MQTT."""
    connection = connect(running)
    replies = connection.create_receiver(None, credit=5, dynamic=True)
    address = replies.link.remote_source.address
    assert address.startswith("/topics/$reply/"), address
    other = connect(running)
    requests = other.create_receiver("/topics/ask", credit=5)
    send(connection, "/topics/ask", Message(body="1 + 1", reply_to=address, correlation_id="c"))
    request, = take(requests, 1)
    assert request.reply_to == address
    send(other, request.reply_to, Message(body="2", correlation_id=request.correlation_id))
    reply, = take(replies, 1)
    assert (reply.body, reply.correlation_id) == ("2", "c")
    other.close()
    connection.close()


if __name__ == "__main__":
    run(filters_match_topics, credit_is_kept, settled_subscriptions, no_local_spares_ones_own,
        capabilities_say_what_an_address_is, mqtt_and_amqp_meet, a_request_gets_its_reply)
