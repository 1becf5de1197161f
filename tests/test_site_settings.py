"""A site's one file: what is shipped, and what is refused and how it is said."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import sitekit
from jobwatt.alerts import files, inline, regex, render, rules, site
from sitekit import MAIL, REPO, SHIPPED

toml = sitekit.toml  # a fixture


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
