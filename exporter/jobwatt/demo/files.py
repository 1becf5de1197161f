"""Where the dashboards, Grafana's settings and the viewer's sources are: in an installed package, or in a checkout."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard of the project. ``file`` is its name within the folder."""

    uid: str
    title: str
    file: str
    tags: tuple[str, ...]
    text: str


def grafana() -> Path:
    """The folder with ``dashboards``, ``provisioning`` and ``preview``; OSError where there is none."""
    here = Path(__file__).resolve()
    installed, checkout = here.parent / "grafana", here.parents[3] / "grafana"
    for found in (installed, checkout):
        if found.is_dir():
            return found
    raise FileNotFoundError(
        f"the dashboards are not where they were installed ({installed}); install jobwatt again"
    )


def dashboards(folder: Path) -> list[Dashboard]:
    """The dashboards of a folder by title; what is no dashboard is left out."""
    found = []
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8")
        model = json.loads(text)
        if isinstance(model, dict) and "uid" in model:
            tags = tuple(map(str, model.get("tags") or ()))
            title = str(model.get("title") or path.stem)
            found.append(Dashboard(str(model["uid"]), title, path.name, tags, text))
    return found
