"""The flags of `jobwatt sd`, and what they come to."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ConfigError, nearest
from ...kinds import duration
from ...model import NS_PER_S
from .nodes import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OUT = "/var/lib/jobwatt-sd/targets.json"
WITHOUT_A_MACHINE = "POWERED_DOWN,POWERING_DOWN,FUTURE"
_SUFFIX = re.compile(r"\.?[A-Za-z0-9](?:[A-Za-z0-9.-]{0,200}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rack:
    """
    Where a node's rack is read.

    Attributes:
        source: switch, feature, name, comment, extra, or none.
        pattern: its first group (the whole match without one) is the rack; None for switch and none.
    """

    source: str
    pattern: re.Pattern[str] | None = None


def rack(text: str) -> Rack:
    """``switch``, ``none``, or a field of the node's and a pattern for it."""
    source, colon, pattern = text.partition(":")
    if not colon and source in {"switch", "none"}:
        return Rack(source)
    if source not in {"feature", "name", "comment", "extra"} or not pattern:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not switch, none, or one of feature, name, comment, extra with a pattern, "
            "as in name:(r[0-9]+)"
        )
    try:
        return Rack(source, re.compile(pattern))
    except re.error as err:
        raise argparse.ArgumentTypeError(f"{pattern!r} is no regular expression: {err}") from err


def _out(text: str) -> Path | None:
    if text and not text.endswith((".json", ".JSON")):
        raise argparse.ArgumentTypeError(
            f"{text!r}: Prometheus takes file_sd files named *.json only"
        )
    return Path(text) if text else None


def _between(least_s: int, most_s: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = duration(text) / NS_PER_S
        except (ValueError, ConfigError) as err:
            raise argparse.ArgumentTypeError(str(err)) from err
        if not least_s <= value <= most_s:
            raise argparse.ArgumentTypeError(f"{text} is not between {least_s}s and {most_s}s")
        return value

    return parse


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
    return int(text)


def _one_of(*known: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
        return text

    return parse


def _domain(text: str) -> str:
    if text and not _SUFFIX.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no domain such as cluster.example.org")
    return f".{text.removeprefix('.')}" if text else ""


def _label(text: str) -> str:
    if not text.isprintable() or len(text) > 128:
        raise argparse.ArgumentTypeError("must be one line of at most 128 characters")
    return text


def _list(text: str) -> frozenset[str]:
    return frozenset(filter(None, (word.strip() for word in text.split(","))))


def _states(text: str) -> frozenset[str]:
    found = frozenset(word.upper() for word in _list(text))
    for word in sorted(found - STATES):
        raise argparse.ArgumentTypeError(f"{word!r} is no state of a node{nearest(word, STATES)}")
    return found


def _flag(name: str, parse: Callable[[str], Any], default: str, metavar: str, text: str) -> Any:
    """Make a field of a flag: its default is written once, as on the command line."""
    flag = {"flag": f"--sd.{name}", "parse": parse, "default": default, "metavar": metavar, "text": text}  # fmt: skip
    return field(default=parse(default), metadata=flag)


@dataclass(frozen=True, slots=True)
class SdConfig:
    """What is asked, which nodes are wanted, and how they are written. Times in seconds."""

    out: Path | None = None
    interval_s: float = _flag(
        "interval", _between(10, 86400), "5m", "TIME", "time between two questions, 10s to 24h"
    )
    timeout_s: float = _flag(
        "timeout", _between(1, 600), "60s", "TIME", "after this a question is given up"
    )
    hold_s: float = _flag(
        "hold",
        _between(0, 604800),
        "1h",
        "TIME",
        "how long targets stay when more than half of them are gone at once; 0s to let them go",
    )
    port: int = _flag("port", _port, "9816", "PORT", "the exporter's port")
    scheme: str = _flag("scheme", _one_of("http", "https"), "http", "SCHEME", "http or https")
    address: str = _flag(
        "address",
        _one_of("addr", "host", "name"),
        "addr",
        "WHAT",
        "which name is asked: addr (NodeAddr), host (NodeHostName) or name (NodeName)",
    )
    domain: str = _flag("domain", _domain, "", "SUFFIX", "appended to names without a dot")
    rack: Rack = _flag(  # noqa: RUF009  frozen, as all that is made here
        "rack",
        rack,
        "switch",
        "WHERE",
        "switch (the topology's leaf switch or block), feature:REGEX, name:REGEX, comment:REGEX, extra:REGEX or none",
    )
    cluster: str = _flag(
        "cluster", _label, "", "NAME", "the label `cluster`; default ClusterName of slurm.conf"
    )
    partitions: frozenset[str] = _flag(
        "partitions", _list, "", "LIST", "only nodes of one of these"
    )
    excluded: frozenset[str] = _flag(
        "exclude-states",
        _states,
        WITHOUT_A_MACHINE,
        "LIST",
        "no nodes in one of these states, as `scontrol show node` prints them",
    )
    only_gpus: bool = False
    slurm_conf: Path | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags to its parser."""
    add = parser.add_argument
    add("--out", type=_out, default=OUT, metavar="FILE",
        help=f'what Prometheus\' file_sd_configs reads, named *.json; "" for none (default {OUT})')  # fmt: skip
    add("--once", action="store_true",
        help="ask once, write the file, exit; 1 where slurmctld gave no answer that can be used")  # fmt: skip
    for one in fields(SdConfig):
        if told := one.metadata:
            shown = f" (default {told['default']})" if told["default"] else ""
            add(told["flag"], dest=f"sd.{one.name}", type=told["parse"], default=told["default"],
                metavar=told["metavar"], help=told["text"] + shown)  # fmt: skip
    add("--sd.only-gpus", dest="sd.only_gpus", action="store_true", help="only nodes with GPUs")
    for name, default, metavar, text in (
        ("slurm.conf", "", "FILE", "slurm.conf for the child that asks slurmctld"),
        ("web.listen-address", ":9819", "ADDRESS", "host:port to serve metrics and /sd (http_sd) on"),
        ("web.config.file", "", "FILE", "TLS and basic auth, as for serve"),
        ("log.level", "info", "LEVEL", "debug, info, warning or error"),
    ):  # fmt: skip
        shown = f" (default {default})" if default else ""
        add(f"--{name}", dest=name, default=default or None, metavar=metavar, help=text + shown)


def chosen(given: Mapping[str, object], slurm_conf: Path | None) -> SdConfig:
    """The settings of a parsed command line."""
    named = {key.removeprefix("sd."): value for key, value in given.items() if key.startswith("sd.")}  # fmt: skip
    return SdConfig(out=given["out"], slurm_conf=slurm_conf, **named)  # type: ignore[arg-type]  # each flag's type makes it
