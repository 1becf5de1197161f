"""
Types and units that every room shares; imports no sibling.

Energy is an int in microjoule (``_uj``), power an int in microwatt (``_uw``), time an int in
nanosecond (``_ns``) on CLOCK_BOOTTIME, memory in bytes, a ratio in parts per thousand
(``_permille``). ``None`` always means *unknown*, never zero: unknown is not idle, and absent is
not 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

NS_PER_S = 1_000_000_000
UJ_PER_J = 1_000_000


class Domain(StrEnum):
    """What a device's energy is energy of. NODE (the wall) contains CPU, DRAM, GPU and OTHER."""

    NODE = "node"
    CPU = "cpu"
    DRAM = "dram"
    GPU = "gpu"
    OTHER = "other"


class Kind(StrEnum):
    """Whether a reading is a cumulative energy counter (uJ) or a momentary power (uW)."""

    ENERGY = "energy"
    POWER = "power"


@dataclass(frozen=True, slots=True)
class Device:
    """
    One thing that has an energy of its own.

    Attributes:
        id: unique and stable over restarts: a zone's path, a GPU's UUID, a meter's name.
        source: the file in ``sources/`` that reads it.
        parent: id of the device that contains this one ("" where none does).
        name: what a person calls it (``package-0``); a label, never a key.
        summed: False where its energy is already inside another device's (core in package,
            package in psys): exported, never added.
        cpus: logical CPU numbers of the socket it feeds; empty where that is not known.
        node: the node that a meter (domain NODE) feeds; "" for this one. A meter of another node is
            exported for it and never summed here.
        includes_gpu: whether a meter of the node (domain NODE) sees the GPUs too.
    """

    domain: Domain
    id: str
    source: str
    parent: str = ""
    name: str = ""
    summed: bool = True
    cpus: frozenset[int] = frozenset()
    node: str = ""
    includes_gpu: bool = True


# Sources whose figures are computed from a model and not read from a sensor.
ESTIMATES = frozenset({"estimate"})


@dataclass(frozen=True, slots=True)
class Reading:
    """
    One value of one device at its own moment.

    Attributes:
        value: uJ for ENERGY, uW for POWER.
        t_ns: CLOCK_BOOTTIME at the moment this very value was read.
        wrap_uj: the counter counts 0 ... wrap_uj - 1 (0: it does not wrap).
        max_power_uw: more than this the device cannot draw; tells how long a gap may be
            before a wrap could go unseen (0: not known).
        epoch: changes when the counter began again (driver reload, GPU reset): no delta is
            taken across two epochs.
        every_ns: how far apart the device's readings are where that is more than the sampling
            interval (a BMC that is asked every 10 s); 0: one each sample. A source gives its last
            reading again, with the same ``t_ns``, until it has a new one.
    """

    device: Device
    kind: Kind
    value: int
    t_ns: int
    wrap_uj: int = 0
    max_power_uw: int = 0
    epoch: int = 0
    every_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """
    A figure that is shown and takes no part in the accounting (a temperature, a clock).

    ``metric`` is a name of the catalogue (metrics.py), ``labels`` its label values in the
    catalogue's order. ``value`` is in the metric's own base unit.
    """

    metric: str
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a GPU. ``sm_permille``: its share of SM time, None if unknown."""

    pid: int
    memory_bytes: int | None = None
    sm_permille: int | None = None


@dataclass(frozen=True, slots=True)
class GpuState:
    """
    What is known of a GPU or of a MIG instance now.

    Attributes:
        uuid: ``GPU-...`` or ``MIG-...``.
        index: NVML's index (of the parent for a MIG instance).
        minor: N of /dev/nvidiaN (of the parent for a MIG instance), None if unknown.
        parent: UUID of the whole GPU for a MIG instance, "" for a whole GPU.
        slices: compute slices it owns: for a whole GPU all of them (7 with MIG on, else 1).
        mig_profile: ``2g.20gb``; "" for a whole GPU.
        mig_device: NVML's index of the instance within its parent (None for a whole GPU).
        mig_enabled: a whole GPU that is partitioned: it is held through its instances.
        busy_permille: share of the last sampling period in which a kernel ran, None if unknown.
        sm_permille: share of SM cycles in use (GPM), clamped to 1000, None if unknown.
        processes: None where the list was not asked for or is not available, () when empty.
    """

    uuid: str
    index: int
    minor: int | None = None
    parent: str = ""
    model: str = ""
    pci_bus_id: str = ""
    slices: int = 1
    mig_profile: str = ""
    mig_device: int | None = None
    mig_enabled: bool = False
    busy_permille: int | None = None
    sm_permille: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    processes: tuple[GpuProcess, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Something a source could not do this time.

    Attributes:
        source: the source's name.
        reason: a short closed word for a label (``permission``, ``gpu_is_lost``).
        message: what, where and how to mend it, in one line, for the log and the page.
        device: id of the device it concerns, "" for the whole source.
    """

    source: str
    reason: str
    message: str
    device: str = ""


@dataclass(frozen=True, slots=True)
class SourceResult:
    """Everything one source has to say about one moment."""

    readings: tuple[Reading, ...] = ()
    gpus: tuple[GpuState, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[Sample, ...] = ()  # increments since the last read, booked as counters
    failures: tuple[Failure, ...] = ()


class Source(Protocol):
    """What the agent asks of a file in ``sources/``. ``read`` and ``close`` never raise."""

    name: str

    def read(self, *, full: bool) -> SourceResult:
        """Read now. ``full`` is False for the extra samples at job events: only energy and use."""
        ...

    def close(self) -> None:
        """Let go of files, handles and drivers; a later ``read`` may open them again."""
        ...


@dataclass(frozen=True, slots=True)
class JobUsage:
    """
    What a job has used so far and what it holds, as the kernel says.

    Attributes:
        key: the job's identity on this node: ``NODE/JOBID`` where the path tells the id, else
            the cgroup's own name. NODE is Slurm's node name where the path tells it, else "".
        root: the Slurm cgroup that contains it (key of ``Snapshot.roots``).
        node: NODE of the key.
        jobid: from the path or the process title; None for a SLUID.
        uid: owner, from the path or from the processes; never root's ``step_extern``.
        cpu_ns: CPU time used so far, ended steps included; None where it cannot be read.
        mem_bytes: memory without page cache.
        mem_limit_bytes: None where there is no limit.
        cpus: logical CPUs the kernel confines it to; None where it is not confined.
        first_ns: CLOCK_BOOTTIME when it was first known of (directory event, process start);
            0 where it was there before us.
        counting: whether ``cpu_ns`` still counts; False where its counter is gone (or not there
            yet), and ``cpu_ns`` is the last that was read.
    """

    key: str
    root: str = ""
    node: str = ""
    jobid: int | None = None
    uid: int | None = None
    cpu_ns: int | None = None
    mem_bytes: int | None = None
    mem_limit_bytes: int | None = None
    cpus: frozenset[int] | None = None
    first_ns: int = 0
    counting: bool = True


@dataclass(frozen=True, slots=True)
class JobMeta:
    """
    Who and what a job is, as Slurm says. Strings are already fit to be shown: valid UTF-8, no
    control characters, bounded length.

    Attributes:
        cpus_alloc: CPUs reserved on this node; 0 where unknown.
        mem_alloc_bytes: memory reserved on this node; None where unknown.
        gpus: UUID -> compute slices held on this node.
        start_s, end_s, limit_end_s: Unix times; 0 where unknown. ``limit_end_s`` is when the
            time limit strikes.
        start_ns, end_ns: CLOCK_BOOTTIME of prolog and epilog; 0 where unknown.
        state, exit_code: how it ended, as Slurm says (``FAILED``, ``3:0``); "" until known.
        resolved_by: ``hook``, ``environ``, ``pyslurm``, ``scontrol`` or "" (nobody yet).
        gpus_by: which of them told the GPUs.
    """

    jobid: str = ""
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    qos: str = ""
    name: str = ""
    array_job_id: str = ""
    array_task_id: str = ""
    cpus_alloc: int = 0
    mem_alloc_bytes: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    start_s: int = 0
    end_s: int = 0
    limit_end_s: int = 0
    start_ns: int = 0
    end_ns: int = 0
    state: str = ""
    exit_code: str = ""
    resolved_by: str = ""
    gpus_by: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as a snapshot shows it."""

    usage: JobUsage
    meta: JobMeta


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """
    The node itself: cumulative busy CPU time of each logical CPU (user, nice, system, irq,
    softirq, steal excluded; idle and iowait are not busy), and its memory.
    """

    cpu_busy_ns: Mapping[int, int] = field(default_factory=dict)
    mem_total_bytes: int = 0
    mem_used_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    The node at one moment; everything downstream is computed from two of these.

    Attributes:
        boot_id: of the kernel; counters of two boots are never compared.
        wall_s: Unix time; t_ns: CLOCK_BOOTTIME.
        roots: Slurm's cgroup roots -> their cumulative CPU time, ended jobs included.
        ended: jobs that ended since the last snapshot, with what their epilog told.
        late: jobs that ended earlier and of which more is known now.
        sm_use: GPU UUID -> job key -> permille of SM time its processes had (shared GPUs).
        full: False for an extra sample at a job event.
    """

    boot_id: str
    wall_s: float
    t_ns: int
    readings: tuple[Reading, ...] = ()
    gpus: tuple[GpuState, ...] = ()
    samples: tuple[Sample, ...] = ()
    events: tuple[Sample, ...] = ()
    failures: tuple[Failure, ...] = ()
    jobs: tuple[Job, ...] = ()
    ended: tuple[Job, ...] = ()
    late: tuple[Job, ...] = ()
    roots: Mapping[str, int] = field(default_factory=dict)
    sm_use: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    node: NodeUsage = field(default_factory=NodeUsage)
    full: bool = True


class Step(StrEnum):
    """How a delta was obtained."""

    FIRST = "first"  # nothing to compare with: 0
    NORMAL = "normal"
    WRAPPED = "wrapped"  # one wrap corrected
    RESET = "reset"  # the counter began again: 0
    GAP = "gap"  # longer than usual since the last reading; a counter bridges it, power does not
    AMBIGUOUS = "ambiguous"  # more than one wrap is possible: 0, and counted


@dataclass(frozen=True, slots=True)
class Delta:
    """Energy of one device between two readings, and how the number was obtained."""

    device: Device
    energy_uj: int
    dt_ns: int
    step: Step
    every_ns: int = 0  # of the reading

    @property
    def known(self) -> bool:
        """Whether the energy of this time is known: measured, or bridged by a counter."""
        return self.step in {Step.NORMAL, Step.WRAPPED} or (
            self.step is Step.GAP and self.energy_uj > 0
        )
