"""
Idle power of each device: what tells static from dynamic energy.

Calibrated on a drained node (`jobwatt calibrate`), else learnt while nothing is allocated, and said
to be so. Never the smallest power ever seen: a node that never rests would then look idle under
load. Pure, but for ``load`` and ``save``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .model import NS_PER_S, Domain, Step
from .pools import gpu_states

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .interval import Settlement
    from .meter import Metered
    from .model import Delta, GpuState, Snapshot

CALIBRATED = "calibrated"
LEARNT = "learnt"

# Rest this long before a device's power is believed to be its idle power: NVIDIA GPUs take tens of
# seconds to fall back to their idle clocks, and package C-states follow the timer tick at once.
WINDOW_NS = 60 * NS_PER_S

_MOST_UW = 10**12  # a megawatt: no device draws more
_PLAIN = {Step.NORMAL, Step.WRAPPED}


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of rest: energy and time so far."""

    energy_uj: int = 0
    dt_ns: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """What is known of idle power, in uW by device id; a calibrated figure beats a learnt one."""

    calibrated: Mapping[str, int] = field(default_factory=dict)
    learnt: Mapping[str, int] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)

    def power_uw(self) -> dict[str, int]:
        """Idle power by device id."""
        return {**self.learnt, **self.calibrated}

    def origin(self, device: str) -> str:
        """How the device's figure was obtained."""
        return CALIBRATED if device in self.calibrated else LEARNT


def observed(
    idle: Idle, settled: Settlement, metered: Metered, before: Snapshot | None, now: Snapshot
) -> Idle:
    """Learn from one interval; the newest full window of rest is believed."""
    if before is None:
        return idle
    learnt, windows = dict(idle.learnt), {}
    for delta in metered.booked:
        if (
            not delta.device.summed
            or delta.step not in _PLAIN
            or not _rests(delta, settled, before, now)
        ):
            continue
        window = idle.windows.get(delta.device.id, Window())
        window = Window(window.energy_uj + delta.energy_uj, window.dt_ns + delta.dt_ns)
        if window.dt_ns >= WINDOW_NS:
            learnt[delta.device.id] = window.energy_uj * NS_PER_S // window.dt_ns
            window = Window()
        windows[delta.device.id] = window
    return Idle(idle.calibrated, learnt, windows)


def _rests(delta: Delta, settled: Settlement, before: Snapshot, now: Snapshot) -> bool:
    """Whether it is certain that nobody used the device; unknown is not at rest."""
    if delta.device.domain is not Domain.GPU:
        return not settled.jobs
    jobs = [entry.job for entry in settled.jobs.values()]
    if any(not job.meta.gpus_by for job in jobs):
        return False  # which GPUs that job holds, nobody has told yet
    states = gpu_states(before, now)
    family = [
        s for s in states.values() if delta.device.id in {s.uuid, s.parent} and not s.mig_enabled
    ]
    held = {uuid for job in jobs for uuid in job.meta.gpus}
    return bool(family) and all(_unused(s) and s.uuid not in held for s in family)


def _unused(state: GpuState) -> bool:
    if state.busy_permille is None:
        return state.processes == ()
    return state.busy_permille == 0 and not state.processes  # another container's are not listed


def load(path: Path) -> dict[str, int]:
    """Read a calibration; ValueError names the file where it does not fit, a missing one is empty."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {device: _power_uw(entry) for device, entry in plain["devices"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
        raise ValueError(
            f"{path}: not a calibration ({err}); remove it or run `jobwatt calibrate` again"
        ) from err


def _power_uw(entry: Mapping[str, Any]) -> int:
    power_uw = entry["power_uw"]
    if not isinstance(power_uw, int) or not 0 <= power_uw < _MOST_UW:
        raise ValueError(f"{power_uw!r:.40} is no power")
    return power_uw


def save(path: Path, measured: Mapping[str, Window], wall_s: int) -> None:
    """Write a calibration in one piece."""
    devices = {
        device: {
            "power_uw": window.energy_uj * NS_PER_S // window.dt_ns,
            "seconds": window.dt_ns // NS_PER_S,
        }
        for device, window in measured.items()
        if window.dt_ns
    }
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)  # and made anew: root must not write through somebody's link
    with draft.open("x", encoding="utf-8") as out:
        json.dump({"version": 1, "measured_at": wall_s, "devices": devices}, out, indent=1)
        out.write("\n")
    draft.replace(path)
