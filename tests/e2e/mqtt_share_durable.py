#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Shared subscriptions in which sessions take part that outlive their connection: what was published while nobody was
there, what a member held when it went (MQTT 5.0, 4.8.2), and the end of a share - over reconnects, restart and kill -9."""

import random
import socket
import threading
import time

from gateway import Gateway, run, until
from wire import *  # noqa: F403 - the names of the protocol

KEEP = [(SESSION_EXPIRY, 1000)]
FILTER = "$share/g/d/+"


def resume(gateway, name, version=5, credit=None, keep=KEEP):
    props = (keep if version == 5 else []) + ([(RECEIVE_MAXIMUM, credit)] if credit else [])
    return Client(gateway.mqtt_port, version).connect(name, clean=False, props=props)


def connect(gateway, name, credit=None):
    return Client(gateway.mqtt_port).connect(name, props=[(RECEIVE_MAXIMUM, credit)] if credit else [])


def leave(client, props=()):
    """Waits until the gateway has taken note."""
    client.disconnect(props=props)
    while client.receive() is not None:
        continue
    client.close()


def send_all(gateway, numbers, qos=1):
    with connect(gateway, "writer%d" % threading.get_ident()) as writer:
        for number in numbers:
            assert writer.publish("d/%d" % (number % 3), str(number), qos, packet_id=number % 60000 + 1) == 0


def member(gateway, name, qos=1, **options):
    """A session that takes part, and has gone."""
    client = resume(gateway, name, **options)
    assert client.subscribe((FILTER, qos)) == [qos]
    leave(client)


def numbers(client, count):
    return [int(client.delivery().payload) for _ in range(count)]


def drain(*clients, silence=0.3, least=0):
    """What each of them gets until nothing comes for a while; of less than that is known to come, ten seconds longer."""
    got = [[] for _ in clients]
    until = time.monotonic() + 10
    for client in clients:
        client.socket.settimeout(silence)
    passes = 0
    while passes < 2 or (sum(map(len, got)) < least and time.monotonic() < until):
        passes += 1
        for client, mine in zip(clients, got):
            try:
                while True:
                    mine.append(int(client.delivery().payload))
            except TimeoutError:
                pass
    for client in clients:
        client.socket.settimeout(10)
    return got


def test_nobody_was_there(gateway):
    """What is published while every member is away waits for whoever returns first, over a kill -9, also with QoS 2; each
    record goes to one."""
    member(gateway, "a", 2)
    member(gateway, "b", 1, version=4)
    send_all(gateway, range(40))
    send_all(gateway, range(40, 60), 2)
    gateway.kill9()
    gateway.restart()
    send_all(gateway, range(60, 80))
    with resume(gateway, "a", credit=5) as a, resume(gateway, "b", version=4) as b:
        assert a.connack.body[0] == b.connack.body[0] == 1
        got = drain(a, b)
        assert sorted(got[0] + got[1]) == list(range(80)), got
        assert got[0] and got[1]
        send_all(gateway, range(80, 100))
        got = drain(a, b)
        assert sorted(got[0] + got[1]) == list(range(80, 100)), got
        leave(a)
        leave(b)
    # One that joins now, without a session, gets what waits as well.
    send_all(gateway, range(100, 120))
    with connect(gateway, "guest") as guest:
        assert guest.subscribe((FILTER, 1)) == [1]
        assert numbers(guest, 20) == list(range(100, 120))
        guest.ping()
    gateway.stop()
    gateway.start()
    with resume(gateway, "b", version=4) as b:
        b.expect_silence(0.3)


def test_held_when_it_went(gateway):
    """Unacknowledged QoS 1 stays with the session while it lives, under its packet identifiers, and goes to another
    member when it ends (MQTT-4.8.2-5); QoS 2 is completed with its client (MQTT-4.8.2-4) and never goes to another."""
    member(gateway, "a", 2, credit=4)
    send_all(gateway, range(2))
    send_all(gateway, (2, 3), 2)
    send_all(gateway, range(4, 6))
    a = resume(gateway, "a", credit=4)
    held = [a.expect(PUBLISH) for _ in range(4)]
    assert [(int(d.payload), d.qos, d.flags & 8) for d in held] == [(0, 1, 0), (1, 1, 0), (2, 2, 0), (3, 2, 0)], held
    a.ack(PUBREC, held[2].id)
    assert a.expect(PUBREL).id == held[2].id
    leave(a)
    with resume(gateway, "b") as b:
        assert b.subscribe((FILTER, 1)) == [1]
        assert numbers(b, 2) == [4, 5]
        b.expect_silence(0.2)
        leave(b)
    gateway.kill9()
    gateway.restart()
    with resume(gateway, "b") as b:
        assert set(drain(b)[0]) <= {4, 5}  # that it had them may not have been stored yet
        a = resume(gateway, "a", credit=4)
        again = [a.receive() for _ in range(4)]
        assert [(p.type, p.id) for p in again] == [(PUBLISH, held[0].id), (PUBLISH, held[1].id), (PUBREL, held[2].id),
                                                   (PUBLISH, held[3].id)], again
        assert all(p.flags & 8 for p in again if p.type == PUBLISH)
        a.ack(PUBACK, held[0].id)
        a.ack(PUBCOMP, held[2].id)
        a.ping()
        leave(a, [(SESSION_EXPIRY, 0)])  # over: 1 goes to b, 3 to nobody
        assert numbers(b, 1) == [1]
        b.expect_silence(0.3)


def test_takeover(gateway):
    """A session that is taken over has not ended: what it held comes to the new connection and to no other member."""
    with resume(gateway, "b", credit=3) as b:
        a = resume(gateway, "a", credit=3)
        for client in a, b:
            assert client.subscribe((FILTER, 2)) == [2]
        send_all(gateway, range(8))
        held = [{int(p.payload): p.id for p in (client.expect(PUBLISH) for _ in range(3))} for client in (a, b)]
        with resume(gateway, "a", credit=3) as newer:
            assert a.expect_end() == 0x8E
            again = [newer.expect(PUBLISH) for _ in range(3)]
            assert {int(p.payload): p.id for p in again} == held[0] and all(p.flags & 8 for p in again), again
            b.expect_silence(0.2)
            for client, mine in ((newer, held[0]), (b, held[1])):
                for identifier in mine.values():
                    client.ack(PUBACK, identifier)
            got = drain(newer, b)
            assert sorted(got[0] + got[1] + list(held[0]) + list(held[1])) == list(range(8)), (held, got)


def test_exactly_once_without_a_session(gateway):
    """What a member without a session was given with QoS 2 goes to nobody else, not after a kill -9 either
    (MQTT-4.8.2-5); what it was given with QoS 1 does, and so does what it could not take."""
    member(gateway, "a", 2)
    with connect(gateway, "guest", credit=5) as guest:
        assert guest.subscribe((FILTER, 2)) == [2]
        send_all(gateway, range(30), 2)
        got = numbers(guest, 30)
        for topic in range(3):  # each in its order
            assert [number for number in got if number % 3 == topic] == list(range(topic, 30, 3)), got
    with connect(gateway, "guest", credit=4) as guest:
        assert guest.subscribe((FILTER, 2)) == [2]
        send_all(gateway, range(2))
        send_all(gateway, range(2, 4), 2)
        assert sorted(int(guest.expect(PUBLISH).payload) for _ in range(4)) == list(range(4))
        send_all(gateway, range(4, 6))
        gateway.kill9()
    gateway.restart()
    with resume(gateway, "a") as a:
        assert sorted(drain(a)[0]) == [0, 1, 4, 5]
        leave(a)
    with connect(gateway, "guest", credit=1) as guest:  # what was meant for it is others' as long as it is not sent
        assert guest.subscribe((FILTER, 2)) == [2]
        send_all(gateway, range(6, 9), 2)
        first = guest.expect(PUBLISH)
        assert int(first.payload) == 6
        with resume(gateway, "a") as a:
            assert numbers(a, 2) == [7, 8]
            leave(a)
        guest.ack(PUBREC, first.id)
        guest.ack(PUBCOMP, guest.expect(PUBREL).id)
        send_all(gateway, range(9, 10), 2)
        assert numbers(guest, 1) == [9]
    with resume(gateway, "a") as a:
        a.expect_silence(0.2)
        assert a.unsubscribe(FILTER) == [0]


def test_session_expires(gateway):
    """The same when nobody says so: the session runs out, or begins anew under its name; also while the share has no
    member."""
    for how in ("expires", "clean"):
        member(gateway, "b")
        a = resume(gateway, "a", credit=2, keep=[(SESSION_EXPIRY, 1)] if how == "expires" else KEEP)
        assert a.subscribe((FILTER, 1)) == [1]
        send_all(gateway, range(2))
        assert [int(a.expect(PUBLISH).payload) for _ in range(2)] == [0, 1]
        leave(a)
        if how == "clean":
            Client(gateway.mqtt_port).connect("a", clean=True).close()
        got = []

        def came():
            with resume(gateway, "b") as b:
                got.extend(drain(b, silence=0.2)[0])
                leave(b)
            return len(got) >= 2

        assert until(came, 20, 0.3), (how, got)
        assert sorted(got) == [0, 1]
        with resume(gateway, "b") as b:
            b.expect_silence(0.1)
            assert b.unsubscribe(FILTER) == [0]


def test_end_of_a_share(gateway):
    """It ends with its last member that has a session, whether that leaves or is over; who comes then begins anew."""
    for how in ("unsubscribes", "disconnects", "clean"):
        member(gateway, "a")
        member(gateway, "b")
        send_all(gateway, range(3))
        for name in ("a", "b"):
            if how == "clean":
                Client(gateway.mqtt_port).connect(name, clean=True).close()
                continue
            with resume(gateway, name, credit=1) as client:
                if how == "unsubscribes":
                    assert client.unsubscribe(FILTER) == [0]
                leave(client, [(SESSION_EXPIRY, 0)] if how == "disconnects" else ())
        send_all(gateway, range(3, 6))

        def begins_anew():
            with connect(gateway, "later") as later:
                assert later.subscribe((FILTER, 1)) == [1]
                return drain(later, silence=0.1) == [[]]

        assert until(begins_anew, 20), how
        member(gateway, "c")
        send_all(gateway, range(6, 8))
        with resume(gateway, "c") as c:
            assert numbers(c, 2) == [6, 7]
            c.expect_silence(0.1)
            assert c.unsubscribe(FILTER) == [0]


def test_only_at_most_once_keeps_nothing(gateway):
    member(gateway, "a", 0)
    send_all(gateway, range(3))
    with resume(gateway, "a") as a:
        a.expect_silence(0.2)
        send_all(gateway, range(3, 5))
        assert [a.delivery().qos for _ in range(2)] == [0, 0]
        assert a.subscribe((FILTER, 1)) == [1]  # and now it does
        leave(a)
    send_all(gateway, range(5, 8))
    with resume(gateway, "a") as a:
        assert numbers(a, 3) == [5, 6, 7]
        assert a.subscribe((FILTER, 0)) == [0]
        leave(a)
    send_all(gateway, range(8, 10))
    with resume(gateway, "a") as a:
        a.expect_silence(0.2)


def test_slow_member(gateway):
    """One that does not acknowledge, and one that is not there, stop nobody."""
    member(gateway, "away")
    with resume(gateway, "slow", credit=3) as slow, resume(gateway, "quick") as quick:
        assert slow.subscribe((FILTER, 1)) == quick.subscribe((FILTER, 1)) == [1]
        sender = threading.Thread(target=send_all, args=(gateway, range(1500)))
        sender.start()
        mine = {int(slow.expect(PUBLISH).payload) for _ in range(3)}
        got = set(numbers(quick, 1497))
        sender.join()
        assert len(mine | got) == 1500 and not mine & got
        quick.expect_silence(0.1)
        leave(slow, [(SESSION_EXPIRY, 0)])
        assert set(numbers(quick, 3)) == mine


def test_becomes_durable(gateway):
    """A session joins while others are served, some of them slowly: nothing is lost, nothing comes twice."""
    with connect(gateway, "slow", credit=2) as slow, connect(gateway, "quick", credit=20) as quick:
        assert slow.subscribe((FILTER, 1)) == quick.subscribe((FILTER, 1)) == [1]
        sender = threading.Thread(target=send_all, args=(gateway, range(1000)))
        sender.start()
        held = [int(slow.expect(PUBLISH).payload) for _ in range(2)]
        got = numbers(quick, 200)
        with resume(gateway, "kept") as kept:
            assert kept.subscribe((FILTER, 1)) == [1]
            more = numbers(quick, 100)
            sender.join()
            rest = drain(quick, kept, least=698)
            assert sorted(held + got + more + rest[0] + rest[1]) == list(range(1000))
            assert rest[1]
            leave(kept)
        slow.close()
        assert sorted(numbers(quick, 2)) == sorted(held)
    send_all(gateway, range(5))
    with resume(gateway, "kept") as kept:
        assert numbers(kept, 5) == list(range(5))


def test_one_at_a_time():
    """Members with one record each, on all workers: what one acknowledges while its session is being stored makes room
    for the next as well."""
    gateway, count = Gateway(None, "workers=3"), 8
    members = [resume(gateway, "one%d" % i, credit=1) for i in range(count)]
    got = [0] * count
    for i, client in enumerate(members):
        assert client.subscribe(("$share/one%d/d/+" % i, 1)) == [1]

    def read(i):
        try:
            while True:
                members[i].delivery()
                got[i] += 1
        except (OSError, AssertionError):  # its socket was shut
            pass

    readers = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(count)]
    for thread in readers:
        thread.start()
    until_s = time.monotonic() + 2.5  # sessions are stored once a second
    with connect(gateway, "writer") as writer:
        sent = 0
        while time.monotonic() < until_s:
            assert writer.publish("d/%d" % (sent % 3), str(sent), 1, packet_id=sent % 60000 + 1) == 0
            sent += 1
    assert until(lambda: got == [sent] * count, 10), (sent, got)
    for client in members:
        client.socket.shutdown(socket.SHUT_RDWR)
    for thread in readers:
        thread.join()
    assert gateway.stop() == 0


def test_under_load(gateway):
    """Sessions and guests come and go, with deliveries in hand, and the gateway is killed: everything arrives, and what
    was acknowledged before a quiet end does not come again."""
    count, seen, acknowledged, done = 3000, set(), [], threading.Event()
    for index in range(3):
        member(gateway, "s%d" % index, index % 2 + 1)

    def work(index):
        local = random.Random(index)
        while not done.is_set():
            kept = index < 3
            client = resume(gateway, "s%d" % index, credit=local.choice((1, 10, 200))) if kept else \
                connect(gateway, "guest%d" % index, credit=5)
            with client:
                if not kept:
                    client.subscribe((FILTER, 1))
                client.socket.settimeout(0.2)
                left = local.randrange(1, 300)
                try:
                    while left and not done.is_set():
                        acknowledged.append(int(client.delivery().payload))
                        left -= 1
                except TimeoutError:
                    pass
                client.socket.settimeout(20)
                client.ping()  # it knows what we have acknowledged
                if local.random() < 0.5:
                    leave(client)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    threads += [threading.Thread(target=send_all, args=(gateway, range(first, count, 2))) for first in range(2)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(set(acknowledged)) == count, 60), count - len(set(acknowledged))
    done.set()
    for thread in threads:
        thread.join()
    assert len(acknowledged) == count, len(acknowledged) - count
    # Killed with deliveries in hand: each of them comes once more, or stays where it is.
    with resume(gateway, "s0", credit=7) as client:
        send_all(gateway, range(50))
        for _ in range(7):
            client.expect(PUBLISH)
        gateway.kill9()
    gateway.restart()
    clients = [resume(gateway, "s%d" % index) for index in range(3)]
    for mine in drain(*clients, least=50):
        seen.update(mine)
    assert seen == set(range(50)), set(range(50)) - seen
    for client in clients:
        client.close()


run(test_nobody_was_there, test_held_when_it_went, test_takeover, test_exactly_once_without_a_session, test_session_expires,
    test_end_of_a_share,
    test_only_at_most_once_keeps_nothing, test_slow_member, test_becomes_durable, test_one_at_a_time, test_under_load)
