"""
The rules: well-formed, over series that exist, portable, tested and explained.

promtool (2.42, the lower bound) and promql-parser (the upper one) both read every expression;
tests/rules/*.yaml say what each alert does.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from promqlcheck import OPTIONAL, TOO_NEW, problems

ROOT = Path(__file__).parent.parent
RULES = sorted((ROOT / "alerts/rules").glob("*.yaml"))
RUNBOOKS = ROOT / "alerts/runbooks"
TESTS = sorted((ROOT / "tests/rules").glob("*.yaml"))
SITES = sorted((ROOT / "tests/rules/site").glob("*.yaml"))
HEADINGS = ("What it means", "Why it matters", "What to do", "When it is wrong")
MAIL = {
    "summary",
    "advice",
    "nodes",
    "gpus",
    "held",
    "state",
    "wasted_gpu_hours",
    "wasted_kwh",
    "wasted_co2e",
    "wasted_cost",
    "user_week_gpu_hours",
    "user_week_kwh",
    "user_week_co2e",
    "user_week_cost",
    "command",
    "dashboard",
    "runbook_url",
}
OWN = ("summary", "advice", "state", "runbook_url")  # no two alerts share these
QUERY = re.compile(r"printf `([^`]*)` ((?:\$labels\.\w+ ?)+)\| query")


@cache
def rules(paths=tuple(RULES)):
    return [
        rule
        for path in paths
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


RECORDED = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
USER = {name: rule for name, rule in ALERTS.items() if rule["labels"]["audience"] == "user"}
by_name = pytest.mark.parametrize("name", ALERTS)


# --- expressions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("record") or rule["alert"])
def test_expression(rule):
    """Parsed by the 3.x grammar; only series and labels that exist; bare, portable, by cluster."""
    assert problems(rule["expr"], RECORDED) == []


J1 = "sum by (cluster, jobid) (jobwatt_job_power_watts)"
BAD = {
    "there is no series jobwatt_job_power_wats": "jobwatt_job_power_wats",
    "there is no series jobwatt:job_power:nonsense": "jobwatt:job_power:nonsense",
    "there is no series {...}": '{jobid="1"}',
    "a metric is named": '{__name__="jobwatt_jobs"}',
    "has no label job_id": 'jobwatt_job_power_watts{job_id="1"}',
    "by (uuid): there is no such label": "sum by (cluster, uuid) (jobwatt_job_power_watts)",
    "by (jobid): there is no such label": "sum by (cluster, jobid) (jobwatt:user_power_watts:sum)",
    "on (uuid): a side has no such label": "jobwatt_job_power_watts * on (cluster, uuid) jobwatt_gpu_up",
    "without by (cluster, ...)": "sum by (user) (jobwatt_job_power_watts)",
    "without by (cluster, ...): sum": "sum without (instance) (jobwatt_job_power_watts)",
    "on (...) without cluster": f"{J1} + on (jobid) {J1}",
    "recorded series are matched by on": f"jobwatt:job_power_watts:sum + {J1}",
    "matching names its labels by on": f"jobwatt:job_lost:info and ignoring (user) {J1}",
    "must stand bare": 'jobwatt:job_power_watts:sum{user="x"}',
    "must stand bare, not with a range": "max_over_time(jobwatt:job_power_watts:sum[1h])",
    "is recorded and must stand bare": "jobwatt:job_power_watts:sum offset 1h",
    "jobwatt:job_lost:info is recorded and must": "jobwatt:job_lost:info @ end()",
    "offset or @ on a subquery": "max_over_time(jobwatt:job_lost:info[1h:5m] offset 1h)",
    "mad_over_time is unknown": "mad_over_time(jobwatt_jobs[5m])",
    "limitk is unknown": "limitk by (cluster) (3, jobwatt_jobs)",
    "promql-parser: unknown function": "holt_winters(jobwatt_jobs[5m], 0.5, 0.5)",
    "promql-parser": "sum by (cluster) (jobwatt_jobs",
}


@pytest.mark.parametrize(("said", "expr"), BAD.items())
def test_a_bad_expression_is_refused(said, expr):
    """Each rule of this page can fail."""
    assert any(said in problem for problem in problems(expr, RECORDED))


def test_a_good_expression_is_not():
    """What the checks let pass: subqueries of recorded series, raw one-to-one, numbers."""
    good = (
        "max_over_time(jobwatt:job_power_watts:sum[7d:5m])",
        "jobwatt_job_gpu_idle_seconds_total - jobwatt_job_gpu_idle_seconds_total offset 1h > 3600",
        f"{J1} > on (cluster, jobid) group_left () {J1}",
        "1 - jobwatt:cluster_gpu_efficiency:ratio > scalar(jobwatt:threshold:idle_share_ops)",
    )
    assert [problems(expr, RECORDED) for expr in good] == [[]] * len(good)


def test_a_recording_rule_adds_no_labels():
    """Else its name could not be replaced by its expression."""
    assert [rule for rule in rules() if "record" in rule and "labels" in rule] == []


def test_series_are_recorded_once():
    """No name twice; names are level:metric:operation."""
    names = [rule["record"] for rule in rules() if "record" in rule]
    assert len(names) == len(set(names))
    assert [
        name for name in names if not re.fullmatch(r"jobwatt:[a-z0-9_]+:[a-z0-9_]+", name)
    ] == []


def test_tests_have_the_sites_series():
    """The site of the rule tests sets what the shipped one sets."""
    shipped = {rule["record"] for rule in rules((ROOT / "alerts/rules/site.yaml",))}
    assert {rule["record"] for rule in rules(tuple(SITES))} | OPTIONAL == shipped | OPTIONAL


# --- alerts ----------------------------------------------------------------------------------------


def template_problems(text):
    """What is wrong with an annotation: queries that cannot be checked or name what is not there."""
    found, queries = [], QUERY.findall(text)
    if len(queries) != len(re.findall(r"\bquery\b", text)):
        found.append("every query is: printf `...` $labels.x | query")
    for query, args in queries:
        if query.count("%q") != len(args.split()) or query.count("%") != query.count("%q"):
            found.append(f"one %q per label: {query}")
        found += problems(query.replace("%q", '"x"'), RECORDED, bare=False)
    if re.search(
        r"\$labels\.(user|account|partition|name)\b(?! ?\S*[^}]*\| (query|urlquery))", text
    ):
        found.append("a user's words stand in the text")
    return found


@by_name
def test_annotations(name):
    """Queries name what exists, with label values put in by %q; no user's words in the text."""
    for text in ALERTS[name]["annotations"].values():
        assert template_problems(text) == []


@pytest.mark.parametrize(
    "text",
    [
        '{{ query "jobwatt_jobs" }}',
        '{{ printf `jobwatt_job_info{user="%s"}` $labels.user | query }}',
        "{{ printf `jobwatt_job_info{users=%q}` $labels.user | query }}",
        "{{ printf `jobwatt_job_inf{user=%q}` $labels.user | query }}",
        "scancel -u {{ $labels.user }}",
    ],
)
def test_a_bad_annotation_is_refused(text):
    """The check of annotations can fail."""
    assert template_problems(text) != []


@by_name
def test_labels(name):
    """An audience and a severity, in plain text; users hear, operators are warned."""
    labels = ALERTS[name]["labels"]
    assert set(labels) == {"audience", "severity"}
    assert (
        labels["severity"]
        in {"user": ("info",), "ops": ("warning", "critical")}[labels["audience"]]
    )


@pytest.mark.parametrize("name", USER)
def test_a_mail_is_complete(name):
    """Every user alert has all that the mail shows, and says in its own words what it is about."""
    rule = USER[name]
    assert set(rule["annotations"]) == MAIL
    assert (rule["for"], rule["keep_firing_for"]) == ("5m", "15m")
    others = [other["annotations"] for other in USER.values() if other is not rule]
    shared = {key for key in OWN for other in others if other[key] == rule["annotations"][key]}
    shared -= {"state"}  # simply idle is said twice
    assert shared == set()


def untold(alerts, runbooks):
    """Alerts without a complete runbook of their own, and runbooks without an alert."""
    found = [path.stem for path in runbooks.glob("*.md") if path.stem not in alerts]
    for name, rule in alerts.items():
        path = runbooks / f"{name}.md"
        text = path.read_text() if path.exists() else ""
        linked = rule["annotations"].get("runbook_url") == f"alerts/runbooks/{name}.md"
        if not linked or not all(f"## {heading}\n" in text for heading in HEADINGS):
            found.append(name)
    return found


def test_every_alert_has_a_runbook(tmp_path):
    """Linked, with its four parts; one without fails."""
    assert untold(ALERTS, RUNBOOKS) == []
    assert set(untold(ALERTS, tmp_path)) == set(ALERTS)


def untested(alerts, tests):
    """Alerts of which no test says that they fire, with what text, or that they do not."""
    fired, silent = set(), set()
    for test in tests:
        for case in (case for group in test["tests"] for case in group.get("alert_rule_test", [])):
            (fired if case.get("exp_alerts") else silent).add(case["alertname"])
            assert all(alert["exp_annotations"] for alert in case.get("exp_alerts") or ())
    return set(alerts) - (fired & silent)


def test_every_alert_is_tested():
    """Both that it fires, with its text, and that it does not; one without fails."""
    tests = [yaml.safe_load(path.read_text()) for path in TESTS]
    assert untested(ALERTS, tests) == set()
    assert untested({**ALERTS, "JobwattNew": {}}, tests) == {"JobwattNew"}


# --- promtool --------------------------------------------------------------------------------------


def promtool(*argv):
    return subprocess.run(
        ["promtool", *map(str, argv)], capture_output=True, text=True, check=False
    )


@pytest.mark.prometheus
def test_promtool_accepts_the_rules():
    """2.42's grammar and its lints."""
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES, *SITES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
@pytest.mark.parametrize("name", sorted(TOO_NEW))
def test_too_new_is_too_new(name, tmp_path):
    """What the list of too new functions names, 2.42 refuses."""
    rule = {"record": "a:b:c", "expr": f"{name}(jobwatt_jobs)"}
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [rule]}]}))
    done = promtool("check", "rules", path)
    assert done.returncode != 0
    assert "unknown function" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.prometheus
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules(path):
    """What the alerts and the recorded series do over time."""
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mails_figures_are_those_that_are_tested():
    """tests/rules/changing.yaml evaluates the very expressions of the mails' grams and money."""
    rules = (ROOT / "alerts/rules/user.yaml").read_text()
    tested = (ROOT / "tests/rules/changing.yaml").read_text()
    for name in ("wasted_co2e", "wasted_cost"):
        found = re.search(rf"{name}: '.*?printf `(.*?)`", rules)[1]
        assert found.replace("cluster=%q", 'cluster="c"').replace("jobid=%q", 'jobid="1"') in tested
