"""
Rule files read, and any of their expressions written out over raw metrics. Pure.

A recorded series is only ever used bare: no matchers, range, offset or ``@`` on it, at most a
subquery; and a recording rule adds no labels. Then a recorded name may be replaced by
``(its expression)`` wherever it stands, and an alert can be evaluated over past data of a
Prometheus in which no rule was ever installed. ``check`` holds rule files to this.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# What PromQL is made of, as far as names are concerned: a name inside a string, a comment, a range
# or a number (5m, 1e3, 0x1F) is none.
_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
    r"""|(?P<comment>\#[^\n]*)"""
    r"""|(?P<range>\[[^\]]*\])"""
    r"""|(?P<number>\d[\w.]*)"""
    r"""|(?P<name>[A-Za-z_:][\w:]*)"""
    r"""|(?P<space>\s+)"""
    r"""|(?P<other>.)""",
    re.DOTALL,
)
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d|w|y)")
_UNIT_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
# What PyYAML raises beside its own errors for a value that looks like a number, a date or a tag and is none.
_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError, OverflowError)  # fmt: skip
_MOST = 1 << 18  # characters of an expression written out; of ours the longest has 1 << 14
RECORDED = "jobwatt:"  # what every recorded name begins with
NOTHING = "(vector(1) < 0)"  # in place of a series that a site has not set


class RuleError(ValueError):
    """Rules that cannot be read or break the inlining rule: which one, and why."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule. ``for_s``, ``keep_firing_s``: seconds; ``labels`` are plain text."""

    name: str
    expr: str
    for_s: float = 0.0
    keep_firing_s: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rule files together: recorded name -> expression, and the alerts in the files' order."""

    records: Mapping[str, str]
    alerts: tuple[Alert, ...] = ()

    def user_alerts(self) -> tuple[Alert, ...]:
        """The alerts whose mails go to the owners of jobs, in their order of precedence."""
        return tuple(alert for alert in self.alerts if alert.labels.get("audience") == "user")


def read(texts: Mapping[str, str]) -> Rules:
    """Rule files (name -> YAML text) as one set; RuleError names the file and the rule."""
    documents = {}
    for name, text in texts.items():
        try:
            documents[name] = yaml.safe_load(text)
        except _NOT_YAML as err:
            raise RuleError(f"{name}: not YAML: {' '.join(str(err).split())}") from err
    return of(documents)


def of(documents: Mapping[str, Any]) -> Rules:
    """Parsed rule files (name -> document) as one set, checked."""
    records: dict[str, str] = {}
    alerts: list[Alert] = []
    for where, rule in _each(documents):
        if "record" in rule:
            if rule["record"] in records:
                raise RuleError(f"{where}: {rule['record']} is recorded twice")
            if rule.get("labels"):
                raise RuleError(f"{where}: {rule['record']}: a recording rule may add no labels")
            records[rule["record"]] = str(rule["expr"])
        else:
            alerts.append(_alert(where, rule))
    rules = Rules(records, tuple(alerts))
    check(rules)
    return rules


def _each(documents: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, document in documents.items():
        try:
            rules = [
                (group["name"], rule) for group in document["groups"] for rule in group["rules"]
            ]
            for group, rule in rules:
                if not _is_rule(rule):
                    raise RuleError(f"{name}: group {group}: neither a recording rule nor an alert")
                yield f"{name}: group {group}", rule
        except (KeyError, TypeError) as err:
            raise RuleError(f"{name}: not a rule file ({err!r})") from err


def _is_rule(rule: Any) -> bool:
    if not isinstance(rule, dict) or ("record" in rule) == ("alert" in rule):
        return False
    texts = (rule.get("record", ""), rule.get("alert", ""))
    tables = (rule.get("labels") or {}, rule.get("annotations") or {})
    return (
        "expr" in rule
        and all(isinstance(text, str) for text in texts)
        and all(
            isinstance(table, dict) and all(isinstance(n, str) for n in table) for table in tables
        )
    )


def _alert(where: str, rule: Mapping[str, Any]) -> Alert:
    labels = {name: str(value) for name, value in (rule.get("labels") or {}).items()}
    templated = [name for name, value in labels.items() if "{{" in value]
    if templated and labels.get("audience") == "user":  # replay could not tell whose mail it is
        raise RuleError(f"{where}: {rule['alert']}: label {templated[0]} is a template")
    return Alert(
        str(rule["alert"]),
        str(rule["expr"]),
        seconds(rule.get("for", "0s")),
        seconds(rule.get("keep_firing_for", "0s")),
        labels,
        dict(rule.get("annotations") or {}),
    )


def seconds(duration: str) -> float:
    """A duration of Prometheus (``1h30m``) in seconds; RuleError for anything else."""
    parts = _DURATION.findall(str(duration))
    if not parts or "".join(number + unit for number, unit in parts) != str(duration):
        raise RuleError(f"{duration!r} is not a duration such as 5m or 1h30m")
    return sum(int(number) * float(_UNIT_S[unit]) for number, unit in parts)


def names(expr: str) -> set[str]:
    """Every name in an expression: metrics, functions, operators, labels."""
    return {text for kind, text in _tokens(expr) if kind == "name"}


def check(rules: Rules) -> None:
    """Raise RuleError for the first use of a recorded series that is not bare, or of an unknown one."""
    for name, expr in _expressions(rules):
        tokens = list(_tokens(expr))
        for at, (kind, text) in enumerate(tokens):
            if kind == "name" and (text.startswith(RECORDED) or text in rules.records):
                after = tokens[at + 1] if at + 1 < len(tokens) else ("", "")
                _check_use(rules, name, text, after)
            elif kind == "text" and text[1:].startswith(RECORDED):
                raise RuleError(
                    f"{name}: {text} is used by a matcher; recorded series are used bare"
                )


def _check_use(rules: Rules, name: str, used: str, after: tuple[str, str]) -> None:
    if used not in rules.records and not used.startswith(f"{RECORDED}site_"):
        raise RuleError(f"{name}: {used} is recorded nowhere")
    kind, text = after
    subquery = kind == "range" and ":" in text
    if text in {"{", "offset", "@"} or (kind == "range" and not subquery):
        raise RuleError(f"{name}: {text} on {used}; recorded series are used bare")


def _expressions(rules: Rules) -> Iterator[tuple[str, str]]:
    yield from rules.records.items()
    yield from ((alert.name, alert.expr) for alert in rules.alerts)


def expand(expr: str, records: Mapping[str, str]) -> str:
    """
    ``expr`` over raw metrics: every recorded name replaced by its expression, comments left out.

    A ``jobwatt:site_...`` that a site does not set becomes an empty result. RuleError for names that
    are recorded by way of themselves.
    """
    try:
        return _Expansion(records).of(expr, ())
    except RecursionError as err:
        raise RuleError(f"{expr[:80]!r}: recorded by way of too many others") from err


class _Expansion:
    """One pass; what a name stands for is worked out once."""

    def __init__(self, records: Mapping[str, str]) -> None:
        self._records = records
        self._done: dict[str, str] = {}

    def of(self, expr: str, within: tuple[str, ...]) -> str:
        parts = (
            self._name(text, within) if kind == "name" else text
            for kind, text in _tokens(expr, spaces=True)
        )
        text = "".join(parts).strip()
        if len(text) > _MOST:
            raise RuleError(f"{expr[:80]!r}: more than {_MOST} characters when written out")
        return text

    def _name(self, name: str, within: tuple[str, ...]) -> str:
        if name not in self._records:
            return NOTHING if name.startswith(f"{RECORDED}site_") else name
        if name in within:
            raise RuleError(f"{name} is recorded by way of itself: {' -> '.join((*within, name))}")
        if name not in self._done:
            self._done[name] = f"({self.of(self._records[name], (*within, name))})"
        return self._done[name]


def _tokens(expr: str, *, spaces: bool = False) -> Iterator[tuple[str, str]]:
    """Kind and text of each part; without comments, and with white space as one blank or left out."""
    for match in _TOKEN.finditer(expr):
        kind, text = str(match.lastgroup), match.group()
        if kind in {"comment", "space"}:
            if spaces:
                yield "space", " "
        else:
            yield kind, text


def metrics(rules: Rules, exprs: Iterable[str], prefix: str = "jobwatt_") -> set[str]:
    """Names of the raw metrics that these expressions need, through all they use."""
    return {
        name for e in exprs for name in names(expand(e, rules.records)) if name.startswith(prefix)
    }
