"""The real daemon: CPU time, memory, scrapes over HTTP, system calls and new processes."""

from __future__ import annotations

import gzip
import http.client
import random
import re
import shutil
import statistics
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

from figures import Figures, Target, percentile
from rig import Clock, Daemon, Rig

if TYPE_CHECKING:
    from pathlib import Path

DAEMON = "daemon: 1 s sampling, a scrape per 15 s"
SCRAPE_EVERY_S = 15
_TEXT = "text/plain;version=0.0.4"
_OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
FORMATS = {
    "text": (_TEXT, "identity"),
    "text, gzip": (_TEXT, "gzip"),
    "OpenMetrics": (_OPENMETRICS, "identity"),
    "OpenMetrics, gzip": (_OPENMETRICS, "gzip"),
}
PROMETHEUS = "OpenMetrics, gzip"  # what a Prometheus server asks for

_NEW_PROCESS = re.compile(r"\b(fork|vfork|clone|clone3|execve|execveat)\((.*)")
_CALL = re.compile(r"^\d+\s+(?:<\.\.\. (?P<resumed>\w+) resumed>|(?P<name>\w+)\()")


def scrape(connection: http.client.HTTPConnection, form: str) -> tuple[float, bytes]:
    """One scrape: ms from request to last byte, and the body as it came."""
    accept, encoding = FORMATS[form]
    started = time.perf_counter()
    connection.request("GET", "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
    body = connection.getresponse().read()
    return (time.perf_counter() - started) * 1e3, body


def measure(figures: Figures, jobs: int, *, window_s: float, windows: int, scrape_s: float) -> None:
    """Everything that one daemon can tell with this many jobs."""
    rig = Rig(jobs)
    try:
        daemon = Daemon(rig)
        clock = Clock(rig)
        clock.start()
        try:
            time.sleep(2.5)  # the imports, the first samples, the first process lists
            _cpu(figures, jobs, daemon, window_s, windows)
            clock.close()  # the client's own latency is not to suffer from it
            _scrapes(figures, jobs, daemon, scrape_s)
            _memory(figures, jobs, daemon)
        finally:
            daemon.close()
    finally:
        rig.close()


def _cpu(figures: Figures, jobs: int, daemon: Daemon, window_s: float, windows: int) -> None:
    per_hour = []
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    for _ in range(windows):
        before, started = daemon.cpu_s(), time.monotonic()
        time.sleep(window_s / 2)
        sampled = daemon.cpu_s()
        scrape(connection, PROMETHEUS)
        time.sleep(0.05)
        scraped_s = daemon.cpu_s() - sampled
        time.sleep(started + window_s - time.monotonic())
        used = daemon.cpu_s() - before
        rate = (used - scraped_s) / window_s + scraped_s / SCRAPE_EVERY_S
        per_hour.append(rate * 3600)
    connection.close()
    cpu = statistics.median(per_hour)
    figures.set(DAEMON, "CPU seconds per hour (36 = 1 % of a core)", jobs, cpu, "s", Target(36, 8))
    figures.set(DAEMON, "  of it in the kernel", jobs, 100 * daemon.system_share(), "%")


def _memory(figures: Figures, jobs: int, daemon: Daemon) -> None:
    figures.set(DAEMON, "peak RSS (VmHWM)", jobs, daemon.status_mb("VmHWM"), "MB", Target(60))


def _scrapes(figures: Figures, jobs: int, daemon: Daemon, scrape_s: float) -> None:
    """Scrapes at random moments; the first of a view in text or in OpenMetrics renders it."""
    took: dict[tuple[bool, str], list[float]] = {}
    sizes: dict[str, int] = {}
    samples = 0
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    seen: dict[str, bytes] = {}
    forms, end, dice = list(FORMATS), time.monotonic() + scrape_s, random.Random(1)
    while time.monotonic() < end:
        form = dice.choice(forms)
        ms, body = scrape(connection, form)
        kind, encoding = FORMATS[form]
        page = gzip.decompress(body) if encoding == "gzip" else body
        first = seen.get(kind) != page
        seen[kind] = page
        took.setdefault((first, form), []).append(ms)
        sizes[form] = len(body)
        if form == "text":
            samples = sum(not line.startswith(b"#") for line in body.splitlines())
        time.sleep(dice.uniform(0, 0.04))
    connection.close()
    section = "scrape over HTTP, as the client sees it"
    figures.set(section, "samples on the page", jobs, samples, "")
    for (first, form), values in sorted(
        took.items(), key=lambda item: (not item[0][0], item[0][1])
    ):
        which = "a new view" if first else "the same view again"
        target = Target(10, 64) if form == PROMETHEUS else None
        figures.set(section, f"{which}: {form}, p50", jobs, statistics.median(values), "ms")
        figures.set(section, f"{which}: {form}, p99", jobs, percentile(values, 99), "ms", target)
    for form, size in sorted(sizes.items()):
        figures.set(section, f"bytes: {form}", jobs, size / 1e3, "kB")


# --- system calls --------------------------------------------------------------------------------


def trace(figures: Figures, jobs: int, seconds: float) -> None:
    """Every system call of a running daemon for a while, one scrape among them."""
    if shutil.which("strace") is None:
        figures.notes.append("system calls are not counted: strace is not installed")
        return
    rig = Rig(jobs)
    try:
        daemon = Daemon(rig)
        clock = Clock(rig)
        clock.start()
        try:
            time.sleep(2.5)
            before = _samples(daemon)
            log = _strace(daemon, rig.root / "strace", seconds)
            taken = _samples(daemon) - before
        finally:
            clock.close()
            daemon.close()
        # the shim looks at its script at every call; a driver's ioctl is not to be had here
        _report(figures, jobs, [line for line in log if str(rig.script.path) not in line], taken)
    finally:
        rig.close()


def _strace(daemon: Daemon, path: Path, seconds: float) -> list[str]:
    argv = ["strace", "-f", "-qq", "-o", str(path), "-p", str(daemon.pid)]
    tracer = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    time.sleep(seconds / 2)
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    scrape(connection, PROMETHEUS)
    connection.close()
    time.sleep(seconds / 2)
    tracer.terminate()
    tracer.wait(timeout=20)
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _samples(daemon: Daemon) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    _, body = scrape(connection, "text")
    connection.close()
    return sum(
        int(line.rpartition(b" ")[2])
        for line in body.splitlines()
        if line.startswith(b"jobwatt_samples_total{")
    )


def _report(figures: Figures, jobs: int, log: list[str], samples: int) -> None:
    section = "system calls, by strace -f on the running daemon (without the shim's)"
    calls: Counter[str] = Counter()
    processes = threads = 0
    for line in log:
        match = _CALL.match(line)
        if match and match["name"]:
            calls[match["name"]] += 1
        new = _NEW_PROCESS.search(line)
        if new and "CLONE_THREAD" in new[2]:
            threads += 1
        elif new:
            processes += 1
    if not calls:
        figures.notes.append("system calls are not counted: strace may not attach here")
        return
    figures.set(section, "new processes and execs", jobs, processes, "", Target(1))
    figures.set(section, "new threads (CLONE_THREAD: one per connection)", jobs, threads, "")
    figures.set(section, "calls per sample", jobs, sum(calls.values()) / max(samples, 1), "")
    for name, count in calls.most_common(12):
        figures.set(section, f"  {name}", jobs, count / max(samples, 1), "")
