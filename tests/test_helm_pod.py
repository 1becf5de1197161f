"""The chart's pods: started on this machine with the command, mounts, uid and capabilities that the chart gives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import bcrypt
import pytest

import podlike
import webcerts
from daemon import wait
from helmchart import (
    flat,
    of,
    template,
)
from prom import free_port
from trees import Node

pytestmark = pytest.mark.npm


@pytest.fixture
def node(tmp_path):
    """What stands for the node's directories: a RAPL zone that is root's alone, and an empty state."""
    probe = [
        "unshare",
        "--mount",
        "--propagation=private",
        "mount",
        "-t",
        "tmpfs",
        "tmpfs",
        tmp_path,
    ]
    if os.geteuid() != 0 or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs root that may mount")
    made = Node(tmp_path / "node")
    made.add_intel(sockets=1, psys=False, mmio=False)
    for counter in made.sys.rglob("energy_uj"):
        counter.chmod(0o400)
    state = tmp_path / "state"
    state.mkdir()
    parts = {f"/sys/{part}": made.sys / part for part in ("bus", "class", "devices")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
    return {"/sys": made.sys, **parts, "/sys/fs/cgroup": made.cgroup, "/var/lib/jobwatt": state}


def pod_of(tmp_path, **values):
    port = free_port()
    done = template(tmp_path, {**values, "web": {"port": port}})
    pod = of(flat(done.stdout), "DaemonSet")[0]["spec"]["template"]["spec"]
    return pod, f"http://127.0.0.1:{port}"


def answer(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.read().decode()
    except OSError:
        return ""


def status(url):
    """What a kubelet looks at."""
    try:
        with urllib.request.urlopen(url, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as err:
        return err.code
    except OSError:
        return 0


@pytest.mark.parametrize("root", [True, False])
def test_the_daemon_runs_with_the_rights_of_its_pod(tmp_path, node, root):
    """
    As uid 0 without a capability it reads energy_uj and keeps its ledger; as another uid it does
    so where the group may read and the directory is its own, and what is asked by probes is ready.
    """
    pod, url = pod_of(tmp_path, privileges={"root": root, "supplementalGroups": [990]})
    if not root:
        os.chown(node["/var/lib/jobwatt"], 65532, 65532)
        for counter in node["/sys"].rglob("energy_uj"):
            os.chown(counter, 0, 990)
            counter.chmod(0o440)
    with podlike.running(pod, node, tmp_path / "scratch") as process:
        probes = pod["containers"][0]
        ready, health = (
            url + probes[name]["httpGet"]["path"] for name in ("readinessProbe", "livenessProbe")
        )
        wait(lambda: answer(ready) or process.poll() is not None, 90)
        assert process.poll() is None, process.stdout.read()
        assert answer(health)
        page = answer(f"{url}/metrics")
    assert 'jobwatt_rapl_energy_joules_total{zone="package-0"' in page
    assert (node["/var/lib/jobwatt"] / "ledger.db").exists()
    assert process.returncode == 0


def secret(folder, **files):
    """A Secret's volume as the kubelet makes it with defaultMode 0440 and the pod's fsGroup."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(content)
        os.chown(path, 0, 65532)
        path.chmod(0o440)
    return folder


def helm_test(pod, url):
    """What `helm test` runs, against this address."""
    command = [sys.executable, *pod["containers"][0]["command"][1:], f"{url}/readyz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    return done.returncode, done.stdout + done.stderr


def certificate(folder, name):
    pair = webcerts.make(name, dns=("localhost",))
    crt, key = pair.write(folder, name)
    return {"tls_crt": crt.read_bytes(), "tls_key": key.read_bytes()}


@pytest.mark.parametrize("component", ["grid", "bmc-proxy"])
def test_the_central_commands_run_with_the_rights_of_their_pods(tmp_path, node, component):
    """As nobody, over TLS, with keys and passwords that only a group may read, both are ready; so says `helm test`."""
    bmcs = '[[bmc]]\nnode = "gpu01"\nurl = "https://127.0.0.1:9"\ncredentials = "/etc/jobwatt/secrets/bmc/credentials"\n'
    key = {"grid": "grid", "bmc-proxy": "bmcProxy"}[component]
    more = {
        "grid": {},
        "bmc-proxy": {"config": bmcs, "secretMounts": [{"name": "bmc", "secretName": "bmc"}]},
    }
    own = {"enabled": True, "port": free_port(), **more[component]}
    objects = flat(template(tmp_path, {"web": {"certificateSecretName": "tls"}, key: own}).stdout)
    pod = objects["Deployment", f"demo-jobwatt-{component}"]["spec"]["template"]["spec"]
    for volume, name in (("config", f"demo-jobwatt-{component}"), ("web", "demo-jobwatt-web")):
        files = objects["ConfigMap", name]["data"]
        node[volume] = secret(
            tmp_path / volume, **{k.replace(".", "_"): t.encode() for k, t in files.items()}
        )
    node["certificate"] = secret(tmp_path / "certificate", **certificate(tmp_path, "central"))
    node["secret-bmc"] = secret(tmp_path / "bmc", credentials=b"reader:secret\n")
    tester, url = objects["Pod", "demo-jobwatt-test"]["spec"], f"https://127.0.0.1:{own['port']}"
    with podlike.running(pod, node, tmp_path / "scratch") as process:
        wait(lambda: not helm_test(tester, url)[0] or process.poll() is not None, 90)
        assert process.poll() is None, process.stdout.read()
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert "secret" not in said.replace("/secrets/", "")
    assert "credentials_file" not in said


def test_a_page_that_asks_for_certificates_passes_helm_test(tmp_path, node):
    """A daemon that takes nobody without a certificate is told from one that does not answer."""
    values = {
        "web": {
            "certificateSecretName": "tls",
            "secretName": "web",
            "clientCertificates": True,
            "port": free_port(),
        }
    }
    objects = flat(template(tmp_path, values).stdout)
    pod = of(objects, "DaemonSet")[0]["spec"]["template"]["spec"]
    own = certificate(tmp_path, "node")
    node["certificate"] = secret(tmp_path / "certificate", **own)
    web = (
        "tls_server_config: {cert_file: /etc/jobwatt/tls/tls.crt, key_file: /etc/jobwatt/tls/tls.key,"
        " client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}\n"
    )
    node["web"] = secret(tmp_path / "web", web_yml=web.encode(), ca_crt=own["tls_crt"])
    tester, url = (
        objects["Pod", "demo-jobwatt-test"]["spec"],
        f"https://127.0.0.1:{values['web']['port']}",
    )
    assert helm_test(tester, url)[0] == 1
    with podlike.running(pod, node, tmp_path / "scratch") as process:
        wait(lambda: not helm_test(tester, url)[0] or process.poll() is not None, 90)
        assert process.poll() is None, process.stdout.read()


def test_probes_see_behind_a_password(tmp_path, node):
    """Where web.yml asks for a password, the probes of the chart still ask for health over HTTP, and are told."""
    values = {"web": {"secretName": "web", "port": free_port()}}
    objects = flat(template(tmp_path, values).stdout)
    pod = of(objects, "DaemonSet")[0]["spec"]["template"]["spec"]
    hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    node["web"] = secret(tmp_path / "web", web_yml=f"basic_auth_users: {{a: {hashed}}}\n".encode())
    url, asked = f"http://127.0.0.1:{values['web']['port']}", pod["containers"][0]
    with podlike.running(pod, node, tmp_path / "scratch") as process:
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = url + asked[name]["httpGet"]["path"]
            wait(lambda probe=probe: status(probe) == 200 or process.poll() is not None, 90)
            assert process.poll() is None, process.stdout.read()
        assert status(f"{url}/metrics") == 401
        tester = objects["Pod", "demo-jobwatt-test"]["spec"]
        assert helm_test(tester, url)[0] == 0


def test_host_proc_in_place_of_host_pids(tmp_path, node):
    """With hostPID: false the daemon reads the mounted /proc, and that alone."""
    pod, url = pod_of(tmp_path, hostPID=False)
    node["/proc"] = node["/sys"].parent / "proc"
    with podlike.running(pod, node, tmp_path / "scratch"):
        page = wait(lambda: answer(f"{url}/metrics"), 90)
    assert f"jobwatt_node_memory_total_bytes {64 << 30}" in page  # what trees.Node says


def test_without_root_or_a_group_there_is_no_rapl(tmp_path, node):
    """The test above is no formality: energy_uj is not read by a uid that may not."""
    pod, url = pod_of(tmp_path, privileges={"root": False})
    os.chown(node["/var/lib/jobwatt"], 65532, 65532)
    with podlike.running(pod, node, tmp_path / "scratch"):
        page = wait(lambda: answer(f"{url}/metrics"), 90)
    assert "jobwatt_rapl_energy_joules_total{" not in page


@pytest.mark.parametrize(
    ("script", "privileges", "works"),
    [
        ("touch /probe", {}, False),
        ("touch /host/sys/class/probe", {}, False),
        ("touch /var/lib/jobwatt/probe /tmp/probe", {}, True),
        ("cat /proc/{pid}/stat /proc/{pid}/cgroup", {}, True),
        ("cat /proc/{pid}/environ", {}, False),
        ("cat /proc/{pid}/environ", {"environments": True}, True),
        ("chown 1 /var/lib/jobwatt", {"environments": True, "perf": True}, False),
    ],
)
def test_what_the_pod_may_do(tmp_path, node, script, privileges, works):
    """What docs/kubernetes.md says of rights holds: of a user's process, of the node's trees, of the image."""
    pod, _ = pod_of(tmp_path, privileges=privileges)
    with subprocess.Popen(["sleep", "60"], user=65534, group=65534, env={"A": "b"}) as users:
        command = script.format(pid=users.pid)
        with podlike.running(pod, node, tmp_path / "scratch", ["sh", "-c", command]) as process:
            said, _ = process.communicate(timeout=90)
        users.kill()
    assert (process.returncode == 0) == works, said
