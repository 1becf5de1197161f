"""
The mails as an AlertmanagerConfig: what the Prometheus Operator makes of it, held against the configuration it came from.

``as_operator`` does to the object what the operator does (prometheus-operator, pkg/alertmanager/amcfg.go): names get
NAMESPACE/NAME/ before them, the route is hung in before the site's own and goes on, and by default both routes and
inhibitions are held to the object's namespace.
"""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml

from helmchart import ROOT, flat, of, rendered, template
from test_helm import operator_says

pytestmark = pytest.mark.npm

PREFIX = "hpc/demo-jobwatt/"
SHIPPED = ROOT / "alerts/alertmanager"
SITE = {
    "route": {"receiver": "null", "routes": [{"receiver": "own"}]},
    "receivers": [{"name": "null"}, {"name": "own"}],
    "templates": ["/etc/alertmanager/configmaps/*/*.tmpl"],
}
# alerts, and a site's own that is none of ours
LABELS = [
    ("alertname=JobwattGPUIdle", "audience=user", "user=alice"),
    ("alertname=JobwattGPUIdle", "audience=user", "user=b@d,evil"),
    ("alertname=JobwattExporterDown", "audience=ops", "instance=gpu01"),
    ("alertname=KubePodCrashLooping", "namespace=hpc"),
]


def matchers(listed):
    """As the operator writes them: a name, an operator, a quoted value."""
    return [f"{m['name']}{m['matchType']}{json.dumps(m['value'])}" for m in listed]


def route(one):
    told = {
        "receiver": PREFIX + one["receiver"],
        "group_by": one.get("groupBy"),
        "group_wait": one.get("groupWait"),
        "group_interval": one.get("groupInterval"),
        "repeat_interval": one.get("repeatInterval"),
        "continue": one.get("continue"),
        "matchers": matchers(one.get("matchers", [])) or None,
        "active_time_intervals": [PREFIX + name for name in one.get("activeTimeIntervals", [])],
        "mute_time_intervals": [PREFIX + name for name in one.get("muteTimeIntervals", [])],
        "routes": [route(child) for child in one.get("routes", [])],
    }
    return {key: value for key, value in told.items() if value}


def email(one):
    told = {
        "to": one["to"],
        "smarthost": one["smarthost"],
        "from": one["from"],
        "hello": one.get("hello"),
        "require_tls": one.get("requireTLS"),
        "auth_username": one.get("authUsername"),
        "send_resolved": one.get("sendResolved"),
        "headers": {header["key"]: header["value"] for header in one["headers"]},
        "html": one.get("html"),
        "text": one.get("text"),
    }
    return {key: value for key, value in told.items() if value is not None}


def times(one):
    return {
        # the operator (0.93) forgets the name of what has no interval, and Alertmanager then takes nothing at all
        "name": PREFIX + one["name"] if one.get("timeIntervals") else "",
        "time_intervals": [
            {
                "times": [
                    {"start_time": t["startTime"], "end_time": t["endTime"]}
                    for t in part.get("times", [])
                ],
                "weekdays": part.get("weekdays", []),
                "days_of_month": [f"{d['start']}:{d['end']}" for d in part.get("daysOfMonth", [])],
                "months": part.get("months", []),
                "years": part.get("years", []),
            }
            for part in one.get("timeIntervals", [])
        ],
    }


def as_operator(spec, strategy="None"):
    held = [f'namespace="{PREFIX.split("/", maxsplit=1)[0]}"'] if strategy == "OnNamespace" else []
    first = {**route(spec["route"]), "continue": True}
    first["matchers"] = first.get("matchers", []) + held
    return {
        **SITE,
        "route": {**SITE["route"], "routes": [first, *SITE["route"]["routes"]]},
        "inhibit_rules": [
            {
                "source_matchers": matchers(rule["sourceMatch"]) + held,
                "target_matchers": matchers(rule["targetMatch"]) + held,
                "equal": rule["equal"],
            }
            for rule in spec["inhibitRules"]
        ],
        "receivers": [
            *SITE["receivers"],
            *(
                {"name": PREFIX + r["name"], "email_configs": [email(e) for e in r["emailConfigs"]]}
                for r in spec["receivers"]
            ),
        ],
        "mute_time_intervals": [times(one) for one in spec["muteTimeIntervals"]],
    }


def amtool(*args):
    done = subprocess.run(["amtool", *args], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def receivers(config, labels):
    code, said = amtool("config", "routes", "test", f"--config.file={config}", *labels)
    assert code == 0, said
    return set(said.split()[0].split(","))


@pytest.fixture
def objects():
    return rendered("alertmanagerconfig")


@pytest.fixture
def spec(objects):
    (one,) = of(objects, "AlertmanagerConfig")
    return one["spec"]


@pytest.fixture
def write(tmp_path, objects):
    """Write a configuration, with the template where Alertmanager's configMaps put it."""
    folder = tmp_path / "configmaps/demo-jobwatt-alertmanager"
    folder.mkdir(parents=True)
    text = objects["ConfigMap", "demo-jobwatt-alertmanager"]["data"]["jobwatt.tmpl"]
    (folder / "jobwatt.tmpl").write_text(text, encoding="utf-8")

    def write(config):
        path = tmp_path / "alertmanager.yml"
        there = json.dumps(config).replace("/etc/alertmanager/configmaps", f"{tmp_path}/configmaps")
        path.write_text(there, encoding="utf-8")
        return path

    return write


def test_the_operator_takes_it(objects):
    """The object is what the CRD knows; what it does not know, down to a child route, is seen."""
    (one,) = of(objects, "AlertmanagerConfig")
    assert operator_says([one]) == (0, "")
    one["spec"]["route"]["routes"][0]["group_by"] = ["user"]
    code, said = operator_says([one])
    assert (code, "group_by is not known" in said) == (1, True)


@pytest.mark.prometheus
def test_amtool_takes_what_the_operator_makes_of_it(spec, write):
    """Receivers, routes, inhibitions and hours are a configuration that Alertmanager takes, the template included."""
    code, said = amtool("check-config", write(as_operator(spec)))
    assert code == 0, said
    assert f"{len(spec['receivers']) + 2} receivers" in said
    assert "1 templates" in said


@pytest.mark.prometheus
@pytest.mark.parametrize("labels", LABELS)
def test_alerts_go_where_the_whole_configuration_sends_them(spec, write, labels):
    """Each alert reaches the receiver of the Secret's configuration, and then the site's next route; others' alerts only that."""
    site = {"own"}
    if labels[0].startswith("alertname=Jobwatt"):
        site |= {PREFIX + name for name in receivers(SHIPPED / "alertmanager.yml", labels)}
    assert receivers(write(as_operator(spec)), labels) == site


@pytest.mark.prometheus
def test_the_namespace_matcher_keeps_all_of_it_out(spec, write):
    """The operator's default strategy holds the route to a label that jobwatt's series do not have: no mail at all."""
    config = write(as_operator(spec, "OnNamespace"))
    assert receivers(config, LABELS[0]) == {"own"}
    assert receivers(config, (*LABELS[0], "namespace=hpc")) == {"own", PREFIX + "users"}


def test_nothing_is_lost_on_the_way(spec):
    """Routes, inhibitions, mails and hours come out as they went in, but for names and the dummy holiday."""
    whole = yaml.safe_load((SHIPPED / "alertmanager.yml").read_text(encoding="utf-8"))
    made = as_operator(spec)
    text = json.dumps(made["route"]["routes"][0]["routes"]).replace(PREFIX, "")
    assert json.loads(text) == whole["route"]["routes"]
    assert made["inhibit_rules"] == whole["inhibit_rules"]
    server = {
        key.removeprefix("smtp_"): value for key, value in whole["global"].items() if value != ""
    }
    for ours, theirs in zip(made["receivers"][2:], whole["receivers"], strict=True):
        assert ours["email_configs"] == [{**server, **one} for one in theirs["email_configs"]]
    (hours, holidays) = made["mute_time_intervals"]
    part = whole["time_intervals"][0]["time_intervals"][0]
    assert {k: v for k, v in hours["time_intervals"][0].items() if v} == {
        key: value for key, value in part.items() if key != "location"
    }
    assert {k: v for k, v in holidays["time_intervals"][0].items() if v} == {"years": ["2000"]}


def shipped(old, new):
    text = (SHIPPED / "alertmanager.yml").read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new)


def with_config(tmp_path, text, **more):
    values = {"enabled": True, "kind": "AlertmanagerConfig", "config": text, **more}
    return template(tmp_path, {"alertmanager": values})


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('location: "UTC"', 'location: "Europe/Paris"', "knows no time zone (Europe/Paris)"),
        ("  smtp_require_tls: false", "  smtp_require_tls: true\n  smtp_auth_username: gpu", "alertmanager.passwordSecretName"),
        ("  - name: unaddressed\n", "  - name: unaddressed\n    webhook_configs: []\n", "only email_configs"),
        ("      group_by: [cluster, user]\n", "      group_by: [cluster, user]\n      match: {a: b}\n", "a route's match"),
    ],
)  # fmt: skip
def test_what_an_alertmanagerconfig_cannot_say_is_refused(tmp_path, old, new, why):
    """Local hours, a password in a file, other receivers: one line that says so, rather than mails at the wrong hour."""
    done = with_config(tmp_path, shipped(old, new))
    assert done.returncode != 0
    assert why in done.stderr


def test_the_password_comes_from_a_secret(tmp_path):
    """With a Secret's name the mail server's password is a reference, and stands nowhere."""
    text = shipped(
        "  smtp_require_tls: false", "  smtp_auth_username: gpu\n  smtp_auth_password_file: /x"
    )
    done = with_config(tmp_path, text, passwordSecretName="smtp")
    (one,) = of(flat(done.stdout), "AlertmanagerConfig")
    mail = one["spec"]["receivers"][0]["emailConfigs"][0]
    assert (mail["authUsername"], mail["authPassword"]) == (
        "gpu",
        {"name": "smtp", "key": "password"},
    )
    assert operator_says([one]) == (0, "")


def test_a_sites_holidays_and_regular_expressions_survive(tmp_path):
    """Days, months and years, and a matcher with every escape, are taken apart and put together as they were."""
    text = shipped(
        '      - {years: ["1970"]}  # none: a year that will not come again',
        '      - {years: ["2026"], months: ["12"], days_of_month: ["24:31"], location: "UTC"}',
    )
    hard = r'''a=~"x\\.y\"z|ä{2}\n"'''
    text = text.replace("matchers: ['audience=\"user\"']", f"matchers: [{json.dumps(hard)}]")
    (one,) = of(flat(with_config(tmp_path, text).stdout), "AlertmanagerConfig")
    assert operator_says([one]) == (0, "")
    made = as_operator(one["spec"])
    assert made["mute_time_intervals"][1]["time_intervals"][0] == {
        "times": [], "weekdays": [], "days_of_month": ["24:31"], "months": ["12"], "years": ["2026"],
    }  # fmt: skip
    assert one["spec"]["route"]["routes"][1]["matchers"] == [
        {"name": "a", "matchType": "=~", "value": 'x\\.y"z|ä{2}\n'}
    ]
