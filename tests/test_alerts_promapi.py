"""A Prometheus that is asked: what it refuses, who is in its way, and where credentials go."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager

import pytest

from jobwatt.alerts import promapi
from prom import free_port
from replaykit import NOW


@contextmanager
def answering(status, body, kind="application/json", seen=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            if seen is not None:
                seen.append(
                    (self.command, self.path, dict(self.headers), self.rfile.read(length).decode())
                )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header(
                    "Location", f"http://127.0.0.1:{self.server.server_address[1]}/stolen"
                )
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  http.server's name

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b"Unauthorized", "401 Unauthorized"),
        (502, b"<html>", "502 Bad Gateway"),
        (200, b"<html>", "its answer is not a Prometheus's"),
        (200, b'{"status":"success","data":5}', "neither a vector nor a matrix"),
        (302, b"", "302 Found"),
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error:\\n at char 5"}', "parse error: at char 5"),
    ],
)  # fmt: skip
def test_what_a_server_says_is_one_line(status, body, why):
    """A proxy, a login page, a refusal: one line, the server's own words where it has any."""
    with answering(status, body) as url, pytest.raises(promapi.PrometheusError) as said:
        promapi.Prometheus(url).query("up", NOW)
    assert why in str(said.value)
    assert "\n" not in str(said.value)


def test_nobody_there():
    """A refused connection names the server."""
    with pytest.raises(
        promapi.PrometheusError, match=r"http://127.0.0.1:\d+: cannot be reached .*refused"
    ):
        promapi.Prometheus(f"http://127.0.0.1:{free_port()}").query("up", NOW)


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://x", "file:///etc/passwd", "http://a:b@c"]
)
def test_urls_that_are_refused(url):
    """Only http(s), and no password on the command line."""
    with pytest.raises(promapi.PrometheusError):
        promapi.Prometheus(url)


@pytest.mark.slow
def test_credentials_come_from_files_and_go_nowhere_else(tmp_path):
    """Basic and bearer reach the server; a redirect does not carry them on."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    seen = []
    with answering(200, EMPTY, seen=seen) as url:
        promapi.Prometheus(url, promapi.Access("me", secret)).query("up", NOW)
        promapi.Prometheus(url, promapi.Access(bearer_token_file=secret)).query("up", NOW)
    assert [headers["Authorization"] for _, _, headers, _ in seen] == [
        "Basic bWU6czNjcmV0",
        "Bearer s3cret",
    ]
    seen.clear()
    with answering(302, b"", seen=seen) as url, pytest.raises(promapi.PrometheusError):
        promapi.Prometheus(url, promapi.Access("me", secret)).query("up", NOW)
    assert len(seen) == 1
    with pytest.raises(promapi.PrometheusError, match="cannot be read"):
        promapi.Prometheus("http://x", promapi.Access("me", tmp_path / "none"))


def test_long_queries_are_posted():
    """A URL has its limits in proxies; a body has not."""
    seen = []
    with answering(200, EMPTY, seen=seen) as url:
        server = promapi.Prometheus(url)
        server.query("up", NOW)
        server.query("up + " * 1000 + "up", NOW)
    assert [(command, "up" in body) for command, _, _, body in seen] == [
        ("GET", False),
        ("POST", True),
    ]
