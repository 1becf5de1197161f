"""The page that a newcomer opens first: what runs where, what to look at, what it costs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .files import Dashboard

_NODE_PAGE = "node"


@dataclass(slots=True)
class Start:
    """
    What the page says.

    Attributes:
        dashboards_url: of the Grafana that draws them; "" for this page's own viewer.
        links: name -> URL of what else runs.
        nodes: node -> URL.
        notes: what is missing, and how to get it; and what differs from production.
        no_dashboards: why there are none, while there are none.
    """

    dashboards_url: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    no_dashboards: str = "the dashboards' viewer is being built; they will be here in a minute"


# uid of a dashboard or path of a page, its name, what is to be seen there
HINTS = (
    (
        "/mails",
        "Mails",
        "whoever holds idle GPUs gets one: what it has cost, and the command that ends it",
    ),
    ("jobwatt-cluster", "Cluster", "where the power goes, and how many GPUs are held and not used"),
    ("jobwatt-account", "Lab", "a lab's week: energy, cost, and who uses what"),
    (
        "jobwatt-user",
        "User",
        "one user's week: energy, cost, and the share of the GPU time that was used",
    ),
    (
        "jobwatt-job",
        "Job",
        "power and use of each GPU, memory, and what was wasted; mails link here",
    ),
    ("jobwatt-behaviour", "Efficiency", "what idle, starved and oversized jobs have in common"),
    (
        "jobwatt-balance",
        "Energy balance",
        "jobs + system + unallocated = node, exactly, at any time",
    ),
    ("jobwatt-node", "Node", "one node's devices, jobs and faults"),
    (_NODE_PAGE, "A node's own page", "what its exporter shows without any Prometheus"),
)

_SCRIPT = r"""
const show = (id, text) => { document.getElementById(id).textContent = text }
const mb = bytes => Math.round(bytes / 1e6) + ' MB'
const look = async () => {
  const status = await (await fetch('/status.json')).json()
  const total = status.total
  show('cost', `${mb(total.rss_bytes)} of memory, ${total.cpu_percent.toFixed(0)} % of a CPU`)
  show('parts', status.processes.map(p => `${p.name} ${mb(p.rss_bytes)}, ${p.cpu_percent.toFixed(0)} %`).join(' · '))
  show('mailcount', status.mails)
  if (status.nodes_up !== null) show('nodesup', `${status.nodes_up} of ${status.nodes} answer Prometheus`)
  if (status.dashboards_ready && document.body.querySelector('#waiting')) location.reload()
}
const again = () => look().catch(() => show('cost', 'the demo has ended')).finally(() => setTimeout(again, 5000))
again()
"""


def render(start: Start, dashboards: Sequence[Dashboard], *, viewer: bool) -> tuple[str, str]:
    """The page and its content security policy."""
    dashboards = sorted(dashboards, key=_order)
    nonce = secrets.token_urlsafe(16)
    drawn = viewer or bool(start.dashboards_url)
    body = "".join(
        (
            _notes(start.notes),
            _dashboards(start, dashboards, drawn=drawn),
            '<div class="two">',
            _hints(start, dashboards, drawn=drawn),
            _running(start),
            "</div>",
            _nodes(start),
            f'<script nonce="{nonce}">{_SCRIPT}</script>',
        )
    )
    about = "a simulated cluster under the real exporters, rules and mails; Ctrl-C in the terminal ends it"
    return look.page("jobwatt demo", about, body), look.policy(nonce)


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{look.text(note)}</li>" for note in notes)
    return f'<section class="problems"><h2>To know</h2><ul>{lines}</ul></section>' if lines else ""


def _dashboards(start: Start, dashboards: Sequence[Dashboard], *, drawn: bool) -> str:
    if not drawn:
        what = f'<p class="empty" id="waiting">{look.text(start.no_dashboards)}</p>'
    else:
        tiles = "".join(
            f'<li><a href="{look.text(_at(start, one.uid))}">{look.text(one.title)}</a></li>'
            for one in dashboards
        )
        what = f'<ul class="tiles">{tiles}</ul>'
    return f"<section><h2>Dashboards</h2>{what}</section>"


def _order(dashboard: Dashboard) -> tuple[int, str]:
    """As in the hints; others after them, by title."""
    known = [where for where, _, _ in HINTS]
    return (known.index(dashboard.uid) if dashboard.uid in known else len(known), dashboard.title)


def _at(start: Start, uid: str) -> str:
    return f"{start.dashboards_url}/d/{uid}"


def _hints(start: Start, dashboards: Sequence[Dashboard], *, drawn: bool) -> str:
    targets = {one.uid: _at(start, one.uid) for one in dashboards if drawn}
    targets["/mails"] = "/mails"
    if start.nodes:
        targets[_NODE_PAGE] = next(iter(start.nodes.values()))
    lines = "".join(
        f'<li><a href="{look.text(targets[where])}">{look.text(name)}</a>: {look.text(what)}</li>'
        for where, name, what in HINTS
        if where in targets
    )
    return f"<section><h2>What to look at</h2><ol>{lines}</ol></section>"


def _running(start: Start) -> str:
    rows = "".join(
        f'<tr><th scope="row">{look.text(name)}</th><td><a href="{look.text(url)}">{look.text(url)}</a></td></tr>'
        for name, url in start.links.items()
    )
    return (
        f'<section><h2>What runs</h2><table class="list"><tbody>{rows}'
        '<tr><th scope="row">mails</th><td><a href="/mails"><span id="mailcount">0</span> caught</a></td></tr>'
        '<tr><th scope="row">all of it</th><td><span id="cost">…</span><br><small id="parts"></small></td></tr>'
        "</tbody></table></section>"
    )


def _nodes(start: Start) -> str:
    if not start.nodes:
        return ""
    tiles = "".join(
        f'<li><a href="{look.text(url)}">{look.text(node)}</a></li>'
        for node, url in start.nodes.items()
    )
    return f'<section><h2>Nodes <span class="count" id="nodesup"></span></h2><ul class="tiles">{tiles}</ul></section>'
