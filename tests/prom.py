"""A real Prometheus on a free port, for as long as a test lasts."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from functools import cache
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_CONFIG = """\
global: {{scrape_interval: {interval}, scrape_timeout: {interval}}}
scrape_configs:
  - job_name: node
    static_configs: [{{targets: {targets}}}]
{jobs}"""


# Below Linux' ephemeral ports (net.ipv4.ip_local_port_range: 32768 to 60999), of which connections and
# whoever binds port 0 are given theirs: a port from here is nobody's until who asked for it binds it
_PORTS, _BLOCK = range(20_000, 32_000), 400


@cache
def _own_ports() -> tuple[socket.socket, Iterator[int]]:
    """This process's block of ports, its own for as long as it lives: an abstract socket's name goes with it."""
    for first in range(_PORTS.start, _PORTS.stop, _BLOCK):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0jobwatt tests, ports {first}")
        except OSError:
            claim.close()
            continue
        return claim, cycle(range(first, first + _BLOCK))
    raise RuntimeError("every block of ports is another process's")


def free_port(row: int = 1) -> int:
    """A port of loopback, the first of ``row`` consecutive ones, that no other test is given, now or later."""
    found: list[int] = []
    for port in islice(_own_ports()[1], 2 * _BLOCK):
        found = [*found, port] if found and port == found[-1] + 1 else [port]
        found = found if _is_free(port) else []
        if len(found) == row:
            return found[0]
    raise RuntimeError(f"no {row} free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind(("127.0.0.1", port))
            udp.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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
        until = time.monotonic() + 60
        while not self._ready():
            said = (self.folder / "prometheus.log").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
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
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/-/ready", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
