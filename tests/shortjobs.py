"""
Short jobs in a row on a real Slurm: how much of the node's dynamic energy is booked to each.

    python shortjobs.py [--jobs 200] [--json]          # with hooks, then without

Real: slurmctld, slurmd, cgroup v1, the jobs, their processes, the hooks, the daemon. Simulated, and so
known exactly: the node's RAPL and /proc/stat, both moved in step with the CPU time of Slurm's cgroup
(10 W per busy CPU, nothing at rest), because on the one machine of a test the controller and the
database would otherwise draw on the node too. The daemon sees that /proc/stat through a bind mount of
its own; all else of /proc is real.

The truth about a job is the energy between the first line of its Prolog and the last of its Epilog.
The same jobs as a scrape every 15 s would see them are computed beside it: what lies between the first
and the last scrape of a job, over all phases of the scrape.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from daemon import Daemon
from realnode import hook
from slurm import scenario
from slurm.conf import Node as SlurmNode
from slurmcluster import Cluster
from trees import Node

ROOT = Path("/sys/fs/cgroup/cpuacct/slurm_gpu02/cpuacct.usage")
TICK_NS = 10_000_000
SCRAPE_S = 15.0


@dataclass(frozen=True)
class Result:
    """Shares of the jobs' dynamic energy, 0 to 1."""

    hooks: bool
    jobs: int
    booked: float  # of all jobs' energy, what is booked to the right job
    median: float  # of single jobs
    worst: float
    scraped: float  # what a scrape every 15 s would recover
    unresolved: int  # jobs without a user on the page


def simulate(energy: Path, stat: Path) -> None:
    """Move RAPL and /proc/stat with the CPU time of Slurm's cgroup until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    counter, times = os.open(energy, os.O_WRONLY), os.open(stat, os.O_WRONLY)
    while True:
        try:
            used_ns = int(ROOT.read_text())
        except OSError:
            used_ns = 0
        os.pwrite(counter, f"{used_ns // 100:020d}\n".encode(), 0)  # 10 W per CPU: 1 uJ per 100 ns
        half = used_ns // TICK_NS // 2
        lines = [
            f"cpu{cpu} {half + cpu * (used_ns // TICK_NS % 2):012d} 0 0 0 0 0 0 0 0 0\n"
            for cpu in (0, 1)
        ]
        os.pwrite(times, "".join(lines).encode(), 0)
        time.sleep(0.001)


class SimulatedNode(Daemon):
    """The daemon in a mount namespace of its own, in which /proc/stat is the simulator's file."""

    stat: Path

    def _command(self, *argv: str) -> list[str]:
        inner = f'mount --bind {self.stat} /proc/stat && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", inner, "sh", *super()._command(*argv)]


def measure(
    folder: Path, count: int, *, hooks: bool, seed: int = 1, longest: float = 5.0
) -> Result:
    """Run ``count`` jobs in a row and hold the page against the truth."""
    files = Node(folder / "node", cpus=2)
    files.add_rapl("intel-rapl:0", "package-0")
    energy, stat, log = (
        files.powercap / "intel-rapl:0/energy_uj",
        folder / "stat",
        folder / "truth.log",
    )
    stat.write_text("cpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")
    files.proc, files.cgroup = Path("/proc"), Path("/sys/fs/cgroup")
    nodes = [SlurmNode("gpu02", "A100", gpus=8, gpu_type="a100")]
    with Cluster(acct=False, nodes=nodes) as cluster:
        sim = subprocess.Popen([sys.executable, __file__, "--simulate", str(energy), str(stat)])
        daemon = SimulatedNode(
            files, folder / "state", f"--slurm.conf={cluster.conf}", "--ledger.linger=2h",
            env={"PATH": cluster.env["PATH"]}, interval="1s", rpc=True,
        )  # fmt: skip
        daemon.stat = stat
        try:
            with daemon:
                mark = f'echo "{{}} $SLURM_JOB_ID $(cat {ROOT} 2>/dev/null || echo 0) $EPOCHREALTIME" >> {log}'
                ours = [
                    [hook(event, daemon.state)] if hooks else [] for event in ("prolog", "epilog")
                ]
                cluster.set_hooks(
                    prolog=[mark.format("prolog"), *ours[0]],
                    epilog=[*ours[1], mark.format("epilog")],
                )
                scenario.burst(cluster, count, longest=longest, seed=seed)
                cluster.wait_empty(count * (longest + 2))
                time.sleep(4)
                page = daemon.scrape()
        finally:
            sim.terminate()
            sim.wait()
    return _result(page, log.read_text(), hooks=hooks)


def _result(page, log: str, *, hooks: bool) -> Result:
    used, began, spans = {}, {}, []
    for line in log.splitlines():
        event, jobid, ns, at = line.split()
        if event == "prolog":
            used[jobid], began[jobid] = -int(ns), float(at)
        else:
            used[jobid] += int(ns)
            spans.append(float(at) - began[jobid])
    shares, right = [], 0
    for jobid, ns in used.items():
        booked = page.micro("jobwatt_job_energy_joules_total", jobid=jobid)
        right += min(booked, ns // 100)
        shares.append(booked / (ns / 100))
    named = {dict(pairs)["jobid"] for pairs in page.find("jobwatt_job_info") if dict(pairs)["user"]}
    return Result(
        hooks, len(used), right * 100 / sum(used.values()), statistics.median(shares), min(shares),
        sum(map(_recovered, spans)) / sum(spans), len(used.keys() - named),
    )  # fmt: skip


def _recovered(seconds: float, phases: int = 300) -> float:
    """Mean time between the first and the last scrape of a job that lives so long."""
    total = 0.0
    for phase in range(phases):
        first = SCRAPE_S * phase / phases
        if first < seconds:
            total += (seconds - first) // SCRAPE_S * SCRAPE_S
    return total / phases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--simulate", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.simulate:
        simulate(*args.simulate)
    results = []
    for hooks in (True, False):
        with tempfile.TemporaryDirectory(prefix="jw-short.") as folder:
            results.append(measure(Path(folder), args.jobs, hooks=hooks))
        if not args.json:
            _say(results[-1])
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))


def _say(result: Result) -> None:
    print(
        f"{result.jobs} jobs of 0.2 to 5 s in a row, {'with' if result.hooks else 'without'} hooks: "
        f"{result.booked:.2%} of their dynamic energy booked to the right job "
        f"(single jobs: median {result.median:.2%}, least {result.worst:.2%}; {result.unresolved} without a user); "
        f"a scrape every {SCRAPE_S:g} s recovers {result.scraped:.2%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
