"""What is known of one job, by source, and which of the sources' words count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S, JobMeta
from jobwatt.slurm.answers import ENDED, HOLDING
from jobwatt.slurm.facts import SURE, Facts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jobwatt.model import Job, JobUsage
    from jobwatt.slurm.hookrecord import HookRecord


SETTLED_NS = 3 * NS_PER_S  # an epilog runs while the job is COMPLETING: its state is not told yet
AGAIN_NS = 15 * NS_PER_S  # until a long epilog is through; an ended job is remembered for a minute
NEVER = 1 << 30  # more reads than are ever made


@dataclass(frozen=True, slots=True)
class Memory:
    """
    What was known of a job before a restart.

    Attributes:
        usage: the job's last, for its node and user.
        gpus: UUID -> compute slices, as they were; None where no source had told.
    """

    facts: Facts
    usage: JobUsage
    gpus: Mapping[str, int] | None
    gpus_by: str
    start_ns: int

    @property
    def sure(self) -> bool:
        """Whether it goes before the environment."""
        return self.facts.by in SURE


def memory_of(job: Job) -> Memory:
    """Take the job of a snapshot as a source's words."""
    meta, told = job.meta, job.meta.gpus_by in (*SURE, "environ")
    facts = Facts(
        by=meta.resolved_by,
        jobid=meta.jobid,
        user=meta.user if meta.resolved_by in SURE else "",
        uid=meta.uid,
        account=meta.account,
        partition=meta.partition,
        qos=meta.qos,
        name=meta.name,
        array_job_id=meta.array_job_id,
        array_task_id=meta.array_task_id,
        cpus=meta.cpus_alloc,
        mem_bytes=meta.mem_alloc_bytes,
        start_s=meta.start_s,
        limit_end_s=meta.limit_end_s,
    )
    gpus = dict(meta.gpus) if told else None
    return Memory(facts, job.usage, gpus, meta.gpus_by if told else "", meta.start_ns)


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one job."""

    key: str
    first_ns: int
    prolog: HookRecord | None = None
    hook: Facts | None = None
    epilog: HookRecord | None = None
    usage: JobUsage | None = None
    seen_ns: int = 0  # its cgroup, last
    environ: Facts | None = None
    trusted: bool = False  # the environment may name the job of a SLUID
    answer: Facts | None = None
    memory: Memory | None = None
    asked: dict[str, None] = field(default_factory=dict)  # what slurmctld was asked
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
        """Slurm's number; of a SLUID only what a source tells that may, "" until then."""
        if self.usage is not None and self.usage.jobid is not None:
            return str(self.usage.jobid)
        environ = self.environ if self.trusted else None
        before = self.memory.facts if self.memory is not None else None
        for one in (self.prolog, self.answer, before, environ):
            if one is not None and one.jobid:
                return one.jobid
        return self.epilog.jobid if self.epilog is not None else ""

    @property
    def about(self) -> JobUsage | None:
        """The job's usage, or its last before a restart."""
        return self.usage or (self.memory.usage if self.memory is not None else None)

    @property
    def uid(self) -> int | None:
        """The kernel's word on the user."""
        return self.about.uid if self.about is not None else None

    @property
    def is_sluid(self) -> bool:
        """Whether the cgroup tells no number."""
        return self.about is not None and self.about.jobid is None

    @property
    def claim(self) -> str:
        """The number that a SLUID's environment gives, "" where another source told it."""
        unproven = self.is_sluid and self.answer is None and self.prolog is None
        return self.environ.jobid if unproven and self.environ is not None else ""

    @property
    def lived(self) -> bool:
        """Whether more is known than an epilog."""
        return self.prolog is not None or self.about is not None

    @property
    def ending(self) -> tuple[str, str]:
        """State and exit code: slurmctld's word once the job has ended, else the epilog's code."""
        if self.answer is not None and self.answer.state in ENDED:
            return self.answer.state, self.answer.exit_code
        return "", self.epilog.exit_code if self.epilog is not None else ""

    def questions(self) -> Iterable[str]:
        """What slurmctld may know the job by: the SLUID itself cannot be forged, so it is first."""
        if self.is_sluid:
            yield self.key.rpartition("/")[2]
        if number := self.jobid or self.claim:
            yield number

    @property
    def is_over(self) -> bool:
        """Whether slurmctld said, once the job's cgroup had gone, that it runs no more."""
        late = self.answered_ns > self.seen_ns > 0 and self.prolog is None
        return late and self.answer is not None and self.answer.state not in HOLDING

    def asks_ending(self, t_ns: int) -> bool:
        """Whether slurmctld, asked while the job ran, can now tell how it ended."""
        gone_ns = self.end_ns or self.seen_ns
        if self.answer is None or self.answer.state not in HOLDING or not self.answered_ns:
            return False
        return t_ns >= max(gone_ns + SETTLED_NS, self.answered_ns + AGAIN_NS)

    def refute(self) -> None:
        """Forget an environment that named another user's job, and read no other."""
        self.environ, self.trusted, self.fresh = None, False, False
        self.reads = NEVER


def differ(one: int | None, other: int | None) -> bool:
    """Tell whether two users are known and not the same."""
    return one is not None and other is not None and one != other


def choose_gpus(entry: Entry) -> tuple[str, str, Mapping[str, int] | None]:
    """
    Choose the words on GPUs: (spec, by whom, the GPUs themselves where they are remembered).

    A prolog without any outranks the environment. What was told while the job ran stays after its
    end, when slurmctld tells no longer.
    """
    for facts in (entry.hook, entry.answer):
        if facts is not None and facts.gpus is not None:
            entry.gpus = (facts.gpus, facts.by)
            return *entry.gpus, None
    memory, environ = entry.memory, entry.environ
    known = memory is not None and memory.gpus is not None and not entry.gpus[1]
    if entry.hook is not None:
        entry.gpus = ("", "hook")
    elif known and memory and (memory.gpus_by in SURE or environ is None or environ.gpus is None):
        return "", memory.gpus_by, memory.gpus
    elif environ is not None and environ.gpus is not None and not entry.gpus[1]:
        entry.gpus = (environ.gpus, "environ")
    return *entry.gpus, None
