"""
A real Thanos, with the command lines of interop/storage/thanos as systemd gives them, but for addresses, folders and
the buckets, which are folders. No package has it, so that CI leaves it out; where there is one:

    JOBWATT_THANOS=/opt/thanos/thanos .venv/bin/python -m pytest tests/test_thanos.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections import defaultdict
from contextlib import ExitStack

import pytest

import storagekit
from backfill import blocks, line
from prom import free_port
from storagekit import ask, recorded_labels, same_dashboards, same_rules
from storagesite import (
    alertmanager,
    alerts,
    command,
    conf,
    eventually,
    prometheus,
    quick_rules,
    quickened,
    running,
    unhealthy,
)

from scalenodes import Load, Nodes, Server  # isort: skip  (storagesite has set the path)

THANOS = os.environ.get("JOBWATT_THANOS", "")
DAY_S = 86_400
ADDED = ("site",)  # the external label that is no replica's
BLOCKS = ("--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h")
_ADDRESS = re.compile(r"(?:(?<==)|(?<=//))([\w.-]*):(\d{4,5})$")

pytestmark = [pytest.mark.slow, pytest.mark.thanos, pytest.mark.prometheus]


@pytest.fixture(scope="module", autouse=True)
def _there():
    if not THANOS:
        pytest.skip("needs JOBWATT_THANOS, the path of a thanos")


class Hosts:
    """The machines that the units are written for: a folder and free ports for each."""

    def __init__(self, folder):
        self.folder, self._ports = folder, defaultdict(free_port)
        for name in ("raw", "recorded"):
            bucket = {"type": "FILESYSTEM", "config": {"directory": f"{folder}/bucket-{name}"}}
            (folder / f"bucket-{name}").mkdir(parents=True)
            (folder / f"{name}.yml").write_text(json.dumps(bucket))

    def address(self, host, port):
        return f"127.0.0.1:{self._ports[host, int(port)]}"

    def place(self, url, host, port):
        """What runs already is this host's."""
        self._ports[host, port] = int(url.rpartition(":")[2])

    def argv(self, unit, host, bucket="recorded", without=()):
        """A unit's words for this host, but for those that begin so."""
        words = command(f"thanos/{unit}.service")[1:]
        return [THANOS, *(self._here(w, host, bucket) for w in words if not w.startswith(without))]

    def _here(self, word, host, bucket):
        own, etc = f"{self.folder}/{host}", str(self.folder)
        for there, here in (
            ("/etc/thanos/recorded.yml", f"{etc}/{bucket}.yml"),
            ("/etc/thanos", etc),
            ("/etc/jobwatt/alerts/rules", f"{etc}/rules"),
            ("/var/lib/prometheus", f"{own}/data"),
            ("/var/lib", own),
        ):
            word = word.replace(there, here)
        names = {"": host, "127.0.0.1": host}
        return _ADDRESS.sub(lambda at: self.address(names.get(at[1], at[1]), at[2]), word)

    def start(self, stack, argv):
        """A unit until the stack ends; the address of its web server."""
        (address,) = (word.partition("=")[2] for word in argv if word.startswith("--http-address="))
        folder = self.folder / "logs"
        stack.enter_context(running(argv, f"http://{address}/-/ready", folder))
        return f"http://{address}"


# --- the bucket of what was scraped ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """
    Prometheus with a day of two nodes, and query before the bucket into which a sidecar has laid that day; the sidecar
    is gone. Gives both addresses and the moment after that day.
    """
    folder = tmp_path_factory.mktemp("thanos")
    hosts = Hosts(folder)
    to_s = int(time.time()) // 300 * 300
    storagekit.write_past(folder / "past.om", to_s)
    blocks(folder / "past.om", folder / "prom-a/data")
    own = conf("thanos/prometheus.yml") | {"scrape_configs": []}
    with ExitStack() as stack:
        url = stack.enter_context(prometheus(folder / "prom-a", own, *BLOCKS))
        hosts.place(url, "prom-a", 9090)
        with ExitStack() as shipping:
            hosts.start(shipping, hosts.argv("sidecar", "prom-a"))
            eventually(lambda: [*(folder / "bucket-raw").glob("*/meta.json")])
        hosts.start(stack, hosts.argv("store", "store-raw", bucket="raw"))
        query = hosts.start(stack, hosts.argv("query", "query"))
        at = {"time": str(to_s), "query": "count(jobwatt_build_info)"}
        eventually(lambda: ask(query, at))
        yield url, query, to_s + 17
    shutil.rmtree(folder)


def test_rules_give_the_same(both):
    """Every rule, written out over raw series: the same series and values from the bucket, but for `site`."""
    assert same_rules(*both, ADDED) > 100


def test_dashboards_give_the_same(both):
    """Every query of every dashboard: the same, where a rate is asked for within a few percent."""
    assert same_dashboards(*both, ADDED) > 150


# --- rulers ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    """
    A pair of Prometheus servers and a pair of rulers as the files have them, and a real Alertmanager; a Prometheus
    that evaluates the same rules beside. Gives the address of this, query's, a ruler's, Alertmanager's.
    """
    folder = tmp_path_factory.mktemp("thanos-ruled")
    hosts = Hosts(folder)
    rules = quick_rules(folder / "rules", "2s")
    with ExitStack() as stack:
        nodes = Nodes(Load(2))
        port = stack.enter_context(Server(nodes)).port
        manager = stack.enter_context(alertmanager(folder / "am"))
        hosts.place(manager, "am1", 9093)
        for replica in ("a", "b"):
            own = quickened(conf("thanos/prometheus.yml"), nodes, port)
            own["global"]["external_labels"]["replica"] = replica
            host = f"prom-{replica}"
            hosts.place(stack.enter_context(prometheus(folder / host, own, *BLOCKS)), host, 9090)
            hosts.start(stack, hosts.argv("sidecar", host))
        query = hosts.start(stack, hosts.argv("query", "query"))
        for replica in ("a", "b"):
            argv = hosts.argv("rule", f"ruler-{replica}")
            argv[argv.index('--label=ruler_replica="a"')] = f'--label=ruler_replica="{replica}"'
            ruler = hosts.start(stack, [*argv, "--resend-delay=2s"])
        alone = quickened(conf("prometheus/prometheus.yml"), nodes, port)
        alone |= {"rule_files": [f"{rules}/*.yaml"], "remote_write": [], "alerting": {}}
        yield stack.enter_context(prometheus(folder / "alone", alone)), query, ruler, manager


def test_rulers_record_what_prometheus_records(ruled):
    """The same recorded series with the same labels but for `site`, each once though there are two rulers; no rule fails."""
    alone, query, ruler, _ = ruled

    def same():
        here, there = recorded_labels(alone, 4), recorded_labels(query, 4, ADDED)
        return len(here) > 300 and here == there

    eventually(same, 120)
    assert unhealthy(ruler) == []


def test_a_pair_of_rulers_gives_one_alert(ruled):
    """Both send the alert; in Alertmanager it is one, so that one mail leaves."""
    *_, manager = ruled
    eventually(lambda: alerts(manager, "Watch"))
    time.sleep(5)  # the other one's would have come by then
    assert alerts(manager, "Watch") == [{"alertname": "Watch", "severity": "none", "site": "jz"}]


# --- years --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downsampled", [False, True], ids=["kept", "downsampled"])
def test_energy_of_a_month(downsampled, tmp_path):
    """
    The compactor keeps what the dashboards ask for; where it is told to downsample, their query is wrong, and the one
    of docs/storage.md is right, both for a series that is always there and for one that is there half of the time.
    """
    hosts = Hosts(tmp_path)
    now_s = int(time.time()) // 7200 * 7200
    joules = recorded_month(tmp_path, now_s)
    without = ("--wait", "--downsampling.disable") if downsampled else ("--wait",)
    argv = [*hosts.argv("compact", "compact", without=without), "--consistency-delay=0s"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with ExitStack() as stack:
        hosts.start(stack, hosts.argv("store", "store-recorded"))
        url = hosts.start(stack, hosts.argv("query", "query"))
        at = {"time": str(now_s - 60), "max_source_resolution": "1h" if downsampled else "0s"}
        eventually(lambda: ask(url, at | {"query": "always"}))

        def told(expr):
            (values,) = ask(url, at | {"query": expr}).values()
            return values[0][1]

        for name, wanted in joules.items():
            assert told(f"sum_over_time({name}[20d]) * 60") == pytest.approx(wanted, rel=2e-3)
            # no marker says where the halves end, as rules leave them, and five minutes after each are counted
            drawn = told(f"sum_over_time({name}[20d:5m]) * 300")
            assert (drawn == pytest.approx(wanted, rel=0.06)) is not downsampled, name


def recorded_month(folder, now_s):
    """Blocks as the ruler ships them, of two series of 100 to 150 W; their joules of the last 20 days."""
    stamps = range(now_s - 30 * DAY_S, now_s, 60)
    watts = {
        "always": {at: 100.0 + 50 * (at // 3600 % 24 > 12) for at in stamps},
        "half": {at: 100.0 + 50 * (at // 3600 % 24 > 12) for at in stamps if at // 7200 % 2},
    }
    with (folder / "past.om").open("w") as out:
        for name, values in watts.items():
            out.writelines(line(name, {"cluster": "c"}, value, at) for at, value in values.items())
        out.write("# EOF\n")
    blocks(folder / "past.om", folder / "blocks")
    for block in (folder / "blocks").glob("01*"):
        meta = json.loads((block / "meta.json").read_text())
        meta["thanos"] = {"version": 1, "labels": {"site": "jz", "ruler_replica": "a"}, "downsample": {"resolution": 0}, "source": "rule"}  # fmt: skip
        (block / "meta.json").write_text(json.dumps(meta))
        shutil.copytree(block, folder / "bucket-recorded" / block.name)
    began_s = now_s - 60 - 20 * DAY_S
    return {
        name: sum(60 * value for at, value in values.items() if at >= began_s)
        for name, values in watts.items()
    }
