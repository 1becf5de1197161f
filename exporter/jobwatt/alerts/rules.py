"""The rule files of a site: those shipped, and site.yaml with what the site has set as series."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING

from . import files, regex, schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .site import Cost, Exclude, Interactive, Site

RUNBOOKS = "alerts/runbooks/"  # what a site's URL is put in place of
_HEAD = """\
# Written by `jobwatt alerts render` from site.toml: what a site sets, as series. Edit site.toml instead.
# Times are in seconds; minutes of mailing are of the UTC day.
groups:
  - name: jobwatt-site
    interval: 1m
    rules:
"""
_COSTS = {
    "jobwatt:site_pue:ratio": "pue",
    "jobwatt:site_carbon_intensity:grams_per_kwh": "carbon_intensity_g_per_kwh",
    "jobwatt:site_price:per_kwh": "price_per_kwh",
    "jobwatt:site_price:per_gpu_hour": "price_per_gpu_hour",
    "jobwatt:site_embodied:grams_per_node_hour": "embodied_g_per_node_hour",
}
_CHANGING = {
    "pue": "pue_series",
    "carbon_intensity_g_per_kwh": "carbon_intensity_series",
    "price_per_kwh": "price_per_kwh_series",
}


def texts(site: Site) -> dict[str, str]:
    """Every rule file of the site, name -> text."""
    shipped = files.rules()
    if site.links.runbooks:
        where = f"{site.links.runbooks}/"
        shipped = {name: text.replace(RUNBOOKS, where) for name, text in shipped.items()}
    return {"site.yaml": site_yaml(site), **shipped}


def site_yaml(site: Site) -> str:
    """The text of rules/site.yaml."""
    rules = (
        f"      - record: {name}\n        expr: {_yaml(expr)}\n" for name, expr in series(site)
    )
    return _HEAD + "".join(rules)


def series(site: Site) -> Iterator[tuple[str, str]]:
    """What site.yaml records: name and expression. What a site has not set is not there."""
    for one in fields(site.thresholds):
        yield (
            f"jobwatt:threshold:{one.name}",
            f"vector({_number(getattr(site.thresholds, one.name))})",
        )
    yield from _costs(site.cost)
    minutes = schedule.utc_minutes(site.schedule.timezone, site.schedule.hours)
    yield "jobwatt:mail_hours:bool", schedule.utc_expression(minutes)
    yield "jobwatt:job_interactive:info", _matching(site.interactive)
    yield "jobwatt:job_excluded:info", _matching(site.exclude)


def _costs(cost: Cost) -> Iterator[tuple[str, str]]:
    """What changes in time is taken from its own series, and from the fixed figure while that is silent."""
    for name, key in _COSTS.items():
        value, changing = getattr(cost, key), getattr(cost, _CHANGING.get(key, ""), "")
        fixed = None if value is None else f"vector({_number(value)})"
        if changing:
            # NaN compares as false: it would make a whole week's sum NaN
            yield name, f"max ({changing}) > -Inf < Inf" + (f" or on () {fixed}" if fixed else "")
        elif fixed:
            yield name, fixed
    if cost.price_per_kwh_series and cost.price_per_kwh is None:
        # a price that is silent for a while is unknown, and not 0
        yield "jobwatt:site_price_changes:bool", "vector(1)"


def _matching(chosen: Interactive | Exclude) -> str:
    """Jobs of which at least one of the labels matches."""
    selectors = [
        f"jobwatt_job_info{{{one.name}=~{json.dumps(regex.union(getattr(chosen, one.name)), ensure_ascii=False)}}}"
        for one in fields(chosen)
        if getattr(chosen, one.name)
    ]
    never = 'jobwatt_job_info{jobid=""}'
    return f"max by (cluster, jobid) ({' or '.join(selectors) or never})"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _yaml(expr: str) -> str:
    """The expression as a YAML scalar: plain where it may be, else in single quotes."""
    return f"'{expr.replace(chr(39), chr(39) * 2)}'" if set(expr) & set("{}'\"#&*:") else expr
