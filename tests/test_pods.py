"""Jobs of slurmd in pods of Kubernetes, as Slinky's slurm-operator runs it: cgroup trees of its shape."""

from __future__ import annotations

import os
import shutil

import pytest

from jobwatt.slurm import pods
from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.find import Jobs

UID = "0e5b7c0a_62a4_4f3e_9f0b_5d1c0c8d2e11"
OTHER = "9a1c3d5e_7f20_4b1d_8c3a_2f4e6a8b0c1d"
STATIC = "5f1c1b9e7f0a4c1e9d522a6f0d6b1c11"  # a pod of the kubelet's own files has no dashes
CONTAINER = "cri-containerd-3c1f8e.scope"
BURSTABLE = "kubepods.slice/kubepods-burstable.slice"


def put(path, **files):
    """Make a cgroup directory with these files; ``cpu__stat`` is cpu.stat."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(f"{text}\n")
    return path


def usec(count):
    return f"usage_usec {count}\nuser_usec {count}\nsystem_usec 0"


def job(scope, name, used, anon=0):
    """A job's cgroup, with a task's process and slurmstepd's."""
    path = put(scope / name, cpu__stat=usec(used), memory__stat=f"anon {anon}\nfile 9\nshmem 0")
    put(path / "step_0/slurm", cgroup__procs="41")
    put(path / "step_0/user/task_0", cgroup__procs="42")


def looked(cgroups, t_ns=1):
    """Scan as often as it takes for a search to be due."""
    for more in range(pods._EVERY):
        usages = cgroups.scan(t_ns + more)
    return usages


@pytest.mark.parametrize(
    "pod",
    [
        f"{BURSTABLE}/kubepods-burstable-pod{UID}.slice",
        f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID}.slice",
        f"kubepods.slice/kubepods-pod{UID}.slice",
        f"kubepods.slice/kubepods-pod{STATIC}.slice",
        f"kubepods/burstable/pod{UID.replace('_', '-')}",
        f"kubepods/pod{UID.replace('_', '-')}",
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID}.slice",
        # in a cgroup namespace of its own slurmd has its container's cgroup for a root
        f"{BURSTABLE}/kubepods-burstable-pod{UID}.slice/{CONTAINER}",
        f"kubepods/pod{UID.replace('_', '-')}/3c1f8e",
    ],
)
def test_a_pods_jobs_are_counted(tmp_path, pod):
    """Whatever the kubelet's driver, the pod's class and slurmd's namespace: CPU time, memory, processes, events."""
    scope = tmp_path / pod / "system.slice/slurmstepd.scope"
    job(scope, "job_7", 5, anon=100)
    put(scope, cpu__stat=usec(9))
    jobs = Jobs(tmp_path, tmp_path / "proc", "system.slice")
    (usage,) = jobs.scan(1)
    assert (usage.key, usage.jobid, usage.node) == ("/7", 7, "")
    assert (usage.cpu_ns, usage.mem_bytes) == (5000, 100)
    assert jobs.pids("/7") == [42, 41]
    assert list(jobs.roots().values()) == [9000]
    assert {scope, scope.parent} <= jobs.watch_dirs()
    inside = f"/{pod}/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"
    for above in ("", "/../../.."):  # outside, and as a daemon in a pod of its own reads it
        put(tmp_path / "proc/42", cgroup=f"0::{above}{inside}")
        assert jobs.key_of(42) == "/7"


def test_several_pods_and_the_node_itself(tmp_path):
    """Jobs of two pods, and of a slurmd outside, are all there; each scope counts its own ended steps."""
    first = tmp_path / f"{BURSTABLE}/kubepods-burstable-pod{UID}.slice"
    second = tmp_path / f"kubepods.slice/kubepods-pod{OTHER}.slice"
    for n, place in enumerate((tmp_path, first, second), 1):
        job(place / "system.slice/slurmstepd.scope", f"job_{n}", n)
        put(place / "system.slice/slurmstepd.scope", cpu__stat=usec(10 * n))
    cgroups = Cgroups(tmp_path, tmp_path / "proc")
    assert {u.key: u.cpu_ns for u in cgroups.scan(1)} == {"/1": 1000, "/2": 2000, "/3": 3000}
    roots = cgroups.roots()
    assert sorted(roots.values()) == [10_000, 20_000, 30_000]
    assert {u.root for u in cgroups.scan(2)} == roots.keys()


def test_one_job_in_two_pods_of_a_node(tmp_path):
    """Where the scopes name no node the job is there once, with one part's figures; where they do, twice."""
    for uid, used in ((UID, 5), (OTHER, 6)):
        pod = tmp_path / f"kubepods.slice/kubepods-pod{uid}.slice/system.slice"
        job(pod / "slurmstepd.scope", "job_7", used)
        job(pod / f"gpu-{used}_slurmstepd.scope", "job_8", used)
    found = {u.key: u.cpu_ns for u in Cgroups(tmp_path, tmp_path).scan(1)}
    assert found == {"/7": 5000, "gpu-5/8": 5000, "gpu-6/8": 6000}


def test_pods_come_and_go(tmp_path):
    """A slurmd that starts later is found by the next search, and one that is gone takes its jobs with it."""
    put(tmp_path / "kubepods.slice")
    cgroups = Cgroups(tmp_path, tmp_path / "proc")
    assert cgroups.scan(1) == []
    pod = tmp_path / f"{BURSTABLE}/kubepods-burstable-pod{UID}.slice"
    put(pod / CONTAINER)
    assert looked(cgroups, 2) == []
    job(pod / "system.slice/slurmstepd.scope", "job_7", 5)
    assert [u.key for u in looked(cgroups, 10)] == ["/7"]
    job(pod / "system.slice/slurmstepd.scope", "job_8", 5)  # from here on at once, as anywhere
    assert [u.key for u in cgroups.scan(20)] == ["/7", "/8"]
    shutil.rmtree(pod)
    assert looked(cgroups, 30) == []
    assert (cgroups.present, cgroups.failures) == (False, [])


@pytest.mark.parametrize(
    "place",
    [
        f"user.slice/{BURSTABLE}/kubepods-burstable-pod{UID}.slice",
        f"{BURSTABLE}/kubepods-burstable-pod{UID}.slice/{CONTAINER}/deeper",
        f"{BURSTABLE}/kubepods-burstable-podX.slice",
        "kubepods.slice/other.slice",
        "machine.slice/libpod.scope",
    ],
)
def test_nothing_else_is_searched(tmp_path, place):
    """Two levels below a class of pods and no further: a container that nests its own Slurm is no part of this one."""
    job(tmp_path / place / "system.slice/slurmstepd.scope", "job_7", 5)
    assert Cgroups(tmp_path, tmp_path).scan(1) == []


@pytest.mark.parametrize(("uid", "mode"), [(165536, 0o755), (0, 0o777), (0, 0o775)])
def test_what_others_may_write_to_is_not_slurms(tmp_path, uid, mode):
    """A user who may write to their pod's cgroup invents no job there, and takes no other's job id and name."""
    slurmd = tmp_path / f"kubepods.slice/kubepods-pod{OTHER}.slice/system.slice"
    theirs = tmp_path / f"kubepods.slice/kubepods-pod{UID}.slice/system.slice"  # found first
    for place, used in ((slurmd, 5), (theirs, 500)):
        job(place / "slurmstepd.scope", "job_7", used)
    job(theirs / "slurmstepd.scope", "job_8", 500)
    theirs.chmod(mode)
    if uid:
        if os.geteuid():
            pytest.skip("changes owners")
        os.chown(theirs, uid, uid)
    assert [(u.key, u.cpu_ns) for u in Cgroups(tmp_path, tmp_path).scan(1)] == [("/7", 5000)]


def test_the_search_is_bounded(tmp_path, monkeypatch):
    """However many pods and containers: only so many directories are looked into."""
    monkeypatch.setattr(pods, "_MAX_DIRS", 6)
    for n in range(9):
        put(tmp_path / f"kubepods/pod{n}{UID[1:]}".replace("_", "-") / "system.slice")
    assert len(pods.PodSlices(str(tmp_path), ["system.slice"]).look()) == 3


def test_the_slice_may_have_another_name(tmp_path):
    """slurm.slice (CgroupSlice of Slurm 25.11) holds below a pod as well."""
    pod = tmp_path / f"kubepods.slice/kubepods-pod{UID}.slice"
    job(pod / "hpc.slice/slurmstepd.scope", "job_7", 5)
    assert [u.key for u in Cgroups(tmp_path, tmp_path, "hpc.slice").scan(1)] == ["/7"]
