"""The demo's history: kept in the cache, extended or made anew, and never half."""

from __future__ import annotations

import io
import threading
import time
from itertools import pairwise

import pytest

import demokit
import demostub
from jobwatt.demo import cache, lifetime, making, simulation
from jobwatt.demo.children import ChildError
from jobwatt.demo.terminal import Terminal

children = demokit.children  # a fixture


def test_a_history_is_extended_or_made_anew():
    """Extended over a gap of less than two days; made anew when it is too old, too long or made by other code."""
    day, now = cache.DAY_S, 1_800_000_000
    meta = cache.Meta("k", 7, now - 7 * day, now - day)
    assert meta.usable("k", 7, now)
    assert not meta.usable("other", 7, now)
    assert not meta.usable("k", 7, now + day)
    assert not meta.usable("k", 7, now - 2 * day)  # the clock was set back
    assert not cache.Meta("k", 7, now - 10 * day, now - 60).usable("k", 7, now)


def test_the_key_knows_code_rules_and_settings(tmp_path):
    """Whatever makes another history makes another key; the order of files does not."""
    one, two = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("1")
    two.write_text("2")
    key = cache.key([one, two], ["jobwatt:x"])
    assert key == cache.key([two, one], ["jobwatt:x"])
    assert key != cache.key([one, two], ["jobwatt:y"])
    two.write_text("3")
    assert key != cache.key([one, two], ["jobwatt:x"])


def test_a_broken_off_history_is_never_taken_for_whole(tmp_path):
    """What was not kept is gone, and what was replaced too."""
    kept = cache.Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt), kept.draft() as draft:
        draft.make()
        raise KeyboardInterrupt
    (tmp_path / ".making-dead").mkdir()
    for until_s in (1, 2):
        with kept.locked(threading.Event(), print), kept.draft() as draft:
            draft.make()
            (draft.blocks / f"block{until_s}").mkdir()
            draft.finish(cache.Meta("k", 7, 0, until_s))
            kept.keep(draft)
    assert kept.history.meta == cache.Meta("k", 7, 0, 2)
    assert [path.name for path in kept.history.blocks.iterdir()] == ["block2"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history", "lock"]
    (tmp_path / "history" / "meta.json").write_text("{}")
    assert kept.history.meta is None


def test_a_history_that_another_demo_makes_is_waited_for(tmp_path):
    """One line says so, and the first Ctrl-C ends the waiting."""
    kept, said, stop = cache.Cache(tmp_path), [], threading.Event()
    with kept.locked(threading.Event(), said.append):
        threading.Timer(0.5, stop.set).start()
        with pytest.raises(lifetime.StoppedError), kept.locked(stop, said.append):
            pass
    assert said == ["another demo makes the history; waiting for it"]
    with kept.locked(threading.Event(), said.append):
        assert len(said) == 1


def test_the_key_knows_the_code_that_makes_the_history(monkeypatch):
    """All of it; and a history is not made under a key that lacks it."""
    names = {path.name for path in simulation.Simulation().sources()}
    assert names >= {"history.py", "inline.py", "encoder.py", "recorded.py", "zeus_v100.csv"}
    monkeypatch.setattr(simulation, "_MODULES", "import sys; sys.exit(1)")
    with pytest.raises(ValueError, match="cannot tell which code makes the history"):
        simulation.Simulation().sources()


def test_only_the_end_of_a_history_is_fine(tmp_path):
    """Not the end of each day's slice."""
    argv = simulation.Simulation().writer(
        tmp_path, tmp_path, began_s=0, end_s=7 * 86_400, span=(0, 86_400), nodes=["gpu01"]
    )
    assert f"--fine-from-s={7 * 86_400 - simulation.FINE_S}" in argv


class HalfBroken(demostub.Simulation):
    def writer(self, *_, nodes, **__):
        return ["false"] if "gpu01" in nodes else ["sleep", "99"]


def test_a_writer_that_fails_ends_the_others(tmp_path, children):
    """The error is not kept back until they have finished their part."""
    terminal, programs = Terminal(io.StringIO(), io.StringIO()), making.Programs("", "")
    maker = making.Maker(children, terminal, HalfBroken(), programs, threading.Event(), 0)
    history = cache.History(tmp_path / "history")
    history.make()
    began = time.monotonic()
    with pytest.raises(ChildError, match="history 0-0 ended with 1"):
        maker.extend(history, making.Span(0, 0, 600), [], {})
    assert time.monotonic() - began < 60
    assert not [child for child in children.running() if child.alive]


@pytest.mark.parametrize(("days", "slices"), [(0.01, 1), (1.0, 1), (1.2, 1), (1.5, 2), (7.0, 7)])
def test_a_span_is_made_in_slices_without_gap_or_overlap(days, slices):
    """Each begins where the one before ends; none is much longer or shorter than a day."""
    begin = 15  # on Prometheus's grid, but between two steps of the history
    end = begin + int(days * 86_400)
    found = making.Span(begin, begin, end).slices()
    assert len(found) == slices
    assert (found[0][0], found[-1][1]) == (begin, end)
    assert all(a[1] == b[0] and b[0] % simulation.STEP_S == 0 for a, b in pairwise(found))


def test_texts_are_joined_into_one(tmp_path):
    """One end mark, every line, no second file."""
    texts = [tmp_path / "0", tmp_path / "1"]
    texts[0].write_text("a 1 1\n# EOF\n")
    texts[1].write_text("b 1 1\n# EOF\n")
    making.join(texts)
    assert texts[0].read_text() == "a 1 1\nb 1 1\n# EOF\n"
    assert not texts[1].exists()
