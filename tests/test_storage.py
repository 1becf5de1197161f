"""
What docs/storage.md offers: its configurations are taken by the programs that they are for, as far as these can be
had; what is kept for years arrives; and VictoriaMetrics answers jobwatt's rules and dashboards as Prometheus does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

import storagekit
from backfill import blocks
from jobwatt.metrics import CATALOGUE
from prom import Prometheus, free_port
from storagekit import Victoria, ask, difference, recorded_labels, same_dashboards, same_rules
from storagesite import (
    STORAGE,
    alertmanager,
    alerts,
    command,
    conf,
    eventually,
    missing,
    prometheus,
    quick_rules,
    quickened,
    running,
    texts,
)

from dashboardcost import needed, recorded  # isort: skip  (storagesite has set the path)
from scalenodes import Load, Nodes, Server  # isort: skip

ROOT = Path(__file__).parents[1]
PROMETHEUS = sorted(STORAGE.glob("*/*.yml"))


def keep():
    """The expression that says what is kept for years."""
    (first, *_) = conf("prometheus/prometheus.yml")["remote_write"][0]["write_relabel_configs"]
    return first["regex"]


# --- configurations --------------------------------------------------------------------------------------


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "path",
    [p for p in PROMETHEUS if "scrape_configs" in p.read_text()],
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_promtool_takes_them(path, tmp_path):
    """Every configuration of a Prometheus, or of what reads the same, passes promtool whole, its rules included."""
    text = path.read_text().replace("/etc/jobwatt/alerts", str(ROOT / "alerts"))
    (tmp_path / "nodes.json").write_text("[]")
    (tmp_path / "p.yml").write_text(
        text.replace("/etc/prometheus/jobwatt/nodes.json", "nodes.json")
    )
    argv = ["promtool", "check", "config", "p.yml"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_kept_for_years():
    """It is the same everywhere it is written; no series of a single job but the fifty, none of a GPU, no name lost."""
    (victoria,) = conf("victoriametrics/keep.yml")
    assert (victoria["regex"], victoria["action"]) == (keep(), "keep")
    kept = {name for name in recorded() if re.fullmatch(keep(), name)}
    labels = needed(recorded())
    shown = {name for name, has in labels.items() if "jobid" not in has or name.endswith(":top50")}
    assert shown <= kept  # what dashboards read over months
    single = {name for name in kept if ":job_" in name}
    assert all(name.endswith(":top50") for name in single)
    assert not any(name.startswith("jobwatt:threshold") for name in kept)
    assert "regex: " + keep() in (ROOT / "docs/storage.md").read_text()


def test_labels_of_pairs():
    """A label by which two of a pair differ is removed wherever the two come together."""
    prometheus = conf("prometheus/prometheus.yml")
    (own,) = prometheus["global"]["external_labels"]
    drop = {"regex": own, "action": "labeldrop"}
    assert drop in prometheus["alerting"]["alert_relabel_configs"]
    assert all(drop in write["write_relabel_configs"] for write in prometheus["remote_write"])
    query, rule = ((STORAGE / f"thanos/{name}.service").read_text() for name in ("query", "rule"))
    apart = set(re.findall(r"--query\.replica-label=(\w+)", query))
    labels = dict(re.findall(r'--label=(\w+)="(\w+)"', rule))
    external = conf("thanos/prometheus.yml")["global"]["external_labels"]
    assert apart == {"replica", "ruler_replica"}
    assert labels.keys() - apart == external.keys() - apart == {"site"}
    assert labels["site"] == external["site"]  # what rules recorded in either is one series
    assert re.findall(r"--alert\.label-drop=(\w+)", rule) == [*(labels.keys() & apart)]
    mimir, sender = conf("mimir/mimir.yaml"), conf("mimir/prometheus.yml")
    told = {mimir["limits"]["ha_cluster_label"], mimir["limits"]["ha_replica_label"]}
    assert told == sender["global"]["external_labels"].keys()
    assert "cluster" not in told  # it is jobwatt's own, and comes with the targets


# Each key of mimir.yaml and alertmanager.yaml, and the flag by which `mimir -help-all` (main of March 2026) names it.
# Where there is a Mimir, test_mimir.py lets it take the files; here no key is added that was not looked up.
MIMIR = {
    "multitenancy_enabled": "auth.multitenancy-enabled",
    "common.storage.backend": "common.storage.backend",
    "common.storage.s3.endpoint": "common.storage.s3.endpoint",
    "common.storage.s3.bucket_name": "common.storage.s3.bucket-name",
    "blocks_storage.storage_prefix": "blocks-storage.storage-prefix",
    "ingester.ring.replication_factor": "ingester.ring.replication-factor",
    "store_gateway.sharding_ring.replication_factor": "store-gateway.sharding-ring.replication-factor",
    "limits.max_global_series_per_user": "ingester.max-global-series-per-user",
    "limits.ingestion_rate": "distributor.ingestion-rate-limit",
    "limits.ingestion_burst_size": "distributor.ingestion-burst-size",
    "limits.ruler_max_rules_per_rule_group": "ruler.max-rules-per-rule-group",
    "limits.ruler_evaluation_delay_duration": "ruler.evaluation-delay-duration",
    "limits.max_fetched_chunks_per_query": "querier.max-fetched-chunks-per-query",
    "limits.accept_ha_samples": "distributor.ha-tracker.enable-for-all-users",
    "limits.ha_cluster_label": "distributor.ha-tracker.cluster",
    "limits.ha_replica_label": "distributor.ha-tracker.replica",
    "limits.compactor_blocks_retention_period": "compactor.blocks-retention-period",
    "runtime_config.file": "runtime-config.file",
    "distributor.ha_tracker.enable_ha_tracker": "distributor.ha-tracker.enable",
    "ruler.enable_api": "ruler.enable-api",
    "ruler.alertmanager_url": "ruler.alertmanager-url",
    "ruler_storage.storage_prefix": "ruler-storage.storage-prefix",
    # alertmanager.yaml
    "alertmanager.external_url": "alertmanager.web.external-url",
    "alertmanager.sharding_ring.replication_factor": "alertmanager.sharding-ring.replication-factor",
    "alertmanager_storage.storage_prefix": "alertmanager-storage.storage-prefix",
}


def leaves(tree, before=""):
    for key, value in tree.items():
        name = f"{before}{key}"
        yield from leaves(value, f"{name}.") if isinstance(value, dict) else [name]


def test_mimir_has_room_for_the_rules():
    """Its keys are those that were looked up; the largest group fits, which by default (20 rules) it does not."""
    mimir = conf("mimir/mimir.yaml")
    assert {*leaves(mimir), *leaves(conf("mimir/alertmanager.yaml"))} == MIMIR.keys()
    groups = [g for text in texts().values() for g in yaml.safe_load(text)["groups"]]
    most = max(len(group["rules"]) for group in groups)
    limits = mimir["limits"]
    # below 20 the file's word about the default is out of date
    assert 20 < most <= limits["ruler_max_rules_per_rule_group"]
    assert len(groups) <= 70  # -ruler.max-rule-groups-per-tenant
    (overrides,) = conf("mimir/runtime.yaml")["overrides"].values()
    assert overrides.keys() <= limits.keys()
    # -validation.max-label-names-per-series is 30; name, job, instance, cluster and ha_cluster come besides
    assert max(len(metric.labels) for metric in CATALOGUE.values()) <= 30 - 5
    recording = [group for group in groups if any("record" in rule for rule in group["rules"])]
    rarest_s = max(parsed(group["interval"]) for group in recording)
    assert rarest_s + parsed(limits["ruler_evaluation_delay_duration"]) < LOOKBACK_S


LOOKBACK_S = 300  # -querier.lookback-delta, and Prometheus's


def parsed(duration):
    """Seconds of one number and one unit."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_mimir_alone_takes_samples():
    """One process is enough: with the three replicas of each series that are wanted by default it refuses them all."""
    mimir = conf("mimir/mimir.yaml")
    assert mimir["ingester"]["ring"]["replication_factor"] == 1
    assert mimir["store_gateway"]["sharding_ring"]["replication_factor"] == 1


def test_tenants_of_mimir():
    """Prometheus writes to the address that names the tenant of the rules; the other's has a retention of its own."""
    servers = re.findall(
        r"listen (\d+);.*?X-Scope-OrgID ([\w-]+);",
        (STORAGE / "mimir/nginx.conf").read_text(),
        re.DOTALL,
    )
    (here, tenant), (_, years) = servers
    (write,) = conf("mimir/prometheus.yml")["remote_write"]
    assert write["url"].endswith(f":{here}/api/v1/push")
    assert "headers" not in write  # Debian 12's Prometheus sends none
    assert f"--id={tenant} " in (ROOT / "docs/storage.md").read_text()
    assert [years] == [*conf("mimir/runtime.yaml")["overrides"]]


def test_thanos_gets_its_quotes():
    """`--label` wants NAME="VALUE"; systemd takes quotes within a word away, and the ruler would not start."""
    labels = [word for word in command("thanos/rule.service") if word.startswith("--label=")]
    assert labels
    assert all(re.fullmatch(r'--label=\w+="\w+"', word) for word in labels)


@pytest.mark.prometheus
def test_each_node_is_in_one_shard(tmp_path):
    """Of the four shards each node has exactly one, and all have some."""
    nodes = [f"gpu{n:04d}:9" for n in range(60)]
    (tmp_path / "nodes.json").write_text(json.dumps([{"targets": nodes}]))
    found = []
    text = (STORAGE / "prometheus/shard.yml").read_text()
    with ExitStack() as stack:
        urls = []
        for shard in range(4):
            own = yaml.safe_load(text.replace('"0"', f'"{shard}"'))
            (job,) = own["scrape_configs"]
            job["file_sd_configs"] = [{"files": [str(tmp_path / "nodes.json")]}]
            own["remote_write"] = []
            urls.append(stack.enter_context(prometheus(tmp_path / str(shard), own)))
        for url in urls:
            until = time.monotonic() + 30
            while not (active := targets(url)) and time.monotonic() < until:
                time.sleep(0.2)
            found.append(active)
    assert sorted(one for active in found for one in active) == nodes
    assert all(found)


def targets(url):
    with urllib.request.urlopen(f"{url}/api/v1/targets?state=active", timeout=30) as answer:
        return [t["labels"]["instance"] for t in json.load(answer)["data"]["activeTargets"]]


# --- programs' flags -----------------------------------------------------------------------------------------


def flags_of(program):
    done = subprocess.run([program, "-help"], capture_output=True, text=True, check=False)
    return set(re.findall(r"^  (-[\w.]+)", done.stdout + done.stderr, re.MULTILINE))


def need(*programs):
    if lacking := missing(*programs):
        pytest.skip(f"needs {lacking}")


def test_flags_of_victoriametrics():
    """victoria-metrics and vmalert know every flag that their files give them."""
    need("victoria-metrics", "vmalert")
    for name, program in (
        ("victoria-metrics.default", "victoria-metrics"),
        ("vmalert.service", "vmalert"),
    ):
        given = set(
            re.findall(r"(?<=[\s\"])(-[a-zA-Z][\w.]+)=", uncommented(f"victoriametrics/{name}"))
        )
        assert given
        assert given <= flags_of(program)


def uncommented(path):
    lines = (STORAGE / path).read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def without_keep_firing(folder):
    """The rules as docs/storage.md says to make them for a vmalert of before 1.92."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        lines = [row for row in text.splitlines() if "keep_firing_for:" not in row]
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def test_vmalert_takes_the_rules(tmp_path):
    """vmalert parses every rule and every annotation; Debian's 1.79 after keep_firing_for has been taken out."""
    need("vmalert")
    folder = without_keep_firing(tmp_path / "rules")
    argv = ["vmalert", "-dryRun", f"-rule={folder}/*.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the same past in both -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Prometheus and VictoriaMetrics with the same day of two nodes; the moment after it; a job of then."""
    need("prometheus", "promtool", "victoria-metrics")
    folder = tmp_path_factory.mktemp("both")
    to_s = int(time.time()) // 300 * 300
    storagekit.write_past(folder / "past.om", to_s)
    blocks(folder / "past.om", folder / "prometheus/data")
    default = uncommented("victoriametrics/victoria-metrics.default")
    stale = re.search(r"-search\.maxStalenessInterval=\w+", default)[0]
    with (
        Prometheus(folder / "prometheus", []) as store,
        Victoria(folder / "victoria", stale, "-search.latencyOffset=0s") as victoria,
    ):
        victoria.load(folder / "past.om")
        url = f"http://127.0.0.1:{store.port}"
        yield url, victoria.url, to_s + 17
    shutil.rmtree(folder)


@pytest.mark.slow
def test_rules_give_the_same_in_victoriametrics(both):
    """Every rule, written out over raw series: the same series and the same values."""
    # the others are of what is not there: alerts, MIG, carbon
    assert same_rules(*both) > 100


@pytest.mark.slow
def test_dashboards_give_the_same_in_victoriametrics(both):
    """Every query of every dashboard: the same, where a rate is asked for within a few percent."""
    assert same_dashboards(*both) > 150


# --- what is written on ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """
    A pair of Prometheus servers as prometheus.yml has it, the long term behind it, Alertmanager, and VictoriaMetrics
    with vmalert behind another; all of them faster than real ones. Gives their addresses once all have something.
    """
    need("prometheus", "prometheus-alertmanager", "victoria-metrics", "vmalert")
    folder = tmp_path_factory.mktemp("written")
    quick_rules(folder / "rules", "2s", "keep_firing_for")  # which Debian's vmalert does not know
    with ExitStack() as stack:
        nodes = Nodes(Load(2))
        port = stack.enter_context(Server(nodes)).port
        manager = stack.enter_context(alertmanager(folder / "am"))
        years = stack.enter_context(
            prometheus(
                folder / "years",
                conf("prometheus/long-term.yml"),
                "--web.enable-remote-write-receiver",
            )
        )
        victoria = stack.enter_context(Victoria(folder / "victoria", "-search.latencyOffset=0s"))
        pair = []
        for replica in ("a", "b"):
            own = quickened(conf("prometheus/prometheus.yml"), nodes, port)
            own["global"]["external_labels"] = {"replica": replica}
            own["rule_files"] = [f"{folder}/rules/*.yaml"]
            own["remote_write"][0]["url"] = f"{years}/api/v1/write"
            own["remote_write"] = (
                own["remote_write"] if replica == "a" else []
            )  # it has another long term
            address = manager.removeprefix("http://")
            own["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [address]}]}]
            sooner = "--rules.alert.resend-delay=2s"
            pair.append(stack.enter_context(prometheus(folder / replica, own, sooner)))
        own = quickened(conf("victoriametrics/prometheus.yml"), nodes, port)
        own["remote_write"][0]["url"] = f"{victoria.url}/api/v1/write"
        stack.enter_context(prometheus(folder / "c", own))
        stack.enter_context(vmalert(folder, victoria.url))
        yield pair, years, victoria, manager


def vmalert(folder, url):
    """vmalert as vmalert.service starts it, with other addresses and intervals."""
    port = free_port()
    argv = command("victoriametrics/vmalert.service")
    argv = [one for one in argv if not one.startswith(("-notifier.url", "-rule="))]
    argv = [re.sub(r"http://127\.0\.0\.1:8428", url, one) for one in argv]
    argv[0] = "vmalert"
    more = [f"-rule={folder}/rules/*.yaml", f"-httpListenAddr=127.0.0.1:{port}", "-notifier.url=http://127.0.0.1:9",
            "-remoteWrite.flushInterval=500ms", "-datasource.queryTimeAlignment=false"]  # fmt: skip
    return running([*argv, *more], f"http://127.0.0.1:{port}/health", folder / "vmalert")


def names(url, at_s=None):
    query = 'count by (__name__) ({__name__=~"jobwatt.+"})'
    found = ask(url, {"query": query, "time": str(at_s or time.time())})
    return {dict(labels)["__name__"] for labels in found}


@pytest.mark.slow
def test_the_long_term_has_what_is_kept_and_nothing_else(written):
    """By remote write: exactly the recorded series that the expression names, without the label of the pair."""
    (url, _), years, _, _ = written
    wanted = eventually(lambda: {n for n in names(url) if re.fullmatch(keep(), n)} or None)
    assert wanted
    eventually(lambda: names(years) >= wanted)
    assert all(re.fullmatch(keep(), name) for name in names(years))
    for labels in ask(years, {"query": '{__name__=~"jobwatt.+"}', "time": str(time.time())}):
        assert "replica" not in dict(labels)
        assert "jobid" not in dict(labels) or dict(labels)["__name__"].endswith(":top50")


@pytest.mark.slow
def test_what_is_written_is_what_was_read(written):
    """The samples of recorded series are the same in Prometheus's own store and behind remote write."""
    (url, _), years, _, _ = written
    query = {"query": f'{{__name__=~"{keep()}"}}[10s]'}

    def same():
        at = {"time": str(time.time() - 4)}
        here, there = ask(url, query | at), ask(years, query | at)
        return len(here) > 3 and not difference(here, there, 0.0)

    eventually(same)


@pytest.mark.slow
def test_a_pair_gives_one_alert(written):
    """Both of a pair send the alert; in Alertmanager it is one, so that one mail leaves."""
    pair, _, _, manager = written

    def sent(url):
        found = ask(url, {"query": 'ALERTS{alertname="Watch",alertstate="firing"}', "time": str(time.time())})  # fmt: skip
        return len(found) == 1

    assert all(eventually(lambda url=url: sent(url)) for url in pair)

    eventually(lambda: alerts(manager, "Watch"))
    time.sleep(3)  # the other one's would have come by then: rules are evaluated every two seconds
    assert alerts(manager, "Watch") == [{"alertname": "Watch", "severity": "none"}]


@pytest.mark.slow
def test_vmalert_records_what_prometheus_records(written):
    """vmalert in VictoriaMetrics, fed by remote write: the same recorded series with the same labels, no more."""
    (url, _), _, victoria, _ = written

    def same():
        victoria.flush()
        here, there = (recorded_labels(address, 2) for address in (url, victoria.url))
        return len(here) > 100 and here == there

    eventually(same, 180)  # half a minute where nothing else runs
