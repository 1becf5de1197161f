"""
What a single value of site.toml may be. Each function takes what TOML gave and returns it parsed;
ValueError says what is wrong and how to mend it, for whoever knows file and key to put in front.
"""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOWS = ("30m", "1h", "2h", "4h", "8h", "1d")  # of idle time: the rules compute these
_LONGEST_S = 100 * 366 * 86_400
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
# RFC 5321's dot-string within ASCII: no quoted local parts, no comma, space or bracket anywhere
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADDRESS = re.compile(rf"(?P<local>{_LOCAL})@(?P<domain>{_DOMAIN.pattern})")
_MAILBOX = re.compile(r"(?P<name>[^<>@\",;:\\]*?)\s*<(?P<address>[^<>]+)>")


def text(value: Any) -> str:
    """One line of text."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} must be a string; put it in quotes")  # noqa: TRY004  one error for all
    if not value.isprintable():
        raise ValueError(f"{value!r} must be one line, without control characters")
    return value


def some_text(value: Any) -> str:
    """One line of text that is not empty."""
    if not text(value).strip():
        raise ValueError("must not be empty; leave the key out instead")
    return text(value).strip()


def flag(value: Any) -> bool:
    """A truth."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} must be true or false, without quotes")  # noqa: TRY004
    return value


def texts(value: Any) -> tuple[str, ...]:
    """A list of lines."""
    if not isinstance(value, list):
        raise ValueError(f'{value!r} must be a list, such as ["a", "b"]')  # noqa: TRY004
    return tuple(some_text(item) for item in value)


# --- mail ----------------------------------------------------------------------------------------


def address(value: Any) -> str:
    """A bare address, ``alice@example.org``."""
    found = _ADDRESS.fullmatch(text(value))
    if not found or len(found["local"]) > 64 or len(value) > 254:
        raise ValueError(f"{value!r} is not an address such as alice@example.org")
    return str(value)


def addresses(value: Any) -> tuple[str, ...]:
    """At least one address."""
    if isinstance(value, str):
        value = [value]
    found = tuple(address(one) for one in texts(value))
    if not found:
        raise ValueError('must name somebody, such as ["hpc-operators@example.org"]')
    return found


def mailbox(value: Any) -> str:
    """An address with or without a name: ``GPU monitor <gpu@example.org>``."""
    found = _MAILBOX.fullmatch(text(value))
    bare = address(found["address"] if found else value)
    return f"{found['name']} <{bare}>" if found and found["name"] else bare


def domain(value: Any) -> str:
    """A mail domain."""
    if not _DOMAIN.fullmatch(text(value)) or len(value) > 253:
        raise ValueError(f"{value!r} is not a domain such as example.org (no @ in front)")
    return str(value)


def hostport(value: Any) -> str:
    """``host:port``, an IPv6 address in brackets."""
    host, _, port = text(value).rpartition(":")
    named = _DOMAIN.fullmatch(host) or re.fullmatch(r"\[[0-9A-Fa-f:.]+\]", host)
    if not named or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65_536:
        raise ValueError(f"{value!r} is not host:port, such as smtp.example.org:587")
    return str(value)


def absolute_path(value: Any) -> str:
    """A file of the machine that Alertmanager runs on."""
    if not PurePosixPath(text(value)).is_absolute():
        raise ValueError(
            f"{value!r} must be an absolute path: Alertmanager reads the file, on its machine"
        )
    return str(value)


def url(value: Any) -> str:
    """An http(s) URL; a slash at its end is dropped."""
    if not re.fullmatch(r"https?://[^\s/?#\"'<>`{}\\]+(?:/[^\s\"'<>`{}\\]*)?", text(value)):
        raise ValueError(f"{value!r} is not a URL such as https://grafana.example.org")
    if re.match(r"https?://[^/]*@", value):
        raise ValueError("must not carry a password or a user name: it stands in every mail")
    return str(value).rstrip("/")


_GREATEST = 1 << 63  # what Go's templates and JSON's readers can hold


# --- figures -------------------------------------------------------------------------------------


def number(least: float, most: float = math.inf, hint: str = "") -> Callable[[Any], float]:
    """A number in a range, both ends included."""

    def parse(value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -_GREATEST
            < value
            < _GREATEST  # NaN is not either, and an int may have any length
        ):
            raise ValueError(f"{value!r:.40} must be a number, without quotes")
        if not least <= value <= most:
            bound = f"{least:g} or more" if most == math.inf else f"between {least:g} and {most:g}"
            raise ValueError(f"{value!r} must be {bound}{hint and f'; {hint}'}")
        return value

    return parse


def whole(least: int) -> Callable[[Any], float]:
    """A whole number from ``least`` on."""
    in_range = number(least)

    def parse(value: Any) -> float:
        if in_range(value) != int(value):
            raise ValueError(f"{value!r} must be a whole number")
        return int(value)

    return parse


_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`[^`]*`")
_SCALAR = re.compile(
    r"[-+]?[\d.]+(?:e[-+]?\d+)?|(?:time|pi|scalar)\s*\(.*\)", re.IGNORECASE | re.DOTALL
)
_OPENED_BY = {")": "(", "}": "{", "]": "["}


def promql(value: Any) -> str:
    """
    PromQL in one line that gives an instant vector, to be set in parentheses: each bracket and quote of
    it is closed again. What only Prometheus can tell, `promtool check rules` says of the rendered file.
    """
    text_ = some_text(value)
    if _SCALAR.fullmatch(text_):
        raise ValueError(
            f"{value!r} is a number, not a series; use the fixed key, or vector({text_})"
        )
    bare, opened = _QUOTED.sub("", text_), []
    for char in bare:
        if char in "({[":
            opened.append(char)
        elif char in _OPENED_BY and (not opened or opened.pop() != _OPENED_BY[char]):
            opened.append("")
            break
    if opened or set(bare) & set("\"'`#"):
        raise ValueError(
            f"{value!r} is no PromQL: a bracket or a quote is not closed, or # begins a comment"
        )
    return text_


def grams_per_kwh(value: Any) -> float:
    """A carbon intensity; what looks like kilograms is refused."""
    grams = number(0, 3000, "it is in grams of CO2e per kWh")(value)
    if 0 < grams < 2:
        raise ValueError(f"{value!r} looks like kilograms; it is in grams of CO2e per kWh")
    return grams


def span(value: Any) -> float:
    """``30s``, ``10m``, ``1h30m``, ``1d`` in seconds, above 0."""
    parts = re.findall(r"(\d+)([smhd])", text(value))
    seconds = sum(int(count) * _UNIT_S[unit] for count, unit in parts)
    if not seconds or "".join(count + unit for count, unit in parts) != value:
        raise ValueError(f"{value!r} is not a time such as 30s, 10m, 1h30m or 1d")
    if seconds > _LONGEST_S:
        raise ValueError(f"{value!r:.40} is longer than a hundred years")
    return seconds


def window(value: Any) -> float:
    """One of the windows that idle time is computed over, in seconds."""
    if value not in WINDOWS:
        raise ValueError(
            f"{value!r} must be one of {', '.join(WINDOWS)}: idle time is computed over these"
        )
    return span(value)
