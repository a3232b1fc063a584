# SPDX-License-Identifier: Apache-2.0
"""Those who behave well among the others: a publisher of QoS 1 and its own subscriber, and whoever asks /healthz."""
import collections
import contextlib
import http.client
import socket
import threading
import time

from names import WITNESS, WITNESS_PASSWORD
import standstill
import wire

LATE_SECONDS = 30
HEALTHY_SECONDS = 10
PAUSE_SECONDS = 0.01
TOPIC = "witness/t"


class Witness:
    """Publishes numbers one after the other and wants each once, in order. failure: what went wrong first, or None."""

    def __init__(self, gateway, users):
        self.gateway, self.users = gateway, users
        self.failure = None
        self.ending = threading.Event()
        self.lock = threading.Lock()
        self.accepted = collections.deque()  # (number, when) that must come
        self.published = self.delivered = 0
        self.subscriber = self.connect("witness-reads")
        assert self.subscriber.subscribe("witness/#", options=1) == [1]
        self.publisher = self.connect("witness-writes")
        self.threads = [threading.Thread(target=self.guarded, args=(work,), daemon=True) for work in (self.publish, self.read, self.ask)]
        for thread in self.threads:
            thread.start()

    def connect(self, name):
        who = {"user": WITNESS, "password": WITNESS_PASSWORD} if self.users else {}
        return wire.Client(self.gateway.mqtt_port, timeout=LATE_SECONDS).connect(name, keep_alive=0, **who)

    def guarded(self, work):
        try:
            work()
        except Exception as error:
            if not self.ending.is_set():
                self.failure = self.failure or f"{work.__name__}: {error!r}"

    def publish(self):
        number = 0
        while not self.ending.is_set():
            reason = self.publisher.publish(TOPIC, b"%d" % number, 1, packet_id=number % 60000 + 1)
            # A gateway that has too much to do may say so; what it has taken must come.
            assert reason in (0, 0x10, 0x97), f"{number} was refused with {reason:#x}"
            if reason != 0x97:
                with self.lock:
                    self.accepted.append((number, time.monotonic()))
                self.published += 1
                number += 1
            time.sleep(PAUSE_SECONDS)

    def read(self):
        next_number = 0
        while True:
            got = self.subscriber.delivery()
            assert got.topic == TOPIC and int(got.payload) == next_number, f"{got.payload} came instead of {next_number}"
            next_number += 1
            self.delivered = next_number

    def ask(self):
        while not self.ending.wait(0.5):
            began = time.monotonic()
            link = http.client.HTTPConnection("127.0.0.1", self.gateway.http_port, timeout=3 * HEALTHY_SECONDS)
            link.request("GET", "/healthz")
            status = link.getresponse().status
            link.close()
            assert status == 200 and standstill.spent(began) < HEALTHY_SECONDS, f"/healthz: {status} after {standstill.spent(began):.1f} s"

    def look(self):
        """Says in failure what is late."""
        with self.lock:
            while self.accepted and self.accepted[0][0] < self.delivered:
                self.accepted.popleft()
            oldest = self.accepted[0] if self.accepted else None
        if oldest and standstill.spent(oldest[1]) > LATE_SECONDS:
            self.failure = self.failure or f"the message {oldest[0]} was accepted and has not come in {LATE_SECONDS} s"

    def end(self):
        """Waits until all that was accepted has come."""
        self.ending.set()
        self.threads[0].join()
        self.threads[2].join()
        while not self.failure and self.delivered < self.published:
            time.sleep(0.05)
            self.look()
        self.threads[1].join(0.2)  # one that comes twice comes now
        # A socket that somebody reads from does not end when it is closed.
        for client in (self.publisher, self.subscriber):
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)
        self.threads[1].join()
        for client in (self.publisher, self.subscriber):
            client.close()
