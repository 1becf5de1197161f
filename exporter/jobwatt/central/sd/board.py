"""The list of the moment, and the pages that show it: what the web server serves (web.Site)."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from ...metrics import CATALOGUE
from ..pages import Exposed, document, row
from .kept import encoded
from .targets import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..pages import Families
    from .targets import Group, Groups

_TARGETS = CATALOGUE["jobwatt_sd_targets"]
_HELD = CATALOGUE["jobwatt_sd_held_targets"]
_LEFT_OUT = CATALOGUE["jobwatt_sd_nodes_left_out"]
_SUCCESS = CATALOGUE["jobwatt_sd_success_timestamp_seconds"]
_POLLS = CATALOGUE["jobwatt_sd_polls_total"]
_SHOWN = ("rack", "partitions", "gpu_model", "gpu_count", "state")


class SdBoard:
    """
    Keeps the targets and what became of the questions.

    Args:
        own: renders metrics of the process itself, appended to the page.
    """

    def __init__(self, own: Callable[[], Families] = list) -> None:
        self._exposed = Exposed(self.families, own)
        self._lock = threading.Lock()
        self._groups: Groups = {}
        self._listing = b""
        self._success_s: float | None = None
        self._left_out: Mapping[str, int] = {}
        self._polls: Counter[str] = Counter()
        self._trouble = ""

    @property
    def groups(self) -> Groups:
        """The targets by node; none before there was a list."""
        with self._lock:
            return dict(self._groups)

    def restore(self, groups: Groups, success_s: float) -> None:
        """Take over what a file still had."""
        with self._lock:
            self._groups, self._listing, self._success_s = groups, encoded(groups), success_s

    def put(self, groups: Groups, left_out: Mapping[str, int], now_s: float) -> None:
        """Take a new list."""
        with self._lock:
            self._groups, self._listing, self._success_s = groups, encoded(groups), now_s
            self._left_out, self._trouble = left_out, ""

    def polled(self, outcome: str, trouble: str = "") -> None:
        """Count a question, and what went wrong with it."""
        with self._lock:
            self._polls[outcome] += 1
            self._trouble = trouble

    def targets(self) -> bytes | None:
        """The list as http_sd takes it; None before there is one: Prometheus then keeps what it has."""
        with self._lock:
            return self._listing or None

    def families(self) -> Families:
        """Every series of the discovery, now."""
        with self._lock:
            known = self._success_s is not None
            held = sum(GONE in group["labels"] for group in self._groups.values())
            return [
                (_TARGETS, {(): str(len(self._groups))} if known else {}),
                (_HELD, {(): str(held)} if known else {}),
                (_LEFT_OUT, {(why,): str(n) for why, n in sorted(self._left_out.items())}),
                (_SUCCESS, {(): f"{self._success_s:.3f}"} if known else {}),
                (_POLLS, {(outcome,): str(n) for outcome, n in sorted(self._polls.items())}),
            ]

    def metrics(self, openmetrics: bool, names: frozenset[str]) -> bytes:
        """Return the page; where ``names`` is not empty, only these families."""
        return self._exposed.page(openmetrics, names)

    def page(self) -> str:
        """Return the landing page, as HTML."""
        with self._lock:
            groups, success_s, trouble = list(self._groups.values()), self._success_s, self._trouble
        moment = f"{datetime.fromtimestamp(success_s, UTC):%Y-%m-%d %H:%M} UTC" if success_s else "never"  # fmt: skip
        said = f"<p>{escape(trouble)}</p>" if trouble else ""
        body = _BODY.format(count=len(groups), moment=moment, trouble=said, rows="".join(map(_row, groups)))  # fmt: skip
        return document("targets", body)

    def health(self) -> tuple[bool, str]:
        """Tell whether the process does its work; that slurmctld is away is no fault of it."""
        return True, "asking"

    def ready(self) -> tuple[bool, str]:
        """Tell whether there is a list."""
        known = self._success_s is not None
        return known, f"{len(self.groups)} targets" if known else "no list yet"


def _row(group: Group) -> str:
    labels = group["labels"]
    cells = [labels["instance"], " ".join(group["targets"])]
    cells += [labels.get(f"__meta_slurm_{name}", "").strip(",") for name in _SHOWN]
    cells += ["gone, held" if GONE in labels else ""]
    return row(cells)


_BODY = """<h1>{count} targets</h1><p>slurmctld last answered: {moment}</p>{trouble}
<table><thead><tr><th>node</th><th>target</th><th>rack</th><th>partitions</th><th>GPUs</th><th></th>
<th>state</th><th></th></tr></thead><tbody>{rows}</tbody></table>
<p><a href="sd">sd</a> <a href="metrics">metrics</a></p>"""
