"""Grafana, where it is installed or where a container engine runs: the same dashboards in the real thing."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .children import answer, detach
from .tools import Tool, find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .children import Child, Children

PORT = 3001
# In full: of a short name podman asks which registry is meant, or refuses it
IMAGE = "docker.io/grafana/grafana:12.1.0"
_NATIVE = Tool(("grafana-server", "grafana"), "", "")
_ENGINES = ("docker", "podman")
_ANSWER_S = 5.0
_END_S = 20.0
# Nobody logs in, nothing is fetched or sent, nothing is kept.
_SETTINGS = {
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    "GF_USERS_ALLOW_SIGN_UP": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_FEEDBACK_LINKS_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_SNAPSHOTS_EXTERNAL_ENABLED": "false",
    "GF_LOG_MODE": "console",
    "GF_LOG_LEVEL": "warn",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A way to run Grafana: a program, or a container engine's client."""

    program: str
    container: bool = False

    @property
    def what(self) -> str:
        """What a person calls it."""
        return (
            f"Grafana in a container ({Path(self.program).name}, {IMAGE})"
            if self.container
            else "Grafana"
        )


def look() -> Found | None:
    """Grafana on this machine, else an engine that answers, else None."""
    native = find(_NATIVE)
    if native:
        return Found(native)
    for name in _ENGINES:
        engine = shutil.which(name)
        if engine and answer([engine, "info"], _ANSWER_S) is not None:
            return Found(engine, container=True)
    return None


def fetch(found: Found, children: Children) -> None:
    """Have the image on this machine; ChildError where it cannot be had."""
    if found.container:
        children.run("the image of Grafana", [found.program, "pull", "--quiet", IMAGE], limit_s=600)


class Grafana:
    """
    One Grafana over files of the project.

    Args:
        files: the folder with ``provisioning`` and ``dashboards``.
        data: a folder of its own.
    """

    def __init__(
        self, found: Found, files: Path, data: Path, *, host: str, port: int, prometheus: str
    ) -> None:
        self._found, self._files, self._data = found, files, data
        self._host, self._port, self._prometheus = host, port, prometheus
        self._name = f"jobwatt-demo-{os.getpid()}-{secrets.token_hex(3)}"

    def start(self, children: Children) -> Child:
        """Start it; ChildError where that fails at once."""
        self._data.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, **self.environment()}
        return children.start("Grafana", self.argv(), env=env, cwd=self._data)

    def stop(self) -> None:
        """A container may outlive the client that started it; by its name it can be ended."""
        if self._found.container:
            answer(self._remove(), _END_S)

    def stop_at_once(self) -> None:
        """Do not wait for the end of it, nor raise."""
        if self._found.container:
            detach(self._remove())

    def argv(self) -> list[str]:
        """The command line."""
        if self._found.container:
            return self._container()
        program = self._found.program
        server = [] if Path(program).name == "grafana-server" else ["server"]
        home = homepath(Path(program))
        return [program, *server, *([f"--homepath={home}"] if home else [])]

    def environment(self) -> Mapping[str, str]:
        """Settings, where the data source is, and where the dashboards are."""
        return self._settings(self._data, self._files)

    def _settings(self, data: Path, files: Path) -> dict[str, str]:
        return {
            **_SETTINGS,
            "GF_SERVER_HTTP_ADDR": self._host,
            "GF_SERVER_HTTP_PORT": str(self._port),
            "GF_PATHS_DATA": str(data),
            "GF_PATHS_LOGS": str(data / "log"),
            "GF_PATHS_PLUGINS": str(data / "plugins"),
            "GF_PATHS_PROVISIONING": str(files / "provisioning"),
            "JOBWATT_PROMETHEUS_URL": self._prometheus,
            "JOBWATT_SCRAPE_INTERVAL": "1m",  # four of them hold two samples of the history
            "JOBWATT_DASHBOARDS": str(files / "dashboards"),
        }

    def _remove(self) -> list[str]:
        return [self._found.program, "rm", "--force", self._name]

    def _container(self) -> list[str]:
        inside = Path("/jobwatt")
        settings = self._settings(Path("/var/lib/grafana"), inside)
        env = [f"--env={name}={value}" for name, value in settings.items()]
        return [
            self._found.program, "run", "--rm", f"--name={self._name}",
            "--network=host",  # Prometheus listens on loopback only
            f"--volume={self._files}:{inside}:ro",
            *env, IMAGE,
        ]  # fmt: skip


def homepath(program: Path) -> Path | None:
    """The folder with Grafana's own files: beside its program, or where packages put it."""
    beside = (parent for start in (program, program.resolve()) for parent in start.parents[:2])
    for folder in (*beside, Path("/usr/share/grafana")):
        if (folder / "conf" / "defaults.ini").is_file():
            return folder
    return None
