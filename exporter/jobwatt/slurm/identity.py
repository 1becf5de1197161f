"""Whose job a cgroup is: its processes' environments, slurmctld, and what makes either believable."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S
from jobwatt.slurm.entries import differ
from jobwatt.slurm.facts import from_answer, read_environ
from jobwatt.slurm.metas import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jobwatt.slurm.controller import Answer, RpcRunner
    from jobwatt.slurm.entries import Entry
    from jobwatt.slurm.metas import Metas

log = logging.getLogger(__name__)

# The batch script may start late, and a job of several nodes tells its GPUs in its steps only.
READ_AT_NS = tuple(int(s * NS_PER_S) for s in (0, 0.25, 1, 2, 4, 8, 16, 32, 64))


class Identity:
    """
    Fills the ``environ`` and ``answer`` of ``entries``, which it shares with the resolver.

    A SLUID tells no number. What its environment claims was written by its user, so it counts
    only where a prolog of the same user has that number, where slurmctld gives it to that user,
    or, with nobody to ask, as long as it is no other user's.
    """

    def __init__(
        self,
        entries: dict[str, Entry],
        metas: Metas,
        *,
        procfs: Path,
        rpc: RpcRunner | None,
        node: str,
    ) -> None:
        self._entries, self._metas, self._procfs, self._rpc = entries, metas, procfs, rpc
        self._node = node or os.uname().nodename.partition(".")[0]

    def read(self, entry: Entry, pids: Callable[[str], list[int]], t_ns: int) -> None:
        """
        Read the environment, where it is time to: until it has told the GPUs.

        A job of several nodes tells them in its steps only, which begin after the batch script.
        """
        usage, told = entry.usage, entry.environ
        if usage is None or entry.reads >= len(READ_AT_NS) or (told and told.gpus is not None):
            return
        if t_ns - entry.first_ns < READ_AT_NS[entry.reads]:
            return
        entry.reads += 1
        try:
            told = read_environ(self._procfs, pids(entry.key), usage.uid, entry.jobid)
        except UNREADABLE as err:
            self._metas.unreadable(entry, err)
            return
        if told is None:
            return
        entry.environ, entry.fresh = told, False
        if entry.is_sluid:
            self.look_up_claim(entry)

    def look_up_claim(self, entry: Entry) -> None:
        """
        Look whose job a SLUID's environment names.

        With slurmctld to ask, its word is waited for; without, the number is believed as long as
        nobody else has it.
        """
        jobid, uid = entry.claim, entry.uid
        if not jobid or uid is None:
            return
        for other in self._entries.values():
            if other is not entry and other.jobid == jobid:
                record = other.prolog or other.epilog
                theirs = record.uid if record is not None else other.uid
                if differ(uid, theirs):
                    self.refute(entry)
                    return
        self.join(entry, jobid, uid, entry.usage.node if entry.usage else "")
        entry.trusted = self._rpc is None
        entry.fresh = False

    def refute(self, entry: Entry) -> None:
        """Let go of an environment that names another job than its own."""
        log.warning(
            "the environment of %s names job %s, which it is not: not believed",
            entry.key,
            entry.claim,
        )
        entry.refute()

    def join(self, entry: Entry, jobid: str, uid: int | None, node: str) -> None:
        """Give a cgroup the prolog filed under another key; ``node`` is "" where its path tells none."""
        for other in self._entries.values():
            record = other.prolog
            if other is entry or record is None or other.usage is not None or other.end_ns:
                continue
            same_node = node in ("", record.node)
            if same_node and record.jobid == jobid and uid in (None, record.uid):
                entry.prolog, entry.hook, entry.first_ns = record, other.hook, other.first_ns
                del self._entries[other.key]
                return

    def ask(self, entry: Entry, t_ns: int, after_ns: int) -> None:
        """Ask slurmctld of a job known for ``after_ns``, or take its answer."""
        if self._rpc is None or entry.answered_ns or t_ns - entry.first_ns < after_ns:
            return
        for question in entry.questions():
            entry.asked[question] = None
            answer = self._rpc.lookup(question)
            if answer is None:
                return
            if not answer.get("unknown"):
                self._take_answer(entry, question, answer, t_ns)
                return
        if entry.is_sluid and not entry.jobid and not entry.claim and entry.reads < len(READ_AT_NS):
            return  # the environment may still tell a number to ask by
        entry.answered_ns, entry.answer, entry.fresh = t_ns, None, False

    def _take_answer(self, entry: Entry, question: str, answer: Answer, t_ns: int) -> None:
        """Believe slurmctld, unless it was asked by a number that only the environment gave."""
        facts = from_answer(answer, self._node_in(entry, answer))
        uid, claim = entry.uid, entry.claim
        if entry.is_sluid and question == claim and (uid is None or facts.uid is None):
            return  # nothing to compare yet
        entry.answered_ns, entry.fresh = t_ns, False
        if entry.is_sluid and differ(uid, facts.uid):
            if question == claim:
                self.refute(entry)
            else:
                log.warning(
                    "slurmctld says uid %s of %s, whose uid is %s", facts.uid, entry.key, uid
                )
            return
        if claim and claim != facts.jobid:
            self.refute(entry)
        entry.answer = facts
        if entry.is_sluid and entry.prolog is None:
            self.join(entry, facts.jobid, facts.uid, entry.usage.node if entry.usage else "")

    def _node_in(self, entry: Entry, answer: Answer) -> str:
        """Tell this node's name in Slurm; what the environment says of it comes last."""
        nodes = answer.get("nodes") or {}
        usage, prolog, environ = entry.usage, entry.prolog, entry.environ
        sure = (usage and usage.node) or (prolog and prolog.node) or ""
        if sure or len(nodes) == 1:
            return sure
        return self._node if self._node in nodes else (environ.node if environ else "")

    def forget_answer(self, entry: Entry) -> None:
        """Drop what slurmctld was asked, and its answers."""
        if self._rpc is not None:
            for question in entry.asked:
                self._rpc.forget(question)
