"""Slurmctld's word on a job: against environment and hooks, on its end, and when it does not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import resolvekit
from jobwatt.slurm.scontrol import parse_scontrol
from resolvekit import TASK, UID, Node, Told, text_of, tool, usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobwatt.slurm.resolve import RpcRunner

slurm_tools, runner = resolvekit.slurm_tools, resolvekit.runner  # fixtures
process = resolvekit.process  # a fixture


def test_slurmctld_overrides_the_environment(tmp_path: Path, process: Callable[..., int]) -> None:
    """--gpus-per-task: the environment says one GPU, slurmctld two; account and name are its too."""
    answer = {**parse_scontrol(text_of("one_node")), "jobid": "7", "uid": UID, "account": "real"}
    told = Told(j7=answer)
    node = Node(tmp_path, rpc=told)
    node.processes["/7"] = [process(**TASK, SLURM_STEP_GPUS="1")]
    assert node.update(usage(7))["/7"].gpus == {"GPU-1": 1}
    assert told.asked == []
    meta = node.update(usage(7), after_s=2)["/7"]
    assert (meta.gpus, meta.gpus_by) == ({"GPU-0": 1, "GPU-1": 1}, "scontrol")
    assert (meta.account, meta.name, meta.user) == ("real", "sleep.sh", "alice")
    assert meta.limit_end_s == answer["start_s"] + 86_400
    for _ in range(50):
        node.update(usage(7))
    assert told.asked == ["7"]


def test_short_jobs_with_hooks_cost_no_question(tmp_path: Path) -> None:
    """A hundred jobs of four seconds: slurmctld is never asked; one of six seconds: once."""
    told = Told()
    node = Node(tmp_path, rpc=told)
    for jobid in range(100, 200):
        node.hook("prolog", jobid)
        for _ in range(4):
            node.update(usage(jobid))
        node.hook("epilog", jobid)
        node.update()
        node.resolver.ended(node.now)
    assert told.asked == []
    node.hook("prolog", 7)
    node.update(usage(7), after_s=6)
    assert told.asked == ["7"]


def test_orphan_is_ended_by_slurmctlds_word(tmp_path: Path) -> None:
    """An epilog that never comes: slurmctld knows the job has ended, so it holds nothing."""
    answer = {**parse_scontrol(text_of("cancelled")), "jobid": "7"}
    node = Node(tmp_path, rpc=Told(j7=answer))
    node.hook("prolog", 7)
    node.update()
    assert node.holders() == {"/7": ["GPU-2"]}
    node.update(after_s=6)
    assert node.holders() == {}
    [job] = node.resolver.ended(node.now)
    assert job.meta.end_s == answer["end_s"]


def test_answer_after_the_end_is_told_late(tmp_path: Path) -> None:
    """A job gone before slurmctld answered gets its name afterwards, once."""
    told = Told()
    node = Node(tmp_path, rpc=told)
    node.update(usage(7))
    node.update(usage(7), after_s=2)
    node.update()
    assert node.resolver.late() == []
    told.answers["j7"] = {**parse_scontrol(text_of("cancelled")), "jobid": "7"}
    node.update()
    assert [(job.usage.key, job.meta.user) for job in node.resolver.late()] == [("/7", "alice")]
    node.update()
    assert node.resolver.late() == []


def test_slurmctld_has_the_last_word_on_a_job_that_is_gone(
    tmp_path: Path, process: Callable[..., int]
) -> None:
    """Without hooks, what a job of half a second wrote into its environment is not the last word."""
    answer = {**parse_scontrol(text_of("cancelled")), "jobid": "7", "uid": UID, "account": "real"}
    node = Node(tmp_path, rpc=Told(j7=answer))
    node.processes["/7"] = [process(**TASK)]
    assert node.update(usage(7))["/7"].account == "infres"
    node.update()
    assert [job.meta.account for job in node.resolver.late()] == ["real"]


def test_slurmctld_is_asked_how_a_job_ended(tmp_path: Path) -> None:
    """Asked while it ran and once more after its end, until it is COMPLETING no longer."""
    running = {**parse_scontrol(text_of("one_node")), "jobid": "7", "uid": UID}
    told = Told(j7=running)
    node = Node(tmp_path, rpc=told)
    for _ in range(5):
        assert node.update(usage(7))["/7"].state == ""
    told.answers["j7"] = {**running, "state": "COMPLETING"}
    for _ in range(20):
        node.update()
    assert len(told.asked) == 2
    told.answers["j7"] = {**parse_scontrol(text_of("cancelled")), "jobid": "7", "uid": UID}
    late = [job for _ in range(30) for job in (node.update(), node.resolver.late())[1]]
    assert len(told.asked) == 3
    assert (late[-1].meta.state, late[-1].meta.exit_code) == ("CANCELLED", "0:9")
    assert late[-1].meta.gpus == {"GPU-0": 1, "GPU-1": 1}


def test_a_requeued_jobs_second_life_is_asked_about_without_hooks(tmp_path: Path) -> None:
    """PENDING after the first life; the second one has other GPUs and an end of its own."""
    running = {**parse_scontrol(text_of("one_node")), "jobid": "7", "uid": UID}
    told = Told(j7=running)
    node = Node(tmp_path, rpc=told)
    for _ in range(5):
        node.update(usage(7))
    told.answers["j7"] = {**running, "state": "PENDING", "nodes": {}}
    for _ in range(20):
        node.update()
    share = {"gpu02": {"cpus": 1, "mem_mb": 1, "gpus": "3"}}
    told.answers["j7"] = {**running, "nodes": share}
    metas = [node.update(usage(7))["/7"] for _ in range(3)]
    assert [set(meta.gpus) for meta in metas] == [set(), {"GPU-3"}, {"GPU-3"}]
    told.answers["j7"] = {**running, "state": "COMPLETED", "exit_code": "0:0", "nodes": {}}
    late = [job for _ in range(30) for job in (node.update(), node.resolver.late())[1]]
    assert late[-1].meta.state == "COMPLETED"


def test_the_epilog_tells_the_exit_code(tmp_path: Path) -> None:
    """Without a question to slurmctld."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update(usage(7))
    node.hook("epilog", 7, SLURM_JOB_EXIT_CODE2="3:0")
    node.update()
    [job] = node.resolver.ended(node.now)
    assert (job.meta.state, job.meta.exit_code) == ("", "3:0")


@pytest.mark.slow
def test_jobs_stay_resolved_while_slurmctld_hangs(
    tmp_path: Path, slurm_tools: Path, runner: Callable[..., RpcRunner], process: Callable[..., int]
) -> None:
    """Each update returns at once with what the environment told; the fault is one failure."""
    tool(slurm_tools, "scontrol", "sleep 60")
    node = Node(tmp_path / "state", rpc=runner(timeout_s=0.3))
    node.processes["/7"] = [process(**TASK, SLURM_JOB_GPUS="5")]
    took = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        began = time.monotonic()
        meta = node.update(usage(7))["/7"]
        took.append(time.monotonic() - began)
        assert (meta.account, meta.gpus) == ("infres", {"GPU-5": 1})
        time.sleep(0.02)
    assert sorted(took)[-2] < 0.2  # one may have met a busy machine's pause
    assert [failure.source for failure in node.resolver.failures()] == ["controller"]
    assert node.resolver.calls()["timeout"] >= 1
