"""`jobwatt doctor`: what is measured here, what is not, why, and what mends it."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from . import assembly, installation
from .meter import measure
from .model import ESTIMATES, NS_PER_S, Kind, Step

if TYPE_CHECKING:
    from .config import Config
    from .model import Delta, Snapshot
    from .privacy import Names
    from .sampler import Sampler


@dataclass(frozen=True, slots=True)
class Findings:
    """
    What an examination found; one line per entry.

    Attributes:
        measured: devices and their power now; estimated: the same from a model, where there is no sensor.
        problems: what is not measured, why, and what mends it.
        jobs: jobs on this node and who says whose they are.
        notes: hooks, controller, state directory.
        installation: what a package installed, part by part; nothing where none did.
    """

    measured: tuple[str, ...]
    estimated: tuple[str, ...]
    problems: tuple[str, ...]
    jobs: tuple[str, ...]
    notes: tuple[str, ...]
    installation: tuple[installation.Check, ...]

    @property
    def measures(self) -> bool:
        """Whether anything can be measured at all."""
        return bool(self.measured)


def examine(config: Config, sampler: Sampler, settings: str | None = None) -> Findings:
    """Take two samples and look at what came; ``settings``: the file given as --config.file."""
    names = assembly.terms(config).names
    first = sampler.take(full=True, cause="tick")
    sampler.await_slow()
    time.sleep(max(config.sample_interval, NS_PER_S // 2) / NS_PER_S)
    second = sampler.take(full=True, cause="tick")
    return Findings(
        measured=_devices(config, first, second, estimated=False),
        estimated=_devices(config, first, second, estimated=True),
        problems=tuple(dict.fromkeys(failure.message for failure in second.failures)),
        jobs=_jobs(second, names),
        notes=(*_as_whom(settings), *_notes(config)),
        installation=installation.look(config),
    )


def _devices(
    config: Config, first: Snapshot, second: Snapshot, *, estimated: bool
) -> tuple[str, ...]:
    powers = {r.device.id: r.value for r in second.readings if r.kind is Kind.POWER}
    cursors = measure({}, first.readings, assembly.gap_ns(config)).cursors
    lines = []
    for delta in measure(
        cursors, second.readings, max(assembly.gap_ns(config), 3 * NS_PER_S)
    ).booked:
        device = delta.device
        if (device.source in ESTIMATES) is not estimated:
            continue
        watts = _watts(delta, powers.get(device.id))
        how = f"  ({delta.step})" if delta.dt_ns and delta.step is not Step.NORMAL else ""
        part = "" if device.summed else "  inside another: shown, not added"
        if device.node:
            part = f"  feeds {device.node}"
        lines.append(
            f"{watts}  {device.domain:<4} {device.source}: {device.name or device.id}{how}{part}"
        )
    return tuple(lines)


def _watts(delta: Delta, power_uw: int | None) -> str:
    """Power over the two samples; what a slow sensor said last, where it has said nothing new."""
    if delta.dt_ns:
        return f"{delta.energy_uj * 1000 / delta.dt_ns:9.1f} W"
    return "        ?  " if power_uw is None else f"{power_uw / 1e6:9.1f} W"


def _jobs(snapshot: Snapshot, names: Names) -> tuple[str, ...]:
    lines = []
    for job in snapshot.jobs:
        meta = names.masked(job.meta)
        user = meta.user or ("a user" if job.meta.user else "?")
        who = f"{user} ({meta.account or 'no account known'}), known by {meta.resolved_by or 'nobody yet'}"
        gpus = f", {len(meta.gpus)} GPU by {meta.gpus_by}" if meta.gpus else ""
        lines.append(f"{meta.jobid or job.usage.key}: {who}{gpus}")
    return tuple(lines)


def _as_whom(settings: str | None, root: Path = Path("/")) -> list[str]:
    """Whose rights and whose settings these are, where they are not the daemon's."""
    file = root / installation.SETTINGS
    notes = []
    if os.geteuid() == 0 and (installation.has_daemons_user(root) or file.exists()):
        notes.append(
            "measured as root: the daemon may read less. As the daemon sees it: "
            f"runuser -u {installation.USER} -- jobwatt doctor --config.file={file}"
        )
    if settings is None and file.exists():
        notes.append(f"measured with default settings: --config.file={file} was not given")
    return notes


def _notes(config: Config) -> list[str]:
    hooks = config.path_state / "hooks"
    notes = []
    if not hooks.is_dir():
        notes.append(
            f"{hooks} does not exist: no hook has run yet. Add `jobwatt hook prolog` and `jobwatt hook epilog` to "
            "slurm.conf's Prolog and Epilog, so that owners and GPUs of jobs are certain"
        )
    running = {process.info["name"] for process in psutil.process_iter(["name"])}
    if "slurmd" not in running:
        notes.append("no slurmd runs here: this node gets no jobs")
    if "nv-hostengine" in running:
        notes.append(
            "DCGM (nv-hostengine) runs here: it may hold the profiling counters that SM activity is read from"
        )
    if config.slurm_rpc and shutil.which("scontrol") is None:
        notes.append(
            "scontrol is not in PATH and slurmctld cannot be asked: jobs are known by hook and environment only"
        )
    if not (config.path_state / "idle.json").exists():
        notes.append(
            "idle power is not calibrated: it is learnt while nothing runs. Better: drain the node, `jobwatt calibrate`"
        )
    return notes


def as_text(found: Findings) -> str:
    """For a person."""
    blocks = [
        ("measured", found.measured or ("nothing",)),
        *([("estimated, for want of a sensor", found.estimated)] if found.estimated else []),
        ("not measured", found.problems or ("everything that is switched on is measured",)),
        ("jobs", found.jobs or ("no job on this node",)),
        ("notes", found.notes or ("none",)),
        *([("installation", _checks(found))] if found.installation else []),
    ]
    return "\n".join(
        f"{title}\n" + "".join(f"  {line}\n" for line in lines) for title, lines in blocks
    )


def _checks(found: Findings) -> tuple[str, ...]:
    return tuple(
        f"{check.state:<7}  {check.part}: {check.says}{check.mend and '; mend: '}{check.mend}"
        for check in found.installation
    )


def as_json(found: Findings) -> str:
    """For a script."""
    return json.dumps({"measures": found.measures, **asdict(found)}, indent=1) + "\n"
