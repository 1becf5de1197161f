"""Asking slurmctld: the child that asks, one question after the other, and the thread that waits for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import resolvekit
from daemon import wait
from jobwatt.slurm import bypyslurm, rpc
from resolvekit import DATA, text_of, tool

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobwatt.slurm.resolve import RpcRunner

slurm_tools, runner = resolvekit.slurm_tools, resolvekit.runner  # fixtures


# -- the child --------------------------------------------------------------------------------------


def child(*ids: str) -> tuple[list[dict[str, object]], int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "jobwatt.slurm.rpc", *ids],
        env={**os.environ, "PYTHONPATH": str(Path(rpc.__file__).parents[2])},
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr


def test_child_answers_known_and_unknown(slurm_tools: Path) -> None:
    """One line per id in order; an id that is none is never given to a command."""
    tool(slurm_tools, "scontrol", f"[ $5 = 1 ] && exec cat {DATA}/one_node.txt\n"
         f"cat {DATA}/unknown.err >&2; exit 1")  # fmt: skip
    answers, code, _ = child("1", "99", "--help", "1;x")
    assert code == 0
    assert [(a["jobid"], a.get("unknown", False)) for a in answers] == [("1", False), ("99", True)]
    assert (slurm_tools / "calls").read_text().count("scontrol") == 2


def test_child_finds_the_array_task_among_records(slurm_tools: Path) -> None:
    """Two more calls with numbers nobody can forge single the record out; each is counted."""
    tool(slurm_tools, "scontrol", f"[ $5 = 7 ] && exec cat {DATA}/array.txt\n"
         f"[ $5 = 4_1 ] && exec cat {DATA}/array_task.txt; exit 1")  # fmt: skip
    tool(
        slurm_tools,
        "squeue",
        'case $6 in *%j*) echo arr;; *) printf "4|4_[2-3%%1]\\n7|4_1\\n";; esac',
    )
    [answer], code, said = child("7")
    assert code == 0, said
    assert (answer["jobid"], answer["array_task_id"], answer["calls"]) == ("7", "1", 3)


def test_child_finds_the_sluid_of_a_job_with_a_forged_name(slurm_tools: Path) -> None:
    """A record in the job's name does not hide it from who asks by SLUID, nor does another job's stand for it."""
    text, sluid = text_of("26.05/forged_record_in_name"), "sB1DM8B2NCKA00"
    named = text.removeprefix("JobId=2920000 JobName=").partition(f" SLUID={sluid}")[0]
    (slurm_tools / "name").write_text(named + "\n")
    tool(slurm_tools, "scontrol", f"exec cat {DATA}/26.05/forged_record_in_name.txt")
    tool(
        slurm_tools,
        "squeue",
        f'case $8 in %j) exec cat {slurm_tools}/name;; *) echo "2920000|2920000";; esac',
    )
    [answer, other], code, said = child(sluid, "s0000000000001")
    assert code == 0, said
    assert (answer["number"], answer["user"], answer["calls"]) == ("2920000", "alice", 4)
    assert answer["nodes"] == {"gpu02": {"cpus": 1, "mem_mb": 256, "gpus": "0"}}
    assert other["unknown"]


def test_child_without_any_tool(slurm_tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pyslurm nor scontrol: exit 1 and one line that says so."""
    monkeypatch.setenv("PATH", str(slurm_tools))
    answers, code, said = child("1")
    assert (answers, code) == ([], 1)
    assert said == "scontrol is not in PATH and no pyslurm fits\n"


def test_pyslurm_attributes_one_by_one() -> None:
    """An attribute that raises (22.5.3's memory) costs that attribute only; both layouts are read."""

    class Job22:
        user_name, user_id, account, partition, name = "alice", 20001, "infres", "A100", "n\n1"
        array_id, array_task_id, state, start_time, end_time = 4, 1, "RUNNING", 100, 200
        time_limit = 30

        @property
        def qos(self) -> str:
            raise AttributeError("min_nodes")

        def get_resource_layout_per_node(self) -> dict[str, object]:
            gres = {"gpu:a100": {"count": "1", "indexes": "2"}}
            return {
                "gpu02": {"cpu_ids": "2", "gres": gres, "memory": 100},
                "gpu03": {"cpus": "0-3", "gres": {}, "memory": "1G", "memory_raw": 1024},
            }

    class Module:
        class RPCError(Exception):
            pass

        class Job:
            @staticmethod
            def load(jobid: int) -> Job22:
                if jobid == 9:
                    raise Module.RPCError("Invalid job id specified")
                return Job22()

    job = bypyslurm.by_pyslurm(Module, "7")  # type: ignore[arg-type]
    assert (job["uid"], job["qos"], job["name"], job["limit_s"]) == (20001, "", "n 1", 1800)
    assert job["nodes"] == {
        "gpu02": {"cpus": 1, "mem_mb": 100, "gpus": "2"},
        "gpu03": {"cpus": 4, "mem_mb": 1024, "gpus": ""},
    }
    assert bypyslurm.by_pyslurm(Module, "9")["unknown"]  # type: ignore[arg-type]


# -- asking in the background -----------------------------------------------------------------------


def test_answers_are_cached_and_batched(
    slurm_tools: Path, runner: Callable[..., RpcRunner]
) -> None:
    """Ten questions, many lookups: each id is asked once, unknown ones too."""
    tool(slurm_tools, "scontrol", f"[ $5 = 1 ] && exec cat {DATA}/one_node.txt\n"
         f"cat {DATA}/unknown.err >&2; exit 1")  # fmt: skip
    ask = runner()
    ids = [str(number) for number in range(1, 11)]
    wait(lambda: None not in [ask.lookup(jobid) for jobid in ids])
    for _ in range(100):
        assert ask.lookup("1")["user"] == "alice"
        assert ask.lookup("2")["unknown"]
    assert ask.outcomes == {"ok": 1, "unknown": 9, "failed": 0, "timeout": 0}
    assert (slurm_tools / "calls").read_text().count("scontrol") == 10
    ask.forget("1")
    assert ask.lookup("1") is None


@pytest.mark.slow
def test_dead_slurmctld_is_killed_backed_off_and_said_once(
    slurm_tools: Path, runner: Callable[..., RpcRunner], caplog: pytest.LogCaptureFixture
) -> None:
    """A scontrol that hangs is killed with all it started, asked ever more rarely, and recovers."""
    tool(slurm_tools, "scontrol", f"echo $$ >> {slurm_tools}/pids; sleep 60")
    ask = runner(timeout_s=0.4)
    began = time.monotonic()
    assert ask.lookup("1") is None
    assert time.monotonic() - began < 0.4
    wait(lambda: ask.outcomes["timeout"] >= 3)
    assert time.monotonic() - began > 3 * 0.4 + 0.2 + 0.4  # back-off doubles
    assert ask.failure is not None
    assert ask.failure.reason == "timeout"
    assert len([r for r in caplog.records if "slurmctld not asked" in r.message]) == 1
    # one that was killed before it said its number is not among them, and the next is then still there for a while
    pids = (slurm_tools / "pids").read_text().split()[:3]
    wait(lambda: all(_gone(int(pid)) for pid in pids))
    tool(slurm_tools, "scontrol", f"exec cat {DATA}/one_node.txt")
    wait(lambda: ask.lookup("1"))
    wait(lambda: ask.failure is None)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_close_kills_a_running_child(slurm_tools: Path, runner: Callable[..., RpcRunner]) -> None:
    """Close ends at once, and nothing of the child is left."""
    tool(slurm_tools, "scontrol", f"echo $$ >> {slurm_tools}/pids; sleep 60")
    ask = runner(timeout_s=30.0)
    ask.lookup("1")
    wait(lambda: (slurm_tools / "pids").exists() and (slurm_tools / "pids").read_text())
    began = time.monotonic()
    ask.close()
    assert time.monotonic() - began < 20
    wait(lambda: _gone(int((slurm_tools / "pids").read_text())))
    assert ask.failure is None


def test_refused_connection_is_told_in_slurms_words(
    slurm_tools: Path, runner: Callable[..., RpcRunner]
) -> None:
    """The failure carries what scontrol said, and the question stays for later."""
    tool(slurm_tools, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    ask = runner()
    ask.lookup("1")
    wait(lambda: ask.failure)
    assert ask.failure is not None
    assert "Unable to contact slurm controller" in ask.failure.message
    assert ask.outcomes["failed"] == 1


def test_what_is_no_id_is_never_asked(slurm_tools: Path, runner: Callable[..., RpcRunner]) -> None:
    """An id that the child would not pass on does not wait for ever, nor does it cost a call."""
    tool(slurm_tools, "scontrol", f"exec cat {DATA}/one_node.txt")
    ask = runner()
    assert ask.lookup("1" * 11) == {"jobid": "1" * 11, "unknown": True}
    assert ask.lookup("--help")["unknown"]
    wait(lambda: ask.lookup("1"))
    assert ask.outcomes == {"ok": 1, "unknown": 0, "failed": 0, "timeout": 0}
