"""
What the rules cost: evaluation time of each group, by Prometheus's own account. Part of
``make bench-alerts``.

A real Prometheus scrapes synthetic pages of a whole cluster (one process plays every node) and
evaluates all the shipped rules. The past that the rules look back on is backfilled: what they read
with an offset, at that offset; what they read over a range, over the range. For the smallest size
that is as dense as real scrapes (30 s), with a full week of its users; for the larger ones every
four minutes, without a week, to be done in time: ranges there hold an eighth of the samples that
they would, and the group of weeks finds next to nothing.

Groups are evaluated more often here than they say, so that a run is short; what one evaluation
takes does not depend on that as long as the machine keeps up. One job in ten is idle, so that
alerts fire and their annotations are worked out.
"""

from __future__ import annotations

import argparse
import http.server
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "exporter")]

from alertbench import bench_site  # noqa: E402  the path is set above

from backfill import blocks, line  # noqa: E402
from jobwatt.alerts import inline, rules  # noqa: E402
from jobwatt.metrics import CATALOGUE, Metric, Type  # noqa: E402
from prom import free_port  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR = 3600
SCRAPE_S = 30
COARSE_S = 240  # below Prometheus's five minutes of looking back
AGE_S = 30 * HOUR  # of every job
GPUS = 8
IDLE_ONE_IN = 10
JOBS_PER_USER = 20
_PAST = re.compile(r"(jobwatt_\w+)(?:\{[^}]*\})?\s*(\[|offset\s+)([0-9][0-9a-z]*)(?!:)")


@dataclass(frozen=True)
class Size:
    """A cluster, how often its rules are evaluated, and whether its past is dense (see above)."""

    name: str
    nodes: int
    jobs: int
    evaluate_s: int = 40
    dense: bool = False


SIZES = (
    Size("1k jobs, 125 nodes x 8 GPUs, dense past", 125, 1000, 20, dense=True),
    Size("5k jobs, 1000 nodes x 8 GPUs", 1000, 5000),
    Size("10k jobs, 1250 nodes x 8 GPUs", 1250, 10_000),
)


@dataclass(frozen=True)
class Series:
    """``begin + rate * age`` at every moment."""

    metric: str
    labels: dict[str, str]
    rate: float
    begin: float

    def value(self, at: float, started: float) -> float:
        return round(self.begin + self.rate * (at - started), 3)


# Values of the labels that are neither a job's nor a GPU's; one series for each combination.
_VALUES = {
    "component": ("cpu", "dram", "gpu"),
    "reason": ("sw_power_cap", "hw_thermal", "sw_thermal", "hw_power_brake"),
    "source": ("rapl", "nvml"),
    "step": ("gap",),
    "kind": ("corrected", "uncorrected"),
    "cause": ("corrected", "uncorrected"),
    "version": ("0",),
    "cuda": ("12",),
}
# What a healthy cluster does not show; jobs that end are left out, too.
_ABSENT = {
    "jobwatt_gpu_xid_events_total",
    "jobwatt_job_end_time_seconds",
    "jobwatt_job_exit_info",
    "jobwatt_wall_energy_joules_total",
    "jobwatt_residual_energy_joules_total",
}


class Cluster:
    """The pages of every node."""

    def __init__(self, size: Size, metrics: set[str], now: float) -> None:
        self.size, self.started = size, now - AGE_S
        self._metrics = [CATALOGUE[name] for name in sorted(metrics - _ABSENT) if name in CATALOGUE]
        per_node = size.jobs // size.nodes
        self.nodes = {
            f"node{node:04d}": list(self._node(node, range(node * per_node, (node + 1) * per_node)))
            for node in range(size.nodes)
        }

    def series(self) -> int:
        return sum(map(len, self.nodes.values()))

    def page(self, name: str, prefixes: dict[str, list[str]], at: float) -> bytes:
        if name not in prefixes:
            prefixes[name] = [
                line(one.metric, one.labels, 0.0, 0).rsplit(" ", 2)[0] for one in self.nodes[name]
            ]
        rows = zip(prefixes[name], self.nodes[name], strict=True)
        stamp = "jobwatt_snapshot_timestamp_seconds"
        return "".join(
            f"{prefix} {at if one.metric == stamp else one.value(at, self.started)}\n"
            for prefix, one in rows
        ).encode()

    def _node(self, node: int, jobs: range) -> Iterator[Series]:
        held = [gpu * len(jobs) // GPUS for gpu in range(GPUS)]  # GPU -> which of the node's jobs
        for metric in self._metrics:
            if "jobid" not in metric.labels:
                yield from self._of_node(metric, node)
                continue
            for at, job in enumerate(jobs):
                gpus = [gpu for gpu in range(GPUS) if held[gpu] == at]
                for gpu in gpus if "uuid" in metric.labels else (None,):
                    yield from self._of_job(metric, node, job, gpu)

    def _of_node(self, metric: Metric, node: int) -> Iterator[Series]:
        for gpu in range(GPUS) if "uuid" in metric.labels else (None,):
            for more in _combinations(metric):
                labels = more if gpu is None else _gpu(metric, node, gpu) | more
                yield Series(metric.name, labels, *_behaviour(metric, idle=False))

    def _of_job(self, metric: Metric, node: int, job: int, gpu: int | None) -> Iterator[Series]:
        known = {
            "jobid": str(job + 1),
            "user": f"user{job // JOBS_PER_USER}",
            "account": f"lab{job // JOBS_PER_USER // 10}",
            "partition": "gpu",
        }
        base = known | (_gpu(metric, node, gpu) if gpu is not None else {})
        begin, rate = self.started if metric.name.endswith("time_seconds") else None, None
        for more in _combinations(metric):
            rate, default = _behaviour(metric, idle=job % IDLE_ONE_IN == 0)
            yield Series(metric.name, base | more, rate, default if begin is None else begin)


def _combinations(metric: Metric) -> Iterator[dict[str, str]]:
    free = [label for label in metric.labels if label in _VALUES]
    fixed = {
        label: "x"
        for label in metric.labels
        if label not in {*_VALUES, "jobid", "user", "account", "partition", "gpu", "uuid"}
    }
    found: list[dict[str, str]] = [fixed]
    for label in free:
        found = [{**one, label: value} for one in found for value in _VALUES[label]]
    yield from found


def _gpu(metric: Metric, node: int, gpu: int) -> dict[str, str]:
    labels = {"gpu": str(gpu), "uuid": f"GPU-{node:04d}-{gpu}"}
    return labels | ({"mig_profile": ""} if "mig_profile" in metric.labels else {})


def _behaviour(metric: Metric, *, idle: bool) -> tuple[float, float]:
    """Rate and beginning: time counts seconds, energy 100 W; what is wrong never happens."""
    name = metric.name
    if metric.type is Type.GAUGE:
        healthy = {
            "jobwatt_gpu_remapped_rows": 0.0,
            "jobwatt_jobs_unresolved": 0.0,
            "jobwatt_gpu_throttled": 0.0,
        }
        figures = {"bytes": 2.0**34, "cpus": 64.0, "watts": 300.0}
        if name == "jobwatt_job_gpu_utilization_ratio":
            return 0.0, 0.0 if idle else 0.9
        return 0.0, healthy.get(name, figures.get(name.rsplit("_", 1)[-1], 1.0))
    if "gpu_idle" in name:
        return (100.0 if "joules" in name else 1.0) * (1.0 if idle else 0.02), 0.0
    if "joules" in name:
        return 100.0, 0.0
    if "utilization_seconds" in name:
        return 0.0 if idle else 0.9, 0.0
    if "allocated_seconds" in name or "cpu_seconds" in name:
        return 1.0, 0.0
    return 0.0, 0.0  # unknown, errors, steps, throttling, jumps


# --- the past ------------------------------------------------------------------------------------


def _looks(exprs: list[str]) -> dict[str, set[tuple[bool, float]]]:
    """What is read of the past, by metric: (whether over a range, how far back)."""
    found: dict[str, set[tuple[bool, float]]] = {}
    for expr in exprs:
        for name, how, back in _PAST.findall(expr):
            found.setdefault(name, set()).add((how == "[", inline.seconds(back)))
    return found


def _times(looks: set[tuple[bool, float]], now: float, step: int) -> list[float]:
    """Moments at which a metric must have been scraped; those before an offset serve for five minutes."""
    times = {now - back + ahead for over, back in looks if not over for ahead in (0, COARSE_S)}
    longest = max((back for over, back in looks if over), default=2 * COARSE_S)
    times |= {now - age for age in range(0, int(longest) + step, step)}
    return sorted(at for at in times if at <= now)


def _past(cluster: Cluster, looks: dict[str, set[tuple[bool, float]]], now: float) -> Iterator[str]:
    step = SCRAPE_S if cluster.size.dense else COARSE_S
    times = {metric: _times(seen, now, step) for metric, seen in looks.items()}
    for node, series in cluster.nodes.items():
        for one in series:
            target = one.labels | {"cluster": "bench", "instance": node, "job": "jobwatt"}
            head = line(one.metric, target, 0.0, 0).rsplit(" ", 2)[0]
            for at in times.get(one.metric, ()):
                stamp = one.metric == "jobwatt_snapshot_timestamp_seconds"
                yield f"{head} {at if stamp else one.value(at, cluster.started)} {at}\n"
    if cluster.size.dense:
        yield from _week(cluster.size, now)
    yield "# EOF\n"


def _week(size: Size, now: float) -> Iterator[str]:
    for user in range(size.jobs // JOBS_PER_USER):
        for what in ("seconds", "energy_joules"):
            name = f"jobwatt:user_gpu_idle_{what}:rate5m"
            for age in range(7 * 24 * HOUR, HOUR, -300):
                yield line(name, {"cluster": "bench", "user": f"user{user}"}, 1.0, now - age)


# --- one run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """Seconds by group; cores and bytes of Prometheus."""

    size: Size
    series: int
    groups: dict[str, tuple[float, float]]  # seconds, rule interval
    cores: float
    resident: float
    firing: int


def measure(size: Size, texts: dict[str, str], folder: Path) -> Result:
    now = float(int(time.time()))
    written = {name: yaml.safe_load(text) for name, text in texts.items()}
    expanded = _expressions(inline.of(written))
    names = {
        name for expr in expanded for name in inline.names(expr) if name.startswith("jobwatt_")
    }
    cluster = Cluster(size, names, now)
    past = folder / "past.om"
    with past.open("w", encoding="utf-8") as out:
        out.writelines(_past(cluster, _looks(expanded), now))
    _say(f"{size.name}: {cluster.series()} series, {past.stat().st_size / 1e6:.0f} MB of past")
    blocks(past, folder / "data")
    past.unlink()
    intervals = _write_rules(written, folder, size.evaluate_s)
    with _serving(cluster) as port:
        return _watch(size, cluster, folder, intervals, port)


def _expressions(found: inline.Rules) -> list[str]:
    return [
        inline.expand(expr, found.records)
        for expr in (*found.records.values(), *(a.expr for a in found.alerts))
    ]


def _write_rules(written: dict[str, dict], folder: Path, every_s: int) -> dict[str, float]:
    """Rules with a short interval; returns each group's own."""
    intervals = {}
    for name, document in written.items():
        for group in document["groups"]:
            intervals[group["name"]] = inline.seconds(group.get("interval", "1m"))
            group["interval"] = f"{every_s}s"
        (folder / name).write_text(yaml.safe_dump(document), encoding="utf-8")
    return intervals


class _serving:  # noqa: N801  used as a function
    """The cluster's pages on a free port; nodes are told apart by a parameter."""

    def __init__(self, cluster: Cluster) -> None:
        prefixes: dict[str, list[str]] = {}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = cluster.page(self.path.rpartition("=")[2], prefixes, time.time())
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            request_queue_size = 512  # targets that are scraped at the same moment

            def handle_error(self, *_: object) -> None:
                """A Prometheus that ends breaks off its scrapes."""

        self._server = Server(("127.0.0.1", 0), Handler)

    def __enter__(self) -> int:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return int(self._server.server_address[1])

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _watch(
    size: Size, cluster: Cluster, folder: Path, intervals: dict[str, float], port: int
) -> Result:
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_S}s",
            "scrape_timeout": f"{SCRAPE_S}s",
            "evaluation_interval": f"{size.evaluate_s}s",
        },
        "rule_files": ["*.yaml"],
        "scrape_configs": [
            {
                "job_name": "jobwatt",
                "static_configs": [
                    {
                        "targets": [f"127.0.0.1:{port}"],
                        "labels": {"cluster": "bench", "__param_node": node, "instance": node},
                    }
                    for node in cluster.nodes
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    web = free_port()
    argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{web}", "--log.level=warn"]  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:
            return _figures(size, cluster, web, intervals)
        finally:
            process.terminate()
            process.wait(30)


def _figures(size: Size, cluster: Cluster, web: int, intervals: dict[str, float]) -> Result:
    """Once every idle job has alerts, which takes all groups: the second run of each group from then on."""
    _until(web, lambda page: _sum(page, "prometheus_target_scrape_pool_targets") >= size.nodes, 60)
    _until(web, lambda _: len(_alerts(web)) >= 2 * size.jobs // IDLE_ONE_IN, 300)
    before, began = _own(web), time.monotonic()
    runs = {name: [seconds] for name, seconds in _by_group(before).items()}

    def done(page: str) -> bool:
        for name, seconds in _by_group(page).items():
            if seconds != runs[name][-1]:  # it changes when a run has ended
                runs[name].append(seconds)
        return all(len(seconds) > 2 for seconds in runs.values())

    after = _until(web, done, 400)
    took = time.monotonic() - began
    cpu = _sum(after, "process_cpu_seconds_total") - _sum(before, "process_cpu_seconds_total")
    return Result(
        size,
        cluster.series(),
        {name: (runs[name][2], interval) for name, interval in intervals.items()},
        cpu / took,
        _sum(after, "process_resident_memory_bytes"),
        len(_alerts(web)),
    )


def _alerts(web: int) -> list[object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/alerts", timeout=60) as answer:
        return list(json.load(answer)["data"]["alerts"])


def _own(web: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def _until(web: int, done: Callable[[str], bool], patience: float) -> str:
    until = time.monotonic() + patience
    while True:
        try:
            page = _own(web)
            if done(page):
                return page
        except OSError:
            page = ""
        if time.monotonic() > until:
            raise TimeoutError(f"prometheus on port {web} does not get on")
        time.sleep(0.5)


def _samples(page: str, name: str) -> Iterator[tuple[str, float]]:
    for row in page.splitlines():
        if row.startswith((f"{name} ", f"{name}{{")):
            labels, _, value = row.rpartition(" ")
            yield labels, float(value)


def _sum(page: str, name: str) -> float:
    return sum(value for _, value in _samples(page, name))


def _by_group(page: str) -> dict[str, float]:
    """How long each group's last run took."""
    found = {}
    for labels, value in _samples(page, "prometheus_rule_group_last_duration_seconds"):
        group = re.search(r'rule_group="[^"]*;([^";]+)"', labels)
        if group:
            found[group[1]] = value
    return found


# --- the report ----------------------------------------------------------------------------------


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--only", default="", help="sizes whose name contains this")
    args = parser.parse_args(argv)
    began = time.monotonic()
    texts = rules.texts(bench_site())
    for size in SIZES:
        if args.only in size.name:
            with tempfile.TemporaryDirectory() as folder:
                print("\n".join(_lines(measure(size, texts, Path(folder)))), flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    return 0


def _lines(result: Result) -> Iterator[str]:
    yield f"{result.size.name}: {result.series} series scraped every {SCRAPE_S} s, {result.firing} alerts pending or firing"
    for name, (seconds, interval) in result.groups.items():
        yield f"  {name:22}{seconds:>9.3f} s  of {interval:>4.0f} s  {100 * seconds / interval:>5.1f} %"
    every_minute = sum(60 * seconds / interval for seconds, interval in result.groups.values())
    yield f"  {'all, per minute':22}{every_minute:>9.3f} s"
    yield (
        f"  Prometheus: {result.cores:.2f} cores (scrapes included, rules every {result.size.evaluate_s} s), "
        f"{result.resident / 2**30:.2f} GiB resident"
    )
    yield ""


def _say(what: str) -> None:
    print(f"bench-alerts: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
