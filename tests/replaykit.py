"""A small site's rules, firing alerts, and promtool's word on recorded series, for the tests of alerts."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import yaml

from jobwatt.alerts import inline
from jobwatt.alerts.simulate import Firing

HOUR, DAY, MIN = 3600, 86_400, 60
PARIS = ZoneInfo("Europe/Paris")
ORDER = ("Never", "Idle", "Low")


def unix(text, zone=UTC):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


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


def firing(alert, user, jobid, *when, cluster=""):
    labels = {"user": user, "jobid": jobid, "cluster": cluster}
    return Firing(alert, tuple(sorted(labels.items())), tuple(when))


def about(mail):
    return [(told.labels["jobid"], told.alert) for told in mail.told]


NOW = unix("2026-11-24T12:00:00")


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
