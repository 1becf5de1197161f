"""The demo's page: what it serves, to whom, and what it hands on to Prometheus."""

from __future__ import annotations

import gzip
import json
import re
import select
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import demokit
from demokit import served, site_in
from jobwatt.demo import web

site, client = demokit.site, demokit.client  # fixtures


class Upstream:
    """In Prometheus's place: says what it was asked."""

    def __init__(self) -> None:
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, body))
                zipped = "gzip" in self.headers.get("Accept-Encoding", "")
                page = b'{"status":"success"}'
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                if zipped:
                    page = gzip.compress(page)
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                self.wfile.write(page)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A client for tests that change nothing of the site: each end of a server takes a tenth of a second."""
    with served(site_in(tmp_path_factory.mktemp("site"))) as client:
        yield client


def test_the_start_page_leads_everywhere(client):
    """Dashboards, mails, Prometheus and the nodes are one click away, and only its own script may run."""
    status, body, headers = client.ask("/")
    page = body.decode()
    assert status == 200
    for target in ("/d/jobwatt-job", "/mails", "http://127.0.0.1:9090/", "http://127.0.0.1:9816/"):
        assert f'href="{target}"' in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert f'<script nonce="{re.search(r"nonce-([^ ;]+)[;]?", policy)[1].strip(chr(39))}">' in page
    assert "unsafe-inline'; script" not in policy


def test_the_viewer_gets_what_it_asks_for(client):
    """Every dashboard's address is the viewer's page; files, the list and the models are where it looks."""
    assert client.text("/d/jobwatt-job?var-user=alice") == "<p>viewer</p>"
    assert client.text("/app.js") == "1"
    assert client.ask("/public/icon.svg")[2]["Content-Type"] == "image/svg+xml"
    assert json.loads(client.text("/dashboards/index.json")) == [
        {"uid": "jobwatt-job", "title": "jobwatt / Job", "file": "job.json", "tags": ["jobwatt"]}
    ]
    assert json.loads(client.text("/dashboards/job.json"))["uid"] == "jobwatt-job"
    assert "scrapeInterval" in json.loads(client.text("/config.json"))


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/public/..%2f..%2fsecret.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/leak",
        "/app.js%00.html",
        "/public",
        "/dashboards/../config.json",
        "/dashboards/..%2f..%2fsite.toml",
        "/nothing",
        "/mails/1",
        "/mails/x",
        "/mails/99999999999999999999",
    ],
)
def test_nothing_but_what_is_meant_is_served(shared, path):
    """No path leads out of the viewer's folder, and what is not there is 404."""
    status, body, _ = shared.ask(path)
    assert status == 404
    assert b"secret" not in body
    assert b"root" not in body


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil", "[::1", "10.0.0.1"]
)
def test_another_host_name_is_refused(shared, host):
    """A web page whose name was pointed at this machine can read nothing (DNS rebinding)."""
    status, body, _ = shared.ask("/mails.json", Host=host)
    assert (status, b"host" in body) == (421, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:3000", "LOCALHOST:1"])
def test_this_machine_s_names_are_taken(shared, host):
    """Whatever the port: it may have been forwarded."""
    assert shared.ask("/status.json", Host=host)[0] == 200


def test_listening_everywhere_takes_addresses_and_no_other_names():
    """An address in figures cannot have been pointed here by somebody else's name server."""
    allowed = web.hosts("0.0.0.0")
    assert allowed("10.1.2.3:3000")
    assert allowed(socket.gethostname())
    assert not allowed("evil.example")
    assert web.hosts("192.168.7.7")("192.168.7.7:3000")


def test_only_reads_are_handed_on_to_prometheus(client, site):
    """Queries pass, by GET and POST and compressed; whatever could change or tell more does not."""
    upstream = Upstream()
    site.prometheus = ("127.0.0.1", upstream.server.server_address[1])
    query = "query=sum%28up%29&time=1"
    status, body, headers = client.ask(
        f"/prometheus/api/v1/query?{query}", **{"Accept-Encoding": "gzip"}
    )
    assert (status, json.loads(gzip.decompress(body))["status"]) == (200, "success")
    assert headers["Content-Encoding"] == "gzip"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.ask("/prometheus/api/v1/query_range", "POST", query, **form)[0] == 200
    assert client.ask("/prometheus/api/v1/label/user/values?match[]=up")[0] == 200
    assert upstream.asked == [
        ("GET", f"/api/v1/query?{query}", b""),
        ("POST", "/api/v1/query_range", query.encode()),
        ("GET", "/api/v1/label/user/values?match[]=up", b""),
    ]
    for method, path in [
        ("POST", "/api/v1/admin/tsdb/delete_series?match[]=up"),
        ("GET", "/api/v1/status/config"),
        ("GET", "/api/v1/targets"),
        ("POST", "/-/quit"),
        ("GET", "/metrics"),
        ("GET", "/api/v1/query/../status/config"),
        ("GET", "/api/v1/label/..%2fx/values"),
        ("POST", "/api/v1/rules"),
        ("DELETE", "/api/v1/series"),
    ]:
        status = client.ask(f"/prometheus{path}", method)[0]
        assert status in {403, 501}, (method, path, status)
    assert len(upstream.asked) == 3
    upstream.server.shutdown()
    upstream.server.server_close()
    assert client.ask("/prometheus/api/v1/query?query=up")[0] == 502


def test_what_is_too_long_or_not_a_read_is_refused(client, site):
    """A body has a known, modest length, and pages are only read."""
    assert client.ask("/", "POST", b"x")[0] == 405
    # refused by its header: no byte of the body is waited for
    query, long = "/prometheus/api/v1/query", str(web.MAX_BODY + 1)
    assert client.ask(query, "POST", **{"Content-Length": long})[0] == 413
    assert client.ask(query, "POST", **{"Content-Length": "-1"})[0] == 413
    assert client.ask(query, "POST", **{"Transfer-Encoding": "chunked"})[0] == 413
    assert client.ask("/prometheus/api/v1/query")[0] == 502  # there is none
    assert client.ask("/app.js", "HEAD")[1] == b""
    site.viewer = None
    site.start.no_dashboards = "npm is missing"
    status, body, _ = client.ask("/d/jobwatt-job")
    assert (status, body) == (404, b"npm is missing\n")
    assert "npm is missing" in client.text("/")


def sent(port, *parts):
    """What comes back for raw bytes, up to the end of the connection; the last part None: nothing more is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for part in parts:
            sock.sendall(part) if part is not None else sock.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):
            while data := sock.recv(1 << 16):
                answer += data
    return answer


HOST = b"Host: localhost\r\n"
QUERY = b"POST /prometheus/api/v1/query HTTP/1.1\r\n" + HOST


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"GET /prometheus/api/v1/query?query=\xff HTTP/1.1\r\n" + HOST + b"\r\n"], 400),
        ([b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST + b"\r\n"], 400),
        ([b"GET /prometheus/api/v1/query?query=\x01 HTTP/1.1\r\n" + HOST + b"\r\n"], 400),
        ([b"GET http://[ HTTP/1.1\r\n" + HOST + b"\r\n"], 400),
        ([QUERY + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"], 413),
        ([QUERY + b"Content-Length: 10\r\n\r\nquery", None], 400),
    ],
)
def test_a_malformed_request_gets_one_clean_answer(shared, caplog, capfd, parts, status):
    """An answer that says what is wrong, the end of the connection, and not a word on the terminal."""
    answer = sent(shared.port, *parts)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in answer
    assert not caplog.records
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "begun", [b"GET / HT", QUERY + b"Content-Length: 99999\r\n\r\n"], ids=["header", "body"]
)
def test_a_slow_client_is_let_go(shared, caplog, monkeypatch, begun):
    """However regularly a byte comes: a thread is its own for so long and no longer."""
    monkeypatch.setattr(web._Server, "request_s", 0.3)
    with socket.create_connection(("127.0.0.1", shared.port), timeout=60) as sock:
        sock.sendall(begun)
        end = time.monotonic() + 60
        with suppress(ConnectionError):
            while not select.select([sock], [], [], 0.05)[0]:
                assert time.monotonic() < end
                sock.sendall(b"x")
            sock.recv(1 << 16)
    assert not caplog.records
