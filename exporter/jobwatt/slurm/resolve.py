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
    P' (requeued: a later prolog of the same id) begins anew, nothing of the old life is kept;
    its end is told, unless it was before a restart.

A prolog whose epilog never comes (slurmd killed, no Epilog hook) ends when slurmctld says the job
has ended, an hour after its time limit, or, where no epilog has ever been seen, a minute after
its cgroup went. What ``ended`` gives are the GPUs held until the end.

Precedence: hook, slurmctld, what these had told before a restart, environment, field by field;
the user is never the environment's word. Heterogeneous components are jobs of their own, array tasks go by their raw id, a suspended
job keeps what it holds, an ssh-adopted process is in the job's ``extern`` step and so in its
cgroup.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S, Failure, Job, JobMeta, JobUsage
from jobwatt.slurm.answers import HOLDING
from jobwatt.slurm.controller import RpcRunner
from jobwatt.slurm.entries import Entry, differ, memory_of
from jobwatt.slurm.facts import from_hook
from jobwatt.slurm.hookdir import HookDir
from jobwatt.slurm.identity import Identity
from jobwatt.slurm.layout import job_key
from jobwatt.slurm.metas import Metas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from jobwatt.model import GpuState
    from jobwatt.slurm.hookrecord import HookRecord

__all__ = ["Resolver", "RpcRunner"]

ASK_HOOKED_NS = 5 * NS_PER_S  # with a hook only name, QOS and limit are missing: no hurry
ASK_NS = NS_PER_S
ORPHAN_NS = 60 * NS_PER_S  # then slurmctld is asked whether a job without cgroup still runs
RECHECK_NS = 1800 * NS_PER_S
LIMIT_SLACK_S = 3600
KEEP_NS = 60 * NS_PER_S  # what has ended is remembered (and its records kept) for so long


class Resolver:
    """
    Names the jobs of a node. Called from the sampling thread only; nothing here blocks.

    Only with ``forget`` are the hooks' records of ended jobs removed: for the daemon, not for who
    merely looks. Call ``update`` at each sample, then ``hook_jobs``, ``ended`` and ``late``, which speak of the
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
        forget: bool = False,
    ) -> None:
        self.named = False
        self._rpc = rpc
        self._hooks = HookDir(state, forget=forget)
        self.hook_path = self._hooks.path
        self._sluids = False
        self._nodes: set[str] = set()  # of all records
        self._epilogs = False  # an epilog was seen: both hooks are in use
        self._entries: dict[str, Entry] = {}
        self._metas = Metas(numbering)
        self._identity = Identity(self._entries, self._metas, procfs=procfs, rpc=rpc, node=node)
        self._present: dict[str, JobMeta] = {}
        self._ended: list[Entry] = []
        self._past: list[Entry] = []  # ended lives of jobs that were requeued
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
        if records := self._hooks.poll():
            jobs = self._by_number()
            for record in records:
                self._note(record, t_ns, jobs.get(record.jobid, ()))
        self._metas.take_inventory(inventory, self._entries.values())
        self._present = {usage.key: self._update_one(usage, pids, t_ns) for usage in usages}
        for entry in [one for key, one in self._entries.items() if key not in self._present]:
            self._update_absent(entry, t_ns)
        self._tidy(t_ns)
        return self._present

    def remember(self, jobs: Iterable[Job]) -> None:
        """
        Take what was known before a restart (in the same boot); call it before the first ``update``.

        Hook and slurmctld override it, the environment only what the environment had told. Of a
        job that is not there at the next ``update``, or is another user's, nothing is kept.
        """
        for job in jobs:
            key, meta = job.usage.key, job.meta
            if key not in self._entries and (meta.resolved_by or meta.gpus_by or meta.end_ns):
                entry = Entry(key, job.usage.first_ns, memory=memory_of(job))
                entry.end_ns = entry.told_ns = meta.end_ns
                entry.end_s = meta.end_s
                self._entries[key] = entry

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
        return (*own, *self._metas.unknown.values())

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
        entries = list(self._entries.values())
        self._entries.clear()
        for entry in entries:
            if entry.usage is None and entry.prolog is not None:
                entry.key = self._key(entry.prolog)
            self._entries[entry.key] = entry

    def _key(self, record: HookRecord) -> str:
        node = record.node if self.named else ""
        if self._sluids and record.sluid:
            return job_key(node, record.sluid, None)
        return job_key(node, record.jobid, int(record.jobid))

    def _by_number(self) -> dict[str, list[Entry]]:
        """Jobs that are there, by the number they have or claim."""
        jobs: dict[str, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.about is not None and (jobid := entry.jobid or entry.claim):
                jobs.setdefault(jobid, []).append(entry)
        return jobs

    def _note(self, record: HookRecord, t_ns: int, named: Iterable[Entry]) -> None:
        self._nodes.add(record.node)
        if len(self._nodes) > 1 and not self.named:  # several slurmd share this host
            self._restyle(True, self._sluids)
        entry = self._entries.get(self._key(record)) or self._find(record, named)
        if record.event == "epilog":
            self._note_end(entry or Entry(self._key(record), record.t_ns), record)
            return
        if entry is not None and (entry.end_ns or entry.prolog not in (None, record)):
            if record.t_ns < max(entry.end_ns, entry.prolog.t_ns if entry.prolog else 0):
                return
            self._replace(entry)  # requeued: another life, other GPUs
            entry = None
        entry = entry or Entry(self._key(record), record.t_ns)
        self._entries[entry.key] = entry
        entry.prolog, entry.hook, entry.fresh = record, from_hook(record), False
        before = entry.memory
        if before is not None and (
            before.start_ns not in (0, record.t_ns) or differ(before.facts.uid, record.uid)
        ):
            entry.memory = None  # of an earlier life
        entry.first_ns = min(entry.first_ns, record.t_ns, t_ns)

    def _replace(self, old: Entry) -> None:
        """
        Part with a life that a later prolog has ended.

        Its end is still told, unless nothing but the epilog is known of it: that was told before
        a restart, and what bears its key now lives.
        """
        self._identity.forget_answer(old)
        self._metas.unknown.pop(old.key, None)
        if old in self._ended and not old.lived:
            self._ended.remove(old)
            old.told_ns = 1
        if old.epilog is not None:
            self._past.append(old)

    def _tidy(self, t_ns: int) -> None:
        """Remove the epilogs of requeued jobs' ended lives, once their end is safe."""
        due = [old for old in self._past if old.told_ns and t_ns - old.told_ns > KEEP_NS]
        for old in due:
            self._past.remove(old)
            now = self._entries.get(old.key)
            newer = now is not None and now.epilog is not None
            if old.epilog is not None and not newer:  # else it is under the same name
                self._hooks.forget(old.epilog.jobid, old.epilog.node, ("epilog",))

    def _note_end(self, entry: Entry, record: HookRecord) -> None:
        self._epilogs = True
        began_ns = entry.memory.start_ns if entry.memory is not None else 0
        if max(entry.prolog.t_ns if entry.prolog is not None else 0, began_ns) > record.t_ns:
            self._past.append(Entry(entry.key, record.t_ns, epilog=record, told_ns=1))
            return  # of the life before a requeue
        if entry.epilog is not None and entry.epilog.t_ns == record.t_ns:
            return
        self._entries[entry.key] = entry
        entry.epilog = record
        entry.hook = entry.hook or replace(from_hook(record), start_s=record.start_s, limit_end_s=0)
        self._end(entry, record.t_ns, int(record.wall_s))

    def _end(self, entry: Entry, end_ns: int, end_s: int) -> None:
        entry.end_ns, entry.end_s, entry.fresh = end_ns, end_s, False
        self._ended.append(entry)

    def _find(self, record: HookRecord, named: Iterable[Entry]) -> Entry | None:
        """Find the job of a record under another key: a SLUID's, or one without the node's name."""
        for entry in named:
            about, prolog = entry.about, entry.prolog
            if about is None or self._entries.get(entry.key) is not entry:
                continue
            if entry.claim == record.jobid and about.uid != record.uid:
                if about.uid is not None:
                    self._identity.refute(entry)
                continue
            same_node = (prolog.node if prolog else about.node) in ("", record.node)
            if same_node and about.uid in (None, record.uid):
                return entry
        return None

    # -- one job ----------------------------------------------------------------------------------

    def _update_one(self, usage: JobUsage, pids: Callable[[str], list[int]], t_ns: int) -> JobMeta:
        entry = self._entries.get(usage.key)
        if entry is not None and entry.is_over:  # requeued, and no hook to tell
            self._identity.forget_answer(entry)
            entry = None
        if entry is None:
            entry = self._entries[usage.key] = Entry(usage.key, t_ns)
            # filed with a node's name, or by SLUID, while a job of before an upgrade has its number
            if usage.jobid is not None and (self._sluids or (self.named and not usage.node)):
                self._identity.join(entry, str(usage.jobid), usage.uid, usage.node)
        if entry.memory is not None and differ(usage.uid, entry.memory.facts.uid):
            entry.memory, entry.fresh = None, False  # another user's job under an id used again
            if entry.epilog is None:
                entry.end_ns = entry.end_s = entry.told_ns = 0
        news = entry.usage is None or entry.usage.uid != usage.uid
        entry.usage, entry.seen_ns, entry.fresh = usage, t_ns, entry.fresh and not news
        if not entry.end_ns:
            self._identity.read(entry, pids, t_ns)
            if news and entry.is_sluid:
                self._identity.look_up_claim(entry)
            self._identity.ask(entry, t_ns, ASK_HOOKED_NS if entry.hook else ASK_NS)
        meta = self._metas.get(entry)
        return replace(meta, gpus={}, cpus_alloc=0, mem_alloc_bytes=None) if entry.end_ns else meta

    def _update_absent(self, entry: Entry, t_ns: int) -> None:
        """Wait for a cgroup, for an epilog, for a late answer, or forget the job."""
        if entry.memory is not None and not entry.prolog and not entry.usage and not entry.epilog:
            del self._entries[entry.key]
            return
        if entry.prolog is not None and not entry.end_ns:
            self._identity.ask(entry, t_ns, ASK_HOOKED_NS)
            self._check_orphan(entry, t_ns)
            return
        if entry.asks_ending(t_ns):
            self._identity.forget_answer(entry)
            entry.answered_ns = 0
        # of a job without hooks only its user has told anything: slurmctld has the last word
        if (entry.asked or entry.hook is None) and not entry.answered_ns:
            self._identity.ask(entry, t_ns, 0)
            if entry.answered_ns and entry.answer is not None:
                self._late.append(self._job(entry))
        gone_ns = entry.told_ns if entry.end_ns else entry.seen_ns
        if gone_ns and t_ns - gone_ns > KEEP_NS:
            self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._entries.pop(entry.key, None)
        self._metas.unknown.pop(entry.key, None)
        self._identity.forget_answer(entry)
        for record in (entry.prolog, entry.epilog):
            if record is not None and entry.end_ns:
                self._hooks.forget(record.jobid, record.node)

    def _check_orphan(self, entry: Entry, t_ns: int) -> None:
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
                self._identity.forget_answer(entry)
                entry.asked, entry.answered_ns = {}, 0

    # -- the result -------------------------------------------------------------------------------

    def _job(self, entry: Entry) -> Job:
        usage = entry.usage or self._synthetic(entry)
        return Job(usage, self._metas.get(entry))

    def _uncounted(self, entry: Entry) -> Job:
        job = self._job(entry)
        return Job(replace(job.usage, counting=False), job.meta)

    def _synthetic(self, entry: Entry) -> JobUsage:
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
