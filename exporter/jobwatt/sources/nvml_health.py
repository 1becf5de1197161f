"""What of a GPU changes slowly: throttling, ECC errors, remapped rows, the power limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobwatt.model import NS_PER_S, Sample

if TYPE_CHECKING:
    from jobwatt.sources.nvml_calls import Calls

# Field ids of nvml.h. The cumulative times are in ns since the driver was loaded
# (NVML_FI_DEV_PERF_POLICY_POWER and NVML_FI_DEV_CLOCKS_EVENT_REASON_*).
_THROTTLE_NS = {74: "sw_power_cap", 269: "sw_thermal", 270: "hw_thermal", 271: "hw_power_brake"}
_ECC = {3: "corrected", 4: "uncorrected"}  # NVML_FI_DEV_ECC_{SBE,DBE}_VOL_TOTAL
_ROWS = {142: "corrected", 143: "uncorrected"}  # NVML_FI_DEV_REMAPPED_{COR,UNC}
_FIELDS = (*_THROTTLE_NS, *_ECC, *_ROWS)

# nvmlClocksEventReason* bits; "idle" and the clocks an administrator set are no throttling.
_REASONS = {
    0x04: "sw_power_cap", 0x08: "hw_slowdown", 0x20: "sw_thermal", 0x40: "hw_thermal",
    0x80: "hw_power_brake",
}  # fmt: skip
_REASON_CALLS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)


def read_health(calls: Calls, handle: Any, labels: tuple[str, str]) -> list[Sample]:
    """The slow samples of one GPU: three calls, one of them for all the counters together."""
    values = calls.fields(handle, _FIELDS)
    samples = field_samples(values, labels)
    mask = calls.ask_first(_REASON_CALLS, handle)
    if mask is not None:
        samples += [
            Sample("jobwatt_gpu_throttled", (*labels, name), float(bool(mask & bit)))
            for bit, name in _REASONS.items()
        ]
    limit_mw = calls.ask("nvmlDeviceGetEnforcedPowerLimit", handle)
    if limit_mw is not None:
        samples.append(Sample("jobwatt_gpu_power_limit_watts", labels, limit_mw / 1000))
    return samples


def field_samples(values: dict[int, int], labels: tuple[str, str]) -> list[Sample]:
    """Field values by id -> samples; what is not there is not shown."""
    tables = (
        ("jobwatt_gpu_throttle_seconds_total", _THROTTLE_NS, NS_PER_S),
        ("jobwatt_gpu_ecc_errors_total", _ECC, 1),
        ("jobwatt_gpu_remapped_rows", _ROWS, 1),
    )
    return [
        Sample(metric, (*labels, name), values[field_id] / unit)
        for metric, names, unit in tables
        for field_id, name in names.items()
        if field_id in values
    ]
