"""Who would have been mailed: the command's arguments and words, and a real Prometheus asked."""

from __future__ import annotations

import argparse
import json
import re
from datetime import UTC

import pytest

from backfill import line, past
from jobwatt.alerts import asking, inline, promapi, replay, replayview
from jobwatt.alerts.simulate import Schedule
from replaykit import DAY, HOUR, MIN, NOW, ORDER, PARIS, RULES, about, firing, rules, unix

# --- the command's arguments and words -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("now", NOW),
        ("-7d", NOW - 7 * DAY),
        ("now-1h30m", NOW - 5400),
        ("1764000000", 1_764_000_000),
        ("2026-11-23T08:00:00Z", unix("2026-11-23T08:00:00")),
        ("2026-11-23T08:00:00+01:00", unix("2026-11-23T07:00:00")),
        ("2026-11-23 08:00", unix("2026-11-23T07:00:00")),  # the site's clock
    ],
)
def test_moments(text, at):
    """RFC 3339, Unix, relative."""
    assert asking.moment(text, NOW, PARIS) == at


@pytest.mark.parametrize(
    "text", ["yesterday", "", "-7", "7 d", "2026-13-01", "nan", "99999999999999"]
)
def test_what_is_no_moment(text):
    """One line says what is."""
    with pytest.raises(asking.TimeError, match="is not a time such as"):
        asking.moment(text, NOW, PARIS)


def arguments(*argv):
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return parser.parse_args(["--prometheus", "http://127.0.0.1:9", *argv])


def test_relative_times_need_no_equals_sign():
    """--from -7d, as one would write it."""
    args = arguments("--from", "-7d", "--to", "-1h30m")
    assert (args.start, args.end) == ("-7d", "-1h30m")


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--from", "now", "--to", "-1d"], "--from now is not before --to -1d"),
        (["--from", "-1d", "--step", "5s"], "--step 5s is not between 15s and 30m"),
        (["--from", "-1m", "--to", "now", "--step", "30m"], "is shorter than --step 30m"),
    ],
)
def test_a_span_that_makes_no_sense(argv, why):
    """Named by its flags."""
    with pytest.raises(replay.ReplayError, match=why):
        replay._span(arguments(*argv), UTC)


def test_odd_names_do_not_reach_the_terminal():
    """A user name with control characters is shown, not obeyed; JSON keeps it as it is."""
    line = replayview.Line(
        "JobwattGPUIdle",
        "e\x1b[2Jvil\n",
        "7",
        "a",
        "p",
        NOW,
        replayview.Waste(("gpu01",), 1, 3600, 3.6e6),
    )
    report = replayview.Report(
        NOW, NOW + DAY, 300, UTC, (replayview.MailView(NOW, "", "e\x1b[2Jvil\n", (line,)),)
    )
    text = replayview.as_text(report)
    assert "\x1b" not in text
    assert "e?[2Jvil?" in text
    assert json.loads(replayview.as_json(report))["mails"][0]["user"] == "e\x1b[2Jvil\n"
    assert max(map(len, replayview.as_text(report, 80).splitlines())) <= 80


# --- a real Prometheus ---------------------------------------------------------------------------

BEGIN = unix("2026-03-02T00:00:00")  # a Monday
SCRAPE = 5 * MIN


def node(instance, jobid, user, idle, *, cluster="c1", gpus=1):
    """Lines of a job with GPUs over a week: ``idle(t)`` says whether they are unused at t; None: no job."""
    job = {"cluster": cluster, "instance": instance, "jobid": jobid, "user": user}
    job |= {"account": "lab", "partition": "gpu"}
    held_s = idle_s = 0
    for at in range(int(BEGIN), int(BEGIN + 7 * DAY), SCRAPE):
        now = idle(at)
        if now is None:
            continue
        held_s += SCRAPE
        idle_s += SCRAPE if now else 0
        yield line("jobwatt_job_info", job | {"name": "x"}, 1.0, at)
        for gpu in range(gpus):
            labels = job | {"gpu": gpu, "uuid": f"GPU-{instance}-{gpu}"}
            yield line("jobwatt_job_gpu_allocated_seconds_total", labels, float(held_s), at)
            yield line("jobwatt_job_gpu_idle_seconds_total", labels, float(idle_s), at)
            yield line("jobwatt_job_gpu_idle_energy_joules_total", labels, 100.0 * idle_s, at)


def up(instance):
    for at in range(int(BEGIN), int(BEGIN + 7 * DAY), SCRAPE):
        labels = {"cluster": "c1", "instance": instance}
        yield line("jobwatt_snapshot_timestamp_seconds", labels, float(at), at)


def between(*spans, there=(0, 7 * DAY)):
    """Idle in these spans (seconds after BEGIN), there in ``there``."""

    def idle(at):
        since = at - BEGIN
        if not there[0] <= since < there[1]:
            return None
        return any(a < since <= b for a, b in spans)

    return idle


def week():
    monday, tuesday, thursday = 0, DAY, 3 * DAY
    for number in range(1, 7):
        yield from up(f"gpu0{number}")
    # ann: two GPUs idle from Monday 10:00 to Wednesday 12:00, one mail a day
    yield from node("gpu01", "1", "ann", between((monday + 10 * HOUR, 2 * DAY + 12 * HOUR)), gpus=2)
    # her second job, idle from Tuesday 14:00 on: in the mail of Wednesday, and then for itself
    yield from node(
        "gpu02", "2", "ann", between((tuesday + 14 * HOUR, 3 * DAY), there=(0, 3 * DAY))
    )
    # bob: always busy
    yield from node("gpu03", "3", "bob", between())
    # cyd: busy with pauses of 50 minutes
    pauses = [(hour * HOUR, hour * HOUR + 50 * MIN) for hour in range(0, 160, 2)]
    yield from node("gpu04", "4", "cyd", between(*pauses))
    # dan: on two nodes, idle on Thursday from 08:00; the job ends at 20:00
    for instance in ("gpu05", "gpu06"):
        idle = between((thursday + 8 * HOUR, 4 * DAY), there=(thursday, thursday + 20 * HOUR))
        yield from node(instance, "5", "dan", idle)


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    with past(tmp_path_factory.mktemp("past"), week()) as prometheus:
        yield f"http://127.0.0.1:{prometheus.port}"


SPAN = replay.Span(BEGIN + HOUR, BEGIN + 7 * DAY, 300)


@pytest.mark.prometheus
def test_a_week_is_told_as_it_was(remembered):
    """Who, when, and about what, from raw metrics alone; figures are those put in."""
    server = promapi.Prometheus(remembered)
    found = replay.replay(server, replay.Setting(rules()), SPAN)
    # idle for an hour, `for` 5 minutes, group_wait 10 minutes
    told = [
        (mail.at - BEGIN, mail.group["user"], [job for job, _ in about(mail)]) for mail in found
    ]
    first = 11 * HOUR + 15 * MIN
    assert told == [
        (first, "ann", ["1"]),
        (first + DAY, "ann", ["1"]),
        (first + 2 * DAY, "ann", ["1", "2"]),
        (3 * DAY + 9 * HOUR + 15 * MIN, "dan", ["5"]),
    ]
    shown = list(replay.view(server, found, pue=1.5))
    dan = shown[-1].lines[0]
    assert (dan.account, dan.partition, dan.waste.nodes, dan.waste.gpus) == (
        "lab",
        "gpu",
        ("gpu05", "gpu06"),
        2,
    )
    assert dan.waste.gpu_hours == pytest.approx(2 * 1.25)
    assert dan.waste.kwh == pytest.approx(1.5 * 100 * 2 * 1.25 / 1000)
    assert shown[0].lines[0].waste.gpu_hours == pytest.approx(2 * 1.25)


@pytest.mark.prometheus
def test_hours_of_the_site_and_one_user(remembered):
    """Muted mails wait whole days; --user shows one user's."""
    server = promapi.Prometheus(remembered)
    afternoon = replay.Setting(rules(), Schedule(UTC, (12 * 60, 18 * 60)))
    assert replay.replay(server, afternoon, SPAN) == []
    morning = replay.Setting(rules(), Schedule(UTC, (9 * 60, 12 * 60), frozenset(range(1, 7))))
    assert [mail.group["user"] for mail in replay.replay(server, morning, SPAN)] == [
        "ann",
        "ann",
        "dan",
    ]
    (mail,) = replay.replay(server, morning, SPAN, "dan")
    assert mail.group["user"] == "dan"


@pytest.mark.prometheus
def test_chunks_do_not_change_the_answer(remembered):
    """In chunks of an hour or of 11,000 points: the same points."""
    server = promapi.Prometheus(remembered)
    expr = inline.expand(rules().user_alerts()[0].expr, rules().records)

    def points(chunk_s):
        got = {}
        for series in server.query_range(expr, SPAN.start, SPAN.end, SPAN.step, chunk_s):
            got.setdefault(series.labels["jobid"], []).extend(series.points)
        return got

    assert points(HOUR) == points(DAY) == points(1e9)
    seconds = list(server.query_range("vector(1)", BEGIN, BEGIN + 12_000, 1, 1e9))
    assert [len(series.points) for series in seconds] == [11_000, 1_001]


@pytest.mark.prometheus
def test_what_cannot_be_replayed_is_one_line(remembered):
    """No data in the range, an expression that the server refuses."""
    server = promapi.Prometheus(remembered)
    empty = replay.Span(BEGIN - 30 * DAY, BEGIN - 29 * DAY, 300)
    with pytest.raises(replay.ReplayError, match="no series of jobwatt between --from and --to"):
        replay.replay(server, replay.Setting(rules()), empty)
    broken = rules(RULES.replace("jobwatt:job_eligible:info and on", "nonsense(1) and on"))
    with pytest.raises(
        replay.ReplayError, match=r"refuses the expression of JobwattGPUIdle: .*unknown function"
    ):
        replay.replay(server, replay.Setting(broken), SPAN)


TOLD = """\
mail              user  job  alert    GPUs  idle GPU h  idle kWh  nodes
2026-03-02 11:15  ann   1    GPUIdle     2         2.5      0.25  gpu01
2026-03-03 11:15  ann   1    GPUIdle     2        50.5      5.05  gpu01
2026-03-04 11:15  ann   1    GPUIdle     2        98.5      9.85  gpu01
                        2    GPUIdle     1        21.2      2.12  gpu02
2026-03-05 09:15  dan   5    GPUIdle     2         2.5      0.25  gpu05 +1

4 mails to 2 users about 3 jobs, 2026-03-02 01:00 to 2026-03-09 00:00 (UTC)
idle by then: 122.2 GPU hours, 12.22 kWh
  JobwattGPUIdle  3
"""


def cells(mail):
    """Of each line of a mail in the JSON, what the table's row shows."""
    for at, one in enumerate(mail["lines"]):
        node, *more = one["nodes"]
        yield [
            *([] if at else [mail["at"][:16].replace("T", " "), mail["user"]]),
            one["jobid"],
            one["alert"].removeprefix("Jobwatt"),
            str(one["gpus"]),
            f"{one['idle_gpu_hours']:.1f}",
            f"{one['idle_kwh']:.2f}",
            node + (f" +{len(more)}" if more else ""),
        ]


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_command_from_end_to_end(remembered, capsys):
    """The shipped rules over the week: a table, and the same mails, jobs and figures as JSON."""
    flags = ["--from", str(int(SPAN.start)), "--to", str(int(SPAN.end)), "--prometheus", remembered]
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    assert replay.run(parser.parse_args(flags)) == 0
    assert capsys.readouterr().out == TOLD
    assert replay.run(parser.parse_args([*flags, "--json"])) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"from", "to", "step_seconds", "timezone", "mails", "summary"}
    rows = [re.split(" {2,}", row.strip()) for row in TOLD.partition("\n\n")[0].splitlines()[1:]]
    assert [row for mail in report["mails"] for row in cells(mail)] == rows
    assert report["summary"] == {
        "mails": 4,
        "users": 2,
        "jobs": 3,
        "idle_gpu_hours": 122.25,
        "idle_kwh": 12.225,
        "alerts": {"JobwattGPUIdle": 3},
    }


def test_users_without_an_address_are_told_of_to_the_operators():
    """A name that no address can be made of: one mail to the operators, none to anybody else."""
    odd = [
        firing("Idle", name, str(at), (HOUR, DAY))
        for at, name in enumerate(["a,b", "ann", "x@y"], 1)
    ]
    found = replay._mails(odd, ORDER, replay.Setting(rules(), addressed="[a-z]+"), DAY)
    assert [(mail.group.get("user"), about(mail)) for mail in found] == [
        ("ann", [("2", "Idle")]),
        (None, [("1", "Idle"), ("3", "Idle")]),
    ]
