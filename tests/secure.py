"""A daemon behind ``--web.config.file``, and the recipe of docs/security.md, run as it stands there."""

from __future__ import annotations

import base64
import re
import ssl
import subprocess
import urllib.request
from pathlib import Path

from daemon import BOOT_ID, Daemon
from trees import Node

GUIDE = Path(__file__).parents[1] / "docs/security.md"
USER, PASSWORD = "prometheus", "correct horse"


def block(title: str) -> str:
    """The first fenced block below a heading or sentence that holds ``title``."""
    _, _, rest = GUIDE.read_text().partition(title)
    found = re.search(r"^```\w+\n(.*?)^```", rest, re.MULTILINE | re.DOTALL)
    assert found, f"no block below {title!r}"
    return found[1]


def certificates(folder: Path, node: str) -> None:
    """Make ca, NODE and prometheus with the guide's commands."""
    for title in ("### A certificate authority", "### Certificates"):
        subprocess.run(
            ["sh", "-euc", block(title)],
            cwd=folder, env={"PATH": "/usr/bin:/bin", "NODE": node}, check=True, capture_output=True,
        )  # fmt: skip


class SecureDaemon(Daemon):
    """A daemon with TLS, or passwords, or both; ``get`` speaks as a client that is let in."""

    context: ssl.SSLContext | None = None
    authorization = ""

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://127.0.0.1:{self.port}"

    def get(self, path: str, accept: str = "", timeout: float = 30.0) -> str:
        headers = {"Accept": accept, "Authorization": self.authorization}
        request = urllib.request.Request(
            f"{self.url}{path}", headers={name: text for name, text in headers.items() if text}
        )
        with urllib.request.urlopen(request, timeout=timeout, context=self.context) as answer:
            return answer.read().decode()


def daemon(folder: Path, web: str, jobs: int = 0, interval: str = "200ms") -> SecureDaemon:
    """A daemon over a small node, with ``web`` as its --web.config.file ("" for none)."""
    folder.mkdir(parents=True, exist_ok=True)
    node = Node(folder, cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1, psys=False, mmio=False)
    for number in range(jobs):
        node.add_job(100 + number, uid=61000 + number)
    flags = []
    if web:
        (folder / "web.yml").write_text(web)
        flags = [f"--web.config.file={folder}/web.yml"]
    return SecureDaemon(node, folder / "state", *flags, interval=interval)


def basic(user: str = USER, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def trusting(ca: Path, pair: Path | None = None) -> ssl.SSLContext:
    """A client's context: whom it trusts, and its own certificate (``pair`` without its suffix)."""
    context = ssl.create_default_context(cafile=ca)
    if pair is not None:
        context.load_cert_chain(pair.with_suffix(".crt"), pair.with_suffix(".key"))
    return context
