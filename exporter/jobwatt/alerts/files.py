"""Where the shipped rules, templates and settings are: in an installed package, or in a checkout."""

from __future__ import annotations

from pathlib import Path


def root() -> Path:
    """Return the directory with ``site.toml``, ``rules`` and ``alertmanager``; OSError where there is none."""
    here = Path(__file__).resolve()
    installed, checkout = here.parent / "data", here.parents[3] / "alerts"
    for found in (installed, checkout):
        if (found / "site.toml").is_file():
            return found
    raise FileNotFoundError(
        f"the alerts are not where they were installed ({installed}); install jobwatt again"
    )


def rules() -> dict[str, str]:
    """Return the shipped rule files, name -> text; site.yaml, which each site has its own of, left out."""
    paths = sorted((root() / "rules").glob("*.yaml"))
    return {
        path.name: path.read_text(encoding="utf-8") for path in paths if path.name != "site.yaml"
    }


def alertmanager() -> dict[str, str]:
    """Return Alertmanager's files as shipped, name -> text."""
    folder = root() / "alertmanager"
    names = ("alertmanager.yml", "jobwatt.tmpl")
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}
