"""Prometheus and Alertmanager for the demo: their files, their command lines, and when they are ready."""

from __future__ import annotations

import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from ..alerts import render, site
from . import quicken
from .children import ChildError
from .lifetime import StoppedError
from .ports import hostport
from .simulation import CLUSTER

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

    from .children import Child, Children

LOOPBACK = "127.0.0.1"
SCRAPE_S = 15
_MAX_SAMPLES = 200_000_000  # per query, for the making of the history: a day of a per-job rule


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    host: str
    page: int
    prometheus: int
    alertmanager: int
    first_node: int
    grafana: int
    smtp: int

    @property
    def near(self) -> str:
        """The host as this machine's own programs reach it."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound

    def reach(self, port: int) -> str:
        """host:port to connect to."""
        return hostport(self.near, port)

    def url(self, port: int) -> str:
        """URL of a port, as a browser on this machine would have it."""
        return f"http://{self.reach(port)}"

    def bind(self, port: int) -> str:
        """host:port to listen on."""
        return hostport(self.host, port)


# --- files -----------------------------------------------------------------------------------------


def site_files(template: Path, folder: Path, at: Addresses, dashboards_url: str) -> dict[str, str]:
    """
    The rules and Alertmanager's files of the demo's site, path -> text, with short times.

    ``template``: a site.toml in which @SMARTHOST@ and @GRAFANA@ stand for what differs from run to run.
    """
    text = template.read_text(encoding="utf-8")
    text = text.replace("@SMARTHOST@", hostport(LOOPBACK, at.smtp)).replace(
        "@GRAFANA@", dashboards_url
    )
    path = folder / "site.toml"
    path.write_text(text, encoding="utf-8")
    files = render.texts(site.read(path))
    rules = quicken.rules({name: text for name, text in files.items() if name.startswith("rules/")})
    config = quicken.alertmanager(files["alertmanager/alertmanager.yml"])
    return {**files, **rules, "alertmanager/alertmanager.yml": config}


def write(files: Mapping[str, str], folder: Path) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def prometheus_config(
    folder: Path, at: Addresses, nodes: Mapping[str, int], *, alerting: bool
) -> str:
    """Text of prometheus.yml: the nodes, Alertmanager's own metrics, and the rules below ``folder``."""
    targets = [
        {"targets": [at.reach(port)], "labels": {"cluster": CLUSTER, "instance": node}}
        for node, port in nodes.items()
    ]
    manager = {"static_configs": [{"targets": [at.reach(at.alertmanager)]}]}
    labelled = {"targets": [at.reach(at.alertmanager)], "labels": {"cluster": CLUSTER}}
    scrapes = [{"job_name": "jobwatt", "static_configs": targets}]
    if alerting:
        scrapes.append({"job_name": "alertmanager", "static_configs": [labelled]})
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": [f"{folder}/rules/*.yaml"],
            "alerting": {"alertmanagers": [manager] if alerting else []},
            "scrape_configs": scrapes,
        },
        sort_keys=False,
    )


# --- processes -------------------------------------------------------------------------------------


def start_prometheus(
    children: Children,
    program: str,
    *,
    config: Path,
    data: Path,
    listen: str,
    name: str = "Prometheus",
) -> Child:
    """Start a Prometheus over ``data``."""
    argv = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=60d",
        # of one length: the blocks of the history are left as they are
        "--storage.tsdb.min-block-duration=2h",
        "--storage.tsdb.max-block-duration=2h",
        f"--query.max-samples={_MAX_SAMPLES}",
        f"--web.listen-address={listen}",
        "--log.level=warn",
    ]
    return children.start(name, argv, cwd=config.parent)


def start_alertmanager(children: Children, program: str, *, folder: Path, at: Addresses) -> Child:
    """Start an Alertmanager on the files below ``folder``."""
    argv = [
        program,
        f"--config.file={folder}/alertmanager/alertmanager.yml",
        f"--storage.path={folder}/alertmanager-data",
        f"--web.listen-address={at.bind(at.alertmanager)}",
        f"--web.external-url={at.url(at.alertmanager)}",
        "--cluster.listen-address=",  # no second port, no peers
        "--log.level=warn",
    ]
    return children.start("Alertmanager", argv, cwd=folder)


def wait_ready(child: Child, url: str, stop: threading.Event, limit_s: float = 60.0) -> None:
    """Wait until ``url`` answers with 200; ChildError where the child ends or takes too long, StoppedError on ``stop``."""
    until = time.monotonic() + limit_s
    while not _answers(url):
        if not child.alive:
            raise ChildError(child.ended())
        if time.monotonic() > until:
            raise ChildError(f"{child.name} is not ready after {limit_s:.0f} s: {child.ended()}")
        if stop.wait(0.1):
            raise StoppedError


def _answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  our own, http
        return bool(answer.status == 200)
    return False
