"""
How a setting's text becomes a value: each function takes the text and raises ValueError with what is wrong
with it. config.py says which setting is of which kind.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .model import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST_NS = 100 * 366 * 24 * 3600 * NS_PER_S  # what waits can still be told
_UNITS = {"ms": NS_PER_S // 1000, "s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S}


def duration(text: str) -> int:
    """``1s``, ``500ms``, ``10m``, ``1h30m`` as ns, as Prometheus writes durations; ValueError otherwise."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 500ms, 1s or 10m")
    value = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if value > _LONGEST_NS:
        raise ValueError(f"{text[:40]} is longer than a hundred years")
    return value


def positive_duration(text: str) -> int:
    """A duration above zero."""
    value = duration(text)
    if not value:
        raise ValueError("must be longer than 0")
    return value


def interval(text: str) -> int:
    """A sampling interval: 100 ms (what GPM needs between two samples) to 60 s."""
    value = duration(text)
    if not NS_PER_S // 10 <= value <= 60 * NS_PER_S:
        raise ValueError(f"{text} is not between 100ms and 60s")
    return value


def bmc_url(text: str) -> str:
    """A BMC's URL, or "" for none."""
    if text:
        from .sources.redfish_url import parse_url  # noqa: PLC0415  who asks no BMC need not load it

        parse_url(text)
    return text


def bmc_interval(text: str) -> int:
    """
    Time between two questions to a BMC, 10 s to 60 s.

    In-band FreeIPMI took 110 to 170 ms and about 5 % of a CPU when asked each second
    (netdata/netdata#1799), and a BMC has other work: 10 s and more between two questions.
    """
    value = duration(text)
    if not 10 * NS_PER_S <= value <= 60 * NS_PER_S:
        raise ValueError(f"{text} is not between 10s and 60s")
    return value


def remote_interval(text: str) -> int:
    """
    Time between two questions to another page, 1 s to 60 s.

    The page is made anew each second at most; a wall meter that is silent for a minute is not waited
    for (wall.py), and what it saw would be charged to nobody.
    """
    value = duration(text)
    if not NS_PER_S <= value <= 60 * NS_PER_S:
        raise ValueError(
            f"{text} is not between 1s and 60s: a wall meter that is silent for a minute is not waited for"
        )
    return value


def count(text: str) -> int:
    """A whole number from 1 to 100,000."""
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= 100_000:
        raise ValueError(f"{text!r} is no whole number from 1 to 100000")
    return int(text)


def choice(*words: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return parse


def directory(text: str) -> Path:
    """A directory; it need not exist."""
    if not text:
        raise ValueError("must name a directory")
    return Path(text)


def optional_file(text: str) -> Path | None:
    """A file, or "" for none."""
    return Path(text) if text else None


def meter_input(text: str) -> str:
    """Where a wattmeter's frames come from; see ``wattmeter.input``. "" for nowhere."""
    if text.startswith("exec:"):
        if not shlex.split(text.removeprefix("exec:")):
            raise ValueError(
                "exec: names no command, such as exec:wattmetre-read --tty=/dev/ttyUSB0"
            )
    elif text.startswith("tcp://"):
        parts = urlsplit(text)
        if not parts.hostname or not parts.port or parts.path or parts.username:
            raise ValueError(f"{text!r} is not tcp://HOST:PORT")
    elif "://" in text:
        raise ValueError(f"{text!r} is neither a path, nor tcp://HOST:PORT, nor exec:COMMAND")
    return text


_PORT = re.compile(r"(\d{1,3})=([A-Za-z0-9][A-Za-z0-9._-]{0,252})")


def meter_ports(text: str) -> tuple[tuple[str, str], ...]:
    """``1=gpu01,2=gpu01`` as pairs of port and node; a node's name is taken up to its first dot."""
    ports: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _PORT.fullmatch(entry)
        if match is None:
            raise ValueError(f"{entry!r} is not PORT=NODE, as in 1=gpu01,2=gpu01,3=gpu02")
        port = str(int(match[1]))
        if port in ports:
            raise ValueError(f"port {port} is there twice")
        ports[port] = match[2].partition(".")[0]
    return tuple(ports.items())


def page_url(text: str) -> str:
    """An http or https URL without a user in it; /metrics where it names no path. "" for none."""
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.fragment or any(c <= " " for c in text):
        # not the text itself, and not urllib's error: a password may be in it
        raise ValueError("must be http://HOST:PORT/metrics or https://HOST:PORT/metrics") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user or a password: remote.credentials names their file")
    return parts._replace(path=parts.path if parts.path.strip("/") else "/metrics").geturl()


def optional_watts(text: str) -> int | None:
    """Watts as uW, or "" for None; above 0 and at most 10 kW, twenty of the largest processors."""
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}(?:\.\d{1,6})?", text) or not 0 < float(text) <= 10_000:
        raise ValueError(f"{text!r} is no number of watts above 0 and up to 10000")
    return round(float(text) * 1_000_000)
