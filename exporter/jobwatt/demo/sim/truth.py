"""
What the simulation itself knows of energy and idle time, added up apart from the pipeline.

Integers: uJ and seconds, since the cluster began. The difference of two is what happened between.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class Truth:
    """
    Attributes:
        energy_uj: (node, component) -> uJ; components cpu, dram, gpu, wall.
        user_gpu_uj, account_gpu_uj: GPU energy of jobs. A MIG instance has its slices' share.
        user_idle_uj, account_idle_uj: of it, with no kernel running.
        user_idle_s, account_idle_s: GPU seconds held with no kernel running.
        user_gpu_s, account_gpu_s: GPU seconds held; a MIG instance counts as one.
            What a MIG instance does nobody can know: it is never counted as idle.
        job_gpu_uj, job_idle_uj, job_idle_s: the same by job id.
        ended: (account, state) -> jobs that ended.
        ended_gpu_uj: (account, state) -> their GPU energy since the cluster began.
    """

    energy_uj: Counter[tuple[str, str]] = field(default_factory=Counter)
    user_gpu_uj: Counter[str] = field(default_factory=Counter)
    account_gpu_uj: Counter[str] = field(default_factory=Counter)
    user_idle_uj: Counter[str] = field(default_factory=Counter)
    account_idle_uj: Counter[str] = field(default_factory=Counter)
    user_idle_s: Counter[str] = field(default_factory=Counter)
    account_idle_s: Counter[str] = field(default_factory=Counter)
    user_gpu_s: Counter[str] = field(default_factory=Counter)
    account_gpu_s: Counter[str] = field(default_factory=Counter)
    job_gpu_uj: Counter[str] = field(default_factory=Counter)
    job_idle_uj: Counter[str] = field(default_factory=Counter)
    job_idle_s: Counter[str] = field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    ended_gpu_uj: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __sub__(self, earlier: Truth) -> Truth:
        """What happened since ``earlier``."""
        difference = Truth()
        for each in fields(self):
            was = getattr(earlier, each.name)
            more = {key: value - was[key] for key, value in getattr(self, each.name).items()}
            getattr(difference, each.name).update(more)
        return difference

    def add(self, other: Truth) -> None:
        """Add another's figures to this one's."""
        for each in fields(self):
            getattr(self, each.name).update(getattr(other, each.name))

    def charge(self, user: str, account: str, jobid: int, holds: Iterable[Hold]) -> int:
        """Charge an owner with what a job's GPUs have used; returns the energy, uJ."""
        job = str(jobid)
        total_uj = 0
        for hold in holds:
            total_uj += hold.energy_uj
            for counter, key in (
                (self.user_gpu_uj, user),
                (self.account_gpu_uj, account),
                (self.job_gpu_uj, job),
            ):
                counter[key] += hold.energy_uj
            for counter, key in (
                (self.user_idle_uj, user),
                (self.account_idle_uj, account),
                (self.job_idle_uj, job),
            ):
                counter[key] += hold.idle_uj
            for counter, key in (
                (self.user_idle_s, user),
                (self.account_idle_s, account),
                (self.job_idle_s, job),
            ):
                counter[key] += hold.idle_s
            for counter, key in ((self.user_gpu_s, user), (self.account_gpu_s, account)):
                counter[key] += hold.held_s
        return total_uj


@dataclass(slots=True)
class Hold:
    """What a job has had of one unit so far."""

    energy_uj: int = 0
    idle_uj: int = 0
    idle_s: int = 0
    held_s: int = 0
