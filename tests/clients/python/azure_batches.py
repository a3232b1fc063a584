# SPDX-License-Identifier: Apache-2.0
"""Batches as the SDKs of Azure Service Bus and Event Hubs make and send them, without the claims that only Azure takes:
azure_batches.py HOST AMQP_PORT, on an empty gateway with auto_create"""
import sys

from azure.eventhub import EventData, EventDataBatch
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch
from azure.servicebus._pyamqp.authentication import SASLPlainAuth
from azure.servicebus._pyamqp.client import ReceiveClient, SendClient
from azure.servicebus._pyamqp.constants import ReceiverSettleMode
from azure.servicebus._pyamqp.message import BatchMessage

from checks import WAIT_SECONDS, Checks, payload, same

AT = f"{sys.argv[1]}:{sys.argv[2]}"


def end(which, queue, **more):
    return which(AT, queue, auth=SASLPlainAuth("guest", "guest"), use_tls=False, receive_settle_mode=ReceiverSettleMode.First, **more)


def send(queue, batch):
    """As both SDKs' senders do, with the client of one of them; an exception where it is not accepted."""
    with end(SendClient, queue) as client:
        client.send_message(BatchMessage(*batch._message), timeout=WAIT_SECONDS)


def received(queue, count):
    with end(ReceiveClient, queue, link_credit=count) as client:
        messages = []
        while len(messages) < count:
            more = client.receive_message_batch(max_batch_size=count - len(messages), timeout=WAIT_SECONDS)
            assert more, f"{len(messages)} of {count} came"
            messages += more
        same(len(client.receive_message_batch(max_batch_size=1, timeout=1)), 0)
        return messages


def bodies(messages):
    return [b"".join(message.data) for message in messages]


def bus_batch(*messages):
    batch = ServiceBusMessageBatch()
    for message in messages:
        batch.add_message(message)
    return batch


def service_bus(checks):
    with checks("a batch of 200: each message, in order, with what it says itself"):
        send("bus", bus_batch(*[ServiceBusMessage(f"m{i}", message_id=f"id{i}", subject=f"s{i}", session_id=f"g{i % 3}",
                                                  application_properties={"n": i}) for i in range(200)]))
        got = received("bus", 200)
        same(bodies(got), [b"m%d" % i for i in range(200)])
        same([message.properties.message_id for message in got], [b"id%d" % i for i in range(200)])
        same([message.properties.group_id for message in got], [b"g%d" % (i % 3) for i in range(200)])
        same([message.application_properties[b"n"] for message in got], list(range(200)))
    with checks("900 KB in many transfers"):
        send("large", bus_batch(*[ServiceBusMessage(payload(100000)) for _ in range(9)]))
        same(bodies(received("large", 9)), 9 * [payload(100000)])


def event_hubs(checks):
    with checks("a batch of 100 events with a key"):
        batch = EventDataBatch(partition_key="k")
        for i in range(100):
            event = EventData(f"e{i}")
            event.properties = {"n": i}
            batch.add(event)
        send("hub", batch)
        got = received("hub", 100)
        same(bodies(got), [b"e%d" % i for i in range(100)])
        same({message.message_annotations[b"x-opt-partition-key"] for message in got}, {b"k"})


if __name__ == "__main__":
    checks = Checks("azure")
    service_bus(checks)
    event_hubs(checks)
    sys.exit(1 if checks.failed else 0)
