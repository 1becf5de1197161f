"""Plain directories that look like Slurm's cgroups."""

from __future__ import annotations

V1 = ("cpuacct", "memory", "freezer")
S = 10**9


def put(path, **files):
    """Make a cgroup directory with these files; ``cpu__stat`` is cpu.stat."""
    path.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(f"{text}\n")
    return path


def v1_job(base, root, uid, job, cpu_ns=0):
    put(base / "cpuacct" / root / f"uid_{uid}" / job, cpuacct__usage=cpu_ns)
    put(base / "memory" / root / f"uid_{uid}" / job, memory__limit_in_bytes=1 << 30)


def by_key(usages):
    return {u.key: u for u in usages}
