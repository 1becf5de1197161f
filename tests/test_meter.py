"""Readings become deltas, and every delta says how it was obtained."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.meter import delta, measure
from jobwatt.model import NS_PER_S, Device, Domain, Kind, Reading, Step

ZONE = Device(Domain.CPU, "intel-rapl:0", "rapl")
RANGE = 65_712_999_613  # uJ: a real dram zone's (intel/powertelemetry issue 3)
WATT = 10**6
REGULAR = int(2.5 * NS_PER_S)


def energy(value, t_s, *, wrap=RANGE, power=400 * WATT, epoch=0):
    return Reading(ZONE, Kind.ENERGY, value, int(t_s * NS_PER_S), wrap, power, epoch)


def power(value, t_s, every_s=0):
    every_ns = every_s * NS_PER_S
    return Reading(ZONE, Kind.POWER, value, int(t_s * NS_PER_S), every_ns=every_ns)


TEN_TIMES_UJ = 10 * 400 * WATT  # of the greatest power, in a second
HALF = 2 * 400 * WATT * 60  # a range of which one half fits into a minute at the greatest power


@pytest.mark.parametrize(
    ("before", "now", "uj", "step"),
    [
        (None, energy(5, 1), 0, Step.FIRST),
        (energy(5, 1), energy(9, 2), 4, Step.NORMAL),
        (energy(RANGE - 3, 1), energy(4, 2), 7, Step.WRAPPED),
        (energy(5, 1), energy(9, 2, epoch=1), 0, Step.RESET),
        (energy(9, 1, wrap=0), energy(5, 2, wrap=0), 0, Step.RESET),
        (energy(10**10, 1), energy(5, 2), 0, Step.RESET),  # 55 kJ in a second is no wrap
        (energy(5, 1), energy(9, 61), 4, Step.GAP),  # 24 kJ at most: no wrap can hide
        (energy(5, 1), energy(9, 101), 0, Step.AMBIGUOUS),  # 40 kJ fit, half a range: one may
        (energy(5, 1, power=0), energy(9, 61, power=0), 0, Step.AMBIGUOUS),
        (energy(5, 1, wrap=HALF), energy(9, 60.99, wrap=HALF), 4, Step.GAP),
        (energy(5, 1, wrap=HALF), energy(9, 61, wrap=HALF), 0, Step.AMBIGUOUS),
        (energy(5, 1, wrap=0), energy(9, 3601, wrap=0), 4, Step.GAP),
        (energy(5, 2), energy(9, 1), 0, Step.RESET),
        (energy(5, 1), energy(5, 1), 0, Step.NORMAL),  # given again
        (energy(9, 1, power=0), energy(5, 2, power=0), RANGE - 4, Step.WRAPPED),
        (energy(RANGE - TEN_TIMES_UJ, 1), energy(0, 2), TEN_TIMES_UJ, Step.WRAPPED),
        (energy(RANGE - TEN_TIMES_UJ, 1), energy(1, 2), 0, Step.RESET),
        (energy(RANGE - TEN_TIMES_UJ, 1), energy(0, 1.001), TEN_TIMES_UJ, Step.WRAPPED),
        (energy(RANGE - 2 * TEN_TIMES_UJ, 1), energy(0, 3), 2 * TEN_TIMES_UJ, Step.WRAPPED),
        (energy(5, 1), energy(9, 3.5), 4, Step.NORMAL),
        (energy(5, 1), energy(9, 3.6), 4, Step.GAP),
        (power(100 * WATT, 1), power(200 * WATT, 2), 150 * WATT, Step.NORMAL),
        (power(100 * WATT, 1), power(200 * WATT, 3.5), 375 * WATT, Step.NORMAL),
        (power(100 * WATT, 1), power(200 * WATT, 9), 0, Step.GAP),
        (power(100 * WATT, 1, 10), power(200 * WATT, 26, 10), 25 * 150 * WATT, Step.NORMAL),
        (power(100 * WATT, 1, 10), power(200 * WATT, 26.1, 10), 0, Step.GAP),
        (power(100 * WATT, 1, 1), power(200 * WATT, 3.5, 1), 375 * WATT, Step.NORMAL),
    ],
)
def test_delta(before, now, uj, step):
    """Wrap, reset, gap, ambiguity and integration, one by one."""
    result = delta(before, now, REGULAR)
    assert (result.energy_uj, result.step, result.every_ns) == (uj, step, now.every_ns)
    assert result.dt_ns == (max(now.t_ns - before.t_ns, 0) if before else 0)


@given(
    st.lists(st.integers(0, 400 * WATT), max_size=60),
    st.integers(0, RANGE - 1),
    st.sampled_from([RANGE, 500 * WATT]),
)
def test_unwrapped_counter_is_the_truth(steps, start, wrap):
    """However often the counter wraps, the sum of deltas is the energy that was used."""
    truth, total, before = start % wrap, 0, energy(start % wrap, 0, wrap=wrap)
    for second, used in enumerate(steps, 1):
        truth += used
        now = energy(truth % wrap, second, wrap=wrap)
        total += delta(before, now, REGULAR).energy_uj
        before = now
    assert total == sum(steps)


def test_counter_is_booked_and_power_stands_beside():
    """A device with both kinds books its counter; a silent device keeps its cursor."""
    first = measure({}, [energy(5, 1), power(100 * WATT, 1)], REGULAR)
    silent = measure(first.cursors, [], REGULAR)
    second = measure(silent.cursors, [energy(9, 2), power(100 * WATT, 2)], REGULAR)
    assert [d.energy_uj for d in second.booked] == [4]
    assert [d.energy_uj for d in second.integrated] == [100 * WATT]
