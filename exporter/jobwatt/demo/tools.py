"""The programs that the demo starts: where they are, and for those that are not there how to get them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass

# Debian puts some of them where only root's PATH leads
_MORE = ("/usr/sbin", "/sbin", "/usr/local/bin", "/usr/local/sbin", "/usr/share/grafana/bin")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program: the names it goes by, what the demo is without it, and how to get it."""

    names: tuple[str, ...]
    without: str
    get: str


PROMETHEUS = Tool(
    ("prometheus",),
    "no history, dashboards or mails",
    "apt-get install prometheus, or https://prometheus.io/download",
)
PROMTOOL = Tool(("promtool",), "no history", PROMETHEUS.get)
ALERTMANAGER = Tool(
    ("prometheus-alertmanager", "alertmanager"),
    "no mails",
    "apt-get install prometheus-alertmanager, or https://prometheus.io/download",
)
NODE = Tool(
    ("node",),
    "no dashboards",
    "apt-get install nodejs npm (20 or later), or install Grafana",
)
NPM = Tool(("npm",), NODE.without, NODE.get)


def find(tool: Tool) -> str:
    """Path of the program; "" where there is none."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_MORE))
    for name in tool.names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return ""


def missing(*tools: Tool) -> list[str]:
    """One line for each program that is not there."""
    return [
        f"{tool.names[0]} is missing: {tool.without}; get it: {tool.get}"
        for tool in tools
        if not find(tool)
    ]


def has_smtp() -> bool:
    """Whether the mail catcher's library is installed."""
    return importlib.util.find_spec("aiosmtpd") is not None


NO_SMTP = "aiosmtpd is missing: no mails; get it: pip install aiosmtpd"
