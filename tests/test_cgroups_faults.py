"""Files of cgroups that cannot be read, hold nonsense or are replaced: each costs its own job one figure."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

import trees
from cgroupkit import by_key, put, v1_job
from jobwatt.slurm.cgroups import Cgroups


@contextmanager
def nobody():
    """Run as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_missing_controllers_are_unknown(tmp_path):
    """A job without accounting files is a job with unknown use, not with none."""
    put(tmp_path / "system.slice/slurmstepd.scope/job_2")
    usage = Cgroups(tmp_path, tmp_path).scan(1)[0]
    assert (usage.cpu_ns, usage.mem_bytes, usage.mem_limit_bytes, usage.cpus) == (None,) * 4


def test_nothing_there(tmp_path):
    """No cgroup file system at all is no job and no failure."""
    cgroups = Cgroups(tmp_path / "none", tmp_path)
    assert (cgroups.scan(1), cgroups.roots(), cgroups.failures) == ([], {}, [])
    assert (cgroups.present, cgroups.watch_dirs(), cgroups.pids("/1")) == (False, set(), [])


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
