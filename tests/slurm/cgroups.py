"""The cgroups Slurm makes for the nodes of one cluster: found and removed, nobody else's."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
JOBS_PER_CLUSTER = (
    10_000  # clusters take disjoint ranges of job ids, which tell their cgroups apart
)


def prepare_v2() -> None:
    """
    Make the slice Slurm takes its scopes from: with IgnoreSystemd=yes it makes nothing above them.

    22.05 does not know the last controller of a list by its name (it keeps the newline): `pids`
    comes last, and is not needed.
    """
    (ROOT / "system.slice").mkdir(exist_ok=True)
    for directory in (ROOT, ROOT / "system.slice"):
        (directory / "cgroup.subtree_control").write_text("+cpu +memory +pids")


def node_roots(nodes: Iterable[str]) -> Iterator[Path]:
    """Where Debian's Slurm (built for several slurmd on a host) puts the nodes' jobs."""
    for node in nodes:
        yield from ROOT.glob(f"*/slurm_{node}")
        yield from ROOT.glob(f"system.slice/{node}_slurmstepd.scope")


def job_directories(nodes: Iterable[str], first_job: int) -> Iterator[Path]:
    """The job directories of this cluster that tell a job's number; a SLUID (since 26.05) tells none."""
    for root in node_roots(nodes):
        for path in (*root.glob("job_*"), *root.glob("uid_*/job_*")):
            found = re.fullmatch(r"job_(\d+)", path.name)
            if found and first_job <= int(found[1]) < first_job + JOBS_PER_CLUSTER:
                yield path


def thaw(directories: Iterable[Path]) -> None:
    """Let go of what a slurmd that was killed had frozen (cgroup v1: to kill a step it freezes it)."""
    for directory in directories:
        for state in directory.rglob("freezer.state"):
            with suppress(OSError):  # the cgroup went meanwhile
                state.write_text("THAWED")


def sluids(root: Path) -> list[Path]:
    """The directories of a node's tree that are named by SLUID."""
    return [path for path in root.glob("s*") if re.fullmatch(r"s[0-9A-Z]{13}", path.name)]


def unused(nodes: Iterable[str]) -> list[Path]:
    """Trees of nodes in which nobody has a job."""
    return [root for root in node_roots(nodes) if not any(root.rglob("job_*")) and not sluids(root)]


def remove(nodes: Iterable[str], first_job: int) -> None:
    """Remove this cluster's job directories, then whatever of the nodes' trees is left empty."""
    nodes = list(nodes)
    for path in list(job_directories(nodes, first_job)):
        _remove_tree(path)
    for root in list(node_roots(nodes)):
        for uid in root.glob("uid_*"):
            with suppress(OSError):  # another cluster's job is in there
                uid.rmdir()
        # busy, and so kept, while another slurmd is in it, or another cluster's job
        for own in (root / "system", root / "slurmd", *sluids(root)):
            _remove_tree(own)
        with suppress(OSError):
            root.rmdir()


def _remove_tree(path: Path) -> None:
    for child in sorted(path.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if child.is_dir():
            with suppress(OSError):  # Slurm's own release may be faster
                child.rmdir()
    with suppress(OSError):
        path.rmdir()
