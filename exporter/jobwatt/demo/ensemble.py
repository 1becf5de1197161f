"""All that runs in one demo, in the order in which it comes up."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..alerts import inline
from . import cache, files, grafana, mails, past, quicken, recorded, services, status, tools, web
from .cache import Meta
from .children import ChildError
from .drawing import Drawing
from .lifetime import StoppedError
from .making import Maker, Programs
from .simulation import now_s
from .startpage import Start

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping

    from .cache import Cache
    from .children import Child, Children
    from .lifetime import Left
    from .options import Options
    from .ports import Ports
    from .services import Addresses
    from .simulation import Live, Simulation
    from .terminal import Terminal

GRAFANA_LIMIT_S = 90.0
_TEMPLATE = Path(__file__).parent / "data" / "site.toml"


@dataclass(frozen=True, slots=True)
class Stage:
    """
    What every part of a run is given.

    Attributes:
        folder: the run's own, gone when it ends.
        lacking: a line for each program that is not on this machine.
    """

    options: Options
    simulation: Simulation
    at: Addresses
    ports: Ports
    cache: Cache
    folder: Path
    children: Children
    terminal: Terminal
    stop: threading.Event
    left: Left
    lacking: tuple[str, ...] = ()


class Ensemble:
    """
    Starts and stops everything.

    Attributes:
        site: what the page shows.
        services: programs that are to run until the end.
        nodes: port of each node.
        took_s: seconds of each step, by name.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.services: list[Child] = []
        self.nodes: Mapping[str, int] = {}
        self.took_s: dict[str, float] = {}
        now = now_s()
        self.meta = Meta("", stage.simulation.seed, past.first_s(now, stage.options.days), now)
        self._folder = files.grafana()
        self._ledgers, self._data = stage.folder / "ledgers", stage.folder / "data"
        self._mailbox = mails.Mailbox()
        self._drawing = Drawing(self._folder, stage.cache.folder, stage.children, stage.terminal)
        self._usage = status.Usage()
        self.site = web.Site(
            start=Start(),
            mailbox=self._mailbox,
            dashboards=files.dashboards(self._folder / "dashboards"),
            status=status.Status(self).now,
        )
        self._page: web.PageServer | None = None
        self._catcher: mails.Catcher | None = None
        self._live: Live | None = None
        self._grafana: grafana.Grafana | None = None
        self._told: set[int] = set()

    # --- up ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring everything up; StoppedError where the demo is to end meanwhile."""
        self._drawing.begin(with_grafana=self.stage.options.grafana)
        prometheus, promtool = tools.find(tools.PROMETHEUS), tools.find(tools.PROMTOOL)
        if prometheus and promtool:
            with self._timed("history"):
                self._history(Programs(prometheus, promtool))
        with self._timed("services"):
            while not self._drawing.decided.wait(0.2):
                if self.stage.stop.is_set():
                    raise StoppedError
            self._nodes()
            self._grafana_up()  # who draws is known before mails link there
            if prometheus:
                self._alerting(prometheus)
            self._serve()
        self.costs()  # CPU is counted from here on

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took_s[step] = round(time.monotonic() - began, 1)

    def _history(self, programs: Programs) -> None:
        stage = self.stage
        rules = inline.read(_rules(self._site_files("http://localhost")))
        mails = (text for alert in rules.alerts for text in alert.annotations.values())
        names = recorded.wanted((one.text for one in self.site.dashboards), rules.records, mails)
        wanted = past.Wanted(
            key=cache.key(
                stage.simulation.sources(),
                [names, sorted(rules.records.items()), stage.options.days],
            ),
            seed=stage.simulation.seed,
            days=stage.options.days,
            fresh=stage.options.fresh,
            names=names,
            records=rules.records,
        )
        maker = Maker(
            stage.children,
            stage.terminal,
            stage.simulation,
            programs,
            stage.stop,
            stage.ports.any(),
        )
        history, self.meta = past.prepare(
            wanted, stage.cache, maker, stage.folder / "history", stage.terminal
        )
        self._ledgers, self._data = history.ledgers, history.blocks
        self.took_s.update({name: round(took, 1) for name, took in maker.took_s.items()})

    def _nodes(self) -> None:
        stage = self.stage
        self._ledgers.mkdir(exist_ok=True)
        self._live = stage.simulation.live(
            began_s=self.meta.began_s,
            ledgers=self._ledgers,
            host=stage.at.host,
            first_port=stage.at.first_node,
        )
        self.nodes = self._live.start()
        stage.terminal.line(f"{len(self.nodes)} nodes measure and serve")

    def _alerting(self, prometheus: str) -> None:
        """Prometheus with the rules; Alertmanager and the mail server where both can be had."""
        stage, at = self.stage, self.stage.at
        services.write(self._site_files(self._dashboards_url()), stage.folder)
        alertmanager = tools.find(tools.ALERTMANAGER) if tools.has_smtp() else ""
        if alertmanager:
            self._catcher = mails.Catcher(services.LOOPBACK, at.smtp, self._mailbox)
            self._catcher.start()
            child = services.start_alertmanager(
                stage.children, alertmanager, folder=stage.folder, at=at
            )
            self._await(child, f"{at.url(at.alertmanager)}/-/ready")
        config = stage.folder / "prometheus.yml"
        text = services.prometheus_config(stage.folder, at, self.nodes, alerting=bool(alertmanager))
        config.write_text(text, encoding="utf-8")
        child = services.start_prometheus(
            stage.children,
            prometheus,
            config=config,
            data=self._data,
            listen=at.bind(at.prometheus),
        )
        self._await(child, f"{at.url(at.prometheus)}/-/ready")

    def _await(self, child: Child, url: str, limit_s: float = 60.0) -> None:
        services.wait_ready(child, url, self.stage.stop, limit_s)
        self.services.append(child)
        self.stage.terminal.line(f"{child.name} is ready")

    def _grafana_up(self) -> None:
        """Start the Grafana that was found; the viewer draws where it does not come up."""
        stage, at, found = self.stage, self.stage.at, self._drawing.found
        if found is None:
            return
        wanted = self._grafana = grafana.Grafana(
            found,
            self._folder,
            stage.folder / "grafana",
            host=at.host,
            port=at.grafana,
            prometheus=at.url(at.prometheus),
        )
        stage.left.container = wanted.stop_at_once
        child: Child | None = None
        try:
            child = wanted.start(stage.children)
            self._await(child, f"{at.url(at.grafana)}/api/health", GRAFANA_LIMIT_S)
        except ChildError as err:
            stage.terminal.line(f"{err}; the project's viewer draws the dashboards instead")
            if child:
                stage.children.stop(child)
            wanted.stop()
            self._grafana = stage.left.container = None
            self._drawing.fall_back()

    def _serve(self) -> None:
        at = self.stage.at
        self.site.start = self._start_page()
        if any(child.name == "Prometheus" for child in self.services):
            self.site.prometheus = (at.near, at.prometheus)
        self._refresh()
        self._page = web.PageServer(at.host, at.page, self.site)
        self._page.start()

    def _start_page(self) -> Start:
        """What the page says of what has come up."""
        at, names = self.stage.at, {child.name for child in self.services}
        ports = {
            "Prometheus": at.prometheus,
            "Alertmanager": at.alertmanager,
            "Grafana": at.grafana,
        }
        notes = [*self.stage.ports.moved, *self.stage.lacking]
        if "Alertmanager" in names:
            notes.append(f"In this demo {quicken.SAID}.")
        return Start(
            dashboards_url=at.url(at.grafana) if "Grafana" in names else "",
            links={name: f"{at.url(port)}/" for name, port in ports.items() if name in names},
            nodes={node: f"{at.url(port)}/" for node, port in self.nodes.items()},
            notes=notes,
        )

    def _dashboards_url(self) -> str:
        at = self.stage.at
        return at.url(at.grafana if self._drawing.found else at.page)

    def _site_files(self, url: str) -> dict[str, str]:
        return services.site_files(_TEMPLATE, self.stage.folder, self.stage.at, url)

    # --- meanwhile ---------------------------------------------------------------------------------

    def look(self) -> None:
        """Tell of programs that have ended; ChildError where that was Prometheus."""
        self._refresh()
        for child in self.services:
            if child.alive or child.process.pid in self._told:
                continue
            self._told.add(child.process.pid)
            if child.name == "Prometheus":
                raise ChildError(f"{child.ended()}; without it there is nothing to see")
            self.stage.terminal.line(f"{child.ended()}; the demo goes on without it")

    def _refresh(self) -> None:
        self.site.viewer = self._drawing.built
        if self._drawing.why_not:
            self.site.start.no_dashboards = f"no dashboards: {self._drawing.why_not}"

    def costs(self) -> list[status.Cost]:
        """What each program takes."""
        return self._usage.now(self.services)

    @property
    def mails(self) -> int:
        """How many mails have come."""
        return self._mailbox.count

    # --- down --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop what runs in this process, and a container of Grafana; programs are the children's matter."""
        if self._page:
            self._page.stop()
        if self._live:
            self._live.stop()
        if self._catcher:
            self._catcher.stop()
        if self._grafana:
            self._grafana.stop()

    def join(self) -> None:
        """Wait for what worked with programs that have been ended."""
        self._drawing.join()


def _rules(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if name.startswith("rules/")}
