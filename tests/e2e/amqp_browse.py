# SPDX-License-Identifier: Apache-2.0
"""AMQP sources that read along: browsers, positions in a queue, streams, topics from their past on."""
import time

from proton import Described, Message, symbol, timestamp, ulong
from proton.reactor import Copy, Filter, Selector
from proton.utils import BlockingConnection, LinkDetached

import amqpwire
from amqpwire import ATTACH, DETACH, DISPOSITION, FLOW, TRANSFER, Described as Wired, Wire, Symbol, frame
from gateway import queue, run, until

SECONDS = 20
UNSETTLED_MAX = 16384  # LIMIT_FOLLOW_UNSETTLED


class From(Filter):
    """rabbitmq:stream-offset-spec"""

    def __init__(self, position):
        name = symbol("rabbitmq:stream-offset-spec")
        super().__init__({name: Described(name, position)})


def connect(running):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)


def send(connection, address, *bodies):
    sender = connection.create_sender(address)
    for body in bodies:
        sender.send(Message(body=body))
    sender.close()


def take(connection, address, count, *options, accept=True):
    receiver = connection.create_receiver(address, credit=count, options=list(options))
    got = []
    for _ in range(count):
        got.append(receiver.receive(timeout=SECONDS).body)
        if accept:
            receiver.accept()
    receiver.close()
    return got


def a_browser_takes_nothing(running):
    queue(running, "looked-at")
    connection = connect(running)
    send(connection, "looked-at", *range(5))
    assert take(connection, "looked-at", 5, Copy()) == list(range(5))
    assert take(connection, "looked-at", 2) == [0, 1]
    # What is done is not seen, once it is: an outcome that the receiver has settled has no answer.
    assert until(lambda: take(connection, "looked-at", 1, Copy()) == [2])
    assert take(connection, "looked-at", 3, Copy()) == [2, 3, 4]
    assert take(connection, "looked-at", 3) == [2, 3, 4]
    connection.close()


def all_of(connection, address, *options):
    """What there is now, accepted: until a drain says that this was all."""
    receiver = connection.create_receiver(address, options=list(options))
    got = []
    while True:
        receiver.link.drain(1000)
        connection.wait(lambda: receiver.fetcher.has_message or not receiver.link.credit)
        if not receiver.fetcher.has_message:
            receiver.close()
            return got
        while receiver.fetcher.has_message:
            got.append(receiver.receive(timeout=SECONDS).body)
            receiver.accept()


def settle(connection, address, *bodies, reject=False):
    """Takes what there is, and accepts (or rejects) these; the others go back."""
    receiver = connection.create_receiver(address, credit=50)
    for _ in range(len(bodies)):
        while receiver.receive(timeout=SECONDS).body not in bodies:
            receiver.release(delivered=False)
        receiver.reject() if reject else receiver.accept()
    receiver.close()


def dead_letters_are_looked_at(running):
    queue(running, "sick", redrive_policy="enable", max_consume_count=3)
    dead = "/queues/sick/groups/amqp/deadletters"
    connection = connect(running)
    send(connection, "sick", *range(4))
    settle(connection, "sick", 0, 1, 2, reject=True)
    assert until(lambda: sorted(all_of(connection, dead, Copy())) == [0, 1, 2])
    assert sorted(all_of(connection, dead, Copy())) == [0, 1, 2]  # accepted above, and still there
    receiver = connection.create_receiver(dead, credit=9, options=From("next"))
    settle(connection, "sick", 3, reject=True)
    assert receiver.receive(timeout=SECONDS).body == 3
    receiver.close()
    gone = take(connection, dead, 2)  # not by a browser: these are done
    assert until(lambda: sorted(gone + all_of(connection, dead, Copy())) == [0, 1, 2, 3])
    assert sorted(all_of(connection, dead, From("first"))) == [0, 1, 2, 3]  # from a position, all there were
    assert all_of(connection, dead, From("last")) == [3]
    assert len(take(connection, dead, 2)) == 2
    connection.close()


def a_browser_sees_what_its_group_has_not_done(running):
    queue(running, "halves", partitions=2)
    connection = connect(running)
    assert running.call("POST", "/v1/default/queues/halves/groups",
                        {"groups": [{"name": "large", "selector": "size > 2"}]})[0] in (200, 201)
    sender = connection.create_sender("halves")
    for body in range(6):
        sender.send(keyed(body, size=body))
    assert sorted(all_of(connection, "halves", Copy())) == list(range(6))
    settle(connection, "halves", 1, 3, 4)
    assert until(lambda: sorted(all_of(connection, "halves", Copy())) == [0, 2, 5])
    assert sorted(all_of(connection, "/queues/halves/groups/large", Copy())) == [3, 4, 5]
    receiver = connection.create_receiver("/queues/halves/groups/large", credit=9, options=Copy())
    assert sorted(receiver.receive(timeout=SECONDS).body for _ in range(3)) == [3, 4, 5]
    sender.send(Message(body=1, properties={"size": 1}))
    sender.send(Message(body=6, properties={"size": 6}))
    assert receiver.receive(timeout=SECONDS).body == 6
    assert running.call("DELETE", "/v1/default/queues/halves/groups/large")[0] in (200, 204)
    try:
        receiver.receive(timeout=SECONDS)
        raise AssertionError("the group has gone")
    except LinkDetached as error:
        assert error.condition == "amqp:resource-deleted", error
    connection.close()


def positions_of_a_queue(running):
    queue(running, "kept")
    connection = connect(running)
    send(connection, "kept", *range(5))
    assert take(connection, "kept", 5) == list(range(5))  # done, and still there for who reads along
    assert take(connection, "kept", 5, From("first")) == list(range(5))
    assert take(connection, "kept", 2, From(ulong(3))) == [3, 4]
    assert take(connection, "kept", 1, From("last")) == [4]
    receiver = connection.create_receiver("kept", credit=10, options=From("next"))
    time.sleep(0.01)
    now = timestamp(int(time.time() * 1000))
    send(connection, "kept", 5, 6)
    assert [receiver.receive(timeout=SECONDS).body for _ in range(2)] == [5, 6]
    receiver.close()
    assert take(connection, "kept", 2, From(now)) == [5, 6]
    receiver = connection.create_receiver("kept", credit=10, options=From(ulong(1000)))
    send(connection, "kept", 7)
    assert receiver.receive(timeout=SECONDS).body == 7  # there is no such offset: from the end on
    receiver.close()
    try:
        connection.create_receiver("kept", options=From("somewhere"))
        raise AssertionError("a position that is none")
    except LinkDetached as error:
        assert error.condition == "amqp:invalid-field", error
    connection.close()


def keyed(body, **properties):
    """With keys, records go to all partitions."""
    return Message(body=body, properties=properties, annotations={symbol("x-opt-partition-key"): str(body)})


class All(Filter):
    def __init__(self, *filters):
        super().__init__({name: value for one in filters for name, value in one.filter_set.items()})


def the_last_record_of_each_partition(running):
    queue(running, "pair", partitions=2)
    connection = connect(running)
    sender, topics = connection.create_sender("pair"), connection.create_sender("/topics/last/1")
    for body in range(300):
        sender.send(keyed(body, first=body == 0))
        topics.send(Message(body=body))
    send(connection, "/topics/last/2", "other")
    send(connection, "/topics/noise", *range(100))
    both = take(connection, "pair", 2, From("last"))
    assert 299 in both and min(both) > 250, both
    assert sorted(all_of(connection, "pair", From(ulong(0)))) == list(range(300))
    assert len(all_of(connection, "pair", From(ulong(100)))) == 100  # from there on in each
    assert len(all_of(connection, "/topics/last/1", From(ulong(100)))) == 200
    time.sleep(0.01)
    now = timestamp(int(time.time() * 1000))
    assert all_of(connection, "/topics/last/+", From(now)) == []
    receiver = connection.create_receiver("/topics/last/1", credit=9, options=From("last"))
    assert receiver.receive(timeout=SECONDS).body == 299
    topics.send(Message(body="next"))
    assert receiver.receive(timeout=SECONDS).body == "next"
    receiver.close()
    assert all_of(connection, "/topics/last/+", From(now)) == ["next"]
    assert set(take(connection, "/topics/last/+", 1, From("last"))) <= {"other", "next"}
    receiver = connection.create_receiver("pair", credit=9, options=All(Selector("first"), From("last")))
    assert receiver.receive(timeout=SECONDS).body == 0  # far back, and in one of them only
    sender.send(keyed("new", first=True))
    assert receiver.receive(timeout=SECONDS).body == "new"
    receiver.close()
    connection.close()


def a_stream_is_read_from_its_end_on(running):
    queue(running, "events", type="stream")
    connection = connect(running)
    send(connection, "events", "before")
    receiver = connection.create_receiver("events", credit=10)
    send(connection, "events", "after")
    assert receiver.receive(timeout=SECONDS).body == "after"
    receiver.close()
    assert take(connection, "events", 2, From("first"))[0] in ("before", "after")
    connection.close()


def a_group_of_a_stream_is_one_as_of_any_queue(running):
    """Leased, settled, shared with REST, from the first record on; only the plain address reads along."""
    queue(running, "shared", type="stream", partitions=1)
    connection = connect(running)
    group = "/queues/shared/groups/g"
    send(connection, "shared", "a", "b", "c")
    one = connection.create_receiver(group, credit=1)
    assert one.receive(timeout=SECONDS).body == "a"
    two = connection.create_receiver(group, credit=1, name="two")
    assert two.receive(timeout=SECONDS).body in ("b", "c")  # the first is leased, and perhaps the next one
    one.accept()
    two.release(delivered=False)
    one.close()
    two.close()
    again = connection.create_receiver(group, credit=5)
    assert sorted(again.receive(timeout=SECONDS).body for _ in range(2)) == ["b", "c"]
    for _ in range(2):
        again.accept()
    again.close()
    send(connection, "shared", "while nobody is there", "for REST")
    assert take(connection, group, 1) == ["while nobody is there"]
    left = running.call("GET", "/v1/default/queues/shared/groups/g/messages?max_msgs=10")[1]
    assert "for REST" in str(left) and "nobody" not in str(left), left
    # To browse, it shows what the group has not done.
    assert take(connection, group, 1, Copy()) == ["for REST"]
    connection.close()


class NoLocal(Filter):
    def __init__(self):
        name = symbol("apache.org:no-local-filter:list")
        super().__init__({symbol("no-local"): Described(name, [])})


def filters_of(receiver):
    answered = receiver.link.remote_source.filter
    answered.rewind()
    return {str(name) for name in answered.get_dict()} if answered.next() else set()


def what_one_has_sent_oneself(running):
    queue(running, "talk")
    mine, other = connect(running), connect(running)
    for connection, body in ((mine, "mine"), (other, "other")):
        send(connection, "talk", body)
        send(connection, "/topics/talk", body)
    for address, options in (("talk", (Copy(), NoLocal())), ("talk", (All(From("first"), NoLocal()),)),
                             ("/topics/talk", (All(From("first"), NoLocal()),))):
        receiver = mine.create_receiver(address, credit=9, options=list(options))
        assert "no-local" in filters_of(receiver), address
        send(other, address, "end")
        assert receiver.receive(timeout=SECONDS).body == "other", address
        assert receiver.receive(timeout=SECONDS).body == "end", address
        receiver.close()
        if address == "talk":
            settle(other, address, "end")
    # A group does not know: the answer says so, and what else was asked for holds.
    receiver = mine.create_receiver("talk", credit=9, options=All(NoLocal(), Selector("1 = 1")))
    assert filters_of(receiver) == {"selector"}
    assert receiver.receive(timeout=SECONDS).body == "mine"
    receiver.close()
    mine.close()
    other.close()


def a_topic_and_its_past(running):
    connection = connect(running)
    send(connection, "/topics/past/1", "a")
    send(connection, "/topics/other", "x")
    send(connection, "/topics/past/2", "b")
    got = take(connection, "/topics/past/+", 2, From("first"))
    assert sorted(got) == ["a", "b"]
    connection.close()


def transfers(wire, count):
    """So many come, and no more for now; per handle."""
    got = {}
    for _ in range(count):
        handle = amqpwire.decode(b"\x00\x53\x14" + wire.expect(TRANSFER))[0].value[0]
        got[handle] = got.get(handle, 0) + 1
    wire.socket.settimeout(0.3)
    try:
        raise AssertionError(("one more", got, wire.expect(TRANSFER)))
    except TimeoutError:
        pass
    wire.socket.settimeout(SECONDS)
    return got


def what_nobody_settles_has_a_limit(running):
    count = 9000
    queue(running, "much")
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open().attach("s", 0, "much")
        for first in range(0, count, 500):
            wire.send(b"".join(frame(TRANSFER, [0, at, b"%d" % at, 0, True], b"\x00\x53\x75\xa0\x01x")
                               for at in range(first, first + 500)))
        connection = connect(running)
        take(connection, "much", 1, From(ulong(count - 1)))
    connection.close()
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        for handle in (0, 1):
            source = Wired(0x28, ["much", None, None, None, None, None, Symbol("copy")])
            wire.send(frame(ATTACH, [f"r{handle}", handle, True, None, None, source, Wired(0x29, [None])]))
            wire.expect(ATTACH)
        for handle in (0, 1):
            wire.send(frame(FLOW, [0, 10 ** 8, 0, 10 ** 8, handle, 0, 10 ** 6]))
        got = transfers(wire, UNSETTLED_MAX)
        wire.send(frame(DISPOSITION, [True, 0, 99, True, Wired(amqpwire.ACCEPTED, [])]))
        for handle, more in transfers(wire, 100).items():
            got[handle] += more
        fuller = max(got, key=got.get)
        wire.send(frame(DETACH, [fuller, True]))  # what it held counts no more
        assert list(transfers(wire, count - got[1 - fuller])) == [1 - fuller]
    with Wire(running.amqp_port, SECONDS) as wire:  # what is passed over for its size is nobody's to settle
        wire.open()
        for handle, most in enumerate((10, 10, 0)):
            wire.send(frame(ATTACH, [f"r{handle}", handle, True, None, None, source, Wired(0x29, [None]), None, None, None,
                                     amqpwire.Ulong(most)]))
            wire.expect(ATTACH)
        for handle in (0, 1):
            wire.send(frame(FLOW, [0, 10 ** 8, 0, 10 ** 8, handle, 0, 10 ** 6, None, True]))
            wire.expect(FLOW)
        wire.send(frame(FLOW, [0, 10 ** 8, 0, 10 ** 8, 2, 0, 5]))
        transfers(wire, 5)


if __name__ == "__main__":
    run(what_nobody_settles_has_a_limit, a_browser_takes_nothing, dead_letters_are_looked_at, a_browser_sees_what_its_group_has_not_done,
        positions_of_a_queue, the_last_record_of_each_partition, what_one_has_sent_oneself, a_stream_is_read_from_its_end_on,
        a_group_of_a_stream_is_one_as_of_any_queue, a_topic_and_its_past)
