"""Rules written out: recorded series replaced by what they stand for, and refused where that cannot be."""

from __future__ import annotations

import pytest
import yaml

from jobwatt.alerts import inline
from jobwatt.alerts.inline import RuleError
from replaykit import rules, same

# --- rules written out ---------------------------------------------------------------------------


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


# --- written out, a recorded series is what was recorded -----------------------------------------

SERIES = """
jobwatt_job_info{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",name="x",qos="q"}|1x200
jobwatt_job_info{cluster="c1",instance="n1",jobid="2",user="bob",account="a",partition="p",name="y",qos="q"}|1x200
jobwatt_job_end_time_seconds{cluster="c1",instance="n1",jobid="2",user="bob",account="a",partition="p"}|5x200
jobwatt_job_gpu_idle_seconds_total{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",gpu="0",uuid="G0"}|0+60x200
jobwatt_job_gpu_idle_seconds_total{cluster="c1",instance="n1",jobid="1",user="ann",account="a",partition="p",gpu="1",uuid="G1"}|0x200
"""


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
