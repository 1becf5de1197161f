"""Which users have an address, and who gets which mail by Alertmanager's files that a site renders to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import sitekit
from jobwatt.alerts import alertmanager, files, render, site, values

toml = sitekit.toml  # a fixture

amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


@pytest.mark.parametrize("user", ["alice", "alice.martin", "a1234", "20231234", "Alice", "jean-paul", "_svc", "a.b-c_d", "x" * 32])  # fmt: skip
def test_user_names_that_address_themselves(user):
    """What sites have."""
    assert re.fullmatch(alertmanager.SAFE_USER, user)
    values.address(f"{user}@example.org")


@pytest.mark.parametrize("user", ["", "a@b", "a,b", "a b", "LAB\\bob", 'a"b', "a\nb", "a\n", ".a", "a.", "a..b", "-a", "<a>", "a;b", "a:b", "a%b", "é", "a\u2024b", "x" * 99])  # fmt: skip
def test_user_names_that_do_not(user):
    """The operators are told instead."""
    assert not re.fullmatch(alertmanager.SAFE_USER, user)


@given(st.from_regex(alertmanager.SAFE_USER, fullmatch=True))
def test_a_safe_user_is_one_address(user):
    """Nothing that the expression lets through is more or less than a local part."""
    assert values.address(f"{user}@example.org") == f"{user}@example.org"


USERS_AUDIENCE = "audience=user"


@amtool
@pytest.mark.parametrize(("labels", "receiver"), [
    ([USERS_AUDIENCE, "user=alice", "cluster=a", "jobid=7"], "users"),
    ([USERS_AUDIENCE, "user=alice.martin"], "users"),
    ([USERS_AUDIENCE, "user=20231234"], "users"),
    ([USERS_AUDIENCE, "user=LAB\\bob"], "users"),  # listed
    ([USERS_AUDIENCE, "user=LAB\\eve"], "unaddressed"),
    ([USERS_AUDIENCE, "user=a, b"], "unaddressed"),
    ([USERS_AUDIENCE, "user=a@evil.org"], "unaddressed"),
    ([USERS_AUDIENCE, "user=a\nb"], "unaddressed"),
    ([USERS_AUDIENCE, 'user=a"b'], "unaddressed"),
    ([USERS_AUDIENCE], "unaddressed"),
    (["audience=ops", "user=alice"], "operators"),
    (["audience=ops", "instance=gpu01"], "operators"),
    (["user=alice"], "operators"),
    (["audience=users", "user=alice"], "operators"),
])  # fmt: skip
def test_routes(toml, tmp_path, labels, receiver):
    """Who gets what, as amtool says."""
    read = site.read(toml("addresses = { 'LAB\\bob' = 'bob@lab.org', carol = 'c@lab.org' }"))
    render.write(render.texts(read), tmp_path / "out")
    config = tmp_path / "out/alertmanager/alertmanager.yml"
    # amtool reads a label as a matcher: what has odd characters is quoted
    quoted = [
        f"{name}={json.dumps(value)}"
        for name, _, value in (label.partition("=") for label in labels)
    ]
    done = subprocess.run(
        ["amtool", "config", "routes", "test", f"--config.file={config}", *quoted],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == receiver, done.stderr


@amtool
@pytest.mark.parametrize("text", [
    "",
    "only_listed = true\naddresses = { alice = 'a@x.org', \"we\\\"ird, {{ . }}\" = 'w@x.org' }",
    "auth_username = 'u{{'\nauth_password_file = '/etc/pw'\ncontact = 'the \"team\" {{ .X }} <b>'\ncontact_url = 'https://x.org/?a=b&c=d'",
    "[schedule]\ntimezone = 'America/Los_Angeles'\ndays = ['saturday:monday', 'wednesday']\nholidays = ['2026-12-24..2027-01-03', '2026-05-01']",
    "[schedule]\nhours = '00:00-24:00'\ndays = ['monday:sunday']",
    "[cost]\ncurrency = 'US$ {{'\nprice_per_kwh = 0\npue = 1.2\ncarbon_intensity_g_per_kwh = 56",
])  # fmt: skip
def test_amtool_takes_what_is_rendered(toml, tmp_path, text):
    """Whatever a site sets, text stays text in YAML, matchers and templates."""
    render.write(render.texts(site.read(toml(text))), tmp_path / "out")
    config = tmp_path / "out/alertmanager/alertmanager.yml"
    done = subprocess.run(
        ["amtool", "check-config", config], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_precedence_is_the_order_of_the_rules():
    """Each alert for owners silences those that come after it in user.yaml, on the same job; and mails are in that order."""
    config = yaml.safe_load(files.alertmanager()["alertmanager.yml"])
    names = [
        r["alert"]
        for r in yaml.safe_load(files.rules()["user.yaml"])["groups"][0]["rules"]
        if r["alert"] != "JobwattShortFailingJobs"
    ]
    chain = {}
    for rule in config["inhibit_rules"]:
        source = re.fullmatch(r'alertname="(\w+)"', rule["source_matchers"][0])[1]
        if source in names:
            assert rule["equal"] == ["cluster", "jobid"]
            chain[source] = re.search(r'"(.*)"', rule["target_matchers"][0])[1].split("|")
    assert chain == {name: names[at + 1 :] for at, name in enumerate(names[:-1])}
    template = files.alertmanager()["jobwatt.tmpl"]
    for kinds in re.findall(r"\$kinds := stringSlice ([^-]*) -", template):
        assert kinds.split() == [f'"{name}"' for name in [*names, "JobwattShortFailingJobs", ""]]
    assert all(f'eq . "{name}"' in template for name in names)


def test_the_day_is_kept():
    """One mail in 24 hours: a group is looked at once a day, and repeated when it is."""
    config = yaml.safe_load(files.alertmanager()["alertmanager.yml"])
    users = config["route"]["routes"][0]
    assert (users["receiver"], users["group_by"]) == ("users", ["cluster", "user"])
    assert (users["group_wait"], users["group_interval"], users["repeat_interval"]) == (
        "10m",
        "24h",
        "23h",
    )
    (receiver,) = [one for one in config["receivers"] if one["name"] == "users"]
    assert receiver["email_configs"][0]["send_resolved"] is False
