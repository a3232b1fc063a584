#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""$SYS: at once to who subscribes, again when it changes, from nobody but the gateway."""

from gateway import Gateway, run
from wire import *  # noqa: F403 - the names of the protocol

FIGURES = ["clients/connected", "messages/received", "publish/messages/dropped", "publish/messages/received",
           "publish/messages/sent", "store/messages/bytes", "store/messages/count", "subscriptions/count", "uptime",
           "version"]


def test_figures():
    gateway = Gateway(None, "mqtt.sys_interval=1")
    with Client(gateway.mqtt_port, 5).connect("s") as client, Client(gateway.mqtt_port, 4).connect("all") as everything:
        everything.subscribe("#")
        for i in range(3):
            client.publish("a", "x", 1, packet_id=i + 1)
            assert everything.delivery().topic == "a"
        client.subscribe(("$SYS/#", 1), props=[(SUBSCRIPTION_ID, 4)])
        got = [client.expect(PUBLISH) for _ in FIGURES]
        assert sorted(packet.topic for packet in got) == ["$SYS/broker/" + name for name in FIGURES], got
        assert all(packet.flags & 1 and packet.get(SUBSCRIPTION_ID) == 4 for packet in got)
        values = {packet.topic[len("$SYS/broker/"):]: packet.payload.decode() for packet in got}
        assert values["clients/connected"] == "2" and int(values["store/messages/count"]) >= 3, values
        assert int(values["publish/messages/received"]) >= 3 and values["version"].startswith("polylog "), values
        assert values["uptime"].endswith(" seconds") and int(values["subscriptions/count"]) >= 2, values
        while True:  # live, without the flag
            found = client.expect(PUBLISH)
            assert found.flags & 1 == 0, found
            if found.topic == "$SYS/broker/uptime" and found.payload.decode() != values["uptime"]:
                break
        client.unsubscribe("$SYS/#")
        for handling, expected in ((0x20, 0), (0x00, 1)):
            client.aside.clear()
            client.unsubscribe("$SYS/broker/version")
            client.subscribe(("$SYS/broker/version", handling))
            for _ in range(expected):
                assert client.expect(PUBLISH).payload.decode() == values["version"]
            client.ping()
        everything.ping()
        everything.expect_silence(0.05)  # a wildcard at the front does not reach them
        for topic in ("uptime", "connection/x/y/state", "connection/state", "connection/x/state/y"):
            assert client.publish("$SYS/broker/" + topic, "forged", 1, packet_id=9) == 0x87, topic
        assert client.publish("$SYS/broker/connection/x/state", "1", 1) == 0  # a bridge's
        status, body = gateway.call("POST", "/v1/default/publish",
                                    {"topic": "$SYS/broker/x", "messages": [{"body": "forged"}]})
        assert status == 403, body
    assert gateway.stop() == 0


def test_off():
    gateway = Gateway(None, "mqtt.sys_interval=0")
    with Client(gateway.mqtt_port, 5).connect("s") as client:
        client.subscribe("$SYS/#")
        client.ping()
        client.expect_silence(0.05)
    assert gateway.stop() == 0


if __name__ == "__main__":
    run(test_figures, test_off)
