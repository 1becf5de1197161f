"""Jobs found in process trees: written ones for the cases, the running kernel's for the forgeries."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jobwatt.slurm.procstat import NS_PER_TICK, PAGE_BYTES
from jobwatt.slurm.proctree import ProcTree

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to act as several users")


class Proc:
    """A /proc of written files."""

    def __init__(self, path):
        self.path = path
        (path / "self").mkdir(parents=True)

    def put(
        self, pid, ppid, comm="python", *, uid=0, cpu=0, waited=0, start=500, title=None, exe=None
    ):
        path = self.path / str(pid)
        path.mkdir(exist_ok=True)
        fields = [
            "S",
            ppid,
            pid,
            pid,
            0,
            -1,
            0,
            0,
            0,
            0,
            0,
            cpu,
            0,
            waited,
            0,
            20,
            0,
            1,
            0,
            start,
            9,
            7,
        ]
        (path / "stat").write_text(f"{pid} ({comm}) {' '.join(map(str, fields))} 0 0\n")
        (path / "statm").write_text("100 7 2 1 0 3 0\n")
        (path / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t0\t0\t0\n")
        (path / "cmdline").write_bytes(f"{title or comm}\0".encode())
        if not (path / "exe").is_symlink():
            (path / "exe").symlink_to(exe or f"/usr/sbin/{comm}")
        if os.geteuid() == 0:
            os.chown(path, uid, uid)

    def stepd(self, pid, step, **more):
        self.put(pid, 1, "slurmstepd", title=f"slurmstepd: [{step}]", **more)

    def drop(self, *pids):
        for pid in pids:
            shutil.rmtree(self.path / str(pid))


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


def seen(tree, t_ns=100 * 10**9, **how):
    return {u.key: u for u in tree.scan(t_ns, **how)}


@needs_root
def test_job_of_several_steps(proc):
    """All steps of an id are one job: CPU, memory, start, owner, and processes in order."""
    proc.put(1, 0, "init", cpu=999)
    proc.stepd(50, "12.extern", start=400)
    proc.put(51, 50, "sleep", cpu=1)
    proc.stepd(60, "12.batch", cpu=2, start=401)
    proc.put(61, 60, "bash", uid=20001, cpu=30)
    proc.put(62, 61, "python", uid=20001, cpu=500, waited=70)
    proc.stepd(70, "12.0+1", start=600)
    proc.put(9, 70, "python", uid=20001, cpu=1000)
    proc.stepd(80, "13.4294967290")
    proc.put(90, 1, "sshd", cpu=5)
    tree = ProcTree(proc.path)
    jobs = seen(tree)
    assert jobs.keys() == {"/12", "/13"}
    job = jobs["/12"]
    assert (job.jobid, job.node, job.root, job.uid) == (12, "", "", 20001)
    assert job.cpu_ns == (1 + 2 + 30 + 570 + 1000) * NS_PER_TICK
    assert job.mem_bytes == 7 * 5 * PAGE_BYTES
    assert job.first_ns == 400 * NS_PER_TICK
    assert tree.pids("/12") == [9, 61, 62, 60, 70, 51, 50]
    assert [tree.key_of(p) for p in (62, 51, 80, 90, 1, 777)] == [
        "/12",
        "/12",
        "/13",
        None,
        None,
        None,
    ]
    assert (tree.roots(), tree.watch_dirs(), tree.failures) == ({}, set(), [])
    assert (jobs["/13"].uid, tree.present) == (None, True)


@needs_root
@pytest.mark.parametrize("step", ["12.extern", "12.extern stepmgr"])  # the second of Slurm 25.11.7
def test_extern_names_no_owner(proc, step):
    """A process adopted into step_extern is use of the job, never its owner."""
    proc.stepd(50, step)
    proc.put(51, 50, "sleep", uid=0, cpu=1)
    proc.put(52, 50, "bash", uid=666, cpu=5)
    tree = ProcTree(proc.path)
    assert (seen(tree)["/12"].uid, seen(tree)["/12"].cpu_ns) == (None, 6 * NS_PER_TICK)
    proc.stepd(60, "12.0")
    proc.put(61, 60, "python", uid=20001)
    assert seen(tree)["/12"].uid == 20001


def test_ended_steps_are_kept(proc):
    """CPU time of a step that ended stays, the next one adds, until the job has no process."""
    proc.stepd(50, "12.batch", cpu=1)
    proc.stepd(60, "12.0", cpu=2)
    proc.put(61, 60, cpu=300)
    tree = ProcTree(proc.path)
    assert seen(tree)["/12"].cpu_ns == 303 * NS_PER_TICK
    proc.drop(61)
    proc.stepd(60, "12.0", cpu=2, waited=320)
    assert seen(tree)["/12"].cpu_ns == 323 * NS_PER_TICK
    proc.drop(60)
    assert seen(tree)["/12"].cpu_ns == 323 * NS_PER_TICK
    proc.stepd(70, "12.1", cpu=2)
    assert seen(tree)["/12"].cpu_ns == 325 * NS_PER_TICK
    proc.drop(50, 70)
    assert (seen(tree), tree.present) == ({}, False)
    proc.stepd(80, "12.0", cpu=4, start=9000)
    assert (seen(tree)["/12"].cpu_ns, seen(tree)["/12"].first_ns) == (
        4 * NS_PER_TICK,
        9000 * NS_PER_TICK,
    )


def test_orphans_stay(proc):
    """A process keeps its job when its parent dies, and so do the children it makes later."""
    proc.stepd(50, "12.batch")
    proc.put(51, 50, cpu=10)
    proc.put(52, 51, cpu=20)
    tree = ProcTree(proc.path)
    seen(tree)
    proc.drop(51)
    proc.put(52, 1, cpu=25)
    proc.put(53, 52, cpu=1)
    assert seen(tree)["/12"].cpu_ns == 36 * NS_PER_TICK
    assert (tree.key_of(53), tree.pids("/12")) == ("/12", [52, 53, 50])


def test_reused_pid_is_another(proc):
    """A PID that was the job's and was given to a stranger is no longer the job's, and vice versa."""
    proc.stepd(50, "12.batch")
    proc.put(51, 50, cpu=10)
    proc.put(90, 1, cpu=7)
    tree = ProcTree(proc.path)
    seen(tree)
    proc.drop(51)
    proc.put(51, 1, cpu=999, start=800)
    (proc.path / "90").rename(proc.path / "x")  # still there, so the new directory has a new inode
    proc.put(90, 50, cpu=3, start=900)
    assert seen(tree)["/12"].cpu_ns == (10 + 3) * NS_PER_TICK
    assert tree.pids("/12") == [90, 50]


def test_title_comes_late(proc):
    """A slurmstepd seen before it has set its title is looked at again, and its children too."""
    now = 10 * 10**9
    proc.put(50, 1, "slurmstepd", start=999, title="/usr/sbin/slurmstepd")
    proc.put(51, 50, cpu=3, start=1)
    tree = ProcTree(proc.path)
    assert seen(tree, now) == {}
    proc.stepd(50, "12.0", start=999)
    assert seen(tree, now)["/12"].cpu_ns == 3 * NS_PER_TICK


def test_seen_between_fork_and_exec(proc):
    """A process looked at as slurmd's fork, before it became slurmstepd, is looked at again."""
    now = 10 * 10**9
    proc.put(50, 1, "slurmd", start=999, exe="/usr/sbin/slurmstepd")
    tree = ProcTree(proc.path)
    assert seen(tree, now) == {}
    proc.stepd(50, "12.0", start=999)
    assert seen(tree, now).keys() == {"/12"}


def test_a_task_seen_between_fork_and_exec(proc):
    """A task looked at as slurmstepd's fork is a task once it is one: its environment is asked before slurmstepd's."""
    now = 10 * 10**9
    proc.stepd(50, "12.0")
    proc.put(51, 50, "slurmstepd", title="slurmstepd: [12.0]")
    tree = ProcTree(proc.path)
    seen(tree, now)
    proc.put(51, 50, "python", uid=20001)
    assert seen(tree, now)["/12"].uid == 20001
    assert tree.pids("/12") == [51, 50]


@pytest.mark.parametrize(
    ("comm", "uid", "title", "exe"),
    [
        ("slurmstepd", 20001, "slurmstepd: [9.0]", "/usr/sbin/slurmstepd"),
        ("python", 0, "slurmstepd: [9.0]", "/usr/sbin/slurmstepd"),
        ("slurmstepd", 0, "slurmstepd: [9.0]", "/usr/bin/sleep"),
        ("slurmstepd", 0, "slurmstepd: [9.0]", "/home/u/notslurmstepd"),
        ("slurmstepd", 0, "slurmstepd: [x.0]", "/usr/sbin/slurmstepd"),
        ("slurmstepd", 0, "slurmstepd infinity", "/usr/sbin/slurmstepd"),
    ],
)
def test_forged(proc, comm, uid, title, exe):
    """Title, name, owner and program must all be slurmstepd's."""
    proc.put(50, 1, comm, uid=uid, title=title, exe=exe)
    assert seen(ProcTree(proc.path)) == {}


def test_upgraded_slurmstepd(proc):
    """A slurmstepd whose program was replaced while it runs is still one."""
    proc.put(50, 1, "slurmstepd", title="slurmstepd: [9.0]", exe="/usr/sbin/slurmstepd (deleted)")
    assert seen(ProcTree(proc.path)).keys() == {"/9"}


def test_deep_chain(proc):
    """A chain of forks of any depth is followed."""
    proc.stepd(2, "12.0")
    for pid in range(3, 1203):
        proc.put(pid, pid - 1, cpu=1)
    tree = ProcTree(proc.path)
    assert seen(tree)["/12"].cpu_ns == 1200 * NS_PER_TICK
    proc.put(1203, 1202)
    assert tree.key_of(1203) == "/12"
    assert ProcTree(proc.path).key_of(1203) is None


def test_memory_is_read_when_full(proc):
    """Memory is carried over the samples that do not ask for it."""
    proc.stepd(50, "12.0")
    tree = ProcTree(proc.path)
    assert seen(tree, full=False)["/12"].mem_bytes is None
    assert seen(tree)["/12"].mem_bytes == 5 * PAGE_BYTES
    proc.put(51, 50)
    assert seen(tree, full=False)["/12"].mem_bytes == 5 * PAGE_BYTES
    assert seen(tree)["/12"].mem_bytes == 10 * PAGE_BYTES


def test_processes_vanish_while_scanning(proc):
    """Processes that end at any moment of a scan neither raise nor disturb the others."""
    proc.stepd(50, "12.0", cpu=5)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            proc.stepd(60, "13.0")
            proc.put(61, 60)
            proc.drop(60, 61)

    thread = threading.Thread(target=churn)
    thread.start()
    tree, end, scans, both = ProcTree(proc.path), time.monotonic() + 0.7, 0, 0
    try:
        while time.monotonic() < end or ((not both or scans <= 20) and time.monotonic() < end + 60):
            jobs = seen(tree)
            assert jobs["/12"].cpu_ns == 5 * NS_PER_TICK
            both += "/13" in jobs
            scans += 1
    finally:
        stop.set()
        thread.join()
    assert scans > 20
    assert both


def test_no_proc(tmp_path):
    """A /proc that cannot be listed is a failure that says so."""
    tree = ProcTree(tmp_path / "none")
    assert seen(tree) == {}
    assert [f.reason for f in tree.failures] == ["io"]


# --- the running kernel's -----------------------------------------------------------------------


@pytest.fixture
def programs():
    """A directory that every user may enter, with copies of programs named slurmstepd."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    running = []

    def start(program, *args, user=None, set_uid=False):
        at = Path(tempfile.mkdtemp(dir=path)) / "slurmstepd"
        at.parent.chmod(0o755)
        shutil.copy(program, at)
        at.chmod(0o4755 if set_uid else 0o755)
        jobid = 4_000_000_000 + len(running)
        process = subprocess.Popen(
            [f"slurmstepd: [{jobid}.0]", *args], executable=at, user=user, start_new_session=True
        )
        running.append(process)
        return jobid, process.pid

    yield start
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
        process.wait()
    shutil.rmtree(path)


def boottime():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@needs_root
def test_real_job(programs):
    """Root's slurmstepd is believed: its user, its descendants' time, its start."""
    burn = "while :; do :; done"
    before = boottime()
    code = f"setpriv --reuid {NOBODY} --clear-groups sh -c '{burn}' & wait"
    jobid, pid = programs("/bin/sh", "-c", code)
    tree, key = ProcTree(Path("/proc")), f"/{jobid}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = seen(tree, boottime()).get(key)
        if job and job.uid is not None and job.cpu_ns > 2 * 10**8:
            break
        time.sleep(0.05)
    child = tree.pids(key)[0]
    assert (job.uid, job.jobid) == (NOBODY, jobid)
    assert tree.pids(key) == [child, pid]
    assert tree.key_of(child) == key
    assert before - 2 * NS_PER_TICK <= job.first_ns <= boottime()
    assert job.mem_bytes > 0
    assert job.cpu_ns <= boottime() - job.first_ns + 2 * NS_PER_TICK


@needs_root
@pytest.mark.parametrize("set_uid", [False, True])
def test_real_forgery_by_a_user(programs, set_uid):
    """A user's process named and titled as slurmstepd is not believed, set-uid root or not."""
    jobid, pid = programs("/bin/sleep", "60", user=NOBODY, set_uid=set_uid)
    time.sleep(0.1)
    assert Path(f"/proc/{pid}/comm").read_text() == "slurmstepd\n"
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"slurmstepd: [")
    assert Path(f"/proc/{pid}").stat().st_uid == (0 if set_uid else NOBODY)
    assert f"/{jobid}" not in seen(ProcTree(Path("/proc")), boottime())


@needs_root
def test_real_positive_control(programs):
    """The same process started by root is believed: the forgeries fail for the right reason."""
    jobid, _ = programs("/bin/sleep", "60")
    time.sleep(0.1)
    assert f"/{jobid}" in seen(ProcTree(Path("/proc")), boottime())
