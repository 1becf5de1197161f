"""The documentation's files: every TOML, YAML, JSON and PromQL block is read by what would read it."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import bcrypt
import jsonschema
import promql_parser
import pytest
import yaml

from docpages import PAGES, ROOT, Block, blocks
from jobwatt import webconfig
from jobwatt.alerts import site
from jobwatt.central.bmcproxy import targets
from jobwatt.central.grid import settings as grid
from jobwatt.config import from_flags

if TYPE_CHECKING:
    from pathlib import Path

# Blocks that are another program's, of which nothing here knows the form; they parse.
FOREIGN = {
    "sensors.md: # snmp.yml": "snmp_exporter's; tests/test_sensor_docs.py runs it",
    "kubernetes.md: prologScripts:": "values of Slinky's chart, which is not here",
}
PROMETHEUS = {
    "global",
    "scrape_configs",
    "rule_files",
    "alerting",
    "remote_write",
    "remote_read",
    "storage",
}
SITE_BASE = '[mail]\nsmarthost = "localhost:25"\nfrom = "a@example.org"\noperators = ["b@example.org"]\ndomain = "example.org"\n'


def found(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page, *languages)]


def each(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found(*languages), ids=lambda block: f"{block.page.name}:{block.line}")  # fmt: skip


def promtool(*argv: str | Path) -> None:
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def amtool(path: Path) -> None:
    done = subprocess.run(
        ["amtool", "check-config", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@each("toml")
def test_toml(block: Block, tmp_path: Path) -> None:
    """A TOML block is settings of the daemon, of the grid, of the bmc-proxy or of a site, and its reader takes it."""
    plain = tomllib.loads(block.text)
    path = tmp_path / "it.toml"
    path.write_text(block.text)
    if "zone" in plain:
        grid.read(path)
    elif "bmc" in plain and isinstance(plain["bmc"], list):
        targets.read(path)
    elif plain.keys() <= site._SECTIONS.keys():
        path.write_text(block.text if "mail" in plain else SITE_BASE + block.text)
        site.read(path)
    else:
        from_flags({"config.file": str(path)})


@pytest.mark.prometheus
@each("yaml")
def test_yaml(block: Block, tmp_path: Path) -> None:
    """A YAML block is Prometheus's, Alertmanager's, the chart's, web.yml or a test of rules, and its reader takes it."""
    if block.page.name == "extending.md" and "at the end" in block.text.splitlines()[0]:
        return  # a piece of a file: tests/test_docs_extending.py puts it there
    plain = yaml.safe_load(block.text)
    assert plain
    if block.name in FOREIGN or "alertmanagerSpec" in (plain.get("alertmanager") or {}):
        return  # the second: values of kube-prometheus-stack
    path = tmp_path / "it.yaml"
    path.write_text(block.text)
    if "tests" in plain:
        return  # run by tests/test_docs_extending.py
    if "groups" in plain:
        promtool("check", "rules", "--lint=none", path)
    elif {"route", "receivers", "time_intervals"} & plain.keys():
        amtool(path)
    elif PROMETHEUS & plain.keys():
        promtool("check", "config", "--syntax-only", path)
    elif {"tls_server_config", "basic_auth_users", "http_server_config"} & plain.keys():
        webconfig.parse(_with_hashes(block.text), path)
    else:
        _chart(plain)


def _with_hashes(text: str) -> str:
    """A hash that is left out is a real one; that of a block that has one is taken as it is."""
    return re.sub(
        r"\$2[aby]\$10\$(?:…|\.\.\.)", bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode(), text
    )


def _chart(plain: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "helm/jobwatt/values.schema.json").read_text())
    schema.pop("required", None)  # a piece of the values
    assert plain.keys() <= schema["properties"].keys(), "whose is it? Say so in FOREIGN"
    jsonschema.validate(plain, schema)


def test_json() -> None:
    """A JSON block is JSON."""
    for block in found("json"):
        json.loads(block.text)


@each("promql")
def test_promql(block: Block) -> None:
    """A PromQL block is an expression for Prometheus 3.x; names are looked at by tests/test_docs.py."""
    promql_parser.parse(block.text)


@pytest.mark.prometheus
def test_promql_of_old(tmp_path: Path) -> None:
    """All of them are also an expression for the promtool that is here, which is older."""
    rules = [
        {"record": f"it:{number}", "expr": block.text}
        for number, block in enumerate(found("promql"))
    ]
    (tmp_path / "it.yaml").write_text(json.dumps({"groups": [{"name": "it", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", tmp_path / "it.yaml")


def test_foreign_blocks_are_there() -> None:
    """The list of blocks that are not read names none that is gone."""
    assert FOREIGN.keys() <= {block.name for block in found("yaml")}
