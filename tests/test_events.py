"""Directory events, by the kernel's own inotify on plain directories and on real cgroups."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.events import Events

CPUACCT = Path("/sys/fs/cgroup/cpuacct")
needs_v1 = pytest.mark.skipif(
    os.geteuid() != 0 or not (CPUACCT / "cgroup.procs").exists(),
    reason="needs root and cgroup v1 with cpuacct",
)


@pytest.fixture
def events():
    made = []

    def make(*hooks):
        made.append(Events(hooks))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_job_directories(tmp_path, events):
    """Jobs, users and roots that come or go are told; other directories and files are not."""
    watch = events()
    assert watch.sync({tmp_path}) is None
    assert watch.drain() is False
    for name in ("job_1", "uid_7", "slurm_gpu02", "gpu02_slurmstepd.scope", "s06BQZ6PQ0W9AM"):
        (tmp_path / name).mkdir()
        assert watch.drain() is True, name
        assert watch.drain() is False
        (tmp_path / name).rmdir()
        assert watch.drain() is True, name
    (tmp_path / "ssh.service").mkdir()
    (tmp_path / "job_2").write_text("a file")
    assert watch.drain() is False


def test_descriptor_wakes_a_poll(tmp_path, events):
    """The descriptor becomes readable with an event and is quiet after drain."""
    watch = events()
    watch.sync({tmp_path})
    assert select.select([watch.fileno()], [], [], 0)[0] == []
    (tmp_path / "job_1").mkdir()
    assert select.select([watch.fileno()], [], [], 1)[0] == [watch.fileno()]
    watch.drain()
    assert select.select([watch.fileno()], [], [], 0)[0] == []


def test_hook_files(tmp_path, events):
    """A hook's file counts when it is whole: closed after writing or renamed; no dot file does."""
    watch = events(tmp_path)
    watch.sync(set())
    with (tmp_path / "12.begin").open("w") as file:
        assert watch.drain() is False
        file.write("x")
    assert watch.drain() is True
    (tmp_path / ".12.tmp").write_text("x")
    assert watch.drain() is False
    (tmp_path / ".12.tmp").rename(tmp_path / "12.end")
    assert watch.drain() is True
    (tmp_path / "12.end").unlink()
    assert watch.drain() is False


def test_hook_directory_made_later(tmp_path, events):
    """A hook directory that is not there yet is watched once it is."""
    hooks = tmp_path / "hooks"
    watch = events(hooks)
    assert watch.sync(set()) is None
    hooks.mkdir()
    assert watch.sync(set()) is None
    (hooks / "1").write_text("x")
    assert watch.drain() is True


def test_sync_removes(tmp_path, events):
    """A directory no longer asked for is no longer told of."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    watch = events()
    watch.sync({one, two})
    watch.sync({two})
    (one / "job_1").mkdir()
    assert watch.drain() is False
    (two / "job_1").mkdir()
    assert watch.drain() is True


def test_vanished_and_made_again(tmp_path, events):
    """A vanished directory is no failure, and is watched anew when it comes again."""
    path = tmp_path / "uid_1"
    path.mkdir()
    watch = events()
    watch.sync({path})
    path.rmdir()
    assert watch.sync({path}) is None
    watch.drain()
    path.mkdir()
    assert watch.sync({path}) is None
    (path / "job_1").mkdir()
    assert watch.drain() is True


def test_no_descriptor_leak(tmp_path):
    """Watching, unwatching and closing leave no descriptor open."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        watch = Events([tmp_path])
        watch.sync({tmp_path / "x", Path("/tmp")})
        watch.close()
        watch.close()
        assert (watch.drain(), watch.fileno()) == (False, -1)
    assert len(os.listdir("/proc/self/fd")) == before


LIMITED = """
import sys
from pathlib import Path
limit, base = sys.argv[1], Path(sys.argv[2])
name = {"max_user_watches": "max_inotify_watches", "max_user_instances": "max_inotify_instances"}
Path("/proc/sys/user", name[limit]).write_text("1" if limit == "max_user_watches" else "0")
from jobwatt.slurm.events import Events
watch = Events()
dirs = {base / str(n) for n in range(3)}
for path in dirs:
    path.mkdir(exist_ok=True)
failures = [watch.sync(dirs) for _ in range(3)]
print(failures[0].reason, failures[0].message)
print(failures[1:], watch.drain())
"""


@pytest.mark.parametrize(
    ("limit", "reason"), [("max_user_watches", "enospc"), ("max_user_instances", "emfile")]
)
def test_kernel_limits(tmp_path, limit, reason):
    """At inotify's limits the failure is told once, names the sysctl, and nothing is raised."""
    # /proc/sys/user is the namespace's own; /proc/sys/fs/inotify would be the whole machine's
    command = ["unshare", "-Ur", sys.executable, "-c", LIMITED, limit, str(tmp_path)]
    paths = os.pathsep.join(p for p in sys.path if p)
    result = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": paths}, check=False, timeout=90
    )
    if "unshare" in result.stderr:
        pytest.skip(f"needs user namespaces: {result.stderr.strip()}")
    first, rest = result.stdout.splitlines()
    assert first.startswith(f"{reason} cannot watch ")
    assert f"raise fs.inotify.{limit}" in first
    assert rest == "[None, None] False"


@needs_v1
def test_real_cgroup_v1(tmp_path, events):
    """mkdir and rmdir in a real cgroup v1 hierarchy fire; each job is seen by the scan after."""
    base = CPUACCT / f"jobwatt_test_{os.getpid()}"
    base.mkdir()
    (tmp_path / "cpuacct").symlink_to(base)
    made = []

    def make(name):
        made.append(base / name)
        made[-1].mkdir()

    watch, cgroups = events(), Cgroups(tmp_path, Path("/proc"))

    def look():
        woken = watch.drain()
        assert watch.sync(cgroups.watch_dirs()) is None
        return woken, [u.key for u in cgroups.scan(1)]

    try:
        assert look() == (False, [])
        make("slurm_n")
        assert look() == (True, [])
        make("slurm_n/uid_1")
        assert look() == (True, [])
        make("slurm_n/uid_1/job_1")
        assert look() == (True, ["n/1"])
        assert look() == (False, ["n/1"])
        made.pop().rmdir()
        assert look() == (True, [])
        # kernfs tells nothing of a removed directory's own watch: made anew, it is watched anew
        made.pop().rmdir()
        make("slurm_n/uid_1")
        assert look() == (True, [])
        make("slurm_n/uid_1/job_1")
        assert look() == (True, ["n/1"])
    finally:
        for path in reversed(made):
            path.rmdir()
        base.rmdir()


@needs_v1
def test_real_half_second_job(tmp_path, events):
    """A job that lives for half a second between two samples a second apart is seen through its event."""
    base = CPUACCT / f"jobwatt_test_{os.getpid()}"
    (base / "slurm_n/uid_1").mkdir(parents=True)
    (tmp_path / "cpuacct").symlink_to(base)
    job = base / "slurm_n/uid_1/job_1"
    watch, cgroups = events(), Cgroups(tmp_path, Path("/proc"))
    try:
        watch.sync(cgroups.watch_dirs())
        cgroups.scan(1)
        code = f"import os,time; os.mkdir({str(job)!r}); time.sleep(.5); os.rmdir({str(job)!r})"
        process = subprocess.Popen([sys.executable, "-c", code])
        found, woken, end = [], 0, time.monotonic() + 60
        while (process.poll() is None or woken < 2) and time.monotonic() < end:
            if select.select([watch.fileno()], [], [], 1)[0] and watch.drain():
                woken += 1
                watch.sync(cgroups.watch_dirs())
                found += [u.key for u in cgroups.scan(2)]
        assert found == ["n/1"]
    finally:
        process.wait()
        for path in (job, base / "slurm_n/uid_1", base / "slurm_n", base):
            if path.exists():
                path.rmdir()
