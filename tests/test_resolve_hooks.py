"""Who a job is by its hooks: the table of states from prolog to epilog."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import resolvekit
from resolvekit import GPUS, TASK, UID, Node, S, usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

process = resolvekit.process  # a fixture


def test_hook_wins_over_environment(tmp_path: Path, process: Callable[..., int]) -> None:
    """User, account, partition and GPUs are the prolog's; the name is left to the environment."""
    node = Node(tmp_path)
    lies = {"SLURM_JOB_ACCOUNT": "gold", "SLURM_JOB_GPUS": "0-7"}
    node.processes["/7"] = [process(**{**TASK, **lies})]
    node.hook("prolog", 7)
    meta = node.update(usage(7))["/7"]
    assert (meta.user, meta.account, meta.partition) == ("alice", "infres", "A100")
    assert (meta.gpus, meta.gpus_by, meta.resolved_by) == ({"GPU-2": 1}, "hook", "hook")
    assert meta.name == 'a "b" c'


def test_prolog_without_gpus_outranks_a_forged_environment(
    tmp_path: Path, process: Callable[..., int]
) -> None:
    """A job that got no GPU holds none, whatever its environment claims."""
    node = Node(tmp_path)
    node.processes["/7"] = [process(**TASK, SLURM_JOB_GPUS="0-7")]
    node.hook("prolog", 7, SLURM_JOB_GPUS="")
    assert node.update(usage(7))["/7"].gpus == {}


def test_life_of_a_job_with_hooks(tmp_path: Path) -> None:
    """Prolog, cgroup, gap, epilog: listed once at each moment, ended once, then nothing held."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update()
    assert node.holders() == {"/7": ["GPU-2"]}
    [job] = node.resolver.hook_jobs()
    assert (job.usage.cpu_ns, job.usage.uid, job.meta.cpus_alloc) == (None, UID, 4)
    assert job.meta.start_ns == 1000 * S
    assert node.update(usage(7))["/7"].gpus == {"GPU-2": 1}
    assert node.holders() == {}
    node.update()
    assert node.holders() == {"/7": ["GPU-2"]}
    assert node.resolver.ended(node.now) == []
    node.hook("epilog", 7)
    end_ns = node.now
    straggler = node.update(usage(7))["/7"]
    assert (straggler.gpus, straggler.end_ns) == ({}, end_ns)
    [job] = node.resolver.ended(node.now)
    assert (job.meta.end_ns, job.meta.gpus, job.usage.key) == (end_ns, {"GPU-2": 1}, "/7")
    assert job.meta.end_s == pytest.approx(time.time(), abs=3)
    assert node.resolver.ended(node.now) == []
    node.update()
    assert node.holders() == {}


def test_job_between_two_samples(tmp_path: Path) -> None:
    """Prolog and epilog since the last sample: never present, ended with both its times."""
    node = Node(tmp_path)
    node.update()
    node.hook("prolog", 7)
    node.hook("epilog", 7, after_s=0.3)
    node.update()
    assert node.holders() == {}
    [job] = node.resolver.ended(node.now)
    assert job.meta.end_ns - job.meta.start_ns == int(0.3 * S)
    assert job.meta.user == "alice"


def test_records_go_when_the_end_is_safe(tmp_path: Path) -> None:
    """A daemon killed right after `ended` is told again; a minute later the records are gone."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.hook("epilog", 7, after_s=0.3)
    node.update()
    assert len(node.resolver.ended(node.now)) == 1
    again = Node(tmp_path)
    again.update()
    assert len(again.resolver.ended(again.now)) == 1
    node.update(after_s=61)
    assert not list((tmp_path / "hooks").iterdir())
    node.update()
    assert node.resolver.ended(node.now) == []


def test_requeue_begins_anew(tmp_path: Path) -> None:
    """The same id runs again on another GPU: the first life ended, the second holds; also after a restart."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update(usage(7))
    node.hook("epilog", 7)
    node.update()
    assert [list(job.meta.gpus) for job in node.resolver.ended(node.now)] == [["GPU-2"]]
    node.hook("prolog", 7, SLURM_JOB_GPUS="4", SLURM_JOB_RESTART_COUNT="1")
    node.update()
    assert node.holders() == {"/7": ["GPU-4"]}
    assert node.resolver.ended(node.now) == []
    restarted = Node(tmp_path)
    restarted.update()
    assert restarted.holders() == {"/7": ["GPU-4"]}


def test_nodes_of_several_slurmd(tmp_path: Path) -> None:
    """Where cgroups carry node names, one job on two nodes of a host is two keys with their own GPUs."""
    node = Node(tmp_path)
    node.hook("prolog", 7, SLURMD_NODENAME="gpu01", SLURM_JOB_GPUS="0")
    node.hook("prolog", 7, SLURMD_NODENAME="gpu02", SLURM_JOB_GPUS="5")
    metas = node.update(usage(7, "gpu02"))
    assert metas["gpu02/7"].gpus == {"GPU-5": 1}
    assert node.holders() == {"gpu01/7": ["GPU-0"]}


def test_several_slurmd_without_cgroup_names(tmp_path: Path) -> None:
    """A process tree tells no node: the usage takes one prolog, the other node's stays by itself."""
    node = Node(tmp_path)
    node.hook("prolog", 7, SLURMD_NODENAME="gpu01", SLURM_JOB_GPUS="0")
    node.hook("prolog", 7, SLURMD_NODENAME="gpu02", SLURM_JOB_GPUS="5", after_s=0.1)
    assert node.update(usage(7))["/7"].gpus == {"GPU-0": 1}
    assert node.holders() == {"gpu02/7": ["GPU-5"]}
    node.hook("epilog", 7, SLURMD_NODENAME="gpu01")
    node.update()
    assert [job.usage.key for job in node.resolver.ended(node.now)] == ["/7"]
    assert node.holders() == {"gpu02/7": ["GPU-5"]}


def test_lost_epilog_without_epilog_hook(tmp_path: Path) -> None:
    """Only a Prolog hook and no slurmctld: a minute after its cgroup went the job is over."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update(usage(7))
    node.update(after_s=30)
    assert node.holders() == {"/7": ["GPU-2"]}
    node.update(after_s=31)
    assert node.holders() == {}
    assert len(node.resolver.ended(node.now)) == 1


def test_inventory_may_come_later_and_change(tmp_path: Path) -> None:
    """GPUs are named as soon as the driver lists them; an index of none is one failure."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    assert node.update(usage(7), gpus=[])["/7"].gpus == {}
    assert node.resolver.failures() == ()
    assert node.update(usage(7))["/7"].gpus == {"GPU-2": 1}
    assert node.update(usage(7), gpus=GPUS[:2])["/7"].gpus == {}
    [failure] = node.resolver.failures()
    assert "job 7: GPU 2 (said by hook)" in failure.message
