# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0, dynamic nodes with Qpid Proton's own client: temporary queues, how long they live, and whose they are."""
import base64
import time

from proton import Described, Message, symbol, ulong
from proton.reactor import Filter, LinkOption, Selector
from proton.utils import BlockingConnection, SendException

import gateway
from amqp_queues import refused
from gateway import run, until
from wire import Client

SECONDS = 20
ON_CLOSE, NO_LINKS, NO_MESSAGES, NO_LINKS_OR_MESSAGES = (ulong(code) for code in range(0x2b, 0x2f))


class Temporary(LinkOption):
    """A queue of the connection's own, with that lifetime policy or none."""

    def __init__(self, policy=None, capability="temporary-queue"):
        self.policy, self.capability = policy, capability

    def apply(self, link):
        end = link.source if link.is_receiver else link.target
        end.dynamic = True
        end.capabilities.put_object(symbol(self.capability))
        if self.policy is not None:
            end.properties.put_dict({symbol("lifetime-policy"): Described(self.policy, [])})


class Position(Filter):
    def __init__(self):
        super().__init__({symbol("p"): Described(symbol("rabbitmq:stream-offset-spec"), "first")})


def connect(running, **options):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, **options)


def make(connection, policy=None, **options):
    sender = connection.create_sender(None, options=Temporary(policy, **options))
    return sender, sender.link.remote_target.address


def queues(running):
    status, answer = running.call("GET", "/v1/default/queues")
    assert status == 200, answer
    return {q["name"] for q in answer["queues"] if q["name"].startswith("$reply.")}


def rejected(sender, message):
    try:
        sender.send(message)
    except SendException:
        return
    raise AssertionError("it was taken")


def take(receiver):
    message = receiver.receive(timeout=SECONDS)
    receiver.accept()
    return message.body


def a_temporary_queue_is_a_queue(running):
    """What comes before there is a receiver stays; two share; its close is answered when it is gone, for everybody."""
    connection, other = connect(running), connect(running)
    maker, address = make(connection, ON_CLOSE)
    assert address.startswith("/queues/$reply."), address
    assert maker.link.remote_target.dynamic
    relay = other.create_sender(None)
    maker.send(Message(body="by its own"))
    relay.send(Message(address=address, body="by others"))
    first, second = (connection.create_receiver(address, credit=1, name=name) for name in "ab")
    assert {take(first), take(second)} == {"by its own", "by others"}
    refused(lambda: other.create_receiver(address), "amqp:unauthorized-access")
    refused(lambda: other.create_receiver(address + "/groups/amqp"), "amqp:unauthorized-access")
    refused(lambda: other.create_receiver(address, options=Position(), name="position"), "amqp:unauthorized-access")
    late = other.create_sender(address)
    first.close()
    second.close()
    maker.close()
    assert queues(running) == set()
    rejected(late, Message(body="too late"))
    rejected(relay, Message(address=address, body="too late"))
    refused(lambda: other.create_sender(address, name="after"), "amqp:not-found")
    other.close()
    connection.close()


def a_device_answers_to_a_temporary_queue(running):
    connection = connect(running)
    source = connection.create_receiver(None, credit=1, options=Temporary())
    with Client(running.mqtt_port) as device:
        device.connect("device")
        assert 0 == device.publish("$queue/" + source.link.remote_source.address[len("/queues/"):], b"answer", qos=1)
    assert bytes(source.receive(timeout=SECONDS).body) == b"answer"
    connection.close()


def it_lives_as_long_as_asked(running):
    def ends(name):
        return until(lambda: name not in queues(running), 3)

    connection = connect(running)
    made = {}
    for policy in (None, ON_CLOSE, NO_LINKS, NO_MESSAGES, NO_LINKS_OR_MESSAGES):
        sender, address = make(connection, policy)
        sender.send(Message(body="x"))
        receiver = connection.create_receiver(address, credit=0)
        sender.close()
        made[policy] = receiver, address[len("/queues/"):]
    (kept, _, by_links, by_messages, by_both) = made.values()
    assert queues(running) == {name for _, name in (kept, by_links, by_messages, by_both)}, (made, queues(running))
    for receiver, name in (by_messages, by_both):
        receiver.flow(1)
        assert take(receiver) == "x"
    assert ends(by_messages[1])
    by_links[0].close()
    by_both[0].close()
    assert ends(by_links[1]) and ends(by_both[1])
    assert queues(running) == {kept[1]}
    kept[0].close()
    assert queues(running) == {kept[1]}
    connection.close()
    assert ends(kept[1])
    connection = connect(running)
    refused(lambda: make(connection, ulong(0x2f)), "amqp:not-implemented")
    connection.close()


def links_of_other_connections_keep_it(running):
    connection, other = connect(running), connect(running)
    for goes in ("link", "connection"):
        maker, address = make(connection, NO_LINKS)
        name = address[len("/queues/"):]
        answers = other.create_sender(address)
        questions = connection.create_receiver(address, credit=1)
        maker.close()
        questions.close()
        time.sleep(1.5)  # it is looked at every second
        assert queues(running) == {name}
        answers.send(Message(body="x"))
        questions = connection.create_receiver(address, credit=1)
        assert take(questions) == "x"
        questions.close()
        (answers if goes == "link" else other).close()
        assert until(lambda: queues(running) == set(), 3)
    connection.close()


def what_nobody_has_heard_of_ends_at_once(running):
    """Its attach was refused after it had been made, or its link went before that was answered."""
    connection = connect(running)
    for policy in (None, NO_LINKS, NO_MESSAGES):
        refused(lambda: connection.create_receiver(None, options=[Temporary(policy), Selector("a =")]), "amqp:invalid-field")
    session = connection.conn.session()
    session.open()
    for end in ("close", "detach"):
        sender = session.sender(end)
        Temporary().apply(sender)
        sender.open()
        getattr(sender, end)()
    _, address = make(connection)
    assert until(lambda: queues(running) == {address[len("/queues/"):]}, 3), queues(running)
    connection.close()


def none_outlives_the_gateway(running):
    """Neither killed nor ended in order, nor what of a connection was being made when that went."""
    for stop in (running.kill9, running.stop):
        connection = connect(running)
        maker, _ = make(connection)
        maker.send(Message(body="x"))
        assert len(queues(running)) == 1
        stop()
        running.restart()
        assert until(lambda: queues(running) == set(), 3)
    for _ in range(5):
        connection = connect(running)
        for _ in range(3):
            link = connection.conn.session()
            link.open()
            sender = link.sender("s")
            Temporary().apply(sender)
            sender.open()
        connection.close()
    assert until(lambda: queues(running) == set(), 3)


def there_are_so_many_of_a_connection(running):
    connection, other = connect(running), connect(running)
    makers = [make(connection)[0] for _ in range(256)]
    refused(lambda: make(connection), "amqp:resource-limit-exceeded")
    make(other)
    makers[0].close()  # it lives on: nothing is said of when it ends
    refused(lambda: make(connection), "amqp:resource-limit-exceeded")
    connection.close()
    other.close()
    assert until(lambda: queues(running) == set(), 5)


def its_owner_needs_no_right_for_it_and_others_get_none():
    """But who may do nothing at all may not do this."""
    running = gateway.Gateway(None)
    boss = {"Authorization": "Basic " + base64.b64encode(b"root:secret").decode()}
    assert running.call("PUT", "/v1/default/users/root", {"password": "secret"})[0] == 201
    for name, grants in (("idle", ["manage queue:x"]), ("asker", ["publish topic:questions"]), ("spy", ["consume topic:$reply/#", "consume queue:*", "publish queue:other"]),
                         ("service", ["publish topic:$reply/#", "publish queue:$reply.*"])):
        assert running.call("PUT", f"/v1/default/users/{name}", {"password": "secret"}, boss)[0] == 201
        assert running.call("PUT", f"/v1/default/users/{name}/grants", {"grants": grants}, boss)[0] == 200
    idle, asker, spy, service = (connect(running, user=name, password="secret", allowed_mechs="PLAIN")
                           for name in ("idle", "asker", "spy", "service"))
    for options in (Temporary(), Temporary(capability="temporary-topic")):
        refused(lambda: idle.create_receiver(None, options=options), "amqp:unauthorized-access")
        answers = asker.create_receiver(None, credit=1, options=options)
        address = answers.link.remote_source.address
        for listened in {address, "/topics/$reply/+", "/topics/$reply/#"}:
            refused(lambda: spy.create_receiver(listened), "amqp:unauthorized-access")
        refused(lambda: spy.create_receiver(address, options=Position(), name=address), "amqp:unauthorized-access")
        rejected(spy.create_sender(None), Message(address=address, body="false"))
        service.create_sender(None).send(Message(address=address, body="true"))
        assert take(answers) == "true"
        asker.create_sender(None).send(Message(address=address, body="later", annotations={symbol("x-opt-delivery-delay"): 300}))
        assert take(answers) == "later"
    assert running.stop() == 0


def nobody_listens_to_what_others_are_answered(running):
    """Also where there are no users, and over MQTT."""
    connection = connect(running)
    answers = connection.create_receiver(None, credit=1, dynamic=True)
    topic = answers.link.remote_source.address[len("/topics/"):]
    again = connection.create_receiver("/topics/" + topic, credit=1)
    with Client(running.mqtt_port) as listener:
        listener.connect("listener")
        answer = listener.subscribe(topic, "$reply/+", "$reply/#", "$share/g/$reply/+", "$reply/me")
        assert list(answer) == [0x87] * 4 + [0], answer
        for below in (topic, topic + "/below"):  # nothing is retained there
            assert listener.publish(below, b"kept", qos=1, retain=True) == 0x90
            rejected(connection.create_sender(None), Message(address="/topics/" + below, body="kept", annotations={symbol("x-opt-retain"): True}))
            status, _ = running.call("POST", "/v1/default/publish", {"topic": below, "retain": True, "messages": [{"body": "kept"}]})
            assert status == 400, status
        listener.publish(topic, b"answer", qos=1)
    assert bytes(take(answers)) == bytes(take(again)) == b"answer"
    connection.close()


if __name__ == "__main__":
    run(a_temporary_queue_is_a_queue, a_device_answers_to_a_temporary_queue, it_lives_as_long_as_asked,
        links_of_other_connections_keep_it, what_nobody_has_heard_of_ends_at_once, none_outlives_the_gateway,
        there_are_so_many_of_a_connection, its_owner_needs_no_right_for_it_and_others_get_none, nobody_listens_to_what_others_are_answered)
