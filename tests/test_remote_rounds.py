"""Another jobwatt's pages one after another: whose clock is wrong, what is a new epoch, what is too old."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobwatt.meter import ANY_EPOCH, measure
from jobwatt.sources import remote_page
from jobwatt.sources.remote import Track
from remotekit import S, meter


class Pages:
    """Pages of a host whose clock is ``skew_s`` off, given to a Track."""

    def __init__(self, interval_s=5, skew_s=0.0):
        self.track, self.now_s, self.skew_s = Track(interval_s * S), 10_000.0, skew_s

    def look(self, *meters, later_s=5.0):
        """``meters``: (name, joules, watts, age of the reading in s, more labels)."""
        self.now_s += later_s
        there_s = self.now_s + self.skew_s
        text = "".join(
            meter(name, joules, watts, there_s - age_s, **more)
            for name, joules, watts, age_s, more in meters
        )
        found = remote_page.meters(text.encode(), "gpu01")
        return self.track.add(found, int(there_s) * S, int(self.now_s * S))


def one(joules, age_s=0.0, name="1", watts=70, **more):
    return (name, joules, watts, age_s, more)


def epoch(result):
    (reading,) = result.readings
    return reading.epoch


@pytest.mark.parametrize("skew_s", [-7200.3, -40, -0.5, 0, 0.5, 40, 7200.3])
def test_their_clock_is_wrong(skew_s):
    """However wrong the other side's clock, a reading is placed within a second, and never in the future."""
    pages = Pages(skew_s=skew_s)
    for n in range(40):
        (reading,) = pages.look(one(100 + n, age_s=0.2), later_s=5.13).readings
        t_s = reading.t_ns / S
        assert pages.now_s - 1.3 <= t_s <= pages.now_s
    assert reading.epoch == 0


def test_their_clock_is_set():
    """Set while it runs, by hours: no epoch is needed, for a counter needs no clock; readings stay of now."""
    pages = Pages()
    for skew_s in (0, 3600, -3600):
        pages.skew_s = skew_s
        for n in range(3):
            (reading,) = pages.look(one(100 + n)).readings
            assert pages.now_s - 6 <= reading.t_ns / S <= pages.now_s


def test_new_epochs():
    """A counter that fell, a meter more, a meter less, energy that became power: no delta across any of them."""
    pages = Pages()
    assert epoch(pages.look(one(100))) == 0
    assert epoch(pages.look(one(110))) == 0
    assert epoch(pages.look(one(5))) == 1
    assert epoch(pages.look(one(6), one(50, name="2"))) == 2
    assert epoch(pages.look(one(7), one(49, name="2"))) == 3
    assert epoch(pages.look(one(8))) == 4
    assert epoch(pages.look(one(None))) == 5
    assert epoch(pages.look(one(9))) == 6
    assert epoch(pages.look(one(10))) == 6


def test_a_jump_that_no_meter_measures():
    """
    A counter that grew by more than a port can feed in that time is another counter: no energy across.
    Up to that, and over any time without answers, it is taken.
    """
    pages = Pages()
    assert epoch(pages.look(one(100))) == 0
    assert epoch(pages.look(one(100 + 100_000 * 5))) == 0
    assert epoch(pages.look(one(10**7))) == 1
    assert epoch(pages.look(one(10**7 + 90_000 * 3600), later_s=3600)) == 1
    assert epoch(pages.look(one(9e12))) == 2
    assert epoch(pages.look(one(9e12 + 1))) == 2
    assert epoch(pages.look(one(9e12 + 2), one(1, name="2"))) == 3
    assert epoch(pages.look(one(9e12 + 3), one(10**8, name="2"))) == 4


def test_another_set_is_another_meter():
    """Sets of meters have ids of their own: a daemon that was down meanwhile takes no added meter for energy."""
    before, after = Pages(), Pages()
    (old,) = before.look(one(100)).readings
    (new,) = after.look(one(101), one(10**6, name="2"), later_s=60).readings
    cursors = measure({}, [old], 5 * S).cursors
    since = {key: replace(reading, epoch=ANY_EPOCH) for key, reading in cursors.items()}
    (delta,) = measure(since, [new], 5 * S).booked
    assert delta.energy_uj == 0


def test_stopped_there():
    """A meter that stopped there: no reading while it stands, a new epoch when it goes on."""
    pages = Pages()
    pages.look(one(100))
    stopped = pages.look(one(100, age_s=15.5), later_s=15.5)
    assert stopped.readings == ()
    assert stopped.failures[0].reason == "stale"
    assert epoch(pages.look(one(900))) == 1


def test_nothing_new_there():
    """As long as the other side has no newer reading, ours is given again as it was."""
    pages = Pages()
    first = pages.look(one(100, age_s=0)).readings
    assert pages.look(one(100, age_s=5)).readings == first
    assert pages.look(one(101, age_s=0)).readings[0].t_ns > first[0].t_ns


def test_a_slow_bmc():
    """A BMC that is asked every 30 s there is not late in between, and says how far its readings are apart."""
    pages = Pages()
    results = [
        pages.look(one(None, age_s=5 * (n % 6), name="bmc", watts=300 + n // 6, source="bmc"))
        for n in range(24)
    ]
    assert all(len(r.readings) == 1 and r.readings[0].epoch == 0 for r in results)
    assert len({r.readings[0].t_ns for r in results}) == 4
    assert results[-1].readings[0].every_ns == 30 * S


@pytest.mark.parametrize("interval_s", [1, 5, 30, 60])
def test_a_bmc_that_is_asked_each_minute(interval_s):
    """
    The slowest that a proxy may be (60 s, with its jitter, an answer of 10 s, and one lost) is not too old
    for the slowest and the quickest node.
    """
    pages = Pages(interval_s=interval_s)
    for n in range(600 // interval_s):
        age_s = n * interval_s % 137  # 63 s, 63 s again, and 10 s more
        (reading,) = pages.look(
            one(None, age_s=age_s, name="PowerControl", source="bmc"), later_s=interval_s
        ).readings
        assert reading.epoch == 0
        assert reading.every_ns <= 60 * S
