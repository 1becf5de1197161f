"""The grid's carbon intensity: what is kept over a restart, and what of it is believed."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest

import gridkit
from gridkit import INTENSITY, asked, config, shown
from gridmock import GridServer
from jobwatt.central.grid import kept
from jobwatt.central.grid.run import Grid

server, secrets = gridkit.server, gridkit.secrets  # fixtures


def test_a_restart_without_the_network(secrets, tmp_path):
    """The last figures are still there; stale once they are too old, and then the yearly one is in use."""
    cache, clock = tmp_path / "state" / "grid.json", [time.time()]
    with GridServer() as server:
        made = config(server, secrets, "electricitymaps")
        asked(Grid(made, cache, lambda: clock[0]))
    again = Grid(made, cache, lambda: clock[0])
    found = shown(asked(again))
    assert found[INTENSITY, "electricitymaps"] == 58
    assert found["jobwatt_grid_stale", "electricitymaps"] == 0
    assert found["jobwatt_grid_chosen", "electricitymaps"] == 1
    clock[0] += 6 * 3600
    late = Grid(made, cache, lambda: clock[0])
    found = shown(asked(late))
    assert found[INTENSITY, "electricitymaps"] == 58
    assert found["jobwatt_grid_stale", "electricitymaps"] == 1
    assert ("jobwatt_grid_chosen", "electricitymaps") not in found
    assert found["jobwatt_grid_chosen", "table"] == 1
    assert "stale" in late.board.page()


def test_the_cache_is_of_what_is_asked_now(server, secrets, tmp_path):
    """A figure kept for another zone, scope or source is not taken over."""
    cache = tmp_path / "grid.json"
    asked(Grid(config(server, secrets, "electricitymaps"), cache))
    for changed in (
        config(server, secrets, "electricitymaps", zone="DE"),
        config(server, secrets, "electricitymaps", more='scope = "direct"'),
        config(server, secrets, "electricitymaps", more='name = "em"'),
    ):
        assert kept.load(cache, changed, time.time()) == {}
    assert kept.load(cache, config(server, secrets, "electricitymaps"), time.time())


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff", b"null", b'{"version": 2}', b'{"version": 1, "figures": [1, {}]}', b"[" * 99_999],
)  # fmt: skip
def test_a_damaged_cache_is_no_cache(server, secrets, tmp_path, text):
    """The process starts without it and writes it anew."""
    cache = tmp_path / "grid.json"
    cache.write_bytes(text)
    made = config(server, secrets, "rte")
    grid = Grid(made, cache)
    assert "rte" not in grid.board.figures
    asked(grid)
    assert kept.load(cache, made, time.time())["rte"].grams_per_kwh == 22


def test_an_impossible_cached_figure_is_dropped(server, secrets, tmp_path):
    """The file is believed no more than a stranger."""
    cache, made = tmp_path / "grid.json", config(server, secrets, "rte")
    asked(Grid(made, cache))
    for change in ({"grams_per_kwh": 1e9}, {"t_s": 9e12}, {"grams_per_kwh": "22"}, {"t_s": None}):
        saved = json.loads(cache.read_text())
        saved["figures"][0].update(change)
        (tmp_path / "bad.json").write_text(json.dumps(saved))
        assert kept.load(tmp_path / "bad.json", made, time.time()) == {}


def test_a_cache_that_cannot_be_written_is_said_once(server, secrets, tmp_path, caplog):
    """The figures are served all the same."""
    (tmp_path / "file").write_text("")
    grid = Grid(config(server, secrets, "rte"), tmp_path / "file" / "grid.json")
    asked(grid)
    server.rte = 23
    assert shown(asked(grid))[INTENSITY, "rte"] == 23
    assert caplog.text.count("--grid.cache") == 1


def test_an_older_answer_does_not_replace_a_newer(server, secrets):
    """A mirror that lags behind takes nothing back."""
    grid = Grid(config(server, secrets, "rte"), None)
    asked(grid)
    server.rte, server.rte_age = 99, timedelta(hours=3)
    assert shown(asked(grid))[INTENSITY, "rte"] == 22
