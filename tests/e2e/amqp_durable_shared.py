# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0: subscriptions of several links, as JMS clients ask for them, that outlive them all."""
import contextlib
import random
import threading
import time

from proton import Delivery, Terminus, Timeout
from proton.utils import LinkDetached

from amqpwire import ATTACH, BEGIN, DETACH, Described as Wired, Symbol, Wire, frame
from durablelink import (
    SECONDS, Durable, Second, Selector, Shared, bodies, connect, detach, flush, look, nothing_more, refused, send,
    settle_second, share, subscribe, take)
from gateway import run, until
from wire import Client


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


def arrivals(connections, members):
    """All that has come is in the fetchers when nothing more does."""
    def count():
        for connection in connections:
            connection.container.process()
        return sum(len(member.fetcher.incoming) for member in members)
    return count


def an_outcome_that_was_answered_is_durable(running):
    """To members that settle second, of whatever container: also when the gateway dies at that moment."""
    for more in (), ("global",):
        names = [f"sure|global{i}" if more else f"sure|{i}" for i in range(3)]
        connections = [connect(running, container) for container in ("c", "d" if more else "c")]
        members = [share(connection, name, more=more, options=[Second()]) for connection, name in zip(connections, names)]
        send(running, *range(40))
        count = arrivals(connections, members)
        assert until(lambda: count() == 40, SECONDS)
        over = set()
        for member in members:
            mine = bodies(take(member, len(member.fetcher.incoming), state=None))
            assert len(mine) > 3, mine
            unsettled = list(member.fetcher.unsettled)
            settle_second(member, unsettled[-2:])
            settle_second(member, unsettled[:1], Delivery.REJECTED)
            over |= {*mine[-2:], mine[0]}
        running.kill9()
        running.restart()
        connection = connect(running, "c")
        member = share(connection, names[2], more=more, options=[Second()])
        left = sorted(set(range(40)) - over)
        assert sorted(bodies(take(member, len(left), state=None))) == left
        settle_second(member, list(member.fetcher.unsettled))
        send(running, "end")
        assert bodies(take(member, 1)) == ["end"]
        connection.close()


def what_is_answered_late_is_over(running):
    """An outcome whose answer is still owed when its link goes comes to no other member."""
    connection = connect(running)
    first = share(connection, options=[Second()])
    send(running, *range(20))
    take(first, 20, state=None)
    for delivery in list(first.fetcher.unsettled)[:10]:
        delivery.update(Delivery.ACCEPTED)
    detach(first)
    second = share(connection, "work|2", options=[Second()])
    assert bodies(take(second, 10, state=None)) == list(range(10, 20))
    settle_second(second, list(second.fetcher.unsettled))
    nothing_more(running, second)
    connection.close()


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


def a_look_ends_at_any_moment(running):
    """Its detach leaves the gateway alive and the subscription there; its close gives that up, or says that it does not."""
    moments = random.Random(1)
    connection = connect(running, "hasty")
    detach(share(connection))
    for number in range(240):
        with Wire(running.amqp_port) as wire:
            wire.open("hasty")
            wire.send(frame(ATTACH, ["work", 0, True, None, None, None, Wired(0x29, [None])]))
            for turn in range(number % 7):  # of the gateway
                wire.send(frame(BEGIN, [None, 0, 100, 100], channel=1 + turn))
                wire.expect(BEGIN)
            time.sleep(moments.uniform(0, 0.0003))
            wire.send(frame(DETACH, [0, number % 4 == 0]))
            refusal = b"amqp:" in wire.expect(DETACH)
            time.sleep(0.005)  # while the connection is there, whatever is still under way comes back to it
        if number % 4 > 0 or refusal:
            continue
        refused(connection, lambda: look(connection, "work"), "amqp:not-found")
        detach(share(connection))
    detach(look(connection, "work"))
    connection.close()


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


def a_name_that_one_link_has_is_looked_at_while_messages_come(running):
    """Who asks to share it has the session for a moment, and is refused: what is published just then, at most once, is nobody's."""
    shared = Wired(0x28, ["/topics/x", 2, Symbol("never"), 0, False, None, None, None, None, None, Symbol("shared")])
    ending = threading.Event()

    def publish():
        publisher = Client(running.mqtt_port).connect("publisher")
        while not ending.is_set():
            for _ in range(50):
                publisher.publish("x", b"y", 0)
            time.sleep(0.001)
        publisher.close()
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open("c")
        wire.send(frame(ATTACH, ["d", 0, True, None, None, Wired(0x28, ["/topics/x", 2, Symbol("never")]), Wired(0x29, [None])]))
        wire.expect(ATTACH)
        wire.send(frame(DETACH, [0, False]))
        wire.expect(DETACH)
        thread = threading.Thread(target=publish)
        thread.start()
        try:
            for number in range(80):
                wire.send(frame(ATTACH, [f"d|{number}", 0, True, None, None, shared, Wired(0x29, [None])]))
                assert b"amqp:resource-locked" in wire.expect(DETACH)
                wire.send(frame(DETACH, [0, True]))
        finally:
            ending.set()
            thread.join()


if __name__ == "__main__":
    run(several_links_share, a_name_that_one_link_has_is_looked_at_while_messages_come, an_outcome_that_was_answered_is_durable, what_is_answered_late_is_over, what_a_member_releases_is_anybodys, a_share_ends_when_it_is_given_up,
        a_look_ends_at_any_moment, what_links_share_ends_after_the_last_of_them, a_share_is_of_one_topic_and_selector,
        one_name_is_of_one_kind, many_links_come_at_once)
