# SPDX-License-Identifier: Apache-2.0
"""What Paho's Python client is told at the limits that script/test-clients sets: paho_limits.py HOST PORT"""
import queue
import sys
import time

import paho.mqtt.client as mqtt

from checks import WAIT_SECONDS, Checks, same
from paho_mqtt import UNSPECIFIED, Connection

KEEP_ALIVE_SECONDS = 4
PACKET_MAX = 65536
# Paho answers a PUBREC with PUBREL whatever its reason is, and hands the reason of the PUBCOMP on: no such identifier.
REFUSED_QOS_2 = 0x92


def run(version):  # pylint: disable=too-many-locals,too-many-statements
    five = version == mqtt.MQTTv5
    label = "v5" if five else "v3.1.1"
    base = f"limits/{label}"
    check = Checks(f"paho-mqtt {label}")

    def connected(name, **options):
        connection = Connection(version, f"{base}/{name}", **options)
        flags, code = connection.connect()
        same((code.value, flags.session_present), (0, False))
        return connection

    def ended(connection, reason):
        same(connection.disconnected.get(timeout=WAIT_SECONDS).value, reason if five else UNSPECIFIED)
        connection.client.loop_stop()

    def refused(topic, reason):
        """3.1.1 has no other word for it than the end of the connection."""
        for qos in 1, 2:
            connection = connected("refused")
            if five:
                same(connection.publish(topic, "x", qos), (reason, REFUSED_QOS_2)[qos - 1])
                same(connection.publish(f"{base}/fine", "x", qos), 0)
                same(connection.disconnect().value, 0)
            else:
                connection.client.publish(topic, "x", qos)
                ended(connection, None)

    idle = Connection(version, f"{base}/idle")
    pinged = queue.Queue()
    idle.client.on_log = lambda c, u, level, text: pinged.put(time.monotonic()) if text == "Sending PINGREQ" else None
    began = time.monotonic()
    with check("CONNACK says the limits"):
        same(idle.connect()[1].value, 0)
        if five:
            same((idle.properties.ServerKeepAlive, idle.properties.ReceiveMaximum, idle.properties.MaximumPacketSize),
                 (KEEP_ALIVE_SECONDS, 20, PACKET_MAX))

    with check("subscriptions of one client"):
        connection = connected("subscriptions")
        no = 0x97 if five else 0x80
        same(connection.subscribe([(f"{base}/{name}", 1) for name in "abcd"]), [1, 1, 1, no])
        connection.unsubscribe(f"{base}/a")
        same(connection.subscribe(f"{base}/d", 1), [1])
        same(connection.subscribe(f"{base}/a", 1), [no])
        same(connection.disconnect().value, 0)

    with check("levels of a filter and of a topic"):
        connection = connected("levels")
        same(connection.subscribe([("1/2/3/4", 1), ("1/2/3/4/5", 1), ("+/+/+/+/#", 1)]),
             [1, 0x8F, 0x8F] if five else [1, 0x80, 0x80])
        same(connection.disconnect().value, 0)
        refused("1/2/3/4/5", 0x90)

    with check("a topic that is not for clients"):
        refused("$SYS/broker/version", 0x87)

    with check("deliveries without an answer"):
        reader, writer = connected("reader", manual_ack=True), connected("writer")
        same(reader.subscribe(f"{base}/flight", 1), [1])
        for i in range(12):
            writer.publish(f"{base}/flight", str(i), 1)
        got = []
        for count in 5, 5, 2:
            some = [reader.next() for _ in range(count)]
            reader.nothing_more()
            got += [int(message.payload) for message in some]
            for message in some:
                reader.client.ack(message.mid, message.qos)
        same(got, list(range(12)))
        for connection in reader, writer:
            same(connection.disconnect().value, 0)

    with check("what is kept for a session: the newest"):
        before, writer = connected("kept", kept=True), connected("writer")
        same(before.subscribe(f"{base}/missed", 1), [1])
        same(before.disconnect().value, 0)
        for i in range(12):
            writer.publish(f"{base}/missed", str(i), 1)
        again = Connection(version, f"{base}/kept", kept=True)
        same(again.connect()[0].session_present, True)
        same([int(again.next().payload) for _ in range(5)], list(range(7, 12)))
        again.nothing_more()
        for connection in again, writer:
            same(connection.disconnect().value, 0)

    with check("publishes of one client"):
        connection = connected("fast")
        for qos, no in (1, 0x97), (2, REFUSED_QOS_2):
            told = set()
            end = time.monotonic() + WAIT_SECONDS
            while no not in told and connection.disconnected.empty() and time.monotonic() < end:
                infos = [connection.client.publish(f"{base}/fast", "x", qos) for _ in range(20)]
                for info in infos:
                    while not info.is_published() and connection.disconnected.empty() and time.monotonic() < end:
                        info.wait_for_publish(0.01)
                told |= {connection.answers.get(info.mid) for info in infos}
            if not five:
                break
            same(told - {0}, {no})
        if five:
            other = connected("slow")
            same(other.publish(f"{base}/fast", "x", 1), 0)
            for each in other, connection:
                same(each.disconnect().value, 0)
        else:
            ended(connection, None)

    with check("a packet that is too large"):
        connection = connected("large")
        topic = f"{base}/large"
        same(connection.subscribe(topic, 1), [1])
        # The name, its length, an identifier and in MQTT 5 the length of properties; before that four bytes.
        room = PACKET_MAX - 4 - 2 - len(topic) - 2 - (1 if five else 0)
        same(connection.publish(topic, bytes(room), 1), 0)
        same(len(connection.next().payload), room)
        connection.client.publish(topic, bytes(room + 1), 1)
        ended(connection, 0x95)

    if five:
        with check("the keep alive of the server"):
            after = pinged.get(timeout=WAIT_SECONDS) - began
            same(after >= KEEP_ALIVE_SECONDS - 2, True)
    with check("who kept to the limits stays"):
        same(idle.disconnected.empty(), True)
        same(idle.disconnect().value, 0)
    return check.failed


def connections(version):
    """Comes last, as it leaves no room for others."""
    five = version == mqtt.MQTTv5

    def attempt():
        connection = Connection(version, "")
        code = connection.connect()[1].value
        connection.client.disconnect()
        connection.client.loop_stop()
        return code
    check = Checks("paho-mqtt " + ("v5" if five else "v3.1.1"))
    with check("connections in one second"):
        code = next(filter(None, (attempt() for _ in range(400))), 0)
        same(code, 0x9F if five else 0x88)  # as Paho names the 3 of 3.1.1
        end = time.monotonic() + WAIT_SECONDS
        while code != 0 and time.monotonic() < end:
            code = attempt()
        same(code, 0)
    return check.failed


if __name__ == "__main__":
    sys.exit(1 if sum(each(version) for each in (run, connections) for version in (mqtt.MQTTv311, mqtt.MQTTv5)) else 0)
