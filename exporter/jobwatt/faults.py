"""What goes wrong is said once, and once more when it is over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .model import NS_PER_S, Failure
from .wall import BELOW_NS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .wall import Wall

log = logging.getLogger(__name__)

# Hardware that is simply not there is no fault: one line at Info.
ABSENT = frozenset(
    {"no_powercap", "no_perf", "no_library", "driver_not_loaded", "no_gpu", "released"}
)
# Meters inside the node, which may measure the board and not the GPUs; a wattmeter in the feed sees all.
_MAY_LEAVE_OUT_GPUS = frozenset({"bmc", "hwmon"})


class FaultLog:
    """Remembers which faults have been said."""

    def __init__(self) -> None:
        self._said: dict[tuple[str, str, str], str] = {}

    def note(self, failures: Iterable[Failure]) -> None:
        """Log faults that are new, and the end of those that are gone."""
        now = {(f.source, f.reason, f.device): f.message for f in failures}
        for fault, message in now.items():
            if fault not in self._said:
                level = logging.INFO if fault[1] in ABSENT else logging.WARNING
                log.log(level, "%s", message)
        for source, reason, device in self._said.keys() - now.keys():
            log.info("%s: %s is over%s", source, reason, f" ({device})" if device else "")
        self._said = now


def wall_mismatch(wall: Wall, t_ns: int) -> tuple[Failure, ...]:
    """The fault of a meter that has shown less than the components' own sensors for a while; () where all is well."""
    block = wall.shown
    if wall.below_ns < BELOW_NS or not block.dt_ns or not wall.speaks(t_ns):
        return ()
    meter_w, parts_w = (
        uj * NS_PER_S // block.dt_ns // 1_000_000 for uj in (block.wall_uj, block.parts_uj)
    )
    parts = "CPUs, memory and GPUs" if wall.includes_gpu else "CPUs and memory"
    mend = "Have it sum all of the node's power supplies"
    if wall.includes_gpu and wall.source in _MAY_LEAVE_OUT_GPUS:
        mend = (
            f"Set {wall.source}.includes-gpu to false if it leaves the GPUs out; else h{mend[1:]}"
        )
    message = (
        f"{wall.source}: the meter shows {meter_w} W while {parts} alone draw {parts_w} W: "
        f"it does not feed all of the node. {mend}"
    )
    return (Failure(wall.source, "below_components", message, wall.meter),)
