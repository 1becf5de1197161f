"""What the demo tells a person while it works: short lines with the seconds since the start, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO


class Terminal:
    """Lines, and one line that changes in place where that can be seen. Safe to call from any thread."""

    def __init__(self, err: TextIO | None = None, out: TextIO | None = None) -> None:
        self._err, self._out = err or sys.stderr, out or sys.stdout
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._in_place = self._err.isatty()
        self._open = False  # a line that changes is the last on the screen
        self._last = ""

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def line(self, text: str) -> None:
        """One line that stays."""
        with self._lock:
            end = "\r\x1b[K" if self._open else ""
            self._open = False
            self._write(f"{end}{self.elapsed_s:5.0f} s  {text}\n")

    def progress(self, text: str, done: float) -> None:
        """How far something is, 0 to 1; where lines cannot change in place, a line per quarter."""
        step = f"{text} {100 * done:.0f} %"
        with self._lock:
            if self._in_place:
                self._open = True
                self._write(f"\r\x1b[K{self.elapsed_s:5.0f} s  {step}")
            elif (quarter := f"{text} {int(done * 4)}") != self._last:
                self._last = quarter
                self._write(f"{self.elapsed_s:5.0f} s  {step}\n")

    def block(self, text: str) -> None:
        """What a person came for: to stdout."""
        with self._lock:
            if self._open:
                self._write("\r\x1b[K")
                self._open = False
            self._out.write(text)
            self._out.flush()

    def _write(self, text: str) -> None:
        try:
            self._err.write(text)
            self._err.flush()
        except (OSError, ValueError):
            pass  # nobody reads: no reason to stop
