"""Parts of `jobwatt demo` for its tests: its page and a client, a mail, its children and what still runs of them."""

from __future__ import annotations

import http.client
import os
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from jobwatt.demo import mails, web
from jobwatt.demo.children import Children
from jobwatt.demo.files import Dashboard
from jobwatt.demo.startpage import Start

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


def processes(mark):
    """Command lines of this machine that hold ``mark``, without our own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if mark in text and int(path.parent.name) != os.getpid():
                found.append(text)
    return found


@pytest.fixture
def children(tmp_path):
    started = Children(tmp_path)
    yield started
    started.close()
