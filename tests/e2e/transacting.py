# SPDX-License-Identifier: Apache-2.0
"""What tests of transactions over AMQP share: frames of a coordinator, messages for it, and what is there afterwards."""
from proton import Delivery, Message
from proton.handlers import MessagingHandler
from proton.reactor import Container
from proton.utils import BlockingConnection

from amqpwire import DISPOSITION, TRANSFER, Described, encode, frame

SECONDS = 20


def messages(running, address):
    """Everything that is there now; accepted, which is durable then."""
    got = []
    container = Container(Emptier(f"127.0.0.1:{running.amqp_port}", address, got))
    container.run()
    return got


def bodies(running, address):
    return [message.body for message in messages(running, address)]


class Emptier(MessagingHandler):
    def __init__(self, url, address, got):
        super().__init__(prefetch=0, auto_accept=False)
        self.url, self.address, self.got = url, address, got
        self.owed, self.drained = 0, False

    def on_start(self, event):
        self.connection = event.container.connect(self.url, allowed_mechs="ANONYMOUS")
        self.receiver = event.container.create_receiver(self.connection, self.address)

    def on_link_opened(self, event):
        self.receiver.drain(100)

    def on_message(self, event):
        self.got.append(event.message)
        event.delivery.update(Delivery.ACCEPTED)
        self.owed += 1

    def on_settled(self, event):
        event.delivery.settle()
        self.owed -= 1
        self.end()

    def on_link_flow(self, event):
        self.drained |= self.receiver.credit == 0 and self.receiver.queued == 0
        self.end()

    def end(self):
        if self.drained and self.owed == 0:
            self.connection.close()


def offer(running, name, count):
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
    sender = connection.create_sender(name)
    for i in range(count):
        sender.send(Message(body=i))
    connection.close()


def say(running, topic, *bodies):
    connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
    sender = connection.create_sender(topic)
    for body in bodies:
        sender.send(Message(body=body, durable=True))
    connection.close()


def settled_within(identity, number, settled=True):
    """The receiver has settled delivery number, as accepted within the transaction."""
    return frame(DISPOSITION, [True, number, number, settled, Described(0x34, [identity, Described(0x24, [])])])


def discharge(identity, number, fail):
    return frame(TRANSFER, [1, number, b"end", 0], b"\x00\x53\x77" + encode(Described(0x32, [identity, fail])))


def coordinate(wire):
    wire.send(frame(0x12, ["tx", 1, False, None, None, Described(0x28, [None]), Described(0x30, []), None, None, 0]))
    wire.expect(0x12)


def declare(wire, number):
    wire.send(frame(TRANSFER, [1, number, str(number).encode(), 0],
                    b"\x00\x53\x77" + encode(Described(0x31, [None]))))
    answer = wire.expect(DISPOSITION)
    assert b"\x00\x53\x33" in answer, answer
    at = answer.index(b"\xa0\x08") + 2
    return answer[at:at + 8]
