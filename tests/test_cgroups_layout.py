"""Jobs found in cgroup trees: every layout that Slurm makes, and paths that only look like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgroupkit import V1, by_key, put, v1_job
from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.layout import job_name, paths_in, slice_paths


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
