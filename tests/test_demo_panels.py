"""
The demo as a whole: every query of every panel on its Prometheus, and its totals against what was simulated.

One demo is run for all tests of this file, from nothing, with two days of history.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from dashqueries import boards, filled, queries, times
from emptypanels import RIGHTLY_EMPTY
from jobwatt.demo.sim.cluster import Cluster
from jobwatt.demo.simulation import Simulation

pytestmark = [pytest.mark.slow, pytest.mark.prometheus]
DAY, DAYS = 86_400, 2
LIMIT_S = 480
QUERIES = [query for name in boards() for query in queries(name)]


class Demo:
    """A running demo's Prometheus."""

    def __init__(self, ready):
        self.ready = ready
        self.root = f"http://127.0.0.1:{ready['prometheus']}/api/v1"

    def ask(self, path, **arguments):
        """The result of a question, and the seconds it took."""
        began = time.perf_counter()
        body = urllib.parse.urlencode(arguments).encode()
        with urllib.request.urlopen(f"{self.root}/{path}", body, timeout=120) as answer:
            text = answer.read()
        return json.loads(text)["data"]["result"], time.perf_counter() - began

    def value(self, expr, at):
        """The one number of a query at a time."""
        ((result,), _) = self.ask("query", query=expr, time=at)
        return float(result["value"][1])

    def label(self, expr, name, at):
        """A label of the first series of a query."""
        return self.ask("query", query=expr, time=at)[0][0]["metric"][name]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A demo, on free ports, in which everything is up; ended with Ctrl-C."""
    folder = tmp_path_factory.mktemp("demo")
    ready = folder / "ready.json"
    argv = [sys.executable, "-m", "jobwatt", "demo", f"--days={DAYS}", "--no-grafana"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*argv, f"--cache={folder}/cache", f"--ready-file={ready}"],
            stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": "exporter"}, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        try:
            until = time.monotonic() + LIMIT_S
            while not ready.exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < until, (folder / "log").read_text()
                time.sleep(0.2)
            one = Demo(json.loads(ready.read_text()))
            seen = (
                "count(group by (instance) (jobwatt_source_read_seconds)) == 12"
                " and count(jobwatt:job_eligible:info) and sum(jobwatt:cluster_gpus:count)"
            )
            while one.ask("query", query=seen)[0] == []:
                assert time.monotonic() < until, (
                    "not all nodes are scraped, or no rule has seen a job"
                )
                time.sleep(1)
            yield one
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(180)


@pytest.fixture(scope="module")
def subjects(demo):
    """What each page is about: for each variable a value that there is much to say of."""
    now = time.time()
    energy = "jobwatt_job_gpu_energy_joules_total"
    # by the time it ran within the day: one that ended at its very beginning has nothing to draw
    running = f"{energy}{{partition='H100'}} unless on (cluster, instance, jobid) jobwatt_job_end_time_seconds"
    job = f"topk(1, max by (jobid) (count_over_time(({running})[1d:2m])))"
    jobid = demo.label(job, "jobid", now)
    gpus = f'last_over_time({energy}{{jobid="{jobid}"}}[1d])'
    uuids = {one["metric"]["uuid"] for one in demo.ask("query", query=gpus, time=now)[0]}
    idle = "sum by (user) (sum_over_time(jobwatt:user_gpu_idle_seconds:rate5m[1d:5m]))"
    metered = "topk(1, jobwatt_jobs and on (instance) jobwatt_wall_energy_joules_total)"
    return {
        "cluster": "demo",
        "jobid": jobid,
        "user": demo.label(f"topk(1, {idle})", "user", now),
        "account": demo.label(f"topk(1, {gpus})", "account", now),
        "instance": demo.label(metered, "instance", now),
        "uuid": "|".join(uuids),
    }


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_query_gives_data(query, demo, subjects):
    """Over 24 hours each query parses, gives data unless it is listed with the reason, and takes less than a second."""
    now = time.time()
    instance = f"{subjects['instance']}|.*" if query.board == "job" else subjects["instance"]
    expr = filled(query.expr, times(DAY, 120, to=now) | subjects | {"instance": instance})
    path, when = "query_range", {"start": now - DAY, "end": now, "step": 120}
    if query.instant:
        path, when = "query", {"time": now}
    asked = [demo.ask(path, query=expr, **when)]
    while asked[-1][1] >= 1 and len(asked) < 8:  # this machine may be busy with something else
        asked.append(demo.ask(path, query=expr, **when))
    assert min(took for _, took in asked) < 1
    assert asked[0][0] or (query.board, query.panel, query.letter) in RIGHTLY_EMPTY, expr


def test_what_is_listed_as_empty_exists():
    """No reason stands for a panel that is gone."""
    there = {(query.board, query.panel, query.letter) for query in QUERIES}
    assert set(RIGHTLY_EMPTY) <= there


# --- totals against the truth ------------------------------------------------------------------------


def panel_expr(board, panel, letter="A"):
    """A panel's query."""
    found = [q.expr for q in QUERIES if (q.board, q.panel, q.letter) == (board, panel, letter)]
    assert len(found) == 1, f"no query {board}: {panel}: {letter}"
    return found[0]


@pytest.fixture(scope="module")
def window(demo):
    """
    The last whole day of history, in tiles of five minutes, and what was simulated in it.

    Asked about a minute later: Prometheus 2.42 counts the tile at the very beginning of a range too.
    """
    began, until = demo.ready["history"]["began_s"], demo.ready["history"]["until_s"]
    end = until // 300 * 300
    cluster = Cluster(Simulation.seed, began, Simulation(DAYS).live_s(began))
    cluster.advance(end - DAY)
    before = was = cluster.truth()
    hours = {}
    for edge in [*range((end - DAY) // 3600 * 3600 + 3600, end, 3600), end]:
        cluster.advance(edge)
        hours[(edge - 1) // 3600 * 3600], was = cluster.truth() - was, cluster.truth()
    demo.hours = hours
    return end + 60, was - before


def shown(demo, window, board, panel, pick=None):
    """What a panel shows for the window: its number, or that of the series with these labels."""
    end, _ = window
    expr = filled(panel_expr(board, panel), times(DAY, 120, to=end) | {"cluster": "demo"})
    expr = re.sub(r"^sort_desc\((.*)\)$", r"\1", expr)
    result, _ = demo.ask("query", query=expr, time=end)
    found = [
        float(one["value"][1])
        for one in result
        if not pick or pick.items() <= one["metric"].items()
    ]
    assert len(found) == 1, (expr, result)
    return found[0]


KWH_UJ = 3.6e12


def test_energy_of_the_cluster(demo, window):
    """What the Cluster page says was used is what was simulated, within 0.5 %."""
    truth = window[1].energy_uj
    metered = {
        node for (node, component), energy in truth.items() if component == "wall" and energy
    }
    whole = sum(
        energy for (node, component), energy in truth.items()
        if component == "wall" or (node not in metered and component in {"cpu", "dram", "gpu"})
    )  # fmt: skip
    assert shown(demo, window, "cluster", "Energy") == pytest.approx(whole / KWH_UJ, rel=0.005)


@pytest.mark.parametrize("component", ["cpu", "dram", "gpu"])
def test_energy_by_component(component, demo, window):
    """The same for each component that the chips measure."""
    whole = sum(energy for (_, what), energy in window[1].energy_uj.items() if what == component)
    found = shown(demo, window, "cluster", "Energy by component", {"component": component})
    assert found == pytest.approx(whole / KWH_UJ, rel=0.005)


def lab_gpu_kwh(demo, window, account):
    """GPU energy of a lab as its page's series has it."""
    end, _ = window
    series = (
        f'jobwatt:account_component_energy_joules:rate5m{{account="{account}",component="gpu"}}'
    )
    expr = f"sum(sum_over_time({series}[1d:5m])) * 300 / 3.6e6"
    found, _ = demo.ask("query", query=expr, time=end)
    return float(found[0]["value"][1]) if found else 0.0  # there are days on which a lab has no job


@pytest.mark.parametrize("account", ["ltci", "lisn", "samovar", "l2s", "satie"])
def test_gpu_energy_of_a_lab(account, demo, window):
    """Short jobs and all: each lab's GPU energy is what was simulated, within 0.5 %, and 3 Wh where it is next to none."""
    truth = window[1].account_gpu_uj[account] / KWH_UJ
    assert lab_gpu_kwh(demo, window, account) == pytest.approx(truth, rel=0.005, abs=0.003)


def test_unused_energy_of_users(demo, window):
    """What the Cluster page says of the users with the most unused energy is what was simulated."""
    end, truth = window
    expr = filled(
        panel_expr("cluster", "Users with the most unused GPU energy"),
        times(DAY, 120, to=end) | {"cluster": "demo"},
    )
    result, _ = demo.ask("query", query=expr, time=end)
    found = {one["metric"]["user"]: float(one["value"][1]) for one in result}
    assert len(found) >= 5
    for user, kwh in list(found.items())[:5]:
        assert kwh == pytest.approx(truth.user_idle_uj[user] / KWH_UJ, rel=0.01, abs=0.002)


def test_jobs_that_ended(demo, window):
    """Each job that ended is counted once, by how it ended; a few lie on the edges of the day."""
    end, truth = window
    expr = filled(
        panel_expr("behaviour", "Jobs by how they ended"),
        times(DAY, 120, to=end) | {"cluster": "demo"},
    )
    result, _ = demo.ask("query", query=expr, time=end)
    found = {one["metric"]["state"]: float(one["value"][1]) for one in result}
    for state in {state for _, state in truth.ended}:
        simulated = sum(count for (_, how), count in truth.ended.items() if how == state)
        assert abs(found.get(state, 0) - simulated) <= max(3, 0.05 * simulated)


# --- grams and money -----------------------------------------------------------------------------------

# the demo's site.toml, written out once more
PUE, PRICE_KWH, PRICE_GPU_HOUR = 1.3, 0.21, 0.8


def intensity(hour_s):
    """Grams per kWh in the hour that begins at this Unix time: another each hour."""
    return 32 + 4 * abs(12 - hour_s // 3600 % 24)


def grams(uj_by_hour):
    """Integrated hour by hour."""
    return sum(PUE * intensity(hour) * uj / KWH_UJ for hour, uj in uj_by_hour.items())


def summed(demo, window, series, by):
    """What a recorded rate adds up to in the window, by a label."""
    end, _ = window
    result, _ = demo.ask(
        "query", query=f"sum by ({by}) (sum_over_time({series}[1d:5m])) * 300", time=end
    )
    return {one["metric"].get(by, ""): float(one["value"][1]) for one in result}


def test_grams_of_the_cluster(demo, window):
    """All that the nodes used, at the intensity of each hour, within 0.5 % of what was simulated."""
    metered = {node for (node, what), uj in window[1].energy_uj.items() if what == "wall" and uj}
    by_hour = {
        hour: sum(
            uj for (node, what), uj in truth.energy_uj.items()
            if what == "wall" or (node not in metered and what in {"cpu", "dram", "gpu"})
        )
        for hour, truth in demo.hours.items()
    }  # fmt: skip
    found = summed(demo, window, "jobwatt:cluster_co2e_grams:rate5m", "cluster")["demo"]
    assert found == pytest.approx(grams(by_hour), rel=0.005)


def test_grams_of_users_unused_energy(demo, window):
    """The five users with most of it, within 0.5 %, and the grams of 2 Wh where it is next to none."""
    found = summed(demo, window, "jobwatt:user_gpu_idle_co2e_grams:rate5m", "user")
    worst = [user for user, _ in window[1].user_idle_uj.most_common(5)]
    for user in worst:
        by_hour = {hour: truth.user_idle_uj[user] for hour, truth in demo.hours.items()}
        assert found[user] == pytest.approx(grams(by_hour), rel=0.005, abs=0.1), user


def test_euros_of_jobs_unused_time(demo, window):
    """The ten jobs with most of it: its energy at its price and its hours at theirs, within 0.5 %."""
    found = summed(demo, window, "jobwatt:job_gpu_idle_cost:rate5m", "jobid")
    truth = window[1]
    for job, uj in truth.job_idle_uj.most_common(10):
        euros = PUE * PRICE_KWH * uj / KWH_UJ + PRICE_GPU_HOUR * truth.job_idle_s[job] / 3600
        assert found[job] == pytest.approx(euros, rel=0.005), job


def counted(demo, metric, jobs, at):
    """A counter of some jobs at a time, as last seen within the hour before: job -> J."""
    of = f'last_over_time({metric}{{jobid=~"{"|".join(jobs)}"}}[1h])'
    inner = "gpu, uuid" if "_gpu_" in metric else "component"
    expr = f"sum by (jobid) (max by (jobid, instance, {inner}) ({of}))"
    return {
        one["metric"]["jobid"]: float(one["value"][1])
        for one in demo.ask("query", query=expr, time=at)[0]
    }


def test_grams_and_euros_of_jobs(demo, window):
    """
    The twenty jobs with most GPU energy. Their counters' GPU part is what was simulated; what they count
    in each hour, at that hour's intensity and at the price, is what the rules say: each within 0.5 %.
    """
    end = window[0] - 60
    jobs = [job for job, _ in window[1].job_gpu_uj.most_common(20)]
    edges = [end - DAY, *sorted(hour for hour in demo.hours if hour > end - DAY), end]
    by_edge, gpu_by_edge, held_by_edge = (
        [counted(demo, metric, jobs, edge) for edge in edges]
        for metric in ("jobwatt_job_energy_joules_total", "jobwatt_job_gpu_energy_joules_total",
                       "jobwatt_job_gpu_allocated_seconds_total")
    )  # fmt: skip
    co2e = summed(demo, window, "jobwatt:job_co2e_grams:rate5m", "jobid")
    euros = summed(demo, window, "jobwatt:job_cost:rate5m", "jobid")

    def gained(readings, job):
        """By hour; a job that is no longer seen keeps what it had."""
        total, by_hour = readings[0].get(job, 0), {}
        for edge, now in zip(edges, readings[1:], strict=False):
            by_hour[edge // 3600 * 3600] = max(now.get(job, total) - total, 0) * 1e6
            total = max(total, now.get(job, total))
        return by_hour

    for job in jobs:
        joules, gpu = gained(by_edge, job), gained(gpu_by_edge, job)
        held_s = sum(gained(held_by_edge, job).values()) / 1e6
        assert sum(gpu.values()) == pytest.approx(window[1].job_gpu_uj[job], rel=0.005), job
        assert co2e[job] == pytest.approx(grams(joules), rel=0.005), job
        paid = PUE * PRICE_KWH * sum(joules.values()) / KWH_UJ + PRICE_GPU_HOUR * held_s / 3600
        assert euros[job] == pytest.approx(paid, rel=0.005), job
