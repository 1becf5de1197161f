"""
A busy node for the benchmarks: 128 CPUs, dual-socket RAPL, 8 GPUs on the NVML shim and any number
of jobs, in files on tmpfs, moving in real time.

GPU i is held by every job whose number is i modulo 8 (one job alone holds all eight), so 64 jobs
share each GPU by eight: the most that attribution has to do. Hook records name the jobs, as a
Prolog would.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nvmlshim
import trees
from jobwatt.config import Config
from jobwatt.slurm import hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

GPUS, CPUS, FIRST_JOB = 8, 128, 1000
# NVML_GPM_METRIC_*, as the source asks: graphics, SM, occupancy, tensor pipes, DRAM bandwidth
GPM_IDS = (1, 2, 3, 5, 10)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
EXPORTER = Path(__file__).resolve().parents[2] / "exporter"


class Rig:
    """A node with ``jobs`` jobs below a directory of its own; ``advance`` moves it by one second."""

    def __init__(self, jobs: int, *, layout: str = "v2") -> None:
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.root = Path(tempfile.mkdtemp(prefix="jobwatt-bench-", dir=base))
        self.state = self.root / "state"
        self.node = trees.Node(
            self.root / "node", cpus=CPUS, sockets=2, boot_id=BOOT_ID, mem_total=1 << 40
        )
        self.node.add_intel(2)
        cpus = CPUS // max(jobs, 8)
        self.jobs = [
            self.node.add_job(
                FIRST_JOB + n, uid=20_000 + n, layout=layout, mem_limit=12 << 30,
                cpus=range(n * cpus, (n + 1) * cpus), steps=("extern", "batch", "0"),
            )
            for n in range(jobs)
        ]  # fmt: skip
        self.script = nvmlshim.Script.of(self.root / "nvml", GPUS)
        for index, gpu in self.script.gpus.items():
            gpu.processes = [nvmlshim.Process(job.pids[-1], sm=10) for job in self.holders(index)]
            gpu.gpm = dict.fromkeys(GPM_IDS, 50.0)
            gpu.set_power(400_000)
        self.script.write()
        for n, job in enumerate(self.jobs):
            self._prolog(n, job)

    def holders(self, gpu: int) -> list[trees.Job]:
        """Jobs that hold this GPU."""
        return self.jobs if len(self.jobs) == 1 else self.jobs[gpu::GPUS]

    def _prolog(self, n: int, job: trees.Job) -> None:
        held = range(GPUS) if len(self.jobs) == 1 else (n % GPUS,)
        env = {
            "SLURM_JOB_ID": str(job.jobid), "SLURM_JOB_USER": f"u{job.uid}", "SLURM_JOB_UID": str(job.uid),
            "SLURM_JOB_ACCOUNT": "infres", "SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_QOS": "normal",
            "SLURM_JOB_NAME": "train", "SLURM_JOB_GPUS": ",".join(map(str, held)),
            "SLURM_JOB_CPUS_PER_NODE": str(len(job.cpus or ())), "SLURM_NODELIST": "node",
            "SLURMD_NODENAME": "node", "SLURM_JOB_START_TIME": str(int(time.time())),
            "SLURM_JOB_END_TIME": str(int(time.time()) + 86_400),
        }  # fmt: skip
        self.state.mkdir(exist_ok=True)
        hooks.write(self.state, "prolog", env, t_ns=nvmlshim.boottime_ns(), wall_s=time.time())

    def advance(self, ns: int = 1_000_000_000) -> None:
        """``ns`` pass: every job uses 70 % of its CPUs, both sockets draw power."""
        busy = [(job, ns * len(job.cpus or ()) * 7 // 10) for job in self.jobs]
        self.node.advance(ns, busy, system_ns=ns // 5)
        for zone in self.node.rapl:
            self.node.advance_rapl(zone, 200_000_000 * ns // 10**9)

    def config(self, **more: object) -> Config:
        """Settings of a daemon on this node."""
        return Config(
            path_sysfs=self.node.sys, path_procfs=self.node.proc, path_cgroupfs=self.node.cgroup,
            path_state=self.state, slurm_rpc=False, **more,
        )  # fmt: skip

    def close(self) -> None:
        shutil.rmtree(self.root)


class Clock(threading.Thread):
    """Moves a rig by a second every second."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._rig, self._ending = rig, threading.Event()

    def run(self) -> None:
        while not self._ending.wait(1.0):
            self._rig.advance()

    def close(self) -> None:
        self._ending.set()
        self.join()


class Daemon:
    """``jobwatt serve`` on a rig, as a process of its own."""

    def __init__(self, rig: Rig) -> None:
        node = rig.node
        argv = [
            sys.executable, "-m", "jobwatt", "serve", "--web.listen-address=127.0.0.1:0",
            f"--path.sysfs={node.sys}", f"--path.procfs={node.proc}", f"--path.cgroupfs={node.cgroup}",
            f"--path.state={rig.state}", "--no-slurm.rpc",
        ]  # fmt: skip
        env = nvmlshim.env(rig.script) | {"PYTHONPATH": str(EXPORTER)}
        self.log = rig.root / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(argv, env=env, stderr=log)
        self.pid = self._process.pid
        self.port = self._find_port()

    def _find_port(self) -> int:
        for _ in range(200):
            match = re.search(r"serves on \S+:(\d+),", self.log.read_text(encoding="utf-8"))
            if match:
                return int(match[1])
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError(f"the daemon did not start: {self.log.read_text(encoding='utf-8')}")

    def cpu_s(self) -> float:
        """
        CPU seconds used so far, user and system, of all its threads, those that have ended too:
        the process's clock (clock_getcpuclockid(3)), which is that of utime + stime in
        /proc/PID/stat without their rounding to 10 ms.
        """
        return time.clock_gettime(~self.pid << 3 | 2)

    def system_share(self) -> float:
        """Share of the CPU time that the kernel used for it."""
        words = (
            Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        )
        user, system = int(words[11]), int(words[12])
        return system / max(user + system, 1)

    def status_mb(self, key: str) -> float:
        """A figure of /proc/PID/status, in MB (10**6)."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024 / 1e6
        raise KeyError(key)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)


class KernelCgroups:
    """
    Throw-away jobs in this machine's own cgroup v1 tree: a read costs what kernfs takes for it.

    ``base`` looks like a cgroup file system that holds them and nothing else of this machine.
    """

    CONTROLLERS = ("cpuacct", "memory")

    def __init__(self, base: Path, jobs: int) -> None:
        self.base = base
        self._made: list[Path] = []
        base.mkdir()
        try:
            for controller in self.CONTROLLERS:
                top = Path("/sys/fs/cgroup") / controller / f"jobwatt_bench_{os.getpid()}"
                for path in (top, top / "slurm", *_job_paths(top / "slurm", jobs)):
                    path.mkdir()
                    self._made.append(path)
                (base / controller).symlink_to(top)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for path in reversed(self._made):
            path.rmdir()
        shutil.rmtree(self.base)


def _job_paths(root: Path, jobs: int) -> Iterator[Path]:
    for n in range(jobs):
        yield root / f"uid_{20_000 + n}"
        yield root / f"uid_{20_000 + n}" / f"job_{FIRST_JOB + n}"
