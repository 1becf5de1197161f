"""What the environments of real processes tell of a job, and what users may write there."""

from __future__ import annotations

import os
import pwd
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import resolvekit
from daemon import wait
from jobwatt.model import JobUsage
from jobwatt.slurm.facts import UserNames, from_environs, read_environ
from resolvekit import GPUS, TASK, UID, Node, S, environ_of, usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

process = resolvekit.process  # a fixture


# -- environments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envs", "gpus"),
    [
        ([{"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "0"}], "2"),
        ([{"SLURM_JOB_GPUS": "2,3", "SLURM_STEP_GPUS": "3"}], "2,3"),
        ([{"SLURM_JOB_GPUS": "1,2", "SLURM_STEP_GPUS": "0,1", "SLURM_JOB_NUM_NODES": "2"}], "0,1"),
        ([{"SLURM_JOB_GPUS": "1,2", "SLURM_JOB_NUM_NODES": "2"}], None),
        ([{"SLURM_STEP_GPUS": "1"}, {"SLURM_STEP_GPUS": "2"}, {"SLURM_STEP_GPUS": "1"}], "1,2"),
        ([{"CUDA_VISIBLE_DEVICES": "0,1"}], None),
        ([{"CUDA_VISIBLE_DEVICES": "GPU-3,GPU-4"}], "GPU-3,GPU-4"),
        ([{}], None),
    ],
)
def test_gpus_of_environments(envs: list[dict[str, str]], gpus: str | None) -> None:
    """The measured table: what a task's environment may be believed, and what not."""
    assert from_environs([{**TASK, **env} for env in envs]).gpus == gpus


def test_environment_of_a_real_process(tmp_path: Path, process: Callable[..., int]) -> None:
    """Without hooks the environment tells all but the user, who is the kernel's uid."""
    node = Node(tmp_path)
    node.processes["/7"] = [process(**TASK, SLURM_JOB_GPUS="5", PAD="x" * 100_000)]
    meta = node.update(usage(7))["/7"]
    assert (meta.account, meta.partition, meta.name) == ("infres", "A100", 'a "b" c')
    assert (meta.gpus, meta.gpus_by, meta.resolved_by) == ({"GPU-5": 1}, "environ", "environ")
    assert (meta.cpus_alloc, meta.mem_alloc_bytes) == (4, 4 * 256 << 20)
    wait(lambda: node.update(usage(7))["/7"].user)
    meta = node.update(usage(7))["/7"]
    named = [entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == UID]
    assert (meta.uid, meta.user) == (UID, (named or [str(UID)])[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="starts processes of several users")
def test_another_users_process_tells_nothing(tmp_path: Path, process: Callable[..., int]) -> None:
    """Root's sleep of step_extern, and a process that names another job, are not believed."""
    node = Node(tmp_path)
    wrong_id = {**TASK, "SLURM_JOB_ID": "8"}
    node.processes["/7"] = [process(0, **TASK), process(UID + 1, **TASK), process(**wrong_id)]
    for _ in range(3):
        assert node.update(usage(7), after_s=30)["/7"].account == ""
    assert node.update(usage(7))["/7"].jobid == "7"


def test_environments_are_read_a_few_times_only(tmp_path: Path) -> None:
    """A job whose environment never tells costs nine looks, not one a second."""
    node, looks = Node(tmp_path), []
    for _ in range(600):
        node.now += S
        node.resolver.update([usage(7)], lambda key: looks.append(key) or [], GPUS, node.now)
    assert len(looks) == 9


def test_gpus_that_only_a_later_step_tells(tmp_path: Path, process: Callable[..., int]) -> None:
    """A job of two nodes: the batch script's environment names no GPU of its own, its step's does."""
    node = Node(tmp_path)
    env = {**TASK, "SLURM_JOB_GPUS": "5", "SLURM_JOB_NUM_NODES": "2"}
    node.processes["/7"] = [process(**env)]
    assert (node.update(usage(7))["/7"].gpus, node.update(usage(7))["/7"].account) == ({}, "infres")
    node.processes["/7"].append(process(**env, SLURM_STEP_GPUS="1"))
    meta = node.update(usage(7))["/7"]
    assert (meta.gpus, meta.gpus_by) == ({"GPU-1": 1}, "environ")


def test_names_of_users() -> None:
    """A uid without a name is its number; a known one is looked up in the background."""
    names = UserNames()
    wait(lambda: names.get(0) and names.get(3_999_999_999))
    assert names.get(0) == pwd.getpwuid(0).pw_name
    assert names.get(3_999_999_999) == "3999999999"


# -- words of users ---------------------------------------------------------------------------------

BAD = [
    {"SLURM_JOB_CPUS_PER_NODE": "9" * 5000},
    {"SLURM_JOB_CPUS_PER_NODE": "1,2", "SLURM_JOB_NODELIST": "[1]" * 3000},
    {"SLURM_STEP_GPUS": "9" * 5000 + ":1"},
    {"SLURM_JOB_CPUS_PER_NODE": "1(x65535)," * 13_000},
    {"SLURM_STEP_GPUS": "0-4095," * 18_000},
    {"SLURM_STEP_GPUS": "0-4095," * 500},
    {"SLURM_STEP_GPUS": "\u0663:\u0664,\u00b2"},
    {
        "SLURM_JOB_START_TIME": "9" * 12,
        "SLURM_MEM_PER_CPU": "9" * 11,
        "SLURM_CPUS_ON_NODE": "9" * 6,
    },
]


@pytest.mark.parametrize("env", BAD, ids=range(len(BAD)))
def test_no_environment_ends_the_daemon(tmp_path: Path, env: dict[str, str]) -> None:
    """Each of these is one job's own trouble: quickly passed over, its neighbour resolved."""
    node = Node(tmp_path / "state", procfs=tmp_path)
    node.processes["/7"] = [environ_of(tmp_path, 50, **{**TASK, **env})]
    node.processes["/8"] = [
        environ_of(tmp_path, 51, **{**TASK, "SLURM_JOB_ID": "8", "SLURM_JOB_GPUS": "5"})
    ]
    began = time.process_time()
    metas = node.update(usage(7), usage(8))
    assert time.process_time() - began < 0.3
    assert (metas["/8"].gpus, metas["/7"].account) == ({"GPU-5": 1}, "infres")
    assert metas["/7"].start_s < 1e11
    assert (metas["/7"].mem_alloc_bytes or 0) <= 1 << 50
    assert all(len(failure.message) < 1500 for failure in node.resolver.failures())


HOSTILE = st.one_of(
    st.binary(max_size=60),
    st.text("0123456789-,:()x[]\u0663", max_size=80).map(lambda text: text.encode()),
    st.tuples(
        st.sampled_from(
            ["9", "[1]", "[", "0-4095,", "1(x65535),", "GPU-,", "MIG-", ",", "9:", "\n"]
        ),
        st.integers(1, 6000),
        st.sampled_from(["", ":1", "]", "x", "-"]),
    ).map(lambda made: (made[0] * made[1] + made[2]).encode()),
)
NAMES = [
    "SLURM_JOB_ID", "SLURM_JOB_CPUS_PER_NODE", "SLURM_JOB_NODELIST", "SLURM_STEP_GPUS",
    "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "SLURM_CPUS_ON_NODE", "SLURM_MEM_PER_CPU",
    "SLURM_MEM_PER_NODE", "SLURM_JOB_START_TIME", "SLURM_JOB_END_TIME", "SLURMD_NODENAME",
    "SLURM_JOB_NAME", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NUM_NODES",
]  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(env=st.dictionaries(st.sampled_from(NAMES), HOSTILE.filter(lambda v: b"\0" not in v)))
def test_any_environment_at_all(tmp_path: Path, env: dict[str, bytes]) -> None:
    """Whatever a user writes: no exception, half a second at most, strings fit to be shown."""
    node = Node(tmp_path / "state", procfs=tmp_path)
    words = {**{name: value.encode() for name, value in TASK.items()}, **env}
    sluid = "s0123456789abc"
    node.processes["/7"] = node.processes[sluid] = [environ_of(tmp_path, 50, **words)]
    began = time.process_time()
    metas = node.update(usage(7), JobUsage(sluid, uid=UID))
    assert time.process_time() - began < 0.5
    for meta in metas.values():
        assert len(meta.jobid) <= 10
        assert all(text.isprintable() for text in (meta.name, meta.account, meta.array_task_id))
    assert all(failure.message.isprintable() for failure in node.resolver.failures())


def test_what_cannot_be_read_is_one_jobs_failure(tmp_path: Path) -> None:
    """A fault in reading one job's words (here: a numbering that is none) is said, and passes."""
    node = Node(tmp_path, numbering="cuda")
    node.hook("prolog", 7)
    assert node.update(usage(7))["/7"].jobid == "7"
    [failure] = node.resolver.failures()
    assert (failure.reason, "cuda" in failure.message) == ("unreadable", True)


def test_no_forged_lines_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A GPU called like a log line, with a line break and an escape, stays within its line."""
    node = Node(tmp_path / "state", procfs=tmp_path)
    forged = {"SLURM_JOB_GPUS": "0,x\nE jobwatt: root logged in\x1b[2J"}
    node.processes["/7"] = [environ_of(tmp_path, 50, **{**TASK, **forged})]
    node.update(usage(7))
    [failure] = node.resolver.failures()
    assert "root logged in" in failure.message
    assert failure.message.isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize("jobid", ["1" * 11, "\u0663", "7 ", "-7", "007", "0"])
def test_a_job_id_is_ten_digits(tmp_path: Path, jobid: str) -> None:
    """What no job can be called is not believed of an environment."""
    environ_of(tmp_path, 50, **{**TASK, "SLURM_JOB_ID": jobid})
    assert read_environ(tmp_path, [50], UID, "") is None
