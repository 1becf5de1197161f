"""Who would have been mailed: rules written out, Prometheus's and Alertmanager's ways played through, and a real server asked."""

from __future__ import annotations

import argparse
import http.server
import json
import subprocess
import threading
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill import line, past
from jobwatt.alerts import asking, files, inline, promapi, replay, replayview, site
from jobwatt.alerts import rules as site_rules
from jobwatt.alerts.inline import RuleError
from jobwatt.alerts.simulate import Firing, Schedule, Timing, mails, spells
from jobwatt.metrics import CATALOGUE, Type
from prom import free_port

HOUR, DAY, MIN = 3600, 86_400, 60
PARIS = ZoneInfo("Europe/Paris")
ORDER = ("Never", "Idle", "Low")


def unix(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


# --- rules written out ---------------------------------------------------------------------------

RULES = """
groups:
  - name: site
    rules:
      - {record: "jobwatt:threshold:idle", expr: "vector(3600)"}
      - {record: "jobwatt:mail_hours:bool", expr: "vector(1)"}
  - name: jobs
    rules:
      - record: jobwatt:job_running:info
        expr: |
          # a job that has ended is not running
          max by (cluster, jobid, user, account, partition) (jobwatt_job_info{user!=""}
            unless on (cluster, instance, jobid) jobwatt_job_end_time_seconds)
      - record: jobwatt:job_eligible:info
        expr: jobwatt:job_running:info and on () (jobwatt:mail_hours:bool == 1)
      - record: jobwatt:job_gpu_idle_for:seconds
        expr: |
          3600 * ((jobwatt_job_gpu_idle_seconds_total - jobwatt_job_gpu_idle_seconds_total offset 1h) >= bool 3420) > 0
      - record: jobwatt:job_gpus_idle:count
        expr: count by (cluster, jobid) (jobwatt:job_gpu_idle_for:seconds >= scalar(jobwatt:threshold:idle))
  - name: user
    rules:
      - alert: JobwattGPUIdle
        expr: jobwatt:job_eligible:info and on (cluster, jobid) jobwatt:job_gpus_idle:count
        for: 5m
        keep_firing_for: 15m
        labels: {audience: user, severity: info}
      - alert: JobwattSourceFailing
        expr: jobwatt_source_up == 0
        labels: {audience: ops, severity: warning}
"""


def rules(text=RULES):
    return inline.read({"rules.yaml": text})


def one(expr, *more):
    """A rule file of some recorded series and one alert."""
    records = [{"record": name, "expr": text} for name, text in more]
    alert = {"alert": "A", "expr": expr}
    return yaml.safe_dump({"groups": [{"name": "g", "rules": [*records, alert]}]})


def test_an_expression_is_written_out_over_raw_metrics():
    """No recorded name is left, and nothing else is changed."""
    found = inline.expand(
        "jobwatt:a:b + x", {"jobwatt:a:b": "y * jobwatt:c:d", "jobwatt:c:d": "z  # why\n"}
    )
    assert found == "(y * (z)) + x"
    alert = rules().user_alerts()[0]
    written = inline.expand(alert.expr, rules().records)
    assert "jobwatt:" not in written
    assert "#" not in written
    assert inline.metrics(rules(), [alert.expr]) == {
        "jobwatt_job_info",
        "jobwatt_job_end_time_seconds",
        "jobwatt_job_gpu_idle_seconds_total",
    }


def test_names_in_strings_labels_and_numbers_are_no_names():
    """A recorded name in a string or a comment is text; 5m and 1e3 are numbers."""
    records = {"jobwatt:a:b": "1", "m": "2", "e3": "3"}
    for expr in (
        'x{l="jobwatt:a:b"}',
        "x{l='m'}",
        "x{l=`m`}",
        r'x{l="\"m"}',
        "x[5m]",
        "1e3",
        "x offset 5m",
    ):
        assert inline.expand(expr, records) == expr
    assert inline.expand("x # m\n+ m", records).split() == ["x", "+", "(2)"]


def test_a_series_that_the_site_does_not_set_is_empty():
    """jobwatt:site_... may be left out of site.yaml."""
    inline.read({"r.yaml": one("x * on () jobwatt:site_pue:ratio")})
    assert inline.expand("jobwatt:site_pue:ratio", {}) == "(vector(1) < 0)"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (one('jobwatt:a:b{user="x"}', ("jobwatt:a:b", "y")), "{ on jobwatt:a:b"),
        (one("jobwatt:a:b offset 5m", ("jobwatt:a:b", "y")), "offset on jobwatt:a:b"),
        (one("rate(jobwatt:a:b[5m])", ("jobwatt:a:b", "y")), "[5m] on jobwatt:a:b"),
        (one("jobwatt:a:b  # bare?\n @ 5", ("jobwatt:a:b", "y")), "@ on jobwatt:a:b"),
        (one('{__name__="jobwatt:a:b"}', ("jobwatt:a:b", "y")), "used by a matcher"),
        (one("jobwatt:a:typo"), "recorded nowhere"),
        (one("x", ("jobwatt:a:b", "y"), ("jobwatt:a:b", "z")), "recorded twice"),
        ("groups: [{name: g, rules: [{record: r, expr: x, labels: {a: b}}]}]", "may add no labels"),
        ("groups: [{name: g, rules: [{expr: x}]}]", "neither a recording rule nor an alert"),
        ("groups: [{name: g, rules: [{alert: A, expr: x, for: 5 minutes}]}]", "not a duration"),
        ("groups: 5", "not a rule file"),
        ("{", "not YAML"),
        ("groups: [{name: g, rules: [{alert: A, expr: x, labels: {audience: user, a: '{{ b }}'}}]}]", "template"),
    ],
)  # fmt: skip
def test_what_breaks_the_inlining_rule_is_refused(text, why):
    """Recorded series are used bare; one line says which is not."""
    with pytest.raises(RuleError) as said:
        inline.read({"r.yaml": text})
    assert why in str(said.value)
    assert "\n" not in str(said.value)


def test_a_subquery_on_a_recorded_series_is_allowed():
    """sum_over_time(name[7d:5m]) keeps its meaning."""
    inline.read({"r.yaml": one("sum_over_time(jobwatt:a:b[7d:5m])", ("jobwatt:a:b", "y"))})
    assert (
        inline.expand("sum_over_time(jobwatt:a:b[7d:5m])", {"jobwatt:a:b": "y"})
        == "sum_over_time((y)[7d:5m])"
    )


def test_a_cycle_is_refused():
    """A series recorded by way of itself has no expression."""
    records = {"jobwatt:a:b": "jobwatt:c:d", "jobwatt:c:d": "1 + jobwatt:a:b"}
    with pytest.raises(RuleError, match="jobwatt:a:b -> jobwatt:c:d"):
        inline.expand("jobwatt:a:b", records)


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


def firing(alert, user, jobid, *when, cluster=""):
    labels = {"user": user, "jobid": jobid, "cluster": cluster}
    return Firing(alert, tuple(sorted(labels.items())), tuple(when))


def sent(firings, *, is_open=lambda _: True, until=2e9, timing=None):
    return mails(firings, timing or Timing(), ORDER, is_open, until)


def about(mail):
    return [(told.labels["jobid"], told.alert) for told in mail.told]


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


# --- the command's arguments and words -----------------------------------------------------------

NOW = unix("2026-11-24T12:00:00")


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


# --- a server that is not what one would like ----------------------------------------------------


@contextmanager
def answering(status, body, kind="application/json", seen=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            length = int(self.headers.get("Content-Length", 0))
            if seen is not None:
                seen.append(
                    (self.command, self.path, dict(self.headers), self.rfile.read(length).decode())
                )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header(
                    "Location", f"http://127.0.0.1:{self.server.server_address[1]}/stolen"
                )
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  http.server's name

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


EMPTY = b'{"status":"success","data":{"resultType":"vector","result":[]}}'


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (401, b"Unauthorized", "401 Unauthorized"),
        (502, b"<html>", "502 Bad Gateway"),
        (200, b"<html>", "its answer is not a Prometheus's"),
        (200, b'{"status":"success","data":5}', "neither a vector nor a matrix"),
        (302, b"", "302 Found"),
        (400, b'{"status":"error","errorType":"bad_data","error":"parse error:\\n at char 5"}', "parse error: at char 5"),
    ],
)  # fmt: skip
def test_what_a_server_says_is_one_line(status, body, why):
    """A proxy, a login page, a refusal: one line, the server's own words where it has any."""
    with answering(status, body) as url, pytest.raises(promapi.PrometheusError) as said:
        promapi.Prometheus(url).query("up", NOW)
    assert why in str(said.value)
    assert "\n" not in str(said.value)


def test_nobody_there():
    """A refused connection names the server."""
    with pytest.raises(
        promapi.PrometheusError, match=r"http://127.0.0.1:\d+: cannot be reached .*refused"
    ):
        promapi.Prometheus(f"http://127.0.0.1:{free_port()}").query("up", NOW)


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "ftp://x", "file:///etc/passwd", "http://a:b@c"]
)
def test_urls_that_are_refused(url):
    """Only http(s), and no password on the command line."""
    with pytest.raises(promapi.PrometheusError):
        promapi.Prometheus(url)


@pytest.mark.slow
def test_credentials_come_from_files_and_go_nowhere_else(tmp_path):
    """Basic and bearer reach the server; a redirect does not carry them on."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    seen = []
    with answering(200, EMPTY, seen=seen) as url:
        promapi.Prometheus(url, promapi.Access("me", secret)).query("up", NOW)
        promapi.Prometheus(url, promapi.Access(bearer_token_file=secret)).query("up", NOW)
    assert [headers["Authorization"] for _, _, headers, _ in seen] == [
        "Basic bWU6czNjcmV0",
        "Bearer s3cret",
    ]
    seen.clear()
    with answering(302, b"", seen=seen) as url, pytest.raises(promapi.PrometheusError):
        promapi.Prometheus(url, promapi.Access("me", secret)).query("up", NOW)
    assert len(seen) == 1
    with pytest.raises(promapi.PrometheusError, match="cannot be read"):
        promapi.Prometheus("http://x", promapi.Access("me", tmp_path / "none"))


def test_long_queries_are_posted():
    """A URL has its limits in proxies; a body has not."""
    seen = []
    with answering(200, EMPTY, seen=seen) as url:
        server = promapi.Prometheus(url)
        server.query("up", NOW)
        server.query("up + " * 1000 + "up", NOW)
    assert [(command, "up" in body) for command, _, _, body in seen] == [
        ("GET", False),
        ("POST", True),
    ]


# --- a real Prometheus ---------------------------------------------------------------------------

BEGIN = unix("2026-03-02T00:00:00")  # a Monday
SCRAPE = 5 * MIN


def node(instance, jobid, user, idle, *, cluster="c1", gpus=1):
    """Lines of a job with GPUs over a week: ``idle(t)`` says whether they are unused at t; None: no job."""
    job = {"cluster": cluster, "instance": instance, "jobid": jobid, "user": user}
    job |= {"account": "lab", "partition": "gpu"}
    idle_s = 0
    for at in range(int(BEGIN), int(BEGIN + 7 * DAY), SCRAPE):
        now = idle(at)
        if now is None:
            continue
        idle_s += SCRAPE if now else 0
        yield line("jobwatt_job_info", job | {"name": "x"}, 1.0, at)
        for gpu in range(gpus):
            labels = job | {"gpu": gpu, "uuid": f"GPU-{instance}-{gpu}"}
            yield line("jobwatt_job_gpu_idle_seconds_total", labels, float(idle_s), at)
            yield line("jobwatt_job_gpu_idle_energy_joules_total", labels, 100.0 * idle_s, at)


def up(instance):
    for at in range(int(BEGIN), int(BEGIN + 7 * DAY), SCRAPE):
        yield line("jobwatt_snapshot_timestamp_seconds", {"instance": instance}, float(at), at)


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
    yield from up("gpu01")
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


# --- written out, a recorded series is what was recorded -----------------------------------------

SERIES = """
jobwatt_job_info{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",name="x",qos="q"}|1x200
jobwatt_job_info{cluster="c1",instance="n1",jobid="2",user="bob",account="a",partition="p",name="y",qos="q"}|1x200
jobwatt_job_end_time_seconds{cluster="c1",instance="n1",jobid="2",user="bob",account="a",partition="p"}|5x200
jobwatt_job_gpu_idle_seconds_total{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",gpu="0",uuid="G0"}|0+60x200
jobwatt_job_gpu_idle_seconds_total{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",gpu="1",uuid="G1"}|0x200
"""


def same(files, records, folder, series, at="152m", order=()):
    """Have promtool record every series and compare it with what it stands for; returns what it says."""
    for name, text in files.items():
        (folder / name).write_text(text)
    checks = []
    for name in records:
        written = inline.expand(name, records)
        differs = f"({name} unless {written}) or ({written} unless {name}) or ({name} != {written})"
        checks.append({"expr": differs, "eval_time": at, "exp_samples": []})
    inputs = [
        dict(zip(("series", "values"), row.split("|"), strict=True))
        for row in series.split("\n")
        if row
    ]
    test = {"rule_files": list(files), "evaluation_interval": "1m", "group_eval_order": list(order)}
    test["tests"] = [{"interval": "1m", "input_series": inputs, "promql_expr_test": checks}]
    return promtool(test, folder)


def promtool(test, folder):
    (folder / "test.yaml").write_text(yaml.safe_dump(test))
    argv = ["promtool", "test", "rules", "test.yaml"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr) if done.returncode else ""


def group(records):
    written = [{"record": name, "expr": expr} for name, expr in records.items()]
    return {
        "rules.yaml": yaml.safe_dump(
            {"groups": [{"name": "g", "interval": "1m", "rules": written}]}
        )
    }


@pytest.mark.prometheus
def test_what_is_written_out_equals_what_is_recorded(tmp_path):
    """Prometheus itself records each series beside its expansion: same labels, same values."""
    assert not same(group(rules().records), rules().records, tmp_path, SERIES)
    late = {
        "jobwatt:a:b": "jobwatt:c:d",
        "jobwatt:c:d": "vector(time())",
    }  # recorded in the wrong order
    assert "got:" in same(group(late), late, tmp_path, SERIES), "the comparison sees a difference"


# --- the shipped rules ---------------------------------------------------------------------------

VALUES = {
    "component": ("cpu", "gpu"),
    "reason": ("hw_thermal",),
    "source": ("nvml",),
    "step": ("gap",),
    "kind": ("uncorrected",),
    "cause": ("uncorrected",),
    "state": ("FAILED",),
    "exit_code": ("1:0",),
}
PER_MINUTE = {
    "idle_seconds": 60,
    "allocated_seconds": 60,
    "utilization_seconds": 30,
    "cpu_seconds": 90,
    "joules": 6000,
}
GAUGES = {
    "limit_time_seconds": 20_000,
    "cpus": 64,
    "memory_limit_bytes": 2**38,
    "memory_total_bytes": 2**39,
    "bytes": 2**34,
}


def cluster():
    """Every metric of the catalogue over 200 minutes: a node with three jobs, of which one has failed."""
    yield 'up{cluster="c1",instance="n1",job="jobwatt"}|1x200'
    for metric in CATALOGUE.values():
        for job in (1, 2, 3) if "jobid" in metric.labels else (0,):
            if (
                metric.name in {"jobwatt_job_end_time_seconds", "jobwatt_job_exit_info"}
                and job != 3
            ):
                continue
            known = {
                "cluster": "c1",
                "instance": "n1",
                "jobid": job,
                "user": f"u{job}",
                "account": "a",
                "partition": "p",
            }
            known |= {"gpu": job, "uuid": f"GPU-{job}", "mig_profile": ""}
            labels = {name: known.get(name, VALUES.get(name, ("x",))[0]) for name in metric.labels}
            pairs = ",".join(
                f'{name}="{text}"'
                for name, text in {"cluster": "c1", "instance": "n1", **labels}.items()
            )
            yield f"{metric.name}{{{pairs}}}|{behaviour(metric, job)}"


def behaviour(metric, job):
    name = metric.name
    if name == "jobwatt_snapshot_timestamp_seconds":
        return "0+60x200"
    if name.endswith(("start_time_seconds", "end_time_seconds")):
        return "0x200" if "start" in name else "100x200"
    if "_idle_" in name and job == 2:
        return "0x200"
    if metric.type is Type.COUNTER:
        return f"0+{next((rate for part, rate in PER_MINUTE.items() if part in name), 0)}x200"
    return f"{next((value for part, value in GAUGES.items() if name.endswith(part)), 1)}x200"


@pytest.fixture(scope="module")
def shipped():
    return site_rules.texts(site.read(files.root() / "site.toml"))


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_shipped_series_are_what_they_stand_for(tmp_path, shipped):
    """Each recorded series of the shipped files equals its expansion; most of them have something to say."""
    found = inline.read(shipped)
    order = [
        "jobwatt-site",
        "jobwatt-jobs",
        "jobwatt-aggregates",
        "jobwatt-usage",
        "jobwatt-weeks",
    ]
    series = "\n".join(cluster())
    assert not same(shipped, found.records, tmp_path, series, order=order)
    test = yaml.safe_load((tmp_path / "test.yaml").read_text())
    for check, name in zip(test["tests"][0]["promql_expr_test"], found.records, strict=True):
        check["expr"] = name
    empty = len(found.records) - promtool(test, tmp_path).count("got:")
    print(f"{empty} of {len(found.records)} recorded series are empty here")
    assert empty < len(found.records) / 4


def test_shipped_user_alerts_need_raw_metrics_of_the_catalogue_only(shipped):
    """What a replay asks for, every exporter exports."""
    found = inline.read(shipped)
    exprs = [alert.expr for alert in found.user_alerts()]
    assert len(exprs) >= 10
    assert inline.metrics(found, exprs) <= set(CATALOGUE)
    assert not inline.metrics(found, exprs, "jobwatt:")


def test_the_replay_does_what_alertmanager_is_told(shipped):
    """Its timing and its order of precedence are those of alertmanager.yml."""
    config = yaml.safe_load(files.alertmanager()["alertmanager.yml"])
    route = next(one for one in config["route"]["routes"] if one["receiver"] == "users")
    timing = Timing()
    assert inline.seconds(route["group_wait"]) == timing.group_wait_s
    assert inline.seconds(route["group_interval"]) == timing.group_interval_s
    assert inline.seconds(route["repeat_interval"]) == timing.repeat_interval_s
    assert tuple(route["group_by"]) == timing.group_by
    order = [alert.name for alert in inline.read(shipped).user_alerts()]
    told = {}
    for rule in config["inhibit_rules"]:
        source = rule["source_matchers"][0].split('"')[1]
        if source in order:
            assert tuple(rule["equal"]) == timing.inhibit_equal
            told[source] = set(rule["target_matchers"][0].split('"')[1].split("|"))
    of_jobs = [name for name in order if name != "JobwattShortFailingJobs"]
    assert told == {name: set(of_jobs[at + 1 :]) for at, name in enumerate(of_jobs[:-1])}


@pytest.mark.prometheus
@pytest.mark.slow
def test_the_command_from_end_to_end(remembered, capsys):
    """The shipped rules over the week: a table, and the same as JSON."""
    flags = ["--from", str(int(SPAN.start)), "--to", str(int(SPAN.end)), "--prometheus", remembered]
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    assert replay.run(parser.parse_args(flags)) == 0
    assert "UTC" in capsys.readouterr().out
    assert replay.run(parser.parse_args([*flags, "--json"])) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        "from",
        "to",
        "step_seconds",
        "timezone",
        "mails",
        "summary",
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
