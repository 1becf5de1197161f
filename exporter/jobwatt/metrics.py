"""
The catalogue: every metric's name, type, help and labels, once.

The exposition, the sources, the README's table and the dashboards all take names from here. To
add a metric, add a line; a name that is not here cannot be exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Type(StrEnum):
    """Prometheus's metric types that jobwatt uses."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``labels`` is the order in which label values are given everywhere."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()


JOB = ("jobid", "user", "account", "partition")
JOB_GPU = (*JOB, "gpu", "uuid")
GPU = ("gpu", "uuid")
METER = ("source", "meter", "node")
GRID = ("zone", "source", "scope", "kind")

_C, _G = Type.COUNTER, Type.GAUGE

_ALL = (
    # jobs
    Metric(
        "jobwatt_job_energy_joules_total",
        _C,
        "Energy the job is charged with on this node, by component.",
        (*JOB, "component"),
    ),
    Metric(
        "jobwatt_job_power_watts",
        _G,
        "Power the job is charged with on this node, all components.",
        JOB,
    ),
    Metric(
        "jobwatt_job_gpu_energy_joules_total",
        _C,
        "Energy of a GPU charged to the job that holds it.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_allocated_seconds_total",
        _C,
        "Time the job has held the GPU (a MIG instance counts by its own UUID).",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_idle_seconds_total",
        _C,
        "Time the job held the GPU while no kernel ran on it; unknown is not counted.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_idle_energy_joules_total",
        _C,
        "Energy of the GPU charged to the job while no kernel ran on it.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_unknown_seconds_total",
        _C,
        "Time the job held the GPU while nothing told whether a kernel ran.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_utilization_seconds_total",
        _C,
        "Utilisation of the GPU integrated over the time the job held it: seconds of full use.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_utilization_ratio",
        _G,
        "Share of the last sampling period with a kernel running.",
        JOB_GPU,
    ),
    Metric(
        "jobwatt_job_gpu_memory_used_bytes", _G, "Memory in use on a GPU the job holds.", JOB_GPU
    ),
    Metric(
        "jobwatt_job_cpu_seconds_total",
        _C,
        "CPU time of the job on this node, ended steps included.",
        JOB,
    ),
    Metric("jobwatt_job_cpus", _G, "CPUs reserved for the job on this node.", JOB),
    Metric(
        "jobwatt_job_memory_used_bytes",
        _G,
        "Memory of the job on this node, without page cache.",
        JOB,
    ),
    Metric(
        "jobwatt_job_memory_limit_bytes",
        _G,
        "Memory limit of the job on this node; absent where there is none.",
        JOB,
    ),
    Metric(
        "jobwatt_job_info",
        _G,
        "Facts of the job; always 1.",
        (*JOB, "name", "qos", "array_job_id", "array_task_id", "uid", "resolved_by", "gpus_by"),
    ),
    Metric("jobwatt_job_start_time_seconds", _G, "Unix time at which the job started.", JOB),
    Metric(
        "jobwatt_job_end_time_seconds",
        _G,
        "Unix time at which the job ended on this node; absent while it runs.",
        JOB,
    ),
    Metric(
        "jobwatt_job_exit_info",
        _G,
        "How the job ended, in Slurm's words (state, CODE:SIGNAL); absent until known; always 1.",
        (*JOB, "state", "exit_code"),
    ),
    Metric(
        "jobwatt_job_limit_time_seconds",
        _G,
        "Unix time at which the job's time limit strikes.",
        JOB,
    ),
    Metric(
        "jobwatt_job_coverage_ratio",
        _G,
        "Share of the job's seconds on this node that were measured.",
        JOB,
    ),
    # the node's account
    Metric(
        "jobwatt_node_energy_joules_total",
        _C,
        "Energy of the node by component; the components' sum is the node.",
        ("component",),
    ),
    Metric(
        "jobwatt_system_energy_joules_total",
        _C,
        "Energy of daemons and the kernel, by component.",
        ("component",),
    ),
    Metric(
        "jobwatt_unallocated_energy_joules_total",
        _C,
        "Energy of what no job has reserved, by component.",
        ("component",),
    ),
    Metric("jobwatt_node_power_watts", _G, "Power of the node by component.", ("component",)),
    Metric("jobwatt_node_cpus", _G, "Logical CPUs of the node."),
    Metric(
        "jobwatt_node_cpu_busy_seconds_total",
        _C,
        "Busy CPU time of the node, jobs and system together.",
    ),
    Metric("jobwatt_node_memory_total_bytes", _G, "Memory of the node."),
    Metric("jobwatt_node_memory_used_bytes", _G, "Memory of the node in use, without page cache."),
    Metric(
        "jobwatt_idle_power_watts",
        _G,
        "Idle power used to tell static from dynamic energy, and where it comes from (calibrated or learnt).",
        ("component", "device", "origin"),
    ),
    Metric(
        "jobwatt_residual_energy_joules_total",
        _C,
        "Energy by which the components exceeded the wall meter (a negative residual), never hidden.",
    ),
    # RAPL
    Metric(
        "jobwatt_rapl_energy_joules_total",
        _C,
        "Energy of a RAPL zone, unwrapped.",
        ("zone", "path"),
    ),
    # GPUs
    Metric(
        "jobwatt_gpu_energy_joules_total", _C, "Energy of the GPU, since jobwatt first saw it.", GPU
    ),
    Metric(
        "jobwatt_gpu_integrated_energy_joules_total",
        _C,
        "Energy of the GPU integrated from its power, beside the hardware counter.",
        GPU,
    ),
    Metric(
        "jobwatt_gpu_energy_agreement_ratio",
        _G,
        "Hardware energy counter over integrated power, since the daemon started; 1 when they agree.",
        GPU,
    ),
    Metric("jobwatt_gpu_power_watts", _G, "Power of the GPU.", GPU),
    Metric("jobwatt_gpu_power_limit_watts", _G, "Power limit in force.", GPU),
    Metric(
        "jobwatt_gpu_utilization_ratio",
        _G,
        "Share of the last sampling period in which at least one kernel ran.",
        GPU,
    ),
    Metric(
        "jobwatt_gpu_memory_busy_ratio",
        _G,
        "Share of the last sampling period in which device memory was read or written.",
        GPU,
    ),
    Metric("jobwatt_gpu_memory_used_bytes", _G, "Device memory in use.", GPU),
    Metric("jobwatt_gpu_memory_total_bytes", _G, "Device memory.", GPU),
    Metric("jobwatt_gpu_temperature_celsius", _G, "Temperature of the GPU die.", GPU),
    Metric("jobwatt_gpu_sm_clock_hertz", _G, "Clock of the streaming multiprocessors.", GPU),
    Metric("jobwatt_gpu_memory_clock_hertz", _G, "Clock of the device memory.", GPU),
    Metric(
        "jobwatt_gpu_sm_active_ratio",
        _G,
        "Share of SM cycles with a warp assigned (GPM, Hopper and later).",
        GPU,
    ),
    Metric("jobwatt_gpu_sm_occupancy_ratio", _G, "Warps resident over the possible (GPM).", GPU),
    Metric(
        "jobwatt_gpu_tensor_active_ratio",
        _G,
        "Share of cycles with a tensor pipe in use (GPM).",
        GPU,
    ),
    Metric(
        "jobwatt_gpu_dram_active_ratio",
        _G,
        "Share of the device memory's bandwidth in use (GPM).",
        GPU,
    ),
    Metric(
        "jobwatt_gpu_throttle_seconds_total",
        _C,
        "Time for which clocks were held down, by reason, as the driver counts it.",
        (*GPU, "reason"),
    ),
    Metric(
        "jobwatt_gpu_throttled",
        _G,
        "1 while clocks are held down for the reason.",
        (*GPU, "reason"),
    ),
    Metric(
        "jobwatt_gpu_ecc_errors_total",
        _C,
        "ECC errors since the driver was loaded, as it counts them.",
        (*GPU, "kind"),
    ),
    Metric(
        "jobwatt_gpu_remapped_rows",
        _G,
        "Rows of device memory remapped, by cause.",
        (*GPU, "cause"),
    ),
    Metric("jobwatt_gpu_xid_events_total", _C, "XID events reported by the driver.", (*GPU, "xid")),
    Metric("jobwatt_gpu_processes", _G, "Processes with a context on the GPU.", GPU),
    Metric("jobwatt_gpu_up", _G, "1 while the GPU answers, 0 while it is lost.", GPU),
    Metric(
        "jobwatt_gpu_info",
        _G,
        "What the GPU or MIG instance is; always 1.",
        (*GPU, "model", "pci_bus_id", "minor_number", "mig_profile", "parent_uuid"),
    ),
    Metric("jobwatt_driver_info", _G, "NVIDIA driver; always 1.", ("version", "cuda")),
    # the wall
    Metric(
        "jobwatt_wall_energy_joules_total",
        _C,
        "Energy a meter outside the chips measured.",
        ("source", "meter"),
    ),
    Metric(
        "jobwatt_wall_power_watts",
        _G,
        "Power a meter outside the chips measured.",
        ("source", "meter"),
    ),
    Metric(
        "jobwatt_wall_seen_ratio",
        _G,
        "Share of the wall meter's energy that the components' own sensors saw, over the last minute or more.",
    ),
    Metric(
        "jobwatt_wall_balance_ratio",
        _G,
        "By how much the wall meter exceeds the components' own sensors, over the last minute or more: 0.16 is 16 % more.",
    ),
    Metric(
        "jobwatt_reconciled_energy_joules_total",
        _C,
        "Energy over the same stretches of time as the wall meter saw it (part wall) and as the components' sensors did (part components).",
        ("part",),
    ),
    # meters that a host or a proxy reads for other nodes
    Metric(
        "jobwatt_meter_energy_joules_total",
        _C,
        "Energy of a meter's port, or of a BMC, that this process reads, and the node it feeds.",
        METER,
    ),
    Metric(
        "jobwatt_meter_power_watts",
        _G,
        "Power of a meter's port, or of a BMC, that this process reads, and the node it feeds.",
        METER,
    ),
    Metric(
        "jobwatt_meter_reading_timestamp_seconds",
        _G,
        "Unix time of the meter's last good reading.",
        METER,
    ),
    Metric(
        "jobwatt_meter_up",
        _G,
        "1 while the meter or the BMC delivers, 0 while it does not.",
        METER,
    ),
    Metric(
        "jobwatt_wattmeter_frames_total",
        _C,
        "Frames of the wattmeter by what became of them (ok, repeated, bad, blank).",
        ("outcome",),
    ),
    # hwmon
    Metric(
        "jobwatt_hwmon_energy_joules_total",
        _C,
        "Energy of a hwmon sensor (power integrated, or the kernel's counter).",
        ("chip", "sensor"),
    ),
    Metric("jobwatt_hwmon_power_watts", _G, "Power of a hwmon sensor.", ("chip", "sensor")),
    # the estimate
    Metric(
        "jobwatt_estimate_info",
        _G,
        "The model that stands in for sensors, and what it assumes; always 1.",
        ("cpu", "tdp_watts", "basis"),
    ),
    # how good each component's figures are
    Metric(
        "jobwatt_component_info",
        _G,
        "Which source feeds the component now, and whether it measures or estimates; always 1.",
        ("component", "source", "quality"),
    ),
    Metric(
        "jobwatt_component_age_seconds",
        _G,
        "Age of the reading behind the component's energy, at the time of the snapshot.",
        ("component", "source"),
    ),
    Metric(
        "jobwatt_component_measured_seconds_total",
        _C,
        "Time for which the source fed the component; its rate is the component's coverage.",
        ("component", "source", "quality"),
    ),
    Metric(
        "jobwatt_job_component_measured_seconds_total",
        _C,
        "Time of the job for which the source fed the component: over its run time, the component's coverage.",
        (*JOB, "component", "source", "quality"),
    ),
    # the grid (`jobwatt grid`)
    Metric(
        "jobwatt_grid_carbon_intensity_grams_per_kwh",
        _G,
        "CO2e per kWh of electricity. scope: lifecycle or direct; kind: average or marginal.",
        GRID,
    ),
    Metric(
        "jobwatt_grid_reading_timestamp_seconds",
        _G,
        "Unix time that the intensity is of (for a yearly figure the year's end).",
        GRID,
    ),
    Metric(
        "jobwatt_grid_stale",
        _G,
        "1 while the intensity is older than its source should be, 0 otherwise.",
        GRID,
    ),
    Metric(
        "jobwatt_grid_polls_total",
        _C,
        "Questions asked of a source of carbon intensity, by outcome.",
        ("source", "outcome"),
    ),
    Metric(
        "jobwatt_grid_chosen",
        _G,
        "1 for the intensity that is in use for the zone: the first source in order that is fresh, else the yearly table.",
        GRID,
    ),
    # Slurm's nodes as targets (jobwatt sd)
    Metric("jobwatt_sd_targets", _G, "Targets that Prometheus is given."),
    Metric(
        "jobwatt_sd_held_targets",
        _G,
        "Of these, targets that slurmctld no longer names: too many at once to be believed.",
    ),
    Metric(
        "jobwatt_sd_nodes_left_out",
        _G,
        "Nodes of slurmctld's last answer that are no targets, by reason.",
        ("reason",),
    ),
    Metric(
        "jobwatt_sd_success_timestamp_seconds",
        _G,
        "Unix time of slurmctld's last answer that the targets were made from.",
    ),
    Metric(
        "jobwatt_sd_polls_total",
        _C,
        "Questions asked of slurmctld for its nodes, by outcome.",
        ("outcome",),
    ),
    # the measuring itself
    Metric("jobwatt_source_up", _G, "1 while the source delivers.", ("source",)),
    Metric(
        "jobwatt_source_read_seconds", _G, "How long the last read of the source took.", ("source",)
    ),
    Metric("jobwatt_source_errors_total", _C, "Failures of a source.", ("source", "reason")),
    Metric(
        "jobwatt_steps_total",
        _C,
        "Deltas that were not plain, by how they were obtained (wrapped, reset, gap, ambiguous).",
        ("source", "step"),
    ),
    Metric(
        "jobwatt_controller_calls_total",
        _C,
        "Questions asked of slurmctld (by pyslurm or scontrol), by outcome.",
        ("outcome",),
    ),
    Metric("jobwatt_snapshot_timestamp_seconds", _G, "Unix time of the snapshot behind this page."),
    Metric("jobwatt_sample_seconds", _G, "How long the last sample took, commit included."),
    Metric("jobwatt_samples_total", _C, "Samples taken, by cause.", ("cause",)),
    Metric(
        "jobwatt_clock_jumps_total",
        _C,
        "Jumps of the wall clock against the boot clock by more than a second.",
    ),
    Metric("jobwatt_jobs", _G, "Jobs on this node now."),
    Metric(
        "jobwatt_jobs_unresolved", _G, "Jobs on this node of which nobody has yet told the owner."
    ),
    Metric(
        "jobwatt_hidden_jobs",
        _G,
        "Jobs that are measured and left out of the page, which shows limits.jobs of them at most.",
    ),
    Metric(
        "jobwatt_hidden_jobs_energy_joules",
        _G,
        "Energy of the jobs that the page leaves out now, by component.",
        ("component",),
    ),
    Metric(
        "jobwatt_hidden_series",
        _G,
        "Series of a metric that the page leaves out, which shows limits.series of it at most; absent where none is.",
        ("metric",),
    ),
    Metric(
        "jobwatt_ledger_up",
        _G,
        "1 while totals reach the disk, 0 while they are kept in memory only.",
    ),
    Metric(
        "jobwatt_ledger_errors_total",
        _C,
        "Commits that failed, and ledgers that could not be read and were set aside.",
    ),
    Metric("jobwatt_build_info", _G, "Version of jobwatt; always 1.", ("version",)),
)

CATALOGUE: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def fits(name: str, values: tuple[str, ...]) -> bool:
    """Tell whether there is such a metric, and with so many labels: what is read back may be of another version."""
    metric = CATALOGUE.get(name)
    return metric is not None and len(metric.labels) == len(values)
