"""The recipe of docs/sensors.md: its very blocks, accepted and run by the real programs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from docpages import ROOT, blocks
from jobwatt.metrics import CATALOGUE
from prom import Prometheus, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = ROOT / "docs/sensors.md"
SNMP = ("prometheus-snmp-exporter", "snmpd")
needs_snmp = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in SNMP), reason=f"needs {' and '.join(SNMP)}"
)


def block(name: str) -> str:
    """The page's one YAML block that begins with the file's name."""
    (found,) = (one.text for one in blocks(PAGE, "yaml") if one.text.startswith(f"# {name}\n"))
    return found


def promtool(*argv: str | Path) -> None:
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_accepts_the_configuration(tmp_path: Path) -> None:
    """Scrape jobs and rules, as they are on the page."""
    rules = tmp_path / "rules/pdu.yaml"
    rules.parent.mkdir()
    rules.write_text(block("rules/pdu.yaml"))
    promtool("check", "rules", rules)
    config = tmp_path / "prometheus.yml"
    config.write_text("rule_files: [rules/pdu.yaml]\n" + block("prometheus.yml"))
    promtool("check", "config", config)


@pytest.mark.prometheus
def test_the_rule_gives_each_outlet_its_node(tmp_path: Path) -> None:
    """Both supplies of gpu01; an outlet in no entry is no node's; one that says -1 has no value."""
    (tmp_path / "pdu.yaml").write_text(block("rules/pdu.yaml"))
    watts = {
        ("pdu-a1-left", "7"): 410,
        ("pdu-a1-right", "7"): 395,
        ("pdu-a1-left", "8"): 99,
        ("pdu-b1", "1.12"): -1,
    }
    expected = [
        {"labels": f'{{__name__="jobwatt_meter_power_watts", source="pdu", meter="{p}:{o}", node="{n}"}}', "value": watts[p, o]}
        for p, o, n in (("pdu-a1-left", "7", "gpu01"), ("pdu-a1-right", "7", "gpu01"))
    ]  # fmt: skip
    test = {
        "rule_files": ["pdu.yaml"],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [
                    {"series": f'pdu_outlet_watts{{pdu="{p}", outlet="{o}", instance="i", job="j"}}', "values": f"{w}x9"}
                    for (p, o), w in watts.items()
                ],
                "promql_expr_test": [
                    {"expr": "jobwatt_meter_power_watts", "eval_time": "2m", "exp_samples": expected}
                ],
            }
        ],
    }  # fmt: skip
    (tmp_path / "test.yaml").write_text(json.dumps(test))
    promtool("test", "rules", tmp_path / "test.yaml")


def test_the_rule_makes_a_series_of_the_catalogue() -> None:
    """jobwatt_meter_power_watts with exactly the labels that jobwatt's own meters have."""
    *_, rule = yaml.safe_load(block("rules/pdu.yaml"))["groups"][0]["rules"]
    metric = CATALOGUE[rule["record"]]
    (by,) = re.findall(r"^sum by \((.*?)\)", rule["expr"])
    assert sorted([*by.split(", "), *rule["labels"]]) == sorted(metric.labels)


# --- the whole chain ---------------------------------------------------------------------------

OUTLETS = {  # what each make's table holds: OID below its column -> value
    "pdu_apc": ("1.3.6.1.4.1.318.1.1.26.9.4.3.1.7", {"7": 410, "8": 99}),
    "pdu_raritan": (
        "1.3.6.1.4.1.13742.6.5.4.3.1.4",
        {"1.12.4": 230, "1.12.5": 700, "1.13.5": 40},
    ),
    "pdu_servertech": ("1.3.6.1.4.1.1718.4.1.8.3.1.7", {"1.1.7": 305}),
}

_TABLES = """\
# snmpd.conf(5), pass_persist: PING, get OID, getnext OID; an answer is OID, type and value
import json, sys

held = json.load(open(sys.argv[1]))
order = sorted(held, key=lambda oid: [int(n) for n in oid[1:].split(".")])
key = lambda oid: [int(n) for n in oid.strip(".").split(".")]
for line in sys.stdin:
    word = line.strip()
    if word == "PING":
        print("PONG", flush=True)
        continue
    asked = sys.stdin.readline().strip()
    found = [o for o in order if (key(o) == key(asked) if word == "get" else key(o) > key(asked))]
    print(f"{found[0]}\\ngauge\\n{held[found[0]]}" if found else "NONE", flush=True)
"""


@pytest.fixture
def pdu(tmp_path: Path) -> Iterator[int]:
    """A real SNMP agent that holds the three makes' tables."""
    port = free_port()
    rows = [f"agentAddress udp:127.0.0.1:{port}", "rocommunity public 127.0.0.1"]
    (tmp_path / "tables.py").write_text(_TABLES)
    held = {f".{column}.{i}": v for column, values in OUTLETS.values() for i, v in values.items()}
    (tmp_path / "held.json").write_text(json.dumps(held))
    answer = f"{sys.executable} {tmp_path}/tables.py {tmp_path}/held.json"
    rows += [f"pass_persist .{column} {answer}" for column, _ in OUTLETS.values()]
    (tmp_path / "snmpd.conf").write_text("\n".join(rows) + "\n")
    argv = ["snmpd", "-f", "-Lo", "-C", "-c", tmp_path / "snmpd.conf"]
    env = {**os.environ, "SNMP_PERSISTENT_DIR": str(tmp_path / "snmp")}
    with (tmp_path / "snmpd.log").open("wb") as log:
        agent = subprocess.Popen(argv, stdout=log, stderr=log, env=env)
        yield port
        agent.terminate()
        agent.wait(60)


@pytest.fixture
def snmp_exporter(tmp_path: Path) -> Iterator[int]:
    """The real snmp_exporter with the page's modules."""
    config = tmp_path / "snmp.yml"
    config.write_text(json.dumps(_for_installed(yaml.safe_load(block("snmp.yml")))))
    port = free_port()
    argv = [SNMP[0], f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "snmp_exporter.log").open("wb") as log:
        exporter = subprocess.Popen(argv, stdout=log, stderr=log)
        yield port
        exporter.terminate()
        exporter.wait(60)


def _for_installed(config: dict[str, Any]) -> dict[str, Any]:
    """Before 0.23 modules were the top level and held the version and the community themselves."""
    told = subprocess.run([SNMP[0], "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)\.(\d+)", told.stdout + told.stderr)
    assert version
    if (int(version[1]), int(version[2])) >= (0, 23):
        return config
    auth = config["auths"]["pdu"]
    old = {"version": auth["version"], "auth": {"community": auth["community"]}}
    return {name: {**module, **old} for name, module in config["modules"].items()}


def until(read: Callable[[], Any], ok: Callable[[Any], bool], limit_s: float = 60) -> Any:
    """What ``read`` gives once it is ``ok``; the last answer, or the last refusal, where it never is."""
    end_s, found = time.monotonic() + limit_s, None
    while time.monotonic() < end_s:
        try:
            if ok(found := read()):
                return found
        except OSError as err:
            found = err
        time.sleep(0.2)
    raise AssertionError(found)


def on_this_machine(agent: int, exporter: int) -> str:
    """The page's scrape jobs, faster, and asking the agent and the exporter that run here."""
    config = yaml.safe_load(re.sub(r"\b[23]0s\b", "1s", block("prometheus.yml")))
    for job in config["scrape_configs"]:
        relabelled = [dict(step) for step in job["relabel_configs"]]
        (ask,) = [step for step in relabelled if step["target_label"] == "__address__"]
        ask["replacement"] = f"127.0.0.1:{exporter}"
        target = {"target_label": "__param_target", "replacement": f"127.0.0.1:{agent}"}
        job["relabel_configs"] = [*relabelled, target]
    return json.dumps({"rule_files": ["pdu.yaml"], **config})


@needs_snmp
@pytest.mark.prometheus
@pytest.mark.slow
def test_from_the_pdu_to_the_node(tmp_path: Path, pdu: int, snmp_exporter: int) -> None:
    """snmpd, snmp_exporter and Prometheus with the page's three files: each outlet's watts at its node."""
    with Prometheus(tmp_path / "prometheus", []) as prometheus:
        rules = block("rules/pdu.yaml").replace("30s", "1s")
        (prometheus.folder / "pdu.yaml").write_text(rules)
        (prometheus.folder / "prometheus.yml").write_text(on_this_machine(pdu, snmp_exporter))
        prometheus._process.send_signal(signal.SIGHUP)
        rows = until(
            lambda: prometheus.query('jobwatt_meter_power_watts{source="pdu"}'),
            lambda found: len(found) == 3,
        )
        outlets = until(
            lambda: prometheus.query("pdu_outlet_watts"), lambda found: len(found) == 7
        )  # each PDU is asked by itself: an outlet without a node may come last
    assert {(dict(k)["meter"], dict(k)["node"]): v for k, v in rows.items()} == {
        ("pdu-a1-left:7", "gpu01"): 410,
        ("pdu-a1-right:7", "gpu01"): 410,  # one agent plays both
        ("pdu-b1:1.12", "gpu02"): 700,
    }
    assert {(dict(k)["pdu"], dict(k)["outlet"]): v for k, v in outlets.items()} == {
        ("pdu-a1-left", "7"): 410,
        ("pdu-a1-left", "8"): 99,
        ("pdu-a1-right", "7"): 410,
        ("pdu-a1-right", "8"): 99,
        ("pdu-b1", "1.12"): 700,
        ("pdu-b1", "1.13"): 40,
        ("pdu-c1", "1.1.7"): 305,
    }
