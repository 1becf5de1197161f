"""A site's one file: what is refused and how it is said, and what it renders to."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.alerts import alertmanager, files, inline, regex, render, rules, schedule, site, values
from jobwatt.cli import main

REPO = Path(__file__).parents[1]
SHIPPED = REPO / "alerts/site.toml"
MAIL = """
[mail]
smarthost = "smtp.example.org:587"
from = "GPU monitor <gpu@example.org>"
operators = ["ops@example.org"]
domain = "example.org"
"""
amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="needs amtool")


@pytest.fixture
def toml(tmp_path):
    """Write a site.toml; returns its path."""

    def write(text, mail=MAIL):
        path = tmp_path / "site.toml"
        path.write_text(mail + text)
        return path

    return write


# --- what is shipped ------------------------------------------------------------------------------


def test_committed_files_are_what_the_shipped_site_renders_to():
    """`make alerts` has been run."""
    for name, text in render.texts(site.read(SHIPPED)).items():
        assert (REPO / "alerts" / name).read_text() == text, name


def test_every_commented_key_of_the_shipped_file_is_its_default(tmp_path):
    """What site.toml shows in comments can be switched on, and the thresholds say the defaults."""
    text = SHIPPED.read_text()
    shown = {
        kind: re.findall(r"^# ?([a-z_]+) = ", part, re.MULTILINE)
        for kind, part in re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    }
    for name, kind in site._SECTIONS.items():
        known = {one.metadata["name"] or one.name for one in site.fields(kind)}
        given_keys = set(
            re.findall(r"^([a-z_]+) = ", text.split(f"[{name}]\n")[1].split("\n[")[0], re.MULTILINE)
        )
        assert set(shown[name]) | given_keys == known, name
    on = re.sub(r"^# ([a-z_]+ = )", r"\1", text, flags=re.MULTILINE)
    on = on.replace("only_listed = false", "only_listed = true").replace(
        '"addresses.csv"', '"a.csv"'
    )
    (tmp_path / "a.csv").write_text("user,address\ncarol,carol@example.org\n")
    (tmp_path / "site.toml").write_text(on)
    read = site.read(tmp_path / "site.toml")
    assert read.thresholds == site.Thresholds()
    assert read.mail.addresses == {
        "amartin": "alice.martin@example.org",
        "LAB\\bob": "bob@lab.example.org",
        "carol": "carol@example.org",
    }


def test_the_rules_fit_together():
    """site.yaml and the shipped rules are one set by the inlining rule, with every kind of setting on."""
    inline.read(rules.texts(site.read(SHIPPED)))


def test_thresholds_that_no_rule_uses():
    """Each threshold of site.toml is there for a rule."""
    used = " ".join(files.rules().values())
    for one in site.fields(site.Thresholds):
        assert f"jobwatt:threshold:{one.name})" in used, one.name


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "said"), [
    ("[thresholds]\nidl = '1h'", "thresholds.idl: unknown key; did you mean idle?"),
    ("[treshholds]\nidle = '1h'", "unknown section [treshholds]; did you mean thresholds?"),
    ("[thresholds]\nidle = '3h'", "thresholds.idle: '3h' must be one of 30m, 1h, 2h, 4h, 8h, 1d"),
    ("[thresholds]\nidle = 3600", "thresholds.idle: 3600 must be one of"),
    ("[thresholds]\nidle = '8h'", "thresholds.idle_interactive: is below thresholds.idle"),
    ("[thresholds]\nnever_used_grace = '0s'", "never_used_grace: '0s' is not a time"),
    ("[thresholds]\nstale = 'soon'", "stale: 'soon' is not a time such as 30s"),
    ("[thresholds]\nlow_use_ratio = 15", "low_use_ratio: 15 must be between 0 and 1"),
    ("[thresholds]\nlow_use_ratio = nan", "low_use_ratio: nan must be a number"),
    ("[thresholds]\nshort_failures = 1.5", "short_failures: 1.5 must be a whole number"),
    ("[thresholds]\noverask_factor = true", "overask_factor: True must be a number"),
    ("[cost]\nprice_per_kwh = -0.1", "cost.price_per_kwh: -0.1 must be 0 or more"),
    ("[cost]\nprice_per_kwh = '0.1'", "cost.price_per_kwh: '0.1' must be a number, without quotes"),
    ("[cost]\npue = 0.9", "cost.pue: 0.9 must be between 1 and 5; it is total over IT power"),
    ("[cost]\ncarbon_intensity_g_per_kwh = 0.056", "looks like kilograms"),
    ("[cost]\ncarbon_intensity_series = 'max(x'", "no PromQL: a bracket or a quote is not closed"),
    ("[cost]\npue_series = 'x) or (y'", "no PromQL"),
    ("[cost]\npue_series = 'x{a=\"b}'", "no PromQL"),
    ("[cost]\npue_series = 'x # y'", "begins a comment"),
    ("[cost]\npue_series = '}{ x {}'", "no PromQL"),
    ("[cost]\nprice_per_kwh_series = '0.25'", "is a number, not a series; use the fixed key, or vector(0.25)"),
    ("[cost]\nprice_per_kwh_series = 'time()'", "is a number, not a series"),
    ("[cost]\nprice_per_kwh_series = ''", "must not be empty; leave the key out instead"),
    ('[cost]\ncurrency = "E\\nUR"', "must be one line, without control characters"),
    ("[exclude]\nuser = 'root'", "exclude.user: 'root' must be a list"),
    ("[exclude]\nuser = ['a(']", "exclude.user: 'a(' is no regular expression"),
    ("[exclude]\nuser = ['(?!root).+']", "no lookaround"),
    ("[exclude]\nqos = ['.*']", "matches the empty text, and so every job"),
    ("[exclude]\njob = ['x']", "exclude.job: unknown key"),
    ("[schedule]\ntimezone = 'Europe/Pairs'", "schedule.timezone: 'Europe/Pairs' is no time zone"),
    ("[schedule]\ntimezone = '../../etc/passwd'", "is no time zone"),
    ("[schedule]\nhours = '19:00-08:00'", "schedule.hours: '19:00-08:00' ends before it begins"),
    ("[schedule]\nhours = '8-19'", "is not a span of hours such as 08:00-19:00"),
    ("[schedule]\nhours = '08:00-25:00'", "there is no such time of day"),
    ("[schedule]\nhours = '08:00-10:00'\ntimezone = 'Europe/Paris'", "too short: 60 minutes of it are lost"),
    ("[schedule]\ndays = ['montag']", "'montag' is no day"),
    ("[schedule]\ndays = []", "names no day"),
    ("[schedule]\nholidays = ['2026-02-30']", "'2026-02-30' is not a date"),
    ("[schedule]\nholidays = ['2027-01-03..2026-12-24']", "ends before it begins"),
    ("[schedule]\nholidays = [2026-12-25]", "must be a string"),
    ("[links]\ngrafana = 'grafana.example.org'", "links.grafana: 'grafana.example.org' is not a URL"),
    ("[links]\ngrafana = 'https://me:secret@g.example.org'", "must not carry a password"),
    ("[links]\ngrafana = 'javascript:alert(1)'", "is not a URL"),
    ("x = 1", "mail.x: unknown key"),
    ("auth_password = 'geheim'", "put it into one of its own and name that in auth_password_file"),
    ("auth_username = 'me'", "mail.auth_password_file: is needed"),
    ("auth_password_file = 'pw'", "must be an absolute path"),
    ("reply_to = 'help'", "mail.reply_to: 'help' is not an address"),
    ("reply_to = 'a@x.org, b@x.org'", "is not an address"),
    ("addresses = { alice = 'alice@' }", "mail.addresses: 'alice': 'alice@' is not an address"),
    ("addresses_file = 'none.csv'", "none.csv: cannot be read (No such file or directory)"),
    ("only_listed = true", "mail.only_listed: nobody is listed"),
    ("hello = 'a b'", "mail.hello: 'a b' is not a domain"),
    ("contact = ''", "mail.contact: must not be empty"),
    ("[mail.addresses", "not TOML"),
])  # fmt: skip
def test_what_is_refused(toml, text, said):
    """One line: the file, the key, what is wrong and what would be right; a password is not repeated."""
    path = toml(text)
    with pytest.raises(site.SiteError) as caught:
        site.read(path)
    assert said in str(caught.value)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [
    ("smarthost", "smtp.example.org"), ("smarthost", "smtp.example.org:0"), ("smarthost", "a b:25"), ("smarthost", ":25"),
    ("from", "gpu"), ("from", "A, B <gpu@example.org>"), ("operators", ""), ("domain", "@example.org"), ("domain", "exa mple.org"),
    ("domain", "-x.org"), ("domain", "x.org, evil.org"),
])  # fmt: skip
def test_mail_that_could_not_be_sent(tmp_path, key, value):
    """Refused here rather than by Alertmanager at night."""
    path = tmp_path / "site.toml"
    path.write_text(re.sub(rf"(?m)^{key} = .*$", f"{key} = {json.dumps(value)}", MAIL))
    with pytest.raises(site.SiteError, match=rf"mail\.{key}: "):
        site.read(path)


@pytest.mark.parametrize("key", ["smarthost", "from", "operators", "domain"])
def test_what_must_be_there(tmp_path, key):
    """No default would be anybody's."""
    path = tmp_path / "site.toml"
    path.write_text(re.sub(rf"(?m)^{key} = .*$", "", MAIL))
    with pytest.raises(site.SiteError, match=rf"mail\.{key}: is needed"):
        site.read(path)


@pytest.mark.parametrize(("name", "text", "said"), [
    ("a.csv", "alice;alice@x.org\n", "line 1 is not user,address"),
    ("a.csv", "user,address\nalice,nobody\n", "'alice': 'nobody' is not an address"),
    ("a.csv", "alice,a@x.org\nalice,b@x.org\n", "line 2: 'alice' has another address above"),
    ("a.csv", ",a@x.org\n", "must not be empty"),
    ("a.toml", "alice = 1\n", "'alice': 1 must be a string"),
    ("a.toml", "alice\n", "not TOML"),
    ("a.txt", "", "must end in .toml or .csv"),
    ("a.csv", "bob,other@x.org\n", "gives another address; keep one of them"),
])  # fmt: skip
def test_addresses_that_are_refused(toml, tmp_path, name, text, said):
    """A table with a mistake addresses nobody."""
    (tmp_path / name).write_text(text)
    with pytest.raises(site.SiteError, match=re.escape(said)):
        site.read(toml(f"addresses_file = '{name}'\naddresses = {{ bob = 'bob@x.org' }}\n"))


def test_addresses_from_both_formats(toml, tmp_path):
    """A file beside site.toml, with what a spreadsheet puts around it."""
    (tmp_path / "a.csv").write_bytes(
        "\ufeffuser,address\r\n# staff\r\nalice, a@x.org \r\n\r\n".encode()
    )
    (tmp_path / "a.toml").write_text('alice = "a@x.org"\n')
    for name in ("a.csv", "a.toml"):
        assert site.read(toml(f"addresses_file = '{name}'\n")).mail.addresses == {
            "alice": "a@x.org"
        }


# --- regular expressions --------------------------------------------------------------------------


@pytest.mark.parametrize("good", ["root", "svc-.*", "a|b", "(?i)jupyter.*", "[a-z_][a-z0-9_.-]{0,31}", r"\d+", "(?:x)+", "[[:alpha:]]+", r"a\.b", "[]a]+", "(?P<n>x)", "a+?", r"\x41"])  # fmt: skip
def test_expressions_for_prometheus(good):
    """What people write."""
    regex.check(good)


@pytest.mark.parametrize("bad", ["(?=x)y", "(?<!a)b", r"(a)\1", "a++", "a{2}+", "(?>a)", "(?P=n)", "a{1001}", r"\Z", r"\px", "[", "*a", "", "a?", "a|", "(?#x)y", r"[\b]", r"\u0041"])  # fmt: skip
def test_expressions_that_prometheus_refuses(bad):
    """Python would take most of them."""
    with pytest.raises(ValueError, match=r"expression|matches the empty"):
        regex.check(bad)


@pytest.mark.prometheus
def test_promtool_takes_what_is_taken(toml, tmp_path):
    """Every accepted expression, quoted into site.yaml, is one for the real RE2; quotes and backslashes survive."""
    good = [
        "svc-.*",
        r"a\.b",
        "[[:alpha:]]+",
        "(?i)x",
        r"\d{2,5}",
        'with "quotes"',
        r"back\\slash",
        "ümlaut",
        "it's",
        "#no",
        "a: b",
        "{x",
    ]
    text = rules.site_yaml(
        site.read(toml(f"[exclude]\nname = {json.dumps(good, ensure_ascii=False)}\n"))
    )
    (tmp_path / "site.yaml").write_text(text)
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=all", "--lint-fatal", tmp_path / "site.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (rule,) = [
        r
        for r in yaml.safe_load(text)["groups"][0]["rules"]
        if r["record"] == "jobwatt:job_excluded:info"
    ]
    found = json.loads(re.search(r"name=~(\".*\")\}", rule["expr"])[1])
    assert found == regex.union(tuple(good))


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1))
def test_a_literal_matches_itself_alone(word):
    """Escaped, whatever it holds."""
    assert re.fullmatch(regex.literally(word), word)
    assert not re.fullmatch(regex.literally(word), word + "x")


# --- hours ----------------------------------------------------------------------------------------

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


# --- addresses and users --------------------------------------------------------------------------


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


# --- writing --------------------------------------------------------------------------------------


def run(*argv):
    return main(["alerts", "render", *map(str, argv)])


def test_render_writes_all_and_again(toml, tmp_path, capsys):
    """Rules and Alertmanager's files, their names on stdout; a second run changes nothing."""
    out = tmp_path / "out"
    assert run("--site", toml(""), "--out", out) == 0
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == sorted(
        str(p) for p in out.rglob("*") if p.is_file() and p.name != render.KEPT
    )
    assert {"rules", "alertmanager"} == {p.name for p in out.iterdir() if p.is_dir()}
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run("--site", toml(""), "--out", out) == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert (out / "rules/recording.yaml").read_bytes() == (
        REPO / "alerts/rules/recording.yaml"
    ).read_bytes()


def test_runbooks_of_the_site(toml, tmp_path):
    """The one thing in the shipped rules that a site's file changes."""
    texts = rules.texts(site.read(toml("[links]\nrunbooks = 'https://wiki.example.org/rb/'")))
    assert "alerts/runbooks/" not in texts["user.yaml"] + texts["ops.yaml"]
    assert "runbook_url: https://wiki.example.org/rb/JobwattGPUIdle.md" in texts["user.yaml"]


def test_what_is_not_ours_is_not_overwritten(toml, tmp_path, capsys):
    """A hand-written alertmanager.yml, or ours edited by hand: named, 1, and nothing at all is written."""
    out = tmp_path / "out"
    (out / "alertmanager").mkdir(parents=True)
    theirs = out / "alertmanager/alertmanager.yml"
    theirs.write_text("theirs")
    assert run("--site", toml(""), "--out", out) == 1
    assert f"nothing written: {theirs} is not as" in capsys.readouterr().err
    assert [p for p in out.rglob("*") if p.is_file()] == [theirs]
    assert run("--site", toml(""), "--out", out, "--force") == 0
    assert theirs.read_text() != "theirs"
    theirs.write_text(theirs.read_text() + "# edited\n")
    assert run("--site", toml("[cost]\npue = 1.3"), "--out", out) == 1
    assert "pue" not in (out / "rules/site.yaml").read_text()
    theirs.unlink()
    theirs.mkdir()
    assert run("--site", toml(""), "--out", out, "--force") == 1  # a directory is never replaced


def test_what_is_no_longer_shipped_goes(toml, tmp_path, capsys):
    """Prometheus would load it beside its successor."""
    out = tmp_path / "out"
    texts = render.texts(site.read(toml("")))
    render.write({**texts, "rules/old.yaml": "groups: []\n"}, out)
    assert run("--site", toml(""), "--out", out) == 0
    assert not (out / "rules/old.yaml").exists()
    assert "removed" in capsys.readouterr().err


def test_nothing_is_left_of_a_failed_run(toml, tmp_path, monkeypatch):
    """The disk is full: what was there is still there, whole."""
    out = tmp_path / "out"
    render.write(render.texts(site.read(toml(""))), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full(_path, _text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render, "_lay", full)
    with pytest.raises(OSError, match="No space"):
        render.write(render.texts(site.read(toml("[cost]\npue = 1.3"))), out)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_mail_says_no_number_for_what_changes(toml):
    """An intensity or a price that changes is told as such, and not as the figure that stands in for it."""
    changing = 'carbon_intensity_series = "x"\ncarbon_intensity_g_per_kwh = 56\nprice_per_kwh_series = "y"\nprice_per_gpu_hour = 0.8'
    mail = "".join(alertmanager.texts(site.read(toml(f"[cost]\n{changing}"))).values())
    assert "CO2e: at the carbon intensity of the electricity at the time" in mail
    assert "Cost: at the price in EUR per kWh at the time and 0.8 EUR per GPU hour" in mail
    assert "56 g" not in mail


@pytest.mark.parametrize(
    ("cost", "expr"),
    [
        ("", None),
        ("carbon_intensity_g_per_kwh = 56", "vector(56)"),
        (
            "carbon_intensity_series = 'grid{zone=\"FR\"}'\ncarbon_intensity_g_per_kwh = 56",
            'max (grid{zone="FR"}) > -Inf < Inf or on () vector(56)',
        ),
        ("carbon_intensity_series = 'a / on () b'", "max (a / on () b) > -Inf < Inf"),
    ],
)
def test_what_changes_has_a_series_and_the_fixed_figure_stands_in(toml, cost, expr):
    """A PromQL of the site's gives the intensity; where it is silent the fixed figure counts."""
    found = dict(rules.series(site.read(toml(f"[cost]\n{cost}"))))
    assert found.get("jobwatt:site_carbon_intensity:grams_per_kwh") == expr


def test_a_wrong_site_is_a_usage_error(toml, tmp_path, capsys):
    """2, one line, nothing written."""
    assert run("--site", toml("[cost]\nprice_per_kwh = -1"), "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sums_are_not_taken_for_paths(toml, tmp_path):
    """A sums file that was tampered with removes nothing outside."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    (out / render.KEPT).write_text(json.dumps({"rules/../../precious": "x", "/etc/passwd": "x"}))
    render.write(render.texts(site.read(toml(""))), out, force=True)
    assert (tmp_path / "precious").exists()


def test_notes(toml, tmp_path, capsys):
    """The shipped file is rendered, but one is told that it is an example."""
    assert run("--site", SHIPPED, "--out", tmp_path / "out") == 0
    assert "still mails to example.org" in capsys.readouterr().err


@pytest.mark.slow
def test_the_wheel_carries_the_alerts(tmp_path):
    """Installed, the rules lie where files.py looks."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(REPO)]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (*render.texts(site.read(SHIPPED)), "site.toml"):
        assert f"jobwatt/alerts/data/{name}" in names
