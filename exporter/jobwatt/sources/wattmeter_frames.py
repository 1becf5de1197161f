"""
Bytes of a wattmeter become frames: lines, columns, exact figures. Pure.

Two layouts are known. ``wattmetre-read`` names its columns in a header, which may come again and in
any order::

    #timestamp,#frame_is_ok,#U1,#U2,#U3,#current1,#activepow1,...,#currentN,#activepowN
    1745428511.039678535,true,239.4,0.0,0.0,0.1,0.9,...

Grid'5000's older ``power.csv.<date>T<HH>`` has no header: column 3 is the timestamp, column 4 ``OK``,
columns 5 and on are the ports, numbered from 0; a field may be blank.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# A header of 100 ports has 2.5 kB; what is longer than this is no line of a wattmeter.
_LINE_BYTES = 16 << 10
_POWER = re.compile(rb"#?activepow(\d{1,3})")
_WATTS = re.compile(rb"(-?)(\d{1,9})(?:\.(\d{1,9}))?")
_SECONDS = re.compile(rb"(\d{1,11})(?:\.(\d{1,9}))?")
# An unused port reads -0.0 to -0.1 (tests/data/omegawatt_output.csv); more is a clamp the wrong way round.
_NOISE_UW = 1_000_000
# No feed of one node carries more: three phases of 63 A at 230 V are 43 kW.
_GREATEST_UW = 100_000_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """
    One row.

    Attributes:
        t_ns: Unix time by the meter's own clock.
        power_uw: power by port, of the ports asked for; None where the field is blank.
        outcome: ``ok``, ``repeated`` (nothing but the time is new) or ``blank`` (a port is).
    """

    t_ns: int
    power_uw: Mapping[str, int | None]
    outcome: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column is what. ``width`` is the number of columns, 0 where it may vary."""

    time: int
    good: int
    good_word: bytes
    ports: Mapping[str, int]
    width: int


class Frames:
    """
    Turns bytes, cut anywhere, into frames; anything that is none is counted and left out.

    Attributes:
        bad: rows so far that were no good frames: garbled, cut, or said so themselves.
    """

    def __init__(self, ports: Iterable[str]) -> None:
        self._wanted = tuple(ports)
        self._begun = b""
        self._skipping = False
        self._layout: _Layout | None = None
        self._before: tuple[list[bytes], dict[str, int | None]] = ([], {})
        self.bad = 0

    @property
    def known(self) -> frozenset[str] | None:
        """Ports that the rows have; None until a header or an old row told."""
        return None if self._layout is None else frozenset(self._layout.ports)

    def feed(self, data: bytes) -> list[Frame]:
        """Frames of the lines that ``data`` ends."""
        return [frame for line in self._lines(data) if (frame := self._frame(line)) is not None]

    def cut(self, *, inside: bool = False) -> None:
        """Forget a line that was begun. ``inside``: what comes next begins inside a line."""
        self._begun, self._skipping = b"", inside

    def _lines(self, data: bytes) -> Iterator[bytes]:
        *ended, begun = (self._begun + data).split(b"\n")
        for line in ended:
            if self._skipping:
                self._skipping = False
            elif len(line) > _LINE_BYTES:
                self.bad += 1
            else:
                yield line
        if len(begun) > _LINE_BYTES:
            self.bad += not self._skipping
            begun, self._skipping = b"", True
        self._begun = b"" if self._skipping else begun

    def _frame(self, line: bytes) -> Frame | None:
        line = line.strip()
        if not line:
            return None
        fields = line.split(b",")
        if line.startswith(b"#") or b"timestamp" in line:
            self._layout = _named(fields) or self._layout
            self._before = ([], {})
            return None
        if self._layout is None or not self._layout.width:
            self._layout = _old(fields) or self._layout
        frame = None if self._layout is None else self._read(self._layout, fields)
        self.bad += frame is None
        return frame

    def _read(self, layout: _Layout, fields: list[bytes]) -> Frame | None:
        if layout.width not in {0, len(fields)} or len(fields) <= max(layout.good, layout.time):
            return None
        if fields[layout.good].strip().lower() != layout.good_word:
            return None
        t_ns = _nanoseconds(fields[layout.time])
        if not t_ns:
            return None
        fields[layout.time] = b""
        if fields == self._before[0]:
            return Frame(t_ns, self._before[1], "repeated")
        try:
            power = {port: _of(fields, layout.ports.get(port)) for port in self._wanted}
        except ValueError:
            return None
        self._before = (fields, power)
        there = [uw for port, uw in power.items() if port in layout.ports]
        return Frame(t_ns, power, "blank" if None in there else "ok")


def _named(fields: list[bytes]) -> _Layout | None:
    """Layout of a header; None where it lacks a column that is needed."""
    names = [field.strip().lower() for field in fields]
    plain = [name.removeprefix(b"#") for name in names]
    ports = {
        str(int(match[1])): at for at, name in enumerate(names) if (match := _POWER.fullmatch(name))
    }
    if b"timestamp" not in plain or b"frame_is_ok" not in plain or not ports:
        return None
    return _Layout(
        plain.index(b"timestamp"), plain.index(b"frame_is_ok"), b"true", ports, len(fields)
    )


def _old(fields: list[bytes]) -> _Layout | None:
    """Layout of a row of Grid'5000's older files; None where it is no good one."""
    if len(fields) < 5 or fields[3].strip() != b"OK" or not _nanoseconds(fields[2]):
        return None
    return _Layout(2, 3, b"ok", {str(at - 4): at for at in range(4, len(fields))}, 0)


def _nanoseconds(field: bytes) -> int:
    """Seconds as ns; 0 where the field is no time."""
    match = _SECONDS.fullmatch(field.strip())
    if match is None:
        return 0
    return int(match[1]) * NS_PER_S + int((match[2] or b"").ljust(9, b"0"))


def _of(fields: list[bytes], at: int | None) -> int | None:
    """Power in uW of one port; None where it is blank or absent; ValueError where it is garbled."""
    field = b"" if at is None or at >= len(fields) else fields[at].strip()
    if not field:
        return None
    match = _WATTS.fullmatch(field)
    if match is None:
        raise ValueError("no figure")
    uw = int(match[2]) * 1_000_000 + int((match[3] or b"").ljust(6, b"0")[:6])
    if match[1]:
        return 0 if uw < _NOISE_UW else None
    return uw if uw <= _GREATEST_UW else None
