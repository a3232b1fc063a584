# SPDX-License-Identifier: Apache-2.0
"""Eclipse Paho's Python client, MQTT 3.1.1 and 5: paho_mqtt.py HOST PORT"""
import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from checks import (ORDERED, QUIET_SECONDS, SIZES, WAIT_SECONDS, Checks, address, make_queue, payload, same, tls_address,
                    tls_context)

UNSPECIFIED = 0x80  # how Paho names an end without a word


class Connection:
    """One client whose answers and messages are waited for."""

    def __init__(self, version, client_id, kept=False, manual_ack=False):
        self.kept = kept  # its session outlives the connection
        self.messages = queue.Queue()
        self.connected, self.subscribed, self.unsubscribed, self.disconnected = (queue.Queue() for _ in range(4))
        self.answers = {}  # by packet identifier, before its publish ends
        self.properties = None  # of CONNACK
        options = {"clean_session": not kept} if version == mqtt.MQTTv311 else {}
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version, manual_ack=manual_ack,
                                  **options)
        self.client.max_inflight_messages_set(20)
        self.client.on_connect = self._connected
        self.client.on_publish = lambda c, u, mid, code, p: self.answers.update({mid: code.value})
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, codes, p: self.subscribed.put([code.value for code in codes])
        self.client.on_unsubscribe = lambda c, u, mid, codes, p: self.unsubscribed.put([code.value for code in codes])
        self.client.on_disconnect = lambda c, u, flags, code, p: self.disconnected.put(code)

    def _connected(self, client, userdata, flags, code, properties):  # pylint: disable=too-many-arguments
        self.properties = properties
        self.connected.put((flags, code))

    def connect(self, tls=False):
        if tls:
            self.client.tls_set_context(tls_context())
        options = {}
        if self.kept and self.client.protocol == mqtt.MQTTv5:
            options = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
            options["properties"].SessionExpiryInterval = 100
        self.client.connect(*(tls_address() if tls else address()), **options)
        self.client.loop_start()
        return self.connected.get(timeout=WAIT_SECONDS)

    def subscribe(self, *arguments, **options):
        self.client.subscribe(*arguments, **options)
        return self.subscribed.get(timeout=WAIT_SECONDS)

    def unsubscribe(self, filters):
        self.client.unsubscribe(filters)
        return self.unsubscribed.get(timeout=WAIT_SECONDS)

    def publish(self, topic, body, qos, properties=None):
        """The reason of the broker's last answer."""
        info = self.client.publish(topic, body, qos, properties=properties)
        info.wait_for_publish(WAIT_SECONDS)
        if not info.is_published():
            raise TimeoutError("no answer to PUBLISH")
        return self.answers.get(info.mid)

    def next(self):
        return self.messages.get(timeout=WAIT_SECONDS)

    def nothing_more(self):
        try:
            message = self.messages.get(timeout=QUIET_SECONDS)
        except queue.Empty:
            return
        raise AssertionError(f"a message too many: {message.topic} {message.payload[:40]}")

    def vanish(self):
        """Closes the connection without a word."""
        self.client.loop_stop()
        self.client.socket().close()

    def disconnect(self):
        self.client.disconnect()
        code = self.disconnected.get(timeout=WAIT_SECONDS)
        self.client.loop_stop()
        return code


def publish_properties():
    properties = Properties(PacketTypes.PUBLISH)
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 60
    properties.ContentType = "text/plain; charset=utf-8"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\x01\xff"
    properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "3"), ("", "empty name"), ("ü", "€")]
    return properties


def run(version):
    five = version == mqtt.MQTTv5
    label = "v5" if five else "v3.1.1"
    base = f"paho-python/{label}"
    check = Checks(f"paho-mqtt {label}")
    subscriber, publisher = Connection(version, f"{base}-sub"), Connection(version, f"{base}-pub")

    with check("connect"):
        for connection in (subscriber, publisher):
            flags, code = connection.connect()
            same((code.value, flags.session_present), (0, False))
    if check.failed:
        return check.failed

    with check("subscribe with + and #"):
        same(subscriber.subscribe([(f"{base}/+/data", 2), (f"{base}/deep/#", 1)]), [2, 1])
        for topic in ("deep", "deep/a", "other", "x/y/data", "deep/a/b/c", "x/data"):
            publisher.publish(f"{base}/{topic}", topic, 1)
        got = sorted(subscriber.next().payload.decode() for _ in range(4))  # order holds per topic
        same(got, ["deep", "deep/a", "deep/a/b/c", "x/data"])
        subscriber.nothing_more()

    # What comes twice is met by the next check; the last of a QoS looks for more.
    for qos in 0, 1, 2:
        for name, size in SIZES.items():
            with check(f"QoS {qos}, {name}"):
                publisher.publish(f"{base}/q{qos}/data", payload(size), qos)
                message = subscriber.next()
                same((message.topic, message.qos, message.retain), (f"{base}/q{qos}/data", qos, False))
                same(message.payload, payload(size))
        with check(f"QoS {qos}, {ORDERED} messages in order, each once"):
            infos = [publisher.client.publish(f"{base}/q{qos}/data", str(i), qos) for i in range(ORDERED)]
            same([subscriber.next().payload.decode() for _ in range(ORDERED)], [str(i) for i in range(ORDERED)])
            for info in infos:
                info.wait_for_publish(WAIT_SECONDS)
            subscriber.nothing_more()

    with check("QoS 2 published, QoS 0 granted: delivered with QoS 0"):
        same(subscriber.subscribe(f"{base}/low", 0), [0])
        publisher.publish(f"{base}/low", "x", 2)
        same(subscriber.next().qos, 0)

    if five:
        with check("properties round trip"):
            sent = publish_properties()
            publisher.publish(f"{base}/p/data", "grüße", 1, sent)
            got = subscriber.next().properties
            same(got.PayloadFormatIndicator, 1)
            same((got.ContentType, got.ResponseTopic, got.CorrelationData),
                 (sent.ContentType, sent.ResponseTopic, sent.CorrelationData))
            same(0 < got.MessageExpiryInterval <= 60, True)
            same(got.UserProperty, sent.UserProperty)
        with check("subscription identifier"):
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.SubscriptionIdentifier = 268435455
            same(subscriber.subscribe(f"{base}/id", 1, properties=properties), [1])
            publisher.publish(f"{base}/id", "x", 1)
            same(subscriber.next().properties.SubscriptionIdentifier, [268435455])
        with check("no local"):
            same(subscriber.subscribe(f"{base}/mine", options=SubscribeOptions(qos=1, noLocal=True)), [1])
            subscriber.publish(f"{base}/mine", "own", 1)
            publisher.publish(f"{base}/mine", "other", 1)
            same(subscriber.next().payload, b"other")
            subscriber.nothing_more()

    with check("$share: its members take turns"):
        same(subscriber.subscribe([(f"$share/g/{base}/s", 1), (f"{base}/t", 1)]), [1, 1])
        same(publisher.subscribe(f"$share/g/{base}/s", 1), [1])
        for body in "x", "y", "z":
            publisher.publish(f"{base}/s", body, 1)
        same([subscriber.next().payload for _ in range(2)], [b"x", b"z"])
        same(publisher.next().payload, b"y")
        same(publisher.unsubscribe(f"$share/g/{base}/s"), [0] if five else [])
        publisher.publish(f"{base}/s", "mine", 1)
        same(subscriber.next().payload, b"mine")

    with check("retained, with a wildcard"):
        for name in "1", "2", "3":
            publisher.client.publish(f"{base}/keep/{name}", name, 1, retain=True).wait_for_publish(WAIT_SECONDS)
        publisher.client.publish(f"{base}/keep/3", b"", 1, retain=True).wait_for_publish(WAIT_SECONDS)
        same(subscriber.subscribe(f"{base}/keep/+", 1), [1])
        got = [subscriber.next() for _ in range(2)]
        same(sorted((message.payload, message.retain) for message in got), [(b"1", True), (b"2", True)])
        subscriber.nothing_more()

    with check("a session that goes on: what it missed, in order, each once"):
        kept = Connection(version, f"{base}-kept", kept=True)
        same(kept.connect()[0].session_present, False)
        same(kept.subscribe(f"{base}/missed/#", 2), [2])
        same(kept.disconnect().value, 0)
        for i in range(30):
            publisher.publish(f"{base}/missed/{i % 2}", str(i), 2)
        again = Connection(version, f"{base}-kept", kept=True)
        same(again.connect()[0].session_present, True)
        same([again.next().payload.decode() for _ in range(30)], [str(i) for i in range(30)])
        again.nothing_more()
        same(again.disconnect().value, 0)

    with check("will, after its delay where there is one" if five else "will"):
        leaving = Connection(version, f"{base}-leaving", kept=True)
        properties = None
        if five:
            properties = Properties(PacketTypes.WILLMESSAGE)
            properties.WillDelayInterval = 1
            properties.UserProperty = [("left", "in a hurry")]
        leaving.client.will_set(f"{base}/deep/will", "gone", 1, properties=properties)
        leaving.connect()
        leaving.vanish()
        message = subscriber.next()
        same((message.topic, message.payload), (f"{base}/deep/will", b"gone"))
        if five:
            same(message.properties.UserProperty, [("left", "in a hurry")])

    if five:
        with check("retain handling, retain as published"):
            publisher.client.publish(f"{base}/rh", "old", 1, retain=True).wait_for_publish(WAIT_SECONDS)
            for handling, expected in (2, 0), (1, 0), (0, 1), (1, 0):
                options = SubscribeOptions(qos=1, retainHandling=handling, retainAsPublished=True)
                same(subscriber.subscribe(f"{base}/rh", options=options), [1])
                for _ in range(expected):
                    same(subscriber.next().retain, True)
            publisher.client.publish(f"{base}/rh", "new", 1, retain=True).wait_for_publish(WAIT_SECONDS)
            message = subscriber.next()
            same((message.payload, message.retain), (b"new", True))
            subscriber.nothing_more()

    with check("$queue: kept and given back, by " + ("receipt" if five else "packet identifier")):
        worker = Connection(version, f"{base}-worker", manual_ack=True)
        worker.connect()
        options = {}
        if five:
            options = {"properties": Properties(PacketTypes.SUBSCRIBE)}
            options["properties"].UserProperty = [("show", "receipt"), ("lease", "2000")]
        # The queue where topics without a route are; its new group begins now.
        same(worker.subscribe(f"$share/py-{version}/$queue/mqtt", 1, **options), [1])
        publisher.publish(f"{base}/job", "work", 1)
        first = worker.next()
        handle = dict(first.properties.UserProperty)["receipt"] if five else str(first.mid)
        worker.publish("$queue/mqtt/$extend", f"{handle} 60000", 1)
        if five:
            time.sleep(2.3)  # its lease would have run out
            same(worker.messages.empty(), True)
        worker.publish("$queue/mqtt/$nack", handle, 1)
        again = worker.next()
        same((again.topic, again.payload, again.dup), ("$queue/mqtt", b"work", False))
        if five:
            same(dict(again.properties.UserProperty)["delivery-count"], "1")
        for message in first, again:
            worker.client.ack(message.mid, message.qos)
        worker.nothing_more()
        same(worker.disconnect().value, 0)

    with check("$dead: what was given back too often"):
        make_queue(f"py-{version}", redrive_policy="enable", max_consume_count=1)
        worker, dead = Connection(version, f"{base}-gives-back", manual_ack=True), Connection(version, f"{base}-dead")
        for connection, address_ in (worker, f"$queue/py-{version}"), (dead, f"$queue/py-{version}/$dead/mqtt"):
            connection.connect()
            same(connection.subscribe(address_, 1, **options), [1])
        publisher.publish(f"$queue/py-{version}", "bad", 1)
        message = worker.next()
        handle = dict(message.properties.UserProperty)["receipt"] if five else str(message.mid)
        worker.publish(f"$queue/py-{version}/$nack", handle, 1)
        worker.client.ack(message.mid, message.qos)
        message = dead.next()
        same((message.topic, message.payload), (f"$queue/py-{version}/$dead/mqtt", b"bad"))
        if five:
            same(dict(message.properties.UserProperty)["dead-letter-reason"], "failures")
        for connection in worker, dead:
            same(connection.disconnect().value, 0)

    if five:
        with check("replay: what was published before, then what comes"):
            properties = Properties(PacketTypes.SUBSCRIBE)
            properties.UserProperty = [("replay", "earliest"), ("show", "offset")]
            for body in "0", "1":
                publisher.publish(f"{base}/again", body, 1)
            same(subscriber.subscribe(f"{base}/again", 1, properties=properties), [1])
            publisher.publish(f"{base}/again", "2", 1)
            got = [subscriber.next() for _ in range(3)]
            same([message.payload for message in got], [b"0", b"1", b"2"])
            places = [dict(message.properties.UserProperty) for message in got]
            same(len({place["partition"] for place in places}), 1)
            offsets = [int(place["offset"]) for place in places]
            same(offsets, sorted(set(offsets)))
            properties.UserProperty = [("replay", "soon")]
            same(subscriber.subscribe(f"{base}/again", 1, properties=properties), [0x83])

    with check("another client with its identifier ends it"):
        older, newer = Connection(version, f"{base}-twice"), Connection(version, f"{base}-twice")
        older.connect()
        newer.connect()
        same(older.disconnected.get(timeout=WAIT_SECONDS).value, 0x8E if five else UNSPECIFIED)
        older.client.loop_stop()
        same(newer.disconnect().value, 0)

    with check("unsubscribe"):
        reasons = subscriber.unsubscribe([f"{base}/+/data", f"{base}/never"])
        same(reasons, [0, 0x11] if five else [])
        publisher.publish(f"{base}/x/data", "x", 1)
        publisher.publish(f"{base}/deep/still", "y", 1)
        same(subscriber.next().payload, b"y")
        subscriber.nothing_more()

    with check("disconnect"):
        for connection in (subscriber, publisher):
            same(connection.disconnect().value, 0)
            same(connection.disconnected.empty(), True)

    with check("TLS: 1 MiB there and back"):
        connection = Connection(version, f"{base}-tls")
        same(connection.connect(tls=True)[0].session_present, False)
        connection.subscribe(f"{base}/tls", 1)
        connection.publish(f"{base}/tls", payload(SIZES["1 MiB"]), 1)
        same(connection.next().payload, payload(SIZES["1 MiB"]))
        same(connection.disconnect().value, 0)
    return check.failed


if __name__ == "__main__":
    sys.exit(1 if run(mqtt.MQTTv311) + run(mqtt.MQTTv5) else 0)
