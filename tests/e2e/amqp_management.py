# SPDX-License-Identifier: Apache-2.0
"""The node $management: queues and groups made, read, changed, listed and removed over AMQP."""
import base64

from proton import Message, Terminus, Timeout
from proton.reactor import Container, LinkOption
from proton.utils import BlockingConnection, LinkDetached

from gateway import run

SECONDS = 20


class Target(LinkOption):
    def apply(self, link):
        link.target.address = "answers-here"

    def test(self, link):
        return link.is_receiver


class Manager:
    def __init__(self, running, reply_to=None, connection=None):
        self.connection = connection or BlockingConnection(f"amqp://127.0.0.1:{running.amqp_port}", timeout=SECONDS)
        if reply_to is None:
            self.answers = self.connection.create_receiver("$management", credit=10, options=Target())
            self.reply_to = "answers-here"
        else:
            self.answers = self.connection.create_receiver(None, credit=10, dynamic=True)
            self.reply_to = self.answers.link.remote_source.address
        self.sender = self.connection.create_sender("$management")
        self.number = 0

    def ask(self, operation, kind=None, name=None, body=None, **more):
        self.number += 1
        properties = {"operation": operation, **more}
        if kind:
            properties["type"] = kind
        if name:
            properties["name"] = name
        self.sender.send(Message(id=self.number, reply_to=self.reply_to, properties=properties, body=body))
        answer = self.answers.receive(timeout=SECONDS)
        if self.answers.fetcher.unsettled:  # those of the node itself come settled
            self.answers.accept()
        assert answer.correlation_id == self.number, answer
        return answer.properties["statusCode"], answer.body


def lives(manager):
    code, body = manager.ask("CREATE", "queue", "made", {"kind": "fifo", "max_consume_count": 3, "retention_ms": 60000})
    assert code == 201 and body["name"] == "made" and body["kind"] == "fifo", (code, body)
    assert manager.ask("CREATE", "queue", "made")[0] in (400, 409)
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
    assert manager.ask("DELETE", "queue", "mqtt")[0] in (400, 403)
    manager.connection.close()


def answers_come_to_a_link_of_the_node(running):
    lives(Manager(running))


def answers_come_to_a_node_of_ones_own(running):
    lives(Manager(running, "dynamic"))


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


if __name__ == "__main__":
    run(answers_come_to_a_link_of_the_node, answers_come_to_a_node_of_ones_own, users_do_not_meet)
