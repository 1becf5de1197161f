"""Who a job is: hooks, environments of real processes, scontrol's real text, and a dead slurmctld."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobwatt.model import NS_PER_S, GpuState, Job, JobMeta, JobUsage
from jobwatt.slurm import rpc
from jobwatt.slurm.facts import UserNames, from_environs, read_environ
from jobwatt.slurm.hooks import write
from jobwatt.slurm.resolve import Resolver, RpcRunner
from jobwatt.slurm.rpc import AmbiguousError, parse_scontrol
from jobwatt.slurm.text import clean, cpus_on_node, expand_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parent / "data/scontrol"
PROC = Path("/proc")
GPUS = [GpuState(f"GPU-{at}", index=at, minor=at) for at in range(8)]
S = NS_PER_S
UID = 20_777 if os.geteuid() == 0 else os.geteuid()


def text_of(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.01)


# -- Slurm's notations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodelist", "names"),
    [
        ("gpu[01-02,05],cpu1", ["gpu01", "gpu02", "gpu05", "cpu1"]),
        ("r[1-2]n[09-10]", ["r1n09", "r1n10", "r2n09", "r2n10"]),
        ("gpu02", ["gpu02"]),
        ("", []),
    ],
)
def test_node_lists(nodelist: str, names: list[str]) -> None:
    """Ranges keep their zeros, brackets multiply, order is the list's."""
    assert expand_nodes(nodelist) == names


@pytest.mark.parametrize(
    "nodelist",
    [
        "a[1-", "a[1-99999999]", "a[1-9999]b[1-9999]", "a]", "a[x]", "[1]" * 3000, "[1-" + "9" * 5000 + "]",
        "x" * 300 + "[1-65535]", "[1-65535]" + "[1]" * 200, "a[[1]]", "a[1]]b[2]", "a[\u0663]",
    ],
)  # fmt: skip
def test_bad_node_lists(nodelist: str) -> None:
    """What is no list, or one that would fill the memory, is refused at once."""
    with pytest.raises(ValueError, match=r"list|many"):
        expand_nodes(nodelist)


def test_cpus_of_this_node() -> None:
    """The count is taken by the node's position; 0 where it cannot be told."""
    assert [cpus_on_node("4,2(x2)", "g[1-3]", f"g{n}") for n in (1, 2, 3, 4)] == [4, 2, 2, 0]
    assert cpus_on_node("8", "", "any") == 8
    assert cpus_on_node("8(x99999999999)", "", "any") == 0
    assert cpus_on_node("", "", "any") == 0
    assert cpus_on_node("9" * 5000, "", "any") == 0
    assert cpus_on_node("\u0663", "", "any") == 0


def test_cpus_of_absurdly_many_nodes_cost_nothing() -> None:
    """The repetitions are bounded together, not one by one."""
    tracemalloc.start()
    began = time.process_time()
    assert cpus_on_node("1(x65535),2(x65535)," + "1(x65535)," * 10_000, "", "any") == 0
    assert time.process_time() - began < 0.2
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_clean() -> None:
    """4096 characters with quotes, line breaks and no UTF-8 become one short valid line."""
    name = clean('"\n\x1b\u202e\udcff' * 1000)
    assert len(name) == 256
    assert name.startswith('"   \ufffd')
    assert name.isprintable()
    name.encode("utf-8")
    assert clean("plain é") == "plain é"


# -- scontrol's text --------------------------------------------------------------------------------


def test_one_node() -> None:
    """Every field of a plain job."""
    job = parse_scontrol(text_of("one_node"))
    assert {key: job[key] for key in ("jobid", "user", "uid", "partition", "name", "state")} == {
        "jobid": "1", "user": "alice", "uid": 20001, "partition": "A100", "name": "sleep.sh",
        "state": "RUNNING",
    }  # fmt: skip
    assert (job["account"], job["qos"]) == ("", "")  # (null)
    assert job["limit_s"] == 86_400
    assert job["end_s"] - job["start_s"] == 86_400
    assert job["nodes"] == {"gpu02": {"cpus": 2, "mem_mb": 600, "gpus": "0-1"}}


@pytest.mark.parametrize("recorded", ["two_nodes", "25.11/two_nodes"])
def test_each_node_has_its_own_gpus(recorded: str) -> None:
    """A two-node job: the index differs per node, the account is told; the SLUID is no part of the name."""
    job = parse_scontrol(text_of(recorded))
    assert (job["account"], job["name"]) == ("infres", "sleep.sh")
    assert {node: share["gpus"] for node, share in job["nodes"].items()} == {
        "gpu01": "0",
        "gpu02": "2",
    }


def test_equal_nodes_stand_in_one_group() -> None:
    """Nodes with equal shares are printed once, as a list; each gets the share."""
    share = {"cpus": 1, "mem_mb": 300, "gpus": ""}
    assert parse_scontrol(text_of("grouped"))["nodes"] == {"cpu01": share, "gpu01": share}


def test_shards_name_their_gpu() -> None:
    """A shard is a share of the GPU whose index stands there."""
    assert parse_scontrol(text_of("shards"))["nodes"]["gpu02"]["gpus"] == "1"


def test_suspended_holds_and_cancelled_does_not() -> None:
    """A suspended job keeps its GPUs; after the end slurmctld tells none, which is not zero."""
    assert parse_scontrol(text_of("suspended"))["nodes"]["gpu02"]["gpus"] == "2-3"
    assert parse_scontrol(text_of("cancelled"))["nodes"] == {}


def test_a_signal_on_its_way_takes_no_gpus() -> None:
    """Slurm shows a running job as SIGNALING while a signal to it is pending."""
    text = text_of("one_node").replace("JobState=RUNNING", "JobState=SIGNALING")
    assert parse_scontrol(text)["nodes"] == parse_scontrol(text_of("one_node"))["nodes"]


def test_array_task() -> None:
    """A task asked by its own id has its array's and its own number."""
    job = parse_scontrol(text_of("array_task"))
    assert (job["jobid"], job["array_job_id"], job["array_task_id"]) == ("7", "4", "1")


def test_lies_in_name_and_comment_change_nothing() -> None:
    """Forged JobId=, Account= and Nodes=, with line breaks, stay part of the name and the comment."""
    job = parse_scontrol(text_of("lying_name_and_comment"))
    assert (job["jobid"], job["uid"], job["account"], job["partition"]) == ("3", 20001, "", "A100")
    assert job["nodes"] == {"gpu02": {"cpus": 1, "mem_mb": 256, "gpus": "3"}}
    assert job["name"].startswith('evil "name" UserId=root(0) Account=gold')
    assert "\n" not in job["name"]


@pytest.mark.parametrize(
    "where",
    ["forged_record_in_name", "forged_record_in_comment", "26.05/forged_record_in_name"],
)
def test_a_forged_record_is_noticed_and_told_by_the_name(where: str) -> None:
    """A whole forged record is ambiguous; with the exact job name the real one is found."""
    text = text_of(where)
    with pytest.raises(AmbiguousError):
        parse_scontrol(text)
    named = re.search(r"(?s)JobName=(.*?)(?: SLUID=\S+)? UserId=alice", text)
    name = "plain" if where.endswith("comment") else named[1] if named else ""
    job = parse_scontrol(text, name)
    assert (job["user"], job["uid"], job["partition"]) == ("alice", 20001, "A100")
    assert len(job["nodes"]) == 1
    assert job["nodes"]["gpu02"]["gpus"] != "0-7"


@pytest.mark.parametrize("where", ["array", "het", "25.11/het"])
def test_several_records_are_ambiguous(where: str) -> None:
    """An array's or a heterogeneous job's id shows several records: none is picked blindly."""
    with pytest.raises(AmbiguousError):
        parse_scontrol(text_of(where))


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [("het", ("11", "het2", "2")), ("25.11/het", ("4890004", "het2", "1"))],
)
def test_het_component_alone(recorded: str, expected: tuple[str, str, str]) -> None:
    """A component is a job of its own; HetJobIdSet and SLUID are no part of its name."""
    job = parse_scontrol(text_of(recorded).splitlines()[1] + "\n")
    assert (job["jobid"], job["name"], job["nodes"]["gpu01"]["gpus"]) == expected


def test_no_record() -> None:
    """Anything else is an error, not an empty job."""
    with pytest.raises(ValueError, match="not a job record"):
        parse_scontrol("No jobs in the system\n")


# -- the child --------------------------------------------------------------------------------------


@pytest.fixture
def slurm_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in PATH that stands in for Slurm's commands, the outermost edge."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "no-slurm.conf"))
    return tools


def tool(tools: Path, name: str, body: str) -> None:
    (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tools}/calls\n{body}\n')
    (tools / name).chmod(0o755)


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

    job = rpc.by_pyslurm(Module, "7")  # type: ignore[arg-type]
    assert (job["uid"], job["qos"], job["name"], job["limit_s"]) == (20001, "", "n 1", 1800)
    assert job["nodes"] == {
        "gpu02": {"cpus": 1, "mem_mb": 100, "gpus": "2"},
        "gpu03": {"cpus": 4, "mem_mb": 1024, "gpus": ""},
    }
    assert rpc.by_pyslurm(Module, "9")["unknown"]  # type: ignore[arg-type]


# -- asking in the background -----------------------------------------------------------------------


@pytest.fixture
def runner() -> Iterator[Callable[..., RpcRunner]]:
    made: list[RpcRunner] = []

    def make(**options: float | tuple[float, float]) -> RpcRunner:
        made.append(RpcRunner(**{"spacing_s": 0.05, "backoff_s": (0.2, 1.0), **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_answers_are_cached_and_batched(
    slurm_tools: Path, runner: Callable[..., RpcRunner]
) -> None:
    """Ten questions, many lookups: each id is asked once, unknown ones too."""
    tool(slurm_tools, "scontrol", f"[ $5 = 1 ] && exec cat {DATA}/one_node.txt\n"
         f"cat {DATA}/unknown.err >&2; exit 1")  # fmt: skip
    ask = runner()
    ids = [str(number) for number in range(1, 11)]
    wait_for(lambda: None not in [ask.lookup(jobid) for jobid in ids])
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
    wait_for(lambda: ask.outcomes["timeout"] >= 3)
    assert time.monotonic() - began > 3 * 0.4 + 0.2 + 0.4  # back-off doubles
    assert ask.failure is not None
    assert ask.failure.reason == "timeout"
    assert len([r for r in caplog.records if "slurmctld not asked" in r.message]) == 1
    # one that was killed before it said its number is not among them, and the next is then still there for a while
    pids = (slurm_tools / "pids").read_text().split()[:3]
    wait_for(lambda: all(_gone(int(pid)) for pid in pids))
    tool(slurm_tools, "scontrol", f"exec cat {DATA}/one_node.txt")
    wait_for(lambda: ask.lookup("1"))
    wait_for(lambda: ask.failure is None)


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
    wait_for(lambda: (slurm_tools / "pids").exists() and (slurm_tools / "pids").read_text())
    began = time.monotonic()
    ask.close()
    assert time.monotonic() - began < 20
    wait_for(lambda: _gone(int((slurm_tools / "pids").read_text())))
    assert ask.failure is None


def test_refused_connection_is_told_in_slurms_words(
    slurm_tools: Path, runner: Callable[..., RpcRunner]
) -> None:
    """The failure carries what scontrol said, and the question stays for later."""
    tool(slurm_tools, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    ask = runner()
    ask.lookup("1")
    wait_for(lambda: ask.failure)
    assert ask.failure is not None
    assert "Unable to contact slurm controller" in ask.failure.message
    assert ask.outcomes["failed"] == 1


# -- environments -----------------------------------------------------------------------------------

TASK = {
    "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ACCOUNT": "infres",
    "SLURM_JOB_PARTITION": "A100", "SLURM_JOB_NAME": 'a "b"\nc', "SLURM_JOB_USER": "root",
    "SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "256", "SLURMD_NODENAME": "gpu02",
}  # fmt: skip


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


@pytest.fixture
def process() -> Iterator[Callable[..., int]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(uid: int = UID, **env: str) -> int:
        user = uid if os.geteuid() == 0 else None
        started.append(subprocess.Popen(["/bin/sleep", "60"], env=env, user=user, cwd="/"))
        return started[-1].pid

    yield start
    for one in started:
        one.kill()
        one.wait()


class Node:
    """A resolver on a node, with its hooks and its clock in the test's hand."""

    def __init__(self, state: Path, **options: object) -> None:
        self.state, self.now = state, 1000 * S
        self.processes: dict[str, list[int]] = {}
        options = {"procfs": PROC, "forget": True, **options}
        self.resolver = Resolver(state=state, node="gpu02", **options)  # type: ignore[arg-type]

    def hook(self, event: str, jobid: int, *, after_s: float = 0, **env: str) -> None:
        base = {
            "SLURM_JOB_ID": str(jobid), "SLURM_JOB_USER": "alice", "SLURM_JOB_UID": str(UID),
            "SLURM_JOB_ACCOUNT": "infres", "SLURM_JOB_PARTITION": "A100", "SLURM_JOB_GPUS": "2",
            "SLURMD_NODENAME": "gpu02", "SLURM_JOB_CPUS_PER_NODE": "4",
        }  # fmt: skip
        t_ns = self.now + int(after_s * S)
        write(self.state, event, {**base, **env}, t_ns=t_ns, wall_s=time.time())

    def update(self, *usages: JobUsage, after_s: float = 1.0, gpus: object = None) -> dict:
        self.now += int(after_s * S)
        inventory = GPUS if gpus is None else gpus
        return self.resolver.update(
            usages, lambda k: self.processes.get(k, []), inventory, self.now
        )  # type: ignore[arg-type]

    def holders(self) -> dict[str, list[str]]:
        return {job.usage.key: list(job.meta.gpus) for job in self.resolver.hook_jobs()}


def usage(jobid: int, node: str = "", uid: int | None = UID) -> JobUsage:
    return JobUsage(f"{node}/{jobid}", node=node, jobid=jobid, uid=uid)


def test_environment_of_a_real_process(tmp_path: Path, process: Callable[..., int]) -> None:
    """Without hooks the environment tells all but the user, who is the kernel's uid."""
    node = Node(tmp_path)
    node.processes["/7"] = [process(**TASK, SLURM_JOB_GPUS="5", PAD="x" * 100_000)]
    meta = node.update(usage(7))["/7"]
    assert (meta.account, meta.partition, meta.name) == ("infres", "A100", 'a "b" c')
    assert (meta.gpus, meta.gpus_by, meta.resolved_by) == ({"GPU-5": 1}, "environ", "environ")
    assert (meta.cpus_alloc, meta.mem_alloc_bytes) == (4, 4 * 256 << 20)
    wait_for(lambda: node.update(usage(7))["/7"].user)
    meta = node.update(usage(7))["/7"]
    assert (meta.uid, meta.user) == (UID, str(UID) if os.geteuid() == 0 else meta.user)
    assert meta.user != "root" or os.geteuid() == 0


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
    wait_for(lambda: names.get(0) and names.get(3_999_999_999))
    assert names.get(0) == pwd.getpwuid(0).pw_name
    assert names.get(3_999_999_999) == "3999999999"


# -- hooks and the table of states ------------------------------------------------------------------


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


# -- slurmctld --------------------------------------------------------------------------------------


class Told:
    """Answers that are there at once, in place of the background thread."""

    failure = None

    def __init__(self, **answers: dict[str, object]) -> None:
        self.answers, self.asked = answers, []
        self.outcomes = {"ok": 0}

    def lookup(self, jobid: str) -> dict[str, object] | None:
        self.asked.append(jobid)
        return self.answers.get(f"j{jobid}")

    def forget(self, jobid: str) -> None:
        pass

    def close(self) -> None:
        pass


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


# -- words of users ---------------------------------------------------------------------------------


def environ_of(procfs: Path, pid: int, **env: str | bytes) -> int:
    """A process as /proc shows it, with any environment at all; UID's own."""
    directory = procfs / str(pid)
    directory.mkdir(parents=True, exist_ok=True)
    pairs = [
        name.encode() + b"=" + (v if isinstance(v, bytes) else os.fsencode(v))
        for name, v in env.items()
    ]
    (directory / "environ").write_bytes(b"\0".join(pairs))
    os.chown(directory, UID, -1)
    return pid


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


def test_what_is_no_id_is_never_asked(slurm_tools: Path, runner: Callable[..., RpcRunner]) -> None:
    """An id that the child would not pass on does not wait for ever, nor does it cost a call."""
    tool(slurm_tools, "scontrol", f"exec cat {DATA}/one_node.txt")
    ask = runner()
    assert ask.lookup("1" * 11) == {"jobid": "1" * 11, "unknown": True}
    assert ask.lookup("--help")["unknown"]
    wait_for(lambda: ask.lookup("1"))
    assert ask.outcomes == {"ok": 1, "unknown": 0, "failed": 0, "timeout": 0}


# -- SLUIDs -----------------------------------------------------------------------------------------

SLUID = "s0123456789abc"


def answer_for(number: str, uid: int, **more: object) -> dict[str, object]:
    nodes = {"gpu02": {"cpus": 4, "mem_mb": 100, "gpus": "3"}}
    return {
        "jobid": number, "number": number, "user": f"u{uid}", "uid": uid, "account": f"a{uid}",
        "by": "scontrol", "state": "RUNNING", "nodes": nodes, **more,
    }  # fmt: skip


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


# -- requeues and restarts --------------------------------------------------------------------------


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
