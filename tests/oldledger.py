"""
A ledger as another jobwatt leaves it, and the page that it showed last.

    python tests/oldledger.py COMMIT NAME      # writes tests/ledgers/NAME.sql and NAME.prom, to be kept

Run when the ledger's version is about to rise: what is kept here is what a node may still have.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from io import BytesIO
from pathlib import Path

import nvmlshim
from daemon import BOOT_ID, Daemon, Page, epilog, prolog, working
from trees import Node

ROOT = Path(__file__).resolve().parents[1]
KEPT = Path(__file__).parent / "ledgers"
JOULE = 10**6


def exporter_of(commit: str, into: Path) -> Path:
    """The package as it was at a commit."""
    packed = subprocess.run(
        ["git", "archive", commit, "exporter"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(into, filter="data")
    return into / "exporter"


class Before:
    """A node on which that jobwatt ran for some seconds, with everything that a ledger may hold."""

    def __init__(self, root: Path) -> None:
        self.node, self.state = Node(root / "node", sockets=2, boot_id=BOOT_ID), root / "state"
        self.node.add_intel()
        self.script = nvmlshim.Script.of(root / "nvml.script", 2)
        self.jobs = [
            self.node.add_job(7, uid=61001, environ={"SLURM_JOB_NAME": "train"}),
            self.node.add_job(8, uid=61002),
        ]
        for job, gpus in zip(self.jobs, ("0", "1"), strict=True):
            prolog(self.state, job, gpus)

    def daemon(self, exporter: Path | None = None) -> Daemon:
        env = {"PYTHONPATH": str(exporter)} if exporter else None
        daemon = Daemon(self.node, self.state, script=self.script, env=env)
        daemon.log = self.node.root / f"{'old' if exporter else 'new'}.log"
        return daemon

    def live(self, daemon: Daemon) -> Page:
        """Two seconds of work; one job ends, the other goes on; then nothing moves any more."""

        def burn() -> None:
            for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:1"):
                self.node.advance_rapl(zone, 3 * JOULE)
            for gpu in self.script.gpus.values():
                gpu.energy_mj += 17_000
            self.script.write()

        with working(self.node, [(self.jobs[0], 2.0), (self.jobs[1], 1.0)], burn):
            time.sleep(1.2)
        epilog(self.state, self.jobs[1], "1")
        self.node.end_job(self.jobs[1])
        with working(self.node, [(self.jobs[0], 2.0)], burn):
            time.sleep(0.8)
        return daemon.samples(3)


def dump(state: Path) -> str:
    with sqlite3.connect(state / "ledger.db") as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        text = "\n".join([*db.iterdump(), f"PRAGMA user_version = {version};", ""])
    return text.replace(BOOT_ID, "00000000-0000-4000-8000-000000000000")


def main() -> None:
    commit, name = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        before = Before(Path(folder))
        with before.daemon(exporter_of(commit, Path(folder) / "old")) as daemon:
            page = before.live(daemon)
            daemon.kill()
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{name}.sql").write_text(dump(before.state))
        (KEPT / f"{name}.prom").write_text(page.text)


if __name__ == "__main__":
    main()
