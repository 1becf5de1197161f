"""The HTTP server's TLS, client certificates and users; test_tls.py has it with a real Prometheus."""

from __future__ import annotations

import ctypes
import ctypes.util
import http.client
import logging
import shutil
import ssl
import time
from base64 import b64encode

import pytest

import webkit
from jobwatt.web import Limits, WebServer
from jobwatt.webconfig import WebConfigError
from webkit import MTLS, TLS, USERS, FixedSite, ask, client_context, connect, dial, serving

server, certs, config = webkit.server, webkit.certs, webkit.config  # fixtures
_closed = webkit._closed  # a fixture

AUTH = "Basic " + b64encode(b"ann:secret").decode()


def key_updates(address, limit_s):
    """Send them as fast as OpenSSL makes them, until the server has enough."""
    found = ctypes.util.find_library("ssl")
    if found is None:
        pytest.skip("no libssl")
    lib = ctypes.CDLL(found)
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    tls = ctypes.c_void_p(
        lib.SSL_new(ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method()))))
    )
    sock = dial(*address)
    sock.setblocking(True)
    lib.SSL_set_fd(tls, sock.fileno())
    assert lib.SSL_connect(tls) == 1
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if lib.SSL_key_update(tls, 0) != 1 or lib.SSL_do_handshake(tls) != 1:
            return


class TestProtection:
    """TLS, client certificates, users."""

    def test_tls(self, certs, config):
        """A client that knows the CA is served; one that does not refuses the server."""
        with serving(config=config(TLS)) as server:
            assert ask(server, context=client_context(certs))[0].status == 200
            with pytest.raises(ssl.SSLCertVerificationError):
                ask(server, context=ssl.create_default_context())

    def test_http_on_the_https_port(self, config):
        """Plain HTTP is told that this port speaks HTTPS."""
        with serving(config=config(TLS)) as server:
            response, body = ask(server)
            assert (response.status, body) == (400, b"this port speaks HTTPS\n")

    def test_versions(self, certs, config):
        """min_version holds."""
        with serving(config=config(TLS + "  min_version: TLS13\n")) as server:
            context = client_context(certs)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises(ssl.SSLError):
                ask(server, context=context)

    def test_ciphers(self, certs, config):
        """A suite by its IANA name is the one that is used."""
        text = TLS + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256]\n"
        with serving(config=config(text + "  max_version: TLS12\n")) as server:
            connection = connect(server, client_context(certs))
            connection.connect()
            assert connection.sock.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
            connection.close()

    @pytest.mark.parametrize(
        ("name", "served"), [("client", True), ("", False), ("stranger", False)]
    )
    def test_client_certificates(self, certs, config, name, served):
        """Only a client whose certificate the CA has signed is served."""
        with serving(config=config(MTLS)) as server:
            if served:
                assert ask(server, context=client_context(certs, name))[0].status == 200
            else:
                with pytest.raises(OSError):  # noqa: PT011 an alert or a reset, by TLS version
                    ask(server, context=client_context(certs, name))

    @pytest.mark.parametrize(("name", "served"), [("client", True), ("someone", False)])
    def test_allowed_names(self, certs, config, name, served):
        """Of the CA's clients, only those with an allowed name are served."""
        text = MTLS + "  client_allowed_sans: [prometheus.example.org]\n"
        with serving(config=config(text)) as server:
            context = client_context(certs, name)
            if served:
                assert ask(server, context=context)[0].status == 200
            else:
                with pytest.raises((OSError, http.client.HTTPException)):
                    ask(server, context=context)

    @pytest.mark.parametrize("path", ["/", "/metrics", "/none", "/healthz/", "/readyz%20"])
    def test_users(self, config, path):
        """Nothing is told to who does not say who they are."""
        with serving(config=config(USERS)) as server:
            for headers in ({}, {"Authorization": "Basic " + b64encode(b"ann:no").decode()}):
                response, body = ask(server, path, headers=headers)
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Basic realm=")
                assert b"jobwatt_jobs" not in body
            response, _ = ask(server, path, headers={"Authorization": AUTH})
            assert response.status == (200 if path in ("/", "/metrics") else 404)

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/healthz?verbose"])
    def test_probes_need_no_password(self, config, path):
        """Health is a status without a password, right, wrong or none; the reason is not told."""
        with serving(config=config(USERS)) as server:
            for good, status in ((True, 200), (False, 503)):
                server.site.good = good
                for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": AUTH}):
                    response, body = ask(server, path, headers=headers)
                    assert (response.status, body) == (status, b"")

    def test_a_wrong_password_is_said_once(self, config, caplog):
        """Who is turned away is one line for a client, without what it said; who says nothing is none."""
        with serving(config=config(USERS)) as server:
            for number in range(3):
                word = b64encode(f"mistyped:guess {number}".encode()).decode()
                assert ask(server, headers={"Authorization": f"Basic {word}"})[0].status == 401
                assert ask(server)[0].status == 401
        (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert line == "127.0.0.1: wrong user or password"

    def test_key_updates_have_an_end(self, certs, config):
        """TLS 1.3's key updates, each of them work for the server, are counted as what a client sends."""
        with serving(config=config(TLS), limits=Limits(request_s=90)) as server:
            began = time.monotonic()
            key_updates(server.address, limit_s=100)
            assert time.monotonic() - began < 60  # the time for a header is 90 s
            assert ask(server, context=client_context(certs))[0].status == 200

    def test_a_renewed_certificate_is_served(self, certs, tmp_path):
        """A certificate renewed on disk is the one the next connection sees."""
        for name in ("server.crt", "server.key"):
            shutil.copy(certs / name, tmp_path / name)
        (tmp_path / "web.yml").write_text(TLS)
        with serving(config=tmp_path / "web.yml") as server:
            before = ssl.get_server_certificate(server.address)
            for kind in ("key", "crt"):
                shutil.copy(certs / f"someone.{kind}", tmp_path / f"server.{kind}")
            assert ssl.get_server_certificate(server.address) != before

    def test_a_bad_file_stops_the_start(self, config):
        """A web config that cannot be used never leads to an unprotected server."""
        with pytest.raises(WebConfigError):
            WebServer("127.0.0.1:0", FixedSite(), config("tls_server_confg: {}"))
