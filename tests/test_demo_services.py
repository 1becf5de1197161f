"""What the demo's services are given: recorded series, shortened times, addresses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from jobwatt.alerts import inline
from jobwatt.demo import quicken, recorded, services


def test_what_dashboards_show_and_rules_look_back_at_is_recorded():
    """By name in any expression; the insides of subqueries too; nothing that no rule records."""
    records = {
        "jobwatt:a:x": "jobwatt_a",
        "jobwatt:b:x": "sum_over_time(jobwatt:c:x[7d:5m])",
        "jobwatt:c:x": "y",
        "jobwatt:d:x": "z",
    }
    texts = ['{"expr": "sum by (user) (jobwatt:a:x{cluster=\\"$cluster\\"}) / jobwatt:unknown:x"}']
    assert recorded.wanted(texts, records) == ["jobwatt:a:x", "jobwatt:c:x"]
    mails = [
        "{{ `sum_over_time(jobwatt:d:rate5m{a=%q}[30d:5m]) + jobwatt:e:x` }}",
        "jobwatt:f:rate5m",
    ]
    more = {**records, "jobwatt:d:rate5m": "y", "jobwatt:e:x": "y", "jobwatt:f:rate5m": "y"}
    assert set(recorded.wanted([], more, mails)) - set(recorded.wanted([], more)) == {
        "jobwatt:d:rate5m"
    }


@pytest.mark.parametrize(
    ("span", "found"), [((0, 900), (300, 900)), ((300, 899), (600, 600)), ((301, 599), (600, 300))]
)
def test_recorded_samples_stand_on_five_minutes(span, found):
    """So that a part goes on where the last one ended, without a sample twice."""
    assert recorded.times(*span) == found


def addresses(host="127.0.0.1"):
    return services.Addresses(host, 3000, 9090, 9093, 9816, 3001, 1025)


def site_files(folder):
    template = Path(services.__file__).parent / "data" / "site.toml"
    return services.site_files(template, folder, addresses(), "http://127.0.0.1:3000")


@pytest.mark.prometheus
def test_shortened_files_are_valid_and_otherwise_as_shipped(tmp_path):
    """promtool and amtool take them; only times differ; links lead to the page, mails to the catcher."""
    files = site_files(tmp_path)
    services.write(files, tmp_path)
    (tmp_path / "prometheus.yml").write_text(
        services.prometheus_config(tmp_path, addresses(), {"gpu01": 9816}, alerting=True)
    )
    subprocess.run(
        ["promtool", "check", "config", f"{tmp_path}/prometheus.yml"],
        check=True,
        capture_output=True,
    )
    amtool = ["amtool", "check-config", f"{tmp_path}/alertmanager/alertmanager.yml"]
    subprocess.run(amtool, check=True, capture_output=True)
    shipped = inline.read({n: t for n, t in files.items() if n.startswith("rules/")})
    assert {alert.for_s for alert in shipped.user_alerts()} <= {15.0, 0.0}
    text = files["alertmanager/alertmanager.yml"] + files["alertmanager/jobwatt.tmpl"]
    assert "127.0.0.1:1025" in text
    assert 'grafana := "http://127.0.0.1:3000"' in text
    waits = {
        route["group_wait"]
        for route in yaml.safe_load(files["alertmanager/alertmanager.yml"])["route"]["routes"]
    }
    assert waits == {"20s"}


def test_only_times_are_shortened():
    """Expressions, labels and texts are what a site gets."""
    text = """
groups:
  - name: g
    interval: 4m
    rules:
      - {alert: A, expr: 'x offset 1h > 0', for: 5m, keep_firing_for: 15m, labels: {audience: user}}
      - {record: 'jobwatt:x', expr: 'sum_over_time(x[7d])'}
"""
    (group,) = yaml.safe_load(quicken.rules({"a": text})["a"])["groups"]
    assert group["interval"] == "30s"
    alert, record = group["rules"]
    assert (alert["for"], alert["keep_firing_for"], alert["expr"]) == (
        "15s",
        "2m",
        "x offset 1h > 0",
    )
    assert record["expr"] == "sum_over_time(x[7d])"


def test_addresses_say_where_to_connect():
    """What listens everywhere is reached on loopback; IPv6 stands in brackets."""
    at = addresses
    assert (at("0.0.0.0").bind(1), at("0.0.0.0").reach(1)) == ("0.0.0.0:1", "127.0.0.1:1")
    assert (at("::").bind(1), at("::").url(1)) == ("[::]:1", "http://[::1]:1")
    assert at("10.0.0.7").url(1) == "http://10.0.0.7:1"
