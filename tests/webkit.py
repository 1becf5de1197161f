"""The HTTP server with a site of fixed answers, certificates, and clients on raw sockets."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from dataclasses import dataclass, field

import bcrypt
import pytest

import webcerts
from jobwatt.web import Limits, WebServer

PAGE = "# HELP jobwatt_jobs Jobs.\n# TYPE jobwatt_jobs gauge\njobwatt_jobs 2.0\n"


@dataclass
class FixedSite:
    """A site with fixed answers, each page one object as long as nothing changes."""

    text: bytes = PAGE.encode()
    openmetrics: bytes = (PAGE + "# EOF\n").encode()
    good: bool = True
    asked: list[frozenset[str]] = field(default_factory=list)

    def metrics(self, openmetrics, names):
        self.asked.append(names)
        if "boom" in names:
            raise RuntimeError("boom")
        return self.openmetrics if openmetrics else self.text

    def page(self):
        return "<!doctype html><title>jobwatt</title>\udce9"

    def health(self):
        return self.good, "" if self.good else "the last sample is 90 s old"

    def ready(self):
        return self.good, "" if self.good else "no sample yet"


@contextlib.contextmanager
def serving(address="127.0.0.1:0", site=None, config=None, limits=None):
    server = WebServer(address, site or FixedSite(), config, limits)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def server():
    with serving(limits=Limits(connections=8)) as server:
        yield server


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """A CA with a server and two clients, and a stranger with a CA of its own."""
    path = tmp_path_factory.mktemp("certs")
    ca, stranger = webcerts.make("ca"), webcerts.make("stranger")
    ca.write(path, "ca")
    stranger.write(path, "strange-ca")
    webcerts.make("server", ca).write(path, "server")
    webcerts.make("prometheus", ca, ("prometheus.example.org",)).write(path, "client")
    webcerts.make("someone", ca, ("someone.example.org",)).write(path, "someone")
    webcerts.make("stranger", stranger).write(path, "stranger")
    return path


TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
MTLS = TLS + "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n"
USERS = f"basic_auth_users:\n  ann: {bcrypt.hashpw(b'secret', bcrypt.gensalt(4)).decode()}\n"


@pytest.fixture
def config(certs, request):
    """Writes a web config beside the certificates."""

    def write(text):
        path = certs / f"{abs(hash(request.node.name))}.yml"
        path.write_text(text)
        return path

    return write


def client_context(certs, name=""):
    context = ssl.create_default_context(cafile=certs / "ca.crt")
    if name:
        context.load_cert_chain(certs / f"{name}.crt", certs / f"{name}.key")
    return context


def connect(server, context=None):
    host, port = server.address
    if context:
        return http.client.HTTPSConnection(host, port, timeout=60, context=context)
    return http.client.HTTPConnection(host, port, timeout=60)


def ask(server, path="/metrics", method="GET", headers=(), context=None, body=None):
    """One request on a connection of its own: the response and its body."""
    with contextlib.closing(connect(server, context)) as connection:
        connection.request(method, path, headers=dict(headers), body=body)
        response = connection.getresponse()
        return response, response.read()


OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _closed():
    """Closes the raw sockets of a test."""
    yield
    while OPEN:
        OPEN.pop().close()


def dial(host, port):
    OPEN.append(socket.create_connection((host, port), timeout=60))
    return OPEN[-1]
