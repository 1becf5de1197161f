"""
Shorter times for the demo: who tries the alerts does not wait for a quarter of an hour.

Only how long a condition must last, how often it is looked at and how long mails are gathered; the
thresholds (an hour of idleness ...) are as in production, for the history has hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

# group -> interval; the site's series come first, or what compares with them would find nothing
_INTERVALS = {"jobwatt-site": "10s", "jobwatt-weeks": "2m", "jobwatt-ops-day": "1m"}
_INTERVAL = "30s"
_FOR = {"user": "15s", "ops": "30s"}
_KEEP = "2m"
_ROUTES = {"users": ("20s", "5m"), "unaddressed": ("20s", "5m"), "operators": ("20s", "2m")}
SAID = (
    "times are shorter than in production: a waste must last 15 s, not 5 min, before it is an alert, and its "
    "mail waits 20 s, not 10 min, for others"
)


def rules(texts: Mapping[str, str]) -> dict[str, str]:
    """Rule files, name -> text, with short times."""
    return {name: _dumped(_rules(yaml.safe_load(text))) for name, text in texts.items()}


def _rules(document: Any) -> Any:
    for group in document["groups"]:
        group["interval"] = _INTERVALS.get(group["name"], _INTERVAL)
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = _FOR.get(rule["labels"].get("audience"), "15s")
            if "keep_firing_for" in rule:
                rule["keep_firing_for"] = _KEEP
    return document


def alertmanager(text: str) -> str:
    """Alertmanager's configuration with short times."""
    document = yaml.safe_load(text)
    route = document["route"]
    for one in (route, *route["routes"]):
        one["group_wait"], one["group_interval"] = _ROUTES[one["receiver"]]
    return _dumped(document)


def _dumped(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
