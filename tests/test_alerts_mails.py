"""From an alert's results to its firing, and from firing to mails, as Prometheus and Alertmanager do it."""

from __future__ import annotations

from datetime import date, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobwatt.alerts.simulate import Firing, Schedule, Timing, mails, spells
from replaykit import DAY, HOUR, MIN, ORDER, PARIS, about, firing, unix

# --- from results to firing ----------------------------------------------------------------------


def test_for_and_keep_firing_for():
    """Fires after `for`, resolves after `keep_firing_for`; a shorter gap changes nothing."""
    grid = [MIN * at for at in range(120)]
    present = grid[10:20] + grid[30:40] + grid[80:82]
    assert spells(present, MIN, grid[-1], 5 * MIN, 15 * MIN) == ((15 * MIN, 55 * MIN),)
    assert spells(present, MIN, grid[-1], 0, 0) == (
        (10 * MIN, 20 * MIN),
        (30 * MIN, 40 * MIN),
        (80 * MIN, 82 * MIN),
    )
    assert spells(grid[100:], MIN, grid[-1], 5 * MIN, 0) == ((105 * MIN, float("inf")),)
    assert spells([], MIN, grid[-1], 0, 0) == ()


def prometheus_way(present, grid, for_s, keep_s):
    """The loop of rules/alerting.go, one evaluation after the other: the times at which it fires."""
    state, active, keeping, firing = "inactive", 0, None, []
    for ts in grid:
        if ts in present:
            keeping = None
            if state == "inactive":
                state, active = "pending", ts
        elif state == "firing" and keep_s:
            keeping = ts if keeping is None else keeping
            if ts - keeping >= keep_s:
                state = "inactive"
        else:
            state = "inactive"
        if state == "pending" and ts - active >= for_s:
            state = "firing"
        if state == "firing":
            firing.append(ts)
    return firing


@given(
    st.sets(st.integers(0, 80)),
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from([60, 90, 300]),
)
def test_spells_are_what_prometheus_does(at, for_steps, keep_steps, step):
    """Against the loop that Prometheus runs, written down literally."""
    grid = [step * k for k in range(81)]
    present = sorted(step * k for k in at)
    for_s, keep_s = for_steps * 45, keep_steps * 45
    found = spells(present, step, grid[-1], for_s, keep_s)
    assert [ts for ts in grid if any(a <= ts < b for a, b in found)] == prometheus_way(
        set(present), grid, for_s, keep_s
    )


# --- from firing to mails ------------------------------------------------------------------------


def sent(firings, *, is_open=lambda _: True, until=2e9, timing=None):
    return mails(firings, timing or Timing(), ORDER, is_open, until)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(ORDER),
            st.sampled_from(["ann", "bob"]),
            st.integers(1, 4),
            st.lists(st.tuples(st.floats(0, 20 * DAY), st.floats(MIN, 3 * DAY)), max_size=6),
        ),
        max_size=12,
        unique_by=lambda job: job[:3],
    ),
    st.sets(st.integers(0, 23)),
)
@settings(max_examples=300, deadline=None)
def test_no_user_gets_two_mails_in_a_day(jobs, hours):
    """However many alerts come, go and come back, and whatever the hours: 24 h from mail to mail."""
    firings = []
    for alert, user, jobid, when in jobs:
        spans, free = [], 0.0
        for start, length in sorted(when):
            if start > free:
                spans.append((start, start + length))
                free = start + length + 20 * MIN
        firings.append(firing(alert, user, str(jobid), *spans))
    found = sent(firings, is_open=lambda at: int(at % DAY // HOUR) in hours)
    for user in ("ann", "bob"):
        times = [mail.at for mail in found if mail.group["user"] == user]
        assert all(later - earlier >= DAY - 1 for earlier, later in pairwise(times))
    for mail in found:
        assert int(mail.at % DAY // HOUR) in hours
        assert {told.labels["user"] for told in mail.told} == {mail.group["user"]}
        jobs_told = [jobid for jobid, _ in about(mail)]
        assert len(jobs_told) == len(set(jobs_told)), "one alert a job: the most telling"


def test_one_mail_for_an_array():
    """500 tasks of one user that idle within ten minutes are one mail."""
    array = [firing("Idle", "ann", str(task), (HOUR + task, 5 * HOUR)) for task in range(1, 501)]
    (mail,) = sent(array)
    assert (mail.at, len(mail.told)) == (HOUR + 1 + 10 * MIN, 500)
    assert about(mail)[0] == ("1", "Idle")


def test_what_comes_later_waits_for_the_next_day():
    """A job that idles after the mail is told of a day later, if it still idles; one that ended is not."""
    found = sent(
        [
            firing("Idle", "ann", "1", (HOUR, 4 * DAY)),
            firing("Idle", "ann", "2", (5 * HOUR, 2 * DAY)),
            firing("Idle", "ann", "3", (6 * HOUR, 8 * HOUR)),
            firing("Idle", "bob", "4", (5 * HOUR, 6 * HOUR)),
        ]
    )
    first = HOUR + 10 * MIN
    ann = [mail for mail in found if mail.group["user"] == "ann"]
    assert [mail.at for mail in ann] == [first, first + DAY, first + 2 * DAY, first + 3 * DAY]
    assert [len(mail.told) for mail in ann] == [1, 2, 1, 1]
    assert [mail.at for mail in found if mail.group["user"] == "bob"] == [5 * HOUR + 10 * MIN]


def test_flaps_make_no_mail_of_their_own():
    """Twenty times on and off within a day: one mail; shorter than group_wait: none."""
    flaps = tuple((HOUR * at, HOUR * at + 30 * MIN) for at in range(1, 21))
    assert [mail.at for mail in sent([firing("Idle", "ann", "1", *flaps)])] == [HOUR + 10 * MIN]
    assert not sent([firing("Idle", "ann", "1", (HOUR, HOUR + 9 * MIN))])


def test_the_more_telling_alert_silences_the_other():
    """Of one job only the first in order is told; another job or cluster is not silenced."""
    found = sent(
        [
            firing("Low", "ann", "1", (0, DAY)),
            firing("Never", "ann", "1", (0, DAY)),
            firing("Low", "ann", "2", (0, DAY)),
            firing("Low", "bob", "1", (0, DAY), cluster="b"),
        ]
    )
    assert [about(mail) for mail in found] == [[("1", "Never"), ("2", "Low")], [("1", "Low")]]


def test_without_a_job_nothing_is_silenced():
    """An alert about a user has no job in common with another."""
    labels = (("cluster", ""), ("user", "ann"))
    both = [Firing("Idle", labels, ((0, DAY),)), Firing("Low", labels, ((0, DAY),))]
    assert len(sent(both)[0].told) == 2


OFFICE = Schedule(PARIS, (8 * 60, 18 * 60), frozenset(range(5)), frozenset({date(2026, 12, 25)}))


@pytest.mark.parametrize(
    ("begins", "mailed"),
    [
        ("2026-11-20T10:00", "2026-11-20T10:10"),  # a Friday morning
        ("2026-11-20T19:00", None),  # after hours: Alertmanager alone would never mail this group
        ("2026-11-21T10:00", "2026-11-23T10:10"),  # a Saturday: on Monday, at the same hour
        ("2026-12-25T09:00", "2026-12-28T09:10"),  # a holiday that is a Friday
        ("2026-10-23T16:55", "2026-10-23T17:05"),  # before the clocks go back ...
    ],
)
def test_hours_days_and_holidays(begins, mailed):
    """Mails go out in the site's local hours only; what is muted waits whole days."""
    start = unix(begins, PARIS)
    found = sent(
        [firing("Idle", "ann", "1", (start, start + 5 * DAY))],
        is_open=OFFICE.is_open,
        until=start + 4.5 * DAY,
    )
    times = [datetime.fromtimestamp(mail.at, PARIS).strftime("%Y-%m-%dT%H:%M") for mail in found]
    assert times[:1] == ([mailed] if mailed else [])


def test_dst_moves_the_local_hour_of_a_group():
    """24 h are 24 h: after the change the same group is flushed an hour earlier by the clock on the wall."""
    start = unix("2026-10-23T08:30", PARIS)
    found = sent([firing("Idle", "ann", "1", (start, start + 9 * DAY))], is_open=OFFICE.is_open)
    local = [datetime.fromtimestamp(mail.at, PARIS).strftime("%d %H:%M") for mail in found]
    assert local == [
        "23 08:40"
    ]  # 07:40 from the 26th on: that is why site.yaml keeps UTC hours inside
    late = unix("2026-10-23T09:30", PARIS)
    found = sent([firing("Idle", "ann", "1", (late, late + 9 * DAY))], is_open=OFFICE.is_open)
    local = [datetime.fromtimestamp(mail.at, PARIS).strftime("%d %H:%M") for mail in found]
    assert local == ["23 09:40", "26 08:40", "27 08:40", "28 08:40", "29 08:40", "30 08:40"]
