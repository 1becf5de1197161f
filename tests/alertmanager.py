"""
A real Alertmanager and a mail server on free ports, for as long as a test lasts.

    with Mailbox() as mailbox, Alertmanager(tmp_path, config, templates) as manager:
        manager.post([Alert("JobwattGPUIdle", user="alice", jobid="7")])
        mails = mailbox.expect(1)
        manager.kill(); manager.start()   # kill -9, and again with the same data
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller

from jobwatt.alerts import render, site
from prom import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from email.message import EmailMessage
    from pathlib import Path

_DURATION = re.compile(r"\b((?:[1-9]\d*(?:ms|[smhdwy]))+)\b")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def compressed(text: str, factor: int) -> str:
    """
    Rules or configuration with every duration so many times shorter.

    Only durations are: `for`, intervals, ranges, offsets. Numbers of seconds stay (thresholds, 0.95 * 3600), for
    the recording is played so many times faster (`jobwatt replay --speed`): counters go through an
    hour's worth in the time that an hour has become. For the same reason a rate, which Prometheus takes
    per real second, is divided by the factor.
    """
    text = re.sub(r"\brate\(([^()]*)\)", rf"(rate(\1) / {factor})", text)
    return _DURATION.sub(lambda found: f"{max(_ms(found[1]) // factor, 1)}ms", text)


def _ms(duration: str) -> int:
    return sum(int(n) * _UNIT_MS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhdw])", duration))


def rendered(settings: str, folder: Path, smtp_port: int, factor: int) -> dict[str, str]:
    """What a site.toml with this mail server (and ``settings`` after its [mail] keys) renders to, compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.toml"
    path.write_text(
        f'[mail]\nsmarthost = "127.0.0.1:{smtp_port}"\nfrom = "GPU monitor <gpumon@example.org>"\n'
        f'operators = ["ops@example.org"]\nrequire_tls = false\n{settings}'
    )
    texts = render.texts(site.read(path))
    # a template has no durations, but formats such as %12s
    return {
        n: text if n.endswith(".tmpl") else compressed(text, factor) for n, text in texts.items()
    }


SITE = """\
domain = "example.org"
reply_to = "help@example.org"
contact = "the HPC team"
contact_url = "https://hpc.example.org/gpu-mails"
[schedule]
hours = "00:00-24:00"
days = ["monday:sunday"]
[links]
grafana = "https://grafana.example.org"
runbooks = "https://hpc.example.org/runbooks"
[cost]
pue = 1.2
carbon_intensity_g_per_kwh = 56
price_per_gpu_hour = 0.8
"""


# --- mail ----------------------------------------------------------------------------------------


@dataclass
class Mail:
    """A mail as it came in: the envelope, when, and what."""

    to: list[str]
    at: float
    message: EmailMessage

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        return self._part("plain")

    @property
    def html(self) -> str:
        return self._part("html")

    def _part(self, kind: str) -> str:
        part = self.message.get_body((kind,))
        return str(part.get_content()).replace("\r\n", "\n") if part is not None else ""


class Mailbox:
    """An SMTP server that keeps what it gets; it may be taken away and come back on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[Mail] = []
        self.refused: list[str] = []
        self.refuse = ""  # an answer such as "451 not now" for every recipient
        self._controller: Controller | None = None

    def __enter__(self) -> Mailbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, ready_timeout=60)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    async def handle_RCPT(self, _server, _session, envelope, address, _options):  # noqa: N802  aiosmtpd's name
        if self.refuse:
            self.refused.append(address)
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  aiosmtpd's name
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(Mail(list(envelope.rcpt_tos), time.time(), message))
        return "250 OK"

    def to(self, address: str) -> list[Mail]:
        return [mail for mail in self.mails if address in mail.to]

    def expect(self, count: int, address: str = "", limit_s: float = 60.0) -> list[Mail]:
        """Wait for so many mails (to an address); more than that is a failure."""
        until = time.monotonic() + limit_s
        while len(found := self.to(address) if address else self.mails) < count:
            assert time.monotonic() < until, f"{len(found)} of {count} mails came: {self._seen()}"
            time.sleep(0.05)
        assert len(found) == count, self._seen()
        return found

    def _seen(self) -> list[tuple[list[str], str]]:
        return [(mail.to, mail.subject) for mail in self.mails]


# --- Alertmanager --------------------------------------------------------------------------------


@dataclass
class Alert:
    """One alert with the labels and annotations of alerts/rules/user.yaml."""

    name: str
    user: str = "alice"
    jobid: str = "7001"
    cluster: str = "alpha"
    audience: str = "user"
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    starts: datetime = field(default_factory=lambda: datetime.now(UTC))

    def encoded(self, ends_s: float) -> dict[str, Any]:
        labels = {
            "alertname": self.name,
            "cluster": self.cluster,
            "user": self.user,
            "jobid": self.jobid,
            "account": "ltci",
            "partition": "H100",
            "audience": self.audience,
            "severity": "info",
            **self.labels,
        }
        ends = datetime.now(UTC) + timedelta(seconds=ends_s)
        times = {"startsAt": self.starts.isoformat(), "endsAt": ends.isoformat()}
        return {
            "labels": {name: value for name, value in labels.items() if value},
            "annotations": {**self._told(), **self.annotations},
            **times,
        }

    def _told(self) -> dict[str, str]:
        return {
            "summary": f"All GPUs of job {self.jobid} have gone idle.",
            "advice": "Look at the job's output: it may have finished, failed in one process, or wait for something. End it if nothing more is to come.",
            "nodes": "gpu01, gpu02",
            "gpus": "2",
            "held": "6h 12m",
            "state": "idle for 4h or more",
            "wasted_gpu_hours": "12.4",
            "wasted_kwh": "1.86",
            "wasted_co2e": "104 g",
            "wasted_cost": "9.92",
            "user_week_gpu_hours": "31.0",
            "user_week_kwh": "4.65",
            "user_week_co2e": "260 g",
            "user_week_cost": "24.80",
            "command": f"scancel {self.jobid}",
            "dashboard": f"/d/jobwatt-job?var-cluster={self.cluster}&var-jobid={self.jobid}",
            "runbook_url": f"https://hpc.example.org/runbooks/{self.name}.md",
        }


class Alertmanager:
    """One Alertmanager over a directory of its own; ``peers`` are the others of a pair."""

    def __init__(self, folder: Path, files: Mapping[str, str], *more: str) -> None:
        self.folder, self.port, self.cluster_port = folder, free_port(), free_port()
        for name in ("alertmanager.yml", "jobwatt.tmpl"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(files[f"alertmanager/{name}"])
        self.flags = list(more) or ["--cluster.listen-address="]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.log = folder / "alertmanager.log"

    def __enter__(self) -> Alertmanager:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, wait: bool = True) -> None:
        argv = [
            "prometheus-alertmanager",
            f"--config.file={self.folder}/alertmanager.yml",
            f"--storage.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=debug",
            *self.flags,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stderr=log, stdout=log, cwd=self.folder)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until it is ready."""
        until = time.monotonic() + 60
        while not self._ready():
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill -9."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, number)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def post(self, alerts: Sequence[Alert], ends_s: float = 300.0) -> None:
        """As Prometheus does: firing until ``ends_s`` from now, resolved where that is past."""
        body = json.dumps([alert.encoded(ends_s) for alert in alerts]).encode()
        request = urllib.request.Request(
            f"{self.url}/api/v2/alerts", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

    def resolve(self, alerts: Sequence[Alert]) -> None:
        self.post(alerts, ends_s=-0.001)

    def states(self) -> dict[str, str]:
        """Alert name -> active or suppressed, as its API says now."""
        with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=60) as answer:
            found = json.load(answer)
        return {one["labels"]["alertname"]: one["status"]["state"] for one in found}

    def counter(self, name: str) -> float:
        """A counter of its e-mail integration."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            found = re.search(
                rf'^{name}{{integration="email"}} (\S+)$', answer.read().decode(), re.MULTILINE
            )
        return float(found[1]) if found else 0.0

    def tried(self) -> float:
        """How often it has talked to the mail server, to the end."""
        return self.counter("alertmanager_notification_latency_seconds_count")

    def kept(self, words: str) -> bool:
        """Whether its log of mails on the disk names a group with these words."""
        log = self.folder / "data" / "nflog"
        return log.exists() and words.encode() in log.read_bytes()

    def peers(self) -> int:
        """How many of a pair it knows of, itself included."""
        with urllib.request.urlopen(f"{self.url}/api/v2/status", timeout=60) as answer:
            return len(json.load(answer)["cluster"].get("peers", []))

    def said(self, words: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if re.search(words, line)]

    def _ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


def meanwhile(what, seconds: float, every_s: float = 0.2) -> None:
    """Call ``what`` again and again for so long, as Prometheus sends its alerts again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        what()
        time.sleep(every_s)
