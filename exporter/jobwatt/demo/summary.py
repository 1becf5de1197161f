"""What the terminal says once everything runs, and what scripts read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from . import quicken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .ensemble import Ensemble
    from .usage import Cost


def show(ensemble: Ensemble) -> None:
    """Print where everything is, and write the ready file."""
    ensemble.stage.terminal.block(text(ensemble))
    if ensemble.stage.options.ready_file:
        write_ready(ensemble.stage.options.ready_file, ensemble)


def text(ensemble: Ensemble) -> str:
    """The block of URLs, and what to look at."""
    at, start = ensemble.stage.at, ensemble.site.start
    page = at.url(at.page)
    rows = [("start here", f"{page}/"), *start.links.items()]
    if "Prometheus" in start.links:
        rows.insert(1, ("mails", f"{page}/mails   (the first within two or three minutes)"))
    if start.nodes:
        urls = list(start.nodes.values())
        rows.append((f"{len(urls)} nodes", f"{urls[0]} ... {urls[-1]}"))
    lines = [f"  {name:<13} {what}\n" for name, what in rows]
    return "\n" + "".join(lines) + f"\n  {quicken.SAID}.\n  Ctrl-C ends everything.\n\n"


def cost(costs: Sequence[Cost]) -> str:
    """Memory and CPU of everything, in a line."""
    rss, cpu = sum(one.rss_bytes for one in costs), sum(one.cpu_percent for one in costs)
    parts = ", ".join(f"{one.name} {one.rss_bytes / 1e6:.0f} MB" for one in costs)
    return f"all of it takes {rss / 1e6:.0f} MB and {cpu:.0f} % of a CPU ({parts})"


def write_ready(path: Path, ensemble: Ensemble) -> None:
    """Write the ports as JSON, whole or not at all."""
    at = ensemble.stage.at
    found = {
        "pid": os.getpid(),
        "run_dir": str(ensemble.stage.folder),
        "page": at.page,
        "prometheus": at.prometheus,
        "alertmanager": at.alertmanager,
        "smtp": at.smtp,
        "nodes": dict(ensemble.nodes),
        "dashboards_url": ensemble.site.start.dashboards_url or at.url(at.page),
        "history": {"began_s": ensemble.meta.began_s, "until_s": ensemble.meta.until_s},
        "took_s": {"ready": round(ensemble.stage.terminal.elapsed_s, 1), **ensemble.took_s},
        "pids": {child.name: child.process.pid for child in ensemble.services},
    }
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(found, indent=1), encoding="utf-8")
    draft.replace(path)
