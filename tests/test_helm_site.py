"""The chart's rules, dashboards, mails and monitors: the shipped ones, or a site's own."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys

import pytest
import yaml

from helmchart import (
    CHART,
    ROOT,
    flat,
    helm3,
    of,
    rendered,
    values_file,
)

pytestmark = pytest.mark.npm


def test_copies_are_their_sources():
    """The chart's copies of rules and dashboards, and its list of settings, are what `make generate` writes."""
    done = subprocess.run(
        [sys.executable, ROOT / "helm/generate.py", "--check"],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.prometheus
def test_rules_are_the_shipped_ones_and_promtool_takes_them(tmp_path):
    """Each rules file is a PrometheusRule with the same groups, save for the runbooks' address."""
    objects = rendered("kube-prometheus-stack")
    where = "https://wiki.example.org/jobwatt/runbooks/"
    sources = sorted((ROOT / "alerts/rules").glob("*.yaml"))
    assert len(of(objects, "PrometheusRule")) == len(sources)
    for source in sources:
        spec = objects["PrometheusRule", f"demo-jobwatt-{source.stem}"]["spec"]
        text = source.read_text(encoding="utf-8").replace("alerts/runbooks/", where)
        assert spec == yaml.safe_load(text)
        (tmp_path / source.name).write_text(yaml.safe_dump(spec), encoding="utf-8")
    files = sorted(map(str, tmp_path.glob("*.yaml")))
    subprocess.run(["promtool", "check", "rules", *files], check=True, capture_output=True)


def test_a_sites_own_rules_and_mails_take_the_place_of_the_shipped_ones(tmp_path):
    """`jobwatt alerts render` and --set-file: the site's thresholds and addresses are what is installed."""
    out = tmp_path / "out"
    site = (ROOT / "alerts/site.toml").read_text(encoding="utf-8")
    site = site.replace("hpc-operators@example.org", "ops@site.example.org").replace('# idle = "1h"', 'idle = "2h"')  # fmt: skip
    (tmp_path / "site.toml").write_text(site, encoding="utf-8")
    command = [sys.executable, "-m", "jobwatt", "alerts", "render", "--site", tmp_path / "site.toml", "--out", out]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT / "exporter")
    done = helm3(
        "template", "demo", ".", "--kube-version=1.31", f"--values={values_file('kube-prometheus-stack')}",
        f"--set-file=rules.site={out}/rules/site.yaml",
        f"--set-file=alertmanager.config={out}/alertmanager/alertmanager.yml",
        f"--set-file=alertmanager.template={out}/alertmanager/jobwatt.tmpl",
    )  # fmt: skip
    objects = flat(done.stdout)
    rules = objects["PrometheusRule", "demo-jobwatt-site"]["spec"]["groups"][0]["rules"]
    assert {"record": "jobwatt:threshold:idle", "expr": "vector(7200)"} in rules
    secret = objects["Secret", "demo-jobwatt-alertmanager"]["data"]
    assert b"ops@site.example.org" in base64.b64decode(secret["alertmanager.yaml"])
    template_text = (out / "alertmanager/jobwatt.tmpl").read_bytes()
    assert base64.b64decode(secret["jobwatt.tmpl"]) == template_text


@pytest.mark.prometheus
def test_amtool_takes_the_mails(tmp_path):
    """Alertmanager's Secret holds a configuration that amtool takes, and the template that it names."""
    data = rendered("kube-prometheus-stack")["Secret", "demo-jobwatt-alertmanager"]["data"]
    config = base64.b64decode(data["alertmanager.yaml"]).decode()
    assert "templates: [/etc/alertmanager/config/jobwatt.tmpl]" in config
    (tmp_path / "jobwatt.tmpl").write_bytes(base64.b64decode(data["jobwatt.tmpl"]))
    there = config.replace("/etc/alertmanager/config", str(tmp_path))
    (tmp_path / "alertmanager.yml").write_text(there, encoding="utf-8")
    done = subprocess.run(
        ["amtool", "check-config", tmp_path / "alertmanager.yml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "1 templates" in done.stdout


@pytest.mark.parametrize(("scenario", "prefix"), [("full", "jw"), ("kube-prometheus-stack", "demo-jobwatt")])  # fmt: skip
def test_dashboards_are_the_shipped_ones(scenario, prefix):
    """Each dashboard is a ConfigMap with the sidecar's label, the same JSON, and room to 1 MiB."""
    objects = rendered(scenario)
    sources = sorted((ROOT / "grafana/dashboards").glob("*.json"))
    for source in sources:
        one = objects["ConfigMap", f"{prefix}-dashboard-{source.stem}"]
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"]["grafana_folder"]
        text = one["data"][f"jobwatt-{source.name}"]
        assert json.loads(text) == json.loads(source.read_text(encoding="utf-8"))
        assert len(text.encode()) < 2**20 / 2


def test_a_release_fits_into_its_secret():
    """Helm keeps chart and manifest, zipped and in base64, in one Secret of 1 MiB at most: half of it is left."""
    files = b"".join(path.read_bytes() for path in sorted(CHART.rglob("*")) if path.is_file())
    manifest = json.dumps(list(rendered("kube-prometheus-stack").values())).encode()
    # the chart's files are kept in base64, then all of it is zipped, and that is in base64 twice
    zipped = gzip.compress(base64.b64encode(files) + manifest)
    assert len(zipped) * 16 / 9 < 2**20 / 2


# --- how it is scraped --------------------------------------------------------------------------


def test_series_keep_their_labels_over_a_restart():
    """instance is the node, job and cluster are fixed, and no label names the pod."""
    for scenario in ("kube-prometheus-stack", "central", "tls"):
        for one in of(rendered(scenario), "PodMonitor", "ServiceMonitor"):
            spec = one["spec"]
            (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
            targets = {r.get("targetLabel"): r for r in endpoint["relabelings"]}
            dropped = next(
                r["regex"] for r in endpoint["relabelings"] if r["action"] == "labeldrop"
            )
            assert {"pod", "container"} <= set(dropped.split("|"))
            assert targets["job"]["replacement"].startswith("jobwatt")
            component = one["metadata"]["labels"]["app.kubernetes.io/component"]
            if component == "node":
                assert targets["instance"]["sourceLabels"] == ["__meta_kubernetes_pod_node_name"]
            if scenario != "central":
                assert targets["cluster"]["replacement"] == "jz"
    assert {one["metadata"]["name"] for one in of(rendered("central"), "PodMonitor")} == {
        "demo-jobwatt-node",
        "demo-jobwatt-grid",
        "demo-jobwatt-bmc-proxy",
    }
