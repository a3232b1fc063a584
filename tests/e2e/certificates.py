# SPDX-License-Identifier: Apache-2.0
"""Certificates for tests over TLS, made by openssl."""
import os
import subprocess


def certificates(folder):
    """An authority, and certificates of a server and of a client (device7) that it signed."""

    def openssl(*arguments):
        subprocess.run(("openssl",) + arguments, cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    for name, subject, names in (("server", "/CN=localhost", "DNS:localhost,IP:127.0.0.1"), ("device", "/CN=device7", "DNS:device7")):
        openssl("req", *curve, "-keyout", name + ".key", "-out", name + ".csr", "-subj", subject)
        with open(os.path.join(folder, "names"), "w", encoding="ascii") as file:
            file.write("subjectAltName=" + names)
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", name + ".pem", "-days", "2", "-extfile", "names")
    return {name: os.path.join(folder, name) for name in os.listdir(folder)}
