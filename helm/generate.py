"""
Copies rules, Alertmanager's files and dashboards into the chart, and the daemon's settings into its schema.

Their one source is alerts/, grafana/dashboards/ and exporter/jobwatt/config.py. With --check nothing is written, and
what differs is named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jobwatt.config import settings

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm/jobwatt"
SOURCES = {
    "rules": ("alerts/rules", "*.yaml"),
    "alertmanager": ("alerts/alertmanager", "*"),
    "dashboards": ("grafana/dashboards", "*.json"),
}
# What the chart itself says to the daemon, and what it cannot give a pod: the device of the node's own BMC.
OWN = {
    "bmc.ipmi",
    "path.cgroupfs",
    "path.procfs",
    "path.state",
    "path.sysfs",
    "web.config.file",
    "web.listen-address",
}


def wanted() -> dict[Path, str]:
    """Every generated file's text, by path."""
    files = {
        CHART / "files" / name / source.name: source.read_text(encoding="utf-8")
        for name, (folder, pattern) in SOURCES.items()
        for source in sorted((ROOT / folder).glob(pattern))
    }
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    schema["definitions"]["settings"] = _settings()
    files[path] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return files


def _settings() -> dict[str, object]:
    known: dict[str, object] = {}
    for setting in settings():
        name, parse = setting.metadata["name"], setting.metadata["parse"]
        if name not in OWN:
            kind = "boolean" if parse is None else "string"
            known[name] = {"type": kind, "description": setting.metadata["help"]}
    return {"type": "object", "additionalProperties": False, "properties": known}


def surplus(files: dict[Path, str]) -> list[Path]:
    """Copies whose source is gone."""
    there = (path for path in (CHART / "files").rglob("*") if path.is_file())
    return sorted(path for path in there if path not in files)


def main() -> int:
    """Write, or with --check only compare; 1 where something differs."""
    files = wanted()
    old = surplus(files)
    new = [p for p, text in files.items() if not p.exists() or p.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in [*old, *new]:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not what `make generate` writes\n")
        return int(bool(old or new))
    for path in old:
        path.unlink()
    for path in new:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
