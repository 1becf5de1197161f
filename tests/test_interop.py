"""The Zabbix template and the Prometheus examples: what they ask for is what a page gives."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import nvmlshim
from daemon import BOOT_ID, Daemon, prolog
from jobwatt.metrics import CATALOGUE, Type
from jobwatt.parser import build
from trees import Node

ROOT = Path(__file__).parents[1]
INTEROP = ROOT / "interop"
EXPORT = yaml.safe_load((INTEROP / "zabbix/jobwatt_node.yaml").read_text())["zabbix_export"]
(TEMPLATE,) = EXPORT["templates"]
ITEMS, RULES = TEMPLATE["items"], TEMPLATE["discovery_rules"]
PROTOTYPES = [item for rule in RULES for item in rule["item_prototypes"]]
MACRO = re.compile(r"\{#[A-Z]+\}")

# Of Zabbix 7.0's export format (manual, "Export/import: Templates"; its import refuses other keys):
# what may stand in each kind of element, and what must.
ELEMENTS = {
    "item": (
        """uuid name type key delay history trends value_type units description valuemap preprocessing master_item
        tags triggers trigger_prototypes url query_fields authtype username password timeout verify_peer verify_host""",
        "uuid name key",
    ),
    "rule": (
        "uuid name type key delay lifetime description item_prototypes master_item lld_macro_paths preprocessing",
        "uuid name key",
    ),
    "trigger": ("uuid expression name opdata priority description dependencies tags", "uuid expression name"),
    "step": ("type parameters error_handler error_handler_params", "type parameters"),
    "template": (
        "uuid template name description vendor groups items discovery_rules tags macros valuemaps",
        "uuid template groups",
    ),
    "macro": ("macro value description type", "macro"),
    "valuemap": ("uuid name mappings", "uuid name mappings"),
}  # fmt: skip
VALUES = {
    "type": {None, "HTTP_AGENT", "DEPENDENT"},
    "value_type": {None, "FLOAT", "CHAR", "UNSIGNED", "TEXT"},
    "authtype": {None, "BASIC"},
    "priority": {"WARNING", "AVERAGE", "HIGH"},
}
STEPS = {
    "PROMETHEUS_PATTERN": 3,
    "PROMETHEUS_TO_JSON": 1,
    "CHANGE_PER_SECOND": 1,
    "DISCARD_UNCHANGED_HEARTBEAT": 1,
    "JAVASCRIPT": 1,
    "MULTIPLIER": 1,
}


# --- Zabbix -------------------------------------------------------------------------------------------


def check(kind, element):
    may, must = (set(words.split()) for words in ELEMENTS[kind])
    assert must <= element.keys() <= may, (kind, element.keys() ^ may)
    for key, values in VALUES.items():
        if key in may and kind in {"item", "trigger", "rule"}:
            assert element.get(key) in values, (key, element)


def triggers():
    for item in (*ITEMS, *PROTOTYPES):
        yield from item.get("triggers", [])
        yield from item.get("trigger_prototypes", [])


def walk(node):
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from walk(inner)


def test_template_has_the_shape_of_an_export():
    """Zabbix 7.0's import refuses a key that it does not know and an element without its uuid."""
    assert EXPORT.keys() == {"version", "template_groups", "templates"}
    assert EXPORT["version"] == "7.0"
    check("template", TEMPLATE)
    for kind, elements in (
        ("item", [*ITEMS, *PROTOTYPES]), ("rule", RULES), ("trigger", triggers()),
        ("macro", TEMPLATE["macros"]), ("valuemap", TEMPLATE["valuemaps"]),
        ("step", [step for item in (*ITEMS, *PROTOTYPES, *RULES) for step in item.get("preprocessing", [])]),
    ):  # fmt: skip
        for element in elements:
            check(kind, element)
    names = {group["name"] for group in EXPORT["template_groups"]}
    assert {group["name"] for group in TEMPLATE["groups"]} <= names


def test_uuids_are_of_version_4_and_unique():
    """Zabbix demands version 4 without dashes; a uuid that is there twice replaces what it names."""
    uuids = [element["uuid"] for element in walk(EXPORT) if "uuid" in element]
    assert all(re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", uuid) for uuid in uuids)
    assert len(set(uuids)) == len(uuids)


def test_values_are_strings():
    """Zabbix's YAML knows strings, lists and mappings only: 0 without quotes is refused."""
    for element in walk(EXPORT):
        assert all(isinstance(value, (str, list, dict)) for value in element.values()), element


def test_everything_hangs_on_one_request():
    """One item fetches, every other depends on it, and cuts its value out in the first step."""
    (master,) = [item for item in ITEMS if item.get("type") == "HTTP_AGENT"]
    assert master["history"] == "0"
    for item in (*ITEMS, *PROTOTYPES, *RULES):
        if item is master:
            continue
        assert (item["type"], item["master_item"]) == ("DEPENDENT", {"key": master["key"]})
        first = item["preprocessing"][0]["type"]
        assert first == ("PROMETHEUS_TO_JSON" if item in RULES else "PROMETHEUS_PATTERN")
        for step in item["preprocessing"]:
            assert len(step["parameters"]) == STEPS[step["type"]], step
    keys = [item["key"] for item in (*ITEMS, *PROTOTYPES, *RULES)]
    assert len(set(keys)) == len(keys)


def patterns():
    for item in (*ITEMS, *PROTOTYPES, *RULES):
        if "master_item" in item:
            yield item, *item["preprocessing"][0]["parameters"], *[""] * 2


def parsed(pattern):
    name, _, rest = pattern.partition("{")
    return name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', rest))


def test_patterns_are_of_the_catalogue():
    """Every metric and label exists; the request names exactly the families that are used."""
    used = set()
    for _, pattern, how, what, *_ in patterns():
        name, labels = parsed(pattern)
        used.add(name)
        assert set(labels) <= set(CATALOGUE[name].labels)
        assert how != "label" or what in CATALOGUE[name].labels
    asked = [field["value"] for field in ITEMS[0]["query_fields"]]
    assert {field["name"] for field in ITEMS[0]["query_fields"]} == {"name[]"}
    assert asked == sorted(used)
    assert not any("jobid" in CATALOGUE[name].labels for name in asked), "of the node only"


def test_only_counters_become_rates():
    """Change per second of a gauge would be nonsense."""
    for item, pattern, *_ in patterns():
        rates = [s for s in item["preprocessing"] if s["type"] == "CHANGE_PER_SECOND"]
        if rates:
            assert CATALOGUE[parsed(pattern)[0]].type is Type.COUNTER, item["key"]


def page():
    """A real page of eight GPUs; a star stands for what changes from run to run."""
    text = (ROOT / "tests/golden/intel-8gpu.prom").read_text()
    text = re.sub(r" \*$", " 1", text, flags=re.MULTILINE)
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def found(samples, pattern):
    name, labels = parsed(pattern)
    return [s for s in samples if s.name == name and labels.items() <= s.labels.items()]


def test_patterns_match_a_real_page():
    """Each item has one value (or a sum), each discovery its rows, and each macro's path a label."""
    samples = page()
    plain = {id(item) for item in ITEMS}
    for item, pattern, how, *_ in patterns():
        if id(item) in plain:
            values = found(samples, pattern)
            assert values if how == "function" else len(values) == 1, pattern
    for rule in RULES:
        rows = found(samples, rule["preprocessing"][0]["parameters"][0])
        if rule["key"] == "jobwatt.meters":
            assert not rows  # that node has no meter: nothing is discovered
            continue
        assert rows, rule["key"]
        paths = {m["lld_macro"]: m["path"] for m in rule["lld_macro_paths"]}
        for row in rows:
            made = {
                m: row.labels[re.fullmatch(r"\$\.labels\['(\w+)'\]", p)[1]]
                for m, p in paths.items()
            }
            for item in rule["item_prototypes"]:
                pattern = MACRO.sub(
                    lambda m, made=made: made[m[0]], item["preprocessing"][0]["parameters"][0]
                )
                assert len(found(samples, pattern)) == 1, pattern


def test_the_request_of_the_template_on_a_running_daemon(tmp_path):
    """A real daemon answers the master item's request with every figure it needs, and with no job."""
    node = Node(tmp_path / "node", cpus=4, boot_id=BOOT_ID)
    node.add_intel(sockets=1)
    script = nvmlshim.Script.of(tmp_path / "nvml.script", 2)
    fields = [(field["name"], field["value"]) for field in ITEMS[0]["query_fields"]]
    with Daemon(node, tmp_path / "state", script=script) as daemon:
        job = node.add_job(41, cpus=range(2))
        prolog(tmp_path / "state", job, "0")
        daemon.until(lambda page: page.find("jobwatt_job_cpus", jobid="41"))
        daemon.samples()
        text = daemon.get(f"/metrics?{urllib.parse.urlencode(fields)}")
    assert "jobid" not in text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    for item, pattern, *_ in patterns():
        if item in ITEMS:
            assert found(samples, pattern), pattern
    for rule in RULES:
        rows = found(samples, rule["preprocessing"][0]["parameters"][0])
        assert bool(rows) == (rule["key"] != "jobwatt.meters")


def test_macros_are_known_where_they_are_used():
    """A discovery's macros in its prototypes only, and the template's own ones all defined."""
    defined = {macro["macro"] for macro in TEMPLATE["macros"]}
    used = set(re.findall(r"\{\$[A-Z.]+\}", json.dumps(EXPORT)))
    assert used == defined
    for rule in RULES:
        known = {m["lld_macro"] for m in rule["lld_macro_paths"]}
        assert set(MACRO.findall(json.dumps(rule["item_prototypes"]))) <= known
        for item in rule["item_prototypes"]:
            assert MACRO.search(item["key"]), "a prototype's key must differ by what is discovered"
    assert not MACRO.search(json.dumps(ITEMS))
    (password,) = [m for m in TEMPLATE["macros"] if "PASSWORD" in m["macro"]]
    assert password["type"] == "SECRET_TEXT"
    assert "value" not in password


def test_triggers_name_items_that_exist():
    """Each expression's items are the template's, and each dependency a trigger's own words."""
    keys = {item["key"] for item in (*ITEMS, *PROTOTYPES)}
    words = {(trigger["name"], trigger["expression"]) for trigger in triggers()}
    for trigger in triggers():
        named = re.findall(r"\(/([^/]+)/([\w.]+(?:\[[^\]]*\])?)", trigger["expression"])
        assert named
        assert all(host == TEMPLATE["name"] and key in keys for host, key in named), trigger
        for other in trigger.get("dependencies", []):
            assert (other["name"], other["expression"]) in words
    maps = {valuemap["name"] for valuemap in TEMPLATE["valuemaps"]}
    assert {
        item["valuemap"]["name"] for item in (*ITEMS, *PROTOTYPES) if "valuemap" in item
    } <= maps


# --- Prometheus -----------------------------------------------------------------------------------------


@pytest.mark.prometheus
def test_promtool_takes_the_example(tmp_path):
    """promtool has nothing to say of it."""
    shutil.copytree(INTEROP / "prometheus", tmp_path / "prometheus")
    done = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"],
        cwd=tmp_path / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_examples_name_each_page_once():
    """A node that is asked under two jobs has every job twice."""
    config = yaml.safe_load((INTEROP / "prometheus/prometheus.yml").read_text())
    asked = [t for job in config["scrape_configs"] for group in job["static_configs"] for t in group["targets"]]  # fmt: skip
    assert len(set(asked)) == len(asked)


def test_the_page_names_what_exists():
    """docs/interop.md: its flags are the command's, its files are there, its metrics are exported."""
    text = (ROOT / "docs/interop.md").read_text()
    parser = build()
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    known = set(commands.choices["compare"]._option_string_actions)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known
    for name in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / name).exists(), name
    assert set(re.findall(r"jobwatt_[a-z_]+\b(?!\.yaml)", text)) <= set(CATALOGUE) | {
        "jobwatt_node"
    }
    assert max(map(len, text.split("```")[1].splitlines())) <= 96
