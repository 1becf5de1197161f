"""
Who a job is and which GPUs it holds: from the hooks, the job's environment and slurmctld.

A job's life as the resolver sees it (P prolog record, C cgroup or processes, E epilog record):

    seen     ``update`` returns it  ``hook_jobs``  ``ended``       holds GPUs
    C        yes                    no             -               as environment, slurmctld say
    P        no                     yes            -               as the prolog says
    P C      yes                    no             -               as the prolog says
    P, C was no                     yes            -               as the prolog says (between two
                                                                   steps of salloc, COMPLETING)
    P C E    yes, with end, no GPUs no             once            no (stragglers only burn CPU)
    P E      no                     no             once            until the epilog
    C was    no                     no             no              no
    P' (requeued: a later prolog of the same id) begins anew, nothing of the old life is kept.

A prolog whose epilog never comes (slurmd killed, no Epilog hook) ends when slurmctld says the job
has ended, an hour after its time limit, or, where no epilog has ever been seen, a minute after
its cgroup went. What ``ended`` gives are the GPUs held until the end.

Precedence: hook, slurmctld, environment, field by field; the user is never the environment's
word. Heterogeneous components are jobs of their own, array tasks go by their raw id, a suspended
job keeps what it holds, an ssh-adopted process is in the job's ``extern`` step and so in its
cgroup.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S, Failure, Job, JobMeta, JobUsage
from jobwatt.slurm.controller import RpcRunner
from jobwatt.slurm.facts import Facts, UserNames, from_answer, from_hook, merge, read_environ
from jobwatt.slurm.gpus import gpu_holdings
from jobwatt.slurm.hookdir import HookDir, HookRecord
from jobwatt.slurm.layout import job_key
from jobwatt.slurm.rpc import HOLDING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from jobwatt.model import GpuState
    from jobwatt.slurm.controller import Answer

__all__ = ["Resolver", "RpcRunner"]

log = logging.getLogger(__name__)

ASK_HOOKED_NS = 5 * NS_PER_S  # with a hook only name, QOS and limit are missing: no hurry
ASK_NS = NS_PER_S
READ_AT_NS = (0, 2 * NS_PER_S, 10 * NS_PER_S, 60 * NS_PER_S)  # the batch script may start late
ORPHAN_NS = 60 * NS_PER_S  # then slurmctld is asked whether a job without cgroup still runs
RECHECK_NS = 1800 * NS_PER_S
LIMIT_SLACK_S = 3600
KEEP_NS = 60 * NS_PER_S  # what has ended is remembered (and its records kept) for so long


@dataclass(slots=True)
class _Entry:
    """What is known of one job."""

    key: str
    first_ns: int
    prolog: HookRecord | None = None
    hook: Facts | None = None
    epilog: HookRecord | None = None
    usage: JobUsage | None = None
    seen_ns: int = 0  # its cgroup, last
    environ: Facts | None = None
    answer: Facts | None = None
    asked: bool = False
    answered_ns: int = 0
    reads: int = 0
    end_ns: int = 0
    end_s: int = 0
    told_ns: int = 0  # when `ended` handed it out
    fresh: bool = False  # `meta` is up to date
    gpus: tuple[str, str] = ("", "")  # what was last said, and by whom
    meta: JobMeta = field(default_factory=JobMeta)

    @property
    def jobid(self) -> str:
        """Slurm's number; of a SLUID only what a source tells, "" until then."""
        if self.usage is not None and self.usage.jobid is not None:
            return str(self.usage.jobid)
        told = (self.prolog, self.answer, self.environ)
        return next((one.jobid for one in told if one is not None), "")


class Resolver:
    """
    Names the jobs of a node. Called from the sampling thread only; nothing here blocks.

    Call ``update`` at each sample, then ``hook_jobs``, ``ended`` and ``late``, which speak of the
    same moment. A record is removed ``KEEP_NS`` after ``ended`` told of it, so a daemon that is
    killed in between is told again: booking an end twice must change nothing.

    Attributes:
        hook_path: directory to watch to hear of a prolog or epilog at once.
        named: whether cgroups carry node names; learnt from usages and records, may be set.
    """

    def __init__(
        self,
        *,
        procfs: Path,
        state: Path,
        rpc: RpcRunner | None = None,
        numbering: str = "minor",
        node: str = "",
    ) -> None:
        self.named = False
        self._procfs, self._rpc, self._numbering = procfs, rpc, numbering
        self._node = node or os.uname().nodename.partition(".")[0]
        self._hooks = HookDir(state, procfs=procfs)
        self.hook_path = self._hooks.path
        self._names = UserNames()
        self._sluids = False
        self._nodes: set[str] = set()  # of all records
        self._epilogs = False  # an epilog was seen: both hooks are in use
        self._entries: dict[str, _Entry] = {}
        self._inventory: Sequence[GpuState] = ()
        self._shape: tuple[object, ...] = ()
        self._unknown: dict[str, Failure] = {}
        self._present: dict[str, JobMeta] = {}
        self._ended: list[_Entry] = []
        self._late: list[Job] = []

    def update(
        self,
        usages: Sequence[JobUsage],
        pids: Callable[[str], list[int]],
        inventory: Sequence[GpuState],
        t_ns: int,
        *,
        named: bool = False,
    ) -> dict[str, JobMeta]:
        """
        What is known now of each job in ``usages``, by key. Never raises, never waits.

        ``named``: Slurm's roots carry node names, so that a job without cgroup gets the right key.
        """
        self._learn_style(usages, named=named)
        for record in self._hooks.poll():
            self._note(record, t_ns)
        self._take_inventory(inventory)
        self._present = {usage.key: self._update_one(usage, pids, t_ns) for usage in usages}
        for entry in [one for key, one in self._entries.items() if key not in self._present]:
            self._update_absent(entry, t_ns)
        return self._present

    def hook_jobs(self) -> list[Job]:
        """
        Jobs between prolog and epilog of which no cgroup or process exists now; nothing counts
        their CPU time.
        """
        return [
            self._uncounted(entry)
            for key, entry in self._entries.items()
            if entry.prolog is not None and not entry.end_ns and key not in self._present
        ]

    def ended(self, t_ns: int) -> list[Job]:
        """Jobs whose epilog came since the last call, with ``end_ns``, ``end_s`` and their GPUs."""
        told, self._ended = self._ended, []
        for entry in told:
            entry.told_ns = t_ns
        return [self._job(entry) for entry in told]

    def late(self) -> list[Job]:
        """Jobs that had ended before and of which slurmctld has answered since the last call."""
        late, self._late = self._late, []
        return late

    def failures(self) -> tuple[Failure, ...]:
        """What cannot be resolved now, and why."""
        rpc = self._rpc.failure if self._rpc is not None else None
        own = [failure for failure in (self._hooks.failure, rpc) if failure is not None]
        return (*own, *self._unknown.values())

    def calls(self) -> dict[str, int]:
        """Questions asked of slurmctld since the start, by outcome."""
        return dict(self._rpc.outcomes) if self._rpc is not None else {}

    def close(self) -> None:
        """End the child and the thread that asks slurmctld."""
        if self._rpc is not None:
            self._rpc.close()

    # -- hooks ------------------------------------------------------------------------------------

    def _learn_style(self, usages: Iterable[JobUsage], *, named: bool) -> None:
        """How cgroups are named here decides the key of a job that has none yet."""
        named = named or self.named or any(usage.node for usage in usages)
        sluids = self._sluids or any(usage.jobid is None for usage in usages)
        if (named, sluids) != (self.named, self._sluids):
            self._restyle(named, sluids)

    def _restyle(self, named: bool, sluids: bool) -> None:
        self.named, self._sluids = named, sluids
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            if entry.usage is None and entry.prolog is not None:
                entry.key = self._key(entry.prolog)
            self._entries[entry.key] = entry

    def _key(self, record: HookRecord) -> str:
        node = record.node if self.named else ""
        if self._sluids and record.sluid:
            return job_key(node, record.sluid, None)
        return job_key(node, record.jobid, int(record.jobid))

    def _note(self, record: HookRecord, t_ns: int) -> None:
        self._nodes.add(record.node)
        if len(self._nodes) > 1 and not self.named:  # several slurmd share this host
            self._restyle(True, self._sluids)
        entry = self._entries.get(self._key(record)) or self._find(record)
        if record.event == "epilog":
            self._note_end(entry or _Entry(self._key(record), record.t_ns), record)
            return
        if entry is not None and (entry.end_ns or entry.prolog not in (None, record)):
            if record.t_ns < max(entry.end_ns, entry.prolog.t_ns if entry.prolog else 0):
                return
            self._forget_answer(entry)  # requeued: another life, other GPUs
            entry = None
        entry = entry or _Entry(self._key(record), record.t_ns)
        self._entries[entry.key] = entry
        entry.prolog, entry.hook, entry.fresh = record, from_hook(record), False
        entry.first_ns = min(entry.first_ns, record.t_ns, t_ns)

    def _note_end(self, entry: _Entry, record: HookRecord) -> None:
        self._epilogs = True
        if entry.prolog is not None and entry.prolog.t_ns > record.t_ns:
            return  # of the life before a requeue
        if entry.epilog is not None and entry.epilog.t_ns == record.t_ns:
            return
        self._entries[entry.key] = entry
        entry.epilog = record
        entry.hook = entry.hook or replace(from_hook(record), start_s=record.start_s, limit_end_s=0)
        self._end(entry, record.t_ns, int(record.wall_s))

    def _end(self, entry: _Entry, end_ns: int, end_s: int) -> None:
        entry.end_ns, entry.end_s, entry.fresh = end_ns, end_s, False
        self._ended.append(entry)

    def _find(self, record: HookRecord) -> _Entry | None:
        """Find the job of a record under another key: a SLUID's, or one without the node's name."""
        for entry in self._entries.values():
            usage, prolog = entry.usage, entry.prolog
            if entry.jobid != record.jobid or usage is None:
                continue
            same_node = (prolog.node if prolog else usage.node) in ("", record.node)
            if same_node and usage.uid in (None, record.uid):
                return entry
        return None

    # -- one job ----------------------------------------------------------------------------------

    def _update_one(self, usage: JobUsage, pids: Callable[[str], list[int]], t_ns: int) -> JobMeta:
        entry = self._entries.get(usage.key)
        if entry is None:
            entry = self._entries[usage.key] = _Entry(usage.key, t_ns)
            if usage.jobid is not None and not usage.node and self.named:
                self._join(entry, str(usage.jobid), usage.uid)
        if entry.usage is None or entry.usage.uid != usage.uid:
            entry.fresh = False
        entry.usage, entry.seen_ns = usage, t_ns
        if not entry.end_ns:
            self._read(entry, pids, t_ns)
            self._ask(entry, t_ns, ASK_HOOKED_NS if entry.hook else ASK_NS)
        meta = self._meta(entry)
        return replace(meta, gpus={}, cpus_alloc=0, mem_alloc_bytes=None) if entry.end_ns else meta

    def _update_absent(self, entry: _Entry, t_ns: int) -> None:
        """Wait for a cgroup, for an epilog, for a late answer, or forget the job."""
        if entry.prolog is not None and not entry.end_ns:
            self._ask(entry, t_ns, ASK_HOOKED_NS)
            self._check_orphan(entry, t_ns)
            return
        unresolved = entry.hook is None and entry.environ is None
        if (entry.asked or unresolved) and not entry.answered_ns:
            self._ask(entry, t_ns, 0)
            if entry.answered_ns and entry.answer is not None:
                self._late.append(self._job(entry))
        gone_ns = entry.told_ns if entry.end_ns else entry.seen_ns
        if gone_ns and t_ns - gone_ns > KEEP_NS:
            self._drop(entry)

    def _drop(self, entry: _Entry) -> None:
        self._entries.pop(entry.key, None)
        self._unknown.pop(entry.key, None)
        self._forget_answer(entry)
        for record in (entry.prolog, entry.epilog):
            if record is not None and entry.end_ns:
                self._hooks.forget(record.jobid, record.node)

    def _forget_answer(self, entry: _Entry) -> None:
        if self._rpc is not None and entry.asked:
            self._rpc.forget(self._question(entry))

    def _check_orphan(self, entry: _Entry, t_ns: int) -> None:
        """End a job whose epilog will not come; see the module's table."""
        state = entry.answer.state if entry.answer is not None else ""
        now_s = int(time.time())
        waits_ns = t_ns - max(entry.seen_ns, entry.first_ns)
        limit_s = entry.meta.limit_end_s
        if entry.answered_ns and (not entry.answer or (state and state not in HOLDING)):
            self._end(entry, entry.seen_ns or t_ns, (entry.answer and entry.answer.end_s) or now_s)
        elif (limit_s and now_s > limit_s + LIMIT_SLACK_S) or (
            entry.seen_ns and not self._epilogs and waits_ns > ORPHAN_NS
        ):
            self._end(entry, entry.seen_ns or t_ns, now_s)
        elif entry.answered_ns and waits_ns > ORPHAN_NS:
            since_ns = t_ns - entry.answered_ns
            if since_ns > RECHECK_NS or entry.answered_ns < entry.seen_ns:
                self._forget_answer(entry)
                entry.asked, entry.answered_ns = False, 0

    # -- environment, slurmctld -------------------------------------------------------------------

    def _read(self, entry: _Entry, pids: Callable[[str], list[int]], t_ns: int) -> None:
        usage = entry.usage
        if entry.environ is not None or usage is None or entry.reads >= len(READ_AT_NS):
            return
        if t_ns - entry.first_ns < READ_AT_NS[entry.reads]:
            return
        entry.reads += 1
        entry.environ = read_environ(self._procfs, pids(entry.key), usage.uid, entry.jobid)
        entry.fresh = entry.fresh and entry.environ is None
        if usage.jobid is None and entry.environ is not None:
            self._join(entry, entry.jobid, usage.uid)

    def _join(self, entry: _Entry, jobid: str, uid: int | None) -> None:
        """Give a cgroup that tells no number, or no node, the prolog filed under another key."""
        for other in self._entries.values():
            record = other.prolog
            if other is entry or record is None or other.usage is not None or other.end_ns:
                continue
            if record.jobid == jobid and uid in (None, record.uid):
                entry.prolog, entry.hook, entry.first_ns = record, other.hook, other.first_ns
                del self._entries[other.key]
                return

    def _question(self, entry: _Entry) -> str:
        number = entry.jobid
        return number or entry.key.rpartition("/")[2]

    def _ask(self, entry: _Entry, t_ns: int, after_ns: int) -> None:
        if self._rpc is None or entry.answered_ns or t_ns - entry.first_ns < after_ns:
            return
        entry.asked = True
        answer = self._rpc.lookup(self._question(entry))
        if answer is None:
            return
        entry.answered_ns, entry.fresh = t_ns, False
        if answer.get("unknown"):
            entry.answer = None
            return
        facts = from_answer(answer, self._node_in(entry, answer))
        uid = entry.usage.uid if entry.usage else None
        if entry.usage is not None and entry.usage.jobid is None and facts.uid != uid:
            log.warning("cgroup %s names job %s, which is not its user's", entry.key, facts.jobid)
            entry.environ = None
            return
        entry.answer = facts

    def _node_in(self, entry: _Entry, answer: Answer) -> str:
        """Tell this node's name in Slurm; what the environment says of it comes last."""
        nodes = answer.get("nodes") or {}
        usage, prolog, environ = entry.usage, entry.prolog, entry.environ
        sure = (usage and usage.node) or (prolog and prolog.node) or ""
        if sure or len(nodes) == 1:
            return sure
        return self._node if self._node in nodes else (environ.node if environ else "")

    # -- the result -------------------------------------------------------------------------------

    def _take_inventory(self, inventory: Sequence[GpuState]) -> None:
        shape = tuple((gpu.uuid, gpu.index, gpu.minor, gpu.mig_enabled) for gpu in inventory)
        if shape != self._shape:
            for entry in self._entries.values():
                entry.fresh = False
        self._shape, self._inventory = shape, inventory

    def _meta(self, entry: _Entry) -> JobMeta:
        if entry.fresh:
            return entry.meta
        told = [one.uid for one in (entry.hook, entry.answer) if one is not None]
        kernel = entry.usage.uid if entry.usage is not None else None
        uid = kernel if kernel is not None else next((one for one in told if one is not None), None)
        user = self._names.get(uid) if uid is not None else ""
        meta = merge(entry.hook, entry.answer, entry.environ, user, uid)
        entry.fresh = bool(meta.user) or uid is None
        spec, by = self._gpus(entry)
        entry.meta = replace(
            meta,
            jobid=entry.jobid,
            gpus=self._holdings(entry, spec, by),
            gpus_by=by,
            start_ns=entry.prolog.t_ns if entry.prolog else 0,
            end_ns=entry.end_ns,
            end_s=entry.end_s,
        )
        return entry.meta

    def _gpus(self, entry: _Entry) -> tuple[str, str]:
        """
        Choose the words on GPUs. A prolog without any outranks the environment.

        What was told while the job ran stays after its end, when slurmctld tells no longer.
        """
        for facts in (entry.hook, entry.answer):
            if facts is not None and facts.gpus is not None:
                entry.gpus = (facts.gpus, facts.by)
                return entry.gpus
        if entry.hook is not None:
            entry.gpus = ("", "hook")
        elif entry.environ is not None and entry.environ.gpus is not None and not entry.gpus[1]:
            entry.gpus = (entry.environ.gpus, "environ")
        return entry.gpus

    def _holdings(self, entry: _Entry, spec: str, by: str) -> dict[str, int]:
        held = gpu_holdings(spec, self._inventory, numbering=self._numbering)
        if held.unknown and self._inventory:
            failure = Failure(
                "resolve",
                "unknown_gpu",
                f"job {entry.jobid}: GPU {', '.join(held.unknown)} (said by {by}) is none of this "
                f"node's {len(self._inventory)}; mend: slurm.gpu-numbering must match gres.conf",
            )
            if entry.key not in self._unknown:
                log.warning("%s", failure.message)
            self._unknown[entry.key] = failure
        else:
            self._unknown.pop(entry.key, None)
        return dict(held.slices)

    def _job(self, entry: _Entry) -> Job:
        usage = entry.usage or self._synthetic(entry)
        return Job(usage, self._meta(entry))

    def _uncounted(self, entry: _Entry) -> Job:
        job = self._job(entry)
        return Job(replace(job.usage, counting=False), job.meta)

    def _synthetic(self, entry: _Entry) -> JobUsage:
        """A usage for a job that is known by its hooks only: nothing measured."""
        record = entry.prolog or entry.epilog
        if record is None:
            return JobUsage(entry.key)
        return JobUsage(
            key=entry.key,
            node=record.node if self.named else "",
            jobid=int(record.jobid),
            uid=record.uid,
            first_ns=entry.first_ns,
        )
