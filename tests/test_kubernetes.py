"""
The chart on a real API server: what it refuses, changes or leaves behind, which nodes get a pod, and what the Prometheus
Operator makes of it. No package has a Kubernetes, so that CI leaves it out; docs/kubernetes.md says how it is had:

    JOBWATT_KUBERNETES=/opt/kubernetes .venv/bin/python -m pytest tests/test_kubernetes.py
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml

import kubernetes
import webcerts
from helmchart import CHART, HELM3, ROOT, SCENARIOS, flat, values_file
from kubernetes import EVERYTHING, FOLDER, custom, eventually, made, secret
from test_helm_alerts import PREFIX, SITE, as_operator

pytestmark = [pytest.mark.slow, pytest.mark.kubernetes, pytest.mark.npm, pytest.mark.prometheus]

KINDS = ("daemonset,deployment,pod,service,configmap,secret,serviceaccount,networkpolicy,controllerrevision,"
         "podmonitor,servicemonitor,prometheusrule,alertmanagerconfig")  # fmt: skip
HELMS = {"3": HELM3, "4": FOLDER / "helm"}
OURS = "app.kubernetes.io/part-of=jobwatt"

GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
WORKER = {"key": "nodeset.slinky.slurm.net/worker", "value": "slurm", "effect": "NoExecute"}
SLURM = {"key": "slurm", "value": "true", "effect": "NoExecute"}
PRESENT = {"nvidia.com/gpu.present": "true"}
NODES = [
    ("gpu", PRESENT, [GPU]),
    ("a100", {**PRESENT, "pool": "a100", "nvidia.com/mig.capable": "true"}, [GPU, SLURM]),
    ("a100-old", {**PRESENT, "pool": "a100"}, [GPU]),  # has not the label of the pool's affinity
    ("slurmd", {**PRESENT, "pool": "slurm"}, [GPU, WORKER]),
    ("cpu", {"pool": "cpu"}, []),
    ("control", {}, [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]),
    ("infra", {"network": "management"}, [{"key": "infra", "effect": "NoSchedule"}]),
]  # fmt: skip


@pytest.fixture(scope="module")
def kube(tmp_path_factory):
    if lacking := kubernetes.missing():
        pytest.skip(f"needs {', '.join(lacking)}")
    with kubernetes.cluster(tmp_path_factory.mktemp("kubernetes")) as cluster:
        cluster.namespace("grafana")
        nvidia = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"}  # fmt: skip
        cluster.apply(nvidia)
        yield cluster


@pytest.fixture(scope="module")
def nodes(kube):
    """From here on there are some; a pod that is on one never goes again, for want of a kubelet."""
    for name, labels, taints in NODES:
        kube.node(name, labels, *taints)


def install(kube, namespace, *args, helm="3", verb="install"):
    """`helm install demo`; what it said on stderr, where warnings of the API server are."""
    return kube.run(HELMS[helm], verb, "demo", CHART, "--namespace", namespace, *args).stderr


def within(asked, found):
    """Whether everything asked for is in what was found; the server leaves out what is false, zero or empty."""
    if isinstance(asked, dict):
        return all(within(v, (found or {}).get(k)) for k, v in asked.items())
    if isinstance(asked, list):
        return len(asked) == len(found or []) and all(map(within, asked, found or []))
    return asked == found or (not asked and not found) or str(asked) == str(found)


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_is_taken_whole_and_leaves_nothing(kube, scenario, helm):
    """The API server has no warning, keeps every field, and after `helm uninstall` nothing of it is left."""
    namespace = kube.namespace(f"whole-{helm}-{scenario}")
    assert "arning" not in install(kube, namespace, f"--values={values_file(scenario)}", helm=helm)
    text = kube.run(HELMS[helm], "get", "manifest", "demo", "-n", namespace).stdout
    for (kind, name), asked in flat(text).items():
        found = kube.get(kind, name, "-n", asked["metadata"]["namespace"])
        assert within(asked, found), (kind, name)
    kube.run(HELMS[helm], "uninstall", "demo", "-n", namespace)
    eventually(lambda: not kube.get(KINDS, "-A", "-l", OURS))
    left = [o["metadata"]["name"] for o in kube.get(KINDS, "-n", namespace)]
    assert sorted(set(left)) == ["default", "kube-root-ca.crt"]


def specs(kube, namespace):
    """What the release has in this namespace, without what the server made up for each object."""
    kinds = KINDS.replace(",pod,", ",").replace(",controllerrevision", "")
    found = {}
    for one in kube.get(kinds, "-n", namespace, "-l", OURS):
        own = {k: v for k, v in one.items() if k not in ("metadata", "status", "apiVersion")}
        own = json.loads(json.dumps(own).replace(namespace, "NAMESPACE"))
        for given in ("clusterIP", "clusterIPs"):
            own.get("spec", {}).pop(given, None)
        annotations = own.get("spec", {}).get("template", {}).get("metadata", {})
        annotations.pop("creationTimestamp", None)
        found[one["kind"], one["metadata"]["name"]] = (own, one["metadata"]["labels"])
    return found


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_leaves_what_an_installation_makes(kube, helm):
    """From each scenario to the next the objects become those of a fresh release, and so do they by `helm rollback`."""
    way = kube.namespace(f"way-{helm}")
    fresh = {}
    for n, scenario in enumerate(SCENARIOS):
        namespace = kube.namespace(f"fresh-{helm}-{scenario}")
        given = (f"--values={values_file(scenario)}", f"--set=dashboards.namespace={namespace}")
        install(kube, namespace, *given, helm=helm)
        fresh[scenario] = specs(kube, namespace)
        given = (*given[:1], f"--set=dashboards.namespace={way}")
        install(kube, way, *given, helm=helm, verb="upgrade" if n else "install")
        assert specs(kube, way) == fresh[scenario], scenario
    for n, scenario in enumerate(SCENARIOS[:-1], 1):
        kube.run(HELMS[helm], "rollback", "demo", str(n), "-n", way)
        assert specs(kube, way) == fresh[scenario], scenario
    for namespace in (way, *(f"fresh-{helm}-{scenario}" for scenario in SCENARIOS)):
        kube.run(HELMS[helm], "uninstall", "demo", "-n", namespace)


@pytest.mark.parametrize(
    ("scenario", "where"),
    [
        ("minimal", {"gpu": {"gpu", "a100-old", "cpu"}}),
        ("full", {"a100": {"a100"}, "cpu": {"cpu"}}),
        ("slinky", {"slurmd": {"slurmd"}}),
        ("central", {"gpu": {"gpu", "a100-old", "cpu"}, "bmc-proxy": {"infra"}}),
    ],
)
def test_pods_are_on_the_nodes_that_are_meant(kube, nodes, scenario, where):
    """A daemon on each node that pool's labels and taints admit, and on no other; the bmc-proxy where it was sent."""
    namespace = kube.namespace(f"nodes-{scenario}")
    install(kube, namespace, f"--values={values_file(scenario)}")
    label = {name: "jobwatt/pool" if name != "bmc-proxy" else "app.kubernetes.io/component" for name in where}  # fmt: skip

    def bound():
        pods = kube.get("pods", "-n", namespace)
        return {
            name: {p["spec"].get("nodeName") for p in pods if p["metadata"]["labels"].get(label[name]) == name}
            for name in where
        }  # fmt: skip

    eventually(lambda: bound() == where)
    kube.run(HELM3, "uninstall", "demo", "-n", namespace)


def test_baseline_is_too_little(kube, nodes):
    """As the notes say: Helm is content, the DaemonSet is there, and its pods are refused."""
    namespace = kube.namespace("baseline", "baseline")
    said = install(kube, namespace, f"--values={values_file('minimal')}")
    assert 'would violate PodSecurity "baseline:latest"' in said
    eventually(lambda: "FailedCreate" in kube.kubectl("get", "events", "-n", namespace).stdout)
    assert kube.get("pods", "-n", namespace) == []


# --- the Prometheus Operator -------------------------------------------------------------------------------


def scraped(kube, folder, scenario):
    """The chart beside a Prometheus of the operator's; its namespace, and the configuration that the operator made."""
    namespace = kube.namespace(f"scraped-{scenario}")
    crt, key = (path.read_text() for path in webcerts.make("page").write(folder, "tls"))
    tls = {"tls.crt": crt, "tls.key": key, "ca.crt": crt}
    kube.apply(
        secret(namespace, "jobwatt-tls", **tls), secret(namespace, "prometheus-client", **tls),
        secret(namespace, "jobwatt-scrape", username="prometheus", password="secret"),
    )  # fmt: skip
    install(kube, namespace, f"--values={values_file(scenario)}")
    server = yaml.safe_load(kube.config.read_text())["clusters"][0]["cluster"]
    (folder / "token").write_text(kubernetes.TOKEN)
    asked = {"host": server["server"], "bearerTokenFile": f"{folder}/token", "tlsConfig": {"caFile": server["certificate-authority"]}}  # fmt: skip
    kube.apply(custom(
        "Prometheus", namespace, "podMonitorSelector", "serviceMonitorSelector", "ruleSelector",
        version="v2.42.0", apiserverConfig=asked,
    ))  # fmt: skip
    return namespace, eventually(
        lambda: made(kube, namespace, "prometheus-made", "prometheus.yaml.gz")
    )


def targets(kube, folder, namespace, config):
    """What Prometheus' own discovery finds by this configuration: labels of each target, once every pod has an address."""
    for n, pod in enumerate(kube.get("pods", "-n", namespace), 1):
        at = f"10.1.0.{n}"
        status = {"phase": "Running", "podIP": at, "podIPs": [{"ip": at}], "conditions": [{"type": "Ready", "status": "True"}]}  # fmt: skip
        kube.kubectl("patch", "pod", pod["metadata"]["name"], "-n", namespace, "--subresource=status", "-p", json.dumps({"status": status}))  # fmt: skip
    text = json.dumps(config).replace("$(SHARD)", "0").replace("/etc/prometheus/certs", str(folder))
    (folder / "prometheus.yml").write_text(text)
    certs = kube.get("secret", "prometheus-made-tls-assets-0", "-n", namespace).get("data") or {}
    for name, content in certs.items():
        (folder / name).write_bytes(base64.b64decode(content))
    found = []
    for job in config["scrape_configs"]:
        said = kube.run(
            FOLDER / "promtool", "check", "service-discovery", "--timeout=5s", folder / "prometheus.yml", job["job_name"]
        ).stdout  # fmt: skip
        kept = [one["labels"] for one in json.loads(said) if one.get("labels")]
        found += [{k: v for k, v in one.items() if not k.startswith("__")} for one in kept]
    return sorted(found, key=json.dumps)


@pytest.mark.parametrize(
    ("scenario", "more"),
    [("kube-prometheus-stack", {"cluster": "jz"}), ("tls", {"cluster": "jz", "site": "idris"}), ("central", {})],
)  # fmt: skip
def test_each_daemon_is_one_target(kube, nodes, tmp_path, scenario, more):
    """Prometheus' own discovery, by the operator's configuration, finds each pod once, under its node's name."""
    namespace, config = scraped(kube, tmp_path, scenario)
    eventually(lambda: len(kube.get("pods", "-n", namespace, "-l", "jobwatt/pool=gpu")) == 3)
    wanted = [{"instance": node, "job": "jobwatt", **more} for node in ("a100-old", "cpu", "gpu")]
    if scenario == "central":
        wanted += [{"instance": f"demo-jobwatt-{one}", "job": f"jobwatt-{one}"} for one in ("bmc-proxy", "grid")]  # fmt: skip
    wanted.sort(key=json.dumps)
    eventually(lambda: targets(kube, tmp_path, namespace, config) == wanted)
    job = config["scrape_configs"][0]
    if scenario == "tls":
        assert job["basic_auth"] == {"username": "prometheus", "password": "secret"}
        files = {name: (tmp_path / job["tls_config"][f"{name}_file"].rsplit("/", 1)[1]).read_text() for name in ("ca", "cert", "key")}  # fmt: skip
        assert files == {"ca": (tmp_path / "tls.crt").read_text(), "cert": (tmp_path / "tls.crt").read_text(), "key": (tmp_path / "tls.key").read_text()}  # fmt: skip
        assert job["tls_config"]["server_name"] == "jobwatt.hpc.svc"
    assert job["scheme"] == ("http" if scenario == "kube-prometheus-stack" else "https")


def test_rules_are_the_shipped_ones(kube):
    """The operator rejects no group, and its files for Prometheus have every one as it is."""
    namespace = kube.namespace("rules")
    install(kube, namespace, f"--values={values_file('kube-prometheus-stack')}")
    kube.apply(
        custom("Prometheus", namespace, "podMonitorSelector", "ruleSelector", version="v2.42.0")
    )
    eventually(lambda: made(kube, namespace, "prometheus-made", "prometheus.yaml.gz"))
    files = kube.get("configmap", "prometheus-made-rulefiles-0", "-n", namespace)["data"]
    found = [group for text in files.values() for group in yaml.safe_load(text)["groups"]]
    sources = sorted((ROOT / "alerts/rules").glob("*.yaml"))
    shipped = [group for path in sources for group in yaml.safe_load(path.read_text())["groups"]]
    where = "https://wiki.example.org/jobwatt/runbooks/"
    shipped = json.loads(json.dumps(shipped).replace("alerts/runbooks/", where))
    found, shipped = ({g["name"]: g for g in groups} for groups in (found, shipped))
    assert found == shipped


# --- mails ------------------------------------------------------------------------------------------------


def configured(kube, namespace, base, **spec):
    """What the operator gives Alertmanager, whose own configuration is in this Secret."""
    kube.apply(custom("Alertmanager", namespace, version="v0.25.0", configSecret=base, **spec))
    return eventually(lambda: made(kube, namespace, "alertmanager-made-generated", "alertmanager.yaml.gz"))  # fmt: skip


@pytest.mark.parametrize("selectors", [(), ("alertmanagerConfigSelector",)])
def test_the_secret_is_what_alertmanager_gets(kube, selectors):
    """Whole, and with its template beside it; read and written anew where the site's own objects are added to it."""
    namespace = kube.namespace(f"mails-{len(selectors)}")
    install(kube, namespace, f"--values={values_file('kube-prometheus-stack')}")
    config = configured(kube, namespace, "demo-jobwatt-alertmanager", **dict.fromkeys(selectors, EVERYTHING))  # fmt: skip
    shipped = yaml.safe_load((ROOT / "alerts/alertmanager/alertmanager.yml").read_text())
    assert config.pop("templates") == ["/etc/alertmanager/config/jobwatt.tmpl"]
    del shipped["templates"]
    assert config == shipped
    data = kube.get("secret", "alertmanager-made-generated", "-n", namespace)["data"]
    assert base64.b64decode(data["jobwatt.tmpl"]) == (ROOT / "alerts/alertmanager/jobwatt.tmpl").read_bytes()  # fmt: skip


@pytest.mark.parametrize("strategy", ["None", "OnNamespace"])
def test_an_alertmanagerconfig_becomes_what_we_say(kube, tmp_path, strategy):
    """The operator makes of it what the tests without a cluster take for its doing, matcher of the namespace included."""
    namespace = kube.namespace(f"amc-{strategy.lower()}")
    install(kube, namespace, f"--values={values_file('alertmanagerconfig')}")
    kube.apply(secret(namespace, "site", **{"alertmanager.yaml": json.dumps(SITE)}))
    config = configured(
        kube, namespace, "site", alertmanagerConfigSelector=EVERYTHING,
        alertmanagerConfigMatcherStrategy={"type": strategy}, configMaps=["demo-jobwatt-alertmanager"],
    )  # fmt: skip
    spec = kube.get("alertmanagerconfig", "demo-jobwatt", "-n", namespace)["spec"]
    wanted = json.dumps(as_operator(spec, strategy)).replace(PREFIX, f"{namespace}/demo-jobwatt/")
    wanted = json.loads(wanted.replace('namespace=\\"hpc\\"', f'namespace=\\"{namespace}\\"'))
    (tmp_path / "alertmanager.yml").write_text(json.dumps(config))
    done = kube.run(Path("amtool"), "check-config", tmp_path / "alertmanager.yml", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for one in (config, wanted):  # the operator writes lists out that are empty
        for interval in one["mute_time_intervals"]:
            interval["time_intervals"] = [
                {k: v for k, v in part.items() if v} for part in interval["time_intervals"]
            ]
    assert config == wanted
