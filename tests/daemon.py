"""
The whole daemon as a process of its own, over a node made of files.

    with Daemon(node, tmp_path / "state", script=script) as daemon:
        page = daemon.scrape()          # a Page, checked
        daemon.kill(); daemon.start()   # kill -9, and again on the same port
        daemon.said("no answer")        # log lines of all its lives

Every page that ``scrape`` returns has been checked: no series twice, energy conserved in each
component to the microjoule, and no counter below what an earlier page showed.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

import nvmlshim
from jobwatt.slurm import hooks
from prom import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from trees import Job, Node

PACKAGE = Path(__file__).resolve().parents[1] / "exporter"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()  # what hook records carry
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_UNESCAPED = {r"\n": "\n", r"\"": '"', r"\\": "\\"}


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "jobwatt", *argv]


def paths(node: Node, state: Path) -> list[str]:
    trees = {"sysfs": node.sys, "procfs": node.proc, "cgroupfs": node.cgroup, "state": state}
    return [f"--path.{name}={path}" for name, path in trees.items()]


def environment(
    script: nvmlshim.Script | None = None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    base = dict(os.environ) if script is None else nvmlshim.env(script)
    base.pop("PYTHONUNBUFFERED", None)  # stdout as users have it
    return {**base, "PYTHONPATH": str(PACKAGE), **(more or {})}


def wait(what: Callable[[], object], limit_s: float = 90.0, why: str = "") -> object:
    """Wait until ``what()`` is true; returns it."""
    until = time.monotonic() + limit_s
    while not (value := what()):
        assert time.monotonic() < until, f"waited {limit_s} s in vain {why}"
        time.sleep(0.02)
    return value


def prolog(state: Path, job: Job, gpus: str = "", **more: str) -> None:
    """What Slurm's Prolog would have told of a job."""
    _hook(state, "prolog", job, gpus, more)


def epilog(state: Path, job: Job, gpus: str = "", **more: str) -> None:
    _hook(state, "epilog", job, gpus, more)


def _hook(state: Path, event: str, job: Job, gpus: str, more: Mapping[str, str]) -> None:
    env = {
        "SLURM_JOB_ID": str(job.jobid),
        "SLURM_JOB_USER": f"user{job.uid}",
        "SLURM_JOB_UID": str(job.uid),
        "SLURM_JOB_ACCOUNT": "ltci",
        "SLURM_JOB_PARTITION": "A100",
        "SLURM_JOB_GPUS": gpus,
        "SLURM_JOB_CPUS_PER_NODE": "1",
        "SLURM_NODELIST": "node",
        "SLURMD_NODENAME": "node",
        **more,
    }
    hooks.write(state, event, env, t_ns=nvmlshim.boottime_ns(), wall_s=time.time())


# --- pages -----------------------------------------------------------------------------------------


@dataclass
class Page:
    """A page as text; figures are kept as printed."""

    text: str
    series: dict[str, str] = field(default_factory=dict)  # name{labels} -> value

    def __post_init__(self) -> None:
        for line in self.text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                assert name not in self.series, f"twice on one page: {name}"
                self.series[name] = value

    def find(self, metric: str, **labels: str) -> dict[tuple[tuple[str, str], ...], str]:
        """Series of a metric by their labels, those that have ``labels`` only."""
        found = {}
        for name, value in self.series.items():
            if name.partition("{")[0] != metric:
                continue
            pairs = tuple(
                (key, re.sub(r"\\.", lambda m: _UNESCAPED[m[0]], text))
                for key, text in _LABEL.findall(name)
            )
            if labels.items() <= dict(pairs).items():
                found[pairs] = value
        return found

    def value(self, metric: str, **labels: str) -> float:
        """The sum over all that match; KeyError where none does."""
        found = self.find(metric, **labels)
        if not found:
            raise KeyError(metric)
        return sum(float(value) for value in found.values())

    def micro(self, metric: str, **labels: str) -> int:
        """Likewise in millionths, exactly: uJ of J."""
        return sum(micro(value) for value in self.find(metric, **labels).values())

    def labels(self, metric: str, label: str, **labels: str) -> set[str]:
        return {dict(pairs)[label] for pairs in self.find(metric, **labels)}

    def counters(self) -> dict[str, int]:
        """Counters that outlive the process, in 1e-9."""
        return {
            name: nano(value)
            for name, value in self.series.items()
            if name.startswith("jobwatt_") and name.partition("{")[0].endswith("_total")
        }

    def check(self) -> None:
        """Conserved: jobs + system + unallocated = node, in each component."""
        owners = ("job", "system", "unallocated")
        for (pair,) in self.find("jobwatt_node_energy_joules_total"):
            component = dict([pair])
            charged = sum(
                self.micro(f"jobwatt_{owner}_energy_joules_total", **component) for owner in owners
            )
            assert charged == self.micro("jobwatt_node_energy_joules_total", **component), component

    def parse(self, *, om: bool = False) -> None:
        """prometheus_client's strict parser takes it whole."""
        parse = openmetrics.text_string_to_metric_families if om else text_string_to_metric_families
        assert sum(len(family.samples) for family in parse(self.text)) == len(self.series)


def micro(text: str) -> int:
    whole, _, part = text.partition(".")
    return int(whole) * 10**6 + int(part.ljust(6, "0")[:6])


def nano(text: str) -> int:
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * 10**9)
    whole, _, part = text.partition(".")
    return int(whole) * 10**9 + int(part.ljust(9, "0")[:9])


# --- the process -------------------------------------------------------------------------------------


class Daemon:
    """
    ``python -m jobwatt serve`` on a free port of loopback; the port stays over restarts.

    Attributes:
        log: file that takes stderr of all its lives.
        pages: how many pages have been checked.
    """

    def __init__(
        self,
        node: Node,
        state: Path,
        *flags: str,
        script: nvmlshim.Script | None = None,
        env: Mapping[str, str] | None = None,
        interval: str = "200ms",
        rpc: bool = False,
    ) -> None:
        self.node, self.state, self.port, self.pages = node, state, 0, 0
        self.log = node.root / "daemon.log"
        self._flags = [*paths(node, state), f"--sample.interval={interval}", *flags]
        self._flags += [
            "--source.nvml" if script else "--no-source.nvml",
            "--slurm.rpc" if rpc else "--no-slurm.rpc",
        ]
        self._env = environment(script, env)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._highest: dict[str, int] = {}
        self._seen_from = 0

    def __enter__(self) -> Daemon:
        try:
            return self.start()
        except BaseException:
            self.kill()  # nobody calls __exit__ where this fails
            raise

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, ready: bool = True) -> Daemon:
        """Start it; wait until it has a page unless told otherwise."""
        self._seen_from = self.log.stat().st_size if self.log.exists() else 0
        first, self.port = not self.port, self.port or free_port()
        argv = self._command("serve", f"--web.listen-address=127.0.0.1:{self.port}", *self._flags)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, env=self._env, stderr=log, stdin=subprocess.DEVNULL, cwd="/"
            )
        if first:
            wait(self._listens, why="for its port")
        if ready:
            wait(self._is_ready, 60, f"for a page\n{self.text()}")
        return self

    def _command(self, *argv: str) -> list[str]:
        return command(*argv)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(60)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- what it says

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def said(self, words: str, *, now: bool = False) -> list[str]:
        """Log lines with ``words`` (a regular expression), of all lives or of this one."""
        text = self.log.read_bytes()[self._seen_from if now else 0 :].decode(errors="replace")
        return [line for line in text.splitlines() if re.search(words, line)]

    def get(self, path: str, accept: str = "", timeout: float = 30.0) -> str:
        request = urllib.request.Request(
            f"{self.url}{path}", headers={"Accept": accept} if accept else {}
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read().decode()

    def scrape(self, *, om: bool = False, parse: bool = True) -> Page:
        """A page, checked."""
        with self._lock:  # or an older page would be compared with a newer one
            page = Page(self.get("/metrics", OPENMETRICS if om else ""))
            page.check()
            counters = page.counters()
            for name in counters.keys() & self._highest.keys():
                assert counters[name] >= self._highest[name], f"{name} went back"
            self._highest.update(counters)
            self.pages += 1
        if parse:
            page.parse(om=om)
        return page

    def expect_no_less(self, page: Page) -> None:
        """What another daemon showed of this state: no counter may be below it from now on."""
        self._highest.update(page.counters())

    def samples(self, count: int = 2, limit_s: float = 60.0) -> Page:
        """The page after so many more regular samples: all that was true before the call is on it."""
        first = self.scrape().value("jobwatt_samples_total", cause="tick")
        return self.until(
            lambda page: page.value("jobwatt_samples_total", cause="tick") >= first + count, limit_s
        )

    def until(
        self,
        true: Callable[[Page], object],
        limit_s: float = 60.0,
        why: Callable[[Page], object] | None = None,
    ) -> Page:
        """The first page of which ``true`` holds; ``why`` tells what is amiss where none comes."""
        until = time.monotonic() + limit_s
        while not true(page := self.scrape()):
            assert time.monotonic() < until, (
                f"never came\n{why(page) if why else page.text}\n{self.text()}"
            )
            time.sleep(0.05)
        return page

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"it ended\n{self.text()}"
        with suppress(OSError, http.client.HTTPException):
            self.get("/readyz")
            return True
        return False

    def _listens(self) -> bool:
        assert self.alive(), f"it ended\n{self.text()}"
        return f"serves on 127.0.0.1:{self.port}," in self.text()


@contextmanager
def scraping(daemon: Daemon, every_s: float = 0.1) -> Iterator[list[BaseException]]:
    """Scrape and check all the while, in both formats; a fault is raised at the end."""
    faults: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        count = 0
        while not stop.wait(every_s):
            count += 1
            try:
                daemon.scrape(om=bool(count % 2), parse=count % 5 == 0)
            except (OSError, http.client.HTTPException):  # between two lives
                continue
            except Exception as err:  # noqa: BLE001  it is raised in the test's own thread
                faults.append(err)
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        stop.set()
        thread.join()
    for fault in faults:
        raise fault


@contextmanager
def working(
    node: Node,
    jobs: Sequence[tuple[Job, float]],
    also: Callable[[], None] | None = None,
    every_s: float = 0.05,
) -> Iterator[None]:
    """Time passes on the node: each job uses so many CPUs; ``also`` is called at each step."""
    stop, faults = threading.Event(), []

    def run() -> None:
        last = time.monotonic_ns()
        try:
            while not stop.wait(every_s):
                now = time.monotonic_ns()
                dt, last = now - last, now
                if also is not None:
                    also()
                there = [(job, int(cpus * dt)) for job, cpus in jobs if job in node.jobs]
                node.advance(dt, there, dt // 50)
        except Exception as err:  # noqa: BLE001  it is raised in the test's own thread
            faults.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    for fault in faults:
        raise fault
