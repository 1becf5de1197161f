"""
Where Slurm puts its jobs in the cgroup tree: names, versions and listings; reads no accounting.

cgroup v1   CONTROLLER/slurm[_NODE]/uid_UID/job_ID
cgroup v2   SLICE/[NODE_]slurmstepd.scope/job_ID, SLICE at the top or below a pod (pods.py)

The node's name is in the path where Slurm was built for several slurmd on one host (Debian's
is). Slurm 26.05 names the job's directory by its SLUID, ``s`` and 13 characters of Crockford's
base 32, unless ``CgroupJobIdPaths=yes``; Slurm 25.11 lets a site choose the slice.
"""

from __future__ import annotations

import errno
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobwatt.slurm.pods import PodSlices
from jobwatt.slurm.procstat import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

V2 = "v2"
GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ENOTDIR, errno.ESRCH))
_JOB_NAME = r"(?:job_(?P<jobid>[0-9]{1,10})|(?P<sluid>[sS][0-9a-hjkmnp-tv-zA-HJKMNP-TV-Z]{13}))"
_JOB = re.compile(_JOB_NAME)
_V1_ROOT = re.compile(r"slurm(?:_(?P<node>[^/]+))?")
_V2_ROOT = re.compile(r"(?:(?P<node>[^/]+)_)?slurmstepd\.scope")
_UID = re.compile(r"uid_([0-9]{1,10})")
_PROC_PATH = re.compile(
    r"/(?:slurm(?:_(?P<node1>[^/]+))?/uid_[0-9]+|(?:(?P<node2>[^/]+)_)?slurmstepd\.scope)/"
    rf"(?P<job>{_JOB_NAME})"
    r"(?=/|$)"
)
# Under which controllers a v1 job may be found, and by which names they are mounted:
# jobacct_gather/cgroup makes cpuacct, task/cgroup makes memory, proctrack/cgroup makes freezer.
_V1_MOUNTS = {
    "cpuacct": ("cpuacct", "cpu,cpuacct", "cpuacct,cpu"),
    "memory": ("memory",),
    "freezer": ("freezer",),
}


class JobDir(NamedTuple):
    """
    One job as the tree shows it.

    Attributes:
        dirs: controller (``v2`` for the unified tree) -> (path, inode). A directory that was
            removed and made anew has another inode.
    """

    key: str
    root: str
    node: str
    jobid: int | None
    uid: int | None
    dirs: dict[str, tuple[str, int]]


class JobPath(NamedTuple):
    """A job as a process's own path names it: key, controllers (``v2`` for the unified tree), path below the job."""

    key: str
    controllers: tuple[str, ...]
    below: str


class Root(NamedTuple):
    """A Slurm root: of one slurmd, in one hierarchy. ``name`` has the pod's before it where it is in one."""

    name: str
    node: str
    controller: str
    path: str


@lru_cache(maxsize=4096)
def job_name(name: str) -> tuple[str, int | None] | None:
    """Take a directory's name apart: (id for the key, job id or None for a SLUID)."""
    match = _JOB.fullmatch(name)
    if match is None:
        return None
    jobid = match["jobid"]
    return (str(int(jobid)), int(jobid)) if jobid else (name, None)


def job_key(node: str, ident: str, jobid: int | None) -> str:
    """
    Build the job's key: ``NODE/JOBID``; a SLUID stands alone where the path names no node.

    Where it does, several slurmd share the host and a job on two of them has one SLUID.
    """
    return ident if jobid is None and not node else f"{node}/{ident}"


def paths_in(cgroup: str) -> Iterator[JobPath]:
    """
    Find the jobs that the text of /proc/PID/cgroup names, a line at a time.

    The leftmost match of a line counts, so what a job makes inside its own cgroup cannot name
    another job. Who has a cgroup of their own can name what they make there like a job's: ask
    whether the process is in the job's directory before any of this is believed.
    """
    for line in cgroup.split("\n"):  # all else may be in a name
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        match = _PROC_PATH.search(path)
        if match is None:
            continue
        node = match["node1"] or match["node2"] or ""
        ident, jobid = match["sluid"], None
        if match["jobid"]:
            jobid = int(match["jobid"])
            ident = str(jobid)
        names = tuple(controllers.split(",")) if controllers else (V2,)
        yield JobPath(job_key(node, ident, jobid), names, path[match.end("job") :])


def is_jobs_business(name: str) -> bool:
    """Tell whether a directory of this name coming or going may be a job, a user or a root."""
    return bool(
        _JOB.fullmatch(name)
        or _UID.fullmatch(name)
        or _V1_ROOT.fullmatch(name)
        or _V2_ROOT.fullmatch(name)
    )


def slice_paths(name: str) -> list[str]:
    """Expand a slice's name: systemd keeps ``a-b.slice`` in ``a.slice/``; or take it as it is."""
    parts = name.removesuffix(".slice").split("-")
    nested = "/".join("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))
    return [nested, name] if name.endswith(".slice") and "/" not in name else [name]


def walk(path: str) -> Iterator[tuple[str, list[int]]]:
    """Go through a cgroup and those below it: (path, PIDs); what vanishes is passed over."""
    todo = [path]
    while todo:
        path = todo.pop()
        procs = read_file(f"{path}/cgroup.procs", 1 << 20) or b""
        # 0 stands for a process of another PID namespace
        yield path, [int(pid) for pid in procs.split() if pid.isdigit() and pid != b"0"]
        try:
            with os.scandir(path) as entries:
                todo.extend(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:
            continue


class Listing(NamedTuple):
    """What a tree holds: roots, jobs by key, and the directories that could not be listed."""

    roots: list[Root]
    jobs: dict[str, JobDir]
    failures: list[tuple[str, OSError]]


class Layout:
    """
    The Slurm part of one cgroup file system, of whatever version.

    Listing costs about 25 us a directory, so ``unchanged`` tells from one stat each whether a
    new listing could differ. kernfs does not move a directory's mtime when a child comes or goes,
    but keeps its link count: 2 + children. The same count, and every known child still alive
    (which its reader knows: ENODEV), is the same set of children. Other file systems move the
    mtime; one that keeps no such count (btrfs) is listed every time.
    """

    def __init__(self, cgroupfs: Path, slice_name: str = "system.slice") -> None:
        self._base = str(cgroupfs)
        self._candidates = {
            (controller, self._base): [f"{self._base}/{name}" for name in names]
            for controller, names in _V1_MOUNTS.items()
        }
        slices = slice_paths(slice_name)
        for base in (self._base, f"{self._base}/unified"):
            self._candidates[V2, base] = [f"{base}/{p}" for p in slices]
        self._pods = PodSlices(self._base, slices)
        self._tops: dict[tuple[str, str], str] = {}
        self._pod_of: dict[str, str] = {}  # of those tops that are below a pod
        self._signs: dict[str, tuple[int, int, int]] = {}
        self._sure = False
        self._failures: list[tuple[str, OSError]] = []

    def listing(self) -> Listing:
        """List the tree anew."""
        self._signs, self._failures, self._sure = {}, [], True
        roots = self._roots()
        jobs: dict[str, JobDir] = {}
        for root in roots:
            if root.controller == V2:
                self._add(jobs, root, root.path, None)
            else:
                for path, uid in self._users(root):
                    self._add(jobs, root, path, uid)
        return Listing(roots, jobs, self._failures)

    def unchanged(self) -> bool:
        """Tell whether ``listing`` would find the same, provided that all it found still lives."""
        if not self._sure or self._find_tops():
            return False
        try:
            return all(_sign(path) == sign for path, sign in self._signs.items())
        except OSError:
            return False

    def watch_dirs(self) -> set[Path]:
        """
        Name the directories in which a job's coming or going is a mkdir or rmdir; lists anew.

        v1: the roots and their users' directories in one hierarchy, that which counts CPU time
        where there is one, and the mounts where roots may appear. v2: slices and scopes.
        """
        roots = self._roots()
        dirs = {Path(top) for top in self._tops.values()}
        v1 = {r.controller for r in roots}
        watched = next((c for c in ("cpuacct", "freezer", "memory") if c in v1), "")
        for root in roots:
            if root.controller in (V2, watched):
                dirs.add(Path(root.path))
            if root.controller == watched:
                dirs.update(Path(path) for path, _ in self._users(root))
        self._sure = False  # what was seen here, the next ``listing`` has yet to tell
        return dirs

    def cpuset_path(self, job: JobDir) -> str:
        """Name the file that says to which CPUs a job is confined; it need not exist."""
        path = next(iter(job.dirs.values()))[0]
        if V2 in job.dirs:
            return f"{path}/cpuset.cpus"
        return f"{self._base}/cpuset/{'/'.join(path.rsplit('/', 3)[1:])}/cpuset.cpus"

    def _roots(self) -> list[Root]:
        self._find_tops()
        roots = []
        for (controller, _), top in self._tops.items():
            pattern = _V2_ROOT if controller == V2 else _V1_ROOT
            pod = self._pod_of.get(top)
            for name in self._subdirs(top):
                match = pattern.fullmatch(name)
                if match:
                    full = f"{pod}/{name}" if pod else name  # several pods' scopes have one name
                    roots.append(Root(full, match["node"] or "", controller, f"{top}/{name}"))
        return roots

    def _users(self, root: Root) -> Iterator[tuple[str, int]]:
        """Go through the (path, uid) of a v1 root's users."""
        for name in self._subdirs(root.path):
            match = _UID.fullmatch(name)
            if match:
                yield f"{root.path}/{name}", int(match[1])

    def _add(self, jobs: dict[str, JobDir], root: Root, path: str, uid: int | None) -> None:
        for name, inode in self._subdirs(path).items():
            parsed = job_name(name)
            if parsed is None:
                continue
            key = job_key(root.node, *parsed)
            job = jobs.get(key)
            if job is None:
                job = jobs[key] = JobDir(key, root.name, root.node, parsed[1], uid, {})
            # parts of one job in two pods whose scopes name no node: the first stands for both, and
            # what runs on GPUs in the other is nobody's
            job.dirs.setdefault(root.controller, (f"{path}/{name}", inode))

    def _subdirs(self, path: str) -> dict[str, int]:
        """List name -> inode of the directories in ``path``; none where it is gone meanwhile."""
        try:
            sign = _sign(path)  # before the listing: a change between the two shows next time
            with os.scandir(path) as entries:
                # the listing itself tells what is a directory, and its inode
                found = {e.name: e.inode() for e in entries if e.is_dir(follow_symlinks=False)}
        except OSError as err:
            self._sure = False
            if err.errno not in GONE:
                self._failures.append((path, err))
            return {}
        self._signs[path] = sign
        self._sure = self._sure and sign[1] == 2 + len(found)
        return found

    def _find_tops(self) -> bool:
        """
        Look for mounts and slices not found yet; tell whether one was found.

        A v2 slice may be in a unified tree, or in ``unified/`` beside v1 (hybrid).
        """
        missing = self._candidates.keys() - self._tops.keys()
        for owner in missing:
            for path in self._candidates[owner]:
                if _is_dir(path):
                    self._tops[owner] = path
                    break
        return self._find_pods() or bool(missing & self._tops.keys())

    def _find_pods(self) -> bool:
        """Look for slurmd's slices below pods, now and then; tell whether one came or went."""
        found = self._pods.look()
        if found is None or found == self._pod_of:
            return False
        for top in self._pod_of.keys() - found.keys():
            del self._tops[V2, top]
        self._tops.update({(V2, top): top for top in found})
        self._pod_of = found
        return True


def _sign(path: str) -> tuple[int, int, int]:
    stat = os.stat(path)  # noqa: PTH116  each second, for many: no Path to build
    return stat.st_ino, stat.st_nlink, stat.st_mtime_ns


def _is_dir(path: str) -> bool:
    """Tell whether ``path`` is a directory now."""
    return os.path.isdir(path)  # noqa: PTH112  each second: no Path to build
