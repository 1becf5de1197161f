"""
No secret that a process was given is where somebody else could read it.

Canaries: BMC's, remote page's and grid's credentials, the page's own password and its hash, the
key of pseudonyms, and what a client sent as a password. Looked at: /proc/PID/cmdline and environ of
the process and of every child that it ever has, the log at debug level, each page in each form,
`doctor`, and all of it again while everything that can fail does.
"""

from __future__ import annotations

import base64
import contextlib
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import bcrypt
import psutil
import pytest

import gridmock
import redfishmock
import secure
import webcerts
from daemon import OPENMETRICS, command, environment, paths, wait
from jobwatt.web import WebServer
from redfishmock import Bmc
from webkit import FixedSite

pytestmark = pytest.mark.slow
REMOTE, KEY, SENT = "canary-remote-5d1f", "canary-key-" + "4" * 32, "canary-sent-77ab"


class Spy:
    """Remembers arguments and environments of a process and its children, as often as it can look."""

    def __init__(self, pid):
        self._process, self._stop = psutil.Process(pid), threading.Event()
        self.seen: set[str] = set()
        self.children: set[int] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(0.005):
            with contextlib.suppress(psutil.Error):
                family = [self._process, *self._process.children(recursive=True)]
                self.children |= {child.pid for child in family[1:]}
                for one in family:
                    with contextlib.suppress(psutil.Error):
                        self.seen.add("\0".join(one.cmdline()))
                        self.seen.add(str(one.environ()))


def secret(path, text):
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def forms(*words):
    """A secret as it is, as JSON and YAML escape it, in base64 and as HTTP's basic authentication."""
    found = set()
    for word in words:
        plain = word.encode()
        found |= {word, word.replace('"', '\\"'), base64.b64encode(plain).decode().rstrip("=")}
    return found


def check(said, canaries):
    for canary in canaries:
        assert canary not in said, said[max(0, said.index(canary) - 200) :][:400]


def everything(get):
    """Each page in each form; a page that is not there has nothing to hide."""
    said = ""
    for path in (
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/nothing",
        "/metrics?name[]=jobwatt_build_info",
    ):
        for accept in ("", OPENMETRICS):
            try:
                said += get(path, accept)
            except urllib.error.HTTPError as err:
                said += err.read().decode() + str(err.headers)
    return said


def test_the_daemons_secrets(tmp_path):
    """The daemon with a BMC, a remote page, a password of its own and a key; right ones first, then what fails."""
    ca = webcerts.make("ca")
    ca_file, _ = ca.write(tmp_path, "ca")
    pair = webcerts.make("server", ca).write(tmp_path, "server")
    hashed = bcrypt.hashpw(secure.PASSWORD.encode(), bcrypt.gensalt(6)).decode()
    remote_yml = tmp_path / "remote.yml"
    tls = f"tls_server_config: {{cert_file: {pair[0]}, key_file: {pair[1]}}}\n"
    remote_hash = bcrypt.hashpw(REMOTE.encode(), bcrypt.gensalt(6)).decode()
    remote_yml.write_text(f"{tls}basic_auth_users: {{reader: {remote_hash}}}\n")
    canaries = forms(
        secure.PASSWORD, f"{secure.USER}:{secure.PASSWORD}", hashed, REMOTE, f"reader:{REMOTE}", KEY, SENT,
        redfishmock.PASSWORD, f"{redfishmock.USER}:{redfishmock.PASSWORD}",
    )  # fmt: skip
    remote = WebServer("127.0.0.1:0", FixedSite(), remote_yml)
    remote.start()
    with Bmc(pair) as bmc, contextlib.ExitStack() as stack:
        stack.callback(remote.stop)
        daemon = secure.daemon(
            tmp_path / "node", f"{tls}basic_auth_users: {{{secure.USER}: {hashed}}}\n", jobs=1
        )
        daemon.context, daemon.authorization = secure.trusting(ca_file), secure.basic()
        login = secret(tmp_path / "bmc.credentials", f"{redfishmock.USER}:{redfishmock.PASSWORD}")
        asked = secret(tmp_path / "remote.credentials", f"reader:{REMOTE}")
        flags = [
            f"--bmc.redfish={bmc.url}", f"--bmc.credentials={login}", f"--bmc.ca-file={ca_file}", "--bmc.interval=10s",
            f"--remote.url=https://127.0.0.1:{remote.address[1]}/metrics", f"--remote.credentials={asked}",
            f"--remote.ca-file={ca_file}", "--remote.node=gpu01", "--remote.interval=1s",
            "--privacy.users=hash", f"--privacy.key-file={secret(tmp_path / 'key', KEY)}", "--log.level=debug",
        ]  # fmt: skip
        daemon._flags += flags
        stack.enter_context(daemon)
        with Spy(daemon.pid) as spy:
            wait(bmc.logins, why="for the BMC to be asked")
            wait(lambda: remote.site.asked, why="for the remote page to be asked")
            said = everything(daemon.get)
            daemon.authorization = secure.basic("someone", SENT)
            said += everything(daemon.get)
            daemon.authorization = secure.basic()
            doctor = subprocess.run(
                [*command("doctor", *paths(daemon.node, daemon.state), "--no-source.nvml", "--no-slurm.rpc"), *flags],
                env=environment(), capture_output=True, text=True, timeout=90, check=False,
            )  # fmt: skip
            said += doctor.stdout + doctor.stderr
            asked.write_text(f"reader:{REMOTE}\nX-Injected: {REMOTE}\n")
            bmc.statuses = dict.fromkeys(bmc.tree, 401)
            (tmp_path / "node/web.yml").write_text(
                f"basic_auth_users: {{{secure.USER}: {secure.PASSWORD}}}\n"
            )
            wait(lambda: daemon.said("not a bcrypt hash") or daemon.get("/healthz"))
            wait(lambda: daemon.said("remote.credentials"), why="for the broken file to be said")
            said += everything(daemon.get)
        said += daemon.text()
    assert "not a bcrypt hash" in said
    check(said, canaries)
    check("\n".join(spy.seen), canaries)
    assert any("--bmc.credentials=" in line for line in spy.seen)  # it did look


def test_the_grids_secrets(tmp_path):
    """`jobwatt grid` with a token, right and then refused: not in its arguments, its environment, its log or its pages."""
    token, canary = tmp_path / "token", gridmock.EM_TOKEN
    secret(token, canary)
    with gridmock.GridServer() as server:
        config = tmp_path / "grid.toml"
        config.write_text(
            f'zone = "FR"\n[[source]]\nkind = "electricitymaps"\nurl = "{server.url}"\ntoken_file = "{token}"\ninterval = "1s"\n'
        )
        log = (tmp_path / "log").open("w+b")
        process = subprocess.Popen(
            [sys.executable, "-m", "jobwatt", "grid", "--web.listen-address=127.0.0.1:0", f"--grid.config={config}",
             f"--grid.cache={tmp_path}/cache.json", "--log.level=debug"],
            env=environment(), stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        text = (tmp_path / "log").read_text
        try:
            with Spy(process.pid) as spy:
                wait(lambda: "serves on" in text())
                address = text().partition("serves on ")[2].split(",")[0].split()[0]
                wait(lambda: canary in str(server.asked), why="for the token to be used")

                def get(path, accept):
                    request = urllib.request.Request(
                        f"http://{address}{path}", headers={"Accept": accept} if accept else {}
                    )
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        return answer.read().decode()

                said = everything(get)
                secret(token, f"{canary}\n{canary}")
                server.fault = gridmock.answering(b'{"error": "' + canary.encode() + b'"}', 401)
                time.sleep(1.5)
                said += everything(get)
        finally:
            process.terminate()
            process.wait(60)
            log.close()
        said += text() + (tmp_path / "cache.json").read_text()
    check(said, forms(canary))
    check("\n".join(spy.seen), forms(canary))
