"""
Where slurmd keeps its jobs when it runs in a pod of Kubernetes, cgroup v2 (Slinky's slurm-operator, or another).

slurmd puts its slice beside the cgroup of its process 1 (Slurm, cgroup_v2.c: ``_get_init_cg_path``). Slinky's slurmd
is privileged, has no cgroup namespace, and ``IgnoreSystemd=yes``: that place is the pod's own cgroup. One with a
cgroup namespace finds itself at the root, which is its container's cgroup::

    kubepods.slice/kubepods-QOS.slice/kubepods-QOS-podUID.slice/SLICE/slurmstepd.scope
    kubepods.slice/kubepods-QOS.slice/kubepods-QOS-podUID.slice/CONTAINER.scope/SLICE/slurmstepd.scope
    kubepods/QOS/podUID/...                  the kubelet's driver cgroupfs; pods of QoS Guaranteed have no QOS level

A pod may be handed its own cgroup to write to (containerd's ``cgroup_writable``; a user namespace, in which its root is
some other uid). Whoever made directories of Slurm's names there would invent jobs, or take another's job id and with
it that user's name and figures. So a slice counts only where it is root's, as slurmd makes it, and nobody else may make
a scope in it. A slurmd in a user namespace is not found for that. A container whose root is the node's, and which may
write to cgroups, is as good as root on the node: against that nothing here helps.
"""

from __future__ import annotations

import os
import re
import stat
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# the kubelet's two drivers, and both below `kubelet`, where kind starts it with --cgroup-root
_TOPS = (
    "kubepods.slice",
    "kubepods",
    "kubelet.slice/kubelet-kubepods.slice",
    "kubelet/kubepods",
)
_QOS = re.compile(r"(?:[a-z-]+-)?(?:burstable|besteffort)(?:\.slice)?")
# a UUID, its dashes written _ in a slice's name; 32 digits without any for a pod of the kubelet's own files
_POD = re.compile(r"(?:[a-z-]+-)?pod[0-9a-f](?:[0-9a-f_-]{31}|[0-9a-f_-]{35})(?:\.slice)?")
# The kubelet takes 110 pods unless told otherwise; ten containers each are more than any node has.
_MAX_DIRS = 4096
# A search lists every pod: some 10 ms of a full node. A slurmd that starts is found after so many looks (samples).
_EVERY = 5


class PodSlices:
    """
    The slices that hold a slurmstepd.scope below a pod.

    Args:
        base: the cgroup file system, unified.
        slices: the slice's paths to try in each place.
    """

    def __init__(self, base: str, slices: Sequence[str]) -> None:
        self._tops = [f"{base}/{top}" for top in _TOPS]
        self._slices = slices
        self._looks = 0

    def look(self) -> dict[str, str] | None:
        """Search: slice -> name of its pod. None where it is not yet time for it again."""
        self._looks += 1
        if self._looks % _EVERY != 1:
            return None
        places = islice(self._places(), _MAX_DIRS)
        found = ((f"{place}/{name}", pod) for place, pod in places for name in self._slices)
        return {path: pod for path, pod in found if _is_roots(path)}

    def _places(self) -> Iterator[tuple[str, str]]:
        """Go through pods and their containers: (path, pod)."""
        for top in self._tops:
            names = _subdirs(top)
            qos = [f"{top}/{name}" for name in names if _QOS.fullmatch(name)]
            for level, below in [(top, names), *((path, _subdirs(path)) for path in qos)]:
                for pod in filter(_POD.fullmatch, below):
                    yield f"{level}/{pod}", pod
                    for container in _subdirs(f"{level}/{pod}"):
                        yield f"{level}/{pod}/{container}", pod


def _is_roots(path: str) -> bool:
    """Tell whether ``path`` is a directory in which only root, or our own user, makes others."""
    try:
        about = os.stat(path, follow_symlinks=False)  # noqa: PTH116  many, often
    except OSError:
        return False
    roots = about.st_uid in (0, os.geteuid()) and not about.st_mode & 0o022
    return roots and stat.S_ISDIR(about.st_mode)


def _subdirs(path: str) -> list[str]:
    """List the directories in ``path``, in order; none where it is gone or closed."""
    try:
        with os.scandir(path) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except OSError:
        return []
