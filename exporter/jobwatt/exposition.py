"""
What a page shows: an immutable view becomes metric families.

Pure. Figures are written as exact decimals of the integers behind them, so that jobs, system and
unallocated add up on the page to the microjoule. encoder.py makes bytes of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from .attribute import SYSTEM, UNALLOCATED
from .jobview import JobView, Terms, Values, jobs, within
from .metrics import CATALOGUE, Metric
from .model import ESTIMATES, NS_PER_S, Domain

if TYPE_CHECKING:
    from .idle import Idle
    from .model import Snapshot
    from .totals import Totals

# A component is fed by a source that has given a reading of it within this time; its age is told for longer.
FEEDS_NS, _AGE_NS = 120 * NS_PER_S, 3600 * NS_PER_S

Rows = dict[Values, str]  # label values -> exact decimal


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source fares: ``message`` says what is not measured and why, "" where all is well."""

    name: str
    up: bool
    read_s: float = 0.0
    message: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """
    Everything one page is made from.

    Attributes:
        rpc_calls: questions asked of slurmctld by outcome.
    """

    totals: Totals
    snapshot: Snapshot
    idle: Idle
    node: str = ""
    version: str = ""
    sources: tuple[SourceStatus, ...] = ()
    ledger_fault: str = ""
    sample_s: float = 0.0
    terms: Terms = field(default_factory=Terms)


# --- families ------------------------------------------------------------------------------------


def families(view: View) -> list[tuple[Metric, Rows]]:
    """Every family that has something to show, in the catalogue's order."""
    page: dict[str, Rows] = {name: {} for name in CATALOGUE}
    shown, hidden = within(jobs(view.totals, view.terms.names), view.terms)
    for job in shown:
        _job_rows(page, job, view)
    _hidden_rows(page, hidden)
    _node_rows(page, view)
    _device_rows(page, view)
    _own_rows(page, view)
    for sample in view.snapshot.samples:
        page[sample.metric][sample.labels] = _number(sample.value)
    for (metric, labels), count in view.totals.counters.items():
        page[metric][labels] = str(count)
    _cut(page, view.terms.series)
    return [(CATALOGUE[name], rows) for name, rows in page.items() if rows]


def _hidden_rows(page: dict[str, Rows], hidden: list[JobView]) -> None:
    """With these, the jobs on the page, system and unallocated still add up to the node."""
    page["jobwatt_hidden_jobs"][()] = str(len(hidden))
    energy: Counter[Domain] = Counter()
    for job in hidden:
        energy.update(job.energy_uj())
    for domain, uj in energy.items():
        page["jobwatt_hidden_jobs_energy_joules"][(domain,)] = _micro(uj)


def _cut(page: dict[str, Rows], limit: int) -> None:
    """However many sensors a device may tell of, a page has an end; jobs have been cut to fit (jobview.py)."""
    for name, rows in page.items():
        if len(rows) > limit:
            page["jobwatt_hidden_series"][(name,)] = str(len(rows) - limit)
            page[name] = dict(islice(rows.items(), limit))


def _job_rows(page: dict[str, Rows], job: JobView, view: View) -> None:
    labels, meta = job.labels, job.meta
    for domain, uj in job.energy_uj().items():
        page["jobwatt_job_energy_joules_total"][*labels, domain] = _micro(uj)
    page["jobwatt_job_cpu_seconds_total"][labels] = _nano(sum(part.cpu_ns for part in job.parts))
    facts = (
        meta.name,
        meta.qos,
        meta.array_job_id,
        meta.array_task_id,
        job.uid,
        meta.resolved_by,
        meta.gpus_by,
    )
    page["jobwatt_job_info"][labels + facts] = "1"
    if meta.start_s:
        page["jobwatt_job_start_time_seconds"][labels] = str(meta.start_s)
    if meta.limit_end_s:
        page["jobwatt_job_limit_time_seconds"][labels] = str(meta.limit_end_s)
    if not job.running:
        page["jobwatt_job_end_time_seconds"][labels] = str(max(part.ended_s for part in job.parts))
        if meta.state or meta.exit_code:
            page["jobwatt_job_exit_info"][*labels, meta.state, meta.exit_code] = "1"
    coverage = job.coverage(view.snapshot)
    if coverage is not None:
        page["jobwatt_job_coverage_ratio"][labels] = f"{coverage:.6f}"
    for (component, source), ns in job.fed_ns().items():
        row = (*labels, component, source, quality(source))
        page["jobwatt_job_component_measured_seconds_total"][row] = _nano(ns)
    _job_gpu_rows(page, job, view)
    if job.running:
        _running_rows(page, job)


def _job_gpu_rows(page: dict[str, Rows], job: JobView, view: View) -> None:
    states = {state.uuid: state for state in view.snapshot.gpus}
    held = {uuid for part in job.parts if not part.ended_ns for uuid in part.job.meta.gpus}
    for uuid, totals in job.gpus().items():
        labels = (*job.labels, view.totals.gpu_index.get(uuid, ""), uuid)
        page["jobwatt_job_gpu_energy_joules_total"][labels] = _micro(totals.energy_uj)
        page["jobwatt_job_gpu_allocated_seconds_total"][labels] = _nano(totals.held_ns)
        page["jobwatt_job_gpu_idle_seconds_total"][labels] = _nano(totals.idle_ns)
        page["jobwatt_job_gpu_idle_energy_joules_total"][labels] = _micro(totals.idle_uj)
        page["jobwatt_job_gpu_unknown_seconds_total"][labels] = _nano(totals.unknown_ns)
        page["jobwatt_job_gpu_utilization_seconds_total"][labels] = _nano(totals.used_ns)
        state = states.get(uuid)
        if state is None or uuid not in held:
            continue
        if state.busy_permille is not None:
            page["jobwatt_job_gpu_utilization_ratio"][labels] = _number(state.busy_permille / 1000)
        if state.memory_used_bytes is not None:
            page["jobwatt_job_gpu_memory_used_bytes"][labels] = str(state.memory_used_bytes)


def _running_rows(page: dict[str, Rows], job: JobView) -> None:
    usages = [part.job.usage for part in job.parts if not part.ended_ns]
    power_uw = job.power_uw()
    if power_uw is not None:
        page["jobwatt_job_power_watts"][job.labels] = _micro(power_uw)
    cpus = sum(
        part.job.meta.cpus_alloc or len(part.job.usage.cpus or ())
        for part in job.parts
        if not part.ended_ns
    )
    if cpus:
        page["jobwatt_job_cpus"][job.labels] = str(cpus)
    used = [usage.mem_bytes for usage in usages if usage.mem_bytes is not None]
    if used:
        page["jobwatt_job_memory_used_bytes"][job.labels] = str(sum(used))
    limits = [usage.mem_limit_bytes for usage in usages if usage.mem_limit_bytes is not None]
    if limits:
        page["jobwatt_job_memory_limit_bytes"][job.labels] = str(sum(limits))


def _node_rows(page: dict[str, Rows], view: View) -> None:
    totals, node = view.totals, view.snapshot.node
    for domain, uj in totals.node.items():
        page["jobwatt_node_energy_joules_total"][(domain,)] = _micro(uj)
    for domain, mark in totals.node_marks.items():
        if mark.power_uw is not None:
            page["jobwatt_node_power_watts"][(domain,)] = _micro(mark.power_uw)
    for (owner, domain), uj in totals.owners.items():
        page[_OWNER_METRIC[owner]][(domain,)] = _micro(uj)
    if node.cpu_busy_ns:
        page["jobwatt_node_cpus"][()] = str(len(node.cpu_busy_ns))
        page["jobwatt_node_cpu_busy_seconds_total"][()] = _nano(totals.busy_ns)
    if node.mem_total_bytes:
        page["jobwatt_node_memory_total_bytes"][()] = str(node.mem_total_bytes)
    if node.mem_used_bytes is not None:
        page["jobwatt_node_memory_used_bytes"][()] = str(node.mem_used_bytes)
    _wall_rows(page, view)
    _component_rows(page, view)


def _wall_rows(page: dict[str, Rows], view: View) -> None:
    """The wall meter against the components' sensors."""
    wall = view.totals.wall
    if Domain.OTHER in view.totals.node:
        page["jobwatt_residual_energy_joules_total"][()] = _micro(view.totals.residual_uj)
    if wall.compared.dt_ns:
        reconciled = page["jobwatt_reconciled_energy_joules_total"]
        reconciled[("wall",)] = _micro(wall.compared.wall_uj)
        reconciled[("components",)] = _micro(wall.compared.parts_uj)
    shown = wall.shown
    if wall.speaks(view.snapshot.t_ns) and shown.wall_uj > 0:
        page["jobwatt_wall_seen_ratio"][()] = f"{shown.parts_uj / shown.wall_uj:.6f}"
        if shown.parts_uj:
            balance = shown.wall_uj / shown.parts_uj - 1
            page["jobwatt_wall_balance_ratio"][()] = f"{balance:.6f}"


def _component_rows(page: dict[str, Rows], view: View) -> None:
    """Which source feeds each component, and how well."""
    for (domain, source), fed in view.totals.fed.items():
        row = (str(domain), source, quality(source))
        page["jobwatt_component_measured_seconds_total"][row] = _nano(fed.ns)
        age_ns = view.snapshot.t_ns - fed.t_ns
        if fed.t_ns and age_ns < FEEDS_NS:
            page["jobwatt_component_info"][row] = "1"
        if fed.t_ns and age_ns < _AGE_NS:
            page["jobwatt_component_age_seconds"][str(domain), source] = _nano(max(age_ns, 0))


def quality(source: str) -> str:
    """``estimated`` for a source that computes its figures from a model, else ``measured``."""
    return "estimated" if source in ESTIMATES else "measured"


_OWNER_METRIC = {
    SYSTEM: "jobwatt_system_energy_joules_total",
    UNALLOCATED: "jobwatt_unallocated_energy_joules_total",
}


def _device_rows(page: dict[str, Rows], view: View) -> None:
    powers = view.idle.power_uw()
    # a meter that was read here and is read elsewhere now is another device with the same labels: one counter
    meters: Counter[tuple[str, Values]] = Counter()
    for device_id, totals in view.totals.devices.items():
        device = totals.device
        if device.domain is Domain.GPU:
            labels = (view.totals.gpu_index.get(device_id, device.name), device_id)
            page["jobwatt_gpu_energy_joules_total"][labels] = _micro(totals.energy_uj)
            if totals.integrated_uj:
                page["jobwatt_gpu_integrated_energy_joules_total"][labels] = _micro(
                    totals.integrated_uj
                )
                ratio = totals.compared_uj / totals.integrated_uj
                page["jobwatt_gpu_energy_agreement_ratio"][labels] = f"{ratio:.6f}"
        elif device.source == "rapl":
            page["jobwatt_rapl_energy_joules_total"][device.name, device_id] = _micro(
                totals.energy_uj
            )
        elif device.node:
            fed = (device.source, device.name or device_id, device.node)
            meters["jobwatt_meter_energy_joules_total", fed] += totals.energy_uj
        elif device.domain is Domain.NODE and device.summed:
            own = (device.source, device.name or device_id)
            meters["jobwatt_wall_energy_joules_total", own] += totals.energy_uj
        elif device.source == "hwmon":
            chip, _, sensor = device.name.partition(":")
            page["jobwatt_hwmon_energy_joules_total"][chip, sensor] = _micro(totals.energy_uj)
        if device.summed and device_id in powers:
            row = (str(device.domain), device_id, view.idle.origin(device_id))
            page["jobwatt_idle_power_watts"][row] = _micro(powers[device_id])
    for (metric, values), uj in meters.items():
        page[metric][values] = _micro(uj)


def _own_rows(page: dict[str, Rows], view: View) -> None:
    for source in view.sources:
        page["jobwatt_source_up"][(source.name,)] = "1" if source.up else "0"
        page["jobwatt_source_read_seconds"][(source.name,)] = f"{source.read_s:.6f}"
    running = [job for job in view.totals.jobs.values() if not job.ended_ns]
    page["jobwatt_snapshot_timestamp_seconds"][()] = f"{view.snapshot.wall_s:.3f}"
    page["jobwatt_sample_seconds"][()] = f"{view.sample_s:.6f}"
    page["jobwatt_jobs"][()] = str(
        len({job.job.meta.jobid or job.job.usage.key for job in running})
    )
    page["jobwatt_jobs_unresolved"][()] = str(sum(not job.job.meta.resolved_by for job in running))
    page["jobwatt_ledger_up"][()] = "0" if view.ledger_fault else "1"
    page["jobwatt_build_info"][(view.version,)] = "1"


def _micro(value: int) -> str:
    """uJ as J, uW as W: exact."""
    return f"{value // 1_000_000}.{value % 1_000_000:06d}"


def _nano(value: int) -> str:
    """Ns as s: exact."""
    return f"{value // NS_PER_S}.{value % NS_PER_S:09d}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
