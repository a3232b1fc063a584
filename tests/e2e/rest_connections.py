# SPDX-License-Identifier: Apache-2.0
"""Who is connected, over every protocol, and how an operator ends a connection."""
import contextlib
import json
import socket
import subprocess
import threading
import time

from gateway import POLYLOG, exchange, run, until
from proton import ConnectionException
from proton.utils import BlockingConnection
from rest_users import OWNER, basic, first_user, refused
from websocket import Socket
from wire import DISCONNECT, Client

V1 = "/v1/default/connections"


def listed(gateway, query="", headers=None):
    status, answer = gateway.call("GET", V1 + query, headers=headers)
    assert status == 200, answer
    return answer["connections"]


def gone(gateway, row):
    return until(lambda: gateway.call("GET", f"{V1}/{row['id']}")[0] == 404)


@contextlib.contextmanager
def everybody(gateway):
    """One connection of each protocol."""
    with contextlib.ExitStack() as stack:
        mqtt = stack.enter_context(Client(gateway.mqtt_port))
        mqtt.connect("meter")
        amqp = BlockingConnection(f"127.0.0.1:{gateway.amqp_port}", timeout=20)
        ws = stack.enter_context(Socket(gateway.http_port, "/ws", "polylog.v1"))
        ws.send_frame(1, json.dumps({"op": "connect", "id": 1}).encode())
        assert json.loads(ws.receive_message()[1])["op"] == "ok"
        events = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.http_port)))
        events.settimeout(20)
        events.sendall(b"GET /v1/default/events?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert events.recv(4096).startswith(b"HTTP/1.1 200 ")
        rest = gateway.connect()
        stack.callback(rest.close)
        assert exchange(rest, "GET", "/v1/default/queues")[0] == 200
        yield mqtt, amqp, ws, events, rest


def of_each_protocol(gateway):
    before = time.time()
    with everybody(gateway) as (mqtt, amqp, ws, events, rest):
        mine = "%s:%d" % rest.sock.getsockname()  # and not the connection that asks, nor that of $SYS
        rows = {row["protocol"]: row for row in listed(gateway)
                if row["address"] == mine or row["protocol"] != "rest"}
        assert set(rows) == {"mqtt", "amqp", "websocket", "events", "rest"}, rows
        assert rows["mqtt"]["client_id"] == "meter" and rows["mqtt"]["user"] == ""
        assert rows["amqp"]["client_id"] == amqp.container.container_id
        assert rows["mqtt"]["address"] == "%s:%d" % mqtt.socket.getsockname()
        assert rows["websocket"]["address"] == "%s:%d" % ws.socket.getsockname()
        assert rows["events"]["address"] == "%s:%d" % events.getsockname()
        assert all(abs(row["connected"] / 1000 - before) < 60 for row in rows.values())
        assert all(row["queued_bytes"] >= 0 for row in rows.values())
        assert len({row["id"] for row in rows.values()}) == 5
        assert gateway.call("GET", f"{V1}/{rows['mqtt']['id']}")[1] == rows["mqtt"]
        # Each is told in its own words.
        assert gateway.call("DELETE", f"{V1}/{rows['mqtt']['id']}") == (204, None)
        told = mqtt.expect(DISCONNECT)
        assert told.reason == 0x98 and mqtt.receive() is None, told
        assert gateway.call("DELETE", f"{V1}/{rows['websocket']['id']}") == (204, None)
        assert json.loads(ws.receive_message()[1])["code"] == "canceled"
        ws.expect_close(1008)
        for name, link in (("events", events), ("rest", rest.sock)):
            assert gateway.call("DELETE", f"{V1}/{rows[name]['id']}") == (204, None)
            link.settimeout(20)
            while link.recv(4096):
                pass
        assert gateway.call("DELETE", f"{V1}/{rows['amqp']['id']}") == (204, None)
        try:
            amqp.create_sender("/topics/a")
            raise AssertionError("still connected")
        except ConnectionException as end:
            assert "amqp:connection:forced" in str(end), end
        for row in rows.values():
            assert gone(gateway, row), row
        refused(gateway.call("DELETE", f"{V1}/{rows['mqtt']['id']}"), 404, 10240405)
        rest.close()  # it comes again
        assert exchange(rest, "GET", "/v1/default/queues")[0] == 200


def who_waits_goes_too(gateway):
    """A long poll holds its call, not the connection."""
    gateway.call("POST", "/v1/default/queues/mqtt/groups", {"groups": [{"name": "g"}]})
    with socket.create_connection(("127.0.0.1", gateway.http_port)) as link:
        link.settimeout(20)
        link.sendall(b"GET /v1/default/queues/mqtt/groups/g/messages?time_wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        mine = "%s:%d" % link.getsockname()
        assert until(lambda: any(row["address"] == mine for row in listed(gateway)))
        row = next(row for row in listed(gateway) if row["address"] == mine)
        assert gateway.call("DELETE", f"{V1}/{row['id']}") == (204, None)
        assert link.recv(4096) == b""
    assert gone(gateway, row)


def pages(gateway):
    with contextlib.ExitStack() as stack:
        names = {f"c{i}" for i in range(25)}
        for name in names:
            stack.enter_context(Client(gateway.mqtt_port)).connect(name)
        seen, after, walked = [], 0, 0
        while after is not None:
            answer = gateway.call("GET", f"{V1}?limit=4&after={after}")[1]
            assert 0 < len(answer["connections"]) <= 4, answer
            seen += [row["client_id"] for row in answer["connections"] if row["protocol"] == "mqtt"]
            after, walked = answer["next"], walked + 1
        assert sorted(seen) == sorted(names) and walked >= 7, seen
        assert [row["client_id"] for row in listed(gateway, "?client_id=c7")] == ["c7"]
        assert listed(gateway, "?client_id=c") == [] and listed(gateway, "?user=nobody") == []
        for query in ("limit=0", "limit=1001", "limit=x", "after=-1"):
            refused(gateway.call("GET", f"{V1}?{query}"), 400, 10540014)
        for name in ("0", "x", "-1", "99999999999999999999999", str(2**62)):
            refused(gateway.call("GET", f"{V1}/{name}"), 404, 10240405)
            refused(gateway.call("DELETE", f"{V1}/{name}"), 404, 10240405)


def rights(gateway):
    first_user(gateway)
    assert gateway.call("PUT", "/v1/default/users/anna", {"password": "a"}, OWNER)[0] == 201
    anna = basic("anna", "a")
    refused(gateway.call("GET", V1), 401, 10240103)
    refused(gateway.call("GET", V1, headers=anna), 403, 10240309)
    refused(gateway.call("GET", f"{V1}/1", headers=anna), 403, 10240309)
    refused(gateway.call("DELETE", f"{V1}/1", headers=anna), 403, 10240309)
    assert {row["user"] for row in listed(gateway, "?user=owner", OWNER)} == {"owner"}


def under_load(gateway):
    """Connections come and go while they are listed and ended."""
    stop = threading.Event()

    def come_and_go(number):
        while not stop.is_set():
            with contextlib.suppress(OSError, AssertionError), Client(gateway.mqtt_port) as client:
                client.connect(f"c{number}")

    threads = [threading.Thread(target=come_and_go, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for row in listed(gateway, "?limit=50"):
                if row["protocol"] == "mqtt":
                    assert gateway.call("DELETE", f"{V1}/{row['id']}")[0] in (204, 404)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def command_line(gateway):
    def polylog(*arguments):
        return subprocess.run([POLYLOG, "--url", f"http://127.0.0.1:{gateway.http_port}", "connection", *arguments],
                              capture_output=True, text=True, timeout=60)
    with Client(gateway.mqtt_port) as client:
        client.connect("meter")
        head, row = polylog("list", "--client", "meter").stdout.splitlines()
        assert head.split() == ["ID", "PROTOCOL", "ADDRESS", "USER", "CLIENT", "CONNECTED", "QUEUED"], head
        number, protocol, *_ = row.split()
        assert protocol == "mqtt" and "meter" in polylog("show", number).stdout
        done = polylog("delete", number)
        assert (done.returncode, done.stdout) == (0, ""), done
        assert client.expect(DISCONNECT).reason == 0x98
    assert until(lambda: polylog("show", number).returncode == 1)
    assert "There is no such connection." in polylog("show", number).stderr


if __name__ == "__main__":
    run(of_each_protocol, who_waits_goes_too, pages, rights, under_load, command_line)
