"""Jobs found in cgroup trees: plain directories for the layouts, the kernel's own for the reading."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trees
from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.layout import job_name, paths_in, slice_paths
from jobwatt.slurm.procstat import NS_PER_TICK, CpuTally, Stat, parse_stat

REAL = Path("/sys/fs/cgroup")
V1 = ("cpuacct", "memory", "freezer")
S = 10**9
needs_v1 = pytest.mark.skipif(
    os.geteuid() != 0 or not all((REAL / c / "cgroup.procs").exists() for c in V1),
    reason="needs root and cgroup v1 with cpuacct, memory and freezer",
)


def put(path, **files):
    """Make a cgroup directory with these files; ``cpu__stat`` is cpu.stat."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(f"{text}\n")
    return path


def proc(procfs, pid, uid):
    path = procfs / str(pid)
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


def v1_job(base, root, uid, job, cpu_ns=0):
    put(base / "cpuacct" / root / f"uid_{uid}" / job, cpuacct__usage=cpu_ns)
    put(base / "memory" / root / f"uid_{uid}" / job, memory__limit_in_bytes=1 << 30)


def by_key(usages):
    return {u.key: u for u in usages}


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


@contextmanager
def nobody():
    """Run as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- layouts ------------------------------------------------------------------------------------


def test_v1_jobs_of_several_slurmd(tmp_path):
    """Debian's and upstream's roots are told apart by node; the path names job and owner."""
    v1_job(tmp_path, "slurm_gpu-01.x", 1000, "job_7", 5)
    v1_job(tmp_path, "slurm_n_2", 1001, "job_7", 6)
    v1_job(tmp_path, "slurm", 1002, "job_7", 7)
    found = by_key(Cgroups(tmp_path, tmp_path / "proc").scan(1))
    assert {(k, u.root, u.node, u.jobid, u.uid, u.cpu_ns) for k, u in found.items()} == {
        ("gpu-01.x/7", "slurm_gpu-01.x", "gpu-01.x", 7, 1000, 5),
        ("n_2/7", "slurm_n_2", "n_2", 7, 1001, 6),
        ("/7", "slurm", "", 7, 1002, 7),
    }


def test_v1_joint_mount(tmp_path):
    """A joint cpu,cpuacct mount without the usual symlink is found."""
    put(tmp_path / "cpu,cpuacct/slurm/uid_1/job_1", cpuacct__usage=11)
    assert Cgroups(tmp_path, tmp_path).scan(1)[0].cpu_ns == 11


def test_v1_job_in_one_hierarchy_is_a_job(tmp_path):
    """A job is present when any one of the three hierarchies has it."""
    for n, controller in enumerate(V1, 1):
        put(tmp_path / controller / f"slurm_n/uid_5/job_{n}")
    assert set(by_key(Cgroups(tmp_path, tmp_path).scan(1))) == {"n/1", "n/2", "n/3"}


@pytest.mark.parametrize("base", ["", "unified"])
@pytest.mark.parametrize(
    ("slice_name", "where"),
    [
        ("system.slice", "system.slice"),
        ("slurm-gpu.slice", "slurm.slice/slurm-gpu.slice"),
        ("hpc.slice/inner", "hpc.slice/inner"),
    ],
)
def test_v2_scopes(tmp_path, base, slice_name, where):
    """Pure and hybrid v2, any slice, both builds, job ids and SLUIDs; other directories are none."""
    top = tmp_path / base / where
    put(top / "gpu02_slurmstepd.scope/job_3", cpu__stat="usage_usec 5\nuser_usec 4")
    put(top / "slurmstepd.scope/job_3", cpu__stat="usage_usec 6\nuser_usec 4")
    put(top / "slurmstepd.scope/s06BQZ6PQ0W9AM", cpu__stat="usage_usec 7\nuser_usec 4")
    put(top / "gpu02_slurmstepd.scope/S06bqz6pq0w9am")
    for other in ("system", "s06BQZ6PQ0W9AI", "s06BQZ6PQ0W9A", "job_x", "job_3x"):
        put(top / "slurmstepd.scope" / other)
    put(top / "slurmd.service/job_4")
    found = by_key(Cgroups(tmp_path, tmp_path / "proc", slice_name).scan(1))
    assert {(k, u.root, u.node, u.jobid, u.cpu_ns) for k, u in found.items()} == {
        ("gpu02/3", "gpu02_slurmstepd.scope", "gpu02", 3, 5000),
        ("/3", "slurmstepd.scope", "", 3, 6000),
        ("s06BQZ6PQ0W9AM", "slurmstepd.scope", "", None, 7000),
        ("gpu02/S06bqz6pq0w9am", "gpu02_slurmstepd.scope", "gpu02", None, None),
    }


def test_slice_paths():
    """A slice's dashes are levels, as in systemd.slice(5)."""
    assert slice_paths("a-b-c.slice") == ["a.slice/a-b.slice/a-b-c.slice", "a-b-c.slice"]


@given(st.integers(0, 2**32 - 1))
def test_job_name_any_id(jobid):
    """Every job id survives the way through the name of its directory."""
    assert job_name(f"job_{jobid}") == (str(jobid), jobid)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "0::/system.slice/gpu02_slurmstepd.scope/job_1/step_0/user/task_1\n",
            [("gpu02/1", ("v2",), "/step_0/user/task_1")],
        ),
        ("0::/system.slice/slurmstepd.scope/job_1\n", [("/1", ("v2",), "")]),
        (
            "0::/../../hpc.slice/slurmstepd.scope/s06BQZ6PQ0W9AM/step_0\n",
            [("s06BQZ6PQ0W9AM", ("v2",), "/step_0")],
        ),
        (
            "9:name=systemd:/\n4:memory:/slurm_n1/uid_5/job_12/step_0/task_0\n0::/\n",
            [("n1/12", ("memory",), "/step_0/task_0")],
        ),
        ("6:cpu,cpuacct:/slurm/uid_5/job_12\n", [("/12", ("cpu", "cpuacct"), "")]),
        (
            "4:memory:/docker/0a1b/slurm/uid_5/job_12/step_0\n",
            [("/12", ("memory",), "/step_0")],
        ),
        (
            "0::/system.slice/slurmstepd.scope/job_1/a/slurm_n/uid_0/job_2\n",
            [("/1", ("v2",), "/a/slurm_n/uid_0/job_2")],
        ),
        ("0::/system.slice/slurmstepd.scope/job_1/a\r\u2028b\n", [("/1", ("v2",), "/a\r\u2028b")]),
        ("0::/system.slice/slurmstepd.scope/system\n", []),
        ("0::/system.slice/ssh.service\n", []),
        ("", []),
    ],
)
def test_paths_in(text, named):
    """The leftmost job of a line, whatever the job made within."""
    assert list(paths_in(text)) == named


def test_a_path_is_believed_where_the_job_has_the_process(tmp_path):
    """Whoever was given a cgroup can name what is below it like a job's: that makes no process the job's."""
    base, procfs = tmp_path / "cgroup", tmp_path / "proc"
    job = base / "system.slice/slurmstepd.scope/job_9"
    put(job, cpu__stat="usage_usec 6\nuser_usec 4")
    put(job / "step_0/user/task_0", cgroup__procs="70")
    lair = base / "lab.slice/mine/slurmstepd.scope/job_9"
    put(lair / "step_0/user/task_0", cgroup__procs="66")
    put(procfs / "70", cgroup="0::/system.slice/slurmstepd.scope/job_9/step_0/user/task_0")
    put(procfs / "66", cgroup="0::/lab.slice/mine/slurmstepd.scope/job_9/step_0/user/task_0")
    cgroups = Cgroups(base, procfs)
    assert cgroups.key_of(70) is None  # no scan has found the job yet
    cgroups.scan(1)
    assert cgroups.key_of(70) == "/9"
    assert cgroups.key_of(66) is None
    assert cgroups.key_of(1234) is None


def test_a_threaded_cgroup_is_asked_about_above(tmp_path):
    """Its own list of processes cannot be read; that of the domain it is in has them."""
    base, procfs = tmp_path / "cgroup", tmp_path / "proc"
    task = put(base / "system.slice/slurmstepd.scope/job_9/step_0/user/task_0", cgroup__procs="70")
    put(task.parents[2], cpu__stat="usage_usec 6\nuser_usec 4")
    (task / "threads").mkdir()
    (task / "threads/cgroup.procs").mkdir()  # whose read fails, as EOPNOTSUPP does
    for pid in (70, 71):
        put(procfs / str(pid), cgroup="0::/system.slice/slurmstepd.scope/job_9/step_0/user/task_0/threads")  # fmt: skip
    cgroups = Cgroups(base, procfs)
    cgroups.scan(1)
    assert (cgroups.key_of(70), cgroups.key_of(71)) == ("/9", None)


def test_a_v1_path_is_believed_by_any_controller_that_has_the_job(tmp_path):
    """A line of a controller that does not tell jobs is passed over for the next; a step that has none is no job's."""
    task = "slurm_n1/uid_5/job_12/step_0"
    put(tmp_path / "memory" / task, cgroup__procs="70")
    put(tmp_path / "memory/slurm_n1/uid_5/job_12", memory__stat="total_rss 1\ntotal_shmem 1")
    put(tmp_path / "proc/70", cgroup=f"5:devices:/{task}\n4:memory:/docker/0a1b/{task}")
    put(tmp_path / "proc/71", cgroup=f"4:memory:/{task}")
    cgroups = Cgroups(tmp_path, tmp_path / "proc")
    cgroups.scan(1)
    assert (cgroups.key_of(70), cgroups.key_of(71)) == ("n1/12", None)


# --- what is read -------------------------------------------------------------------------------


def test_v2_owner_is_a_task_user(tmp_path):
    """The owner is a task's: not root, not step_extern's, and once known it stays known."""
    job = tmp_path / "system.slice/slurmstepd.scope/job_1"
    put(job / "step_extern/user/task_0", cgroup__procs="10")
    put(job / "step_batch/slurm", cgroup__procs="11")
    put(job / "step_batch/user/task_0", cgroup__procs="12\n13")
    procfs = tmp_path / "proc"
    for pid, uid in ((10, 666), (11, 777), (12, 0)):
        proc(procfs, pid, uid)
    cgroups = Cgroups(tmp_path, procfs)
    if os.geteuid() == 0:
        assert cgroups.scan(1)[0].uid is None
    proc(procfs, 13, 20001)
    expected = 20001 if os.geteuid() == 0 else os.getuid()
    assert cgroups.scan(S)[0].uid == expected
    shutil.rmtree(procfs)
    assert cgroups.scan(100 * S)[0].uid == expected


def test_owner_search_backs_off(tmp_path):
    """A job that runs nothing for long is found to have an owner within a minute of its start."""
    job = tmp_path / "system.slice/slurmstepd.scope/job_1"
    put(job, cpu__stat="usage_usec 1")
    cgroups = Cgroups(tmp_path, tmp_path / "proc")
    for t in range(4000):
        assert cgroups.scan(t * S)[0].uid is None
    put(job / "step_0/user/task_0", cgroup__procs="5")
    proc(tmp_path / "proc", 5, 20001)
    assert any(cgroups.scan(t * S)[0].uid for t in range(4000, 4061))


def test_memory_is_without_page_cache(tmp_path):
    """Page cache is not the job's memory, shared memory is; carried where not asked for."""
    put(
        tmp_path / "memory/slurm/uid_1/job_1",
        memory__stat="cache 480\nrss 1\nshmem 2\ntotal_cache 480\ntotal_rss 30\ntotal_shmem 4\n"
        "total_mapped_file 99",
    )
    put(
        tmp_path / "system.slice/slurmstepd.scope/job_2",
        memory__stat="anon 50\nfile 480\nkernel 7\nshmem 6\nfile_mapped 9",
    )
    cgroups = Cgroups(tmp_path, tmp_path)
    assert {u.key: u.mem_bytes for u in cgroups.scan(1)} == {"/1": 34, "/2": 56}
    put(tmp_path / "system.slice/slurmstepd.scope/job_2", memory__stat="anon 51\nshmem 6")
    assert by_key(cgroups.scan(2, full=False))["/2"].mem_bytes == 56
    assert by_key(cgroups.scan(3))["/2"].mem_bytes == 57


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"memory__max": "max"}, None),
        ({"memory__max": "629145600"}, 629145600),
        ({}, None),
    ],
)
def test_v2_limit(tmp_path, files, limit):
    """``max`` and a missing file are no limit."""
    put(tmp_path / "system.slice/slurmstepd.scope/job_2", **files)
    assert Cgroups(tmp_path, tmp_path).scan(1)[0].mem_limit_bytes == limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [("9223372036854771712", None), ("9223372036854710272", None), ("104857600", 104857600)],
)
def test_v1_limit(tmp_path, text, limit):
    """v1's largest number is no limit, with 4 KiB pages and with 64 KiB pages."""
    put(tmp_path / "memory/slurm/uid_1/job_1", memory__limit_in_bytes=text)
    assert Cgroups(tmp_path, tmp_path).scan(1)[0].mem_limit_bytes == limit


def test_limit_and_cpus_set_late(tmp_path):
    """What Slurm writes after making the directory is seen within 2 s, a later change in 31 s."""
    put(tmp_path / "system.slice/slurmstepd.scope")
    cgroups = Cgroups(tmp_path, tmp_path)
    cgroups.scan(S)
    job = put(tmp_path / "system.slice/slurmstepd.scope/job_2", memory__max="max", cpuset__cpus="")
    assert cgroups.scan(2 * S)[0].cpus is None
    put(job, memory__max="5", cpuset__cpus="0-2,8")
    cgroups.scan(3 * S)
    late = cgroups.scan(4 * S)[0]
    assert (late.mem_limit_bytes, late.cpus) == (5, frozenset((0, 1, 2, 8)))
    for t in range(5, 200):
        cgroups.scan(t * S)
    put(job, memory__max="6")
    seen = [cgroups.scan(t * S)[0].mem_limit_bytes for t in range(200, 232)]
    assert (seen[0], seen[-1]) == (5, 6)


def test_v1_cpuset(tmp_path):
    """The cpuset lies in a hierarchy of its own and need not be there."""
    v1_job(tmp_path, "slurm_n", 1, "job_1")
    v1_job(tmp_path, "slurm_n", 1, "job_2")
    put(tmp_path / "cpuset/slurm_n/uid_1/job_1", cpuset__cpus="4-5")
    found = by_key(Cgroups(tmp_path, tmp_path).scan(1))
    assert (found["n/1"].cpus, found["n/2"].cpus) == (frozenset((4, 5)), None)


def test_missing_controllers_are_unknown(tmp_path):
    """A job without accounting files is a job with unknown use, not with none."""
    put(tmp_path / "system.slice/slurmstepd.scope/job_2")
    usage = Cgroups(tmp_path, tmp_path).scan(1)[0]
    assert (usage.cpu_ns, usage.mem_bytes, usage.mem_limit_bytes, usage.cpus) == (None,) * 4


def test_first_seen(tmp_path):
    """What the first scan finds was there before; what a later one finds began then."""
    v1_job(tmp_path, "slurm", 1, "job_1")
    cgroups = Cgroups(tmp_path, tmp_path)
    cgroups.scan(5)
    v1_job(tmp_path, "slurm", 1, "job_2")
    assert {u.key: u.first_ns for u in cgroups.scan(9)} == {"/1": 0, "/2": 9}
    assert {u.key: u.first_ns for u in cgroups.scan(10)} == {"/1": 0, "/2": 9}


def test_nothing_there(tmp_path):
    """No cgroup file system at all is no job and no failure."""
    cgroups = Cgroups(tmp_path / "none", tmp_path)
    assert (cgroups.scan(1), cgroups.roots(), cgroups.failures) == ([], {}, [])
    assert (cgroups.present, cgroups.watch_dirs(), cgroups.pids("/1")) == (False, set(), [])


def test_roots_appear_later(tmp_path):
    """A slurmd that starts, of either version, is seen by the next scan."""
    (tmp_path / "cpuacct").mkdir()
    cgroups = Cgroups(tmp_path, tmp_path)
    assert (cgroups.scan(1), cgroups.present) == ([], False)
    put(tmp_path / "system.slice/b_slurmstepd.scope", cpu__stat="usage_usec 3\nuser_usec 1")
    assert (cgroups.scan(2), cgroups.present) == ([], True)
    put(tmp_path / "cpuacct/slurm_a", cpuacct__usage=12)
    v1_job(tmp_path, "slurm_a", 1, "job_1")
    assert ([u.key for u in cgroups.scan(3)], cgroups.present) == (["a/1"], True)
    assert cgroups.roots() == {"slurm_a": 12, "b_slurmstepd.scope": 3000}


def test_failure_stays_its_own(tmp_path):
    """A file that cannot be read or parsed is one failure; every job stays listed."""
    for n in range(4):
        v1_job(tmp_path, "slurm", 1, f"job_{n}", 100)
    usage = tmp_path / "cpuacct/slurm/uid_1/job_0/cpuacct.usage"
    usage.unlink()
    usage.mkdir()
    (tmp_path / "cpuacct/slurm/uid_1/job_1/cpuacct.usage").write_text("what?\n")
    cgroups = Cgroups(tmp_path, tmp_path)
    for t in (1, 2):
        found = by_key(cgroups.scan(t))
        assert [found[f"/{n}"].cpu_ns for n in range(4)] == [None, None, 100, 100]
        assert sorted(f.reason for f in cgroups.failures) == ["io", "parse"]
    assert any(str(usage) in f.message for f in cgroups.failures)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user without rights")
def test_permission_denied():
    """Permission denied names the file and the mend; a job behind a closed directory stays."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    try:
        for n in (1, 2):
            v1_job(base, "slurm", n, f"job_{n}", 100)
        file = base / "cpuacct/slurm/uid_1/job_1/cpuacct.usage"
        file.chmod(0)
        cgroups = Cgroups(base, base)
        with nobody():
            assert {u.key: u.cpu_ns for u in cgroups.scan(1)} == {"/1": None, "/2": 100}
            (failure,) = cgroups.failures
        assert failure.reason == "permission"
        assert str(file) in failure.message
        assert "root" in failure.message
        for controller in ("cpuacct", "memory"):
            (base / controller / "slurm/uid_2").chmod(0)
        with nobody():
            assert {u.key: u.cpu_ns for u in cgroups.scan(2)} == {"/1": None, "/2": 100}
            assert [f.reason for f in cgroups.failures].count("permission") >= 3
    finally:
        shutil.rmtree(base)


def test_pids_tasks_first(tmp_path):
    """Tasks come first, then slurmstepd, and step_extern's last, in v2 and in v1's freezer."""
    job = tmp_path / "system.slice/slurmstepd.scope/job_1"
    put(job, cgroup__procs="")
    put(job / "step_extern/user/task_0", cgroup__procs="1")
    put(job / "step_0/slurm", cgroup__procs="2")
    put(job / "step_0/user/task_0", cgroup__procs="9\n0")
    job = tmp_path / "freezer/slurm_n/uid_1/job_2"
    put(job, cgroup__procs="5")
    put(job / "step_extern", cgroup__procs="3")
    put(job / "step_batch", cgroup__procs="8")
    cgroups = Cgroups(tmp_path, tmp_path)
    cgroups.scan(1)
    assert (cgroups.pids("/1"), cgroups.pids("n/2")) == ([9, 2, 1], [8, 5, 3])
    assert cgroups.pids("nobody/1") == []


def test_watch_dirs(tmp_path):
    """v1: every mount, and roots and users of one hierarchy; v2: slice and scopes."""
    v1_job(tmp_path, "slurm_n", 7, "job_1")
    put(tmp_path / "freezer/slurm_n/uid_7")
    put(tmp_path / "unified/system.slice/n_slurmstepd.scope/job_2/step_0")
    names = {str(p.relative_to(tmp_path)) for p in Cgroups(tmp_path, tmp_path).watch_dirs()}
    assert names == {
        "cpuacct", "memory", "freezer", "cpuacct/slurm_n", "cpuacct/slurm_n/uid_7",
        "unified/system.slice", "unified/system.slice/n_slurmstepd.scope",
    }  # fmt: skip


def test_watching_hides_nothing(tmp_path):
    """A job that comes just before the watches are listed is in the scan that follows."""
    put(tmp_path / "cpuacct/slurm/uid_1/job_1", cpuacct__usage=1)
    cgroups = Cgroups(tmp_path, tmp_path)
    cgroups.scan(1)
    put(tmp_path / "cpuacct/slurm/uid_2/job_2", cpuacct__usage=1)
    cgroups.watch_dirs()
    assert set(by_key(cgroups.scan(2))) == {"/1", "/2"}


def test_scan_after_close(tmp_path):
    """After close the next scan finds all again."""
    v1_job(tmp_path, "slurm", 1, "job_1", 3)
    cgroups = Cgroups(tmp_path, tmp_path)
    assert cgroups.scan(1)[0].cpu_ns == 3
    cgroups.close()
    assert cgroups.scan(2)[0].cpu_ns == 3


# --- the kernel's own cgroups -------------------------------------------------------------------


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


# --- processes' own times -----------------------------------------------------------------------


def test_parse_stat_hostile_name():
    """A name with spaces and parentheses does not move the fields."""
    numbers = " ".join(str(n) for n in range(4, 53))
    stat = parse_stat(f"77 (a) R (b c) ) S {numbers}".encode())
    assert stat == Stat(b"a) R (b c) ", 4, 14 + 15, 16 + 17, 22, 24)


class Forest:
    """Processes that burn, fork and end; knows the true sum."""

    def __init__(self):
        self.live = {1: [0, 0, 0, 0]}  # pid -> ppid, own, waited, start
        self.true = 0
        self.next = 2

    def act(self, kind, which, amount):
        pid = sorted(self.live)[which % len(self.live)]
        if kind == "burn":
            self.live[pid][1] += amount
            self.true += amount
        elif kind == "fork":
            self.live[self.next] = [pid, 0, 0, self.next]
            self.next += 1
        elif len(self.live) > 1:
            ppid, own, waited, _ = self.live.pop(pid)
            if kind == "wait" and ppid in self.live:
                self.live[ppid][2] += own + waited

    def stats(self):
        return {p: Stat(b"x", pp, o, w, s, 0) for p, (pp, o, w, s) in self.live.items()}


acts = st.lists(
    st.tuples(
        st.sampled_from(["burn", "fork", "wait", "die"]), st.integers(0, 9), st.integers(1, 9)
    ),
    max_size=40,
)


@given(acts)
def test_tally_seen_each_time_is_exact(steps):
    """Looked at after every event, the tally is the CPU time burnt, to the tick."""
    forest, tally = Forest(), CpuTally()
    for step in steps:
        forest.act(*step)
        assert tally.update(forest.stats()) == forest.true * NS_PER_TICK


@given(st.lists(acts, max_size=8))
def test_tally_never_goes_back(rounds):
    """Looked at now and then, the tally never shrinks and never counts what was not burnt."""
    forest, tally, last = Forest(), CpuTally(), 0
    for steps in rounds:
        for step in steps:
            forest.act(*step)
        now = tally.update(forest.stats())
        assert last <= now <= forest.true * NS_PER_TICK
        last = now


GARBAGE = (
    b"",
    b"x",
    b"usage_usec",
    b"usage_usec \n",
    b"anon \nshmem",
    b"-",
    b"1-x,9-99999999999",
    b"\xff\xb2",
)


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("full", [True, False])
def test_garbage_in_any_file_stays_there(tmp_path, garbage, full):
    """One file of one job at a time holds nonsense: nothing is raised, and the other job is read."""
    node = trees.Node(tmp_path)
    jobs = [node.add_job(n, uid=1000 + n, layout="v2", mem_limit=1 << 30, cpus=[n]) for n in (1, 2)]
    files = [p for p in node.cgroup.rglob("*") if p.is_file() and "job_1" in p.parts]
    assert {"cpu.stat", "memory.stat", "memory.max", "cgroup.procs"} <= {p.name for p in files}
    assert jobs
    for file in files:
        was = file.read_bytes()
        cgroups = Cgroups(node.cgroup, node.proc)
        for at, text in enumerate((garbage, was, garbage)):
            file.write_bytes(text)
            usages = {u.jobid: u for u in cgroups.scan((at + 1) * 10**11, full=full)}
            cgroups.roots()
            cgroups.pids(usages[1].key)
            assert (usages[2].cpu_ns, usages[2].uid, usages[2].counting) == (0, 1002, True), file
        cgroups.close()
        file.write_bytes(was)


def test_an_empty_file_is_no_end(tmp_path):
    """A file being written anew is empty for a moment: figures stay and the job still counts."""
    node = trees.Node(tmp_path)
    node.add_job(1, uid=1001, layout="v2")
    (path,) = node.cgroup.rglob("job_1/cpu.stat")
    path.write_bytes(b"usage_usec 5000\n")
    root = path.parents[1] / "cpu.stat"
    root.write_bytes(b"usage_usec 6000\n")
    cgroups = Cgroups(node.cgroup, node.proc)
    cgroups.scan(10**9)
    roots = cgroups.roots()
    path.write_bytes(b"")
    root.write_bytes(b"")
    (usage,) = cgroups.scan(2 * 10**9)
    assert (usage.cpu_ns, usage.counting) == (5_000_000, True)
    assert cgroups.roots() == roots != {}
    assert cgroups.failures == []
    cgroups.close()


def test_a_file_replaced_by_a_rename_is_read_anew(tmp_path):
    """Its open descriptor shows the old figure for ever: it is let go of once it has no name."""
    node = trees.Node(tmp_path)
    node.add_job(1, uid=1001, layout="v2")
    (path,) = node.cgroup.rglob("job_1/cpu.stat")
    cgroups = Cgroups(node.cgroup, node.proc)
    cgroups.scan(10**9)
    (tmp_path / "new").write_bytes(b"usage_usec 7000\n")
    (tmp_path / "new").rename(path)
    (usage,) = cgroups.scan(2 * 10**9)
    assert usage.cpu_ns == 7_000_000
    cgroups.close()
