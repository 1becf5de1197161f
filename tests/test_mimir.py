"""
A real Mimir in one process, with the files of interop/storage/mimir as they are but for addresses and the bucket.
No package has it, so that CI leaves it out; where there is one, with mimirtool beside it:

    JOBWATT_MIMIR=/opt/mimir/mimir .venv/bin/python -m pytest tests/test_mimir.py
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import storagekit
from alertmanager import Alert, Mailbox
from backfill import blocks, line
from prom import Prometheus, free_port
from storagekit import ask, recorded_labels, same_dashboards, same_rules
from storagesite import (
    STORAGE,
    alertmanager,
    alerts,
    conf,
    eventually,
    prometheus,
    quick_rules,
    quickened,
    running,
    unhealthy,
)

from scalenodes import Load, Nodes, Server  # isort: skip  (storagesite has set the path)

ROOT = Path(__file__).parents[1]
ALERTS = ROOT / "alerts"
MIMIR = os.environ.get("JOBWATT_MIMIR", "")
LONG_AGO_S = 100 * 86_400  # more than the one tenant's 60 days, less than the other's 5 years
# Each part of the process asks for its address among a machine's networks, and a test's may be none but loopback.
RINGS = ("distributor.ring", "ingester.ring", "ruler.ring", "store-gateway.sharding-ring", "compactor.ring",
         "alertmanager.sharding-ring", "query-scheduler.ring", "overrides-exporter.ring")  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.mimir, pytest.mark.prometheus]


@pytest.fixture(scope="module", autouse=True)
def _there():
    if not MIMIR:
        pytest.skip("needs JOBWATT_MIMIR, the path of a mimir with mimirtool beside it")


def mimirtool(*arguments):
    """What it prints; AssertionError with that where it refuses."""
    argv = [Path(MIMIR).with_name("mimirtool"), *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@contextmanager
def mimir(folder, *flags, changes=None):
    """mimir.yaml with a folder for its bucket; gives its address."""
    config = conf("mimir/mimir.yaml") | (changes or {})
    config["common"] = {
        "storage": {"backend": "filesystem", "filesystem": {"dir": f"{folder}/bucket"}}
    }
    config["runtime_config"]["file"] = str(STORAGE / "mimir/runtime.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mimir.yaml").write_text(json.dumps(config))
    port, grpc, gossip = free_port(), free_port(), free_port()
    argv = [MIMIR, f"-config.file={folder}/mimir.yaml", "-server.http-listen-address=127.0.0.1",
            f"-server.http-listen-port={port}", "-server.grpc-listen-address=127.0.0.1",
            f"-server.grpc-listen-port={grpc}", "-memberlist.bind-addr=127.0.0.1", f"-memberlist.bind-port={gossip}",
            *(f"-{ring}.instance-addr=127.0.0.1" for ring in RINGS), "-query-frontend.instance-addr=127.0.0.1",
            "-ingester.ring.min-ready-duration=0s", *flags]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with running(argv, f"{url}/ready", folder):
        yield url


@contextmanager
def as_tenant(mimir_url, tenant):
    """What nginx.conf does: an address that names the tenant to Mimir."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept = {k: v for k, v in self.headers.items() if k not in {"Host", "Content-Length"}}
            request = urllib.request.Request(mimir_url + self.path, body, kept | {"X-Scope-OrgID": tenant})  # fmt: skip
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    code, said = answer.status, answer.read()
            except urllib.error.HTTPError as err:
                code, said = err.code, err.read()
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def metrics(url, pattern):
    """Sum of Mimir's own metric over all its labels."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(row.rsplit(" ", 1)[1]) for row in lines if re.match(rf"{pattern}[{{ ]", row))


# --- rules and mails -------------------------------------------------------------------------------------


def test_mimirtool_takes_rules_and_mails():
    """It finds nothing to say about the rules, nor about Alertmanager's configuration and template."""
    files = sorted((ALERTS / "rules").glob("*.yaml"))
    mimirtool("rules", "check", "--strict", *files)
    mimirtool("alertmanager", "verify", "--utf8-strict-mode", *mails())
    mimirtool("runtime-config", "validate", f"--config-file={STORAGE}/mimir/runtime.yaml")


def mails():
    return [ALERTS / "alertmanager/alertmanager.yml", ALERTS / "alertmanager/jobwatt.tmpl"]


def test_mimirs_own_alertmanager_mails(tmp_path):
    """With what alertmanager.yaml adds: an owner's mail is written as any Alertmanager writes it."""
    changes = conf("mimir/alertmanager.yaml")
    config, template = mails()
    flags = ("-target=all,alertmanager", "-alertmanager.configs.poll-interval=2s")
    with Mailbox() as mailbox, mimir(tmp_path / "mimir", *flags, changes=changes) as url:
        sooner = config.read_text().replace("localhost:25", f"127.0.0.1:{mailbox.port}")
        sooner = re.sub(r"group_wait: \w+", "group_wait: 1s", sooner)
        sooner = sooner.replace("active_time_intervals: [mail-hours]", "")
        (tmp_path / config.name).write_text(sooner)
        where = (f"--address={url}", "--id=jobwatt")
        mimirtool("alertmanager", "load", *where, tmp_path / config.name, template)
        with as_tenant(url, "jobwatt") as tenant:
            eventually(lambda: posted(f"{tenant}/alertmanager/api/v2/alerts", Alert("JobwattGPUIdle")))  # fmt: skip
            (mail,) = mailbox.expect(1, "alice@example.org")
        assert "scancel 7001" in mail.text
        assert "scancel 7001" in mail.html
        secret = sooner.replace("global:", "global:\n  smtp_auth_password_file: /etc/x", 1)
        (tmp_path / config.name).write_text(secret)
        with pytest.raises(AssertionError, match=r"password_file.* is not allowed"):
            mimirtool("alertmanager", "load", *where, tmp_path / config.name, template)


def posted(url, alert):
    """Whether Alertmanager took it: a tenant's is there some seconds after its configuration."""
    body = json.dumps([alert.encoded(3600)]).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60).close()
    except urllib.error.HTTPError as err:
        assert err.code == 406, err.read()  # noqa: PT017  any other answer is a fault
        return False
    return True


# --- the same past in both -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """
    Prometheus and Mimir with the same day of two nodes, in Mimir's bucket of both tenants, beside a block of long
    ago. Gives their addresses (the last: of the tenant of the long term) and the moment after that day.
    """
    folder = tmp_path_factory.mktemp("mimir")
    to_s = int(time.time()) // 300 * 300
    storagekit.write_past(folder / "past.om", to_s)
    blocks(folder / "past.om", folder / "prometheus/data")
    old = (line("old", {"cluster": "c"}, 1.0, at) for at in range(to_s - LONG_AGO_S, to_s - LONG_AGO_S + 600, 60))  # fmt: skip
    (folder / "old.om").write_text("".join(old) + "# EOF\n")
    blocks(folder / "old.om", folder / "old")
    for tenant in ("jobwatt", "jobwatt-years"):
        for block in (*(folder / "prometheus/data").glob("01*"), *(folder / "old").glob("01*")):
            shutil.copytree(block, folder / "mimir/bucket/blocks" / tenant / block.name)
    # by default the newest twelve hours are asked of ingesters alone, and the bucket is looked at now and then
    sooner = ("-querier.query-store-after=0s", "-blocks-storage.bucket-store.ignore-blocks-within=0s",
              "-blocks-storage.bucket-store.sync-interval=2s", "-compactor.cleanup-interval=2s",
              "-compactor.deletion-delay=1s")  # fmt: skip
    with (
        Prometheus(folder / "prometheus", []) as store,
        mimir(folder / "mimir", *sooner) as url,
        as_tenant(url, "jobwatt") as short,
        as_tenant(url, "jobwatt-years") as long,
    ):
        at = {"time": str(to_s), "query": "count(jobwatt_build_info)"}
        eventually(lambda: ask(f"{short}/prometheus", at))
        yield (
            f"http://127.0.0.1:{store.port}",
            f"{short}/prometheus",
            f"{long}/prometheus",
            to_s + 17,
        )
    shutil.rmtree(folder)


def test_rules_give_the_same(both):
    """Every rule, written out over raw series: the same series and the same values."""
    url, other, _, at_s = both
    assert same_rules(url, other, at_s) > 100


def test_dashboards_give_the_same(both):
    """Every query of every dashboard: the same, where a rate is asked for within a few percent."""
    url, other, _, at_s = both
    assert same_dashboards(url, other, at_s) > 150


def test_retention_is_each_tenants(both):
    """What is older than 60 days is gone from the one tenant and still there for the other."""
    _, short, long, at_s = both
    at = {"time": str(at_s // 300 * 300 - LONG_AGO_S + 300), "query": "old"}
    eventually(lambda: not ask(short, at))
    assert ask(long, at)


# --- what is written on ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """
    Mimir behind a pair of Prometheus servers as prometheus.yml has them, rules in its ruler, a real Alertmanager; a
    Prometheus that evaluates the same rules beside. Gives the address of this, Mimir's, the tenant's, Alertmanager's.
    """
    folder = tmp_path_factory.mktemp("mimir-written")
    rules = quick_rules(folder / "rules", "2s")
    with ExitStack() as stack:
        nodes = Nodes(Load(2))
        port = stack.enter_context(Server(nodes)).port
        manager = stack.enter_context(alertmanager(folder / "am"))
        sooner = ("-ruler.poll-interval=2s", "-ruler.evaluation-delay-duration=2s",
                  "-ruler.resend-delay=2s")  # fmt: skip
        changes = {"ruler": conf("mimir/mimir.yaml")["ruler"] | {"alertmanager_url": manager}}
        url = stack.enter_context(mimir(folder / "mimir", *sooner, changes=changes))
        mimirtool("rules", "load", f"--address={url}", "--id=jobwatt", *sorted(rules.glob("*")))
        tenant = stack.enter_context(as_tenant(url, "jobwatt"))
        for replica in ("a", "b"):
            own = quickened(conf("mimir/prometheus.yml"), nodes, port)
            own["global"]["external_labels"]["__replica__"] = replica
            own["remote_write"][0]["url"] = f"{tenant}/api/v1/push"
            stack.enter_context(prometheus(folder / replica, own))
        alone = quickened(conf("prometheus/prometheus.yml"), nodes, port)
        alone |= {"rule_files": [f"{rules}/*.yaml"], "remote_write": [], "alerting": {}}
        yield stack.enter_context(prometheus(folder / "alone", alone)), url, tenant, manager


def test_ruler_records_what_prometheus_records(written):
    """The same recorded series with the same labels, no more; no rule fails; no sample is refused."""
    alone, url, tenant, _ = written

    def same():
        here, there = recorded_labels(alone, 6), recorded_labels(f"{tenant}/prometheus", 6)
        return len(here) > 300 and here == there

    eventually(same, 120)
    assert unhealthy(f"{url}/prometheus", "jobwatt") == []
    assert metrics(url, "cortex_discarded_samples_total") == 0


def test_one_of_a_pair_is_taken(written):
    """Both send, and each series is there once, without the label by which the two differ."""
    _, url, tenant, _ = written
    found = eventually(lambda: ask(f"{tenant}/prometheus", {"query": "up", "time": str(time.time() - 2)}))  # fmt: skip
    assert len(found) == 2  # nodes
    assert all("__replica__" not in dict(labels) for labels in found)
    came = metrics(url, "cortex_distributor_samples_in_total")
    taken = metrics(url, "cortex_distributor_received_samples_total")
    assert 0 < taken < 0.8 * came  # half of the nodes', and all of the ruler's own


def test_ruler_tells_alertmanager(written):
    """An alert of the ruler is in Alertmanager, with no label of the store's."""
    *_, manager = written
    eventually(lambda: alerts(manager, "Watch"))
    assert alerts(manager, "Watch") == [{"alertname": "Watch", "severity": "none"}]
