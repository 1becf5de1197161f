"""Files as the kernel writes them: in place, with one write, and in its formats."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def write(path: Path, text: str | int) -> None:
    """Rewrite ``path`` in place with one pwrite; makes it and its directories where missing."""
    data = f"{text}\n".encode() if isinstance(text, int) else text.encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(fd, data, 0)
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def cpulist(cpus: Iterable[int]) -> str:
    """Numbers in the kernel's list format: ``0-3,8``."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def cpu_stat(cpu_ns: int) -> str:
    usec = cpu_ns // 1000
    return f"usage_usec {usec}\nuser_usec {usec * 3 // 4}\nsystem_usec {usec - usec * 3 // 4}\nnr_periods 0\n"
