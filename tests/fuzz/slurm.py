"""Slurm's words, and those of its users: records, environments, notations, cgroups, processes."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from fuzz.base import (
    DATA,
    count,
    escaped,
    files,
    hold,
    joined,
    parts,
    place,
    put,
    shown,
    target,
)
from jobwatt.model import NS_PER_S, GpuState, JobMeta
from jobwatt.slurm import bypyslurm, controller, facts, gpus, hookdir, hooks, layout, procstat, text
from jobwatt.slurm import scontrol as scontrol_text
from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.proctree import ProcTree

if TYPE_CHECKING:
    from collections.abc import Mapping

INVENTORY = (
    GpuState("GPU-aaaa1111-0000", 0, 0),
    GpuState("GPU-bbbb2222-0000", 1, 1, mig_enabled=True, slices=7),
    GpuState("MIG-cccc3333-0000", 1, 1, parent="GPU-bbbb2222-0000", mig_device=0, slices=3),
    GpuState("GPU-aaaa1111-4444", 2, 5),
)
STRINGS = (
    "user",
    "account",
    "partition",
    "qos",
    "name",
    "array_job_id",
    "array_task_id",
    "state",
    "exit_code",
)


def meta(found: facts.Facts) -> JobMeta:
    """What becomes of a source's words, held to what a job's meta promises."""
    made = facts.merge(found, None, None, "", found.uid)
    for name in STRINGS:
        shown(getattr(made, name))
    hold(made.jobid == "" or text.is_jobid(made.jobid), f"job id {made.jobid!r:.60}")
    for number in (
        made.cpus_alloc,
        made.mem_alloc_bytes,
        made.start_s,
        made.end_s,
        made.limit_end_s,
        made.uid,
    ):
        count(number)
    for state in ("state", "exit_code"):
        shown(getattr(found, state))
    if found.gpus:
        held = gpus.gpu_holdings(found.gpus, INVENTORY)
        hold(held.slices.keys() <= {gpu.uuid for gpu in INVENTORY}, "a GPU of nobody")
        for unknown in held.unknown[:50]:
            shown(unknown, 80)
    return made


# --- notations ------------------------------------------------------------------------------------


@target("slurm.clean", [b"caf\xc3\xa9 \xff\x00\n", b"a" * 300, b"\xed\xa0\x80"], share=1.5)
def clean(data: bytes) -> None:
    for given in (
        escaped(data),
        data.decode("utf-8", "surrogatepass") if _valid(data) else "",
        data.decode("latin-1"),
    ):
        shown(text.clean(given))
        shown(text.clean(given, 32), 32)
    hold(text.number(escaped(data)) >= 0, "a negative number")
    text.is_jobid(escaped(data))


def _valid(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


@target("slurm.indexes", [b"0,2-3", b"0-4095", b"1,1,1"], ValueError, share=1.5)
def indexes(data: bytes) -> None:
    found = text.indexes(escaped(data))
    hold(len(found) <= 4096, f"{len(found)} indexes")


@target(
    "slurm.nodelist",
    [
        b"gpu[01-02,05],cpu1",
        b"r[1-2]n[1-2]",
        b"a[0-65535]",
        b"n[1-2][3-4][5-6][7-8][0-1][0-1][0-1][0-1]",
    ],
    ValueError,
    max_len=1024,
)
def nodelist(data: bytes) -> None:
    names = text.expand_nodes(escaped(data))
    hold(len(names) <= text.MAX_NODES, f"{len(names)} nodes")
    hold(max(map(len, names), default=0) <= text.MAX_NAME, "a node's name without an end")


@target(
    "slurm.cpus_per_node",
    [
        joined("2(x2),4", "gpu[01-03]", "gpu03"),
        joined("64", "", ""),
        joined("1(x65536),2", "n[1-65537]", "n1"),
    ],
    max_len=1024,
)
def cpus_per_node(data: bytes) -> None:
    per_node, nodes, node = map(escaped, parts(data, 3))
    count(text.cpus_on_node(per_node, nodes, node), most=10**6)


@target(
    "slurm.gpu_words",
    [
        b"0,2-3",
        b"GPU-aaaa1111-0000,MIG-cccc",
        b"1:0",
        b"gpu:a100:2(IDX:0-1),shard:2(IDX:4)",
        b"gres/gpu(IDX:0,3)",
    ],
    share=1.5,
)
def gpu_words(data: bytes) -> None:
    spec = escaped(data)
    gpus.has_uuids(spec)
    for words in (spec, gpus.gres_indexes(spec)):
        for numbering in gpus.NUMBERINGS:
            held = gpus.gpu_holdings(words, INVENTORY, numbering=numbering)
            hold(len(held.slices) <= len(INVENTORY), "more GPUs than there are")
            for one in held.unknown[:50]:
                shown(one, 80)


# --- slurmctld ------------------------------------------------------------------------------------


@target(
    "slurm.scontrol",
    files("scontrol/*.txt"),
    ValueError,
    scontrol_text.AmbiguousError,
    max_len=4096,
    share=2.0,
)
def scontrol(data: bytes) -> None:
    said = escaped(data)
    name, _, record = said.rpartition("\x1e")
    found = scontrol_text.parse_scontrol(record, name or None)
    answers = controller._lines(json.dumps(found).encode())
    hold(len(answers) == 1, "its own answer is not taken")
    for node in ("", *list(found["nodes"])[:3]):
        meta(facts.from_answer(answers[0], node))


def _answers() -> list[bytes]:
    found = [
        scontrol_text.parse_scontrol((DATA / "scontrol" / name).read_text())
        for name in ("one_node.txt", "two_nodes.txt")
    ]
    found += [
        {"jobid": "7", "unknown": True},
        {**found[0], "calls": 2, "jobid": "s0123456789ABC", "number": "7"},
    ]
    return [json.dumps(one).encode() + b"\n" for one in found]


@target("slurm.answers", _answers, json=True, share=1.5)
def answers(data: bytes) -> None:
    asker = controller.RpcRunner()
    for line in controller._lines(data):
        asker._wanted[str(line.get("jobid", ""))] = None
    asker._store(controller._lines(data))
    for answer in asker._answers.values():
        if answer.get("unknown"):
            continue
        for node in ("", "gpu01", "n1"):
            meta(facts.from_answer(answer, node))
    count(asker.outcomes["ok"])


@target(
    "slurm.pyslurm_layout",
    [
        b'{"n1": {"cpu_ids": "0-1", "gres": {"gpu:a100": {"count": 2, "indexes": "0-1"}}, "memory": 600}}'
    ],
    json=True,
    share=0.5,
)
def pyslurm_layout(data: bytes) -> None:
    tree = _tree(data)
    if not isinstance(tree, dict) or not all(isinstance(v, dict) for v in tree.values()):
        return

    class Job:
        def get_resource_layout_per_node(self) -> Mapping[str, Any]:
            return tree

    json.dumps(bypyslurm._layout(Job()))


def _tree(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


# --- environments and hooks -----------------------------------------------------------------------

_ENVIRON = (
    b"SLURM_JOB_ID=7\0SLURMD_NODENAME=gpu01\0SLURM_JOB_NODELIST=gpu[01-02]\0SLURM_JOB_CPUS_PER_NODE=2(x2)\0"
    b"SLURM_MEM_PER_NODE=600\0SLURM_JOB_ACCOUNT=ltci\0SLURM_JOB_PARTITION=A100\0SLURM_JOB_NAME=bash\0"
    b"SLURM_JOB_GPUS=0,1\0SLURM_JOB_NUM_NODES=1\0SLURM_JOB_START_TIME=1700000000\0SLURM_JOB_END_TIME=1700003600\0"
)


@target(
    "slurm.environ",
    [
        _ENVIRON,
        b"PATH=/bin\0SLURM_JOB_ID=12\0SLURM_STEP_GPUS=1-3\0SLURM_MEM_PER_CPU=100\0SLURM_CPUS_ON_NODE=8\0",
        b"SLURM_JOB_ID=3\0CUDA_VISIBLE_DEVICES=GPU-aaaa1111-0000,MIG-cccc3333-0000\0SLURM_ARRAY_TASK_ID=4\0",
    ],
    max_len=8192,
    share=2.0,
)
def environ(data: bytes) -> None:
    put("proc/1/environ", data)
    found = facts.read_environ(place() / "proc", [1], os.getuid(), "")
    if found is not None:
        meta(found)
        hold(found.user == "", "a user's own word on who he is")


def _records() -> list[bytes]:
    env = dict(pair.split("=", 1) for pair in _ENVIRON.decode().split("\0") if pair)
    env |= {"SLURM_JOB_USER": "alice", "SLURM_JOB_UID": "1000", "SLURM_JOB_EXIT_CODE2": "1:0"}
    found = []
    for event in ("prolog", "epilog"):
        hooks.write(place() / "state", event, env, t_ns=10**12, wall_s=1.7e9)
        found.append((place() / "state" / "hooks" / f"7.gpu01.{event}.json").read_bytes())
    return found


@target("slurm.hook_record", _records, json=True, share=2.0)
def hook_record(data: bytes) -> None:
    directory = hookdir.HookDir(place())
    name = "7.gpu01.prolog.json"
    record = directory._accept(name, data)
    if record is not None:
        meta(facts.from_hook(record))
        count(record.t_ns)
        shown(record.exit_code, 32)


@target(
    "slurm.hook_write",
    [_ENVIRON + b"SLURM_JOB_UID=1000\0SLURM_JOB_USER=alice\0"],
    ValueError,
    max_len=8192,
    share=0.3,
)
def hook_write(data: bytes) -> None:
    env = dict(pair.partition("=")[::2] for pair in escaped(data).split("\0"))
    state = place() / "written"
    hooks.write(
        state, "prolog", env, t_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME), wall_s=time.time()
    )
    directory = hookdir.HookDir(state, forget=True)
    found = directory.poll()
    if not text.is_jobid(
        env["SLURM_JOB_ID"]
    ):  # 007: slurmd gives none such, and it is not believed
        for left in (state / "hooks").iterdir():
            left.unlink()
        return
    hold(len(found) == 1, "a hook's own record is not believed")
    meta(facts.from_hook(found[0]))
    directory.forget(found[0].jobid, found[0].node)
    hold(not list((state / "hooks").iterdir()), "a record stays")


# --- the kernel's view of jobs --------------------------------------------------------------------


@target(
    "slurm.cgroup_names",
    [
        b"0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n",
        b"12:memory:/slurm_n1/uid_1000/job_12/step_batch\n1:name=systemd:/user.slice/x\n",
        b"0::/system.slice/n1_slurmstepd.scope/s0123456789ABC/step_0\n",
    ],
    share=1.5,
)
def cgroup_names(data: bytes) -> None:
    said = escaped(data)
    for path in layout.paths_in(said):
        hold(len(path.key) <= len(said), "a key that is longer than the path")
        hold(not path.below or path.below.startswith("/"), "below the job, but not of it")
    for name in said.split("/")[:20]:
        layout.is_jobs_business(name)
        layout.job_name(name)
        layout.slice_paths(name)


_STAT = b"42 (a) b) R 1 42 42 0 -1 4194304 9 0 0 0 %d %d 5 6 20 0 1 0 777 1000 33 18446744073709551615 1 1 0 0 0 0"


@target(
    "slurm.proc_stat",
    [_STAT % (3, 4), b"1 (slurmstepd) S 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0 0"],
    ValueError,
    IndexError,
    share=1.5,
)
def proc_stat(data: bytes) -> None:
    stat = procstat.parse_stat(data)
    hold(isinstance(stat.own, int), "no number")


def _processes() -> list[bytes]:
    stepd = b"10 (slurmstepd) S 1 10 10 0 -1 0 0 0 0 0 5 5 0 0 20 0 1 0 100 0 50 0"
    task = b"11 (python) R 10 11 11 0 -1 0 0 0 0 0 900 5 0 0 20 0 1 0 120 0 5000 0"
    return [
        joined(
            stepd,
            b"slurmstepd: [7.batch]\0",
            b"Name:\tslurmstepd\nUid:\t0\t0\t0\t0\n",
            task,
            b"9 7000 300 1 0 1 0",
            task,
        )
    ]


@target("slurm.processes", _processes, share=0.2)
def processes(data: bytes) -> None:
    stepd, title, status, task, statm, later = parts(data, 6)
    put("tree/10/stat", stepd)
    put("tree/10/cmdline", title)
    put("tree/10/status", status)
    put("tree/11/stat", task)
    put("tree/11/statm", statm)
    jobs = ProcTree(place() / "tree")
    first = {usage.key: usage.cpu_ns for usage in jobs.scan(NS_PER_S)}
    put("tree/11/stat", later)
    for usage in jobs.scan(2 * NS_PER_S):
        hold((usage.cpu_ns or 0) >= (first.get(usage.key) or 0), "CPU time that goes backwards")
        jobs.pids(usage.key)
    jobs.key_of(11)


@target(
    "slurm.cgroup_files",
    [
        joined(
            "usage_usec 12000\nuser_usec 1\n",
            "anon 4096\nfile 1\nshmem 77\n",
            "max\n",
            "0-3,8\n",
            "10\n11\n0\n",
        ),
        joined("123456789\n", "anon 1\n", "1073741824\n", "0-7\n", "1\n"),
    ],
    share=0.4,
)
def cgroup_files(data: bytes) -> None:
    job = "cg/system.slice/slurmstepd.scope/job_7"
    for name, content in zip(
        ("cpu.stat", "memory.stat", "memory.max", "cpuset.cpus", "cgroup.procs"),
        parts(data, 5),
        strict=True,
    ):
        put(f"{job}/{name}", content)
    put("cg/system.slice/slurmstepd.scope/cpu.stat", parts(data, 5)[0])
    found = Cgroups(place() / "cg", place() / "nothing")
    try:
        usages = found.scan(NS_PER_S)
        hold(len(usages) == 1, "the job is not there")
        found.roots()
        found.pids(usages[0].key)
    finally:
        found.close()
