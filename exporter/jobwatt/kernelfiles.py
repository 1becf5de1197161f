"""What files of /proc and /sys have in common: kept open, and the kernel's list of CPUs."""

from __future__ import annotations

import os
import re

_CPUS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_MOST_CPUS = 16_384  # twice what a kernel can be built for (arch/x86/Kconfig: NR_CPUS)


class KeptFile:
    """
    A file that is opened once and read from its start again and again.

    What has not changed may be another file by now: one that was replaced by a rename (the kernel
    never does that) has no link left, and is opened anew. After an OSError of ``read`` the next
    one opens again only if ``close`` was called.
    """

    __slots__ = ("_fd", "_last", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._last = b""

    def read(self, size: int = 8192) -> bytes:
        """At most ``size`` bytes from the start, in one read. Raises OSError."""
        data = self._pread(size)
        if data == self._last and not os.fstat(self._fd).st_nlink:
            self.close()
            data = self._pread(size)
        self._last = data
        return data

    def _pread(self, size: int) -> bytes:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._fd, size, 0)

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is held."""
        return self._fd >= 0

    def close(self) -> None:
        """Let go of the file; a later ``read`` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse_cpulist(text: str) -> frozenset[int]:
    """
    The kernel's list format, ``0-3,8``: {0, 1, 2, 3, 8}; empty where the text is.

    Raises:
        ValueError: the text is not such a list.
    """
    cpus: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        match = _CPUS.fullmatch(part)
        end = int(match[2] or match[1]) + 1 if match else 0
        if match is None or end > _MOST_CPUS:
            raise ValueError(f"{part[:40]!r} in a list of CPUs")
        cpus.update(range(int(match[1]), end))
    return frozenset(cpus)
