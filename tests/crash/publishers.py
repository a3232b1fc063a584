# SPDX-License-Identifier: Apache-2.0
"""Publishers and consumers that know exactly what they were promised: what they sent, what was acknowledged, what was
refused; what they were shown, and what the gateway has taken as done."""

import contextlib
import http.client
import json
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import amqpwire  # noqa: E402
import wire  # noqa: E402

TOPICS = 5  # of each publisher, in turn


class Publisher(threading.Thread):
    """Message n of a publisher goes to topic n % TOPICS and says n. sent, and the sets of the acknowledged
    and the refused, are final when the thread has ended."""

    def __init__(self, name):
        super().__init__(name=name, daemon=True)
        self.topics = ["crash/%s/%d" % (name, i) for i in range(TOPICS)]
        self.sent = 0
        self.acknowledged, self.refused = set(), set()
        self.closed = False
        self.error = None

    def finish(self):
        """No more is sent; what is on its way is answered."""
        self.closed = True

    def run(self):
        try:
            self.work()
        except (OSError, http.client.HTTPException):
            pass  # the gateway has gone
        except Exception as error:  # noqa: BLE001 - for the test, which fails with it
            self.error = error


class MqttPublisher(Publisher):
    """QoS 1 or 2, up to window unanswered. Answers are checked: known, and in order."""

    def __init__(self, name, port, version=4, qos=1, window=500):
        super().__init__(name)
        self.port, self.version, self.qos, self.window = port, version, qos, window

    def work(self):
        with wire.Client(self.port, self.version, timeout=60).connect(self.name) as client:
            self.answered = 0
            going = True
            while going and not self.closed:
                room = self.window - (self.sent - self.answered)
                try:
                    client.send(b"".join(self._next() for _ in range(room)))
                except OSError:
                    self.closed = True  # what has come back is still read
                going = self._take(client)
            while going and self.answered < self.sent:
                going = self._take(client)

    def _next(self):
        number, self.sent = self.sent, self.sent + 1
        body = wire.text(self.topics[number % TOPICS]) + struct.pack(">H", number % 60000 + 1)
        body += b"\0" if self.version == 5 else b""
        return wire.packet(wire.PUBLISH, self.qos << 1, body + b"%d" % number)

    def _take(self, client):
        """False at the end of the stream."""
        try:
            data = client.socket.recv(1 << 18)
        except socket.timeout:
            raise AssertionError("no answer for a minute") from None
        if not data:
            return False
        client.input += data
        at, view, releases = 0, client.input, []
        while len(view) - at >= 2 and len(view) - at >= 2 + view[at + 1]:
            kind, size = view[at] >> 4, view[at + 1]
            self._answer(kind, view[at + 2:at + 2 + size], releases)
            at += 2 + size
        del client.input[:at]
        if releases:
            with contextlib.suppress(OSError):
                client.send(b"".join(releases))
        return True

    def _answer(self, kind, body, releases):
        if kind == wire.DISCONNECT:
            return
        packet_id = body[0] << 8 | body[1]
        if kind == wire.PUBCOMP:
            return
        assert kind == (wire.PUBACK if self.qos == 1 else wire.PUBREC), kind
        number = self.answered
        assert packet_id == number % 60000 + 1, "answers out of order"
        self.answered += 1
        if len(body) > 2 and body[2] >= 0x80:
            self.refused.add(number)
            return
        self.acknowledged.add(number)
        if self.qos == 2:
            releases.append(wire.packet(wire.PUBREL, 2, body[:2]))


class AmqpPublisher(Publisher):
    """Unsettled deliveries over one link per topic, up to window without an outcome."""

    def __init__(self, name, port, window=300):
        super().__init__(name)
        self.port, self.window, self.answered = port, window, 0

    def work(self):
        with amqpwire.Wire(self.port, 60) as client, contextlib.suppress(EOFError):
            client.open(self.name)
            for handle, topic in enumerate(self.topics):
                client.attach(topic, handle, "/topics/" + topic)
            while not self.closed:
                self._send(client, self.window - (self.sent - self.answered))
                self._take(client)
            while self.answered < self.sent:
                self._take(client)

    def _send(self, client, room):
        frames = []
        for number in range(self.sent, self.sent + room):
            text = b"%d" % number
            frames.append(amqpwire.frame(amqpwire.TRANSFER, [number % TOPICS, number, text, 0],
                                         b"\x00\x53\x75\xa0" + bytes([len(text)]) + text))
        self.sent += room
        try:
            client.send(b"".join(frames))
        except OSError:
            self.closed = True  # what has come back is still read

    def _take(self, client):
        first, last, outcome = amqpwire.disposition(client.expect(amqpwire.DISPOSITION))
        numbers = range(first, last + 1)
        self.answered += len(numbers)
        (self.acknowledged if outcome == amqpwire.ACCEPTED else self.refused).update(numbers)


class RestPublisher(Publisher):
    """Batches of 100 through POST publish, one request at a time."""

    def __init__(self, name, port):
        super().__init__(name)
        self.port = port

    def work(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.closed:
            numbers = range(self.sent, self.sent + 100)
            topic = self.topics[numbers[0] // 100 % TOPICS]
            body = json.dumps({"topic": topic, "messages": [{"body": str(n)} for n in numbers]})
            self.sent += 100
            connection.request("POST", "/v1/default/publish", body,
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status < 300:
                self.acknowledged.update(numbers)
            else:
                self.refused.update(numbers)
        connection.close()


def call(connection, method, path, body=None):
    connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    return answer.status, json.loads(data) if data else None


class JobProducer(Publisher):
    """Messages for a queue by its name, 20 at a time."""

    def __init__(self, name, port, queue):
        super().__init__(name)
        self.port, self.queue = port, queue

    def work(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.closed:
            jobs = ["%s:%d" % (self.name, number) for number in range(self.sent, self.sent + 20)]
            self.sent += 20
            status, _ = call(connection, "POST", "/v1/default/publish",
                             {"queue": self.queue, "messages": [{"body": job} for job in jobs]})
            (self.acknowledged if status < 300 else self.refused).update(jobs)
            time.sleep(0.01)


class JobConsumer(Publisher):
    """A consumer of a group, which says done to all it gets. shown: in order; done: what was answered with success;
    asked: what has no answer, so it may be done or not."""

    def __init__(self, name, port, path, wait_seconds=1, until_empty=False):
        super().__init__(name)
        self.port, self.path, self.wait_seconds, self.until_empty = port, path, wait_seconds, until_empty
        self.shown, self.done, self.asked = [], set(), set()

    def work(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.closed:
            status, items = call(connection, "GET", "%s/messages?time_wait=%d" % (self.path, self.wait_seconds))
            if status != 200:
                return
            self.shown += [item["message"]["body"] for item in items]
            if not items:
                if self.until_empty:
                    return
                continue
            entries = [{"handler": item["handler"], "status": "success"} for item in items]
            self.asked = {item["message"]["body"] for item in items}
            status, result = call(connection, "POST", self.path + "/ack", {"message": entries})
            if status != 200:
                return
            assert result["fail"] == 0, result
            self.done |= self.asked
            self.asked = set()
