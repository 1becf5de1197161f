"""`jobwatt demo`: what it serves and to whom, what it starts and ends, and what it says when it cannot."""

from __future__ import annotations

import gzip
import html
import http.client
import io
import json
import logging
import os
import re
import select
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import demostub
from daemon import command, environment
from jobwatt.alerts import inline
from jobwatt.cli import main
from jobwatt.demo import (
    cache,
    grafana,
    lifetime,
    mails,
    making,
    quicken,
    recorded,
    services,
    simulation,
    tools,
    viewer,
    web,
)
from jobwatt.demo.children import ChildError, Children
from jobwatt.demo.files import Dashboard, dashboards
from jobwatt.demo.ports import Ports, PortTakenError, is_free
from jobwatt.demo.startpage import Start
from jobwatt.demo.terminal import Terminal
from prom import free_port

ALICE = ("alice@example.org",)
BOARD = Dashboard(
    "jobwatt-job", "jobwatt / Job", "job.json", ("jobwatt",), '{"uid": "jobwatt-job"}'
)


def mail(subject="Unused GPU time", text="plain", html_part="<p>rich</p>"):
    return (
        f"From: GPU monitor <gpumon@example.org>\r\nTo: alice@example.org\r\nSubject: {subject}\r\n"
        'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="x"\r\n\r\n'
        f"--x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
        f"--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{html_part}\r\n--x--\r\n"
    ).encode()


# --- the page --------------------------------------------------------------------------------------


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


class Client:
    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host

    def ask(self, path, method="GET", body=None, **headers):
        with closing(http.client.HTTPConnection(self.host, self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())

    def text(self, path):
        status, body, _ = self.ask(path)
        assert status == 200, (path, status)
        return body.decode()


def site_in(folder):
    out = folder / "viewer" / "out"
    (out / "public").mkdir(parents=True)
    (out / "index.html").write_text("<p>viewer</p>")
    (out / "app.js").write_text("1")
    (out / "public" / "icon.svg").write_text("<svg/>")
    (folder / "viewer" / "secret.txt").write_text("secret")
    (out / "leak").symlink_to(folder / "viewer" / "secret.txt")
    start = Start(
        links={"Prometheus": "http://127.0.0.1:9090/"}, nodes={"gpu01": "http://127.0.0.1:9816/"}
    )
    return web.Site(
        start, mails.Mailbox(), [BOARD], status=lambda: {"mails": 0, "total": {}}, viewer=out
    )


@contextmanager
def served(site):
    server = web.PageServer("127.0.0.1", 0, site)
    server.start()
    yield Client(server.port)
    server.stop()


@pytest.fixture
def site(tmp_path):
    return site_in(tmp_path)


@pytest.fixture
def client(site):
    with served(site) as client:
        yield client


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


# --- mails -----------------------------------------------------------------------------------------


def test_a_mail_is_caught_and_shown(client, site):
    """What a mail server is given is in the list, on a page of its own and in the JSON."""
    catcher = mails.Catcher("127.0.0.1", free_port(), site.mailbox)
    catcher.start()
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=60) as smtp:
        smtp.sendmail("gpumon@example.org", ["alice@example.org"], mail())
    catcher.stop()
    assert "Unused GPU time" in client.text("/mails")
    page = client.text("/mails/1")
    assert "gpumon@example.org" in page
    assert "plain" in page
    (found,) = json.loads(client.text("/mails.json"))
    assert (found["number"], found["to"], found["subject"]) == (
        1,
        ["alice@example.org"],
        "Unused GPU time",
    )
    assert found["html"].strip() == "<p>rich</p>"


def test_a_hostile_mail_stays_text(client, site):
    """Scripts in subject, text or HTML reach no page: they are escaped, or in a frame that runs none."""
    evil = "</title><script>alert(1)</script>"
    site.mailbox.add((f'<img src=x onerror="{evil}">',), mail(evil, evil, f'"></iframe>{evil}'))
    for path in ("/mails", "/mails/1"):
        status, body, headers = client.ask(path)
        page = body.decode()
        assert status == 200
        assert "<script" not in page
        assert "<img" not in page
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "script-src" not in headers["Content-Security-Policy"]
    frame = re.search(
        r'<iframe title="the mail" sandbox="([^"]*)" srcdoc="([^"]*)"></iframe>', page
    )
    assert "allow-scripts" not in frame[1]
    assert "allow-same-origin" not in frame[1]
    assert evil in html.unescape(frame[2])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff" * 50,
        b"Subject: =?utf-8?B?////?=\r\nTo: =?x-unknown?Q?=FF?=\r\n\r\nbody",
        b"Subject: a\r\n b\r\n c\r\nContent-Type: multipart/alternative; boundary=\r\n\r\n--\r\n",
        b"Content-Type: text/html; charset=no-such\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!",
        b"From: " + b"<" * 500 + b"\r\n\r\n",
        b"Subject: \xe2\x80\xae gnp.exe\r\n\r\n",
    ],
)
def test_a_broken_mail_is_shown_as_far_as_it_goes(client, site, content):
    """Nothing that somebody sends takes the list away from the others."""
    site.mailbox.add(ALICE, content)
    site.mailbox.add(ALICE, mail())
    assert client.text("/mails").count("alice@example.org") == 2
    assert client.text("/mails/1")
    assert len(json.loads(client.text("/mails.json"))) == 2


def test_the_oldest_mails_go_first():
    """500 are kept, and numbers stay."""
    mailbox = mails.Mailbox()
    for _ in range(mails.KEPT + 3):
        mailbox.add(ALICE, mail())
    assert mailbox.get(3) is None
    assert mailbox.get(4) is not None
    assert mailbox.newest_first()[0].number == mailbox.count == mails.KEPT + 3


# --- ports -----------------------------------------------------------------------------------------


@contextmanager
def taken():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_taken_default_moves_and_says_so():
    """Nobody asked for it: a free port is as good, and one line names it."""
    with taken() as port:
        ports = Ports("127.0.0.1", {})
        found = ports.take({"port": (port, 1)})["port"]
        assert found != port
        (line,) = ports.moved
        assert all(word in line for word in (str(port), str(found), "--port"))


def test_it_leaves_the_loggers_as_they_were(tmp_path):
    """Quiet only while it runs: who calls it in a process of their own hears as before."""
    logger = logging.getLogger("jobwatt")
    before = logger.level
    (tmp_path / "file").touch()
    assert main(["demo", f"--cache={tmp_path}/file"]) == 1
    assert logger.level == before


def test_a_taken_port_that_was_asked_for_is_an_error():
    """Whoever names a port wants that one."""
    with taken() as port:
        first = port - 1 if is_free("127.0.0.1", port - 1) else port  # the second of its row
        says = f"--first-node-port={first}: port {port} is taken by another program"
        with pytest.raises(PortTakenError, match=says):
            Ports("127.0.0.1", {"first-node-port": first}).take({"first-node-port": (9816, 3)})


def test_no_port_is_given_out_twice():
    """Two defaults that fall together part."""
    ports, first = Ports("127.0.0.1", {}), free_port()
    found = ports.take({"port": (first, 1), "prometheus-port": (first, 1)})
    assert len({*found.values(), ports.any()}) == 3


def test_a_default_gives_way_to_what_was_asked_for():
    """Whatever the order: the page moves where the nodes were asked to be, and the line says for whom."""
    first = Ports("127.0.0.1", {}).take({"x": (free_port(), 3)})["x"]
    ports = Ports("127.0.0.1", {"first-node-port": first})
    found = ports.take({"port": (first + 1, 1), "first-node-port": (9816, 3)})
    assert found["first-node-port"] == first
    assert found["port"] not in range(first, first + 3)
    (line,) = ports.moved
    assert f"port {first + 1} is the demo's own, for --first-node-port: {found['port']}" in line


def test_a_port_that_was_asked_for_twice_is_an_error():
    """No other program is to blame; and beyond the last port there is none."""
    port = free_port()
    both = {"port": port, "prometheus-port": port}
    with pytest.raises(
        PortTakenError, match=f"--prometheus-port={port}: .*the demo's own, for --port"
    ):
        Ports("127.0.0.1", both).take({"port": (3000, 1), "prometheus-port": (9090, 1)})
    last = {"first-node-port": 65_535}
    with pytest.raises(PortTakenError, match="there is no port 65536"):
        Ports("127.0.0.1", last).take({"first-node-port": (9816, 2)})


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--port=0"], "--port=0 is no port"),
        (["--days=0"], "--days=0 is not between 0 and 30"),
        (["--listen=203.0.113.9"], "--listen=203.0.113.9: no address of this machine"),
        (["--cache=/proc/nowhere"], "name another folder with --cache"),
        (["--ready-file=/no/where/ready.json"], "--ready-file=/no/where/ready.json: no folder"),
        (["--ready-file=/proc"], "--ready-file=/proc is a folder; name a file"),
    ],
)
def test_bad_input_gets_one_line(capsys, argv, says, tmp_path):
    """What, where, how to mend it; exit code 1."""
    assert main(["demo", f"--cache={tmp_path}", *argv]) == 1
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_port_that_was_asked_for_and_is_taken_ends_the_command(capsys, tmp_path):
    """One line, exit code 1, nothing started."""
    with taken() as port:
        assert main(["demo", f"--prometheus-port={port}", f"--cache={tmp_path}"]) == 1
    assert f"--prometheus-port={port}" in capsys.readouterr().err


def test_a_misspelt_flag_is_refused_with_the_nearest_one(capsys):
    """As for every command."""
    with pytest.raises(SystemExit) as end:
        main(["demo", "--prometheus-prt=1"])
    assert end.value.code == 2
    assert "--prometheus-port" in capsys.readouterr().err


# --- what it starts --------------------------------------------------------------------------------


def processes(mark):
    """Command lines of this machine that hold ``mark``, without our own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if mark in text and int(path.parent.name) != os.getpid():
                found.append(text)
    return found


def until(condition, limit_s=90.0):
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture
def children(tmp_path):
    started = Children(tmp_path)
    yield started
    started.close()


def test_children_end_with_what_they_started(children, tmp_path):
    """A child that will not listen, and its own child, are gone when the demo ends."""
    mark = tmp_path / "mark"
    mark.touch()
    script = "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); subprocess.Popen(['tail','-f',sys.argv[1]]); print(1,flush=True); time.sleep(99)"
    child = children.start("stubborn", [sys.executable, "-c", script, str(mark)])
    until(child.log.read_text)
    children.kill()
    children.close()
    assert not child.alive
    until(lambda: not processes(str(mark)))
    with pytest.raises(ChildError, match="the demo is ending"):
        children.start("late", ["true"])


def test_children_do_not_outlive_a_killed_demo(tmp_path):
    """After kill -9 of the demo the kernel ends its children."""
    script = (
        "import sys,time; from pathlib import Path; from jobwatt.demo.children import Children\n"
        "Children(Path(sys.argv[1])).start('sleeper', ['tail', '-f', sys.argv[1] + '/mark'])\nprint(1, flush=True)\ntime.sleep(99)"
    )
    (tmp_path / "mark").touch()
    argv = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment()) as demo:
        demo.stdout.readline()
        until(lambda: processes(f"tail -f {tmp_path}"))
        demo.kill()
    until(lambda: not processes(str(tmp_path)))


def test_a_child_that_fails_says_what_it_said(children):
    """One line: which, how it ended, its last words."""
    with pytest.raises(ChildError) as err:
        children.run("promtool", ["sh", "-c", "echo fine; echo out of order >&2; exit 3"])
    assert str(err.value) == "promtool ended with 3: fine | out of order"
    with pytest.raises(ChildError, match="ghost: cannot start /no/such"):
        children.run("ghost", ["/no/such"])
    with pytest.raises(ChildError, match=r"slow took longer than 0 s"):
        children.run("slow", ["sleep", "99"], limit_s=0.1)


def test_a_run_s_folder_goes_with_it(tmp_path, monkeypatch):
    """At the end, or by the next run after kill -9; never one that is in use."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with lifetime.run_dir() as ours:
        left = tmp_path / f"{lifetime.PREFIX}left"
        left.mkdir()
        (left / "lock").touch()
        foreign = tmp_path / f"{lifetime.PREFIX}without-lock"
        foreign.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # as in another process
        with lifetime.run_dir() as another:
            assert ours.is_dir()
            assert ours != another
        assert not left.exists()
        assert foreign.is_dir()
    assert not ours.exists()


# --- the cache -------------------------------------------------------------------------------------


def test_a_history_is_extended_or_made_anew():
    """Extended over a gap of less than two days; made anew when it is too old, too long or made by other code."""
    day, now = cache.DAY_S, 1_800_000_000
    meta = cache.Meta("k", 7, now - 7 * day, now - day)
    assert meta.usable("k", 7, now)
    assert not meta.usable("other", 7, now)
    assert not meta.usable("k", 7, now + day)
    assert not meta.usable("k", 7, now - 2 * day)  # the clock was set back
    assert not cache.Meta("k", 7, now - 10 * day, now - 60).usable("k", 7, now)


def test_the_key_knows_code_rules_and_settings(tmp_path):
    """Whatever makes another history makes another key; the order of files does not."""
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("1")
    two.write_text("2")
    key = cache.key([one, two], ["jobwatt:x"])
    assert key == cache.key([two, one], ["jobwatt:x"])
    assert key != cache.key([one, two], ["jobwatt:y"])
    two.write_text("3")
    assert key != cache.key([one, two], ["jobwatt:x"])


def test_a_broken_off_history_is_never_taken_for_whole(tmp_path):
    """What was not kept is gone, and what was replaced too."""
    kept = cache.Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt), kept.draft() as draft:
        draft.make()
        raise KeyboardInterrupt
    (tmp_path / ".making-dead").mkdir()
    for until_s in (1, 2):
        with kept.locked(threading.Event(), print), kept.draft() as draft:
            draft.make()
            (draft.blocks / f"block{until_s}").mkdir()
            draft.finish(cache.Meta("k", 7, 0, until_s))
            kept.keep(draft)
    assert kept.history.meta == cache.Meta("k", 7, 0, 2)
    assert [path.name for path in kept.history.blocks.iterdir()] == ["block2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "lock"]
    (tmp_path / "history" / "meta.json").write_text("{}")
    assert kept.history.meta is None


def test_a_history_that_another_demo_makes_is_waited_for(tmp_path):
    """One line says so, and the first Ctrl-C ends the waiting."""
    kept, said, stop = cache.Cache(tmp_path), [], threading.Event()
    with kept.locked(threading.Event(), said.append):
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(lifetime.StoppedError), kept.locked(stop, said.append):
            pass
    assert said == ["another demo makes the history; waiting for it"]
    with kept.locked(threading.Event(), said.append):
        assert len(said) == 1


def test_the_key_knows_the_code_that_makes_the_history(monkeypatch):
    """All of it; and a history is not made under a key that lacks it."""
    names = {path.name for path in simulation.Simulation().sources()}
    assert names >= {"history.py", "inline.py", "encoder.py", "recorded.py", "zeus_v100.csv"}
    monkeypatch.setattr(simulation, "_MODULES", "import sys; sys.exit(1)")
    with pytest.raises(ValueError, match="cannot tell which code makes the history"):
        simulation.Simulation().sources()


def test_only_the_end_of_a_history_is_fine(tmp_path):
    """Not the end of each day's slice."""
    argv = simulation.Simulation().writer(
        tmp_path, tmp_path, began_s=0, end_s=7 * 86_400, span=(0, 86_400), nodes=["gpu01"]
    )
    assert f"--fine-from-s={7 * 86_400 - simulation.FINE_S}" in argv


class HalfBroken(demostub.Simulation):
    def writer(self, *_, nodes, **__):
        return ["false"] if "gpu01" in nodes else ["sleep", "99"]


def test_a_writer_that_fails_ends_the_others(tmp_path, children):
    """The error is not kept back until they have finished their part."""
    terminal, programs = Terminal(io.StringIO(), io.StringIO()), making.Programs("", "")
    maker = making.Maker(children, terminal, HalfBroken(), programs, threading.Event(), 0)
    history = cache.History(tmp_path / "history")
    history.make()
    began = time.monotonic()
    with pytest.raises(ChildError, match="history 0-0 ended with 1"):
        maker.extend(history, making.Span(0, 0, 600), [], {})
    assert time.monotonic() - began < 60
    assert not [child for child in children.running() if child.alive]


@pytest.mark.parametrize(("days", "slices"), [(0.01, 1), (1.0, 1), (1.2, 1), (1.5, 2), (7.0, 7)])
def test_a_span_is_made_in_slices_without_gap_or_overlap(days, slices):
    """Each begins where the one before ends; none is much longer or shorter than a day."""
    begin = 15  # on Prometheus's grid, but between two steps of the history
    end = begin + int(days * 86_400)
    found = making.Span(begin, begin, end).slices()
    assert len(found) == slices
    assert (found[0][0], found[-1][1]) == (begin, end)
    assert all(a[1] == b[0] and b[0] % simulation.STEP_S == 0 for a, b in pairwise(found))


def test_texts_are_joined_into_one(tmp_path):
    """One end mark, every line, no second file."""
    texts = [tmp_path / "0", tmp_path / "1"]
    texts[0].write_text("a 1 1\n# EOF\n")
    texts[1].write_text("b 1 1\n# EOF\n")
    making.join(texts)
    assert texts[0].read_text() == "a 1 1\nb 1 1\n# EOF\n"
    assert not texts[1].exists()


# --- rules and times -------------------------------------------------------------------------------


def test_what_dashboards_show_and_rules_look_back_at_is_recorded():
    """By name in any expression; the insides of subqueries too; nothing that no rule records."""
    records = {
        "jobwatt:a:x": "jobwatt_a",
        "jobwatt:b:x": "sum_over_time(jobwatt:c:x[7d:5m])",
        "jobwatt:c:x": "y",
        "jobwatt:d:x": "z",
    }
    texts = ['{"expr": "sum by (user) (jobwatt:a:x{cluster=\\"$cluster\\"}) / jobwatt:unknown:x"}']
    assert recorded.wanted(texts, records) == ["jobwatt:a:x", "jobwatt:c:x"]
    mails = [
        "{{ `sum_over_time(jobwatt:d:rate5m{a=%q}[30d:5m]) + jobwatt:e:x` }}",
        "jobwatt:f:rate5m",
    ]
    more = {**records, "jobwatt:d:rate5m": "y", "jobwatt:e:x": "y", "jobwatt:f:rate5m": "y"}
    assert set(recorded.wanted([], more, mails)) - set(recorded.wanted([], more)) == {
        "jobwatt:d:rate5m"
    }


@pytest.mark.parametrize(
    ("span", "found"), [((0, 900), (300, 900)), ((300, 899), (600, 600)), ((301, 599), (600, 300))]
)
def test_recorded_samples_stand_on_five_minutes(span, found):
    """So that a part goes on where the last one ended, without a sample twice."""
    assert recorded.times(*span) == found


def addresses(host="127.0.0.1"):
    return services.Addresses(host, 3000, 9090, 9093, 9816, 3001, 1025)


def site_files(folder):
    template = Path(services.__file__).parent / "data" / "site.toml"
    return services.site_files(template, folder, addresses(), "http://127.0.0.1:3000")


@pytest.mark.prometheus
def test_shortened_files_are_valid_and_otherwise_as_shipped(tmp_path):
    """promtool and amtool take them; only times differ; links lead to the page, mails to the catcher."""
    files = site_files(tmp_path)
    services.write(files, tmp_path)
    (tmp_path / "prometheus.yml").write_text(
        services.prometheus_config(tmp_path, addresses(), {"gpu01": 9816}, alerting=True)
    )
    subprocess.run(
        ["promtool", "check", "config", f"{tmp_path}/prometheus.yml"],
        check=True,
        capture_output=True,
    )
    amtool = ["amtool", "check-config", f"{tmp_path}/alertmanager/alertmanager.yml"]
    subprocess.run(amtool, check=True, capture_output=True)
    shipped = inline.read({n: t for n, t in files.items() if n.startswith("rules/")})
    assert {alert.for_s for alert in shipped.user_alerts()} <= {15.0, 0.0}
    text = files["alertmanager/alertmanager.yml"] + files["alertmanager/jobwatt.tmpl"]
    assert "127.0.0.1:1025" in text
    assert 'grafana := "http://127.0.0.1:3000"' in text
    waits = {
        route["group_wait"]
        for route in yaml.safe_load(files["alertmanager/alertmanager.yml"])["route"]["routes"]
    }
    assert waits == {"20s"}


def test_only_times_are_shortened():
    """Expressions, labels and texts are what a site gets."""
    text = """
groups:
  - name: g
    interval: 4m
    rules:
      - {alert: A, expr: 'x offset 1h > 0', for: 5m, keep_firing_for: 15m, labels: {audience: user}}
      - {record: 'jobwatt:x', expr: 'sum_over_time(x[7d])'}
"""
    (group,) = yaml.safe_load(quicken.rules({"a": text})["a"])["groups"]
    assert group["interval"] == "30s"
    alert, record = group["rules"]
    assert (alert["for"], alert["keep_firing_for"], alert["expr"]) == (
        "15s",
        "2m",
        "x offset 1h > 0",
    )
    assert record["expr"] == "sum_over_time(x[7d])"


# --- Grafana and the viewer ------------------------------------------------------------------------


@pytest.fixture
def fake_bin(tmp_path, monkeypatch):
    """A PATH with nothing but what is put there: ``fake_bin(name)`` makes a program that notes argv and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tools, "_MORE", ())

    def make(name, script="exit 0"):
        path = folder / name
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"{tmp_path}/{name}.argv"\n/usr/bin/env >"{tmp_path}/{name}.env"\n{script}\n'
        )
        path.chmod(0o755)
        return path

    return make


def the_grafana(found, tmp_path):
    return grafana.Grafana(
        found,
        tmp_path / "files",
        tmp_path / "data",
        host="127.0.0.1",
        port=3001,
        prometheus="http://127.0.0.1:9090",
    )


@pytest.mark.parametrize("name", ["grafana-server", "grafana"])
def test_an_installed_grafana_gets_the_projects_files(fake_bin, children, tmp_path, name):
    """Its own data folder, the project's provisioning and dashboards, a viewer without login."""
    fake_bin("docker")
    home = tmp_path / "conf"
    home.mkdir()
    (home / "defaults.ini").touch()
    fake_bin(name)
    found = grafana.look()
    child = the_grafana(found, tmp_path).start(children)
    assert child.process.wait(60) == 0
    argv = (tmp_path / f"{name}.argv").read_text().split()
    assert argv[1:] == ["server"] * (name == "grafana") + [f"--homepath={tmp_path}"]
    env = dict(line.split("=", 1) for line in (tmp_path / f"{name}.env").read_text().splitlines())
    assert env["GF_PATHS_DATA"] == str(tmp_path / "data")
    assert env["GF_PATHS_PROVISIONING"] == str(tmp_path / "files" / "provisioning")
    assert env["JOBWATT_DASHBOARDS"] == str(tmp_path / "files" / "dashboards")
    assert env["JOBWATT_PROMETHEUS_URL"] == "http://127.0.0.1:9090"
    assert (env["GF_SERVER_HTTP_ADDR"], env["GF_SERVER_HTTP_PORT"]) == ("127.0.0.1", "3001")
    assert env["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_a_container_engine_is_the_second_choice(fake_bin, children, tmp_path):
    """Where it answers: the image is fetched, the container named, removed at the end; files go in read-only."""
    fake_bin("docker", "exit 1")
    assert grafana.look() is None
    fake_bin("podman")
    found = grafana.look()
    assert found.container
    grafana.fetch(found, children)
    one = the_grafana(found, tmp_path)
    one.start(children).process.wait(60)
    one.stop()
    lines = (tmp_path / "podman.argv").read_text().splitlines()
    called = [line.split()[1] for line in lines]
    assert called == ["info", "pull", "run", "rm"]
    run = lines[2]
    name = re.search(r"--name=(jobwatt-demo-\d+-[0-9a-f]{6})", run)[1]
    assert name in lines[3]
    assert f"--volume={tmp_path}/files:/jobwatt:ro" in run
    assert "--env=JOBWATT_DASHBOARDS=/jobwatt/dashboards" in run
    assert run.endswith(grafana.IMAGE)
    assert ":latest" not in grafana.IMAGE


def test_a_container_goes_at_the_second_signal_too(fake_bin, children, tmp_path):
    """Its client is killed, which leaves the container: that is removed without waiting."""
    left = lifetime.Left(children, tmp_path / "run")
    one = the_grafana(grafana.Found(str(fake_bin("docker", "exec /bin/sleep 9")), True), tmp_path)
    left.container = one.stop_at_once
    client, calls = one.start(children), tmp_path / "docker.argv"
    until(calls.exists)
    left.end_at_once()
    until(lambda: not client.alive)
    removed = until(lambda: re.findall(r" rm --force (\S+)", calls.read_text()))
    assert removed == [one._name]


def test_an_engine_that_hangs_is_none(fake_bin, monkeypatch):
    """A client whose daemon does not answer costs seconds, not the demo."""
    monkeypatch.setattr(grafana, "_ANSWER_S", 0.2)
    fake_bin("docker", "exec /bin/sleep 30")
    assert grafana.look() is None


def test_what_is_missing_is_named_with_its_remedy(fake_bin, children, tmp_path):
    """One line each: the program, what the demo is without it, how to get it."""
    lines = tools.missing(tools.PROMETHEUS, tools.PROMTOOL, tools.ALERTMANAGER, tools.NPM)
    assert len(lines) == 4
    assert all(": no " in line and "apt-get install" in line for line in lines)
    assert "prometheus-alertmanager" in lines[2]
    fake_bin("alertmanager")
    assert not tools.missing(tools.ALERTMANAGER)
    with pytest.raises(
        viewer.NoViewerError,
        match="node is missing: no dashboards; get it: apt-get install nodejs npm",
    ):
        viewer.build(tmp_path, tmp_path, children)


def test_the_viewer_is_built_once_for_each_source(fake_bin, children, tmp_path):
    """From a copy of its sources; kept while they stay the same, replaced when they change."""
    sources, kept = tmp_path / "preview", tmp_path / "cache"
    (sources / "src").mkdir(parents=True)
    (sources / "node_modules").mkdir()
    (sources / "node_modules" / "junk").touch()
    (sources / "package.json").write_text("{}")
    kept.mkdir()
    fake_bin("node", "echo v20.1.0")
    fake_bin(
        "npm",
        '[ ! -e node_modules/junk ] || exit 9\n[ "$1" = ci ] || { /bin/mkdir out; : >out/index.html; }',
    )
    assert viewer.built(sources, kept) is None
    out = viewer.build(sources, kept, children)
    assert viewer.built(sources, kept) == out
    assert [line.split()[1] for line in (tmp_path / "npm.argv").read_text().splitlines()] == [
        "ci",
        "run",
    ]
    assert not (sources / "out").exists()
    (sources / "src" / "app.js").write_text("1")
    assert viewer.built(sources, kept) is None
    newer = viewer.build(sources, kept, children)
    assert out.exists()  # another demo may serve from it
    (sources / "src" / "app.js").write_text("2")
    os.utime(out.parent, (0, 0))
    viewer.build(sources, kept, children)
    assert (out.exists(), newer.exists()) == (False, True)
    fake_bin("node", "echo v18.20.4")
    (sources / "src" / "app.js").write_text("3")
    with pytest.raises(viewer.NoViewerError, match=r"node 18 is too old .* get 20 or later"):
        viewer.build(sources, kept, children)


def test_progress_is_a_line_per_quarter_where_nothing_moves():
    """A log file gets no hundred lines; elapsed seconds stand in front."""
    err = io.StringIO()
    terminal = Terminal(err, io.StringIO())
    for part in range(101):
        terminal.progress("the nodes' past", part / 100)
    lines = err.getvalue().splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r" +\d+ s  the nodes' past 100 %", lines[-1])


def test_dashboards_are_listed_from_their_folder(tmp_path):
    """What has no uid is no dashboard."""
    (tmp_path / "a.json").write_text('{"uid": "a", "title": "A", "tags": ["x"]}')
    (tmp_path / "b.json").write_text("[]")
    (found,) = dashboards(tmp_path)
    assert (found.uid, found.title, found.file, found.tags) == ("a", "A", "a.json", ("x",))


# --- all of it -------------------------------------------------------------------------------------


def port_flags():
    singles = [
        f"--{name}={free_port()}" for name in ("port", "prometheus-port", "alertmanager-port")
    ]
    return [*singles, f"--first-node-port={free_port(12)}"]


class Demo:
    """A demo in a process of its own, on free ports, with its cache below ``folder``."""

    def __init__(self, folder, argv, *flags, **env):
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.file = folder / "ready.json"
        self.file.unlink(missing_ok=True)
        self.err, self.out = folder / "err", folder / "out"
        flags = [*flags, *port_flags(), f"--cache={folder}/cache", f"--ready-file={self.file}"]
        env = {**environment(), "TMPDIR": str(self.temporary), **env}
        with self.err.open("wb") as err, self.out.open("wb") as out:
            self.process = subprocess.Popen([*argv, *flags], env=env, stderr=err, stdout=out)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(90)

    def ready(self, limit_s):
        end = time.monotonic() + limit_s
        while not self.file.exists():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < end, self.err.read_text()
            time.sleep(0.1)
        return json.loads(self.file.read_text())

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(90)

    def left(self):
        """What is still there of it: processes that know its folder, and files."""
        return processes(str(self.folder)) + [str(path) for path in self.temporary.iterdir()]


def asked(port, what, **arguments):
    url = f"http://127.0.0.1:{port}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)["data"]


def value(port, query, at):
    found = asked(port, "query", query=query, time=at)["result"]
    return [float(one["value"][1]) for one in found]


@pytest.fixture
def stub(tmp_path):
    """argv and PATH of a demo of three small nodes, with Prometheus and Alertmanager and without npm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in (tools.PROMETHEUS, tools.PROMTOOL, tools.ALERTMANAGER):
        if not tools.find(tool):
            pytest.skip(f"needs {tool.names[0]}")
        (folder / tool.names[0]).symlink_to(tools.find(tool))
    argv = [sys.executable, demostub.__file__, "demo", "--days=0.1"]
    return [*argv, "--no-grafana"], str(folder)


def with_engine(stub, tmp_path, script):
    """The stub with a container engine that notes how it is called."""
    argv, path = stub
    engine, calls = Path(path) / "docker", tmp_path / "docker.argv"
    engine.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n{script}\n')
    engine.chmod(0o755)
    return [one for one in argv if one != "--no-grafana"], path, calls


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_whole_comes_up_and_leaves_only_its_cache(stub, tmp_path):
    """History raw and recorded, live nodes, one page; at the end no process and no file but the cache."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        at, page = time.time(), Client(ready["page"])
        assert value(ready["prometheus"], "count(jobwatt_job_info)", at - 3600) == [3]
        idle = "jobwatt:cluster_gpu_idle_seconds:rate5m"
        assert value(ready["prometheus"], idle, at - 3600) == [3]
        assert value(ready["prometheus"], "count(up)", at - 600) == []
        status = json.loads(page.text("/status.json"))
        assert {one["name"] for one in status["processes"]} >= {"Prometheus", "Alertmanager"}
        assert status["total"]["rss_bytes"] > 50e6
        until(lambda: "node is missing" in page.text("/"))  # said once it has been looked for
        query = "/prometheus/api/v1/query?query=count(up)"
        assert json.loads(page.text(query))["status"] == "success"
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()
    assert f"http://127.0.0.1:{ready['page']}/" in demo.out.read_text()


@pytest.mark.slow
@pytest.mark.prometheus
def test_kill_9_leaves_nothing_that_runs(stub, tmp_path):
    """Children end by themselves; the next start removes the folder and takes the history from the cache."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        run_dir = Path(ready["run_dir"])
        demo.end(signal.SIGKILL)
    until(lambda: not processes(str(tmp_path)))
    assert run_dir.is_dir()
    with Demo(tmp_path, argv, PATH=path) as demo:
        again = demo.ready(180)
        assert not run_dir.exists()
        assert again["history"]["began_s"] == ready["history"]["began_s"]
        assert "making" not in demo.err.read_text()
        assert demo.end(signal.SIGTERM) == 0
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
def test_programs_that_end_are_told_of(stub, tmp_path):
    """Without Alertmanager it goes on, without Prometheus it ends, each with a line that says so."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        pids = demo.ready(180)["pids"]
        os.kill(pids["Alertmanager"], signal.SIGKILL)
        until(lambda: "Alertmanager ended by signal 9" in demo.err.read_text())
        assert demo.process.poll() is None
        os.kill(pids["Prometheus"], signal.SIGKILL)
        assert demo.process.wait(90) == 1
        assert "Prometheus ended by signal 9" in demo.err.read_text()
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_ended_while_it_makes_its_history(stub, tmp_path, number):
    """At once, with nothing left and no half history kept."""
    argv, path = stub
    with Demo(tmp_path, [*argv, "--stuck"], PATH=path) as demo:
        until(lambda: processes(f"{tmp_path}/cache/.making-"))
        assert demo.end(number) == 0
    assert "Traceback" not in demo.err.read_text()
    assert not demo.left()
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock"]


@pytest.mark.prometheus
@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(stub, tmp_path):
    """Whatever the first one waits for; and still nothing is left."""
    argv, path = stub
    with Demo(tmp_path, argv, PATH=path) as demo:
        pids = demo.ready(180)["pids"]
        os.kill(pids["Prometheus"], signal.SIGSTOP)  # will not end when asked
        demo.process.send_signal(signal.SIGINT)
        until(lambda: "ending" in demo.err.read_text())
        assert demo.end(signal.SIGINT) == 130
    until(lambda: not demo.left())


@pytest.mark.slow
@pytest.mark.prometheus
def test_mails_link_to_where_dashboards_are(stub, tmp_path):
    """To the page where Grafana does not come up; what there may be of its container is removed."""
    argv, path, calls = with_engine(stub, tmp_path, '[ "$1" != run ]')
    with Demo(tmp_path, argv, PATH=path) as demo:
        ready = demo.ready(180)
        page = f"http://127.0.0.1:{ready['page']}"
        template = Path(ready["run_dir"], "alertmanager", "jobwatt.tmpl").read_text()
        assert f'grafana := "{page}"' in template
        assert ready["dashboards_url"] == page
        assert [line.split()[0] for line in calls.read_text().splitlines()] == [
            "info", "pull", "run", "rm"
        ]  # fmt: skip
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()


@pytest.mark.slow
@pytest.mark.prometheus
def test_a_second_signal_ends_a_container_too(stub, tmp_path):
    """Although the first removal hangs, and the engine's client is killed."""
    script = 'case "$1" in run) exec sleep 60;; rm) exec sleep 10;; esac'
    argv, path, calls = with_engine(stub, tmp_path, script)
    with Demo(tmp_path, argv, PATH=f"{path}:/usr/bin:/bin") as demo:
        until(lambda: calls.exists() and "run --rm" in calls.read_text())
        demo.process.send_signal(signal.SIGINT)
        until(lambda: "rm --force" in calls.read_text())
        assert demo.end(signal.SIGINT) == 130
    until(lambda: calls.read_text().count("rm --force") == 2)
    until(lambda: not demo.left())


@pytest.mark.slow
@pytest.mark.prometheus
def test_it_can_listen_elsewhere(stub, tmp_path):
    """On IPv6, everything finds everything; the mail server stays on loopback."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")
    argv, path = stub
    with Demo(tmp_path, argv, "--listen=::1", PATH=path) as demo:
        ready = demo.ready(180)
        page = Client(ready["page"], "::1")
        until(lambda: json.loads(page.text("/status.json"))["nodes_up"] == 3)
        assert Client(ready["alertmanager"], "::1").ask("/-/ready")[0] == 200
        with smtplib.SMTP("127.0.0.1", ready["smtp"], timeout=60) as smtp:
            smtp.sendmail("a@example.org", ["b@example.org"], mail())
        assert json.loads(page.text("/mails.json"))


def test_addresses_say_where_to_connect():
    """What listens everywhere is reached on loopback; IPv6 stands in brackets."""
    at = addresses
    assert (at("0.0.0.0").bind(1), at("0.0.0.0").reach(1)) == ("0.0.0.0:1", "127.0.0.1:1")
    assert (at("::").bind(1), at("::").url(1)) == ("[::]:1", "http://[::1]:1")
    assert at("10.0.0.7").url(1) == "http://10.0.0.7:1"


@pytest.mark.slow
def test_without_prometheus_the_nodes_are_shown(tmp_path):
    """What can run runs; what is missing is said in the terminal and on the page."""
    empty = tmp_path / "bin"
    empty.mkdir()
    argv = [sys.executable, "-c", _WITHOUT_TOOLS, "--days=1", "--no-grafana"]
    with Demo(tmp_path, argv, PATH=str(empty)) as demo:
        ready = demo.ready(120)
        page = Client(ready["page"])
        assert "prometheus is missing: no history" in page.text("/")
        node = Client(ready["nodes"]["gpu01"])
        assert "jobwatt_build_info" in node.text("/metrics")
        assert page.ask("/prometheus/api/v1/query?query=up")[0] == 502
        status = json.loads(page.text("/status.json"))
        assert (status["nodes"], status["nodes_up"]) == (3, None)  # nobody who could tell
        assert demo.end(signal.SIGINT) == 0
    assert demo.err.read_text().count("is missing") >= 3
    assert not demo.left()


_WITHOUT_TOOLS = f"""
import sys
sys.path.insert(0, {str(Path(demostub.__file__).parent)!r})
import demostub
from jobwatt.demo import tools
tools._MORE = ()
sys.exit(demostub.demo(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.prometheus
def test_the_demo_as_a_newcomer_sees_it(tmp_path):
    """All twelve nodes up, half a day of raw and recorded past, the first mail within four minutes, nothing left."""
    with Demo(tmp_path, command("demo", "--days=1", "--fresh", "--no-grafana")) as demo:
        ready = demo.ready(480)
        began, page = time.monotonic(), Client(ready["page"])
        port, past = ready["prometheus"], time.time() - 12 * 3600
        assert value(port, "count(up)", past) == [12]
        assert value(port, "count(count by (instance) (jobwatt_node_power_watts))", past) == [12]
        assert value(port, "jobwatt:cluster_energy_joules:rate5m", past)[0] > 1000
        until(lambda: json.loads(page.text("/status.json"))["nodes_up"] == 12)
        link = f"http://127.0.0.1:{ready['page']}/d/jobwatt-job?"
        mails = until(
            lambda: [m for m in json.loads(page.text("/mails.json")) if link in m["html"]],
            240 - (time.monotonic() - began),
        )
        assert mails[0]["to"][0].endswith("@example.org")
        until(lambda: "ALERTS" in asked(port, "label/__name__/values"))
        assert demo.end(signal.SIGINT) == 0
    assert not demo.left()
