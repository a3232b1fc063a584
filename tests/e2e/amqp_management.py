# SPDX-License-Identifier: Apache-2.0
"""The node $management: queues and groups made, read, changed, listed and removed over AMQP."""
import base64

from proton import Message, Terminus, Timeout
from proton.reactor import Container, LinkOption
from proton.utils import BlockingConnection, LinkDetached, SendException

from amqpwire import ACCEPTED, DISPOSITION, FLOW, REJECTED, TRANSFER, Wire, decode, disposition, frame, ubyte
from gateway import run

SECONDS = 20


class Target(LinkOption):
    def apply(self, link):
        link.target.address = "answers-here"

    def test(self, link):
        return link.is_receiver


class Takes(Target):
    """Messages of so many bytes at most."""

    def __init__(self, size):
        self.size = size

    def apply(self, link):
        link.max_message_size = self.size


class Manager:
    def __init__(self, running, reply_to=None, connection=None, options=None, credit=10):
        self.connection = connection or BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        if reply_to is None:
            self.answers = self.connection.create_receiver("$management", credit=credit, options=options or Target())
            self.reply_to = "answers-here"
        else:
            self.answers = self.connection.create_receiver(None, credit=10, dynamic=True, options=options)
            self.reply_to = self.answers.link.remote_source.address
        self.sender = self.connection.create_sender("$management")
        self.number = 0

    def ask(self, operation, kind=None, name=None, body=None, **more):
        """The code of the answer and its body; all of it is in last."""
        self.number += 1
        properties = {"operation": operation, **more}
        if kind:
            properties["type"] = kind
        if name:
            properties["name"] = name
        self.sender.send(Message(id=self.number, reply_to=self.reply_to, properties=properties, body=body))
        answer = self.last = self.answers.receive(timeout=SECONDS)
        if self.answers.fetcher.unsettled:  # those of the node itself come settled
            self.answers.accept()
        assert answer.correlation_id == self.number, answer
        return answer.properties["statusCode"], answer.body


    def burst(self, count, operation, **more):
        """The codes of so many that come together."""
        self.answers.link.flow(count)
        for _ in range(count):
            self.sender.link.send(Message(reply_to=self.reply_to, properties={"operation": operation, **more}))
        return [self.answers.receive(timeout=SECONDS).properties["statusCode"] for _ in range(count)]


def lives(manager):
    code, body = manager.ask("CREATE", "queue", "made", {"kind": "fifo", "max_consume_count": 3, "retention_ms": 60000})
    assert code == 201 and body["name"] == "made" and body["kind"] == "fifo", (code, body)
    assert manager.ask("CREATE", "queue", "made")[0] == 409
    assert manager.ask("CREATE", "queue", "bad", {"kind": "odd"})[0] == 400
    assert manager.ask("CREATE", "group", "made/groups/g")[0] == 201
    assert manager.ask("CREATE", "group", "made/groups/g")[0] == 409
    assert manager.ask("CREATE", "group", "none/groups/g")[0] == 404
    sender = manager.connection.create_sender("made")
    sender.send(Message(body="x"))
    code, body = manager.ask("READ", "queue", "made")
    assert code == 200 and (body["records"], body["max_consume_count"]) == (1, 3), body
    assert manager.ask("READ", "group", "made/groups/g")[1]["queue"] == "made"
    code, body = manager.ask("UPDATE", "queue", "made", {"max_records": 7})
    assert code == 200 and body["max_records"] == 7, (code, body)
    code, body = manager.ask("UPDATE", "queue", "made", {"lease_ms": 1800000})
    assert code == 200 and body["lease_ms"] == 1800000, (code, body)
    assert manager.ask("UPDATE", "queue", "made", {"lease_ms": 5})[0] == 400
    assert manager.ask("UPDATE", "queue", "made", {"partitions": 7})[0] == 400
    code, body = manager.ask("QUERY", entityType="queue")
    at = body["attributeNames"].index("name")
    assert code == 200 and {row[at] for row in body["results"]} == {"mqtt", "made"}, body
    code, body = manager.ask("QUERY", entityType="group")
    assert [row[0] for row in body["results"]] == ["g"], body
    code, body = manager.ask("UPDATE", "group", "made/groups/g", {"selector": "a = 'b'"})
    assert code == 200 and body["selector"] == "a = 'b'", (code, body)
    assert manager.ask("UPDATE", "group", "made/groups/g", {"selector": "a = "})[0] == 400
    assert manager.ask("UPDATE", "group", "made/groups/g", {"backlog": 1})[0] == 400
    code, body = manager.ask("CREATE", "group", "made/groups/long", {"selector": "a <> '" + "x" * 4000 + "'"})
    assert code == 201 and len(body["selector"]) == 4007, (code, body)
    assert manager.ask("CREATE", "group", "made/groups/odd", {"selector": 7})[0] == 400
    code, body = manager.ask("QUERY", entityType="group")
    at = body["attributeNames"].index("selector")
    assert [len(row[at]) for row in body["results"]] == [7, 4007], body
    receiver = manager.connection.create_receiver("/queues/made/groups/g", credit=10)
    for value in ("x", "b"):
        sender.send(Message(body=value, properties={"a": value}))
    assert receiver.receive(timeout=SECONDS).body == "b"
    receiver.close()
    assert manager.ask("DELETE", "group", "made/groups/long")[0] == 204
    assert manager.ask("DELETE", "group", "made/groups/g")[0] == 204
    assert manager.ask("READ", "group", "made/groups/g")[0] == 404
    assert manager.ask("DELETE", "queue", "made")[0] == 204
    assert manager.ask("DELETE", "queue", "made")[0] == 404
    assert manager.ask("DANCE", "queue", "mqtt")[0] == 501
    assert manager.ask("READ", "table", "mqtt")[0] == 400
    assert manager.ask("READ", "group", "mqtt")[0] == 400
    assert manager.ask("DELETE", "queue", "mqtt")[0] == 403
    manager.connection.close()


def answers_come_to_a_link_of_the_node(running):
    lives(Manager(running))


def answers_come_to_a_node_of_ones_own(running):
    lives(Manager(running, "dynamic"))


class Queue(LinkOption):
    """As a client of the JMS kind asks for one."""

    def apply(self, link):
        link.source.capabilities.put_symbol("temporary-queue")


def answers_come_to_a_queue_of_ones_own(running):
    manager = Manager(running, "dynamic", options=Queue())
    assert manager.reply_to.startswith("/queues/$reply."), manager.reply_to
    assert manager.ask("READ", "queue", "mqtt")[0] == 200
    assert manager.ask("DANCE", "queue", "mqtt")[0] == 501
    manager.connection.close()


NAMES = {"queue": ["name", "identity", "type", "kind", "durability", "partitions", "retention_ms", "retention_bytes", "max_records",
                   "max_consume_count", "lease_ms", "records"],
         "group": ["name", "identity", "type", "queue", "backlog", "in_flight", "acknowledged", "dead", "selector"]}


def the_node_itself_is_asked(running):
    """Rows by offset and count, of the attributes that are named; types, what they have and what can be done with them."""
    manager = Manager(running)
    code, body = manager.ask("QUERY", entityType="group")
    assert (code, body["results"], body["attributeNames"]) == (200, [], NAMES["group"]), body
    for i in range(5):
        assert manager.ask("CREATE", "queue", f"q{i}")[0] == 201
    assert manager.ask("CREATE", "group", "q3/groups/g")[0] == 201
    assert manager.last.properties.get("count") is None

    def rows(body=None, **more):
        code, body = manager.ask("QUERY", body=body, **more)
        assert code == 200 and manager.last.properties["count"] == len(body["results"]), (code, body)
        return body["attributeNames"], body["results"]

    only_name = {"attributeNames": ["name"]}
    assert manager.ask("CREATE", "group", "q4/groups/h")[0] == 201
    for offset, seen in enumerate(([["g"], ["h"]], [["h"]], [])):
        assert rows(only_name, entityType="group", offset=offset)[1] == seen
    assert rows(only_name, offset=2**62)[1] == []
    assert manager.ask("DELETE", "group", "q4/groups/h")[0] == 204
    assert rows(only_name, entityType="queue") == (["name"], [["mqtt"]] + [[f"q{i}"] for i in range(5)])
    assert rows(only_name, entityType="queue", offset=2, count=2)[1] == [["q1"], ["q2"]]
    assert rows(only_name, entityType="queue", offset=5)[1] == [["q4"]]
    assert rows(only_name, entityType="queue", offset=6) == (["name"], [])
    assert rows(only_name, entityType="queue", count=0)[1] == []
    names, all_rows = rows({"attributeNames": []}, entityType="queue")
    assert names == NAMES["queue"] and all(len(row) == len(names) for row in all_rows)
    names, all_rows = rows({"attributeNames": ["queue", "color", "type", "kind", "name"]}, offset=4)
    assert names == ["queue", "color", "type", "kind", "name"], names
    assert all_rows == [[None, None, "queue", "standard", "q3"], [None, None, "queue", "standard", "q4"], ["q3", None, "group", None, "g"]], all_rows
    assert sorted(rows()[0]) == sorted({*NAMES["queue"], *NAMES["group"]})
    for bad in ({"attributeNames": ["name", "name"]}, {"attributeNames": "name"}, {"attributeNames": [1]}, {"attributeNames": ["x" * 257]},
                {"attributeNames": [str(i) for i in range(65)]}):
        assert manager.ask("QUERY", body=bad, entityType="queue")[0] == 400, bad
    assert len(rows({"attributeNames": [str(i) for i in range(64)]}, entityType="queue", count=1)[0]) == 64
    for bad in ({"offset": -1}, {"offset": "0"}, {"count": 1.5}, {"entityType": "table"}, {"entityType": 1}):
        assert manager.ask("QUERY", **bad)[0] == 400, bad
    node = {"kind": "org.amqp.management", "name": "self"}
    assert manager.ask("GET-TYPES", **node) == (200, {"queue": [], "group": []})
    assert manager.ask("GET-ANNOTATIONS", **node, entityType="queue") == (200, {"queue": []})
    assert manager.ask("GET-ATTRIBUTES", **node) == (200, NAMES)
    assert manager.ask("GET-ATTRIBUTES", **node, entityType="group") == (200, {"group": NAMES["group"]})
    assert manager.ask("GET-ATTRIBUTES", **node, entityType="table")[0] == 400
    code, body = manager.ask("GET-OPERATIONS", **node)
    changes = ["retention_ms", "retention_bytes", "max_records", "max_consume_count", "lease_ms"]
    assert code == 200 and body["group"] == {"CREATE": ["selector"], "READ": [], "UPDATE": ["selector"], "DELETE": []}, body
    assert body["queue"] == {"CREATE": ["kind", "durability", "partitions"] + changes, "READ": [], "UPDATE": changes, "DELETE": []}, body
    manager.connection.close()


def what_is_too_large_is_said(running):
    """Not what fits of it: more than 1 MiB of rows, or than the receiver takes."""
    manager = Manager(running)
    manager.ask("CREATE", "queue", "q")
    text = "a <> '" + "x" * 4000 + "'"
    for i in range(262):
        assert manager.ask("CREATE", "group", f"q/groups/g{i}", {"selector": text})[0] == 201
    code, body = manager.ask("QUERY", entityType="group")
    assert (code, body) == (413, {}) and "offset" in manager.last.properties["statusDescription"], (code, str(body)[:100])
    seen = []
    for offset in range(0, 300, 100):
        code, body = manager.ask("QUERY", entityType="group", offset=offset, count=100)
        seen += [row[0] for row in body["results"]]
    assert seen == [f"g{i}" for i in range(262)], seen
    assert len(manager.ask("QUERY", body={"attributeNames": ["name"]}, entityType="group")[1]["results"]) == 262
    codes = manager.burst(60, "QUERY", entityType="group")
    assert set(codes) == {413, 429} and codes.count(413) < 50, codes  # so much at once, and no more
    assert manager.ask("QUERY", entityType="group")[0] == 413
    codes = manager.burst(300, "READ", type="queue", name="q")
    assert codes == [200] * 300, codes
    manager.connection.close()
    small = Manager(running, options=[Target(), Takes(1000)])
    assert small.ask("QUERY", entityType="group", count=1)[0] == 413
    assert small.ask("READ", "queue", "q")[0] == 200
    small.connection.close()


def who_takes_no_answers_is_not_asked_for_more(running):
    manager = Manager(running, credit=0)
    request = Message(reply_to=manager.reply_to, properties={"operation": "CREATE", "type": "queue", "name": "made"})
    read = Message(reply_to=manager.reply_to, properties={"operation": "READ", "type": "queue", "name": "mqtt"})
    for _ in range(100):
        manager.sender.send(read)
    for message in (read, request):
        try:
            manager.sender.send(message)
            raise AssertionError("it was taken")
        except SendException:
            pass
    manager.answers.link.flow(100)
    for _ in range(100):
        assert manager.answers.receive(timeout=SECONDS).properties["statusCode"] == 200
    assert manager.ask("READ", "queue", "made")[0] == 404
    manager.connection.close()


def changes_under_way_have_a_limit(running):
    """What is beyond it is rejected and not begun, the others are answered; then there is room again."""
    manager = Manager(running)
    assert manager.ask("CREATE", "queue", "q")[0] == 201
    with Wire(running.amqp_port, SECONDS) as wire:
        wire.open()
        wire.attach("r", 0, "$management", receiver=True)
        wire.attach("s", 1, "$management")

        def change(first, count):
            updates = [Message(properties={"operation": "UPDATE", "type": "queue", "name": "q"}, body={"max_records": 1000 + i}).encode()
                       for i in range(first, first + count)]
            wire.send(frame(FLOW, [0, 1000, first, 1000, 0, 0, 1000]) +
                      b"".join(frame(TRANSFER, [1, first + i, b"%d" % i, 0], update) for i, update in enumerate(updates)))
            outcomes, answers = {}, 0
            while len(outcomes) < count or answers < list(outcomes.values()).count(ACCEPTED):
                body = wire.next_frame()
                if body[2:3] == bytes([DISPOSITION]):
                    begins, ends, outcome = disposition(body[3:])
                    assert outcome == ACCEPTED or b"amqp:resource-limit-exceeded" in body, body
                    outcomes.update((number, outcome) for number in range(begins, ends + 1))
                elif body[2:3] == bytes([TRANSFER]):
                    assert b"statusCode" in body and b"\x71\x00\x00\x00\xc8" in body, body
                    answers += 1
            return list(outcomes.values())
        outcomes = change(0, 400)
        assert outcomes.count(ACCEPTED) >= 100 and outcomes.count(REJECTED) > 0, (outcomes.count(ACCEPTED), outcomes.count(REJECTED))
        assert change(400, 50) == [ACCEPTED] * 50
    manager.connection.close()


def its_answers_come_as_was_said(running):
    """Settled, and the answer to the attach says so; a drain takes the credit back."""
    for drain in (False, True):
        with Wire(running.amqp_port, SECONDS) as wire:
            wire.open()
            fields, _ = decode(b"\x00\x53\x12" + wire.attach("m", 0, "$management", receiver=True, snd=ubyte(0)))
            assert fields.value[3] == 1, fields.value
            wire.attach("s", 1, "$management")
            wire.send(frame(FLOW, [0, 100, 0, 100, 0, 0, 2]))
            read = Message(id=1, properties={"operation": "READ", "type": "queue", "name": "mqtt"}).encode()
            wire.send(frame(TRANSFER, [1, 0, b"d", 0, True], read))
            fields, _ = decode(b"\x00\x53\x14" + wire.expect(TRANSFER))
            assert fields.value[4] is True, fields.value
            if drain:
                wire.send(frame(FLOW, [1, 100, 1, 100, 0, 1, 5, None, True]))
                flow, _ = decode(b"\x00\x53\x13" + wire.expect(FLOW))
                assert flow.value[4:7] == [0, 6, 0], flow.value  # handle, delivery-count, link-credit


class Kept(LinkOption):
    """Of either end: it outlives its link, and unsettled state does."""

    def apply(self, link):
        end = link.source if link.is_receiver else link.target
        end.durability = Terminus.DELIVERIES
        end.expiry_policy = Terminus.EXPIRE_NEVER


def refused(call):
    try:
        call()
    except LinkDetached as error:
        assert "amqp:unauthorized-access" in str(error), error
        return
    raise AssertionError("was let in")


def users_do_not_meet(running):
    """Two that use the same container and link names, each with a queue and topics of its own."""
    auth = {"Authorization": "Basic " + base64.b64encode(b"root:secret").decode()}
    assert running.call("PUT", "/v1/default/users/root", {"password": "secret"})[0] == 201
    users = {}
    for name in ("ann", "bob"):
        assert running.call("POST", "/v1/default/queues", {"name": name, "redrive_policy": "enable", "max_consume_count": 1}, auth)[0] == 201
        assert running.call("PUT", f"/v1/default/users/{name}", {"password": "secret"}, auth)[0] == 201
        grants = [f"publish,consume queue:{name}", f"publish,consume topic:{name}/#", "publish,consume topic:common"]
        assert running.call("PUT", f"/v1/default/users/{name}/grants", {"grants": grants}, auth)[0] == 200
        one = Container()
        one.container_id = "same"
        users[name] = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, container=one, user=name,
                                         password="secret", allowed_mechs="PLAIN")
    for name, connection in users.items():
        other = "bob" if name == "ann" else "ann"
        for address in (other, f"/topics/{other}/x"):
            refused(lambda: connection.create_sender(address))
            refused(lambda: connection.create_receiver(address))
        refused(lambda: connection.create_receiver(f"/topics/{other}/#", options=Kept()))
        refused(lambda: connection.create_receiver(f"/queues/{other}/groups/amqp/deadletters"))
    # one name of a subscription, and of what a sender may resume
    receivers = {name: connection.create_receiver("/topics/common", name="sub", credit=10, options=Kept()) for name, connection in users.items()}
    for name, connection in users.items():
        sender = connection.create_sender(name, name="link", options=Kept())
        assert sender.link.remote_target.durability == Terminus.DELIVERIES
        for body in ("taken", "refused"):
            sender.send(Message(body=f"{name} {body}"))
    sender = users["ann"].create_sender("/topics/common")
    sender.send(Message(body="for both"))
    for receiver in receivers.values():
        assert receiver.receive(timeout=SECONDS).body == "for both"
        receiver.accept()
    receivers["ann"].close()  # ann's is given up, and not bob's
    sender.send(Message(body="for bob"))
    assert receivers["bob"].receive(timeout=SECONDS).body == "for bob"
    receivers["bob"].accept()
    for name, connection in users.items():
        receiver = connection.create_receiver(name, credit=2)
        assert receiver.receive(timeout=SECONDS).body == f"{name} taken"
        receiver.accept()
        assert receiver.receive(timeout=SECONDS).body == f"{name} refused"
        receiver.reject()
        dead = connection.create_receiver(f"/queues/{name}/groups/amqp/deadletters", credit=10)
        assert dead.receive(timeout=SECONDS).body == f"{name} refused"
        dead.accept()
        try:
            dead.receive(timeout=0.2)
            raise AssertionError("more than its own")
        except Timeout:
            pass
    for name in users:
        other = "bob" if name == "ann" else "ann"
        manager = Manager(running, connection=users[name])
        code, body = manager.ask("QUERY", entityType="queue")
        assert code in (200, 403), (code, body)
        assert other not in str(body), body
        for operation in ("READ", "UPDATE", "DELETE"):
            code, body = manager.ask(operation, "queue", other, {"max_records": 7} if operation == "UPDATE" else None)
            assert code in (403, 404), (operation, code, body)
        assert manager.ask("CREATE", "group", f"{other}/groups/mine")[0] in (403, 404)
        assert manager.ask("CREATE", "queue", "more")[0] == 403


def who_may_only_publish_or_only_manage(running):
    """Either sees the queue, and its groups only who manages it; over AMQP and HTTP alike."""
    def auth(name):
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()}

    assert running.call("PUT", "/v1/default/users/root", {"password": "secret"}, auth("root"))[0] in (200, 201)
    for name in ("seen", "hidden"):
        assert running.call("POST", "/v1/default/queues", {"name": name}, auth("root"))[0] == 201
        assert running.call("POST", f"/v1/default/queues/{name}/groups", {"groups": [{"name": f"of-{name}"}]}, auth("root"))[0] == 201
    for action, groups in (("publish", []), ("manage", ["of-seen"])):
        assert running.call("PUT", f"/v1/default/users/{action}", {"password": "secret"}, auth("root"))[0] == 201
        assert running.call("PUT", f"/v1/default/users/{action}/grants", {"grants": [f"{action} queue:seen"]}, auth("root"))[0] == 200
        connection = BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS, user=action, password="secret",
                                        allowed_mechs="PLAIN")
        manager = Manager(running, connection=connection)
        assert [manager.ask("READ", "queue", name)[0] for name in ("seen", "hidden")] == [200, 404], action
        code, body = manager.ask("QUERY", entityType="queue", body={"attributeNames": ["name"]})
        assert body["results"] == [["seen"]], (action, body)
        code, body = manager.ask("QUERY", entityType="group", body={"attributeNames": ["name"]})
        assert body["results"] == [[group] for group in groups], (action, body)
        assert manager.ask("READ", "group", "seen/groups/of-seen")[0] == (200 if groups else 404), action
        status, body = running.call("GET", "/v1/default/queues", None, auth(action))
        assert (status, [queue["name"] for queue in body["queues"]]) == (200, ["seen"]), (action, body)
        status, body = running.call("GET", "/v1/default/queues/seen/groups", None, auth(action))
        assert status == (200 if groups else 403), (action, status, body)
        assert not groups or [group["name"] for group in body["groups"]] == groups, body
        connection.close()


if __name__ == "__main__":
    run(answers_come_to_a_link_of_the_node, answers_come_to_a_node_of_ones_own, answers_come_to_a_queue_of_ones_own,
        the_node_itself_is_asked, what_is_too_large_is_said,
        who_takes_no_answers_is_not_asked_for_more, changes_under_way_have_a_limit, its_answers_come_as_was_said, users_do_not_meet,
        who_may_only_publish_or_only_manage)
