"""
A sysfs writer: moves RAPL counters in real time and knows the exact truth.

As a class, in the test's own process (a thread) ::

    sim = RaplSim(powercap_zones(node.sys), {"intel-rapl:0": constant(120), ...}, truth=tmp / "truth.json")
    sim.start(); ...; truth = sim.stop()              # {"intel-rapl:0": {"total_uj": ..., ...}, ...}

or as a process of its own, which outlives what it feeds (the daemon that is killed)::

    python -m raplsim SYSFS --truth truth.json --watts intel-rapl:0=120 intel-rapl:0:1=12 [--step 0.01]
    python -m raplsim SYSFS --truth truth.json --script phases.json   # {"zone": [[seconds, watts], ...]}

``energy_uj`` keeps its inode and is rewritten by one pwrite of fixed width, so a descriptor held
open always reads a whole number. Counters count up from where they stand and wrap at
``max_energy_range_uj``: after the range's last uJ comes 0, which is now + range - before. The truth
is written (atomically, by rename) at the start, each ``truth_every`` steps, and at the end; a
reader may ask for it at any time, and at the end it is exactly what was added to the files:
energy_uj = (start_uj + total_uj) mod range_uj. SIGTERM and SIGINT end it in good order.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Watts = Callable[[float], float]  # seconds since the start -> watts

WIDTH = 20  # more digits than any range has


@dataclass
class SimZone:
    """One counter. ``total_uj`` is all that was ever added."""

    name: str
    fd: int
    start_uj: int
    range_uj: int
    watts: Watts
    total_uj: int = 0
    owed: float = 0.0  # fractions of a uJ not yet added

    def add(self, uj: int) -> None:
        self.total_uj += uj
        value = (self.start_uj + self.total_uj) % self.range_uj
        os.pwrite(self.fd, b"%0*d\n" % (WIDTH, value), 0)


def constant(watts: float) -> Watts:
    return lambda _: watts


def phases(script: Sequence[Sequence[float]]) -> Watts:
    """[[seconds, watts], ...], over and over."""
    length = sum(seconds for seconds, _ in script)

    def watts(at: float) -> float:
        at %= length
        for seconds, value in script:
            if at < seconds:
                return value
            at -= seconds
        return script[-1][1]

    return watts


def powercap_zones(sysfs: Path) -> dict[str, Path]:
    """Every zone's directory, mmio twins included."""
    zone = re.compile(r"intel-rapl(-mmio)?(:[0-9a-f]+)+")
    base = sysfs / "class/powercap"
    return {path.name: path for path in sorted(base.iterdir()) if zone.fullmatch(path.name)}


class RaplSim:
    """Moves the zones that ``watts`` names, every ``step`` seconds, by power times the time passed."""

    def __init__(
        self,
        zones: Mapping[str, Path],
        watts: Mapping[str, Watts],
        *,
        truth: Path | None = None,
        step: float = 0.01,
        truth_every: int = 10,
    ) -> None:
        self.zones = [_open(name, zones[name], power) for name, power in watts.items()]
        self._truth, self._step, self._every = truth, step, truth_every
        self._stopping = False  # no Event: a signal handler may not take its lock
        self._lock = threading.Lock()  # the truth and the files agree whenever it is free
        self._thread = threading.Thread(target=self.run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> dict[str, dict[str, int]]:
        """End it; the files do not move after this. Returns the truth."""
        self._stopping = True
        if self._thread.ident is not None:
            self._thread.join()
        return self.truth()

    def ask_to_stop(self) -> None:
        """``run`` returns after the step under way; fit for a signal handler."""
        self._stopping = True

    def truth(self) -> dict[str, dict[str, int]]:
        """What was added to each zone, and what its file says, now."""
        with self._lock:
            return {
                zone.name: {
                    "total_uj": zone.total_uj,
                    "start_uj": zone.start_uj,
                    "range_uj": zone.range_uj,
                    "energy_uj": (zone.start_uj + zone.total_uj) % zone.range_uj,
                }
                for zone in self.zones
            }

    def run(self) -> None:
        """Move the counters until told to stop."""
        begin = last = time.monotonic()
        steps = 0
        self._write_truth()
        while not self._stopping:
            time.sleep(self._step)
            now = time.monotonic()
            self._advance(last - begin, now - last)
            last = now
            steps += 1
            if steps % self._every == 0:
                self._write_truth()
        self._write_truth()
        for zone in self.zones:
            os.close(zone.fd)

    def _advance(self, at: float, seconds: float) -> None:
        with self._lock:
            for zone in self.zones:
                zone.owed += zone.watts(at) * seconds * 1e6
                whole = int(zone.owed)
                zone.owed -= whole
                zone.add(whole)

    def _write_truth(self) -> None:
        if self._truth is None:
            return
        new = self._truth.with_suffix(".new")
        new.write_text(json.dumps(self.truth(), indent=1))
        new.replace(self._truth)


def _open(name: str, path: Path, watts: Watts) -> SimZone:
    fd = os.open(path / "energy_uj", os.O_RDWR)
    zone = SimZone(
        name, fd, int(os.pread(fd, 32, 0)), int((path / "max_energy_range_uj").read_text()), watts
    )
    zone.add(0)  # to full width
    return zone


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="raplsim", description="Move RAPL counters in real time.")
    parser.add_argument("sysfs", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--watts", nargs="*", default=[], metavar="ZONE=WATTS")
    parser.add_argument("--script", type=Path, help='JSON: {"zone": [[seconds, watts], ...]}')
    parser.add_argument("--step", type=float, default=0.01, help="seconds between two writes")
    args = parser.parse_args(argv)
    watts = {
        zone: constant(float(value)) for zone, _, value in (w.rpartition("=") for w in args.watts)
    }
    if args.script:
        watts |= {
            zone: phases(script) for zone, script in json.loads(args.script.read_text()).items()
        }
    sim = RaplSim(powercap_zones(args.sysfs), watts, truth=args.truth, step=args.step)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sim.ask_to_stop())
    sim.run()


if __name__ == "__main__":
    sys.exit(main())
