"""A site's hours, days and holidays: as Prometheus compares them in UTC, and as Alertmanager takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import sitekit
from jobwatt.alerts import alertmanager, schedule, site
from sitekit import REPO

toml = sitekit.toml  # a fixture

ZONES = ["Europe/Paris", "UTC", "America/Los_Angeles", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Auckland", "Africa/Casablanca", "Pacific/Apia", "America/Sao_Paulo"]  # fmt: skip


def now_in(expression, at):
    """What the expression for UTC minutes says."""
    text = expression.replace("hour()", str(at.hour)).replace("minute()", str(at.minute))
    return bool(eval(text.replace("vector(1)", "1").replace("bool", "")))


@given(zone=st.sampled_from(ZONES), begin=st.integers(0, 1200), length=st.integers(180, 1439),
       day=st.dates(date(2026, 1, 1), date(2035, 12, 31)), minute=st.integers(0, 1439))  # fmt: skip
def test_alerts_fire_within_hours_all_year(zone, begin, length, day, minute):
    """Whenever an alert may begin to fire, it is within local hours then and a quarter of an hour later."""
    local = (begin, min(begin + length, 1440))
    expression = schedule.utc_expression(schedule.utc_minutes(zone, local))
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=minute)
    if now_in(expression, at):
        for later in (0, schedule.MARGIN_MIN - 1):
            there = (at + timedelta(minutes=later)).astimezone(ZoneInfo(zone))
            assert local[0] <= there.hour * 60 + there.minute < local[1]


@pytest.mark.parametrize(("zone", "hours", "expected"), [
    ("UTC", "08:00-19:00", (480, 1125)),
    ("Europe/Paris", "08:00-19:00", (420, 1005)),  # 08:00 in winter, 18:45 in summer
    ("America/Los_Angeles", "08:00-19:00", (960, 105)),  # over midnight UTC
    ("Asia/Kolkata", "09:00-18:00", (210, 735)),
    ("Europe/Paris", "00:00-24:00", None),
])  # fmt: skip
def test_hours_in_utc(zone, hours, expected):
    """Worked by hand."""
    assert schedule.utc_minutes(zone, schedule.hours(hours)) == expected


@given(st.sets(st.integers(0, 6), min_size=1))
def test_days_for_alertmanager(days):
    """Its week begins on Sunday, and its ranges do not run backwards."""
    order = ["sunday", *schedule.DAYS[:6]]
    found = set()
    for part in schedule.day_ranges(tuple(sorted(days))):
        first, _, last = part.partition(":")
        begin, end = order.index(first), order.index(last or first)
        assert begin <= end
        found |= set(order[begin : end + 1])
    assert found == {schedule.DAYS[day] for day in days}


@given(st.dates(date(2024, 1, 1), date(2030, 1, 1)), st.integers(0, 366))
def test_holidays_month_by_month(begin, length):
    """Every day of the span once, and none beside it."""
    end = begin + timedelta(days=length)
    days = [
        first + timedelta(days=n)
        for first, last in schedule.month_parts(begin, end)
        for n in range((last - first).days + 1)
    ]
    assert days == [begin + timedelta(days=n) for n in range(length + 1)]
    assert all(first.month == last.month for first, last in schedule.month_parts(begin, end))


def test_a_machine_without_time_zones(toml, tmp_path):
    """One line that names the package; UTC does without."""
    # the package tzdata may be in this venv, for somebody else's sake: the machine has not got that either
    code = "import sys; sys.modules['tzdata'] = None; from jobwatt.cli import entry; entry()"
    env = {**os.environ, "PYTHONTZPATH": str(tmp_path), "PYTHONPATH": str(REPO / "exporter")}
    for zone, status in (("Europe/Paris", 2), ("UTC", 0)):
        path = toml(f"[schedule]\ntimezone = '{zone}'")
        flags = ["alerts", "render", "--site", path, "--out", tmp_path / "out"]
        done = subprocess.run(
            [sys.executable, "-c", code, *flags],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert ("install the package tzdata" in done.stderr) == (status == 2)


def test_holidays_are_written_in_local_time(toml):
    """Month by month, with the site's zone."""
    text = alertmanager.texts(
        site.read(
            toml("[schedule]\ntimezone = 'Europe/Paris'\nholidays = ['2026-12-24..2027-01-03']")
        )
    )["alertmanager.yml"]
    (holidays,) = [
        one for one in yaml.safe_load(text)["time_intervals"] if one["name"] == "holidays"
    ]
    assert holidays["time_intervals"] == [
        {
            "years": ["2026"],
            "months": ["12"],
            "days_of_month": ["24:31"],
            "location": "Europe/Paris",
        },
        {"years": ["2027"], "months": ["1"], "days_of_month": ["1:3"], "location": "Europe/Paris"},
    ]
