"""The figures of docs/capacity.md: what they say was measured, and what a page has is within the budget."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import capacity  # isort: skip
import scale  # isort: skip
import scaleledger  # isort: skip
from scalenodes import SLOTS, Load  # isort: skip
from scalerun import Plan, run  # isort: skip

RESULTS = capacity.results()
DAY_S = 86_400


def test_tables_are_what_was_measured():
    """The page's tables are those that its command makes of the results (`python tests/bench/capacity.py`)."""
    text = capacity.PAGE.read_text()
    assert set(re.findall(r"<!-- table (\w+):", text)) == capacity.TABLES.keys()
    assert capacity.written(text, RESULTS) == text


def test_what_was_not_measured_is_marked():
    """A size of which there is no run is in italics throughout, one with a run is not."""
    head, _, _, *rows = capacity.clusters(RESULTS)
    sizes = [int(size.replace(",", "")) for size in re.findall(r"[\d,]+", head)]
    ran = {run["nodes"] for run in RESULTS["runs"]}
    for row in rows:
        name, *cells = row.strip("| ").split(" | ")
        for size, cell in zip(sizes, cells, strict=True):
            assert cell.startswith("*") == (size not in ran or name in capacity._COMPUTED), row


def test_a_page_is_within_its_budget():
    """Series of an idle node and of jobs with 1, 4 and 8 GPUs: within the budget, and still about what is stated."""
    page = scale.pages()
    assert page["idle_node_series"] <= capacity.node_budget(8)
    stated = RESULTS["page"]
    assert page["idle_node_series"] == pytest.approx(stated["idle_node_series"], rel=0.1)
    for gpus, series in page["job_series_by_gpus"].items():
        assert series <= capacity.job_budget(int(gpus))
        assert series == pytest.approx(stated["job_series_by_gpus"][gpus], rel=0.1)
    assert page["job_series_by_gpus"]["4"] < capacity.CEEMS_4_GPU_JOB


@pytest.mark.prometheus
@pytest.mark.slow
def test_a_short_run(tmp_path):
    """Twenty nodes, a real Prometheus, all rules: every page is taken, no rule fails, the series are those budgeted."""
    plan = Plan(Load(20, 12.0), scrape_s=2, settle_s=3, measure_s=7, evaluate_s=5, past=False)
    found = run(plan, tmp_path / "run")
    assert found["targets_up"] == 20
    assert found["failed"] == 0
    jobs = sum(capacity.job_budget(gpus) for gpus in SLOTS)
    assert 0 < found["scraped_series"] <= 20 * (capacity.node_budget(8) + jobs)
    assert found["recorded_series"] > 20
    assert found["group_cpu_s"].keys() == found["groups"].keys()
    assert found["queries"]["count"] > 100


def test_a_ledger_does_not_grow():
    """Ten days at a hundred times the usual number of jobs: rows are those that run, file and state stay as they were."""
    found = scaleledger.one(scaleledger.JOBS * scaleledger.MANY, 100, 10 * DAY_S)
    assert found["jobs"] > 4000
    # those that run, and what ended within one step of 2.4 h
    assert found["rows"]["job"] < 100
    assert found["rows"]["state"] <= 4
    assert (
        found["most_bytes"] < 16 << 20
    )  # the file, and a WAL that SQLite begins anew at 1000 pages


def test_partitioning_gpus_anew_does_not_grow_it():
    """MIG instances get new UUIDs each time: what is remembered of them are those that are there."""
    few, many = (scaleledger.repartitioned(times) for times in (10, 60))
    assert many["gpus_known"] <= few["gpus_known"]
    assert many["state_bytes"] < 1.2 * few["state_bytes"]
