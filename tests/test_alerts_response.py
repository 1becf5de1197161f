"""`jobwatt alerts response`: what mails did, told of groups, and nothing of anybody."""

from __future__ import annotations

import json
import math
import random
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill import line, past
from jobwatt.alerts import cohorts, response, responseview
from jobwatt.alerts.cohorts import Change, Figure, Group, History, Use
from jobwatt.cli import main

H, KWH = 3600.0, 3.6e6
DAY_S = 86_400


def use(held, idle, kwh=0.0):
    """GPU hours and kWh of a day, all of it known."""
    return Use(held * H, held * H, idle * H, kwh * KWH)


def change(before, after, user="a"):
    return Change(user, use(*before), use(*after))


def alike(count, before, after, outside=0):
    """So many people of whom each did the same."""
    return Group(tuple(change(before, after, f"user{n}") for n in range(count)), outside)


# --- groups and figures ----------------------------------------------------------------------------


def test_what_the_mailed_did_beyond_the_others():
    """Each figure is what they have now less what the others' factor makes of what they had."""
    mailed = alike(10, (100, 50, 40), (90, 20, 44))
    others = alike(14, (200, 100, 80), (160, 60, 72))
    found = cohorts.response(mailed, others)
    assert found.unused.value == pytest.approx((20 / 90 - 50 / 100) - (60 / 160 - 100 / 200))
    assert found.idle_s.value / H == pytest.approx(10 * (20 - 50 * 0.6))
    assert found.used_s.value / H == pytest.approx(10 * (70 - 50 * 1.0))
    assert found.energy_j.value / KWH == pytest.approx(10 * (44 - 40 * 0.9))
    assert found.rebound.value == pytest.approx(20 / 10)
    # everybody is alike: whoever is drawn, the figure is the same
    assert (found.idle_s.low, found.idle_s.high) == (found.idle_s.value,) * 2


def test_without_others_it_is_the_bare_change():
    """And nothing was rebound where no less stands unused."""
    found = cohorts.response(alike(5, (100, 50), (100, 60)), None)
    assert (found.idle_s.value / H, found.used_s.value / H) == pytest.approx((50, -50))
    assert found.rebound == Figure(None)
    assert found.idle_s.low is None  # of five people there is no interval


def world(seed, lead, after, effect=1.0):
    """
    People who always waste, who waste in spells, and in rare spells; mails begin ``lead`` days after the first.

    All is the same all the time, but that who is mailed wastes ``effect`` of it afterwards.
    """
    chance, first = random.Random(seed), 1000
    since, end = first + lead, first + lead + after
    uses, alerts = {}, {}
    for number in range(160):
        kind, spell, mailed = number % 3, 0, False
        days, fired = {}, set()
        for day in range(first - 100, end):
            if kind and not spell and chance.random() < (1 / 60 if kind == 1 else 1 / 300):
                spell = chance.choice((3, 10, 30))
            wasted = 12 if not kind else 20 if spell else 1
            alert = chance.random() < 0.3 if not kind else spell > 0
            spell = max(spell - 1, 0)
            if day >= first:
                days[day] = use(24, max(wasted + chance.gauss(0, 1), 0) * (effect if mailed else 1))
                fired |= {day} if alert else set()
            mailed = mailed or (alert and day >= since)
        uses["c", f"user{number}"], alerts["c", f"user{number}"] = days, fired
    return History(uses, alerts, {"c": range(first, end)}), since, end


@pytest.mark.parametrize(("lead", "after"), [(90, 90), (90, 180), (180, 90)])
def test_what_happens_by_itself_is_not_taken_for_a_response(lead, after, monkeypatch):
    """
    Whoever wastes in spells wastes less after an alert, whoever always wastes does not: with as many of the one
    and of the other in both groups nothing is found where mails do nothing, in whatever time before and after.
    """
    monkeypatch.setattr(cohorts, "DRAWS", 200)
    found = []
    for seed in range(6):
        history, since, end = world(seed, lead, after)
        mailed, others = cohorts.groups(history, since, end, 28)
        assert mailed.told
        assert others.told
        found.append(cohorts.response(mailed, others).unused)
        before, left = others.total()
        assert left.idle_s != pytest.approx(before.idle_s, rel=0.01)  # they did change
    assert (
        sum(not one.low <= 0 <= one.high for one in found) <= 1
    )  # one of twenty, by what 95 % means
    assert abs(sum(one.value for one in found)) / len(found) < 0.05


def test_a_response_is_found(monkeypatch):
    """Who is mailed wastes half of what they wasted: it is seen, and no rebound where they use no more."""
    monkeypatch.setattr(cohorts, "DRAWS", 200)
    history, since, end = world(1, 120, 120, effect=0.5)
    found = cohorts.response(*cohorts.groups(history, since, end, 28))
    assert found.unused.high < 0
    assert -0.35 < found.unused.value < -0.1
    assert found.idle_s.high < 0


def test_both_groups_are_of_equally_many_days():
    """Of a long time after mails began only as much counts as there is before; of too little before, nothing."""
    people = {("c", f"user{n}"): {day: use(10, 5) for day in range(400)} for n in range(20)}

    def found(since, end, alerts):
        history = History(people, alerts, {"c": range(400)})
        mailed, others = cohorts.groups(history, since, end, 7)
        return len(mailed.people), len(others.people)

    early = {("c", f"user{n}"): {12} for n in range(10)}
    late = {("c", f"user{n}"): {300} for n in range(10, 20)}
    soon = {("c", f"user{n}"): {35} for n in range(10, 20)}
    assert found(30, 400, early | soon) == (10, 10)
    assert found(30, 400, early | late) == (0, 10)
    assert found(14, 400, early | late) == (10, 0)  # two windows before, and no day between them


def test_windows_leave_the_day_of_the_alert_out():
    """Seven days before and seven after the first alert of the time; what came earlier or later counts nothing."""
    days = {day: use(10, 1) for day in range(100, 107)}
    days |= {107: use(999, 999)}
    days |= {day: use(20, 4) for day in range(108, 115)}
    days |= {99: use(999, 999), 115: use(999, 999)}
    history = History({("c", "a"): days}, {("c", "a"): {107, 109}}, {"c": range(90, 130)})
    found = cohorts.group(history, 105, 130, 7)
    assert found == Group((change((10, 1), (20, 4)),), 0)


def test_too_near_an_end_is_counted_and_left_out():
    """A window that is not all there, or less than half measured, tells nothing."""
    person, days = ("c", "a"), {day: use(10, 1) for day in range(100, 140)}

    def outside(alert, measured=range(90, 140), end=140):
        history = History({person: days}, {person: {alert}}, {"c": measured})
        found = cohorts.group(history, 100, end, 7)
        return (len(found.people), found.outside)

    assert outside(120) == (1, 0)
    assert outside(132) == (1, 0)
    assert outside(133) == (0, 1)  # its last day after would be the first beyond
    assert outside(120, range(100, 124)) == (0, 1)  # three of seven days after were measured
    assert outside(120, range(100, 125)) == (1, 0)
    assert outside(99) == (0, 0)  # no alert in the time


def test_unmeasured_days_are_nobodys():
    """A day's mean is over what was measured; a measured day without a job is a day of nothing."""
    person = ("c", "a")
    days = {100: use(14, 7), 101: use(999, 999), 108: use(7, 0)}
    measured = [*range(90, 101), *range(102, 120)]
    found = cohorts.group(
        History({person: days}, {person: {107}}, {"c": measured, "b": range(200)}), 105, 120, 7
    )
    assert found.people == (change((14 / 6, 7 / 6), (1, 0)),)
    assert found.gone == 0


def test_who_holds_nothing_hides_nobody():
    """A sum of five of whom four held nothing is one person's; one user of five clusters is one person."""
    assert alike(5, (9, 3), (9, 3)).told
    assert not alike(4, (9, 3), (9, 3)).told
    gone = [change((9, 3), (0, 0), f"gone{n}") for n in range(4)]
    assert not Group((*gone, change((9, 3), (9, 3))), 0).told
    assert not Group((change((9, 3), (9, 3)),) * 5, 0).told
    four_gone = Group((*gone, *alike(5, (9, 3), (9, 3)).people), 0)
    assert (four_gone.told, four_gone.gone) == (True, None)
    assert Group((*gone, change((9, 3), (0, 0), "gone4")), 0).gone == 5


@given(
    st.lists(
        st.tuples(*[st.floats(0, 1e6, allow_subnormal=False)] * 4).map(
            lambda four: Change(
                "a",
                Use(*[max(four[:2])] * 2, min(four[:2]), four[0]),
                Use(*[max(four[2:])] * 2, min(four[2:]), four[1]),
            )
        ),
        max_size=4,
    )
)
def test_any_figures_give_figures_or_none(people):
    """No division by what is not there, whatever people did."""
    group = Group(tuple(people), 0)
    assert not group.told
    found = cohorts._effect(people, people)
    assert all(value is None or math.isfinite(value) for value in found.values())
    if found["idle_s"] is not None:
        assert found["idle_s"] == pytest.approx(0, abs=1e-6 * (1 + group.total()[1].idle_s))


# --- what is printed -------------------------------------------------------------------------------


def report(mailed, others):
    compared = others if others.told else None
    found = cohorts.response(mailed, compared) if mailed.told else None
    return responseview.Report(20_000, 28, 90, mailed, others, found)


MANY = alike(10, (100, 50, 40), (90, 20, 44), outside=2)
OTHERS = alike(12, (200, 100, 80), (160, 60, 72), outside=1)
FEW = alike(4, (123, 45, 67), (89, 10, 11))


def test_the_table():
    """Both groups side by side, and what mails did in one sentence a figure."""
    text = responseview.as_text(report(MANY, OTHERS), 100)
    assert max(map(len, text.splitlines())) <= 100
    assert "Mails since 2024-10-04 (UTC). 28 days before and after" in text
    rows = {row[:24].strip(): row[24:].split() for row in text.splitlines()}
    assert rows["people"] == ["12", "10"]
    assert rows["held no GPU after"] == ["0", "0"]
    assert rows["unused of held"] == ["50.0", "->", "37.5", "%", "50.0", "->", "22.2", "%"]
    assert rows["unused"] == ["1200", "->", "720", "500", "->", "200"]
    said = [" ".join(row.split()) for row in text.splitlines()]
    assert "unused -100 GPU hours (95 %: -100 to -100)" in said
    assert "rebound +200 % of what no longer stands unused is used (95 %: +200 to +200)" in said
    assert (
        "Left out of the mailed: 2, whose windows are not all within the time, or not measured."
        in said
    )
    assert "season" in text


def test_two_reports_that_differ_by_a_person_do_not_tell_of_them():
    """Three digits are told: one person among many is below the last."""
    one = [
        json.loads(responseview.as_json(report(alike(count, (9.131, 3), (9.131, 3)), OTHERS)))
        for count in (200, 201)
    ]
    assert [found["mailed"]["before"]["held_gpu_hours"] for found in one] == [1830, 1840]


@pytest.mark.parametrize(("mailed", "others"), [(FEW, OTHERS), (MANY, FEW), (FEW, FEW)])
def test_of_a_few_nothing_is_told(mailed, others):
    """Their sum, with what one of them knows, would tell of the others."""
    for form in (responseview.as_text, responseview.as_json):
        text = form(report(mailed, others))
        assert "fewer" in text
        for figure in ("123", "492", "180", "356", "268", "98"):  # one's, and the four's
            assert figure not in text
    if mailed is MANY:
        assert "this cannot be told from what would have happened" in " ".join(
            responseview.as_text(report(mailed, others)).split()
        )
    else:
        assert json.loads(responseview.as_json(report(mailed, others)))["response"] is None


# --- flags -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "why"), [
    (["--window=3d"], "--window 3d is not whole days from 7d to 90d"),
    (["--window=10h"], "--window 10h is not whole days"),
    (["--window=soon"], "is not a duration such as"),
    (["--from=yesterday"], "'yesterday' is not a time such as"),
    (["--from=2026-03-01", "--to=2026-02-01"], "--from 2026-03-01 is not days before --to"),
    (["--mails-since=now"], "--mails-since now is not between --from -90d and --to now"),
    (["--mails-since=-91d"], "whose alert is the first one would not be known"),
    (["--prometheus=ftp://x"], "not a URL such as"),
])  # fmt: skip
def test_wrong_flags(capsys, flags, why):
    """One line, and how to mend it."""
    base = ["alerts", "response", "--prometheus=http://127.0.0.1:9", "--from=-90d", "--mails-since=-30d"]  # fmt: skip
    assert main([*base, *flags]) != 0
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


# --- a real Prometheus -----------------------------------------------------------------------------

FIRST_DAY = 20_400


def history_lines():
    """
    Thirty-two days. Alerts of six fire on the 8th before mails began on the 16th, of six others on the 17th.

    All hold two GPUs for an hour a day; half of it stands unused, after a mail a quarter.
    """
    metrics: dict[str, list[str]] = {}

    def put(name, labels, value, at):
        metrics.setdefault(name, []).append(line(name, {"cluster": "alpha", **labels}, value, at))

    for day in range(32):
        begin = (FIRST_DAY + day) * DAY_S
        for step in range(288):
            put("jobwatt:node_power_watts:sum", {"instance": "n1"}, 1000.0, begin + 300 * step)
        for number in range(12):
            user, alert = f"person{number}", 8 if number < 6 else 17
            idle = 0.5 if number < 6 or day <= alert else 0.25
            for step in range(100, 112):
                at = begin + 300 * step - 60  # so that the next step does not see it again
                for name, value in (
                    ("gpu_allocated_seconds", 2.0), ("gpu_known_seconds", 2.0),
                    ("gpu_idle_seconds", 2.0 * idle), ("energy_joules", 500.0),
                ):  # fmt: skip
                    put(f"jobwatt:user_{name}:rate5m", {"user": user}, value, at)
            if day in (alert, alert + 1):
                labels = {
                    "alertname": "JobwattGPUIdle", "alertstate": "firing", "audience": "user",
                    "user": user, "jobid": f"{number}",
                }  # fmt: skip
                if number % 2:  # as before it was recorded
                    put("ALERTS", labels, 1.0, begin + 40_000)
                else:
                    put("jobwatt:user_alerts_firing:count", {"user": user}, 1.0, begin + 40_000)
    for name, lines in metrics.items():
        yield f"# TYPE {name} gauge\n"
        yield from lines


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_against_prometheus(tmp_path, capsys):
    """The recorded series and the alerts of a month become the two groups, to the second and the joule."""
    with past(tmp_path / "prometheus", history_lines()) as prometheus:
        args = ["alerts", "response", f"--prometheus=http://127.0.0.1:{prometheus.port}",
                f"--from={FIRST_DAY * DAY_S}", f"--to={(FIRST_DAY + 32) * DAY_S}",
                f"--mails-since={(FIRST_DAY + 16) * DAY_S}", "--window=7d"]  # fmt: skip
        assert main([*args, "--json"]) == 0
        printed = capsys.readouterr().out
        assert main(args) == 0
        text = capsys.readouterr().out
        assert main([*args, "--from=2020-01-01", "--to=2020-03-01", "--mails-since=2020-02-01"]) == 1  # fmt: skip
        assert "are recording.yaml's rules loaded" in capsys.readouterr().err
    assert "person" not in printed
    assert "person0" not in text
    found = json.loads(printed)
    same = {"unused_ratio": 0.5, "held_gpu_hours": 12.0, "used_gpu_hours": 6.0, "unused_gpu_hours": 6.0, "kwh": 3.0}  # fmt: skip
    assert found["not_mailed"] == {
        "people": 6,
        "gone": 0,
        "outside": 0,
        "before": same,
        "after": same,
    }
    less = {**same, "unused_ratio": 0.25, "used_gpu_hours": 9.0, "unused_gpu_hours": 3.0}
    assert found["mailed"] == {"people": 6, "gone": 0, "outside": 0, "before": same, "after": less}
    assert found["response"]["unused_ratio"] == {"value": -0.25, "low": None, "high": None}
    assert found["response"]["unused_gpu_hours"]["value"] == -3.0
    assert found["response"]["rebound_ratio"]["value"] == 1.0
    assert found["response"]["kwh"]["value"] == 0.0


def test_days_are_cut_where_prometheus_tiles_them():
    """288 steps of five minutes, none of them of two days."""
    last = (FIRST_DAY + 1) * DAY_S - 1
    steps = [at for at in range(last - DAY_S, last + 1) if at % 300 == 0]
    assert len(steps) == 288
    assert math.ceil(0.95 * 288) == response._MOST
    assert {at // DAY_S for at in steps} == {FIRST_DAY}
