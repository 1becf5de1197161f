"""A jobwatt that takes over from an older one goes on with every total, and may be killed while it does."""

from __future__ import annotations

import re
import sqlite3
import subprocess

import pytest

from daemon import Page, micro, wait
from jobwatt.encoder import Encoder
from jobwatt.exposition import View, families
from jobwatt.idle import Idle
from jobwatt.ledger import MIGRATIONS, Ledger
from oldledger import KEPT, ROOT, Before, exporter_of

BOOT = re.compile(r'\\?"boot_id\\?":\\?"([0-9a-f-]{36})')


def previous() -> list[str]:
    """The commit before this one, where the history is at hand (a shallow clone has none)."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD~1^{commit}"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return [found.stdout.strip()[:12]] if found.returncode == 0 else []


def told(page, ending):
    """Counters of the account, as printed; the driver's own (ECC errors ...) and the process's are not in it."""
    return {
        name: text
        for name, text in page.series.items()
        if name.partition("{")[0].endswith(ending)
        and not name.startswith(("process_", "jobwatt_gpu_throttle_"))
    }


def used(page):
    """Energies that move only where something is used; a GPU's power goes on being integrated."""
    return {
        name: text
        for name, text in told(page, "_joules_total").items()
        if "_gpu_integrated_" not in name
    }


def restored(path, boot_id):
    """The page that the kept account gives at once, before any new sample."""
    ledger = Ledger(path)
    book = ledger.restore(boot_id)
    assert ledger.errors == 0
    ledger.close()
    view = View(book.totals, book.last, Idle(learnt=book.learnt)) if book.last else None
    assert view is not None, "nothing was restored"
    return Page(Encoder().encode(families(view), openmetrics=False).decode())


@pytest.fixture(params=sorted(path.stem for path in KEPT.glob("*.sql")))
def kept(request, tmp_path):
    """A ledger that an older version left, its boot, and the page which that version showed."""
    path, text = tmp_path / "state" / "ledger.db", (KEPT / f"{request.param}.sql").read_text()
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.executescript(text)
    return path, BOOT.search(text)[1], Page((KEPT / f"{request.param}.prom").read_text())


def test_every_total_is_kept(kept):
    """Energies and times of jobs, node and devices are those of the old page, to the microjoule."""
    path, boot_id, old = kept
    new = restored(path, boot_id)
    for ending in ("_joules_total", "_seconds_total"):
        assert told(new, ending) == told(old, ending)
    assert sum(micro(text) for text in told(new, "_joules_total").values()) > 0
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)


def test_a_ledger_of_each_version_is_kept():
    """Whoever raises the version leaves a ledger of the old one here (tests/oldledger.py)."""
    versions = {
        int(re.search(r"PRAGMA user_version = (\d+)", path.read_text())[1])
        for path in KEPT.glob("*.sql")
    }
    assert versions == set(range(1, len(MIGRATIONS) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("commit", previous())
def test_from_the_commit_before(commit, tmp_path):
    """
    The daemon of the commit before this one is killed, this one starts on its state, is killed and starts
    again: no counter steps back, and what nobody used meanwhile is not charged.
    """
    before = Before(tmp_path)
    with before.daemon(exporter_of(commit, tmp_path / "old")) as daemon:
        old = before.live(daemon)
        daemon.kill()
    with before.daemon() as daemon:
        daemon.expect_no_less(old)
        for _ in range(2):
            assert used(daemon.samples(3)) == used(old)
            daemon.kill()
            daemon.start()
        assert not list(before.state.glob("ledger.db.*-[0-9]*")), "a ledger was set aside"
        wait(lambda: daemon.stop() == 0, 10)
