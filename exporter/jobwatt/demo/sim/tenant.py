"""A job's part on one node while it runs there: what it uses, and how the sensors describe it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...model import NS_PER_S, GpuProcess, Job, JobMeta, JobUsage
from .behaviour import holds_memory, plan
from .requests import Kind
from .truth import Hold

if TYPE_CHECKING:
    from .fleet import NodeSpec
    from .nodestate import Part
    from .scheduler import Run

ROOT = "slurmstepd.scope"
# Share of its reserved memory that a job uses: per thousand, by kind.
_MEMORY = {Kind.GREEDY: 60, Kind.NOTEBOOK: 180, Kind.FORGOTTEN: 150, Kind.CRASH: 40}
_RAMP_S = 600  # a job fills its memory within this


@dataclass(slots=True, eq=False)
class Tenant:
    """
    One job on one node.

    Attributes:
        gpus: index of the whole GPU -> number of the unit among the job's own; not for instances.
        use: of each unit of its own, permille, in the present block.
        cpu_permille: of each CPU of its own, in the present block.
        rate_ns: CPU time per second of each of its CPUs, in the present slot.
        cpu_ns: CPU time of each of its CPUs so far.
        sockets: how many of its CPUs are on each socket.
    """

    run: Run
    part: Part
    spec: NodeSpec
    meta: JobMeta
    sockets: tuple[int, int]
    holds: tuple[Hold, ...]
    processes: tuple[tuple[GpuProcess, ...], ...]
    use: tuple[int, ...] = ()
    cpu_permille: int = 0
    rate_ns: int = 0
    cpu_ns: int = 0
    ended: JobMeta | None = field(default=None)

    @classmethod
    def of(cls, run: Run, part: Part, spec: NodeSpec, boot_s: int) -> Tenant:
        """``boot_s``: Unix time of the node's boot."""
        half = spec.host.cpus // 2
        first = sum(cpu < half for cpu in part.cpus)
        processes = tuple(_processes(run, part, spec, own) for own in range(len(part.units)))
        holds = tuple(Hold() for _ in part.units)
        meta = _meta(run, part, spec, boot_s)
        return cls(run, part, spec, meta, (first, len(part.cpus) - first), holds, processes)

    def replan(self, block: int) -> None:
        """Do what is to be done in this block."""
        self.use, self.cpu_permille = plan(self.run, len(self.part.units), block)

    def end(self, boot_s: int) -> None:
        """It is over; its epilog tells how."""
        run = self.run
        self.ended = replace(
            self.meta, state=run.state, exit_code=run.exit_code, end_s=run.end_s,
            end_ns=(run.end_s - boot_s) * NS_PER_S,
        )  # fmt: skip

    def job(self, now_s: int) -> Job:
        """As a snapshot at ``now_s`` shows it."""
        request, cpus = self.run.request, self.part.cpus
        age_s = now_s - self.run.start_s
        usage = JobUsage(
            f"/{self.run.jobid}", ROOT, "", self.run.jobid, request.user.uid, self.cpu_ns * len(cpus),
            self.memory(age_s), request.memory, cpus, self.meta.start_ns,
        )  # fmt: skip
        return Job(usage, self.ended or self.meta)

    def memory(self, age_s: int) -> int:
        """Bytes in use after so long a life."""
        request = self.run.request
        permille = _MEMORY.get(request.kind, 350 + request.salt % 300)
        if self.run.state == "OUT_OF_MEMORY":  # grows until it is killed
            return request.memory * min(age_s * 1000 // max(request.run_s, 1), 1000) // 1000
        return request.memory * permille // 1000 * min(max(age_s, 20), _RAMP_S) // _RAMP_S


def _processes(run: Run, part: Part, spec: NodeSpec, own: int) -> tuple[GpuProcess, ...]:
    if not holds_memory(run.request, own):
        return ()
    memory = spec.units[part.units[own]].memory * min(run.request.memory_permille, 990) // 1000
    return (GpuProcess(2000 + (run.jobid * 37 + own) % 900_000, memory),)


def _meta(run: Run, part: Part, spec: NodeSpec, boot_s: int) -> JobMeta:
    request = run.request
    units = [spec.units[unit] for unit in part.units]
    return JobMeta(
        str(run.jobid), request.user.name, request.user.uid, request.user.lab, request.partition, request.qos, request.name,
        array_job_id=run.array_job_id, array_task_id=str(request.task) if run.array_job_id else "",
        cpus_alloc=len(part.cpus), mem_alloc_bytes=request.memory, gpus={unit.uuid: unit.slices for unit in units},
        start_s=run.start_s, start_ns=(run.start_s - boot_s) * NS_PER_S, limit_end_s=run.start_s + request.limit_s,
        resolved_by="hook", gpus_by="hook",
    )  # fmt: skip
