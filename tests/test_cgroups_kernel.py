"""Jobs in the running kernel's own v1 cgroups: CPU time, requeues, churn, descriptors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cgroupkit import V1, S, by_key
from jobwatt.slurm.cgroups import Cgroups

REAL = Path("/sys/fs/cgroup")
needs_v1 = pytest.mark.skipif(
    os.geteuid() != 0 or not all((REAL / c / "cgroup.procs").exists() for c in V1),
    reason="needs root and cgroup v1 with cpuacct, memory and freezer",
)


class Real:
    """Throw-away v1 cgroups of the running kernel, shown as a cgroup file system of their own."""

    def __init__(self, base):
        self.base = base
        self.name = f"jobwatt_test_{os.getpid()}_{time.monotonic_ns()}"
        for controller in V1:
            (REAL / controller / self.name).mkdir()
            (base / controller).symlink_to(REAL / controller / self.name)
        self.processes = []

    def make(self, job, controllers=V1, below="step_batch/task_0"):
        for controller in controllers:
            (self.base / controller / job / below).mkdir(parents=True)

    def drop(self, job, controllers=V1):
        for controller in controllers:
            for path, _, _ in os.walk(self.base / controller / job, topdown=False):
                remove(path)

    def start(self, job, code, controllers=V1, below="step_batch/task_0"):
        """Start Python in a job; its code runs once it is there."""
        command = [sys.executable, "-c", f"input()\n{code}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.processes.append(process)
        for controller in controllers:
            leaf = self.base / controller / job / below
            (leaf / "cgroup.procs").write_text(str(process.pid))
        process.stdin.write(b"\n")
        process.stdin.flush()
        return process

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdin.close()
        for controller in V1:
            for path, _, _ in os.walk(REAL / controller / self.name, topdown=False):
                remove(path)


def remove(path):
    """Remove a cgroup; it stays busy for a moment after its last process."""
    for _ in range(200):
        try:
            Path(path).rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return


@pytest.fixture
def real(tmp_path):
    tree = Real(tmp_path)
    yield tree
    tree.close()


BURN = "import time\nwhile time.process_time() < {s}: pass\ninput()"


@pytest.mark.slow
@needs_v1
def test_real_cpu_time(real):
    """CPU time is the kernel's count, goes on after a step ended, and its root keeps ended jobs."""
    job = "slurm_n/uid_1000/job_5"
    real.make(job)
    cgroups = Cgroups(real.base, Path("/proc"))
    process = real.start(job, "x = bytearray(b'x') * (64 << 20)\n" + BURN.format(s=0.3))
    deadline = time.monotonic() + 20
    while cgroups.scan(1)[0].cpu_ns < 0.25 * S and time.monotonic() < deadline:
        time.sleep(0.05)
    assert cgroups.pids("n/5") == [process.pid]
    assert cgroups.key_of(process.pid) == "n/5"
    assert cgroups.key_of(os.getpid()) != "n/5"
    usage = cgroups.scan(2)[0]
    while usage.mem_bytes < 64 << 20 and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel adds memory statistics up now and then
        usage = cgroups.scan(2)[0]
    assert 64 << 20 <= usage.mem_bytes < 90 << 20
    assert usage.mem_limit_bytes is None
    process.communicate(b"\n")
    real.drop(f"{job}/step_batch")
    ended = cgroups.scan(3)[0].cpu_ns
    assert ended == int((real.base / "cpuacct" / job / "cpuacct.usage").read_text())
    assert ended >= usage.cpu_ns > 0.2 * S
    real.drop(job)
    assert cgroups.scan(4) == []
    assert cgroups.roots()["slurm_n"] >= ended


@needs_v1
def test_real_requeue(real):
    """A job removed and made again under its name is a new life: new start, CPU time from 0."""
    job = "slurm_n/uid_1000/job_5"
    real.make(job)
    cgroups = Cgroups(real.base, Path("/proc"))
    real.start(job, BURN.format(s=0.1)).communicate(b"\n")
    before = cgroups.scan(1)[0]
    real.drop(job)
    real.make(job)
    after = cgroups.scan(7)[0]
    assert (before.first_ns, after.first_ns) == (0, 7)
    assert after.cpu_ns == 0 < before.cpu_ns


@needs_v1
def test_real_replaced_between_scans(real):
    """One job in another's place leaves the directory's link count as it was, and is seen."""
    real.make("slurm_n/uid_1000/job_1")
    cgroups = Cgroups(real.base, Path("/proc"))
    for n in range(2, 20):
        cgroups.scan(n)
        real.make(f"slurm_n/uid_1000/job_{n}")
        real.drop(f"slurm_n/uid_1000/job_{n - 1}")
        assert [u.key for u in cgroups.scan(n)] == [f"n/{n}"]
        assert cgroups.failures == []


@needs_v1
def test_real_cpuacct_made_anew(real):
    """Where only cpuacct was made anew (v1, between two steps), the CPU time goes on."""
    job = "slurm_n/uid_1000/job_5"
    real.make(job)
    cgroups = Cgroups(real.base, Path("/proc"))
    real.start(job, BURN.format(s=0.1)).communicate(b"\n")
    first = cgroups.scan(1)[0].cpu_ns
    real.drop(job, ["cpuacct"])
    assert cgroups.scan(2)[0].cpu_ns == first
    real.make(job, ["cpuacct"])
    assert cgroups.scan(3)[0].cpu_ns == first
    real.start(job, BURN.format(s=0.1)).communicate(b"\n")
    second = int((real.base / "cpuacct" / job / "cpuacct.usage").read_text())
    usage = cgroups.scan(4)[0]
    assert (usage.cpu_ns, usage.first_ns) == (first + second, 0)


@pytest.mark.slow
@needs_v1
def test_real_jobs_vanish_while_scanning(real):
    """Jobs that come and go as fast as the kernel allows never disturb those that stay."""
    stay = {f"n/{n}" for n in range(1, 4)}
    for n in range(1, 4):
        real.make(f"slurm_n/uid_{n}/job_{n}")
    stop = threading.Event()
    churned = []

    def churn():
        while not stop.is_set():
            real.make("slurm_n/uid_9/job_9")
            real.drop("slurm_n/uid_9")
            churned.append(1)

    thread = threading.Thread(target=churn)
    thread.start()
    cgroups = Cgroups(real.base, Path("/proc"))
    end, scans, seen = time.monotonic() + 1.0, 0, set()
    try:
        while time.monotonic() < end:
            found = by_key(cgroups.scan(scans))
            assert found.keys() >= stay
            assert all(found[key].cpu_ns is not None for key in stay)
            assert cgroups.failures == []
            cgroups.pids("n/9")
            cgroups.watch_dirs() if scans % 7 == 0 else None
            seen |= found.keys()
            scans += 1
    finally:
        stop.set()
        thread.join()
    assert len(churned) > 20
    assert scans > 20
    assert seen == stay | {"n/9"}


@needs_v1
def test_real_no_descriptor_leak(real):
    """Jobs that ended and a closed reader leave no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    cgroups = Cgroups(real.base, Path("/proc"))
    for n in range(60):
        real.make(f"slurm_n/uid_1/job_{n}")
        assert len(cgroups.scan(2 * n)) == 1
        cgroups.roots()
        real.drop(f"slurm_n/uid_1/job_{n}")
        if n % 2:
            assert cgroups.scan(2 * n + 1) == []
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    real.make("slurm_n/uid_1/job_1")
    cgroups.scan(1000)
    cgroups.close()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_v1
def test_real_out_of_descriptors(real):
    """With no descriptor left the known jobs stay, and the failure says how to mend it."""
    for n in range(4):
        real.make(f"slurm_n/uid_1/job_{n}")
    cgroups = Cgroups(real.base, Path("/proc"))
    cgroups.scan(1)
    real.make("slurm_n/uid_1/job_9")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    holes = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]  # leave no gap below the limit
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(holes), limits[1]))
        with suppress(OSError):
            while True:
                holes.append(os.open("/dev/null", os.O_RDONLY))
        found = by_key(cgroups.scan(2))
        reasons = {f.reason for f in cgroups.failures}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in holes:
            os.close(fd)
    assert found.keys() == {f"n/{n}" for n in range(4)}
    assert all(u.cpu_ns is not None for u in found.values())
    assert reasons == {"too_many_files"}
    assert len(cgroups.scan(3)) == 5


@needs_v1
def test_real_without_cpuacct(real):
    """jobacct_gather/linux makes no cpuacct: the processes' own times count, ended ones too."""
    job, two = "slurm_n/uid_1000/job_5", ("memory", "freezer")
    real.make(job, two)
    cgroups = Cgroups(real.base, Path("/proc"))
    process = real.start(job, BURN.format(s=0.3), two)
    figures = [cgroups.scan(1)[0].cpu_ns]
    deadline = time.monotonic() + 20
    while figures[-1] < 0.29 * S and time.monotonic() < deadline:
        figures.append(cgroups.scan(1)[0].cpu_ns)
        time.sleep(0.02)
    process.communicate(b"\n")
    figures.append(cgroups.scan(2)[0].cpu_ns)
    real.start(job, BURN.format(s=0.1), two).communicate(b"\n")
    figures.append(cgroups.scan(3)[0].cpu_ns)
    assert figures == sorted(figures)
    assert figures[-2] >= 0.29 * S
    assert cgroups.roots() == {}
