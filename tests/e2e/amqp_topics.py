# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0 and the topic space: live subscriptions with wildcards, requests and replies across protocols, nodes of a
client's own."""
import contextlib
import queue
import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from proton import UNDESCRIBED, Array, Data, Described, Message, Terminus, Timeout, symbol, uint, ulong
from proton.reactor import AtMostOnce, DynamicNodeProperties, Filter, LinkOption
from proton.utils import BlockingConnection, LinkDetached

import gateway
from amqpwire import ATTACH, DISPOSITION, FLOW, MODIFIED, REJECTED, RELEASED, TRANSFER, Symbol, Ulong, Wire, frame
from amqpwire import Described as WireDescribed
from gateway import run, until
from wire import PUBLISH, RECEIVE_MAXIMUM, SESSION_EXPIRY, Client

SECONDS = 20


class NoLocal(Filter):
    def __init__(self):
        from proton import Described
        super().__init__({symbol("no-local"): Described(symbol("apache.org:no-local-filter:list"), [])})


class Chosen(Filter):
    """Filters by what describes them."""

    def __init__(self, *filters):
        super().__init__({symbol(f"f{i}"): Described(symbol(name), value) for i, (name, value) in enumerate(filters)})


SUBJECT = "apache.org:legacy-amqp-topic-binding:string"
DIRECT = "apache.org:legacy-amqp-direct-binding:string"
SELECTOR = "apache.org:selector-filter:string"
PROPERTIES = "amqp:properties-filter"
APPLICATION = "amqp:application-properties-filter"


class Capability(LinkOption):
    def __init__(self, *names):
        self.names = names

    def apply(self, link):
        end = link.source if link.is_receiver else link.target
        if len(self.names) == 1:
            end.capabilities.put_object(symbol(self.names[0]))
        else:
            end.capabilities.put_object(Array(UNDESCRIBED, Data.SYMBOL, *[symbol(name) for name in self.names]))


class KeptCapability(Capability):
    """Of a subscription that outlives its links."""

    def apply(self, link):
        super().apply(link)
        link.source.durability = Terminus.DELIVERIES
        link.source.expiry_policy = Terminus.EXPIRE_NEVER


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


class Device:
    """Paho over MQTT 5: what comes from one topic is in packets."""

    def __init__(self, port, name, topic):
        self.packets = queue.Queue()
        self.client = paho.Client(name, protocol=paho.MQTTv5)
        self.client.on_message = lambda client, data, message: self.packets.put(message)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe(topic, 1)
        assert subscribed.wait(SECONDS)

    def publish(self, topic, payload, correlation, response=None):
        properties = Properties(PacketTypes.PUBLISH)
        properties.CorrelationData = correlation
        if response is not None:
            properties.ResponseTopic = response
        self.client.publish(topic, payload, 1, properties=properties).wait_for_publish(SECONDS)

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


def requests_and_replies_between_protocols(running):
    """Asked over AMQP and answered over MQTT 5, through a dynamic node; and the other way round."""
    connection = connect(running)
    replies = connection.create_receiver(None, credit=5, dynamic=True)
    address = replies.link.remote_source.address
    device = Device(running.mqtt_port, "device", "ask/mqtt")
    for correlation, as_bytes, back in ((b"\x00\xff", b"\x00\xff", b"\x00\xff"), ("text", b"text", "text"), (ulong(7), b"7", "7")):
        send(connection, "/topics/ask/mqtt", Message(body="1 + 1", reply_to=address, correlation_id=correlation))
        request = device.packets.get(timeout=SECONDS)
        assert request.payload == b"1 + 1" and request.properties.CorrelationData == as_bytes, vars(request.properties)
        assert "/topics/" + request.properties.ResponseTopic == address, request.properties.ResponseTopic
        device.publish(request.properties.ResponseTopic, b"2", request.properties.CorrelationData)
        reply, = take(replies, 1)
        # MQTT has bytes: what is text in them comes back as text, also what was a number.
        assert (bytes(reply.body), reply.correlation_id) == (b"2", back), reply
    device.stop()

    service = connection.create_receiver("/topics/ask/amqp", credit=5)
    device = Device(running.mqtt_port, "asker", "answers/me")
    device.publish("ask/amqp", b"who?", b"\xff\x01", "answers/me")
    request, = take(service, 1)
    assert (bytes(request.body), request.correlation_id, request.reply_to) == (b"who?", b"\xff\x01", "/topics/answers/me"), request
    send(connection, None, Message(body=b"me", address=request.reply_to, correlation_id=request.correlation_id))
    reply = device.packets.get(timeout=SECONDS)
    assert (reply.topic, reply.payload, reply.properties.CorrelationData) == ("answers/me", b"me", b"\xff\x01"), vars(reply.properties)
    device.stop()
    connection.close()


ORDERS = [
    Message(body="a", subject="order.new.eu", properties={"n": 1, "color": "red", "key": "k"}, id="id-1"),
    Message(body="b", subject="order.new", properties={"n": 2, "color": "reddish"}, id=ulong(7), reply_to="/topics/r/x"),
    Message(body="c", subject="order.paid.eu", properties={"n": 2.5, "color": "&blue"}, content_type=symbol("text/x"),
            group_id="g", group_sequence=3),
    Message(body="d", properties={"x": True, "it's": "it's 100%"}),
]


def filters(running, source, publish):
    """What each filter lets through, of a source."""
    connection = connect(running)
    cases = [
        ([(SUBJECT, "order.*.eu")], "ac"),
        ([(SUBJECT, "order.#")], "abc"),
        ([(SUBJECT, "#.new.#")], "ab"),
        ([(SUBJECT, "#")], "abcd"),
        ([(DIRECT, "order.new")], "b"),
        ([(PROPERTIES, {symbol("subject"): "order.new"})], "b"),
        ([(PROPERTIES, {symbol("subject"): "&p:order.new"})], "ab"),
        ([(PROPERTIES, {symbol("subject"): "&s:.eu", symbol("message-id"): "id-1"})], "a"),
        ([(PROPERTIES, {symbol("message-id"): ulong(7)})], "b"),
        ([(PROPERTIES, {symbol("content-type"): symbol("text/x"), symbol("subject"): None})], "c"),
        ([(PROPERTIES, {symbol("group-id"): "g", symbol("group-sequence"): uint(3)})], "c"),
        ([(PROPERTIES, {symbol("reply-to"): "/topics/r/x"})], "b"),
        ([(APPLICATION, {"color": "red"})], "a"),
        ([(APPLICATION, {"color": "&p:red"})], "ab"),
        ([(APPLICATION, {"color": "&s:dish", "n": 2})], "b"),
        ([(APPLICATION, {"color": "&&blue"})], "c"),
        ([(APPLICATION, {"n": 2.5})], "c"),
        ([(APPLICATION, {"n": None})], "abc"),
        ([(APPLICATION, {"x": True})], "d"),
        ([(APPLICATION, {"key": "k"})], "a"),
        ([(APPLICATION, {"it's": "&s:100%"})], "d"),
        ([(APPLICATION, {"it's": "&s:_00%"})], ""),
        ([(SELECTOR, "n = 1 OR n = 2"), (SUBJECT, "order.*")], "b"),
        ([(SELECTOR, "n > 1"), (PROPERTIES, {symbol("subject"): "&p:order"}), (APPLICATION, {"color": "&s:blue"})], "c"),
    ]
    receivers = []
    for number, (chosen, _) in enumerate(cases):
        receiver = connection.create_receiver(source(number), credit=10, name=f"r{number}", options=Chosen(*chosen))
        echoed = receiver.link.remote_source.filter
        echoed.rewind()
        echoed.next()
        got = sorted(str(value.descriptor) for value in echoed.get_dict().values())
        assert got == sorted(name for name, _ in chosen), (chosen, got)
        receivers.append(receiver)
    publish(connection)
    for receiver, (chosen, wanted) in zip(receivers, cases):
        bodies = [message.body for message in take(receiver, len(wanted))]
        assert bodies == list(wanted), (chosen, bodies)
    for receiver, (chosen, _) in zip(receivers, cases):
        assert not receiver.fetcher.has_message, chosen
    connection.close()


def filters_of_topics(running):
    filters(running, lambda number: "/topics/filtered/+", lambda connection: send(
        connection, "/topics/filtered/t", *ORDERS))


def filters_of_queues(running):
    for name in ("filtered",):
        status, answer = running.call("POST", "/v1/default/queues", {"name": name})
        assert status in (200, 201), answer
    filters(running, lambda number: f"/queues/filtered/groups/g{number}", lambda connection: send(
        connection, "filtered", *ORDERS))


def addresses_are_filtered_as_they_are_shown(running):
    connection = connect(running)

    def subscribed(field, value):
        return connection.create_receiver("/topics/#", credit=10, name=value,
                                          options=Chosen((PROPERTIES, {symbol(field): value})))

    exact, prefix, suffix = (subscribed("to", "/topics/seen/a"), subscribed("to", "&p:/topics/seen/"),
                             subscribed("to", "&s:/b"))
    for topic in ("seen/a", "seen/b", "other"):
        send(connection, f"/topics/{topic}", Message(body=topic))
    assert [m.body for m in take(exact, 1)] == ["seen/a"]
    assert [m.body for m in take(prefix, 2)] == ["seen/a", "seen/b"]
    assert [m.body for m in take(suffix, 1)] == ["seen/b"]
    connection.close()


def filters_that_are_none(running):
    connection = connect(running)
    for chosen in [(SUBJECT, 5), (DIRECT, [1]), (SELECTOR, "n = 1) OR (n = 2"), (SELECTOR, "n = "), (PROPERTIES, {}),
                   (PROPERTIES, "subject"), (PROPERTIES, {symbol("colour"): "red"}),
                   (PROPERTIES, {symbol("subject"): 5}), (PROPERTIES, {symbol("subject"): "&x:y"}),
                   (APPLICATION, {"n": [1]}), (APPLICATION, {"n": "&"}), (APPLICATION, {"n": float("nan")}),
                   (APPLICATION, {5: "n"}), (APPLICATION, {"n": "nul\0"}),
                   (APPLICATION, {f"n{i}": i for i in range(65)}), (APPLICATION, {"n": "x" * 5000})]:
        try:
            connection.create_receiver("/topics/t", name=repr(chosen)[:200], options=Chosen(chosen))
            raise AssertionError(f"a filter that is none: {chosen}")
        except LinkDetached as error:
            assert error.condition == "amqp:invalid-field", (chosen, error)
    # What is not known is not said to be applied.
    receiver = connection.create_receiver("/topics/t", credit=1, options=Chosen(("example:unknown", "x")))
    assert not receiver.link.remote_source.filter.next()
    connection.close()


def what_is_given_back_comes_again(running):
    """Of a subscription that keeps nothing, too: before what is new, in the order in which it was given back, and with
    its failures counted."""
    def settle(first, code, *fields, last=None, settled=True):
        wire.send(frame(DISPOSITION, [True, first, first if last is None else last, settled, WireDescribed(code, list(fields))]))

    def expect(body, failures=0):
        got = wire.expect(TRANSFER)
        message = Message()
        message.decode(got[got.index(b"\x00\x53\x70"):])
        assert (message.body, message.delivery_count, message.first_acquirer) == (body, failures, failures == 0), message

    wire, connection = Wire(running.amqp_port).open(), connect(running)
    wire.attach("r", 0, "/topics/back", receiver=True)
    wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 4]))
    send(connection, "/topics/back", Message(body="a"), Message(body="b"))
    expect("a")
    expect("b")
    settle(0, RELEASED)
    expect("a")  # delivery 2
    settle(2, MODIFIED, True)
    expect("a", 1)  # 3, and no credit is left
    settle(3, RELEASED, settled=False)
    wire.expect(DISPOSITION)
    settle(1, MODIFIED, True)
    send(connection, "/topics/back", Message(body="c"))
    wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 4, 5]))
    expect("a", 1)  # 4
    expect("b", 1)
    expect("c")  # 6
    settle(4, MODIFIED, True, True)  # not to this link, which is the only one
    settle(5, REJECTED)
    settle(6, MODIFIED)
    expect("c")
    wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 8, 5, None, True]))
    wire.expect(FLOW)  # drained
    wire.socket.close()
    connection.close()


def a_state_that_is_no_outcome_leaves_that_open(running):
    """Settled with one, a record is what it is when it is settled without a word, of a queue, a topic and what keeps one."""
    assert running.call("POST", "/v1/default/queues", {"name": "open"})[0] == 201
    connection = connect(running)
    for source in (["open"], ["/topics/open"], ["/topics/open-kept", 2, Symbol("never")]):
        wire = Wire(running.amqp_port).open("open")
        wire.send(frame(ATTACH, ["r", 0, True, None, None, WireDescribed(0x28, source), WireDescribed(0x29, [None])]))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 9]))
        send(connection, source[0], Message(body="x"))
        for number, state in enumerate((WireDescribed(0x23, [0, Ulong(0)]), WireDescribed(0x3f, []), WireDescribed(0x24, []))):
            assert b"x" in wire.expect(TRANSFER), (source, number)
            if number == 0:
                wire.send(frame(DISPOSITION, [True, number, number, False, state]))  # says nothing yet
            wire.send(frame(DISPOSITION, [True, number, number, True, state]))
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 3, 5, None, True]))
        wire.expect(FLOW)  # drained: that was the end of it
        wire.socket.close()
    connection.close()


def a_drain_ends_with_what_there_is(running):
    connection = connect(running)
    receiver = connection.create_receiver("/topics/drained", credit=2)
    send(connection, "/topics/drained", *[Message(body=i) for i in range(5)])
    assert [m.body for m in take(receiver, 2)] == [0, 1]
    receiver.link.drain(10)
    connection.wait(lambda: receiver.link.credit == 0, timeout=SECONDS)
    assert [receiver.fetcher.pop().body for _ in range(3)] == [2, 3, 4]
    connection.close()


def gathered(receivers, device, count):
    """What all of them get together."""
    got, end = [], time.monotonic() + SECONDS
    if device is not None:
        device.socket.settimeout(0.1)
    while len(got) < count and time.monotonic() < end:
        for receiver in receivers:
            with contextlib.suppress(Timeout):
                got.append(receiver.receive(timeout=0.1).body)
                receiver.accept()
        if device is not None:
            with contextlib.suppress(TimeoutError):
                got.append(int(device.receive().payload))
    return sorted(got)


def shared_by_several(running):
    """What members of a subscription share goes to one of them; a global one to members of any container."""
    one, two = connect(running), connect(running)
    shared = [Capability("topic", "shared")]
    mine = [one.create_receiver("shared/t", credit=10, name=f"s|{i}", options=shared) for i in (1, 2)]
    others = two.create_receiver("shared/t", credit=10, name="s|1", options=shared)
    everywhere = [c.create_receiver("shared/t", credit=10, name=f"w|{n}", options=[Capability("topic", "shared", "global")])
                  for n, c in enumerate((one, two))]
    with Client(running.mqtt_port, 5).connect("third") as third:
        third.subscribe(("$share/w/shared/t", 1))
        send(one, "/topics/shared/t", *[Message(body=i) for i in range(9)])
        assert [m.body for m in take(others, 9)] == list(range(9))
        assert gathered(mine, None, 9) == list(range(9))
        assert gathered(everywhere, third, 9) == list(range(9))
    one.close()
    two.close()


def link_of(running, kept, topic, number, credit):
    """A member of the share that links and clients of MQTT have in common."""
    options = (KeptCapability if kept else Capability)("topic", "shared", "global")
    return connect(running).create_receiver(topic, credit=credit, name=f"mixed|{number}", options=[options])


def client_of(running, kept, topic, name, credit):
    props = [(RECEIVE_MAXIMUM, credit)] + ([(SESSION_EXPIRY, 1000)] if kept else [])
    client = Client(running.mqtt_port, 5, timeout=SECONDS).connect(name, props=props)
    assert client.subscribe(("$share/mixed/" + topic, 1)) == [1]
    return client


def publish_numbers(running, topic, numbers):
    with Client(running.mqtt_port, 5).connect("writer") as writer:
        for number in numbers:
            assert writer.publish(topic, str(number), 1) == 0


def number_of(message):
    return int(bytes(message.body))


KINDS = [(links, clients) for links in (False, True) for clients in (False, True)]


def links_and_clients_take_turns(running):
    """In a share of both everybody gets as much while there is credit, and each record goes to one; kept or not."""
    for case, (kept_links, kept_clients) in enumerate(KINDS):
        topic = f"turns/{case}"
        links = [link_of(running, kept_links, topic, i, 10) for i in (1, 2)]
        clients = [client_of(running, kept_clients, topic, f"t{case}.{i}", 10) for i in (1, 2)]
        publish_numbers(running, topic, range(20))
        first = [[number_of(m) for m in take(link, 5)] for link in links]
        first += [[int(client.delivery().payload) for _ in range(5)] for client in clients]
        assert sorted(sum(first, [])) == list(range(20)), first
        for link in links:
            link.flow(5)

        done, got = threading.Event(), [[] for _ in range(4)]

        def settle(link, mine, done=done):
            while not done.is_set():
                with contextlib.suppress(Timeout):
                    mine.append(number_of(link.receive(timeout=0.05)))
                    link.accept()
                    link.flow(1)

        def acknowledge(client, mine, done=done):
            client.socket.settimeout(0.05)
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    mine.append(int(client.delivery().payload))

        members = [threading.Thread(target=settle, args=pair) for pair in zip(links, got)]
        members += [threading.Thread(target=acknowledge, args=pair) for pair in zip(clients, got[2:])]
        for member in members:
            member.start()
        publish_numbers(running, topic, range(200))
        whole = until(lambda got=got: sum(map(len, got)) >= 200, SECONDS)
        done.set()
        for member in members:
            member.join()
        assert whole and sorted(sum(got, [])) == list(range(200)), [sorted(mine) for mine in got]
        assert min(map(len, got)) >= 10, [len(mine) for mine in got]
        for link in links:
            link.connection.close()
        for client in clients:
            client.close()


def what_one_leaves_goes_to_the_other_protocol(running):
    for case, (kept_link, kept_client) in enumerate(KINDS):
        topic = f"left/{case}"
        link = link_of(running, kept_link, topic, 1, 20)
        client = client_of(running, kept_client, topic, f"l{case}", 20)
        publish_numbers(running, topic, range(10))
        mine = [number_of(m) for m in take(link, 5)]
        held = [int(client.expect(PUBLISH).payload) for _ in range(5)]
        assert sorted(mine + held) == list(range(10)), (mine, held)
        client.close()
        if kept_client:  # has it until it ends
            Client(running.mqtt_port, 5).connect(f"l{case}").close()
        assert [number_of(m) for m in take(link, 5)] == held, case
        client = client_of(running, kept_client, topic, f"l{case}", 20)
        publish_numbers(running, topic, range(10))
        mine = [int(client.delivery().payload) for _ in range(5)]
        held = [number_of(link.receive(timeout=SECONDS)) for _ in range(5)]
        assert sorted(mine + held) == list(range(10)), (mine, held)
        link.connection.close()
        assert [int(client.delivery().payload) for _ in range(5)] == held, case
        client.close()


def a_drain_looks_into_the_share(running):
    """What waits for a member without credit comes before the drain ends: so JMS receives without waiting."""
    connection, shared = connect(running), [Capability("topic", "shared")]
    for i in range(8):  # on whatever worker the share is at home
        receiver = connection.create_receiver("shared/l", name=f"l{i}|1", options=shared, credit=0)
        send(connection, "/topics/shared/l", *[Message(body=n) for n in range(3)])
        receiver.link.drain(10)
        connection.wait(lambda: receiver.link.credit == 0, timeout=SECONDS)
        assert [receiver.fetcher.pop().body for _ in range(3)] == [0, 1, 2]
        receiver.link.drain(10)
        connection.wait(lambda: receiver.link.credit == 0, timeout=SECONDS)
        assert not receiver.fetcher.has_message
        receiver.close()
    connection.close()


def a_drained_member_gets_nothing(running):
    """The share does not count on credit that a drain has used up."""
    connection, shared = connect(running), [Capability("topic", "shared")]
    drained, other = (connection.create_receiver("shared/d", credit=2, name=f"d|{i}", options=shared) for i in (1, 2))
    drained.link.drain(0)
    connection.wait(lambda: drained.link.credit == 0, timeout=SECONDS)
    other.link.flow(8)
    send(connection, "/topics/shared/d", *[Message(body=i) for i in range(4)])
    # What the share gave the drained one before it heard of the drain comes back, and behind the rest.
    assert sorted(m.body for m in take(other, 4)) == [0, 1, 2, 3]
    connection.close()


if __name__ == "__main__":
    run(filters_match_topics, credit_is_kept, settled_subscriptions, no_local_spares_ones_own,
        capabilities_say_what_an_address_is, mqtt_and_amqp_meet, a_request_gets_its_reply,
        requests_and_replies_between_protocols, filters_of_topics, filters_of_queues, addresses_are_filtered_as_they_are_shown, filters_that_are_none,
        what_is_given_back_comes_again, a_state_that_is_no_outcome_leaves_that_open, a_drain_ends_with_what_there_is, shared_by_several, links_and_clients_take_turns,
        what_one_leaves_goes_to_the_other_protocol, a_drain_looks_into_the_share, a_drained_member_gets_nothing)
