"""`jobwatt alerts render`: what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest

import sitekit
from jobwatt.alerts import alertmanager, render, rules, site
from jobwatt.cli import main
from sitekit import REPO, SHIPPED

toml = sitekit.toml  # a fixture


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
