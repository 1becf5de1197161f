r"""
Writes the generated parts of README.md and docs/: tables that the code knows better than any writer.

A part stands between two comments, `<!-- NAME: made by `make docs` -->` and `<!-- end of NAME -->`;
``PARTS`` says what makes it. `make docs` writes all of them, tests/test_docs.py compares.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from jobwatt.alerts import site
from jobwatt.attribute import SYSTEM, UNALLOCATED, Beyond, attribute, by_owner, split_pool
from jobwatt.config import settings
from jobwatt.metrics import CATALOGUE, Metric
from test_attribute import mig_pool, worked_example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
RULES = ROOT / "alerts/rules"
PART = re.compile(r"(<!-- ([a-z-]+): made by `make docs` -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
SERIES = re.compile(r"\bjobwatt[_:][a-z0-9_:]+\b")
UNITS = {
    "joules": "J",
    "watts": "W",
    "seconds": "s",
    "bytes": "B",
    "celsius": "°C",
    "hertz": "Hz",
    "grams_per_kwh": "g/kWh",
    "ratio": "ratio",
}
# what site.toml says of several keys at once, key by key
REMARKS = {
    "domain": "of addresses: the user name at this domain; needed unless only_listed",
    "addresses": "users whose address is another",
    "addresses_file": "the same in a file beside this one, TOML or CSV",
    "contact_url": "where mails say more can be read; default: nowhere",
    "pue_series": "PromQL, instead of pue while it gives a figure",
    "carbon_intensity_series": "PromQL, instead of carbon_intensity_g_per_kwh while it gives a figure",
    "price_per_kwh_series": "PromQL, instead of price_per_kwh while it gives a figure",
    "currency": "of all prices; a word, shown as it is",
    "interactive": "jobs that somebody sits in front of: regular expressions, any match counts; default: none",
    "exclude": "jobs whose owners are never mailed about them: the same kind of expressions; default: none",
}
# the fewest that tell what a job costs and what it wastes: the README's table
SHORT = (
    "jobwatt_job_energy_joules_total",
    "jobwatt_job_power_watts",
    "jobwatt_job_gpu_energy_joules_total",
    "jobwatt_job_gpu_allocated_seconds_total",
    "jobwatt_job_gpu_idle_seconds_total",
    "jobwatt_job_gpu_unknown_seconds_total",
    "jobwatt_job_cpu_seconds_total",
    "jobwatt_job_info",
    "jobwatt_job_coverage_ratio",
    "jobwatt_node_energy_joules_total",
    "jobwatt_system_energy_joules_total",
    "jobwatt_unallocated_energy_joules_total",
    "jobwatt_wall_energy_joules_total",
    "jobwatt_source_up",
)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; a bar inside a cell is escaped."""
    lines = [tuple(head), ("---",) * len(tuple(head)), *map(tuple, rows)]
    return "".join(map(_row, lines))


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def code(words: Iterable[str], between: str = ", ") -> str:
    return between.join(f"`{word}`" for word in words)


# --- metrics -------------------------------------------------------------------------------------


def unit(metric: Metric) -> str:
    name = metric.name.removesuffix("_total")
    return next((short for word, short in UNITS.items() if name.endswith(f"_{word}")), "")


def short_metrics() -> str:
    rows = ([f"`{CATALOGUE[n].name}`", code(CATALOGUE[n].labels), CATALOGUE[n].help] for n in SHORT)
    return table(("metric", "labels", "what it is"), rows)


def metrics() -> str:
    rows = (
        (f"`{m.name}`", str(m.type), unit(m), code(m.labels), m.help) for m in CATALOGUE.values()
    )
    return table(("metric", "type", "unit", "labels", "what it is"), rows)


def uses() -> str:
    rows = (
        (f"`{name}`", code(written_by(name)), ", ".join(shown_by(name)), ", ".join(told_by(name)))
        for name in CATALOGUE
    )
    return table(("metric", "written by", "dashboards", "alerts"), rows)


@cache
def _modules() -> dict[str, str]:
    """Text of the modules that write metrics, by their place in exporter/jobwatt."""
    package = ROOT / "exporter/jobwatt"
    readers = {"metrics.py", "sources/remote_page.py"}  # the catalogue; who reads another's page
    others = ("demo/", "alerts/", "central/compare/")
    texts = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    return {n: t for n, t in sorted(texts.items()) if n not in readers and not n.startswith(others)}


@cache
def written_by(name: str) -> tuple[str, ...]:
    """The modules that give this metric its values."""
    found = [module for module, text in _modules().items() if re.search(rf'"{name}"', text)]
    if not found:  # named without the prefix that all figures of a GPU share
        rest = name.removeprefix("jobwatt_gpu_")
        found = [m for m, text in _modules().items() if "nvml" in m and f'"{rest}"' in text]
    return tuple(found)


@cache
def recorded() -> dict[str, set[str]]:
    """What each recorded series is computed from."""
    found: dict[str, set[str]] = {}
    for rule in _rules():
        if "record" in rule:
            found.setdefault(rule["record"], set()).update(SERIES.findall(rule["expr"]))
    return found


def _rules() -> Iterator[dict[str, Any]]:
    for path in sorted(RULES.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def _behind(expressions: str) -> set[str]:
    """Every series that an expression comes from in the end."""
    open_, seen = set(SERIES.findall(expressions)), set[str]()
    while open_:
        name = open_.pop()
        seen.add(name)
        open_ |= recorded().get(name, set()) - seen
    return seen


@cache
def _dashboards() -> dict[str, set[str]]:
    found = {}
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        plain = json.loads(path.read_text())
        title = plain["title"].removeprefix("jobwatt / ")
        found[title] = _behind(" ".join(_strings(plain)))
    return found


def _strings(plain: Any) -> Iterator[str]:
    if isinstance(plain, str):
        yield plain
    elif isinstance(plain, (dict, list)):
        for inner in plain.values() if isinstance(plain, dict) else plain:
            yield from _strings(inner)


@cache
def alerts() -> dict[str, dict[str, Any]]:
    """Every alert's rule by its name; of one that has several rules, the first."""
    found: dict[str, dict[str, Any]] = {}
    for rule in _rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], rule)
    return found


@cache
def _told() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for rule in _rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], set()).update(_behind(rule["expr"]))
    return found


def shown_by(name: str) -> list[str]:
    """The dashboards whose panels need the metric, themselves or through rules."""
    return [title for title, series in _dashboards().items() if name in series]


def told_by(name: str) -> list[str]:
    """The alerts that need the metric; the owners' are one word where all of them do."""
    found = [alert for alert, series in _told().items() if name in series]
    owners = [alert for alert, rule in alerts().items() if rule["labels"]["audience"] == "user"]
    if set(owners) <= set(found):
        found = ["all of the owners'", *(alert for alert in found if alert not in owners)]
    return [alert.removeprefix("Jobwatt") for alert in found]


# --- settings ------------------------------------------------------------------------------------


def all_settings() -> str:
    rows = []
    for setting in settings():
        meta = setting.metadata
        section, _, key = meta["name"].partition(".")
        switch = meta["parse"] is None
        default = str(bool(meta["shown"])).lower() if switch else str(meta["shown"])
        flag = f"--[no-]{meta['name']}" if switch else f"--{meta['name']}="
        rows.append((f"`[{section}]` `{key}`", f"`{flag}`", f"`{default}`" if default else "none", meta["help"]))  # fmt: skip
    return table(("in the file", "as a flag", "default", "what it is"), rows)


def site_keys() -> str:
    """site.toml's keys, with what its own comments say of them."""
    text = (ROOT / "alerts/site.toml").read_text()
    rows = []
    for section, kind in site._SECTIONS.items():
        for one in fields(kind):
            key = one.metadata["name"] or one.name
            body = text.split(f"[{section}]\n")[1].split("\n[")[0]
            line = re.search(rf"^(?:# )?{key} = (.*)$", body, re.MULTILINE)
            value, remark = _split(line[1] if line else "")
            remark = remark or REMARKS.get(key) or REMARKS[section]
            rows.append((f"`[{section}]` `{key}`", f"`{value}`" if value else "", remark))
    return table(("key", "as in alerts/site.toml", "what it is"), rows)


def _split(text: str) -> tuple[str, str]:
    """Value and remark of a line: the first # that is in no quotes parts them."""
    value = re.match(r"""(?:"[^"]*"|'[^']*'|[^#"'])*""", text)
    assert value
    return value[0].strip(), text[value.end() :].lstrip("# ").strip()


# --- alerts and dashboards ---------------------------------------------------------------------


def all_alerts() -> str:
    rows = []
    # the owners' first, in the order of their precedence
    for name, rule in sorted(
        alerts().items(), key=lambda one: one[1]["labels"]["audience"] == "ops"
    ):
        keys = sorted(set(re.findall(r"jobwatt:threshold:([a-z_]+)", _texts_behind(rule["expr"]))))
        who = "owners" if rule["labels"]["audience"] == "user" else "operators"
        link = f"[{name}](../alerts/runbooks/{name}.md)"
        rows.append((link, who, rule["labels"]["severity"], str(rule.get("for", "")), code(keys)))
    return table(("alert", "for", "severity", "holds for", "keys of `[thresholds]`"), rows)


def _texts_behind(expression: str) -> str:
    return " ".join(_behind(expression))


def all_dashboards() -> str:
    rows = []
    for path in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        plain = json.loads(path.read_text())
        title = plain["title"].removeprefix("jobwatt / ")
        panels = [p for p in _panels(plain["panels"]) if p["type"] != "row"]
        variables = [v["name"] for v in plain["templating"]["list"] if v["name"] != "datasource"]
        rows.append((f"[{title}](#{path.stem})", plain["description"], str(len(panels)), code(variables)))  # fmt: skip
    return table(("dashboard", "what it shows", "panels", "chosen above"), rows)


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


# --- attribution -------------------------------------------------------------------------------


def joules(uj: int) -> str:
    return f"{uj / 10**6:.1f}"


def example() -> str:
    """The worked example, from attribute.py."""
    beyond = Beyond("wall", 1300 * 60 * 10**6 - 67800 * 10**6)
    rows = attribute(worked_example(), beyond).rows
    owners = ("A", "B", SYSTEM, UNALLOCATED)
    lines = []
    for part in ("cpu", "dram", "gpu", "other"):
        of = [sum(uj for (who, d, _), uj in rows.items() if who == o and d == part) for o in owners]
        lines.append((part, *map(joules, of), joules(sum(of))))
    totals = [by_owner(rows).get(owner, 0) for owner in owners]
    lines.append(("**total**", *(f"**{joules(t)}**" for t in (*totals, sum(totals)))))
    return table(("J", "A", "B", "system", "unallocated", "sum"), lines)


def mig_example() -> str:
    pool = mig_pool()
    shares = split_pool(pool)
    held = {"a": ("4g", "4", "80 %"), "b": ("2g", "2", "50 %"), UNALLOCATED: ("1g, free", "1", "-")}
    rows = [(*held[owner], joules(shares[owner])) for owner in held]
    rows.append(("**the GPU**", "7", "", f"**{joules(pool.energy_uj)}**"))
    return table(("instance", "slices", "activity", "J"), rows)


PARTS: dict[str, Callable[[], str]] = {
    "short-metrics": short_metrics,
    "metrics": metrics,
    "uses": uses,
    "settings": all_settings,
    "site": site_keys,
    "alerts": all_alerts,
    "dashboards": all_dashboards,
    "example": example,
    "mig-example": mig_example,
}


def written(text: str) -> str:
    """The page with its generated parts made anew; KeyError for a part that nothing makes."""
    return PART.sub(lambda found: found[1] + PARTS[found[2]]() + found[3], text)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text()))
