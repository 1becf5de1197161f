"""What is read of a job's cgroups: owner, memory, limits, CPUs, processes, and when it began."""

from __future__ import annotations

import os
import shutil

import pytest

from cgroupkit import S, by_key, put, v1_job
from jobwatt.slurm.cgroups import Cgroups


def proc(procfs, pid, uid):
    path = procfs / str(pid)
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(path, uid, uid)


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


def test_first_seen(tmp_path):
    """What the first scan finds was there before; what a later one finds began then."""
    v1_job(tmp_path, "slurm", 1, "job_1")
    cgroups = Cgroups(tmp_path, tmp_path)
    cgroups.scan(5)
    v1_job(tmp_path, "slurm", 1, "job_2")
    assert {u.key: u.first_ns for u in cgroups.scan(9)} == {"/1": 0, "/2": 9}
    assert {u.key: u.first_ns for u in cgroups.scan(10)} == {"/1": 0, "/2": 9}


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
