# SPDX-License-Identifier: Apache-2.0
"""Users over REST: protected mode before the first, rights after it."""
import base64
import threading
import time

from proton import Message
from proton.utils import BlockingConnection

import standstill
from gateway import exchange, run, until
from wire import CONNACK, DISCONNECT, Client

V1 = "/v1/default"
DMS = "/v1.0/default"


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def refused(answer, status, code):
    assert answer[0] == status and answer[1]["code"] == code, answer


OWNER = basic("owner", "geheim:mit:Doppelpunkt")


def first_user(gateway):
    status, user = gateway.call("POST", f"{V1}/users", {"name": "owner", "password": "geheim:mit:Doppelpunkt"})
    assert status == 201 and user["name"] == "owner", user
    return user


def protected_mode(gateway):
    assert gateway.call("GET", f"{DMS}/queues")[0] == 200
    assert gateway.call("GET", f"{DMS}/queues", headers=basic("any", "thing"))[0] == 200
    user = first_user(gateway)
    assert user["grants"] and user["keys"] == []
    refused(gateway.call("GET", f"{DMS}/queues"), 401, 10240103)
    refused(gateway.call("GET", "/metrics"), 401, 10240103)
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert gateway.call("GET", path)[0] == 200
    assert gateway.call("GET", f"{DMS}/queues", headers=OWNER)[0] == 200
    assert gateway.call("GET", "/metrics", headers=OWNER)[0] == 200
    refused(gateway.call("GET", f"{DMS}/queues", headers=basic("owner", "wrong")), 401, 10240101)
    refused(gateway.call("GET", f"{DMS}/queues", headers=basic("nobody", "wrong")), 401, 10240101)
    refused(gateway.call("GET", f"{DMS}/queues", headers=basic("", "")), 401, 10240101)
    refused(gateway.call("GET", f"{DMS}/queues", headers={"X-Auth-Token": "abc"}), 401, 10240101)
    for broken in ("Basic", "Basic !!!", "Basic " + "A" * 5000, "Bearer x", "Basic " + base64.b64encode(b"nocolon").decode()):
        refused(gateway.call("GET", f"{DMS}/queues", headers={"Authorization": broken}), 401, 10240101)
    # The Host matters only while nobody is asked for a password.
    assert gateway.call("GET", f"{DMS}/queues", headers={**OWNER, "Host": "gateway.example"})[0] == 200
    raw = gateway.raw(b"GET /v1.0/default/queues HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b"\r\nWWW-Authenticate: Basic" in raw, raw
    # There is no way back to a house that asks nobody.
    refused(gateway.call("DELETE", f"{V1}/users/owner", headers=OWNER), 403, 10240309)


def one_connection(gateway):
    """A connection that stays is not what it was when users come, change and go."""
    link = gateway.connect()
    assert exchange(link, "GET", f"{DMS}/queues")[0] == 200
    first_user(gateway)
    assert exchange(link, "GET", f"{DMS}/queues")[0] == 401
    assert exchange(link, "GET", f"{DMS}/queues", headers=OWNER)[0] == 200
    assert exchange(link, "GET", f"{DMS}/queues", headers=basic("owner", "no"))[0] == 401
    assert exchange(link, "PUT", f"{V1}/users/owner", {"password": "new"}, OWNER)[0] == 200
    assert exchange(link, "GET", f"{DMS}/queues", headers=OWNER)[0] == 401
    assert exchange(link, "GET", f"{DMS}/queues", headers=basic("owner", "new"))[0] == 200


def rights(gateway):
    first_user(gateway)
    assert gateway.call("POST", f"{V1}/queues", {"name": "orders"}, OWNER)[0] == 201
    assert gateway.call("POST", f"{V1}/queues", {"name": "secret"}, OWNER)[0] == 201
    assert gateway.call("POST", f"{V1}/queues/orders/groups", {"groups": [{"name": "g"}]}, OWNER)[0] == 201
    status, user = gateway.call("PUT", f"{V1}/users/anna", {"password": "a"}, OWNER)
    assert status == 201 and user["grants"] == [], user
    anna = basic("anna", "a")
    assert gateway.call("GET", f"{DMS}/queues", headers=anna)[1]["queues"] == []
    message = {"messages": [{"body": "x"}]}
    refused(gateway.call("POST", f"{DMS}/queues/orders/messages", message, anna), 403, 10240309)
    status, user = gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": [
        "publish queue:ord*", "publish,consume topic:plant/%u/#"]}, OWNER)
    assert status == 200 and user["grants"] == ["publish queue:ord*", "publish,consume topic:plant/%u/#"], user
    assert gateway.call("POST", f"{DMS}/queues/orders/messages", message, anna)[0] == 201
    refused(gateway.call("POST", f"{DMS}/queues/secret/messages", message, anna), 403, 10240309)
    refused(gateway.call("GET", f"{DMS}/queues/orders/groups/g/messages?time_wait=1", headers=anna), 403, 10240309)
    refused(gateway.call("GET", f"{DMS}/queues/orders/groups", headers=anna), 403, 10240309)
    refused(gateway.call("GET", f"{V1}/queues/orders/records", headers=anna), 403, 10240309)
    refused(gateway.call("GET", f"{DMS}/queues/secret", headers=anna), 403, 10240309)
    refused(gateway.call("DELETE", f"{DMS}/queues/orders", headers=anna), 403, 10240309)
    refused(gateway.call("POST", f"{DMS}/queues", {"name": "mine"}, anna), 403, 10240309)
    refused(gateway.call("GET", f"{V1}/users", headers=anna), 403, 10240309)
    refused(gateway.call("GET", f"{V1}/users/owner", headers=anna), 403, 10240309)
    refused(gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": ["manage queue:*"]}, anna), 403, 10240309)
    refused(gateway.call("POST", f"{V1}/users", {"name": "new", "password": "p"}, anna), 403, 10240309)
    refused(gateway.call("PUT", f"{V1}/routes/a", {"queue": "orders"}, anna), 403, 10240309)
    assert gateway.call("GET", f"{V1}/users/anna", headers=anna)[0] == 200
    assert [q["name"] for q in gateway.call("GET", f"{DMS}/queues", headers=anna)[1]["queues"]] == ["orders"]
    assert gateway.call("POST", f"{V1}/publish", {"topic": "plant/anna/t", **message}, anna)[0] == 201
    refused(gateway.call("POST", f"{V1}/publish", {"topic": "plant/owner/t", **message}, anna), 403, 10240309)
    assert gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": []}, OWNER)[0] == 200
    refused(gateway.call("POST", f"{DMS}/queues/orders/messages", message, anna), 403, 10240309)
    assert gateway.call("DELETE", f"{V1}/users/anna", headers=OWNER) == (204, None)
    refused(gateway.call("GET", f"{DMS}/queues", headers=anna), 401, 10240101)


def managing_alone(gateway):
    """Who may manage a queue begins a redrive and sees how far it is; what is in the queue is not shown."""
    first_user(gateway)
    dead = {"name": "orders", "redrive_policy": "enable", "max_consume_count": 3}
    assert gateway.call("POST", f"{V1}/queues", dead, OWNER)[0] == 201
    groups = f"{V1}/queues/orders/groups"
    assert gateway.call("POST", groups, {"groups": [{"name": "g"}]}, OWNER)[0] == 201
    carl, anna = basic("carl", "c"), basic("anna", "a")
    for name, password, grants in (("carl", "c", ["manage queue:orders"]), ("anna", "a", ["publish queue:orders"])):
        assert gateway.call("PUT", f"{V1}/users/{name}", {"password": password}, OWNER)[0] == 201
        assert gateway.call("PUT", f"{V1}/users/{name}/grants", {"grants": grants}, OWNER)[0] == 200
    status, progress = gateway.call("POST", f"{groups}/g/redrive", {"all": True}, carl)
    assert status == 202 and progress["failed"] == 0, (status, progress)
    assert gateway.call("GET", f"{groups}/g/redrive", headers=carl)[0] == 200
    assert gateway.call("GET", f"{groups}/g/redrive", headers=OWNER)[0] == 200
    refused(gateway.call("GET", f"{groups}/g/explain?offset=0", headers=carl), 403, 10240309)
    for method, body in (("POST", {"all": True}), ("GET", None)):
        refused(gateway.call(method, f"{groups}/g/redrive", body, anna), 403, 10240309)


def users(gateway):
    first_user(gateway)
    for body in ({}, {"name": "x"}, {"name": 1, "password": "p"}, {"name": "x", "password": 1},
                 {"name": "x", "password": ""}, {"name": "", "password": "p"}, {"name": "a b", "password": "p"},
                 {"name": "a/b", "password": "p"}, {"name": "x" * 129, "password": "p"},
                 {"name": "x", "password": "p" * 1025}, {"name": "owner", "password": "p"}):
        refused(gateway.call("POST", f"{V1}/users", body, OWNER), 400, 10540010)
    refused(gateway.call("POST", f"{V1}/users", b"{", OWNER), 400, 10540012)
    assert gateway.call("POST", f"{V1}/users", {"name": "ürsula", "password": "p"}, OWNER)[0] == 201
    assert gateway.call("GET", f"{DMS}/queues", headers=basic("ürsula", "p"))[0] == 200
    listed = gateway.call("GET", f"{V1}/users", headers=OWNER)[1]["users"]
    assert [user["name"] for user in listed] == ["owner", "ürsula"]
    assert set(listed[0]) == {"name", "created", "grants", "keys"}
    assert abs(listed[1]["created"] / 1000 - time.time()) < 60
    assert gateway.call("GET", f"{V1}/users/%C3%BCrsula", headers=OWNER)[1]["name"] == "ürsula"
    refused(gateway.call("GET", f"{V1}/users/none", headers=OWNER), 404, 10240405)
    refused(gateway.call("DELETE", f"{V1}/users/none", headers=OWNER), 404, 10240405)
    for grants in (None, "x", ["x"], ["publish"], ["fly topic:a"], ["publish topic:a/#/b"], ["publish room:a"], [1],
                   ["publish topic:a"] * 257):
        refused(gateway.call("PUT", f"{V1}/users/owner/grants", {"grants": grants}, OWNER), 400, 10540010)
    refused(gateway.call("PUT", f"{V1}/users/none/grants", {"grants": []}, OWNER), 404, 10240405)


def keys(gateway):
    first_user(gateway)
    status, key = gateway.call("POST", f"{V1}/users/owner/keys", headers=OWNER)
    assert status == 201 and len(key["id"]) == 20 and len(key["secret"]) == 40, key
    listed = gateway.call("GET", f"{V1}/users/owner/keys", headers=OWNER)
    assert listed == (200, {"keys": [{"id": key["id"]}]}), listed
    assert key["secret"] not in str(gateway.call("GET", f"{V1}/users", headers=OWNER))
    assert gateway.call("DELETE", f"{V1}/users/owner/keys/{key['id']}", headers=OWNER) == (204, None)
    refused(gateway.call("DELETE", f"{V1}/users/owner/keys/{key['id']}", headers=OWNER), 404, 10240405)
    refused(gateway.call("POST", f"{V1}/users/none/keys", headers=OWNER), 404, 10240405)


def who_waits_and_may_no_more(gateway):
    """What comes when the token has run out, the right is withdrawn or the user has gone is not handed out, and nobody
    else has to wait for it."""
    first_user(gateway)
    assert gateway.call("POST", f"{V1}/queues", {"name": "q"}, OWNER)[0] == 201
    assert gateway.call("POST", f"{V1}/queues/q/groups", {"groups": [{"name": "g"}]}, OWNER)[0] == 201
    path = f"{V1}/queues/q/groups/g/messages"

    def user():
        assert gateway.call("PUT", f"{V1}/users/anna", {"password": "a"}, OWNER)[0] in (200, 201)
        assert gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": ["consume queue:q"]}, OWNER)[0] == 200

    def waits(headers, meanwhile, status, code):
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(
            gateway.call("GET", f"{path}?time_wait=20", headers=headers)))
        waiter.start()
        assert until(lambda: "'anna'" in str(gateway.call("GET", f"{V1}/connections", headers=OWNER)))
        meanwhile()
        assert gateway.call("POST", f"{V1}/publish", {"queue": "q", "messages": [{"body": "x"}]}, OWNER)[0] == 201
        waiter.join(30)
        refused(answers[0], status, code)
        got = gateway.call("GET", f"{path}?time_wait=1", headers=OWNER)
        assert got[0] == 200 and len(got[1]) == 1, got

    user()
    short = gateway.call("POST", f"{V1}/tokens", {"expires_in": 1}, basic("anna", "a"))[1]["token"]
    bearer = {"Authorization": "Bearer " + short}
    waits(bearer, lambda: until(lambda: gateway.call("GET", f"{DMS}/queues", headers=bearer)[0] == 401), 401, 10240101)
    waits(basic("anna", "a"), lambda: gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": []}, OWNER), 403, 10240309)
    user()
    waits(basic("anna", "a"), lambda: gateway.call("DELETE", f"{V1}/users/anna", headers=OWNER), 401, 10240101)


def tokens(gateway):
    """Instead of the password, for a while: in every protocol, until the password is another one."""
    refused(gateway.call("POST", f"{V1}/tokens"), 400, 10540010)  # nobody is asked
    first_user(gateway)
    assert gateway.call("PUT", f"{V1}/users/anna", {"password": "a"}, OWNER)[0] == 201
    grants = {"grants": ["publish,consume topic:t", "publish,consume queue:*"]}
    assert gateway.call("PUT", f"{V1}/users/anna/grants", grants, OWNER)[0] == 200

    def make(body=None, headers=basic("anna", "a")):
        status, made = gateway.call("POST", f"{V1}/tokens", body, headers)
        assert status == 201 and set(made) == {"token", "expires_at"}, made
        return made["token"], made["expires_at"] / 1000 - time.time()

    def bearer(token):
        return {"Authorization": "Bearer " + token}
    token, left = make()
    assert 3500 < left < 3700
    assert 86000 < make({"expires_in": 86400})[1] < 87000
    for seconds in 0, -1, 86401, "60", 1.5:
        refused(gateway.call("POST", f"{V1}/tokens", {"expires_in": seconds}, OWNER), 400, 10540014)
    for headers in (bearer(token), {"X-Auth-Token": token}, {"Authorization": "bearer " + token}, basic("anna", token), basic("", token)):
        assert gateway.call("GET", f"{DMS}/queues", headers=headers)[0] == 200, headers
        refused(gateway.call("GET", f"{V1}/users", headers=headers), 403, 10240309)  # it is anna
        refused(gateway.call("POST", f"{V1}/tokens", headers=headers), 403, 10240309)  # no way to live for ever
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for headers in (bearer(flipped), bearer(token[:-1]), bearer(token + "A"), bearer(""), basic("owner", token), {"X-Auth-Token": flipped},
                    bearer(token[:20] + "!" + token[21:]), bearer(token.upper())):
        refused(gateway.call("GET", f"{DMS}/queues", headers=headers), 401, 10240101)
    raw = gateway.raw(b"GET /v1.0/default/queues HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b", Bearer realm=" in raw, raw

    def mqtt(user, password):
        client = Client(gateway.mqtt_port, 5).connect(accept=False, user=user, password=password)
        return client, client.expect(CONNACK).reason
    for user in "anna", None:
        client, reason = mqtt(user, token)
        assert reason == 0 and client.publish("t", "x", 1) == 0
        client.close()
    assert mqtt("owner", token)[1] == 0x86 and mqtt(None, flipped)[1] == 0x86
    line = BlockingConnection(f"127.0.0.1:{gateway.amqp_port}", user="anna", password=token, allowed_mechs="PLAIN")
    line.create_sender("/topics/t").send(Message("x"))
    line.close()

    # A connection that came with it ends with it, and with the password behind it.
    def with_a_short_one():
        """None where its second was over before it came."""
        began = time.monotonic()
        short, _ = make({"expires_in": 1})
        client, reason = mqtt("anna", short)
        assert reason == 0 or reason == 0x86 and time.monotonic() - began > 0.9, reason
        return (short, client) if reason == 0 else None
    short, client = until(with_a_short_one)
    assert client.expect(DISCONNECT).reason == 0x87
    refused(gateway.call("GET", f"{DMS}/queues", headers=bearer(short)), 401, 10240101)
    link = gateway.connect()
    assert exchange(link, "GET", f"{DMS}/queues", headers=bearer(token))[0] == 200
    gateway.restart()
    assert gateway.call("GET", f"{DMS}/queues", headers=bearer(token))[0] == 200
    client, reason = mqtt("anna", token)
    other, reason_of_other = mqtt("anna", "a")
    assert (reason, reason_of_other) == (0, 0)
    assert gateway.call("PUT", f"{V1}/users/anna/grants", grants, OWNER)[0] == 200
    client.ping()
    assert gateway.call("PUT", f"{V1}/users/anna", {"password": "a"}, OWNER)[0] == 200  # the same, and yet another
    assert client.expect(DISCONNECT).reason == 0x87
    other.ping()
    refused(gateway.call("GET", f"{DMS}/queues", headers=bearer(token)), 401, 10240101)
    token, _ = make()
    assert gateway.call("DELETE", f"{V1}/users/anna", headers=OWNER)[0] == 204
    refused(gateway.call("GET", f"{DMS}/queues", headers=bearer(token)), 401, 10240101)


def passwords_are_not_checked_twice(gateway):
    """The hash is made to be slow: many requests with the same credentials must not pay for it each."""
    first_user(gateway)
    assert gateway.call("GET", f"{DMS}/queues", headers=OWNER)[0] == 200

    def hundred_requests():
        started = time.monotonic()
        for _ in range(100):
            assert gateway.call("GET", f"{DMS}/queues", headers=OWNER)[0] == 200
        return standstill.spent(started)
    assert any(hundred_requests() < 3 for _ in range(3))  # the gateway alone may stand still in one of them
    # Each worker has to see them once; a wrong password is never remembered as a good one.
    assert until(lambda: gateway.call("GET", f"{DMS}/queues", headers=basic("owner", "geheim"))[0] == 401)


def kept(gateway):
    first_user(gateway)
    assert gateway.call("PUT", f"{V1}/users/anna", {"password": "a"}, OWNER)[0] == 201
    assert gateway.call("PUT", f"{V1}/users/anna/grants", {"grants": ["consume queue:a"]}, OWNER)[0] == 200
    gateway.kill9()
    gateway.restart()
    assert gateway.call("GET", f"{DMS}/queues")[0] == 401
    assert gateway.call("GET", f"{V1}/users/anna", headers=basic("anna", "a"))[1]["grants"] == ["consume queue:a"]


if __name__ == "__main__":
    run(protected_mode, one_connection, rights, managing_alone, users, keys, tokens, who_waits_and_may_no_more, passwords_are_not_checked_twice, kept)
