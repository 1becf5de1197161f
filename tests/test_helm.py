"""
The Helm chart: rendered by Helm 3 and Helm 4 and held against the schemas of Kubernetes and of the Prometheus Operator,
and what it says to jobwatt against jobwatt's own parser.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from helmchart import (
    CHART,
    SCENARIOS,
    TOOLS,
    VERSIONS,
    everywhere,
    flat,
    helm3,
    of,
    pods,
    rendered,
    template,
    values_file,
)
from jobwatt.config import from_flags
from jobwatt.parser import parse

pytestmark = pytest.mark.npm

# Mounts of the node that nobody else's word may change; the state is the daemon's own.
READ_ONLY = {"/sys/bus", "/sys/class", "/sys/devices", "/sys/fs/cgroup", "/proc"}


# --- as Helm and Kubernetes read it -------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_lint(scenario):
    """`helm lint --strict` has nothing to say about any scenario."""
    done = helm3("lint", "--strict", ".", f"--values={values_file(scenario)}")
    assert "WARNING" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_kubernetes_takes_it(scenario, version):
    """Every object is what this version of Kubernetes knows, without a field that it does not."""
    import kubernetes_validate

    for one in rendered(scenario, version).values():
        if not one["apiVersion"].startswith("monitoring.coreos.com/"):
            kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_seen():
    """The check above is no formality: it refuses a field that Kubernetes 1.25 does not have."""
    import kubernetes_validate

    objects = rendered("minimal", "1.31")
    with pytest.raises(kubernetes_validate.ValidationError, match="recursiveReadOnly"):
        kubernetes_validate.validate(of(objects, "DaemonSet")[0], "1.25", strict=True)


def operator_says(objects):
    done = subprocess.run(
        ["node", TOOLS / "validate.mjs"],
        input=json.dumps(objects), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_operator_takes_it():
    """PodMonitors, ServiceMonitors and PrometheusRules are what the operator's CRDs know."""
    found = [
        one
        for scenario in SCENARIOS
        for one in of(rendered(scenario), "PodMonitor", "ServiceMonitor", "PrometheusRule")
    ]
    assert {one["kind"] for one in found} == {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert operator_says(found) == (0, "")
    broken = of(rendered("tls"), "ServiceMonitor")[0]
    endpoint = broken["spec"]["endpoints"][0]
    endpoint["relabellings"] = endpoint.pop("relabelings")
    code, said = operator_says([broken])
    assert code == 1
    assert "relabellings is not known" in said


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helm_4_renders_the_same(scenario):
    """Helm 4 renders what Helm 3 does for the same version of Kubernetes."""
    import helm_python

    values = yaml.safe_load(values_file(scenario).read_text(encoding="utf-8"))
    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="demo", namespace="hpc")
    text = "\n---\n".join(text for name, text in files.items() if name.endswith(".yaml"))
    assert flat(text) == rendered(scenario, "1.36")


def test_helm_4_lints():
    """Helm 4's own lint is content, too."""
    import helm_python

    values = yaml.safe_load(values_file("full").read_text(encoding="utf-8"))
    report = helm_python.lint(str(CHART), values, strict=True, kube_version="1.36.0")
    severe = [one for one in report["messages"] if one["severity"] > 1]  # 1 is for information
    assert not severe


# --- what the daemon is told --------------------------------------------------------------------


def test_every_flag_is_one_of_jobwatts():
    """Arguments parse with jobwatt's own parser, and every setting has a value that it takes."""
    seen = set()
    for where, _, container in everywhere():
        if "args" not in container or container["command"] != ["jobwatt"]:
            continue
        args = parse(container["args"])
        seen.add(args.command)
        if args.command == "serve":
            config = from_flags(vars(args))
            assert str(config.path_sysfs) == "/host/sys", where
    assert seen == {"serve", "grid", "bmc-proxy"}


def serve(scenario, name):
    container = rendered(scenario)["DaemonSet", name]["spec"]["template"]["spec"]["containers"][0]
    return from_flags(vars(parse(container["args"])))


def test_settings_of_a_pool_go_first():
    """A pool's settings beat those for all, a switch that is off among them; another pool keeps its own."""
    gpu, cpu = serve("full", "jw-a100"), serve("full", "jw-cpu")
    assert (gpu.slurm_gpu_numbering, cpu.slurm_gpu_numbering) == ("list", "minor")
    assert (gpu.sample_interval, cpu.sample_interval) == (10**9, 5 * 10**9)
    assert (gpu.source_nvml, cpu.source_nvml) == (True, False)
    assert (gpu.source_hwmon, cpu.source_hwmon) == (False, True)
    assert (gpu.source_bmc, cpu.source_bmc) == (True, False)
    assert gpu.remote_node == "$(NODE_NAME)"


def test_configuration_files_are_what_the_commands_read(tmp_path):
    """The grid's and the proxy's TOML come out as they went in, and the chart's own web.yml asks for TLS."""
    objects = rendered("central")
    values = yaml.safe_load(values_file("central").read_text(encoding="utf-8"))
    for name, key in (("grid", "grid.toml"), ("bmc-proxy", "bmcs.toml")):
        text = objects["ConfigMap", f"demo-jobwatt-{name}"]["data"][key]
        asked = values["grid" if name == "grid" else "bmcProxy"]["config"]
        assert tomllib.loads(text) == tomllib.loads(asked)
    from jobwatt.webconfig import parse as parse_web

    web = objects["ConfigMap", "demo-jobwatt-web"]["data"]["web.yml"]
    assert parse_web(web, tmp_path / "web.yml").tls is not None


def test_no_mount_of_the_node_has_others_below():
    """Read-only holds for a mount alone unless the runtime can do more: nothing that has cgroups or debugfs below it."""
    below = {"/sys/fs/cgroup", "/sys/kernel/debug", "/sys/fs/bpf", "/sys/kernel/tracing", "/sys/kernel/config"}  # fmt: skip
    for where, spec, _ in everywhere():
        for volume in spec.get("volumes", []):
            path = volume.get("hostPath", {}).get("path", "-")
            assert not [one for one in below if one.startswith(f"{path}/")], where


def test_mounts_are_where_the_arguments_look():
    """Every path in an argument is mounted, every mount has its volume, and the node's own trees are read-only."""
    for where, spec, container in everywhere():
        mounts = {m["mountPath"]: m for m in container.get("volumeMounts", [])}
        volumes = {v["name"]: v for v in spec.get("volumes", [])}
        assert {m["name"] for m in mounts.values()} == set(volumes), where
        for arg in container.get("args", []):
            path = arg.partition("=")[2]
            if path.startswith("/"):
                places = [path == m or path.startswith(m + "/") or m.startswith(path + "/") for m in mounts]  # fmt: skip
                assert any(places), (where, arg)
        for mount in mounts.values():
            host = volumes[mount["name"]].get("hostPath")
            if host:
                assert host["type"], where
                assert mount.get("readOnly", False) == (host["path"] in READ_ONLY), where


# --- what the pods may do -----------------------------------------------------------------------


def test_pods_are_confined():
    """Every pod drops all capabilities, writes nowhere but to its volumes, and has no token."""
    for where, spec, container in everywhere():
        own = container["securityContext"]
        assert own["capabilities"]["drop"] == ["ALL"], where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["allowPrivilegeEscalation"] is False, where
        assert "privileged" not in own, where
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert spec["automountServiceAccountToken"] is False, where
        assert "memory" in container["resources"]["limits"], where
        assert "cpu" not in container["resources"]["limits"], where
        root = spec["securityContext"]["runAsUser"] == 0
        assert root == (container["args"][0] == "serve" and not where.startswith("certificate")), (
            where
        )


@pytest.mark.parametrize(
    ("privileges", "added"),
    [
        ({}, None),
        ({"environments": True}, ["SYS_PTRACE", "DAC_READ_SEARCH"]),
        ({"perf": True}, ["PERFMON"]),
    ],
)
def test_a_capability_is_added_for_what_is_on_alone(tmp_path, privileges, added):
    """No capability without the switch that needs it."""
    done = template(tmp_path, {"privileges": privileges})
    spec = of(flat(done.stdout), "DaemonSet")[0]["spec"]["template"]["spec"]
    assert spec["containers"][0]["securityContext"]["capabilities"].get("add") == added


def test_no_secret_in_an_argument_or_the_environment():
    """Secrets come as files: no variable is taken from one, and nothing that looks like one is written out."""
    allowed = {"NODE_NAME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "https_proxy", "no_proxy"}  # fmt: skip
    for where, spec, container in everywhere():
        modes = {v["secret"]["defaultMode"] for v in spec.get("volumes", []) if "secret" in v}
        assert modes <= {0o440}, where
        assert "envFrom" not in container, where
        for variable in container.get("env", []):
            assert variable["name"] in allowed, where
            assert set(variable.get("valueFrom", {})) <= {"fieldRef"}, where
            assert not re.search(r"//[^/]*@", variable.get("value", "")), where
        for arg in container.get("args", []):
            name, _, value = arg.partition("=")
            assert not re.search("(credential|password|token|secret)", name) or value.startswith("/"), (where, arg)  # fmt: skip
    for scenario in SCENARIOS:
        for one in of(rendered(scenario), "ConfigMap"):
            assert not re.search(r"(?im)^\s*(password|token|basic_auth_users)\s*[=:]", "".join(one["data"].values()))  # fmt: skip


def test_probes_ask_as_the_page_answers():
    """Probes speak TLS where the page does, and only look for an open port where it asks for a certificate."""
    kinds = {scenario: set() for scenario in SCENARIOS}
    for scenario, asked in kinds.items():
        for _, pod in pods(rendered(scenario)):
            container = pod["spec"]["containers"][0]
            for name in container.keys() & {"startupProbe", "livenessProbe", "readinessProbe"}:
                how = {key: v for key, v in container[name].items() if isinstance(v, dict)}
                asked.add(json.dumps(how))
    assert all(kinds.values())
    assert all('"HTTP"' in probe for probe in kinds["minimal"])
    assert all('"HTTPS"' in probe for probe in kinds["certificate"])
    assert kinds["tls"] == {'{"tcpSocket": {"port": "metrics"}}'}


def test_selectors_find_their_pods_alone():
    """A Service, a monitor and a controller select the pods of their own component and no other's."""
    for scenario in SCENARIOS:
        objects = rendered(scenario)
        labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects)}
        for one in of(objects, "Service", "PodMonitor", "DaemonSet", "Deployment"):
            wanted = one["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            found = {name for name, has in labels.items() if wanted.items() <= has.items()}
            component = wanted["app.kubernetes.io/component"]
            assert found, (scenario, one["metadata"]["name"])
            assert {labels[name]["app.kubernetes.io/component"] for name in found} == {component}
            if one["kind"] in ("DaemonSet", "Deployment"):
                assert found == {one["metadata"]["name"]}


def test_the_test_pod_finds_a_node():
    """Where all nodes are a pool's, and so tainted, `helm test` has one to run on."""
    for scenario in SCENARIOS:
        objects = rendered(scenario)
        for pod in of(objects, "Pod"):
            wanted = [t for one in of(objects, "DaemonSet") for t in one["spec"]["template"]["spec"].get("tolerations", [])]  # fmt: skip
            assert wanted
            assert all(t in pod["spec"]["tolerations"] for t in wanted)


def test_the_test_pod_tells_ready_from_not(tmp_path):
    """What `helm test` runs ends with 0 for a page that is ready, and with 1 for one that is not there."""
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *args):
            pass

    container = rendered("minimal")["Pod", "demo-jobwatt-test"]["spec"]["containers"][0]
    script = container["command"][-1]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        codes = [
            subprocess.run([sys.executable, "-c", script, base + path], capture_output=True, timeout=60, check=False).returncode
            for path in ("/readyz", "/other")
        ]  # fmt: skip
        server.shutdown()
    assert codes == [0, 1]
    gone = subprocess.run([sys.executable, "-c", script, base], capture_output=True, timeout=60, check=False)  # fmt: skip
    assert gone.returncode == 1
