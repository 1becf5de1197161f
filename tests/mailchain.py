"""
The whole chain, compressed in time: recordings -> exporters -> Prometheus -> Alertmanager -> mail.

An hour lasts ``3600 / FACTOR`` seconds: the exporters play their recordings so many times faster, and every
duration in the rules and in Alertmanager's configuration is so many times shorter (alertmanager.compressed).
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import mailnodes
from alertmanager import SITE, Alertmanager, Mailbox, rendered
from daemon import Page, command, environment
from prom import Prometheus, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FACTOR = 120  # an hour in 30 s, a minute in half a second
CLUSTER = "alpha"
_CONFIG = """\
global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 500ms}}
rule_files: ['{rules}/*.yaml']
alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]}}]}}
scrape_configs:
  - job_name: jobwatt
    static_configs: {targets}
"""
# the age of the oldest value that rules recorded, of those that are still told
_OLDEST = 'time() - min(timestamp({__name__=~"jobwatt:job_.+"}))'


class Alerting(Prometheus):
    """A Prometheus with rules and an Alertmanager; ``nodes``: instance -> port."""

    def __init__(
        self, folder: Path, nodes: Mapping[str, int], rules: Mapping[str, str], alertmanager: int
    ) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "rules").mkdir(parents=True)
        for name, text in rules.items():
            (folder / "rules" / name).write_text(text)
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"cluster": CLUSTER, "instance": node}}
            for node, port in nodes.items()
        ]
        config = folder / "prometheus.yml"
        config.write_text(
            _CONFIG.format(
                rules=folder / "rules", alertmanager=alertmanager, targets=json.dumps(targets)
            )
        )
        argv = [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            "--query.lookback-delta=2500ms",  # five minutes
            "--rules.alert.resend-delay=500ms",  # a minute
        ]
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(argv, stderr=self._log, stdout=self._log, cwd=folder)


class Chain:
    """Everything from recordings to mails; ``pages`` are the exporters' pages with the time they were read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages: list[tuple[float, str, Page]] = []
        self.ages: list[tuple[float, float]] = []  # when asked, and how old the oldest record was
        self._stack = ExitStack()
        self._over = threading.Event()

    def __enter__(self) -> Chain:
        enter = self._stack.enter_context
        recordings = mailnodes.write(self.folder / "recordings")
        self.mailbox = enter(Mailbox())
        files = rendered(SITE, self.folder, self.mailbox.port, FACTOR)
        self.alertmanager = enter(Alertmanager(self.folder / "alertmanager", files))
        self.ports = {node: self._exporter(node, path) for node, path in recordings.items()}
        rules = {n.removeprefix("rules/"): t for n, t in files.items() if n.startswith("rules/")}
        self.prometheus = enter(
            Alerting(self.folder / "prometheus", self.ports, rules, self.alertmanager.port)
        )
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._over.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _exporter(self, node: str, recording: Path) -> int:
        port = free_port()
        argv = command(
            "replay", str(recording), "--loop", f"--speed={FACTOR}",
            f"--sample.interval={mailnodes.STEP_S}s", f"--web.listen-address=127.0.0.1:{port}",
        )  # fmt: skip
        log = self._stack.enter_context((self.folder / f"{node}.log").open("wb"))
        process = subprocess.Popen(argv, stderr=log, stdout=log, env=environment())
        self._stack.callback(process.wait, 60)
        self._stack.callback(process.terminate)
        return port

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            for node, port in self.ports.items():
                with (
                    suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page,
                ):
                    self.pages.append((time.time(), node, Page(page.read().decode())))
            with suppress(OSError):
                self.ages.append((time.time(), self.prometheus.value(_OLDEST)))

    def late_s(self, at: float) -> float:
        """
        How late this machine was with pages and with rules in the half minute before ``at``, where it was.

        A mail's figures went through three evaluations in a row, each of them as late as the latest seen.
        """
        first = next(iter(self.ports))
        times = [when for when, node, _ in self.pages if node == first and at - 30 <= when <= at]
        page_s = max((b - a for a, b in pairwise(times)), default=0.0)
        rule_s = max((age for when, age in self.ages if at - 30 <= when <= at), default=0.0)
        return max(page_s - 0.5, 0.0) + 3 * max(rule_s - 1.0, 0.0)

    def wasted(self, jobid: str, metric: str, at: float) -> float:
        """A job's counter over all nodes as the exporters showed it last before ``at``."""
        last = {node: page for when, node, page in self.pages if when <= at}
        found = [page.find(metric, jobid=jobid) for page in last.values()]
        return sum(float(value) for series in found for value in series.values())
