"""Where the HTTP server listens, and the warning where user names go out unprotected."""

from __future__ import annotations

import http.client
import logging
import socket

import pytest

import webkit
from jobwatt.web import WebServer
from jobwatt.weblisten import parse_address
from webkit import MTLS, TLS, USERS, FixedSite, ask, serving

server, certs, config = webkit.server, webkit.certs, webkit.config  # fixtures


class TestAddresses:
    """--web.listen-address."""

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (":9816", ("", 9816)),
            ("[::1]:9816", ("::1", 9816)),
            ("[::]:0", ("::", 0)),
            ("node-1.example.org:80", ("node-1.example.org", 80)),
            ("0.0.0.0:9816", ("0.0.0.0", 9816)),
        ],
    )
    def test_good(self, text, expected):
        """Host and port are split."""
        assert parse_address(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["9816", "", "::1:9816", "[::1]", "a:b", "a:99999", "[x]:1", "http://a:1", "a b:1", "a:-1"],
    )
    def test_bad(self, text):
        """Anything else is refused in one line that names the flag."""
        with pytest.raises(ValueError, match=r"^--web.listen-address: [^\n]*$"):
            WebServer(text, FixedSite())

    def test_all_interfaces(self):
        """:PORT answers on IPv4 and, where the machine has it, on IPv6."""
        with serving(":0") as server:
            port = server.address[1]
            hosts = ["127.0.0.1", *(["::1"] if socket.has_dualstack_ipv6() else [])]
            for host in hosts:
                connection = http.client.HTTPConnection(host, port, timeout=60)
                connection.request("GET", "/healthz")
                assert connection.getresponse().status == 200
                connection.close()

    def test_ipv6_alone(self):
        """[::1] is served, and not on IPv4."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        with serving("[::1]:0") as server:
            assert ask(server)[0].status == 200
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", server.address[1]), timeout=60)

    def test_localhost_is_ipv4(self):
        """A name with both kinds of address is served on IPv4, where scrapers look."""
        with serving("localhost:0") as server:
            assert server.address[0] == "127.0.0.1"

    def test_a_port_that_is_taken(self, server):
        """A taken port is said with its number and the flag to choose another."""
        port = server.address[1]
        with pytest.raises(OSError, match=rf"^port {port} is taken .*--web.listen-address$"):
            WebServer(f"127.0.0.1:{port}", FixedSite()).start()

    @pytest.mark.parametrize(
        ("address", "said"),
        [("192.0.2.1:0", "cannot listen on '192.0.2.1'"), ("no.such.invalid:0", "has no address")],
    )
    def test_an_address_that_is_not_ours(self, address, said):
        """A foreign address and an unknown name are said as such."""
        with pytest.raises(OSError, match=said):
            WebServer(address, FixedSite()).start()


class TestWarning:
    """User names beyond this machine."""

    def warned(self, caplog, address, config=None):
        caplog.clear()
        with caplog.at_level(logging.INFO), serving(address, config=config):
            return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]

    def test_open_to_the_network(self, caplog):
        """Beyond loopback and unprotected: one warning, with both ways to mend it."""
        (line,) = self.warned(caplog, ":0")
        assert line.startswith("USER NAMES GO OUT UNPROTECTED")
        assert "without TLS and authentication" in line
        assert "--web.config.file" in line
        assert "--web.listen-address=127.0.0.1:" in line

    def test_a_page_that_names_nobody(self, caplog):
        """`jobwatt grid` and `bmc-proxy`, whose pages name no user, warn of none; the log says it is open."""
        server = WebServer(":0", FixedSite(), names_users=False)
        with caplog.at_level(logging.INFO):
            server.start()
            server.stop()
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
        assert "names no user, goes out without TLS and authentication" in caplog.text

    @pytest.mark.parametrize(
        ("text", "missing"),
        [(TLS, "without authentication"), (USERS, "without TLS;")],
        ids=["TLS", "passwords"],
    )
    def test_half_protected(self, caplog, config, text, missing):
        """Half a protection is said to be half."""
        (line,) = self.warned(caplog, "0.0.0.0:0", config(text))
        assert missing in line

    @pytest.mark.parametrize("text", [TLS + USERS, MTLS])
    def test_protected(self, caplog, config, text):
        """With TLS and authentication nothing is said."""
        assert self.warned(caplog, ":0", config(text)) == []

    @pytest.mark.parametrize("address", ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0", "localhost:0"])
    def test_loopback(self, caplog, address):
        """On loopback nothing is said."""
        if "::" in address and not socket.has_dualstack_ipv6():
            pytest.skip("no IPv6")
        assert self.warned(caplog, address) == []
