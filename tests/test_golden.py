"""The page of each kind of node, whole, against tests/golden."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

import goldens


@pytest.fixture(params=goldens.KINDS)
def kind(request):
    return request.param


def test_page_is_as_it_was(kind, tmp_path):
    """The page is the golden one, to the microjoule (`make golden` writes it anew)."""
    assert goldens.KINDS[kind](tmp_path) == (goldens.GOLDEN / f"{kind}.prom").read_text()


def lines(kind):
    page = (goldens.GOLDEN / f"{kind}.prom").read_text()
    return [line for line in page.splitlines() if line and not line.startswith("#")]


def test_no_series_twice(kind):
    """No two lines of a page have the same name and labels (promtool does not look)."""
    series = [line.rpartition(" ")[0] for line in lines(kind)]
    assert len(series) == len(set(series))


def test_energy_is_conserved_on_the_page(kind):
    """Jobs + system + unallocated = node, in each component, in microjoules as printed."""
    charged, node = {}, {}
    for line in lines(kind):
        name, _, value = line.rpartition(" ")
        metric, _, labels = name.partition("{")
        if not metric.endswith("_energy_joules_total") or 'component="' not in labels:
            continue
        component = labels.partition('component="')[2].partition('"')[0]
        into = node if metric.startswith("jobwatt_node") else charged
        into[component] = into.get(component, 0) + int(value.replace(".", ""))
    assert charged == node
    assert any(node.values())


def test_a_prometheus_client_reads_it(kind):
    """Names, types and escaping are what a Prometheus parser takes, whatever a job is called."""
    page = (goldens.GOLDEN / f"{kind}.prom").read_text().replace(" *\n", " 1\n")
    families = {family.name for family in text_string_to_metric_families(page)}
    assert "jobwatt_job_energy_joules" in families


@pytest.mark.prometheus
def test_promtool_finds_nothing(kind):
    """`promtool check metrics` has nothing to say."""
    page = (goldens.GOLDEN / f"{kind}.prom").read_text().replace(" *\n", " 1\n")
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing"
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
