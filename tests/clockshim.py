"""
A wall clock that can be moved under a process, and under no other: tests/shim/clock.

``offset = Clock.make(tmp_path)``; run the process with ``offset.env()``; ``offset.set(seconds)``.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent / "shim" / "clock" / "clock.c"


def build() -> Path:
    """Compile the library if need be; returns its path."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"jobwatt-clock-{os.getuid()}-{digest}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run(["gcc", *flags, "-o", part, SOURCE], check=True)
        part.rename(library)
    return library


@dataclass
class Clock:
    """How far the wall clock is off."""

    path: Path

    @classmethod
    def make(cls, folder: Path) -> Clock:
        clock = cls(folder / "clock.offset")
        clock.set(0)
        return clock

    def set(self, seconds: float) -> None:
        """Move the clock to so many seconds beside the true one, from now on."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, struct.pack("q", int(seconds * 1e9)), 0)
        os.close(fd)

    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(build()), "JOBWATT_CLOCK_OFFSET": str(self.path)}
