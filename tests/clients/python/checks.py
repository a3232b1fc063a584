# SPDX-License-Identifier: Apache-2.0
"""What the Python clients share: one line per check, and the payloads."""
import contextlib
import json
import os
import ssl
import sys
import time
import traceback
import urllib.request

SIZES = {"empty": 0, "100 B": 100, "1 MiB": 1 << 20}
ORDERED = 200
WAIT_SECONDS = 15
# Long enough for a message that must not come to come.
QUIET_SECONDS = 0.3


class Checks:
    """`with checks("what")` prints `ok` or `failed`; the block fails by any exception."""

    def __init__(self, client):
        self.client = client
        self.failed = 0

    @contextlib.contextmanager
    def __call__(self, what):
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # pylint: disable=broad-except
            self.failed += 1
            traceback.print_exc(limit=-2)
            print(f"failed  {self.client}: {what}: {type(error).__name__} {str(error)[:200]}", flush=True)
        else:
            print(f"ok      {self.client}: {what} ({time.monotonic() - began:.2f} s)", flush=True)


def same(got, want):
    """An assertion whose message stays short, whatever the size of what differs."""
    if got != want:
        raise AssertionError(f"got {repr(got)[:90]}, want {repr(want)[:90]}")


def payload(size):
    return (bytes(range(256)) * (size // 256 + 1))[:size]


def address():
    return sys.argv[1], int(sys.argv[2])


def tls_address():
    return sys.argv[1], int(os.environ["MQTTS_PORT"])


def make_queue(name, **fields):
    """Through REST."""
    url = f"http://{sys.argv[1]}:{os.environ['HTTP_PORT']}/v1/default/queues"
    body = json.dumps({"name": name, **fields}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}),
                                timeout=WAIT_SECONDS) as answer:
        same(answer.status, 201)


def tls_context():
    return ssl.create_default_context(cafile=os.environ["CA_FILE"])
