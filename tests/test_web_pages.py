"""The HTTP server, with real sockets: what is where, in which format, and compressed."""

from __future__ import annotations

import contextlib
import gzip
import logging

import pytest
from prometheus_client.exposition import choose_encoder

import webkit
from jobwatt.webformats import OPENMETRICS, TEXT, accepts_gzip, wants_openmetrics
from webkit import PAGE, ask, connect, serving

server, certs, config = webkit.server, webkit.certs, webkit.config  # fixtures


class TestEndpoints:
    """What is where."""

    def test_metrics(self, server):
        """/metrics is the site's page, byte for byte, in the text format by default."""
        response, body = ask(server)
        assert (response.status, body) == (200, PAGE.encode())
        assert response.headers["Content-Type"] == TEXT

    def test_openmetrics(self, server):
        """OpenMetrics is served where it is asked for."""
        response, body = ask(
            server, headers={"Accept": "application/openmetrics-text;version=1.0.0"}
        )
        assert response.headers["Content-Type"] == OPENMETRICS
        assert body.endswith(b"# EOF\n")

    def test_names(self, server):
        """?name[]= reaches the site, decoded."""
        ask(server, "/metrics?name[]=a&name%5B%5D=b&other=c")
        assert server.site.asked == [frozenset({"a", "b"})]

    def test_page(self, server):
        """/ is HTML that may load nothing from anywhere, even where a name is not UTF-8."""
        response, body = ask(server, "/")
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body == b"<!doctype html><title>jobwatt</title>?"

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    def test_health(self, server, path):
        """Health is 200 "ok", or 503 and the reason."""
        response, body = ask(server, path)
        assert (response.status, body) == (200, b"ok\n")
        server.site.good = False
        response, body = ask(server, path)
        assert response.status == 503
        assert body in (b"the last sample is 90 s old\n", b"no sample yet\n")

    def test_slashes_at_the_front_are_one(self, server):
        """The standard library reads // as /, and nothing else into it."""
        assert ask(server, "//")[1] == ask(server, "/")[1]
        assert ask(server, "//metrics")[1] == PAGE.encode()
        assert ask(server, "//example.org/metrics")[0].status == 404

    @pytest.mark.parametrize("path", ["/favicon.ico", "/metrics/", "/../etc/passwd", "/%00"])
    def test_not_found(self, server, path, caplog):
        """Anything else is 404, and neither the answer nor the log repeats it."""
        response, body = ask(server, path)
        assert response.status == 404
        assert b"passwd" not in body
        assert not [r for r in caplog.records if r.levelno > logging.INFO]

    @pytest.mark.parametrize("path", ["/", "/metrics", "/healthz"])
    def test_head(self, server, path):
        """HEAD has GET's headers and no body, and leaves the connection in step."""
        with contextlib.closing(connect(server)) as connection:
            connection.request("GET", path)
            got = connection.getresponse()
            got.read()
            connection.request("HEAD", path)
            head = connection.getresponse()
            assert head.read() == b""
            assert head.headers["Content-Length"] == got.headers["Content-Length"]
            connection.request("GET", path)
            assert connection.getresponse().status == 200

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
    def test_other_methods(self, server, method):
        """Other methods are 405 and told which are allowed, and a body does no harm."""
        body = b"x" * 300_000 if method in ("POST", "PUT") else None
        response, _ = ask(server, method=method, body=body)
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"

    def test_no_version_leaks(self, server):
        """No header names Python or a version."""
        response, _ = ask(server)
        assert response.headers["Server"] == "jobwatt"
        assert "ython" not in str(response.headers)

    def test_a_fault_is_500_and_logged(self, server, caplog):
        """A fault in the site is a 500 and a traceback in the log; the connection goes on."""
        with contextlib.closing(connect(server)) as connection:
            connection.request("GET", "/metrics?name[]=boom")
            response = connection.getresponse()
            assert response.status == 500
            assert b"boom" not in response.read()
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        assert "RuntimeError: boom" in caplog.text

    def test_configured_headers(self, config):
        """Headers of the web config replace the built-in ones, on every answer."""
        text = "http_server_config: {headers: {X-Frame-Options: sameorigin}}"
        with serving(config=config(text)) as server:
            for path in ("/", "/none"):
                response, _ = ask(server, path)
                assert response.headers.get_all("X-Frame-Options") == ["sameorigin"]


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class TestNegotiation:
    """Formats and compression."""

    @pytest.mark.parametrize(
        "accept",
        [
            PROMETHEUS_2,
            PROMETHEUS_3,
            CHROME,
            "",
            "*/*",
            "text/plain",
            "text/plain;version=0.0.4",
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "application/openmetrics-text;version=0.0.1",
            "application/json",
        ],
    )
    def test_as_prometheus_client(self, accept):
        """Of what real clients send, the format is the one prometheus_client would choose."""
        assert wants_openmetrics(accept) == ("openmetrics" in choose_encoder(accept)[1])

    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            ("application/openmetrics-text;q=0,text/plain", False),
            ("text/plain;q=0.9,application/openmetrics-text;q=0.1", False),
            ("text/plain;q=0.1,application/openmetrics-text;q=0.9", True),
            ("Application/OpenMetrics-Text ; Version=1.0.0", True),
            ("application/openmetrics-text;version=2.0.0", False),
            ("application/openmetrics-text;q=abc", False),
            (";;;,,,=;q", False),
        ],
    )
    def test_weights(self, accept, expected):
        """Weights decide, and nonsense is the text format."""
        assert wants_openmetrics(accept) is expected

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            ("gzip", True),
            ("deflate, GZIP;q=0.5", True),
            ("*", True),
            ("x-gzip", True),
            ("gzip;q=0", False),
            ("gzip;q=0, *", False),
            ("identity", False),
            ("", False),
        ],
    )
    def test_accepts_gzip(self, header, expected):
        """gzip only where it is asked for, and not where it is refused."""
        assert accepts_gzip(header) is expected

    def test_gzip(self, server):
        """A compressed page unpacks to the page, and says so."""
        response, body = ask(server, headers={"Accept-Encoding": "gzip"})
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        assert gzip.decompress(body) == PAGE.encode()

    def test_a_page_is_compressed_once(self, server):
        """The same page is compressed once, a new one and the other format anew."""
        page = bytes(server.site.text)
        first = server.zipped(page, openmetrics=False)
        assert server.zipped(page, openmetrics=False) is first
        other = server.zipped(page + b"x", openmetrics=True)
        assert server.zipped(page, openmetrics=False) is first
        assert gzip.decompress(other) == page + b"x"
        assert gzip.decompress(server.zipped(page + b"y", openmetrics=False)) == page + b"y"
