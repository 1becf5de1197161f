"""What the commands that ask a Prometheus about the past have in common: the flags of the server, and times."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from . import inline, promapi

if TYPE_CHECKING:
    import argparse
    from datetime import tzinfo

_UNIX = re.compile(r"\d{9,11}(?:\.\d+)?")
_RELATIVE = re.compile(r"(?:now)?-?((?:\d+[smhdwy])+)")


class TimeError(ValueError):
    """A flag's time is none; one line says why."""


def add_span(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the server and of the time that is looked at."""
    # argparse takes -7d for a flag unless it looks like a negative number to it
    parser._negative_number_matcher = re.compile(r"-\d\S*")  # noqa: SLF001  no public way
    add = parser.add_argument
    add(
        "--prometheus",
        required=True,
        metavar="URL",
        help="the server to ask, e.g. http://prometheus:9090",
    )
    add(
        "--from",
        dest="start",
        required=True,
        metavar="TIME",
        help="RFC 3339, Unix, or relative (-7d)",
    )
    add("--to", dest="end", default="now", metavar="TIME", help="the same (default now)")


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how to get in to the server."""
    add = parser.add_argument
    add(
        "--prometheus.user",
        dest="prometheus_user",
        default="",
        metavar="NAME",
        help="for basic authentication",
    )
    for name, text in (
        ("password-file", "its password"),
        ("bearer-token-file", "a bearer token instead"),
        ("ca-file", "the CA that the server's certificate is checked against"),
    ):
        add(
            f"--prometheus.{name}",
            dest=f"prometheus_{name.replace('-', '_')}",
            type=Path,
            metavar="FILE",
            help=text,
        )


def server(args: argparse.Namespace) -> promapi.Prometheus:
    """The server of the flags."""
    access = promapi.Access(
        args.prometheus_user,
        args.prometheus_password_file,
        args.prometheus_bearer_token_file,
        args.prometheus_ca_file,
    )
    return promapi.Prometheus(args.prometheus, access)


def moment(text: str, now: float, zone: tzinfo) -> float:
    """
    Unix time of ``now``, ``-7d``, ``now-1h30m``, a Unix time, or RFC 3339; a time without an offset
    is of ``zone``. TimeError for anything else.
    """
    relative = _RELATIVE.fullmatch(text)
    try:
        if text == "now" or relative:
            at = now - (inline.seconds(relative[1]) if relative else 0)
        elif _UNIX.fullmatch(text):
            at = float(text)
        else:
            local = datetime.fromisoformat(text)
            at = (local if local.tzinfo else local.replace(tzinfo=zone)).timestamp()
        datetime.fromtimestamp(at, zone)
    except (ValueError, OverflowError, OSError) as err:
        raise TimeError(f"{text!r} is not a time such as 2026-11-23T08:00:00Z, -7d or now") from err
    return at
