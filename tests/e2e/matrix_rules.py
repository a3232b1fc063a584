# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/mapping.md that are no fields: addresses, settlement and refusal, each cell done by a client of that protocol.
A cell says what was used, or what the gateway answered; "no" that it did not do what the row says."""
import base64
import sys
import threading
import time

from amqpwire import Wire, frame
from gateway import Gateway, until
from proton import ConnectionException, Delivery, Message, Timeout, symbol, uint
from proton.reactor import LinkOption
from proton.utils import BlockingConnection, LinkDetached, SendException
from websocket import TEXT
from wire import PUBACK, RECEIVE_MAXIMUM, USER, Client, packet, properties, publish
from ws_protocol import Link, make_queue

SECONDS = 20
V1 = "/v1/default/"


def amqp(running, **named):
    return BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, **named)


def body_of(message):
    return message.body if isinstance(message.body, str) else bytes(message.body).decode()


def rest_items(running, queue, group, what="messages"):
    status, items = running.call("GET", f"/v1.0/default/queues/{queue}/groups/{group}/{what}?time_wait=1&max_msgs=1")
    assert status == 200, items
    return items


# ------------------------------------------------ addresses: send and receive through one, with one protocol

def by_mqtt(running, to, source, body):
    with Client(running.mqtt_port, 5).connect("addresses", props=[(RECEIVE_MAXIMUM, 1)]) as client:
        assert client.subscribe((source, 1))[0] < 0x80
        if to is not None:
            client.publish(to, body, 1)
        body = client.delivery().payload.decode()
        client.ping()
        return body


def by_amqp(running, to, source, body):
    connection = amqp(running)
    receiver = connection.create_receiver(source, credit=1)
    if to is not None:
        connection.create_sender(to).send(Message(body=body))
    got = body_of(receiver.receive(timeout=SECONDS))
    receiver.accept()
    connection.close()
    return got


def by_rest(running, to, source, body):
    path, members = to or (None, None)
    if path is not None:
        status, answer = running.call("POST", V1 + path, {**members, "messages": [{"body": body}]})
        assert status == 201, answer
    queue, group, what = source
    item = until(lambda: rest_items(running, queue, group, what), SECONDS)[0]
    if what == "messages":
        running.call("POST", f"{V1}queues/{queue}/groups/{group}/ack", {"receipts": [item["handler"]]})
    return item["message"]["body"]


def by_websocket(running, to, source, body):
    with Link(running) as link:
        link.ok("subscribe", sub="s", **source)
        if to is not None:
            link.ok("publish", body=body, **to)
        got = link.delivery()
        if "receipt" in got:
            link.ok("ack", receipt=got["receipt"])
        return got["body"]


# By meaning and protocol: where it is sent to, where it is read from (REST: path and members; queue, group and what), and how that is
# written. Nothing to send to: what is there.
ADDRESSES = [
    ("queue `orders`", [
        (by_mqtt, "$queue/orders", "$queue/orders", "`$queue/orders`"),
        (by_amqp, "orders", "orders", "`orders`"),
        (by_amqp, "/queues/orders", "/queues/orders", "`/queues/orders`"),
        (by_rest, ("publish", {"queue": "orders"}), ("orders", "r", "messages"), '`queue: "orders"`'),
        (by_websocket, {"queue": "orders"}, {"queue": "orders", "group": "w"}, '`queue: "orders"`')]),
    ("a topic whose route leads there", [
        (by_mqtt, "routed/x", "$queue/orders", "`routed/x`"),
        (by_amqp, "/topics/routed/x", "orders", "`/topics/routed/x`"),
        (by_rest, ("publish", {"topic": "routed/x"}), ("orders", "r", "messages"), '`topic: "routed/x"`'),
        (by_websocket, {"topic": "routed/x"}, {"queue": "orders", "group": "w"}, '`topic: "routed/x"`')]),
    ("group `g` of it", [
        (by_mqtt, "$queue/orders", "$share/g/$queue/orders", "`$share/g/$queue/orders`"),
        (by_amqp, "orders", "/queues/orders/groups/g", "`/queues/orders/groups/g`"),
        (by_rest, ("publish", {"queue": "orders"}), ("orders", "g", "messages"), "`queues/orders/groups/g`"),
        (by_websocket, {"queue": "orders"}, {"queue": "orders", "group": "g"}, '`group: "g"`')]),
    ("topics `a/+/c`", [
        (by_mqtt, "a/b/c", "a/+/c", "`a/+/c`"),
        (by_amqp, "/topics/a/b/c", "/topics/a/+/c", "`/topics/a/+/c`"),
        (by_websocket, {"topic": "a/b/c"}, {"topic": "a/+/c"}, '`topic: "a/+/c"`')]),
    ("dead letters of `g`", [
        (by_mqtt, None, "$queue/orders/$dead/g", "`$queue/orders/$dead/g`"),
        (by_amqp, None, "/queues/orders/groups/g/deadletters", "`/queues/orders/groups/g/deadletters`"),
        (by_rest, None, ("orders", "g", "deadletters"), "`queues/orders/groups/g/deadletters`"),
        (by_websocket, None, {"queue": "orders", "group": "g", "dead": True}, '`group: "g", dead: true`')]),
]
COLUMNS = {by_mqtt: "MQTT", by_amqp: "AMQP", by_rest: "REST", by_websocket: "WebSocket"}
PROTOCOLS = ("MQTT", "AMQP", "REST", "WebSocket")


def make_dead(running, body):
    """The record after what the group has done is rejected."""
    with Link(running) as link:
        link.ok("subscribe", sub="s", queue="orders", group="g", credit=1)
        link.ok("publish", queue="orders", body=body)
        got = link.delivery()
        assert got["body"] == body, got
        link.ok("reject", receipt=got["receipt"])


def address_works(running, how, to, source, body):
    """Groups that are not read here have the record as well, so what comes is looked for among what is there."""
    if to is None:
        make_dead(running, body)
    try:
        while how(running, to, source, body) != body:
            to = None
        return True
    except (TimeoutError, Timeout, IndexError) as failure:
        print("addresses:", how.__name__, to, source, repr(failure), file=sys.stderr)
        return False


def addresses(running):
    make_queue(running, "orders", redrive_policy="enable", max_consume_count=9)
    running.call("PUT", V1 + "routes/routed%2F%23", {"queue": "orders"})
    for name in "g", "r", "w":
        status, answer = running.call("POST", V1 + "queues/orders/groups", {"groups": [{"name": name}]})
        assert status == 201, answer
    lines = ["| meaning | " + " | ".join(PROTOCOLS) + " |", "|---" * (1 + len(PROTOCOLS)) + "|"]
    for number, (meaning, ways) in enumerate(ADDRESSES):
        cells = {name: [] for name in PROTOCOLS}
        for way, (how, to, source, text) in enumerate(ways):
            cells[COLUMNS[how]].append(text if address_works(running, how, to, source, f"m{number}.{way}") else "no")
        lines.append(f"| {meaning} | " + " | ".join(", ".join(cells[name]) or "-" for name in PROTOCOLS) + " |")
    return lines


# ------------------------------------------------ settlement: one client of a queue, what it takes, what it answers

class OfMqtt:
    version = 5

    def __init__(self, running, queue, lease_s=None):
        self.client = Client(running.mqtt_port, self.version).connect("taker-" + queue)
        props = [(USER, ("lease", str(lease_s * 1000)))] if lease_s else []
        more = {"props": props} if self.version == 5 else {}
        assert self.client.subscribe((f"$share/g/$queue/{queue}", 1), **more) == [1]
        self.queue = queue

    def take(self):
        self.got = self.client.receive()
        counts = [value for name, value in self.got.users() if name == "delivery-count"] if self.version == 5 else ["-"]
        return counts[0] if counts else "0"

    def answer(self, reason, *props):
        self.client.send(packet(PUBACK, 0, self.got.id.to_bytes(2, "big") + bytes([reason]) + properties(props)))
        self.client.ping()

    def done(self):
        self.client.ack(PUBACK, self.got.id)
        self.client.ping()
        return "PUBACK 0x00"

    def again(self):
        self.answer(0x80)
        return "PUBACK 0x80"

    def later(self, ms):
        self.answer(0x80, (USER, ("delay", str(ms))))
        return "PUBACK 0x80, `delay`"

    def never(self):
        self.answer(0x99)
        return "PUBACK 0x99"

    def longer(self, seconds):
        assert self.client.publish(f"$queue/{self.queue}/$extend", f"{self.got.id} {seconds * 1000}", 1, 9) == 0
        return "to `$queue/<q>/$extend`"

    def close(self):
        self.client.close()


class OfOldMqtt(OfMqtt):
    version = 4
    never = "-"
    lost = "-"  # the lease is 30 s

    def again(self):
        return self.later(0)[:-1]

    def later(self, ms):
        assert self.client.publish(f"$queue/{self.queue}/$nack", f"{self.got.id} {ms}" if ms else str(self.got.id), 1, 9) == 0
        self.client.ack(PUBACK, self.got.id)
        return "to `$queue/<q>/$nack` " + ("with ms" if ms else "")


class Lease(LinkOption):
    def __init__(self, seconds):
        self.seconds = seconds

    def apply(self, link):
        link.properties = {symbol("x-opt-lease"): uint(self.seconds * 1000)}


class OfAmqp:
    def __init__(self, running, queue, lease_s=None):
        self.connection = amqp(running)
        options = Lease(lease_s) if lease_s else None
        self.receiver = self.connection.create_receiver(f"/queues/{queue}/groups/g", credit=5, options=options)

    def take(self):
        self.got = self.receiver.receive(timeout=SECONDS)
        return str(self.got.delivery_count)

    def outcome(self, state, annotations=None):
        delivery = self.receiver.fetcher.unsettled.pop()  # the last: one before may have been taken away
        delivery.local.failed = state == Delivery.MODIFIED
        delivery.local.annotations = annotations
        delivery.update(state)
        delivery.settle()

    def done(self):
        self.outcome(Delivery.ACCEPTED)
        return "accepted"

    def again(self):
        self.outcome(Delivery.MODIFIED)
        return "modified, delivery-failed"

    def later(self, ms):
        self.outcome(Delivery.MODIFIED, {symbol("x-opt-delivery-delay"): uint(ms)})
        return "modified, delivery-failed, `x-opt-delivery-delay`"

    def never(self):
        self.outcome(Delivery.REJECTED)
        return "rejected"

    longer = "link property `x-opt-lease`"  # from the beginning

    def close(self):
        self.connection.close()


class OfRest:
    def __init__(self, running, queue):
        self.call, self.path = running.call, f"{V1}queues/{queue}/groups/g/"

    def take(self):
        items = until(lambda: self.call("GET", f"{self.path}messages?time_wait=1")[1], SECONDS)
        self.got = items[0]
        return str(self.got["message"].get("delivery_count", 0))

    def post(self, what, **members):
        status, answer = self.call("POST", self.path + what, {"receipts": [self.got["handler"]], **members})
        assert status in (200, 204), (what, status, answer)
        return f"`{what}`"

    def done(self):
        return self.post("ack")

    def again(self):
        return self.post("nack")

    def later(self, ms):
        return self.post("nack", delay_ms=ms) + " with `delay_ms`"

    def never(self):
        return self.post("reject")

    longer = "`PUT leases`"  # 15 s and more, which is too long to wait for here
    lost = "-"

    def close(self):
        pass


class OfWebsocket:
    def __init__(self, running, queue, lease_s=None):
        self.link = Link(running)
        more = {"lease_seconds": lease_s} if lease_s else {}
        self.link.ok("subscribe", sub="s", queue=queue, group="g", **more)

    def take(self):
        self.got = self.link.delivery()
        while self.got.get("op") == "expired":
            self.got = self.link.delivery()
        return str(self.got["delivery_count"])

    def say(self, op, **members):
        self.link.ok(op, receipt=self.got["receipt"], **members)
        return f"`{op}`"

    def done(self):
        return self.say("ack")

    def again(self):
        return self.say("nack")

    def later(self, ms):
        return self.say("nack", delay_ms=ms) + " with `delay_ms`"

    def never(self):
        return self.say("reject")

    def longer(self, seconds):
        return self.say("extend", seconds=seconds)

    def close(self):
        self.link.socket.socket.close()


TAKERS = {"MQTT 5": OfMqtt, "MQTT 3.1.1": OfOldMqtt, "AMQP": OfAmqp, "REST": OfRest, "WebSocket": OfWebsocket}
LATER_MS = 400


class Settling:
    """One queue with one record for one client; each row is a function that gives its cell."""

    def __init__(self, running, taker):
        self.running, self.taker = running, taker

    def begin(self, row, **named):
        name = f"{row}-{self.taker.__name__}".lower()
        make_queue(self.running, name, "g", redrive_policy="enable", max_consume_count=9)
        self.running.call("POST", V1 + "publish", {"queue": name, "messages": [{"body": "x"}]})
        self.name, self.client = name, self.taker(self.running, name, **named)
        assert self.client.take() in ("0", "-")

    def is_over(self):
        self.client.close()
        return rest_items(self.running, self.name, "g") == []

    def done(self):
        self.begin("done")
        said = self.client.done()
        return said if self.is_over() else "no"

    def again(self):
        self.begin("again")
        said = self.client.again()
        count = self.client.take()
        self.client.done()
        return f"{said}; count {count}" if self.is_over() else "no"

    def later(self):
        self.begin("later")
        before = time.monotonic()
        said = self.client.later(LATER_MS)
        self.client.take()
        waited = time.monotonic() - before
        self.client.done()
        return said if self.is_over() and waited * 1000 >= LATER_MS - 20 else "no"

    def never(self):
        if isinstance(self.taker.never, str):
            return self.taker.never
        self.begin("never")
        said = self.client.never()
        over = self.is_over()
        return said if over and len(rest_items(self.running, self.name, "g", "deadletters")) == 1 else "no"

    def longer(self):
        """The lease of one second is still there after two."""
        if isinstance(self.taker.longer, str):
            return self.taker.longer
        self.begin("longer", lease_s=1)
        said = self.client.longer(60)
        time.sleep(2)
        return said if rest_items(self.running, self.name, "g") == [] else "no"

    def lost(self):
        """Who gives no answer has it taken from him, and gets it again: it has failed once."""
        if hasattr(self.taker, "lost"):
            return self.taker.lost
        self.begin("lost", lease_s=1)
        count = self.client.take()
        self.client.done()
        return f"again, count {count}" if self.is_over() else "no"


SETTLEMENT = (("done", Settling.done), ("try again now", Settling.again), ("try again later", Settling.later),
              ("never again: dead-letter", Settling.never), ("more time", Settling.longer),
              ("the lease of 1 s runs out", Settling.lost))


def settlement(running):
    """All cells at once: some wait."""
    cells = {}

    def fill(row, protocol, taker):
        try:
            cells[row, protocol] = row[1](Settling(running, taker))
        except Exception as failure:  # pylint: disable=broad-except
            print("settlement:", row[0], protocol, repr(failure), file=sys.stderr)
            cells[row, protocol] = "no"
    threads = []
    for row in SETTLEMENT:
        for protocol, taker in TAKERS.items():
            threads.append(threading.Thread(target=fill, args=(row, protocol, taker)))
            threads[-1].start()
    for thread in threads:
        thread.join()
    lines = ["| meaning | " + " | ".join(TAKERS) + " |", "|---" * (1 + len(TAKERS)) + "|"]
    return lines + [f"| {row[0]} | " + " | ".join(cells[row, protocol] for protocol in TAKERS) + " |" for row in SETTLEMENT]


# ------------------------------------------------ refusal, in each protocol's words

LARGE = 11 << 20  # a record has 10 MiB


def refused_amqp(port, what, **named):
    try:
        connection = BlockingConnection(f"amqp://127.0.0.1:{port}", timeout=SECONDS, **named)
        what(connection)
        return "no"
    except LinkDetached as failure:
        return failure.condition
    except SendException as failure:
        return {Delivery.REJECTED: "rejected"}.get(failure.state, "no")
    except ConnectionException as failure:
        return "amqp:connection:forced" if "forced" in str(failure) else "sasl auth" if "auth" in str(failure).lower() else "no"


def refused_mqtt(port, what, **named):
    with Client(port, 5).connect("refused", **named) as client:
        answer = what(client)
        return f"0x{answer:02X}"


def no_login(gateway, _):
    basic = {"Authorization": "Basic " + base64.b64encode(b"ann:wrong").decode()}
    with Link(gateway, connect=False) as link:
        code = link.fails("unauthenticated", "connect", user="ann", password="wrong")["code"]
    client = Client(gateway.mqtt_port, 5).connect("a", user="ann", password="wrong", accept=False)
    return (f"0x{client.expect_end():02X}",
            refused_amqp(gateway.amqp_port, lambda connection: None, user="ann", password="wrong", allowed_mechs="PLAIN"),
            str(gateway.call("GET", "/v1/default/queues", None, basic)[0]), code)


def denied(gateway, _):
    basic = {"Authorization": "Basic " + base64.b64encode(b"ann:pw").decode()}
    with Link(gateway, connect=False) as link:
        link.ok("connect", user="ann", password="pw")
        code = link.fails("denied", "publish", topic="b", body="x")["code"]
    return (refused_mqtt(gateway.mqtt_port, lambda client: client.publish("b", "x", 1), user="ann", password="pw"),
            refused_amqp(gateway.amqp_port, lambda connection: connection.create_sender("/topics/b").send(Message(body="x")),
                         user="ann", password="pw", allowed_mechs="PLAIN"),
            str(gateway.call("POST", V1 + "publish", {"topic": "b", "messages": [{"body": "x"}]}, basic)[0]), code)


def unknown(_, running):
    with Link(running) as link:
        code = link.fails("not_found", "publish", queue="none", body="x")["code"]
    mqtt = [refused_mqtt(running.mqtt_port, what) for what in (lambda client: client.publish("$queue/none", "x", 1),
                                                              lambda client: client.subscribe(("$queue/none", 1))[0])]
    return (" / ".join(mqtt), refused_amqp(running.amqp_port, lambda connection: connection.create_sender("none")),
            str(running.call("POST", V1 + "publish", {"queue": "none", "messages": [{"body": "x"}]})[0]), code)


def too_large(_, running):
    with Link(running) as link:
        link.send("publish", id=7, topic="t", body="x" * LARGE)
        answer = link.answer(7)["code"]
    client = Client(running.mqtt_port, 5).connect("large")
    client.send(publish(5, "t", b"x" * LARGE, 1))
    return (f"0x{client.expect_end():02X} and close",
            refused_amqp(running.amqp_port, lambda connection: connection.create_sender("/topics/t").send(Message(body="x" * LARGE))),
            str(running.call("POST", V1 + "publish", {"topic": "t", "messages": [{"body": "x" * LARGE}]})[0]), answer)


def malformed(_, running):
    client = Client(running.mqtt_port, 5).connect("m")
    client.send(packet(PUBACK, 0, b"\0"))
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        wire.send(frame(0x12, ["too", "little"]))
        amqp_says = "amqp:decode-error" if b"amqp:decode-error" in wire.until_end() else "no"
    with Link(running) as link:
        link.socket.send_frame(TEXT, b"{")
        link.socket.expect_close(1002)
    return f"0x{client.expect_end():02X} and close", amqp_says + " and close", str(running.call("POST", V1 + "publish", "{")[0]), "close 1002"


def shutting_down(gateway, _):
    login = {"user": "ann", "password": "pw"}
    client = Client(gateway.mqtt_port, 5).connect("m", **login)
    connection = amqp(gateway, allowed_mechs="PLAIN", **login)
    link = Link(gateway, connect=False)
    link.ok("connect", **login)
    gateway.stop()
    reason = client.receive().reason
    assert link.receive()["op"] == "closing"
    link.socket.expect_close(1001)
    try:
        connection.wait(lambda: False, timeout=1)
        said = "no"
    except ConnectionException as failure:
        said = "amqp:connection:forced" if "amqp:connection:forced" in str(failure) else repr(failure)
    return f"0x{reason:02X}", said, "-", "`closing`, close 1001"


REFUSALS = (("not authenticated", no_login), ("not allowed", denied), ("no such queue", unknown), ("too large", too_large),
            ("malformed", malformed), ("shutting down", shutting_down))


def refusal(running):
    guarded = Gateway()
    boss = {"Authorization": "Basic " + base64.b64encode(b"boss:secret").decode()}
    assert guarded.call("POST", V1 + "users", {"name": "boss", "password": "secret"})[0] == 201
    assert guarded.call("POST", V1 + "users", {"name": "ann", "password": "pw"}, boss)[0] == 201
    assert guarded.call("PUT", V1 + "users/ann/grants", {"grants": ["publish topic:a/#"]}, boss)[0] in (200, 204)
    lines = ["| what | " + " | ".join(PROTOCOLS) + " |", "|---" * (1 + len(PROTOCOLS)) + "|"]
    return lines + [f"| {title} | " + " | ".join(make(guarded, running)) + " |" for title, make in REFUSALS]


def make_rules(running):
    parts = (("Addresses", "Published to and read from, each.", addresses), ("Settlement", "What a client of a queue says, and the count of "
             "failures that the next delivery shows. `-`: no way to say it, or (leases of 3.1.1 and REST) too long to wait for.", settlement), ("Refusal", "What each says. Over quota and a store that takes nothing are in tests of their own.", refusal))
    return "".join(f"\n## {title}\n{text}\n\n" + "\n".join(make(running)) + "\n" for title, text, make in parts)
