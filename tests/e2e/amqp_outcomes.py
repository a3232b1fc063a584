# SPDX-License-Identifier: Apache-2.0
"""What receivers make of a record of a queue, and what comes of it: to whom it comes again, and how."""
import time

from proton import Delivery, Message, Timeout, symbol
from proton.reactor import AtMostOnce, Selector
from proton.utils import BlockingConnection

from amqp_queues import receive, send
from amqpwire import (ATTACH, DETACH, DISPOSITION, FLOW, MODIFIED, REJECTED, RELEASED, TRANSFER, Described as Performative, Symbol,
                      Ulong, Wire, decode, disposition, frame, ubyte)
from gateway import queue, run
from wire import Client

SECONDS = 20
QUIET = 0.5


def connect(running):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)


def nothing_comes(receiver):
    try:
        return receiver.receive(timeout=QUIET).body
    except Timeout:
        return None


def modify(receiver, failed=False, undeliverable=False, annotations=None):
    local = receiver.fetcher.unsettled[-1].local
    local.failed, local.undeliverable = failed, undeliverable
    if annotations is not None:
        local.annotations = annotations
    receiver.settle(Delivery.MODIFIED)


def what_is_undeliverable_here_is_for_others(running):
    queue(running, "here", redrive_policy="enable", max_consume_count=9)
    connection, other = connect(running), connect(running)
    send(connection, "here", Message(body="x"), Message(body="y"))
    receiver = connection.create_receiver("here", credit=10)
    first = receiver.receive(timeout=SECONDS)
    receiver.receive(timeout=SECONDS)
    assert (first.body, first.delivery_count) == ("x", 0)
    local = receiver.fetcher.unsettled[0].local
    local.undeliverable = True
    receiver.fetcher.unsettled[0].update(Delivery.MODIFIED)
    receiver.fetcher.unsettled.popleft().settle()
    assert nothing_comes(receiver) is None
    receiver.release(delivered=False)  # this one is not barred
    assert receiver.receive(timeout=SECONDS).body == "y"
    receiver.accept()
    second = other.create_receiver("here", credit=1)
    again = second.receive(timeout=SECONDS)
    assert (again.body, again.delivery_count) == ("x", 0)  # delivery-failed was false
    modify(second, failed=True, undeliverable=True)
    third = other.create_receiver("here", credit=1, name="third")
    again = third.receive(timeout=SECONDS)
    assert (again.body, again.delivery_count) == ("x", 1)
    third.release(delivered=False)
    third.close()
    assert nothing_comes(receiver) is None and nothing_comes(second) is None
    # It is the link that does not get it: a new one of the same client does.
    receiver.close()
    assert receive(connection, "here", 1)[0].body == "x"
    connection.close()
    other.close()


def what_is_undeliverable_here_in_order(running):
    """A fifo queue: what waits behind it in its message group waits for another link; other groups go on."""
    queue(running, "fifo", type="fifo")
    connection, other = connect(running), connect(running)
    send(connection, "fifo", *[Message(body=i, group_id=f"g{i % 2}") for i in range(4)])
    receiver = connection.create_receiver("fifo", credit=1)
    assert receiver.receive(timeout=SECONDS).body == 0
    modify(receiver, undeliverable=True)
    got = []
    for _ in range(2):
        receiver.flow(1)
        got.append(receiver.receive(timeout=SECONDS).body)
        receiver.accept()
    assert got == [1, 3], got
    receiver.flow(1)
    assert nothing_comes(receiver) is None
    assert receive(other, "fifo", 1)[0].body == 0
    assert receiver.receive(timeout=SECONDS).body == 2
    connection.close()
    other.close()


def who_had_it_first_is_known(running):
    queue(running, "acquired")
    connection, other = connect(running), connect(running)
    send(connection, "acquired", Message(body="x"))
    receiver = connection.create_receiver("acquired", credit=1)
    assert receiver.receive(timeout=SECONDS).first_acquirer
    receiver.release(delivered=False)
    receiver.close()
    send(connection, "acquired", Message(body="y"))
    x, y = receive(other, "acquired", 2)
    assert (x.body, x.first_acquirer, x.delivery_count) == ("x", False, 0)
    assert (y.body, y.first_acquirer) == ("y", True)
    send(connection, "acquired", Message(body="z"))
    receiver = connection.create_receiver("acquired", credit=1)
    receiver.receive(timeout=SECONDS)
    receiver.close()  # unsettled
    z, = receive(other, "acquired", 1)
    assert (z.body, z.first_acquirer) == ("z", False)
    connection.close()
    other.close()


def attach_small(wire, address, most=1000, credit=9, source=()):
    wire.send(frame(ATTACH, ["r", 0, True, None, None, Performative(0x28, [address, *source]), Performative(0x29, [None]),
                             None, None, None, Ulong(most)]))
    wire.expect(ATTACH)
    wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, credit]))


def what_comes(wire):
    got = []
    wire.socket.settimeout(QUIET)
    try:
        while True:
            got.append(wire.expect(TRANSFER))
    except TimeoutError:
        return got


def a_receiver_gets_no_more_than_it_takes(running):
    queue(running, "sizes")
    connection = connect(running)
    send(connection, "sizes", Message(body="x" * 5000), Message(body="small"), Message(body="y" * 5000), Message(body="2"))
    with Wire(running.amqp_port) as wire:
        wire.open()
        attach_small(wire, "sizes", credit=2)
        got = what_comes(wire)
        assert len(got) == 2 and b"small" in got[0] and all(len(one) < 1000 for one in got), got
        wire.send(frame(FLOW, [2, 100, 0, 100, 0, 2, 5, None, True]))
        wire.socket.settimeout(SECONDS)
        wire.expect(FLOW)  # drained: what is too large is nothing for this link
    # It is there for who takes it.
    assert {m.body[:5] for m in receive(connection, "sizes", 4)} == {"xxxxx", "small", "yyyyy", "2"}
    connection.close()


def more_than_can_be_kept_from_it_ends_the_link(running):
    """Too much of it is too large: nothing is lost, nothing counted, and the link is told."""
    queue(running, "large", redrive_policy="enable", max_consume_count=1)
    connection = connect(running)
    sender = connection.create_sender("large")
    for i in range(1001):
        sender.send(Message(body=f"{i:04}" + "x" * 900))
    with Wire(running.amqp_port) as wire:
        wire.open()
        attach_small(wire, "large", most=500)
        wire.socket.settimeout(SECONDS)
        end = wire.expect(DETACH)
        assert b"amqp:link:message-size-exceeded" in end and b"attach with a larger one" in end, end
    receiver = connection.create_receiver("large", credit=1001)
    got = [receiver.receive(timeout=SECONDS) for _ in range(1001)]
    assert {m.body[:4] for m in got} == {f"{i:04}" for i in range(1001)}
    assert all(m.delivery_count == 0 for m in got)
    connection.close()


def dropped(running):
    return int(running.call("GET", "/metrics")[1].split('dropped_total{reason="too_large"} ')[1].split()[0])


def readers_get_no_more_than_they_take(running):
    """Topics, kept or not, shared or not; browsers."""
    queue(running, "browsed")
    connection = connect(running)
    send(connection, "browsed", Message(body="x" * 5000), Message(body="small"))
    sources = {"browsed": [None] * 5 + [Symbol("copy")], "/topics/sizes": [],
               "/topics/kept": [2, Symbol("never")]}
    for address, source in sources.items():
        before = dropped(running)
        with Wire(running.amqp_port) as wire:
            wire.open()
            attach_small(wire, address, credit=1, source=source)
            if address != "browsed":
                send(connection, address, Message(body="x" * 5000), Message(body="small"))
            got = what_comes(wire)
            assert len(got) == 1 and b"small" in got[0], (address, got)
            assert dropped(running) == before + (address != "browsed"), address
    connection.close()


def a_lease_that_runs_out_says_so(running):
    """Credit and state agree: the broker settles what it will offer again, and a late outcome changes nothing."""
    queue(running, "leased", redrive_policy="enable", max_consume_count=9)
    connection = connect(running)
    send(connection, "leased", Message(body="x"), Message(body="y"))
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.send(frame(ATTACH, ["r", 0, True, None, None, Performative(0x28, ["leased"]), Performative(0x29, [None]), None, None,
                                 None, None, None, None, {Symbol("x-opt-lease"): 1000}]))
        wire.expect(ATTACH)
        wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 2]))
        for number in range(2):
            wire.expect(TRANSFER)
        wire.send(frame(DISPOSITION, [True, 1, 1, True, Performative(0x24, [])]))  # y is done in time
        said = wire.expect(DISPOSITION)
        assert disposition(said) == (0, 0, RELEASED), said
        assert decode(b"\0\x53\x15" + said)[0].value[3] is True  # settled
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Performative(0x24, [])]))
        wire.send(frame(FLOW, [2, 100, 0, 100, 0, 2, 1]))
        assert b"x" in wire.expect(TRANSFER)
    message, = receive(connection, "leased", 1)
    assert (message.body, message.delivery_count) == ("x", 1)
    connection.close()


def what_is_given_back_has_its_tag_for_itself(running):
    """2.6.12: as long as either end knows a delivery, no other one of the link has its tag; then it is the record's again."""
    queue(running, "returned")
    connection = connect(running)
    send(connection, "returned", *[Message(body=i) for i in range(3)])
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("r", 0, "returned", receiver=True, rcv=ubyte(1))
        wire.send(frame(FLOW, [0, 1000, 0, 1000, 0, 0, 1000]))
        known, last = {}, -1

        def take(until):
            nonlocal last
            while not until():
                body = wire.next_frame()
                if body[2:3] == bytes([TRANSFER]):
                    fields = decode(body)[0].value
                    assert fields[2] not in known.values(), (fields[1], known)
                    last = fields[1]
                    known[last] = fields[2]
                elif body[2:3] == bytes([DISPOSITION]):
                    first, end, _ = disposition(body[3:])
                    for number in range(first, end + 1):
                        known.pop(number)
        take(lambda: len(known) == 3)
        tags = set(known.values())
        for outcome in (Performative(RELEASED, []), Performative(MODIFIED, [False, False])) * 5:
            wire.send(frame(DISPOSITION, [True, last - 2, last, False, outcome]))
            wanted = last + 3
            take(lambda: last == wanted and len(known) == 3)
        wire.send(frame(DISPOSITION, [True, last - 2, last, True, Performative(RELEASED, [])]))
        wanted, known = last + 3, {}
        take(lambda: last == wanted)
        assert set(known.values()) == tags, known
    assert len(receive(connection, "returned", 3)) == 3
    connection.close()


def a_queue_says_how_long_leases_last(running):
    """Whoever asks for no time of its own, as JMS clients do, has the queue's."""
    for path, fields in (("POST", {"name": "slow", "lease_ms": 1000}), ("PATCH", {"lease_ms": 60000})):
        address = "/v1/default/queues" if path == "POST" else "/v1/default/queues/slow"
        status, answer = running.call(path, address, fields)
        assert status in (200, 201) and answer["lease_ms"] == fields["lease_ms"], answer
        connection, other = connect(running), connect(running)
        send(connection, "slow", Message(body="x"))
        holder = connection.create_receiver("slow", credit=1)
        assert holder.receive(timeout=SECONDS).delivery_count == 0
        waiting = other.create_receiver("slow", credit=1, name=path)
        if path == "POST":
            assert waiting.receive(timeout=SECONDS).delivery_count >= 1  # the holder may get it again before
            waiting.accept()
        else:
            time.sleep(1.2)
            assert nothing_comes(waiting) is None
            holder.accept()
        connection.close()
        other.close()


def selectors_know_what_jms_says(running):
    queue(running, "jms")
    connection = connect(running)
    send(connection, "jms", Message(body="n", durable=False, creation_time=5), Message(body="p", durable=True, creation_time=6.5),
         Message(body="none", durable=True))
    connection.create_sender("jms", options=AtMostOnce()).send(Message(body="settled", durable=True))
    with Client(running.mqtt_port).connect("device") as device:
        device.publish("$queue/jms", b"zero")
        assert device.publish("$queue/jms", b"one", qos=1) == 0
    # The header's durable says the same.
    for i, (selector, wanted) in enumerate((("JMSDeliveryMode = 'NON_PERSISTENT'", {"n": False, b"zero": False}),
                                            ("JMSDeliveryMode = 'PERSISTENT'",
                                             {"p": True, "none": True, "settled": True, b"one": True}),
                                            ("JMSTimestamp = 5000", {"n": False}), ("JMSTimestamp = 6500", {"p": True}),
                                            ("JMSTimestamp > 1700000000000",
                                             {"none": True, "settled": True, b"zero": False, b"one": True}))):
        receiver = connection.create_receiver(f"/queues/jms/groups/g{i}", credit=9, options=Selector(selector))
        came = [receiver.receive(timeout=SECONDS) for _ in wanted]
        got = {bytes(message.body) if isinstance(message.body, memoryview) else message.body: message.durable for message in came}
        assert got == wanted and nothing_comes(receiver) is None, (selector, got)
        receiver.close()
    connection.close()


def what_a_receiver_notes_is_shown_to_the_next(running):
    queue(running, "noted", redrive_policy="enable", max_consume_count=9)
    connection, other = connect(running), connect(running)
    send(connection, "noted", Message(body="x", annotations={symbol("x-a"): 1, symbol("x-b"): "kept"}))
    receiver = connection.create_receiver("noted", credit=1)
    receiver.receive(timeout=SECONDS)
    modify(receiver, failed=True, annotations={symbol("x-why"): "broken", symbol("x-a"): [2, {"deep": True}],
                                               symbol("x-opt-offset"): 77})
    receiver.close()
    receiver = connection.create_receiver("noted", credit=1, name="second")
    again = receiver.receive(timeout=SECONDS)
    noted = {str(key): value for key, value in again.annotations.items()}
    assert (noted["x-a"], noted["x-b"], noted["x-why"]) == ([2, {"deep": True}], "kept", "broken"), noted
    assert noted["x-opt-offset"] == 0 and again.body == "x" and again.delivery_count == 1, noted
    modify(receiver, annotations={symbol("x-why"): None, symbol("x-more"): 5})
    receiver.close()
    noted = {str(key): value for key, value in receive(other, "noted", 1)[0].annotations.items()}
    assert (noted["x-a"], noted["x-b"], noted["x-why"], noted["x-more"]) == ([2, {"deep": True}], "kept", None, 5), noted
    # More than is remembered is not, and nothing else changes.
    send(connection, "noted", Message(body="y", annotations={symbol("x-a"): 1}))
    receiver = connection.create_receiver("noted", credit=1, name="third")
    receiver.receive(timeout=SECONDS)
    modify(receiver, failed=True, annotations={symbol("x-much"): "m" * 1100, symbol("x-a"): 3})
    receiver.close()
    y, = receive(other, "noted", 1)
    assert (y.body, y.delivery_count, y.annotations[symbol("x-a")]) == ("y", 1, 1) and symbol("x-much") not in y.annotations, y
    connection.close()
    other.close()


def told_of_dead(message):
    return {str(key)[18:]: value for key, value in message.annotations.items() if str(key).startswith("x-opt-dead-letter-")}


def bare(message):
    """Properties, application properties and body, as they are on the wire."""
    return message[message.index(b"\0\x53\x73"):]


def a_dead_letter_is_the_message_it_was(running):
    """What became of it stands beside the bare message, also where that is kept as it was; why it was rejected too."""
    queue(running, "dying", redrive_policy="enable", max_consume_count=2)
    dead = "/queues/dying/groups/amqp/deadletters"
    own = {"dead-letter-reason": "mine", "dead-letter-count": 7, "n": 1}
    connection = connect(running)
    plain = Message(id="m1", body="plain", properties=own).encode()
    # An empty list of properties in its long form is not what would be written anew.
    odd = b"\0\x53\x73\xd0\0\0\0\4\0\0\0\0" + b"\0\x53\x75\xa0\3odd"
    with Wire(running.amqp_port) as wire:
        wire.open()
        wire.attach("s", 0, "dying")
        for number, content in enumerate((plain, odd, odd)):
            wire.send(frame(TRANSFER, [0, number, b"%d" % number, 0, True], content))
        wire.attach("r", 1, "dying", receiver=True)
        wire.send(frame(FLOW, [0, 100, 0, 100, 1, 0, 4]))
        for _ in range(3):
            wire.expect(TRANSFER)
        error = Performative(0x1d, [Symbol("shop:no-such-article"), "A-17 is \u00fcberall gone " + "\u00fc" * 300])
        wire.send(frame(DISPOSITION, [True, 0, 0, True, Performative(REJECTED, [error])]))
        wire.send(frame(DISPOSITION, [True, 1, 1, True, Performative(REJECTED, [])]))
        wire.send(frame(DISPOSITION, [True, 2, 2, True, Performative(MODIFIED, [True])]))
        wire.expect(TRANSFER)
        wire.send(frame(DISPOSITION, [True, 3, 3, True, Performative(MODIFIED, [True])]))
        wire.attach("d", 2, dead, receiver=True)
        wire.send(frame(FLOW, [4, 100, 0, 100, 2, 0, 3]))
        for content in (plain, odd, odd):
            assert bare(wire.expect(TRANSFER)) == bare(content)
    first, second, third = receive(connection, dead, 3, outcome="release")
    assert first.properties == own, first.properties
    told = told_of_dead(first)
    description = told.pop("description")
    assert description.startswith("A-17 is \u00fcberall gone \u00fc\u00fc") and 500 < len(description.encode()) <= 512, description
    assert abs(told.pop("time") / 1000 - time.time()) < 60 and told.pop("partition") >= 0 and told.pop("offset") >= 0, told
    assert told == {"reason": "rejected", "queue": "dying", "group": "amqp", "count": 0, "error": "shop:no-such-article"}, told
    assert "error" not in told_of_dead(second) and told_of_dead(second)["reason"] == "rejected"
    assert (told_of_dead(third)["reason"], told_of_dead(third)["count"]) == ("failures", 2)
    # Other protocols see it as attributes, beside the publisher's own.
    listed = running.call("GET", "/v1/default/queues/dying/groups/amqp/deadletters")[1]["records"]
    shown = next(record["attributes"] for record in listed if record["body"] == "plain")
    assert (shown["dead-letter-error"], shown["dead-letter-reason"]) == ("shop:no-such-article", ["mine", "rejected"]), shown
    # What is driven back has only its own again, and nobody passes for the gateway.
    assert running.call("POST", "/v1/default/queues/dying/groups/amqp/redrive", {"all": True})[0] in (200, 202)
    back = receive(connection, "dying", 3)
    assert not any(told_of_dead(message) for message in back)
    assert [message.properties for message in back if message.body == "plain"] == [own]
    send(connection, "dying", Message(body="x", annotations={symbol("x-opt-dead-letter-reason"): "forged"}))
    assert not told_of_dead(receive(connection, "dying", 1)[0])
    connection.close()


if __name__ == "__main__":
    run(what_is_undeliverable_here_is_for_others, what_is_undeliverable_here_in_order, who_had_it_first_is_known,
        a_receiver_gets_no_more_than_it_takes, more_than_can_be_kept_from_it_ends_the_link, readers_get_no_more_than_they_take,
        what_is_given_back_has_its_tag_for_itself, a_lease_that_runs_out_says_so, a_queue_says_how_long_leases_last,
        what_a_receiver_notes_is_shown_to_the_next, a_dead_letter_is_the_message_it_was, selectors_know_what_jms_says)
