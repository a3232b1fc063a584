# SPDX-License-Identifier: Apache-2.0
"""A running polylogd for end-to-end tests: started on free ports, stopped by its own process id.

POLYLOGD names the binary. A test file is a program of its own: it calls run() with its test functions, each of which
gets a fresh Gateway.
"""
import atexit
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import standstill

POLYLOGD = os.environ.get("POLYLOGD", "build/release/polylogd")
# The CLI is built beside it.
POLYLOG = os.environ.get("POLYLOG", os.path.join(os.path.dirname(POLYLOGD), "polylog"))
START_SECONDS = 60
STOP_SECONDS = 40


class Gateway:
    """Gateway(data=None, *sets): data None makes a directory that goes with the object; sets are "key=value"."""

    all = []

    def __init__(self, data=None, *sets):
        self.owns_data = data is None
        self.data = data or tempfile.mkdtemp(prefix="polylog-e2e-")
        self.log_path = self.data.rstrip("/") + ".log"  # not inside: it belongs to the store alone
        self.sets = list(sets)
        self.process = None
        self.lines = []
        atexit.register(self._clean)
        Gateway.all.append(self)
        self.start()

    def start(self):
        command = [POLYLOGD, "--data", self.data]
        # More than one worker wherever it is tested, so that everything has to cross between them.
        ports = {"mqtt.port": "0", "amqp.port": "0", "http.port": "0", "workers": "2"}
        for setting in self.sets:
            key, _, value = setting.partition("=")
            ports[key] = value
        if "tls.cert" in ports:
            ports.setdefault("amqp.tls_port", "0")
        for key, value in ports.items():
            command += ["--set", f"{key}={value}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.ports = self._wait_ready()
        self.mqtt_port = self.ports.get("mqtt")
        self.amqp_port = self.ports.get("amqp")
        self.http_port = self.ports.get("http")

    def _wait_ready(self):
        found = {}
        ready = threading.Event()

        def read(stream):
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                if line.startswith("ready"):
                    for word in line.split()[1:]:
                        name, _, address = word.partition("=")
                        found[name] = int(address.rpartition(":")[2])
                    ready.set()
            ready.set()

        threading.Thread(target=read, args=(self.process.stdout,), daemon=True).start()
        if not ready.wait(START_SECONDS) or not found:
            self._kill()
            raise RuntimeError(f"polylogd did not get ready: {self.stderr()[-2000:]}")
        return found

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @classmethod
    def any_has_died(cls):
        """By itself, that is, of all there have been."""
        return any(one.process.poll() not in (None, 0, -signal.SIGKILL) for one in cls.all)

    def stderr(self):
        with open(self.log_path, "rb") as log:
            return log.read().decode(errors="replace")

    def kill9(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """SIGTERM; returns the exit code."""
        if not self.alive():
            return self.process.returncode
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            raise RuntimeError(f"polylogd did not stop: {self.stderr()[-2000:]}")

    def restart(self):
        """Starts again on the same data, after stop() or kill9(); stops first when it still runs."""
        if self.alive():
            self.stop()
        self.start()

    def _kill(self):
        if self.alive():
            self.process.kill()
            self.process.wait()

    def _clean(self):
        self._kill()
        if self.owns_data:
            shutil.rmtree(self.data, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.log_path)

    # REST

    def call(self, method, path, body=None, headers=None, timeout=90):
        """One request on a connection of its own: (status, decoded JSON or text or None)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            return exchange(connection, method, path, body, headers)
        finally:
            connection.close()

    def connect(self, timeout=90):
        """A connection to keep: use with exchange()."""
        return http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)

    def raw(self, data, enough=lambda received: False, seconds=20.0):
        """Sends bytes as they are; returns what comes back until that is enough, or the stream ends, or nothing comes."""
        with socket.create_connection(("127.0.0.1", self.http_port)) as link:
            link.sendall(data)
            link.settimeout(seconds)
            received = b""
            try:
                while not enough(received):
                    piece = link.recv(65536)
                    if not piece:
                        break
                    received += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return received


def exchange(connection, method, path, body=None, headers=None):
    headers = dict(headers or {})
    if body is not None and not isinstance(body, (bytes, str)):
        body = json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    data = response.read()
    if not data:
        return response.status, None
    if response.headers.get_content_type() == "application/json":
        return response.status, json.loads(data)
    return response.status, data.decode()


def queue(running, name="q", **fields):
    status, answer = running.call("POST", "/v1/default/queues", {"name": name, **fields})
    assert status in (200, 201), answer


def until(condition, seconds=10.0, step=0.05):
    """Waits until condition() is true; returns its last value."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def run(*tests):
    """Runs each test function with a Gateway of its own (or none, when it takes no argument); exits with the outcome."""
    chosen = sys.argv[1:]
    failed = [test for test in tests if not (chosen and test.__name__ not in chosen) and not _passes(test)]
    sys.exit(1 if failed else 0)


def _passes(test, tries=5):
    started = time.monotonic()
    gateway = None
    try:
        if test.__code__.co_argcount:
            gateway = Gateway()
            test(gateway)
            assert gateway.alive() or gateway.process.returncode == 0, "polylogd has died"
            code = gateway.stop()
            assert code == 0, f"polylogd ended with {code}"
        else:
            test()
        print(f"ok   {test.__name__} ({time.monotonic() - started:.1f} s)", flush=True)
        return True
    except Exception:
        lost = standstill.since(started)
        again = lost > 0.1 and tries > 1 and hasattr(test, "needs_pace") and not Gateway.any_has_died()
        print(f"{'once more' if again else 'FAIL'} {test.__name__}, the machine stood still for {lost:.1f} s", flush=True)
        traceback.print_exc()
        if gateway is not None:
            sys.stderr.write(gateway.stderr()[-4000:])
    finally:
        if gateway is not None:
            gateway._clean()
    return again and _passes(test, tries - 1)
