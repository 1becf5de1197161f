"""The wattmeter's energy: the real recording, gaps, remainders, late rows, and a clock that is set."""

from __future__ import annotations

import pytest

from jobwatt.model import NS_PER_S
from jobwatt.sources.wattmeter_energy import Meter, Port
from jobwatt.sources.wattmeter_frames import Frames
from wattmeterkit import MAP, lines
from wattmetre import HEADER, ROWS, energy

S = NS_PER_S


def test_the_recording():
    """983 rows, 48 % repeats, none bad; energy is that of a computation in fractions, to the microjoule."""
    rows, meter = Frames(MAP), Meter({port: Port() for port in MAP})
    found = rows.feed(lines([HEADER, *ROWS]))
    for frame in found:
        assert meter.add(frame.t_ns, frame.power_uw, frame.t_ns)
    assert len(found) == 983
    assert rows.bad == 0
    assert sum(frame.outcome == "repeated" for frame in found) == 467
    assert {p: told.energy_uj for p, told in meter.state().items()} == {
        port: energy(ROWS, port) for port in MAP
    }
    assert all(uw >= 0 for frame in found for uw in frame.power_uw.values())


def fed(*rows, ports=("1",)):
    """A meter after (meter's time in s, arrival in s, W of each port or None)."""
    meter = Meter({port: Port() for port in ports})
    for at_s, came_s, *watts in rows:
        power = {
            p: None if w is None else int(w * 10**6) for p, w in zip(ports, watts, strict=True)
        }
        meter.add(int(at_s * S), power, int(came_s * S))
    return meter


def test_gaps_are_left_out():
    """Two and a half seconds are bridged; more is not, and begins a new epoch."""
    bridged = fed((100, 0, 50), (102.5, 2.5, 70)).state()["1"]
    assert (bridged.energy_uj, bridged.epoch) == (150 * 10**6, 0)
    apart = fed((100, 0, 50), (101, 1, 50), (103.6, 3.6, 70), (104.6, 4.6, 70)).state()["1"]
    assert (apart.energy_uj, apart.epoch) == (120 * 10**6, 1)


def test_a_blank_port_alone_has_a_gap():
    """Blank fields of one port are that port's gap; the others go on."""
    rows = [(100 + n, n, 10, None if 2 <= n < 6 else 20) for n in range(10)]
    state = fed(*rows, ports=("1", "2")).state()
    assert (state["1"].energy_uj, state["1"].epoch) == (90 * 10**6, 0)
    assert (state["2"].energy_uj, state["2"].epoch) == ((20 + 60) * 10**6, 1)


def test_remainders_are_carried():
    """A million steps that are each less than a microjoule lose nothing."""
    port = Port()
    for n in range(1, 100_001):
        port.add(n * 7, 3)
    assert port.energy_uj == 3 * 7 * 99_999 // S
    port = Port()
    for n in range(1, 100_001):
        port.add(n * 7_777, 33_333_333)
    assert port.energy_uj == 33_333_333 * 7_777 * 99_999 // S


def test_one_row_too_late():
    """A row older than the newest, or the same again, is dropped."""
    meter = fed((100, 0, 50), (101, 1, 50), (100.5, 1, 9000), (101, 1, 9000), (102, 2, 50))
    assert (meter.state()["1"].energy_uj, meter.state()["1"].epoch) == (100 * 10**6, 0)


@pytest.mark.parametrize("step_s", [-3600, -5, 0.5, 30, 3600])
def test_the_meters_clock_is_set(step_s):
    """Set ahead or back while it runs: no energy is invented, a new epoch begins, readings stay of now."""
    before = [(1000 + n / 10, n / 10, 100) for n in range(101)]
    after = [(1010 + step_s + n / 10, 10 + n / 10, 100) for n in range(1, 101)]
    state = fed(*before, *after).state()["1"]
    assert state.epoch == 1
    assert 1000 * 10**6 <= state.energy_uj <= 2000 * 10**6
    assert state.t_ns == pytest.approx(20 * S, abs=S / 100)


def test_readings_are_placed_by_the_quickest():
    """Rows that arrive in bursts are placed by those that waited least; no reading is of the future."""
    rows = [(5000 + n / 10, (n // 10 + 1) * 1.0, 100) for n in range(100)]
    state = fed(*rows).state()["1"]
    assert state.t_ns == 10 * S
    late = fed(*rows, (5010, 14, 100)).state()["1"]  # one that was held up
    assert late.t_ns == pytest.approx(10.1 * S, abs=S / 100)
    assert (state.epoch, late.epoch) == (0, 0)


def test_a_ports_time_never_goes_back():
    """A port whose value is older than that of others, when the clocks are found to be closer than thought."""
    meter = fed((100, 10, 5, 5), ports=("1", "2"))
    first = meter.state()
    meter.add(int(100.05 * S), {"1": 5, "2": 5}, int(10.1 * S))
    meter.add(101 * S, {"1": 5, "2": None}, int(10.1 * S))
    later = meter.state()
    assert first["2"].t_ns == later["2"].t_ns == 10 * S
    assert later["1"].t_ns == int(10.1 * S)
