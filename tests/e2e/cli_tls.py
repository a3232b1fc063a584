# SPDX-License-Identifier: Apache-2.0
"""The TLS listeners: their certificate, and what a hang-up does to it."""
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile

import gateway
from gateway import Gateway, until


def make_certificate(directory, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", os.path.join(directory, "key.pem"), "-out", os.path.join(directory, "cert.pem"),
                    "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)


def certificate_of(port):
    """The certificate (DER) that the listener shows."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        with context.wrap_socket(plain) as secure:
            return secure.getpeercert(binary_form=True)


def on_disk(directory):
    with open(os.path.join(directory, "cert.pem"), encoding="ascii") as file:
        return ssl.PEM_cert_to_DER_cert(file.read())


def certificates_are_shown_and_reloaded():
    directory = tempfile.mkdtemp(prefix="polylog-tls-")
    try:
        make_certificate(directory, "first")
        running = Gateway(None, f"tls.cert={directory}/cert.pem", f"tls.key={directory}/key.pem", "mqtt.tls_port=0",
                          "http.tls_port=0")
        assert list(running.ports) == ["mqtt", "mqtts", "amqp", "amqps", "http", "https"], running.ports
        ports = running.ports["mqtts"], running.ports["https"]
        first = on_disk(directory)
        assert [certificate_of(port) for port in ports] == [first, first]

        context = ssl.create_default_context(cafile=f"{directory}/cert.pem")
        with context.wrap_socket(socket.create_connection(("127.0.0.1", ports[1])), server_hostname="127.0.0.1") as link:
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert link.recv(1000).startswith(b"HTTP/1.1 200"), "no answer over TLS"
            # A reload is for new connections; this one goes on.
            make_certificate(directory, "second")
            running.process.send_signal(signal.SIGHUP)
            assert until(lambda: "certificates are reloaded" in running.stderr())
            second = on_disk(directory)
            assert second != first
            assert [certificate_of(port) for port in ports] == [second, second]
            link.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert link.recv(1000).startswith(b"HTTP/1.1 200"), "the old connection has ended"

        with open(os.path.join(directory, "cert.pem"), "w", encoding="ascii") as file:
            file.write("nonsense")
        running.process.send_signal(signal.SIGHUP)
        assert until(lambda: f"reload: certificate {directory}/cert.pem" in running.stderr()), running.stderr()
        assert [certificate_of(port) for port in ports] == [second, second]
        assert running.stop() == 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


gateway.run(certificates_are_shown_and_reloaded)
