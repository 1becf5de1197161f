"""
The landing page: a node's jobs, their watts and joules, and what is not measured and why.

A pure function from a view to HTML. No script, nothing loaded from anywhere, everything escaped:
names of jobs are whatever a user typed. A mark never relies on colour alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from .pagerows import WASTE_SHARE
from .readable import DASH, duration, energy, power

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .pagerows import JobRow, PageView, SourceRow

REFRESH_S = 5
COVERED = 0.995  # coverage below this is said


_ODD = "\N{REPLACEMENT CHARACTER}"


def render(view: PageView) -> str:
    """Return the whole page."""
    return "\n".join(_document(view))


def _document(view: PageView) -> Iterator[str]:
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta http-equiv="refresh" content="{REFRESH_S}">'
    yield '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
    yield f"<title>{_text(view.node)} · jobwatt</title><style>{STYLE}</style></head><body>"
    yield from _head(view)
    yield "<main>"
    yield from _problems(view.problems)
    yield from _node(view)
    yield from _jobs(view.jobs)
    yield from _sources(view.sources)
    yield "</main>"
    yield f"<footer>jobwatt {_text(view.version)}</footer></body></html>"


def _head(view: PageView) -> Iterator[str]:
    moment = datetime.fromtimestamp(view.wall_s, UTC)
    yield f"<header><h1>{_text(view.node)}</h1><p>measured "
    yield f'<time datetime="{moment.isoformat(timespec="seconds")}">{moment:%Y-%m-%d %H:%M:%S} UTC</time>'
    yield f' · refreshes every {REFRESH_S} s · <a href="metrics">metrics</a></p></header>'


def _problems(problems: Iterable[str]) -> Iterator[str]:
    lines = "".join(f"<li>{_text(problem)}</li>" for problem in problems)
    if lines:
        yield '<section class="problems" aria-labelledby="p"><h2 id="p">'
        yield f'<span aria-hidden="true">⚠ </span>Not measured</h2><ul>{lines}</ul></section>'


_COMPONENTS = (("cpu", "CPU"), ("dram", "Memory"), ("gpu", "GPUs"), ("other", "Other"))


def _node(view: PageView) -> Iterator[str]:
    known = [job.watts for job in view.jobs if job.watts is not None and not job.ended]
    total = sum(view.watts.values()) if view.watts else None
    owners = (
        ("Jobs", sum(known) if known else 0.0 if not view.jobs else None, None),
        ("System", view.system.watts, view.system.joules),
        ("Unallocated", view.unallocated.watts, view.unallocated.joules),
    )
    yield '<section class="node" aria-labelledby="n"><h2 id="n">Power now</h2>'
    yield f'<p class="total">{power(total)}</p><div class="bars">'
    yield "<table><caption>where it is drawn</caption><tbody>"
    for key, name in _COMPONENTS:
        yield _bar(name, view.watts.get(key), total, "not measured", _text(view.feeds.get(key, "")))
    yield "</tbody></table><table><caption>who it is for</caption><tbody>"
    for name, watts, joules in owners:
        note = "" if joules is None else f"{energy(joules)} so far"
        yield _bar(name, watts, total, "unknown", note)
    yield f"</tbody></table></div>{_balance(view.balance)}</section>"


def _balance(balance: float | None) -> str:
    """How the wall meter compares, in words: below the sensors is a fault of one of them."""
    if balance is None:
        return ""
    how = "more" if balance >= 0 else "less"
    share = f"{abs(100 * balance):.1f} % {how}"
    return f'<p class="legend">The wall meter shows {share} than the chips\' own sensors.</p>'


def _bar(name: str, watts: float | None, total: float | None, absent: str, note: str = "") -> str:
    if watts is None:
        figure, bar = f'<td class="none" colspan="2">{absent}</td>', ""
    else:
        share = min(1.0, max(0.0, watts / total)) if total else 0.0
        figure = f'<td class="n">{power(watts)}</td>'
        fill = f'<i style="width:{100 * share:.1f}%"></i>' if share else ""
        bar = f'<td class="bar">{fill}</td>'
    noted = f" <small>{note}</small>" if note else ""
    return f'<tr><th scope="row">{name}{noted}</th>{figure}{bar}</tr>'


_COLUMNS = (
    ("Job", ""),
    ("User", ""),
    ("Time", "n"),
    ("CPUs", "n"),
    ("GPUs", ""),
    ("GPU use", "n"),
    ("Power", "n"),
    ("Energy", "n"),
    ("GPU idle", "n"),
)


def _jobs(jobs: tuple[JobRow, ...]) -> Iterator[str]:
    running = sum(not job.ended for job in jobs)
    ended = f", {len(jobs) - running} ended" if len(jobs) > running else ""
    yield '<section aria-labelledby="j"><h2 id="j">Jobs '
    yield f'<span class="count">{running} running{ended}</span></h2>'
    if not jobs:
        yield '<p class="empty">No job on this node.</p></section>'
        return
    head = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in _COLUMNS)
    yield f'<div class="wide"><table class="jobs"><thead><tr>{head}</tr></thead><tbody>'
    yield from map(_job, sorted(jobs, key=_order))
    yield "</tbody></table></div>"
    if any(job.wasteful for job in jobs):
        yield '<p class="legend"><span class="mark">▲</span> wasted: GPUs held while no kernel ran '
        yield f"on them, for {100 * WASTE_SHARE:.0f} % of the job's GPU time or more</p>"
    yield "</section>"


def _order(job: JobRow) -> tuple[bool, float, str]:
    return job.ended, -(job.watts or 0.0), job.jobid


def _job(job: JobRow) -> str:
    cells = (
        _who(job),
        f"{_text(job.user) or DASH}<small>{_text(_joined(job.account, job.partition))}</small>",
        duration(job.running_s),
        str(job.cpus) if job.cpus else DASH,
        _text(", ".join(job.gpus)) or DASH,
        DASH if job.gpu_busy_percent is None else f"{job.gpu_busy_percent:.0f} %",
        DASH if job.ended else power(job.watts),
        energy(job.joules) + _coverage(job.coverage),
        _unused(job),
    )
    row = "".join(
        f'<td class="{kind}" data-label="{name}">{cell}</td>'
        for (name, kind), cell in zip(_COLUMNS, cells, strict=True)
    )
    classes = " ".join(("ended",) * job.ended + ("waste",) * job.wasteful)
    return f'<tr class="{classes}">{row}</tr>'


def _who(job: JobRow) -> str:
    badge = ' <span class="badge">ended</span>' if job.ended else ""
    name = f'<small class="name">{_text(job.name)}</small>' if job.name else ""
    return f"<b>{_text(job.jobid)}</b>{badge}{name}"


def _text(text: str) -> str:
    """Escape; and show what is no printable character, since it could change how a row reads."""
    return escape("".join(char if char.isprintable() else _ODD for char in text))


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _coverage(coverage: float | None) -> str:
    if coverage is None or coverage >= COVERED:
        return ""
    return f"<small>{int(coverage * 100)} % measured</small>"


def _unused(job: JobRow) -> str:
    if not job.gpus:
        return DASH
    mark = '<span class="mark" role="img" aria-label="wasted:">▲</span> ' if job.wasteful else ""
    cost = f"<small>{energy(job.idle_joules)}</small>" if job.idle_gpu_s else ""
    return f"<span>{mark}{duration(job.idle_gpu_s)}</span>{cost}"


def _sources(sources: Iterable[SourceRow]) -> Iterator[str]:
    rows = "".join(
        f'<tr><th scope="row">{_text(source.name)}</th>'
        f'<td class="{"up" if source.up else "down"}">{"● up" if source.up else "○ down"}</td>'
        f"<td>{_text(source.message)}</td></tr>"
        for source in sources
    )
    if rows:
        yield '<section aria-labelledby="s"><h2 id="s">Sources</h2>'
        yield f'<table class="sources"><tbody>{rows}</tbody></table></section>'


STYLE = """
:root{--bg:#f7f7f5;--card:#fff;--text:#1d2126;--soft:#5c6570;--line:#e2e3e0;--bar:#2f6f9f;
--track:#e9ecee;--waste:#9a4a00;--wastebg:#fff3e2;--bad:#a4262c;--link:#1f5f8f}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--text:#e6e8ea;--soft:#9aa4ae;
--line:#2d3338;--bar:#5aa3d8;--track:#2a3036;--waste:#ffb765;--wastebg:#33260f;--bad:#ff9a94;
--link:#84c1ee}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.25rem;max-width:76rem;background:var(--bg);color:var(--text);
font:15px/1.45 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
a{color:var(--link)}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 1rem;margin-bottom:1rem}
h1{font-size:1.5rem;margin:0;overflow-wrap:anywhere}
header p,footer{color:var(--soft);margin:0;font-size:.875rem}
h2{font-size:1rem;margin:0 0 .6rem}
.count{font-weight:400;color:var(--soft);margin-left:.35rem}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:1rem 1.1rem;margin-bottom:1rem}
.problems{border-left:4px solid var(--waste)}
.problems h2{color:var(--waste)}
.problems ul{margin:0;padding-left:1.2rem}
li,.sources td:last-child{overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}
caption{text-align:left;color:var(--soft);font-size:.8125rem;padding-bottom:.25rem}
th{text-align:left;font-weight:400}
td,th{padding:.15rem .75rem .15rem 0;vertical-align:baseline}
.n{text-align:right;white-space:nowrap}
small{color:var(--soft);font-size:.8125rem}
.total{font-size:2.1rem;font-weight:650;margin:0 0 .5rem;line-height:1.1}
.bars{display:grid;grid-template-columns:1fr 1fr;gap:1rem 2.5rem;align-items:start}
.bars table{table-layout:fixed}
.bars th{width:45%}
.bars td.n{width:5.5rem}
.bars td.bar{padding:.5rem 0 0;vertical-align:top}
.bar{line-height:0}
.bar i{display:inline-block;height:.6rem;min-width:1px;background:var(--bar);border-radius:3px}
.none{color:var(--soft);font-style:italic}
.wide{overflow-x:auto}
.jobs{line-height:1.35}
.jobs th{color:var(--soft);font-size:.8125rem;border-bottom:1px solid var(--line);
padding-bottom:.4rem;vertical-align:bottom}
.jobs td{padding-top:.5rem;padding-bottom:.5rem;border-bottom:1px solid var(--line);
vertical-align:top}
.jobs tr:last-child td{border-bottom:0}
.jobs td:last-child,.jobs th:last-child{padding-right:.4rem}
.jobs td:first-child{padding-left:.4rem}
.jobs th:first-child{padding-left:.4rem}
.jobs small{display:block}
.jobs td:nth-child(2){max-width:12rem;overflow-wrap:anywhere}
.jobs .name{max-width:15rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.waste td:last-child{background:var(--wastebg)}
.waste td:last-child>span{color:var(--waste);font-weight:650}
.mark{color:var(--waste)}
.ended td{color:var(--soft)}
.ended b{font-weight:400}
.badge{border:1px solid var(--line);border-radius:99px;padding:0 .45rem;font-size:.75rem}
.legend,.empty{color:var(--soft);margin:.6rem 0 0;font-size:.875rem}
.sources th,.sources td:nth-child(2){white-space:nowrap}
.sources td:last-child{width:100%}
.down{color:var(--bad);font-weight:650}
@media(max-width:46rem){
body{padding:.75rem}
.bars{grid-template-columns:1fr}
.bars th{width:38%}
.bars small{display:block}
.jobs thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
.jobs,.jobs tbody{display:block}
.jobs tr{display:grid;grid-template-columns:1.3fr 1fr 1fr;gap:.45rem .75rem;padding:.75rem 0;
border-bottom:1px solid var(--line)}
.jobs tr:last-child{border-bottom:0}
.jobs td,.jobs td:first-child,.jobs td:last-child{border:0;padding:0;min-width:0;text-align:left;
white-space:normal;overflow-wrap:anywhere}
.jobs td:first-child{grid-column:1/-1}
.jobs td:last-child{grid-column:2/-1}
.jobs td::before{content:attr(data-label);display:block;color:var(--soft);font-size:.75rem}
.jobs td:first-child::before{content:none}
.jobs .name{max-width:100%}
.sources tr{display:block;padding:.25rem 0}
.sources td,.sources th{display:inline-block}
.sources td:last-child{display:block}
}
"""
