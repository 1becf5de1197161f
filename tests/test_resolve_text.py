"""What Slurm prints of nodes and jobs: its notations, and scontrol's real text."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest

from jobwatt.slurm.scontrol import AmbiguousError, parse_scontrol
from jobwatt.slurm.text import clean, cpus_on_node, expand_nodes
from resolvekit import text_of

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
