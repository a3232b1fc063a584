# SPDX-License-Identifier: Apache-2.0
"""gmqtt, an asyncio client with a codec of its own, MQTT 3.1.1 and 5: gmqtt_client.py HOST PORT"""
import asyncio
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.storage import PersistentStorage

from checks import (ORDERED, QUIET_SECONDS, SIZES, WAIT_SECONDS, Checks, address, payload, same, tls_address,
                    tls_context)

WINDOW = 10  # gmqtt runs out of packet identifiers at the receive maximum, and does not wait


class Connection:
    def __init__(self, version, client_id):
        self.version = version
        self.messages, self.subscribed, self.unsubscribed = asyncio.Queue(), asyncio.Queue(), asyncio.Queue()
        self.connected = asyncio.Queue()
        self.unanswered = PersistentStorage()
        self.lost = 0
        client = self.client = gmqtt.Client(client_id, persistent_storage=self.unanswered)
        client.set_config({"reconnect_retries": 0})
        client.on_connect = lambda c, present, code, properties: self.connected.put_nowait((code, present))
        client.on_message = lambda c, *message: self.messages.put_nowait(message) or 0
        client.on_subscribe = lambda c, mid, codes, properties: self.subscribed.put_nowait(list(codes))
        client.on_unsubscribe = lambda c, mid, codes: self.unsubscribed.put_nowait(list(codes))
        client.on_disconnect = self._disconnected

    def _disconnected(self, *_):
        self.lost += 1

    async def connect(self, tls=False):
        host, port = tls_address() if tls else address()
        context = tls_context() if tls else False
        await asyncio.wait_for(self.client.connect(host, port, ssl=context, version=self.version), WAIT_SECONDS)
        return await asyncio.wait_for(self.connected.get(), WAIT_SECONDS)

    async def subscribe(self, *filters, **properties):
        self.client.subscribe([gmqtt.Subscription(name, qos=qos) for name, qos in filters], **properties)
        return await asyncio.wait_for(self.subscribed.get(), WAIT_SECONDS)

    async def unsubscribe(self, *filters):
        self.client.unsubscribe(list(filters))
        return await asyncio.wait_for(self.unsubscribed.get(), WAIT_SECONDS)

    async def publish(self, topic, body, qos, **properties):
        """Returns when the broker has answered."""
        self.client.publish(topic, body, qos, **properties)
        await self.answered()

    async def answered(self):
        await asyncio.wait_for(self.unanswered.wait_empty(), WAIT_SECONDS)

    async def next(self):
        """(topic, payload, qos, properties)"""
        return await asyncio.wait_for(self.messages.get(), WAIT_SECONDS)

    async def nothing_more(self):
        try:
            message = await asyncio.wait_for(self.messages.get(), QUIET_SECONDS)
        except asyncio.TimeoutError:
            return
        raise AssertionError(f"a message too many: {message[0]} {message[1][:40]}")


async def run(version):
    five = version == MQTTv50
    label = "v5" if five else "v3.1.1"
    base = f"gmqtt/{label}"
    check = Checks(f"gmqtt {label}")
    subscriber, publisher = Connection(version, f"{base}-sub"), Connection(version, f"{base}-pub")

    with check("connect"):
        for connection in (subscriber, publisher):
            same(await connection.connect(), (0, 0))
    if check.failed:
        return check.failed

    with check("subscribe with + and #"):
        same(await subscriber.subscribe((f"{base}/+/data", 2), (f"{base}/deep/#", 1)), [2, 1])
        for topic in ("deep", "deep/a", "other", "x/y/data", "deep/a/b/c", "x/data"):
            await publisher.publish(f"{base}/{topic}", topic, 1)
        got = sorted([(await subscriber.next())[1].decode() for _ in range(4)])  # order holds per topic
        same(got, ["deep", "deep/a", "deep/a/b/c", "x/data"])
        await subscriber.nothing_more()

    # What comes twice is met by the next check; the last of a QoS looks for more.
    for qos in 0, 1, 2:
        for name, size in SIZES.items():
            with check(f"QoS {qos}, {name}"):
                await publisher.publish(f"{base}/q{qos}/data", payload(size), qos)
                topic, body, got, _ = await subscriber.next()
                same((topic, got), (f"{base}/q{qos}/data", qos))
                same(bytes(body), payload(size))
        with check(f"QoS {qos}, {ORDERED} messages in order, each once"):
            for i in range(ORDERED):
                publisher.client.publish(f"{base}/q{qos}/data", str(i), qos)
                if i % WINDOW == WINDOW - 1:
                    await publisher.answered()
            got = [(await subscriber.next())[1].decode() for _ in range(ORDERED)]
            same(got, [str(i) for i in range(ORDERED)])
            await subscriber.nothing_more()

    with check("QoS 2 published, QoS 0 granted: delivered with QoS 0"):
        same(await subscriber.subscribe((f"{base}/low", 0)), [0])
        await publisher.publish(f"{base}/low", "x", 2)
        same((await subscriber.next())[2], 0)

    if five:
        with check("properties round trip"):
            pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("", "empty name"), ("ü", "€")]
            await publisher.publish(
                f"{base}/p/data", "grüße", 1, payload_format_id=1, message_expiry_interval=60,
                content_type="text/plain; charset=utf-8", response_topic="answers/here",
                correlation_data=b"\x00\x01\xff", user_property=pairs)
            got = (await subscriber.next())[3]
            same(got["payload_format_id"], [1])
            same(got["content_type"], ["text/plain; charset=utf-8"])
            same(got["response_topic"], ["answers/here"])
            same(bytes(got["correlation_data"][0]), b"\x00\x01\xff")
            same(0 < got["message_expiry_interval"][0] <= 60, True)
            same([tuple(pair) for pair in got["user_property"]], pairs)
        with check("subscription identifier"):
            same(await subscriber.subscribe((f"{base}/id", 1), subscription_identifier=268435455), [1])
            await publisher.publish(f"{base}/id", "x", 1)
            same((await subscriber.next())[3]["subscription_identifier"], [268435455])

    with check("$share: its members take turns"):
        same(await subscriber.subscribe((f"$share/g/{base}/s", 1), (f"{base}/t", 1)), [1, 1])
        same(await publisher.subscribe((f"$share/g/{base}/s", 1)), [1])
        for body in "x", "y", "z":
            await publisher.publish(f"{base}/s", body, 1)
        same([(await subscriber.next())[1] for _ in range(2)], [b"x", b"z"])
        same((await publisher.next())[1], b"y")
        same(await publisher.unsubscribe(f"$share/g/{base}/s"), [0] if five else [])
        await publisher.publish(f"{base}/s", "mine", 1)
        same((await subscriber.next())[1], b"mine")

    with check("unsubscribe"):
        same(await subscriber.unsubscribe(f"{base}/+/data", f"{base}/never"), [0, 0x11] if five else [])
        await publisher.publish(f"{base}/x/data", "x", 1)
        await publisher.publish(f"{base}/deep/still", "y", 1)
        same((await subscriber.next())[1], b"y")
        await subscriber.nothing_more()

    with check("disconnect"):
        same((subscriber.lost, publisher.lost), (0, 0))
        for connection in (subscriber, publisher):
            await asyncio.wait_for(connection.client.disconnect(), WAIT_SECONDS)

    with check("TLS: 1 MiB there and back"):
        connection = Connection(version, f"{base}-tls")
        same(await connection.connect(tls=True), (0, 0))
        await connection.subscribe((f"{base}/tls", 1))
        await connection.publish(f"{base}/tls", payload(SIZES["1 MiB"]), 1)
        same(bytes((await connection.next())[1]), payload(SIZES["1 MiB"]))
        await asyncio.wait_for(connection.client.disconnect(), WAIT_SECONDS)
    return check.failed


async def main():
    sys.exit(1 if await run(MQTTv311) + await run(MQTTv50) else 0)


if __name__ == "__main__":
    asyncio.run(main())
