"""Jobs whose cgroup is named by SLUID: whose number they get, and from whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import resolvekit
from jobwatt.model import JobUsage
from resolvekit import TASK, UID, Node, Told, answer_for, environ_of, usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

process = resolvekit.process  # a fixture


def test_sluid(tmp_path: Path, process: Callable[..., int]) -> None:
    """A cgroup named by SLUID gets its prolog by the SLUID, or by a job id of its own user."""
    sluid = "s0123456789ABC"
    node = Node(tmp_path)
    node.hook("prolog", 7, SLURM_JOB_SLUID=sluid)
    assert node.update(JobUsage(sluid, uid=UID))[sluid].gpus == {"GPU-2": 1}
    assert node.holders() == {}
    old = Node(tmp_path / "old")
    old.hook("prolog", 7)
    old.processes[sluid] = [process(**TASK)]
    meta = old.update(JobUsage(sluid, uid=UID))[sluid]
    assert (meta.jobid, meta.user) == ("7", "alice")
    assert old.holders() == {}
    other = Node(tmp_path / "other")
    other.hook("prolog", 7, SLURM_JOB_UID="12345")
    other.processes[sluid] = [process(**TASK)]
    assert other.update(JobUsage(sluid, uid=UID))[sluid].user != "alice"
    assert other.holders() == {"/7": ["GPU-2"]}


@pytest.mark.parametrize("name", ["", "gpu02"])
def test_a_job_from_before_an_upgrade(tmp_path: Path, name: str) -> None:
    """Slurm 25.11 tells its prologs a SLUID but names cgroups by number: a job of its is known beside 26.05's."""
    node, new = Node(tmp_path), "s0123456789ABC"
    node.hook("prolog", 7, SLURM_JOB_SLUID="s0000000000001")
    if name:  # two slurmd on the host: each has its part of the job, and its own prolog
        node.hook("prolog", 7, SLURM_JOB_SLUID="s0000000000001", SLURMD_NODENAME="gpu01", SLURM_JOB_GPUS="0")  # fmt: skip
    metas = node.update(usage(7, name), JobUsage(f"{name}/{new}".lstrip("/"), node=name, uid=UID))
    assert metas[f"{name}/7"].gpus == {"GPU-2": 1}
    assert list(node.holders()) == (["gpu01/s0000000000001"] if name else [])
    node.hook("epilog", 7, SLURM_JOB_SLUID="s0000000000001")
    node.update()
    assert [job.usage.key for job in node.resolver.ended(node.now)] == [f"{name}/7"]


SLUID = "s0123456789abc"


def test_a_sluid_cannot_take_anothers_number(tmp_path: Path) -> None:
    """mallory's environment names the victim's job: slurmctld, asked by SLUID, tells the real one."""
    told = Told(**{f"j{SLUID}": answer_for("42", UID), "j777": answer_for("777", 1)})
    node = Node(tmp_path / "state", procfs=tmp_path, rpc=told)
    lie = {**TASK, "SLURM_JOB_ID": "777", "SLURM_JOB_ACCOUNT": "victims"}
    node.processes[SLUID] = [environ_of(tmp_path, 50, **lie)]
    assert node.update(JobUsage(SLUID, uid=UID))[SLUID].jobid == ""
    for after_s in (1, 1, 2, 10, 60, 60):
        meta = node.update(JobUsage(SLUID, uid=UID), after_s=after_s)[SLUID]
        assert (meta.jobid, meta.account, meta.gpus) == ("42", f"a{UID}", {"GPU-3": 1})


def test_a_refuted_environment_is_not_believed_again(tmp_path: Path) -> None:
    """slurmctld does not know the SLUID, and the number is another user's: nobody's job."""
    unknown = {"jobid": SLUID, "unknown": True}
    told = Told(**{f"j{SLUID}": unknown, "j777": answer_for("777", 1)})
    node = Node(tmp_path / "state", procfs=tmp_path, rpc=told)
    node.processes[SLUID] = [environ_of(tmp_path, 50, **{**TASK, "SLURM_JOB_ID": "777"})]
    node.update(JobUsage(SLUID, uid=UID))
    for after_s in (2, 1, 10, 60, 60):
        meta = node.update(JobUsage(SLUID, uid=UID), after_s=after_s)[SLUID]
        assert (meta.jobid, meta.account, meta.gpus) == ("", "", {})


def test_a_number_that_slurmctld_gives_to_the_user_is_the_sluids(tmp_path: Path) -> None:
    """slurmctld does not know the SLUID: the environment's number counts once its user agrees."""
    told = Told(**{f"j{SLUID}": {"unknown": True}, "j777": answer_for("777", UID)})
    node = Node(tmp_path / "state", procfs=tmp_path, rpc=told)
    node.processes[SLUID] = [environ_of(tmp_path, 50, **{**TASK, "SLURM_JOB_ID": "777"})]
    assert node.update(JobUsage(SLUID))[SLUID].jobid == ""
    assert node.update(JobUsage(SLUID), after_s=3)[SLUID].jobid == ""  # whose is it?
    assert node.update(JobUsage(SLUID, uid=UID))[SLUID].jobid == "777"


def test_a_sluid_whose_user_is_not_known_yet(tmp_path: Path) -> None:
    """No process of the job's own at first: slurmctld's word on the SLUID counts all the same."""
    node = Node(tmp_path, rpc=Told(**{f"j{SLUID}": answer_for("42", UID)}))
    node.update(JobUsage(SLUID))
    assert node.update(JobUsage(SLUID), after_s=2)[SLUID].jobid == "42"
    meta = node.update(JobUsage(SLUID, uid=UID), after_s=30)[SLUID]
    assert (meta.jobid, meta.user, meta.gpus) == ("42", f"u{UID}", {"GPU-3": 1})


def test_a_sluid_with_nobody_to_ask(tmp_path: Path) -> None:
    """Without slurmctld the environment's number counts, until a hook gives it to another user."""
    node = Node(tmp_path / "state", procfs=tmp_path)
    node.processes[SLUID] = [environ_of(tmp_path, 50, **TASK)]
    assert node.update(JobUsage(SLUID, uid=UID))[SLUID].jobid == "7"
    node.hook("prolog", 7, SLURM_JOB_UID="12345")
    for _ in range(4):
        meta = node.update(JobUsage(SLUID, uid=UID), after_s=20)[SLUID]
        assert (meta.jobid, meta.account) == ("", "")
    assert node.holders() == {"/7": ["GPU-2"]}
    late = Node(tmp_path / "state", procfs=tmp_path)
    late.processes = node.processes
    assert late.update(JobUsage(SLUID, uid=UID))[SLUID].jobid == ""
