"""
A wattmeter in the feed of one node or of several (OmegaWatt): the power that truly came in.

A thread of its own reads rows as they come and integrates them (wattmeter_input.py, _frames.py,
_energy.py); ``read`` gives what it knows by now and never waits. Each mapped port is a device that is
shown; the ports that feed this very node are, together, the device that counts.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobwatt.model import NS_PER_S, Device, Domain, Failure, Kind, Reading, Sample, SourceResult

from .wattmeter_energy import Meter, Port, PortState
from .wattmeter_frames import Frames
from .wattmeter_input import Input, InputEnded, open_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAME = "wattmeter"
_WAIT_S = 0.2
# A port that gave nothing for so long is down. Rows come every 10 ms (or every second), but a program
# that prints into a pipe does so in blocks of 4 KiB: 40 rows.
_STALE_NS = 5 * NS_PER_S
# An input that gives no byte for so long is opened again: a dead peer, a program that hangs.
_SILENT_S = 10.0
_RETRY_S = (1.0, 30.0)  # doubled from the first to the second while nothing good comes


@dataclass(frozen=True, slots=True)
class _State:
    """What the thread knows, replaced as a whole."""

    ports: Mapping[str, PortState]
    outcomes: Mapping[str, int]
    known: frozenset[str] | None = None
    heard: bool = False
    trouble: Failure | None = None


class Wattmeter:
    """
    The meter's ports. ``read`` and ``close`` never raise.

    Args:
        spec: ``wattmeter.input``, checked.
        ports: node by port. ``self`` and ``node`` are this node.
        node: this node's name.
        retry_s: shortest and longest time until an input that ended is opened again.
    """

    name = _NAME

    def __init__(
        self,
        spec: str,
        ports: Mapping[str, str],
        node: str,
        *,
        retry_s: tuple[float, float] = _RETRY_S,
        silent_s: float = _SILENT_S,
    ) -> None:
        self._spec, self._retry_s, self._silent_s = spec, retry_s, silent_s
        # of a command its name alone: what is an argument need not be everybody's
        self._shown = spec.removeprefix("exec:").split()[0] if spec.startswith("exec:") else spec
        self._nodes = {port: node if fed == "self" else fed for port, fed in ports.items()}
        self._devices = {port: _device(port, fed) for port, fed in self._nodes.items()}
        self._mine = [port for port, fed in self._nodes.items() if fed == node]
        self._whole = Device(Domain.NODE, _NAME, _NAME, name="+".join(self._mine))
        self._frames = Frames(ports)
        self._meter = Meter({port: Port() for port in ports})
        self._outcomes: Counter[str] = Counter()
        self._good = False  # whether this opening of the input gave a frame that counts
        self._told: Counter[str] = Counter()
        self._began_ns = _now_ns()
        self._state = _State({}, {})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="wattmeter", daemon=True)
        self._thread.start()

    # --- what the sampler asks -----------------------------------------------------------------

    def read(self, *, full: bool) -> SourceResult:
        """What the meter said by now; a port that is silent is left out, and said to be."""
        del full
        state, now_ns = self._state, _now_ns()
        live = {
            port: told
            for port in self._nodes
            if (told := state.ports.get(port)) and now_ns - told.t_ns <= _STALE_NS
        }
        readings = [_reading(self._devices[port], told) for port, told in live.items()]
        samples = list(self._samples(state, live, now_ns))
        if self._mine and all(port in live for port in self._mine):
            mine = [live[port] for port in self._mine]
            readings.append(self._sum(mine))
            watts = sum(told.power_uw for told in mine) / 1e6
            samples.append(Sample("jobwatt_wall_power_watts", (_NAME, self._whole.name), watts))
        return SourceResult(
            tuple(readings),
            samples=tuple(samples),
            events=tuple(self._events(state)),
            failures=tuple(self._failures(state, live, now_ns)),
        )

    @property
    def pending(self) -> bool:
        """Whether the first frame is still to come, and nothing is amiss yet."""
        state, since_ns = self._state, _now_ns() - self._began_ns
        heard = state.heard or state.trouble is not None
        return not heard and since_ns < self._silent_s * 1e9

    def close(self) -> None:
        """End the thread, and the child where there is one."""
        self._stopping.set()
        self._thread.join(timeout=5)

    def _sum(self, mine: list[PortState]) -> Reading:
        """One reading of all ports of this node; of the moment up to which each of them is known."""
        total = PortState(
            sum(told.energy_uj for told in mine),
            0,
            min(told.t_ns for told in mine),
            sum(told.epoch for told in mine),  # each only goes up: a change of one changes the sum
        )
        return _reading(self._whole, total)

    def _samples(
        self, state: _State, live: Mapping[str, PortState], now_ns: int
    ) -> Iterator[Sample]:
        wall_s = time.time()
        for port, node in self._nodes.items():
            labels = (_NAME, port, node)
            yield Sample("jobwatt_meter_up", labels, int(port in live))
            if told := live.get(port):
                yield Sample("jobwatt_meter_power_watts", labels, told.power_uw / 1e6)
            if told := state.ports.get(port):
                read_s = round(wall_s - (now_ns - told.t_ns) / NS_PER_S, 3)
                yield Sample("jobwatt_meter_reading_timestamp_seconds", labels, read_s)

    def _events(self, state: _State) -> Iterator[Sample]:
        for outcome, count in state.outcomes.items():
            if count > self._told[outcome]:
                more = count - self._told[outcome]
                yield Sample("jobwatt_wattmeter_frames_total", (outcome,), more)
                self._told[outcome] = count

    def _failures(
        self, state: _State, live: Mapping[str, PortState], now_ns: int
    ) -> Iterator[Failure]:
        known = self._nodes.keys() if state.known is None else state.known
        absent = [port for port in self._nodes if port not in known]
        for port in absent:
            there = ", ".join(sorted(known, key=int))
            message = f"{_NAME}: the meter has no port {port}: wattmeter.ports may name {there}"
            yield Failure(_NAME, "no_port", message, self._devices[port].id)
        if state.trouble is not None:
            yield state.trouble
        elif live:
            yield from self._missing(state, live, absent)
        elif now_ns - self._began_ns > _STALE_NS:
            yield self._silence(state)

    def _silence(self, state: _State) -> Failure:
        if state.heard and state.known is None:
            message = (
                f"{_NAME}: no row of {self._shown} can be read before a header has come; let its"
                " sender begin anew (a program that is started for each connection sends one)"
            )
            return Failure(_NAME, "no_header", message)
        message = f"{_NAME}: no good frame from {self._shown}: see that the meter is plugged in; it is awaited"
        return Failure(_NAME, "silent", message)

    def _missing(
        self, state: _State, live: Mapping[str, PortState], absent: list[str]
    ) -> Iterator[Failure]:
        """Ports that are silent while others are not."""
        old = _now_ns() - self._began_ns > _STALE_NS
        for port in self._nodes:
            if port not in live and port not in absent and (old or port in state.ports):
                message = f"{_NAME}: port {port} gives no power: see to its plug and its clamp"
                yield Failure(_NAME, "port_silent", message, self._devices[port].id)
        gone = [port for port in self._mine if port not in live]
        if gone and len(gone) < len(self._mine):
            message = (
                f"{_NAME}: port {', '.join(gone)} of this node is missing: half a node is no node, so"
                " its wall energy is left out"
            )
            yield Failure(_NAME, "incomplete", message, _NAME)

    # --- the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        first_s, longest_s = self._retry_s
        pause_s = first_s
        while not self._stopping.is_set():
            self._good = False
            trouble = self._follow()
            if trouble is None:
                return
            self._publish(trouble)
            pause_s = first_s if self._good else pause_s
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _follow(self) -> Failure | None:
        """Take what the input gives until it ends: then the reason; None where it is to stop."""
        try:
            with closing(open_input(self._spec)) as source:
                self._frames.cut()
                self._take(source.head())
                self._frames.cut(inside=source.begins_inside)
                if source.restarts:
                    self._meter.begin_anew()
                self._read(source)
        except InputEnded as err:
            return Failure(_NAME, "input", f"{_NAME}: {err}; it is tried again")
        except OSError as err:
            why = f"cannot read {self._shown}: {err.strerror}"
            return Failure(_NAME, "input", f"{_NAME}: {why}; it is tried again")
        except Exception as err:  # noqa: BLE001  whatever a device sends must not end its thread
            return Failure(_NAME, "exception", f"{_NAME}: {type(err).__name__}: {err}")
        return None

    def _read(self, source: Input) -> None:
        heard_s = time.monotonic()
        while not self._stopping.is_set():
            if data := source.read(_WAIT_S):
                heard_s = time.monotonic()
                self._take(data)
            elif source.restarts and time.monotonic() - heard_s > self._silent_s:
                raise InputEnded(f"{self._shown} has gone silent: see that the meter is plugged in")

    def _take(self, data: bytes) -> None:
        """Count and integrate the frames of ``data``, which has just come."""
        arrival_ns = _now_ns()
        for frame in self._frames.feed(data):
            if self._meter.add(frame.t_ns, frame.power_uw, arrival_ns):
                self._outcomes[frame.outcome] += 1
                self._good = True
            else:
                self._outcomes["bad"] += 1
        if data:
            self._publish(None if self._good else self._state.trouble, heard=True)

    def _publish(self, trouble: Failure | None, *, heard: bool = False) -> None:
        outcomes = self._outcomes + Counter(bad=self._frames.bad)
        heard = heard or self._state.heard
        self._state = _State(self._meter.state(), outcomes, self._frames.known, heard, trouble)


def open_source(spec: str, ports: Mapping[str, str], node: str) -> Wattmeter:
    """The wattmeter that ``spec`` (``wattmeter.input``) names; ``node`` is this node's name."""
    return Wattmeter(spec, ports, node)


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _device(port: str, node: str) -> Device:
    return Device(Domain.NODE, f"{_NAME}:{port}", _NAME, name=port, summed=False, node=node)


def _reading(device: Device, told: PortState) -> Reading:
    return Reading(device, Kind.ENERGY, told.energy_uj, told.t_ns, epoch=told.epoch)
