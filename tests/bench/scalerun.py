"""One run at scale: a real Prometheus with jobwatt's rules scrapes simulated nodes; what that costs, by its own account."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml
from alertbench import bench_site
from rulecost import (
    COARSE_S,
    Series,
    _alerts,
    _expressions,
    _looks,
    _own,
    _samples,
    _sum,
    _until,
    _write_rules,
)
from scalenodes import Load, Node, Nodes, Server

from backfill import blocks, line
from dashqueries import boards, filled, queries, times
from jobwatt.alerts import inline, rules
from prom import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    Looks = dict[str, set[tuple[bool, float]]]

STORAGE = Path(__file__).resolve().parents[2] / "interop/storage"
CLUSTER = "bench"
_PAST_S = 30 * 3600  # how old the past's counters are; rules look back a day
_RANGE_S = 3600  # of the dashboards' queries
_AFTERWARDS_S = 600  # what follows a run: scrapes alone, then rules and queries one by one
_SCRAPES_S = 60  # ... of which scrapes alone
_LINE = re.compile(rb"^(jobwatt_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_PAIR = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Plan:
    """
    How a run goes.

    Attributes:
        settle_s, measure_s: time before anything is counted, and after.
        evaluate_s: interval of all groups of rules; 0 leaves them their own.
        past: whether what the rules look back on is there (rulecost.py says how dense).
    """

    load: Load
    scrape_s: int = 30
    settle_s: float = 120
    measure_s: float = 480
    evaluate_s: int = 0
    past: bool = True
    nice: int = 5


@dataclass
class Watch:
    """What is looked at during a run."""

    resident: list[float] = field(default_factory=list)
    groups: dict[str, list[float]] = field(default_factory=dict)

    def look(self, page: str) -> None:
        self.resident.append(_sum(page, "process_resident_memory_bytes"))
        for name, seconds in by_group(page).items():
            seen = self.groups.setdefault(name, [])
            if not seen or seen[-1] != seconds:  # it changes when a run has ended
                seen.append(seconds)


def by_group(page: str) -> dict[str, float]:
    """How long each group's last run took; none before its first."""
    found = {}
    for labels, value in _samples(page, "prometheus_rule_group_last_duration_seconds"):
        group = re.search(r'rule_group="[^"]*;([^";]+)"', labels)
        if group and value > 0:
            found[group[1]] = value
    return found


def run(plan: Plan, folder: Path) -> dict[str, Any]:
    """One run; figures as plain JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {name: yaml.safe_load(text) for name, text in rules.texts(bench_site()).items()}
    intervals = _write_rules(written, folder, plan.evaluate_s) if plan.evaluate_s else _as_they_are(folder)  # fmt: skip
    nodes = Nodes(plan.load)
    if plan.past:
        lasts_s = plan.settle_s + plan.measure_s + _AFTERWARDS_S
        _write_past(nodes, _expressions(inline.of(written)), folder, lasts_s)
    with Server(nodes) as server, prometheus(plan, nodes, server.port, folder) as at:
        found = _measured(plan, nodes, server, at, intervals)
        return found | _apart(plan, nodes, server.port, at, written)


def _as_they_are(folder: Path) -> dict[str, float]:
    """Write the rules; returns each group's interval."""
    intervals = {}
    for name, text in rules.texts(bench_site()).items():
        (folder / name).write_text(text, encoding="utf-8")
        for group in yaml.safe_load(text)["groups"]:
            intervals[group["name"]] = inline.seconds(group.get("interval", "1m"))
    return intervals


# --- the past --------------------------------------------------------------------------------------


def _write_past(nodes: Nodes, expanded: list[str], folder: Path, lasts_s: float) -> None:
    """Whatever the rules look back on, from the first evaluation to the last."""
    looks = _looks(expanded)
    text = folder / "past.om"
    with text.open("w", encoding="utf-8", buffering=1 << 22) as out:
        for node in nodes.all.values():
            out.writelines(_past(node, looks, nodes.began_s, lasts_s))
        out.write("# EOF\n")
    blocks(text, folder / "data")
    text.unlink()


def _past(node: Node, looks: Looks, now: int, lasts_s: float) -> Iterator[str]:
    early = {row[:2]: float(row[2]) for row in _rows(node, now + 1)}
    for row in _rows(node, now + 31):
        name = row[0].decode()
        if name not in looks:
            continue
        one = _series(row, early.get(row[:2], float(row[2])))
        target = one.labels | {"cluster": CLUSTER, "instance": node.name, "job": "jobwatt"}
        head = line(name, target, 0.0, 0).rsplit(" ", 2)[0]
        for at in _moments(looks[name], now, lasts_s):
            value = (
                at if name == "jobwatt_snapshot_timestamp_seconds" else one.value(at, now - _PAST_S)
            )
            yield f"{head} {value} {at}\n"


def _moments(looks: set[tuple[bool, float]], now: int, lasts_s: float) -> list[float]:
    """An offset wants its own moment and what follows it as long as the run lasts; a range all of it."""
    ranges = max((back for over, back in looks if over), default=2 * COARSE_S)
    times = {now - age for age in range(0, int(ranges) + COARSE_S, COARSE_S)}
    for over, back in looks:
        if not over:
            times |= {now - back + ahead for ahead in range(0, int(lasts_s) + COARSE_S, COARSE_S)}
    return sorted(at for at in times if at <= now)


def _rows(node: Node, at_s: int) -> list[tuple[bytes, bytes, bytes]]:
    return _LINE.findall(node.page(at_s, openmetrics=False))


def _series(row: tuple[bytes, bytes, bytes], early: float) -> Series:
    """It has always grown as it does now."""
    name, labels, value = row[0].decode(), row[1].decode(), float(row[2])
    rate = (value - early) / 30 if name.endswith("_total") else 0.0
    return Series(name, dict(_PAIR.findall(labels)), rate, value - rate * _PAST_S)


# --- Prometheus -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """Where a Prometheus is."""

    port: int
    pid: int
    folder: Path

    def cpu_s(self) -> float:
        """CPU time that it has taken: waiting for a core that others have is none (see rig.py)."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def reload(self, changed: dict[str, Any]) -> None:
        (self.folder / "prometheus.yml").write_text(json.dumps(changed), encoding="utf-8")
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/-/reload", b"")
        urllib.request.urlopen(request, timeout=120).close()


def config(plan: Plan, nodes: Nodes, port: int) -> dict[str, Any]:
    """What Prometheus is to do."""
    targets = [
        {"targets": [f"127.0.0.1:{port}"],
         "labels": {"cluster": CLUSTER, "instance": node, "__metrics_path__": f"/{node}"}}
        for node in nodes.all
    ]  # fmt: skip
    every = {"scrape_interval": f"{plan.scrape_s}s", "scrape_timeout": f"{plan.scrape_s}s"}
    return {
        "global": every | {"evaluation_interval": "1m"},
        "rule_files": ["*.yaml"],
        "scrape_configs": [{"job_name": "jobwatt", "static_configs": targets}],
    }


@contextmanager
def prometheus(plan: Plan, nodes: Nodes, port: int, folder: Path) -> Iterator[At]:
    """A Prometheus that scrapes them."""
    (folder / "prometheus.yml").write_text(json.dumps(config(plan, nodes, port)), encoding="utf-8")
    web = free_port()
    argv = ["nice", f"-n{plan.nice}", "prometheus", f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{web}",
            "--log.level=warn", "--web.enable-lifecycle"]  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            _until(web, lambda page: _sum(page, "prometheus_target_scrape_pool_targets") >= len(nodes.all), 120)  # fmt: skip
            yield At(web, process.pid, folder)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _measured(plan: Plan, nodes: Nodes, server: Server, at: At, intervals: dict[str, float]) -> dict[str, Any]:  # fmt: skip
    web = at.port
    _watch(web, plan.settle_s, Watch())
    before, began, served_s, started = (
        _own(web),
        time.monotonic(),
        server.cpu_s,
        nodes.jobs_started(),
    )
    watch = Watch()
    _watch(web, plan.measure_s, watch)
    after, took_s = _own(web), time.monotonic() - began

    def more(name: str) -> float:
        return _sum(after, name) - _sum(before, name)

    served_s = (server.cpu_s - served_s) / took_s
    churn, jobs = more("prometheus_tsdb_head_series_created_total"), nodes.jobs_started() - started
    hours = took_s / 3600 * plan.load.factor  # as a cluster would have them
    return {
        "nodes": plan.load.nodes, "jobs": plan.load.jobs, "scrape_s": plan.scrape_s, "churn_factor": plan.load.factor,
        "measured_s": round(took_s), "past": plan.past,
        "targets_up": _value(web, f'sum(up{{cluster="{CLUSTER}"}})'),
        "scraped_series": _value(web, "sum(scrape_samples_scraped)"),
        "recorded_series": _value(web, 'count({__name__=~"jobwatt:.+"})'),
        "recorded_of_jobs": _value(web, 'count({__name__=~"jobwatt:.+", jobid!=""})'),
        "recorded_of_nodes": _value(web, 'count({__name__=~"jobwatt:.+", jobid="", instance!=""})'),
        "kept_series": _value(web, f'count({{__name__=~"{kept()}"}})'),
        "alerts": len(_alerts(web)),  # series of them come after their second evaluation
        "head_series": _sum(after, "prometheus_tsdb_head_series"),
        "series_created_an_hour": round(churn / hours), "jobs_started_an_hour": round(jobs / hours),
        "samples_a_second": round(more("prometheus_tsdb_head_samples_appended_total") / took_s),
        "resident_bytes": max(watch.resident), "heap_bytes": _sum(after, "go_memstats_heap_inuse_bytes"),
        "cores": round(more("process_cpu_seconds_total") / took_s, 3), "serving_cores": round(served_s, 3),
        "scrape_seconds": _value(web, "quantile(0.5, scrape_duration_seconds)"),
        "scrape_seconds_p99": _value(web, "quantile(0.99, scrape_duration_seconds)"),
        "missed": more("prometheus_rule_group_iterations_missed_total"),
        "failed": _sum(after, "prometheus_rule_evaluation_failures_total"),
        "groups": {name: _group(watch.groups.get(name, []), every) for name, every in intervals.items()},
    }  # fmt: skip


def _apart(plan: Plan, nodes: Nodes, port: int, at: At, written: dict[str, Any]) -> dict[str, Any]:
    """
    What each part costs in CPU time: scrapes without rules, then, without scrapes, each rule and each query of the
    dashboards by itself, at a moment before.
    """
    now_s = int(time.time())
    wanted = config(plan, nodes, port) | {"rule_files": []}
    at.reload(wanted)
    time.sleep(5 if plan.past else 1)
    before, began = at.cpu_s(), time.monotonic()
    time.sleep(_SCRAPES_S if plan.past else 3)
    scrapes = (at.cpu_s() - before) / (time.monotonic() - began)
    wanted["global"] |= {"scrape_interval": "1h"}
    at.reload(wanted)
    return {
        "scraping_cores": round(scrapes, 4),
        "group_cpu_s": _group_cpu(at, written, now_s),
        "queries": heaviest(at, nodes, now_s),
    }


def _group_cpu(at: At, written: dict[str, Any], now_s: int) -> dict[str, float]:
    """CPU seconds of one evaluation of each group; what comes out is counted and not sent."""
    found = {}
    for document in written.values():
        for group in document["groups"]:
            before = at.cpu_s()
            for rule in group["rules"]:
                ask(at.port, "query", query=f"count({rule['expr']}\n)", time=str(now_s))
            found[group["name"]] = round(at.cpu_s() - before, 4)
    return found


def _group(seconds: list[float], every_s: float) -> dict[str, float]:
    if not seconds:
        return {"interval_s": every_s}
    return {
        "interval_s": every_s, "runs": len(seconds),
        "median_s": round(median(seconds), 4), "max_s": round(max(seconds), 4),
    }  # fmt: skip


def _watch(web: int, seconds: float, watch: Watch) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        watch.look(_own(web))
        time.sleep(min(left, 2.0))


# --- queries ------------------------------------------------------------------------------------------


def ask(web: int, what: str, **arguments: str) -> Any:
    """An answer of Prometheus's API."""
    body = urllib.parse.urlencode(arguments).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/{what}", body, timeout=300) as answer:  # fmt: skip
        return json.load(answer)["data"]


def _value(web: int, query: str) -> float:
    found = ask(web, "query", query=query)["result"]
    return round(float(found[0]["value"][1]), 4) if found else 0.0


def kept() -> str:
    """What interop/storage hands on to be kept for years: an expression of names."""
    sender = yaml.safe_load((STORAGE / "prometheus/prometheus.yml").read_text())
    return str(sender["remote_write"][0]["write_relabel_configs"][0]["regex"])


def of_dashboards(nodes: Nodes, now_s: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Every query of every dashboard as a panel would send it, and its arguments."""
    node = next(iter(nodes.all.values()))
    job = node.runs[-1]
    step = 15
    values = times(_RANGE_S, step, to=now_s) | {
        "cluster": CLUSTER, "user": job.request.user.name, "account": job.request.user.lab,
        "instance": node.name, "jobid": str(job.jobid), "uuid": ".+",
    }  # fmt: skip
    for board in boards():
        for query in queries(board):
            text = filled(query.expr, values)
            span = {"time": str(now_s)} if query.instant else {"start": str(now_s - _RANGE_S), "end": str(now_s), "step": str(step)}  # fmt: skip
            yield str(query), {"query": text} | span


def heaviest(at: At, nodes: Nodes, now_s: int, first: int = 5) -> dict[str, Any]:
    """How much CPU time the dashboards' queries take, and how long."""
    took = []
    for name, arguments in of_dashboards(nodes, now_s):
        before, began = at.cpu_s(), time.perf_counter()
        ask(at.port, "query" if "time" in arguments else "query_range", **arguments)
        took.append((at.cpu_s() - before, time.perf_counter() - began, name))
    took.sort(reverse=True)
    return {
        "count": len(took), "range_s": _RANGE_S,
        "median_cpu_s": round(median(cpu for cpu, _, _ in took), 4), "all_cpu_s": round(sum(cpu for cpu, _, _ in took), 3),
        "heaviest": [[name, round(cpu, 3), round(seconds, 3)] for cpu, seconds, name in took[:first]],
    }  # fmt: skip
