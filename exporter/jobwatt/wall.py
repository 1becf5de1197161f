"""
The wall: what a meter outside the chips saw beyond their own sensors, and what of it is charged now.

Pure. Of several meters one counts, the best that speaks. Between two of its readings lies a window; what
the components' sensors measured in the same window is subtracted:

    OTHER = E_wall - (CPU + DRAM + GPU)          without GPU where the meter does not see the GPUs

A meter read at every sample is settled at once. One that speaks seldom (a BMC, every 10 s) is known only
when its window is over: what it saw is charged over the following stretch of the same length, so that
power stays smooth and counters only grow. The clocks of meter and chips differ, a BMC averages, a silent GPU's
counter catches up: a deficit is kept as a debt that later windows pay, so that in the long run node = wall,
exactly. A debt of more than a minute or two of the components' energy is no matter of clocks: what goes beyond
that is a residual, reported and never subtracted from anybody. A window in which a component's own energy
is not known (a counter that may have wrapped twice) is held against nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .model import NS_PER_S, Domain, Step

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .model import Delta, Device

# The best first. A meter in the feed sees what power supplies lose and is calibrated; ACPI's meter and
# the BMC read the same sensor behind the supplies' input, ACPI's each second, a BMC each ten or more.
_RANK = {"wattmeter": 0, "hwmon": 1, "bmc": 2}
# After a longer silence nobody can say any more who was there when the energy was used.
PATIENCE_NS = 60 * NS_PER_S
# A meter that was silent for so long is no longer waited for: another may count.
SILENT_NS = 15 * NS_PER_S
# ... but a slow one may lose two readings in a row.
_LOST_WINDOWS = 3
# The stretch that the ratio is told over: long enough for clocks that differ by a second not to matter.
_BLOCK_NS = 60 * NS_PER_S
# A meter below the components for so long is no matter of clocks: something is not in it.
BELOW_NS = 60 * NS_PER_S
# A reading is late after two and a half windows, as one of the sampling is; in halves, to stay with integers.
_LATE = 5
# ... and not before this: windows may be short where jobs come and go.
_LATE_NS = 5 * NS_PER_S // 2
# Longer than so many sampling intervals, a window is spread over the next.
_SPREAD = 1.5


@dataclass(frozen=True, slots=True)
class Block:
    """Energy of the same stretch of time, as the meter and as the components' sensors saw it."""

    wall_uj: int = 0
    parts_uj: int = 0
    dt_ns: int = 0

    def __add__(self, other: Block) -> Block:
        return Block(
            self.wall_uj + other.wall_uj, self.parts_uj + other.parts_uj, self.dt_ns + other.dt_ns
        )


@dataclass(frozen=True, slots=True)
class Wall:
    """
    Where the account with the wall meter stands.

    Attributes:
        meter, source, includes_gpu: the meter that counts; "" while there is none.
        last_ns: CLOCK_BOOTTIME at which it last said something new.
        host_uj, gpu_uj: what the components measured since then.
        credit_uj: seen beyond the components and not charged yet; negative: a debt.
        due_uj, window_ns: credit and window of its last reading: how fast the credit is charged.
        every_ns: how far apart its readings are, where it is read more seldom than all else.
        lost: whether the energy of a component was not known for a part of the window.
        compared: all stretches together; block, latest: the one in progress and the last whole one.
        below_ns: for how long without a break each reading was below the components.
    """

    meter: str = ""
    source: str = ""
    includes_gpu: bool = True
    last_ns: int = 0
    host_uj: int = 0
    gpu_uj: int = 0
    credit_uj: int = 0
    due_uj: int = 0
    window_ns: int = 0
    every_ns: int = 0
    lost: bool = False
    compared: Block = Block()
    block: Block = Block()
    latest: Block = Block()
    below_ns: int = 0

    def speaks(self, t_ns: int) -> bool:
        """Whether there is a meter, and it has said something lately: until then no other counts."""
        silent_ns = max(SILENT_NS, _LOST_WINDOWS * max(self.window_ns, self.every_ns))
        return bool(self.meter) and t_ns - self.last_ns <= silent_ns

    def feeds(self, t_ns: int) -> bool:
        """Whether its last reading is not late: beyond that there is no OTHER, rather than one of 0."""
        late_ns = max(_LATE * max(self.window_ns, self.every_ns) // 2, _LATE_NS)
        return bool(self.meter) and t_ns - self.last_ns <= late_ns

    @property
    def shown(self) -> Block:
        """The latest whole stretch; the one in progress before there is any."""
        return self.latest if self.latest.dt_ns else self.block


@dataclass(frozen=True, slots=True)
class Charge:
    """
    What one interval brings.

    Attributes:
        other_uj: beyond the components, to be charged now; None where no meter counts.
        residual_uj: by how much more than clocks explain the components exceeded the wall.
        window_ns: length of the window that was settled, 0 where none was.
    """

    wall: Wall
    other_uj: int | None
    residual_uj: int
    window_ns: int


def charged(wall: Wall, deltas: Iterable[Delta], dt_ns: int, t_ns: int) -> Charge:
    """Settle one interval of ``dt_ns`` that ended at ``t_ns``, with every device's delta."""
    deltas = [delta for delta in deltas if delta.device.summed]
    wall = replace(
        wall,
        host_uj=wall.host_uj + _sum(deltas, {Domain.CPU, Domain.DRAM}),
        gpu_uj=wall.gpu_uj + _sum(deltas, {Domain.GPU}),
        lost=wall.lost or any(_is_lost(delta) for delta in deltas),
    )
    reading = _counting(wall, deltas, t_ns)
    residual_uj = window_ns = 0
    if reading is not None:
        wall, residual_uj, window_ns = _settled(wall, reading, dt_ns, t_ns)
    if not wall.feeds(t_ns) and wall.credit_uj <= 0:
        return Charge(wall, None, residual_uj, window_ns)
    other_uj = _due(wall, dt_ns)
    return Charge(
        replace(wall, credit_uj=wall.credit_uj - other_uj), other_uj, residual_uj, window_ns
    )


def _sum(deltas: Iterable[Delta], domains: set[Domain]) -> int:
    return sum(d.energy_uj for d in deltas if d.device.domain in domains)


def _is_lost(delta: Delta) -> bool:
    """
    Whether nobody knows what a component used over a long time: its energy is not to become OTHER, and be
    charged by the others' shares. Of one that began again (a GPU that is reset) the meter alone saw a moment.
    """
    return delta.step is Step.AMBIGUOUS and delta.device.domain is not Domain.NODE


def rank(device: Device) -> tuple[int, str]:
    """Sorts meters of the node, the best first."""
    return _RANK.get(device.source, len(_RANK)), device.id


def _counting(wall: Wall, deltas: Iterable[Delta], t_ns: int) -> Delta | None:
    """The news of the meter that counts; None where it has none. A reading given again is none."""
    news = [
        d for d in deltas if d.device.domain is Domain.NODE and (d.dt_ns or d.step is Step.FIRST)
    ]
    if wall.speaks(
        t_ns
    ):  # a better one takes over once it has delivered, or one that flaps would shut all out
        known = (_RANK.get(wall.source, len(_RANK)), wall.meter)
        news = [
            d for d in news
            if d.device.id == wall.meter or (d.known and rank(d.device) < known)
        ]  # fmt: skip
    return min(news, key=lambda d: rank(d.device), default=None)


def _settled(wall: Wall, reading: Delta, dt_ns: int, t_ns: int) -> tuple[Wall, int, int]:
    """The account after a reading, the residual, and the window; one as long as the interval is no silence."""
    device = reading.device
    same = (device.id, device.includes_gpu) == (wall.meter, wall.includes_gpu)
    parts_uj = wall.host_uj + (wall.gpu_uj if device.includes_gpu else 0)
    anew = replace(
        wall, meter=device.id, source=device.source, includes_gpu=device.includes_gpu, last_ns=t_ns,
        every_ns=reading.every_ns, host_uj=0, gpu_uj=0, lost=False,
    )  # fmt: skip
    longest_ns = max(
        PATIENCE_NS, _LOST_WINDOWS * max(wall.window_ns, reading.every_ns), int(_SPREAD * dt_ns)
    )
    if not same:  # what one meter owes is no other's
        return replace(anew, below_ns=0, credit_uj=max(wall.credit_uj, 0)), 0, 0
    if wall.lost or not reading.known or reading.dt_ns > longest_ns:
        return replace(anew, below_ns=0), 0, 0
    anew = _compared(anew, Block(reading.energy_uj, parts_uj, reading.dt_ns))
    credit_uj = wall.credit_uj + reading.energy_uj - parts_uj
    # before a first minute is whole all that could be owed is within the block
    residual_uj = max(-credit_uj - anew.block.parts_uj - anew.latest.parts_uj, 0)
    credit_uj += residual_uj
    settled = replace(anew, credit_uj=credit_uj, due_uj=max(credit_uj, 0), window_ns=reading.dt_ns)
    return settled, residual_uj, reading.dt_ns


def _compared(wall: Wall, block: Block) -> Wall:
    """The account with one more stretch compared."""
    below_ns = wall.below_ns + block.dt_ns if block.wall_uj < block.parts_uj else 0
    wall = replace(
        wall, compared=wall.compared + block, block=wall.block + block, below_ns=below_ns
    )
    if wall.block.dt_ns < _BLOCK_NS:
        return wall
    return replace(wall, block=Block(), latest=wall.block)


def _due(wall: Wall, dt_ns: int) -> int:
    """What of the credit is charged now."""
    credit_uj = max(wall.credit_uj, 0)
    if wall.window_ns <= _SPREAD * dt_ns:
        return credit_uj
    return min(credit_uj, wall.due_uj * dt_ns // wall.window_ns)
