"""
Regular expressions as Prometheus takes them (RE2, anchored at both ends), checked without RE2.

Python's `re` compiles what RE2 refuses: lookaround, back references, possessive quantifiers. What
both understand is accepted; the few things that only RE2 knows are refused as well, since nothing
here could tell them from a mistake.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from .values import texts

_PARTS = re.compile(
    r"""(?P<escape>\\.)"""
    r"""|(?P<set>\[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\])"""
    r"""|(?P<group>\(\?(?:P[<=>]|<[=!]|[a-zA-Z^-]+[:)]|.)?)"""
    r"""|(?P<repeat>(?:[*+?]|\{\d*,?\d*\})[+])"""
    r"""|(?P<count>\{(?P<least>\d*)(?:,(?P<most>\d*))?\})"""
    r"""|(?P<plain>.)""",
    re.DOTALL,
)
_ESCAPES = frozenset("dDwWsSbBAafnrtvx")  # the letters with a meaning to both
_SETS = frozenset("dDwWsSafnrtvx")
_MOST = 1000  # RE2 repeats no more often


def patterns(value: Any) -> tuple[str, ...]:
    """A list of expressions; ValueError names the one that Prometheus would refuse."""
    found = texts(value)
    for one in found:
        check(one)
    return found


def check(pattern: str) -> None:
    """ValueError for what RE2 refuses, and for what matches jobs that have no such label."""
    for part in _PARTS.finditer(pattern):
        problem = _problem(part)
        if problem:
            raise ValueError(f"{pattern!r} is no regular expression for Prometheus: {problem}")
    if _repeated(pattern) > _MOST:
        raise ValueError(f"{pattern!r} repeats repetitions more than {_MOST} times")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # [[:alpha:]] is a set of letters to RE2
            compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as err:
        raise ValueError(f"{pattern!r} is no regular expression: {err}") from err
    if compiled.fullmatch(""):
        raise ValueError(
            f"{pattern!r} matches the empty text, and so every job; write .+ for any text"
        )


def _repeated(pattern: str) -> int:
    """How often the innermost part is repeated by counts within counts, at most."""
    most, last = [1], 1  # of each open group, of the part just passed
    for part in _PARTS.finditer(pattern):
        found = part.group()
        if part["group"] and not found.endswith(")"):
            most.append(1)
        elif found == ")" and len(most) > 1:
            last = most.pop()
        elif part["count"]:
            last *= max(int(part["least"]), int(part["most"] or 0), 1)
        else:
            last = 1
        most[-1] = max(most[-1], last)
    return max(most)


def _problem(part: re.Match[str]) -> str:
    """Why RE2 would refuse this part; "" where it would not."""
    found = part.group()
    if part["escape"] and found[1].isalnum() and found[1] not in _ESCAPES:
        return f"{found} is not known to it"
    if part["set"]:
        wrong = [e for e in re.findall(r"\\(.)", found) if e.isalnum() and e not in _SETS]
        return f"\\{wrong[0]} is not known to it" if wrong else ""
    if part["group"] and not re.fullmatch(r"\(\?(?:P<|[ims]*(?:-[ims]+)?[:)])", found):
        return f"{found}...) is not known to it (no lookaround, no back references)"
    if part["repeat"] or (part["count"] and not part["least"]):
        return f"{found} is not known to it"
    if part["count"] and max(int(part["least"]), int(part["most"] or 0)) > _MOST:
        return f"{found} repeats more than {_MOST} times"
    return ""


def union(alternatives: tuple[str, ...]) -> str:
    """One expression that matches what any of them does."""
    grouped = (one if re.fullmatch(r"[\w.*+-]+", one) else f"(?:{one})" for one in alternatives)
    return "|".join(grouped)


def literally(word: str) -> str:
    """Return an expression that matches ``word`` alone."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", word)
