"""
One question to slurmctld, by a child that can be killed (ask.py).

A library call cannot be: with slurmctld away libslurm waits for ten seconds and more, and importing pyslurm
may end the process. What comes back is read as if a stranger had written it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...slurm.controller import child_environment
from ...slurm.text import clean
from .ask import LARGEST
from .bounded import AskError, run
from .nodes import Node, gathered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .settings import SdConfig

COMMAND = (sys.executable, "-P", "-m", "jobwatt.central.sd.ask")
_REASONS = ("unreachable", "too_large", "spawn", "timeout", "malformed")


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What slurmctld said.

    Attributes:
        odd: records that could not be read, or were not believed.
        by: pyslurm or scontrol.
    """

    nodes: Sequence[Node]
    cluster: str = ""
    odd: int = 0
    by: str = ""


def ask(config: SdConfig, command: Sequence[str] = COMMAND) -> Answer:
    """Ask for every node; AskError where there is no answer, or none that can be used."""
    wanted = [
        *(["units"] if config.rack.source == "switch" else []),
        *([] if config.cluster else ["cluster"]),
    ]
    env = child_environment(config.slurm_conf)
    try:
        out, err, code = run([*command, *wanted], env, config.timeout_s, LARGEST, session=True)
    except AskError as trouble:
        if trouble.reason != "timeout":
            raise
        raise AskError(
            "timeout", f"slurmctld gave no answer within {config.timeout_s:g} s"
        ) from None
    try:
        said = json.loads(out)
    except (ValueError, RecursionError):
        last = err.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit {code}"]
        raise AskError("malformed", f"no answer can be read: {clean(last[0], 300)}") from None
    return _answer(said if isinstance(said, dict) else {})


def _answer(said: dict[str, Any]) -> Answer:
    if "error" in said:
        reason = said["error"] if said["error"] in _REASONS else "exception"
        raise AskError(reason, clean(str(said.get("message", "")), 400))
    records, units, odd = said.get("nodes"), said.get("units"), said.get("odd")
    known = [one for one in records if isinstance(one, dict)] if isinstance(records, list) else []
    nodes, unnamed = gathered(known, units if isinstance(units, dict) else {})
    odd = unnamed + (odd if isinstance(odd, int) else 0)
    if not nodes:
        reason, what = ("malformed", "none that can be read") if odd else ("no_nodes", "no node")
        raise AskError(reason, f"slurmctld names {what} (PrivateData=nodes hides them from users)")
    return Answer(nodes, clean(str(said.get("cluster", "")), 128), odd, str(said.get("by", "")))
