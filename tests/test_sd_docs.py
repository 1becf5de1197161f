"""Service discovery as its page, its examples and its unit have it."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import yaml

from jobwatt.central.sd import kept, settings, targets
from jobwatt.metrics import CATALOGUE
from jobwatt.parser import build
from sdkit import PAGE, ROOT, chosen, listed, node


def test_a_targets_labels_hide_none_of_the_pages():
    """Labels that a target keeps, and those of the examples, are no labels of jobwatt's series."""
    ours = {label for metric in CATALOGUE.values() for label in metric.labels}
    (group,) = chosen([node("a")], scheme="https").groups.values()
    own = {name for name in group["labels"] if not name.startswith("__")}
    assert own == {"instance", "cluster"}
    assert group["labels"]["__scheme__"] == "https"
    for text in (*blocks().values(), (ROOT / "interop/prometheus/slurm_sd.yml").read_text()):
        own |= {
            step["target_label"]
            for job in yaml.safe_load(text).get("scrape_configs", [])
            for step in job.get("relabel_configs", [])
            if "target_label" in step
        }
    assert {"rack", "gpu_model"} <= own
    assert not own & ours


def blocks():
    """The page's YAML blocks by the file that each names."""
    found = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) == PAGE.count("```yaml")
    return dict(found)


@pytest.mark.prometheus
def test_promtool_takes_the_snippets(tmp_path):
    """Every configuration of the page and the example, with a list as it is written, rules included."""
    (tmp_path / "targets.json").write_bytes(kept.encoded(listed("gpu01", "gpu02")))
    files = {**blocks(), "slurm_sd.yml": (ROOT / "interop/prometheus/slurm_sd.yml").read_text()}
    files["all.yml"] = re.sub(r"^( +)# (?=- |http|  )", r"\1", files["slurm_sd.yml"], flags=re.MULTILINE)  # fmt: skip
    assert "\n    http_sd_configs" in files["all.yml"]
    for name, text in files.items():
        (tmp_path / name).write_text(text.replace("/var/lib/jobwatt-sd", str(tmp_path)))
        kind = "rules" if name == "rules.yml" else "config"
        done = subprocess.run(["promtool", "check", kind, name], cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    (command,) = re.findall(r"^    (promtool .*)$", PAGE, re.MULTILINE)
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)  # fmt: skip
    assert {one["labels"]["instance"] for one in json.loads(done.stdout)} == {"gpu01", "gpu02"}


def test_the_page_names_what_exists():
    """Its flags, labels, metrics and outcomes are the command's; its files are there."""
    parser = build()
    (action,) = [action for action in parser._actions if action.dest == "command"]
    known = set(action.choices["sd"]._option_string_actions)
    flags = set(re.findall(r"(?<![\w-])--(?:sd\.|web\.)?[a-z][a-z.-]*[a-z]", PAGE))
    assert flags - {"--now", "--json", "--extra", "--timeout"} <= known
    assert {flag for flag in known if flag.startswith("--sd.")} <= flags | {"--sd.interval"}
    full = node("a", features=("f",), partitions=("p",), gpus=(("g", 1),), unit="u")
    (group,) = chosen([full]).groups.values()
    shown = set(re.findall(r"\b__meta_slurm_[a-z_]+", PAGE))
    assert {name for name in group["labels"] if "_meta_" in name} | {targets.GONE} == shown
    metrics = {name for name in CATALOGUE if name.startswith("jobwatt_sd_")}
    assert set(re.findall(r"\bjobwatt_sd_[a-z_]+", PAGE)) == metrics
    for name in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name


def test_the_unit_names_what_exists():
    """Its flags are the command's, and the file it writes is the default that the examples read."""
    unit = (ROOT / "packaging/systemd/jobwatt-sd.service").read_text()
    (started,) = re.findall(r"^ExecStart=/usr/bin/jobwatt sd (.*) \$SD_FLAGS$", unit, re.MULTILINE)
    assert started == f"--out={settings.OUT}"
    assert settings.OUT in (ROOT / "interop/prometheus/slurm_sd.yml").read_text()
