"""
A stand-in for an OmegaWatt box and for the program that reads it.

As a module: ``Box``, a pseudo-terminal that gives the rows of the real recording, and can be unplugged.
As a program, in place of ``wattmetre-read``::

    python tests/wattmetre.py --tty=/dev/ttyUSB0 --nb=6

prints the header and then what comes from the terminal; it ends with a complaint and 1 when there is
no terminal, or no longer one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import select
import sys
import threading
import time
import tty
from fractions import Fraction
from pathlib import Path

RECORDING = Path(__file__).parent / "data" / "omegawatt_output.csv"
HEADER, *ROWS = RECORDING.read_text().splitlines()
COLUMNS = HEADER.split(",")


def command(path: Path, ports: int = 6) -> str:
    """``wattmeter.input`` that starts the stand-in on the terminal ``path``."""
    return f"exec:{sys.executable} {Path(__file__).resolve()} --tty={path} --nb={ports}"


def energy(rows: list[str], port: str) -> int:
    """Energy of a port in uJ, computed in fractions from the text: trapezoids, rounded down once."""
    at = COLUMNS.index(f"#activepow{port}")
    points = [(Fraction(f[0]), abs(Fraction(f[at]))) for f in (row.split(",") for row in rows)]
    total = Fraction(0)
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        total += (p0 + p1) / 2 * (t1 - t0)
    return int(total * 10**6)


class Box:
    """
    A box with a plug. ``path`` is a link to its terminal, as /dev/ttyUSB0 would be.

    ``play`` gives rows at ``pace`` times the speed they were recorded with (0: all at once).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._master = self._slave = -1
        self._lock = threading.Lock()

    def plug(self) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        tty.setraw(self._slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        with self._lock:
            self.path.unlink(missing_ok=True)
            for end in (self._slave, self._master):
                if end >= 0:
                    os.close(end)
            self._master = self._slave = -1

    def play(self, rows: list[str], pace: float = 0.0) -> None:
        began_s, first = time.monotonic(), float(rows[0].split(",")[0])
        for row in rows:
            if pace:
                due_s = began_s + (float(row.split(",")[0]) - first) / pace
                time.sleep(max(due_s - time.monotonic(), 0))
            data = row.encode() + b"\n"
            while data:
                assert select.select([], [self._master], [], 20)[1], "nobody reads the terminal"
                data = data[os.write(self._master, data) :]


def main() -> int:
    parser = argparse.ArgumentParser("wattmetre-read")
    parser.add_argument("--tty", required=True)
    parser.add_argument("--nb", type=int, required=True)
    args = parser.parse_args()
    try:
        fd = os.open(args.tty, os.O_RDONLY | os.O_NOCTTY)
        keep = [at for at, name in enumerate(COLUMNS) if _port(name) <= args.nb]
        print(",".join(COLUMNS[at] for at in keep), flush=True)
        with os.fdopen(fd, encoding="ascii") as rows:
            for row in rows:
                fields = row.rstrip("\n").split(",")
                if len(fields) == len(COLUMNS):  # not the rest of one that was being sent
                    print(",".join(fields[at] for at in keep), flush=True)
    except OSError as err:
        print(f"wattmetre-read: {args.tty}: {err.strerror or err}", file=sys.stderr)
        return 1
    print(f"wattmetre-read: {args.tty}: hung up", file=sys.stderr)
    return 1


def _port(column: str) -> int:
    match = re.search(r"(?:current|activepow)(\d+)$", column)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    sys.exit(main())
