"""Jobs that begin anew and a daemon that does: requeues, what is remembered, and what lingers."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jobwatt.model import Job, JobMeta
from resolvekit import TASK, UID, Node, S, Told, answer_for, environ_of, usage

if TYPE_CHECKING:
    from pathlib import Path


def test_a_requeued_jobs_old_end_is_forgotten(tmp_path: Path) -> None:
    """An hour into the second life the first one's epilog is gone; a restart tells no old end."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update(usage(7))
    node.hook("epilog", 7)
    node.update()
    node.resolver.ended(node.now)
    node.hook("prolog", 7, after_s=20)
    node.update(usage(7), after_s=21)
    assert (tmp_path / "hooks/7.gpu02.epilog.json").exists()  # a minute longer
    for _ in range(5):
        assert node.update(usage(7), after_s=20)["/7"].gpus == {"GPU-2": 1}
    assert [path.name for path in (tmp_path / "hooks").iterdir()] == ["7.gpu02.prolog.json"]


def test_an_end_and_a_new_life_in_one_poll(tmp_path: Path) -> None:
    """Both since the last sample: the old life ends once at its own time, the new one holds."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.update(usage(7))
    end_ns = node.now + S // 10
    node.hook("epilog", 7, after_s=0.1)
    node.hook("prolog", 7, after_s=0.5, SLURM_JOB_GPUS="4")
    assert node.update(usage(7))["/7"].gpus == {"GPU-4": 1}
    [job] = node.resolver.ended(node.now)
    assert (job.meta.end_ns, list(job.meta.gpus)) == (end_ns, ["GPU-2"])
    assert node.resolver.ended(node.now) == []


def test_an_old_end_is_not_told_of_the_live_job_after_a_restart(tmp_path: Path) -> None:
    """Killed within the minute: the first life's epilog lies beside the second's prolog."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    node.hook("epilog", 7, after_s=1)
    node.hook("prolog", 7, after_s=20)
    node.update(usage(7), after_s=30)
    assert node.resolver.ended(node.now) == []
    assert node.update(usage(7))["/7"].gpus == {"GPU-2": 1}
    node.update(usage(7), after_s=61)
    assert [path.name for path in (tmp_path / "hooks").iterdir()] == ["7.gpu02.prolog.json"]


def test_who_merely_looks_removes_nothing(tmp_path: Path) -> None:
    """Without `forget` the records of ended and requeued jobs stay for the daemon."""
    node = Node(tmp_path, forget=False)
    node.hook("prolog", 7)
    node.hook("epilog", 7, after_s=0.3)
    node.hook("epilog", 8, after_s=0.3)
    node.hook("prolog", 8, after_s=0.5)
    for _ in range(4):
        node.update(after_s=61)
        node.resolver.ended(node.now)
    assert len(list((tmp_path / "hooks").iterdir())) == 4


def test_an_empty_inventory_takes_no_gpu_away(tmp_path: Path) -> None:
    """The driver hangs for a sample: every job keeps what it holds; so does one that comes then."""
    node = Node(tmp_path)
    node.hook("prolog", 7)
    assert node.update(usage(7))["/7"].gpus == {"GPU-2": 1}
    assert node.update(usage(7), gpus=[])["/7"].gpus == {"GPU-2": 1}
    node.hook("prolog", 8, SLURM_JOB_GPUS="3")
    assert node.update(usage(7), usage(8), gpus=[])["/8"].gpus == {"GPU-3": 1}


KNOWN = JobMeta(
    jobid="7", user="alice", uid=UID, account="infres", partition="A100", qos="high", name="train",
    array_job_id="5", array_task_id="2", cpus_alloc=4, mem_alloc_bytes=1 << 30, gpus={"GPU-6": 1},
    start_s=100, limit_end_s=200, resolved_by="scontrol", gpus_by="scontrol",
)  # fmt: skip


def test_a_restart_while_slurmctld_is_down(tmp_path: Path) -> None:
    """No hooks, no answer: all that was known is still known, against a changed environment."""
    node = Node(tmp_path / "state", procfs=tmp_path, rpc=Told())
    lie = {**TASK, "SLURM_JOB_GPUS": "0-7", "SLURM_JOB_ACCOUNT": "gold"}
    node.processes["/7"] = [environ_of(tmp_path, 50, **lie)]
    node.resolver.remember([Job(usage(7), KNOWN)])
    for after_s in (1, 5, 60, 60):
        assert node.update(usage(7), after_s=after_s)["/7"] == KNOWN


def test_memory_is_overridden(tmp_path: Path) -> None:
    """slurmctld, the prolog, and for what the environment had told, the environment."""
    told = Told(j7=answer_for("7", UID))
    asked = Node(tmp_path / "a", rpc=told)
    asked.resolver.remember([Job(usage(7), KNOWN)])
    meta = asked.update(usage(7), after_s=2)["/7"]
    assert (meta.account, meta.gpus, meta.qos) == (f"a{UID}", {"GPU-3": 1}, "high")
    hooked = Node(tmp_path / "b")
    hooked.hook("prolog", 7)
    hooked.resolver.remember([Job(usage(7), KNOWN)])
    meta = hooked.update(usage(7))["/7"]
    assert (meta.gpus, meta.gpus_by, meta.qos) == ({"GPU-2": 1}, "hook", "high")
    weak = replace(KNOWN, resolved_by="environ", gpus_by="environ")
    read = Node(tmp_path / "c", procfs=tmp_path)
    read.processes["/7"] = [environ_of(tmp_path, 50, **TASK, SLURM_JOB_GPUS="1")]
    read.resolver.remember([Job(usage(7), weak)])
    meta = read.update(usage(7))["/7"]
    assert (meta.gpus, meta.name, meta.qos) == ({"GPU-1": 1}, 'a "b" c', "high")


def test_memory_of_another_job_is_dropped(tmp_path: Path) -> None:
    """Another user's, one that has gone, and one whose prolog came anew."""
    node = Node(tmp_path)
    node.hook("prolog", 9, SLURM_JOB_QOS="")
    node.resolver.remember(
        [
            Job(usage(7), KNOWN), Job(usage(8), replace(KNOWN, jobid="8")),
            Job(usage(9), replace(KNOWN, jobid="9", start_ns=5)),
        ]
    )  # fmt: skip
    metas = node.update(usage(7, uid=12345), usage(9))
    assert (metas["/7"].account, metas["/7"].gpus) == ("", {})
    assert (metas["/9"].qos, metas["/9"].gpus) == ("", {"GPU-2": 1})
    assert node.update(usage(8))["/8"].gpus == {}
    other = Node(tmp_path / "other")
    other.hook("prolog", 7, SLURM_JOB_UID="12345", SLURM_JOB_QOS="")
    other.resolver.remember([Job(usage(7), KNOWN), Job(usage(8), replace(KNOWN, end_ns=S))])
    metas = other.update(usage(7, uid=12345), usage(8, uid=12345))
    assert (metas["/7"].qos, metas["/7"].gpus) == ("", {"GPU-2": 1})
    assert metas["/8"].end_ns == 0


def test_an_ended_job_is_remembered_as_ended(tmp_path: Path) -> None:
    """Stragglers of a job whose epilog was booked before the restart hold nothing."""
    node = Node(tmp_path)
    node.resolver.remember([Job(usage(7), replace(KNOWN, gpus={}, end_ns=900 * S, end_s=150))])
    meta = node.update(usage(7))["/7"]
    assert (meta.gpus, meta.end_ns, meta.user) == ({}, 900 * S, "alice")
    assert node.resolver.ended(node.now) == []


def test_an_old_epilog_does_not_end_a_remembered_later_life(tmp_path: Path) -> None:
    """The prolog's record is gone: what is remembered of the life's begin keeps the old end off."""
    node = Node(tmp_path)
    node.hook("epilog", 7)
    later = replace(KNOWN, start_ns=node.now + 5 * S, resolved_by="hook", gpus_by="hook")
    node.resolver.remember([Job(usage(7), later)])
    assert node.update(usage(7), after_s=10)["/7"].gpus == {"GPU-6": 1}
    assert node.resolver.ended(node.now) == []


@pytest.mark.slow
def test_five_thousand_short_jobs_linger_cheaply(tmp_path: Path) -> None:
    """Ended jobs are kept for a minute; their number costs little, at the first samples (2000 records each) as later."""
    node = Node(tmp_path)
    (tmp_path / "hooks").mkdir(mode=0o750)
    node.hook("prolog", 10_000)
    node.hook("epilog", 10_000, after_s=0.1)
    for event in ("prolog", "epilog"):
        text = (tmp_path / f"hooks/10000.gpu02.{event}.json").read_text()
        for jobid in range(10_001, 15_000):
            path = tmp_path / f"hooks/{jobid}.gpu02.{event}.json"
            path.write_text(text.replace('"10000"', f'"{jobid}"'))
            path.chmod(0o640)
    ended = 0
    began = time.process_time()
    for _ in range(5):
        node.update(usage(7))
        assert not node.resolver.hook_jobs()  # none of them seems to run
        ended += len(node.resolver.ended(node.now))
    first_s = time.process_time() - began
    assert ended == 5000
    began = time.process_time()
    for _ in range(10):
        node.update(usage(7))
        node.resolver.hook_jobs()
    later_s = (time.process_time() - began) / 10
    print(f"first {first_s:.3f} s, later {later_s * 1000:.1f} ms")
    assert first_s < 5
    assert later_s < 0.05
