"""
The making of the history: the nodes' past as text, as blocks of Prometheus, and what rules would have recorded.

Slice by slice, so that the text of a week never lies on the disk at once: while one slice becomes blocks, the
next is written. The nodes of a slice are written by two processes.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..alerts import promapi
from . import recorded, services
from .lifetime import StoppedError
from .simulation import STEP_S

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from .cache import History
    from .children import Children
    from .simulation import Simulation
    from .terminal import Terminal

SLICE_S = 86_400
WRITERS = 2
_EOF = b"# EOF\n"
_PROGRESS = re.compile(r"progress ([01]\.\d+)$")


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of what makes blocks and answers queries."""

    prometheus: str
    promtool: str


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds: the history's first, and the first and last of the part to be made."""

    began_s: int
    from_s: int
    to_s: int

    @property
    def short(self) -> bool:
        """Whether it is done before anybody wonders how far it is."""
        return self.to_s - self.from_s < 3600

    def slices(self) -> list[tuple[int, int]]:
        """The part in slices; a short rest belongs to the last one. All but its ends are multiples of STEP_S."""
        second = self.from_s // STEP_S * STEP_S + SLICE_S
        edges = [self.from_s, *range(second, self.to_s - SLICE_S // 4, SLICE_S)]
        return list(zip(edges, [*edges[1:], self.to_s], strict=True))


class Maker:
    """Makes parts of a history until ``stop``. ``port``: for the Prometheus that answers meanwhile."""

    def __init__(
        self,
        children: Children,
        terminal: Terminal,
        simulation: Simulation,
        programs: Programs,
        stop: threading.Event,
        port: int,
    ) -> None:
        self._children, self._terminal, self._simulation = children, terminal, simulation
        self._programs, self.stop, self._port = programs, stop, port
        self.took_s: dict[str, float] = {}

    def extend(
        self, history: History, span: Span, names: Sequence[str], records: Mapping[str, str]
    ) -> None:
        """Make a part of the history and what would have been recorded meanwhile."""
        work = history.folder.with_name("work")
        work.mkdir(exist_ok=True)
        began = time.monotonic()
        self._raw(history, span, work)
        self._took("nodes", time.monotonic() - began)
        began = time.monotonic()
        if names:
            self._recorded(history, span, work, names, records)
        self._took("rules", time.monotonic() - began)
        shutil.rmtree(work)

    def _took(self, step: str, seconds: float) -> None:
        self.took_s[step] = self.took_s.get(step, 0.0) + seconds

    # --- what the nodes showed ---------------------------------------------------------------------

    def _raw(self, history: History, span: Span, work: Path) -> None:
        groups = _dealt(self._simulation.nodes, WRITERS)
        slices = span.slices()
        with ThreadPoolExecutor(WRITERS) as writers, ThreadPoolExecutor(1) as packer:
            packing: list[Future[None]] = []
            for number, one in enumerate(slices):
                progress = _Progress(self._terminal, span, len(groups), number)
                texts = [work / f"{number}-{group}.om" for group in range(len(groups))]
                self._wait(
                    [
                        writers.submit(
                            self._write, text, history.ledgers, span, one, nodes, progress.of(group)
                        )
                        for group, (text, nodes) in enumerate(zip(texts, groups, strict=True))
                    ]
                )
                self._wait(packing)  # one slice waits at most: the disk holds the text of two
                packing = [
                    packer.submit(self._pack, texts, history.blocks, work / f"blocks-{number}")
                ]
            self._wait(packing)

    def _write(
        self,
        text: Path,
        ledgers: Path,
        span: Span,
        one: tuple[int, int],
        nodes: Sequence[str],
        watch: Callable[[str], None],
    ) -> None:
        argv = self._simulation.writer(
            text,
            ledgers,
            began_s=span.began_s,
            end_s=span.to_s,
            span=one,
            nodes=nodes,
        )
        self._children.run(f"history {text.stem}", argv, watch=watch)

    def _pack(self, texts: Sequence[Path], blocks: Path, work: Path) -> None:
        """Texts become blocks. Joined before: blocks of the same time would have to be merged later."""
        join(texts)
        self._blocks(texts[0], blocks, work)

    def _blocks(self, text: Path, blocks: Path, work: Path) -> None:
        argv = [
            self._programs.promtool, "tsdb", "create-blocks-from", "openmetrics", "--quiet",
            "--max-block-duration=162h",  # long ones: each reads the whole file
            str(text), str(work),
        ]  # fmt: skip
        self._children.run(f"promtool {work.name}", argv)
        text.unlink()
        for block in work.iterdir() if work.is_dir() else ():
            block.rename(blocks / block.name)
        shutil.rmtree(work, ignore_errors=True)

    # --- what the rules would have recorded --------------------------------------------------------

    def _recorded(
        self,
        history: History,
        span: Span,
        work: Path,
        names: Sequence[str],
        records: Mapping[str, str],
    ) -> None:
        told = _Told(self._terminal, span, len(names))
        text = work / "recorded.om"
        with self._serving(history.blocks, work) as url, ThreadPoolExecutor(1) as pool:
            api = promapi.Prometheus(url)
            task = pool.submit(
                recorded.write, text, api, names, records, (span.from_s, span.to_s), told.one
            )
            self._wait([task])
        tidy(history.blocks)
        if task.result():
            self._blocks(text, history.blocks, work / "recorded")
        for name, took_s in told.slowest():
            self._took(f"rule {name}", took_s)

    @contextmanager
    def _serving(self, blocks: Path, work: Path) -> Iterator[str]:
        """URL of a Prometheus over the blocks, which scrapes nothing."""
        config = work / "prometheus.yml"
        config.write_text("scrape_configs: []\n", encoding="utf-8")
        listen = f"127.0.0.1:{self._port}"
        server = services.start_prometheus(
            self._children,
            self._programs.prometheus,
            config=config,
            data=blocks,
            listen=listen,
            name="Prometheus of the history",
        )
        services.wait_ready(server, f"http://{listen}/-/ready", self.stop)
        yield f"http://{listen}"
        self._children.stop(server)

    def _wait(self, tasks: Iterable[Future[Any]]) -> None:
        """Wait for tasks; the error of one that fails, or StoppedError: no history then, so all children are ended."""
        try:
            self._until_done(set(tasks))
        except BaseException:
            self._children.close()  # or the pools would wait for what the others still do
            raise

    def _until_done(self, waiting: set[Future[Any]]) -> None:
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            if self.stop.is_set():
                raise StoppedError
            for task in done:
                task.result()


class _Progress:
    """What part the writers say is done, as one figure."""

    def __init__(self, terminal: Terminal, span: Span, writers: int, number: int) -> None:
        self._terminal, self._quiet = terminal, span.short
        self._number, self._of = number, len(span.slices())
        self._done = [0.0] * writers

    def of(self, writer: int) -> Callable[[str], None]:
        def told(line: str) -> None:
            self._done[writer] = max(_share(line), self._done[writer])
            mean = sum(self._done) / len(self._done)
            if not self._quiet:
                self._terminal.progress("the nodes' past", (self._number + mean) / self._of)

        return told


class _Told:
    """Counts the rules that are done."""

    def __init__(self, terminal: Terminal, span: Span, of: int) -> None:
        self._terminal, self._quiet, self._of = terminal, span.short, of
        self._took: list[tuple[str, float]] = []

    def one(self, name: str, took_s: float, _samples: int) -> None:
        self._took.append((name, took_s))
        if not self._quiet:
            self._terminal.progress("what rules record of it", len(self._took) / self._of)

    def slowest(self) -> list[tuple[str, float]]:
        return sorted(self._took, key=lambda one: -one[1])[:5]


def _share(line: str) -> float:
    """``progress 0.43``; 0 for any other line."""
    found = _PROGRESS.search(line)
    return float(found[1]) if found else 0.0


def _dealt(nodes: Sequence[str], hands: int) -> list[tuple[str, ...]]:
    """Nodes in as many groups; none is empty."""
    return [group for hand in range(hands) if (group := tuple(nodes[hand::hands]))]


def join(texts: Sequence[Path]) -> None:
    """Append OpenMetrics texts to the first of them; the others are removed."""
    with texts[0].open("r+b") as whole:
        for text in texts[1:]:
            whole.seek(-len(_EOF), os.SEEK_END)
            whole.truncate()
            with text.open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)
            text.unlink()


def tidy(data: Path) -> None:
    """Remove what a Prometheus leaves beside the blocks: what it has not scraped need not be kept."""
    for path in data.iterdir():
        if path.is_dir() and (path / "meta.json").is_file() and "." not in path.name:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
