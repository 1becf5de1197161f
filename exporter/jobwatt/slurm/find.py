"""Finds the node's jobs: in the cgroup tree where Slurm has one, else among the processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobwatt.slurm.cgroups import Cgroups
from jobwatt.slurm.proctree import ProcTree

if TYPE_CHECKING:
    from pathlib import Path

    from jobwatt.model import Failure, JobUsage


class Jobs:
    """
    The jobs of a node, however Slurm tracks them.

    The choice is made at every scan: a daemon that starts before slurmd finds the cgroups when
    they come.
    """

    def __init__(self, cgroupfs: Path, procfs: Path, slice_name: str) -> None:
        self._cgroups = Cgroups(cgroupfs, procfs, slice_name)
        self._processes = ProcTree(procfs)
        self._finder: Cgroups | ProcTree = self._cgroups

    @property
    def failures(self) -> list[Failure]:
        """What could not be read in the last scan."""
        return self._finder.failures

    def scan(self, t_ns: int, *, full: bool = True) -> list[JobUsage]:
        """List every job present now with its use; see Cgroups.scan."""
        usages = self._cgroups.scan(t_ns, full=full)
        self._finder = self._cgroups if self._cgroups.present else self._processes
        return usages if self._finder is self._cgroups else self._processes.scan(t_ns, full=full)

    @property
    def named(self) -> bool:
        """Whether the paths of jobs tell the node's name (several slurmd may share this host)."""
        return self._finder is self._cgroups and self._cgroups.named

    def roots(self) -> dict[str, int]:
        """Slurm's roots and their cumulative CPU time in ns."""
        return self._finder.roots()

    def pids(self, key: str) -> list[int]:
        """The job's processes, its own before step_extern's."""
        return self._finder.pids(key)

    def key_of(self, pid: int) -> str | None:
        """The job a process belongs to."""
        return self._finder.key_of(pid)

    def watch_dirs(self) -> set[Path]:
        """Directories in which a job's begin or end is an event."""
        return self._cgroups.watch_dirs()

    def close(self) -> None:
        """Close every file; a later scan opens them again."""
        self._cgroups.close()
        self._processes.close()
