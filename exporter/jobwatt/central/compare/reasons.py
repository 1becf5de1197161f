"""
Why two tools differ about one job: each reason with its size.

A chain of steps leads from our figure to theirs; each step's size is computed from measurements of
its own where there are any, so that what is left over at the end is real and is shown as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .figures import Ours, Reason, Theirs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Around:
    """
    What was measured in the time in which the other tool did; absent and None are unknown.

    Attributes:
        node_j: joules of the job's whole nodes by component.
        job_j: joules that the job was charged with by component.
        held_j: joules of the GPUs that the job held, whoever used them.
    """

    node_j: Mapping[str, float]
    job_j: Mapping[str, float]
    held_j: float | None


def reasons(ours: Ours, theirs: Theirs, around: Around) -> list[Reason]:
    """Reasons, the last being what they leave unexplained; their sizes sum up to the difference."""
    found = [reason for reason in _steps(ours, theirs, around) if reason.joules != 0.0]
    known = sum(reason.joules for reason in found if reason.joules is not None)
    return [*found, Reason("not explained", theirs.total_j - ours.total_j - known)]


def _steps(ours: Ours, theirs: Theirs, around: Around) -> Iterator[Reason]:
    if not theirs.parts_j:
        yield Reason("it does not tell components apart: whole node, memory model, time span", None)
    else:
        yield from _span(ours, theirs, around)
        yield from _cpu(ours, theirs, around)
        yield from _gpu(ours, theirs, around)
        yield from _memory(ours, theirs)
    if theirs.lost_j:
        text = f"{' and '.join(theirs.lost_j)}: it takes the mean of several devices for their sum"
        yield Reason(text, -sum(theirs.lost_j.values()))
    if "other" in ours.energy_j:
        text = "what only the wall meter sees (fans, losses), shared out to the job"
        yield Reason(text, -ours.energy_j["other"])
    if theirs.pue != 1.0:
        text = f"PUE {theirs.pue:.3g}: it counts the building, jobwatt the node"
        yield Reason(text, theirs.overhead_j)
    if theirs.predicted_j:
        yield Reason("predicted for epochs that it did not measure", theirs.predicted_j)


def _span(ours: Ours, theirs: Theirs, around: Around) -> Iterator[Reason]:
    """What the job used while the tool did not measure, of the components that it does measure."""
    if theirs.covers == "model":
        return
    measured = ("gpu",) if theirs.covers == "process" else ("cpu", "gpu")
    parts = [part for part in measured if part in theirs.parts_j]
    pairs = [(_take(around.job_j, p, theirs), _take(ours.energy_j, p, theirs)) for p in parts]
    if not theirs.spans:
        yield Reason("when it measured is not said: taken as all of the job's time", None)
    elif any(during is None and whole is not None for during, whole in pairs):
        yield Reason("another time span than the job's", None)
    else:
        text = f"another time span: it measured {theirs.seconds:.0f} s, the job took {ours.seconds:.0f} s"
        yield Reason(text, sum((during or 0.0) - (whole or 0.0) for during, whole in pairs))


def _take(joules: Mapping[str, float], part: str, theirs: Theirs) -> float | None:
    """A component's joules; its DRAM with the CPU where the tool counts them as one."""
    found = joules.get(part)
    if found is None or part != "cpu" or not theirs.cpu_has_dram:
        return found
    return found + joules.get("dram", 0.0)


def _cpu(ours: Ours, theirs: Theirs, around: Around) -> Iterator[Reason]:
    share = _take(ours.energy_j, "cpu", theirs) or 0.0
    if "cpu" not in theirs.parts_j:
        yield Reason("it counts no CPU", -share)
    elif theirs.covers == "process":
        text = "CPU by the process's share of load, not by RAPL (tracking_mode=process)"
        yield Reason(text, theirs.parts_j["cpu"] - share)
    elif theirs.covers == "model":
        yield Reason("CPU from TDP and not from a sensor", theirs.parts_j["cpu"] - share)
    else:
        node, job = (_take(joules, "cpu", theirs) for joules in (around.node_j, around.job_j))
        size = None if node is None or job is None else node - job
        yield Reason("the whole node's CPUs and not the job's share", size)


def _gpu(ours: Ours, theirs: Theirs, around: Around) -> Iterator[Reason]:
    share, said = ours.energy_j.get("gpu", 0.0), theirs.parts_j.get("gpu", 0.0)
    if theirs.covers == "model":
        yield Reason(f"GPUs at TDP all the time{_idle(ours)}", said - share)
    elif not said:
        counted = around.job_j.get("gpu", share) if "gpu" in theirs.parts_j else share
        yield Reason("it counts no GPU", -counted)
    elif "gpu" in around.job_j and around.held_j is not None:
        said += theirs.lost_j.get("gpu", 0.0)
        yield from _whose(ours, said, around.held_j, around)
    elif share:
        yield Reason("what GPUs used in its time span is not known", None)


def _whose(ours: Ours, said: float, held: float, around: Around) -> Iterator[Reason]:
    """
    GPUs beyond the job's; the tools' files do not say which they tracked.

    They track what NVML shows them: the job's own where cgroups hide the others or
    CUDA_VISIBLE_DEVICES names some, all of them elsewhere. The nearer of the two it is.
    """
    job, node = around.job_j["gpu"], around.node_j.get("gpu", held)
    if len(ours.gpus) < ours.node_gpus and abs(said - node) < abs(said - held):
        beyond = ours.node_gpus - len(ours.gpus)
        yield Reason(f"{beyond} GPUs that the job does not hold", node - job)
    elif held - job > 0.01 * held:  # less is two counters read at two moments
        yield Reason("other jobs' part of GPUs that it shares", held - job)


def _idle(ours: Ours) -> str:
    held = sum(gpu.held_s for gpu in ours.gpus.values())
    known = [gpu.idle_s for gpu in ours.gpus.values() if gpu.idle_s is not None]
    if not held or not known:
        return ""
    watts = ours.energy_j.get("gpu", 0.0) / held
    return f"; jobwatt: {watts:.0f} W, {sum(known) / held * 100:.0f} % of the time idle"


def _memory(ours: Ours, theirs: Theirs) -> Iterator[Reason]:
    if theirs.cpu_has_dram:
        return
    said, share = theirs.parts_j.get("dram", 0.0), ours.energy_j.get("dram")
    seconds = theirs.seconds or ours.seconds
    watts = f"memory by a model ({said / seconds:.3g} W)" if seconds > 0 else "memory by a model"
    if share is None:
        yield Reason(f"{watts}; jobwatt has no DRAM sensor here", said)
    else:
        yield Reason(f"{watts}, not the job's share of measured DRAM", said - share)
