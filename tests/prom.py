"""A real Prometheus on a free port, for as long as a test lasts."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CONFIG = """\
global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: {targets}}}]
{jobs}"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Prometheus:
    """
    Scrapes ``targets`` (host:port) every ``interval`` and answers queries.

    ``jobs`` are further entries of ``scrape_configs``, indented by two.
    """

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        interval: str = "250ms",
        retention: str = "15d",
        jobs: str = "",
    ) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "prometheus.yml"
        config.write_text(
            _CONFIG.format(interval=interval, targets=json.dumps(list(targets)), jobs=jobs)
        )
        argv = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--storage.tsdb.retention.time={retention}",
            "--log.level=warn",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(argv, stderr=self._log, stdout=self._log, cwd=folder)

    def __enter__(self) -> Prometheus:
        until = time.monotonic() + 20
        while not self._ready():
            said = (self.folder / "prometheus.log").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant query's vector: sorted labels -> value."""
        found = self._get("query", query=expression)["result"]
        return {tuple(sorted(one["metric"].items())): float(one["value"][1]) for one in found}

    def value(self, expression: str) -> float:
        """The one value of a query; 0 where there is none."""
        values = list(self.query(expression).values())
        assert len(values) <= 1, expression
        return values[0] if values else 0.0

    def series(self, match: str) -> list[dict[str, str]]:
        """Every series that ever matched."""
        return list(self._get("series", **{"match[]": match}))

    def names(self, pattern: str) -> list[str]:
        """Every metric's name that ever matched."""
        found = urllib.parse.urlencode({"match[]": f'{{__name__=~"{pattern}"}}'})
        return list(self._get(f"label/__name__/values?{found}"))

    def _get(self, what: str, **arguments: str) -> Any:
        query = f"?{urllib.parse.urlencode(arguments)}" if arguments else ""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/-/ready", timeout=1
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
