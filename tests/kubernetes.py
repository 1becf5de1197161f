"""
A Kubernetes of this machine's own processes: etcd, API server, controllers, scheduler and the Prometheus Operator.

No kubelet is there: nodes are objects alone, pods are made and bound to them, and nothing runs. The programs are in
the folder that JOBWATT_KUBERNETES names (docs/kubernetes.md, "On a real API server").
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from prom import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(os.environ.get("JOBWATT_KUBERNETES", ""))
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "helm", "prometheus-operator", "promtool")  # fmt: skip
TOKEN = "throwaway"


def missing() -> list[str]:
    """What the folder lacks; all of it where none is named."""
    if "JOBWATT_KUBERNETES" not in os.environ:
        return ["JOBWATT_KUBERNETES, a folder with " + ", ".join(PROGRAMS)]
    lacking = [name for name in PROGRAMS if not (FOLDER / name).exists()]
    return lacking + ([] if list((FOLDER / "crds").glob("*.yaml")) else ["crds/*.yaml"])


def eventually(found: Callable[[], Any], patience_s: float = 60) -> Any:
    """What it gives as soon as that is true; AssertionError with the last of it otherwise."""
    until = time.monotonic() + patience_s
    while not (last := found()):
        assert time.monotonic() < until, last
        time.sleep(0.2)
    return last


@contextmanager
def running(folder: Path, name: str, *flags: str) -> Iterator[Callable[[], bool]]:
    """A program of the folder for as long as this lasts; gives whether it still runs, or AssertionError with its log."""
    log = folder / f"{name}.log"
    env = {
        **os.environ,
        "KUBECONFIG": f"{folder}/kubeconfig",
    }  # the operator takes it from nowhere else
    with log.open("wb") as out:
        process = subprocess.Popen(
            [FOLDER / name, *flags], stdout=out, stderr=out, cwd=folder, env=env
        )

    def alive() -> bool:
        assert process.poll() is None, log.read_text()[-4000:]
        return True

    try:
        yield alive
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Cluster:
    """A server to ask, as its administrator."""

    def __init__(self, folder: Path, url: str) -> None:
        self.config = folder / "kubeconfig"
        cluster = {"server": url, "certificate-authority": str(folder / "certs/apiserver.crt")}
        context = {"cluster": "a", "user": "a"}
        self.config.touch(0o600)
        self.config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": cluster}],
            "users": [{"name": "a", "user": {"token": TOKEN}}],
            "contexts": [{"name": "a", "context": context}],
        }))  # fmt: skip

    def run(self, program: Path, *args: str | Path, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:  # fmt: skip
        env = {
            **os.environ,
            "KUBECONFIG": str(self.config),
            "HELM_CACHE_HOME": str(self.config.parent),
        }
        done = subprocess.run(
            [program, *args], input=given, capture_output=True, text=True, timeout=300, check=False, env=env
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done

    def kubectl(self, *args: str | Path, given: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:  # fmt: skip
        return self.run(FOLDER / "kubectl", *args, given=given, check=check)

    def get(self, *args: str) -> Any:
        """One object, or the items of a list."""
        found = json.loads(self.kubectl("get", "-o", "json", *args).stdout)
        return found["items"] if found["kind"] == "List" else found

    def apply(self, *objects: dict[str, Any]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", given=yaml.safe_dump_all(objects))

    def namespace(self, name: str, level: str = "privileged") -> str:
        labels = {f"pod-security.kubernetes.io/{what}": level for what in ("enforce", "warn")}
        metadata = {"name": name, "labels": labels}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return name

    def node(self, name: str, labels: dict[str, str], *taints: dict[str, str]) -> None:
        """A node that is said to be ready; no kubelet ever was."""
        metadata = {"name": name, "labels": {"kubernetes.io/hostname": name, **labels}}
        self.apply({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": list(taints)}})  # fmt: skip
        room = {"cpu": "64", "memory": "512Gi", "pods": "110"}
        status = {"capacity": room, "allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}  # fmt: skip
        self.kubectl("patch", "node", name, "--subresource=status", "-p", json.dumps({"status": status}))  # fmt: skip


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A whole one, with the operator's CRDs and the operator."""
    client, peer, port = free_port(), free_port(), free_port()
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    key = rsa.generate_private_key(65537, 2048)
    (folder / "sa.key").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    kube = Cluster(folder, f"https://127.0.0.1:{port}")
    with ExitStack() as stack:
        stack.enter_context(running(
            folder, "etcd", f"--data-dir={folder}/etcd", "--unsafe-no-fsync", f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}", f"--initial-cluster=default=http://127.0.0.1:{peer}",
        ))  # fmt: skip
        alive = stack.enter_context(running(
            folder, "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1",
            f"--secure-port={port}", f"--cert-dir={folder}/certs", f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=Node,RBAC", "--allow-privileged=true", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={folder}/sa.key",
            f"--service-account-signing-key-file={folder}/sa.key", "--endpoint-reconciler-type=none",
            "--disable-admission-plugins=TaintNodesByCondition",  # a kubelet's word takes this taint away again
        ))  # fmt: skip
        eventually(lambda: alive() and kube.kubectl("get", "--raw=/readyz", check=False).stdout == "ok")  # fmt: skip
        common = (
            f"--kubeconfig={kube.config}",
            "--leader-elect=false",
            f"--cert-dir={folder}/certs",
        )
        stack.enter_context(running(
            folder, "kube-controller-manager", *common, f"--secure-port={free_port()}", "--bind-address=127.0.0.1",
            f"--service-account-private-key-file={folder}/sa.key", f"--root-ca-file={folder}/certs/apiserver.crt",
            "--controllers=*,-node-lifecycle-controller",  # it asks for signs of life that nodes without a kubelet do not give
        ))  # fmt: skip
        stack.enter_context(running(folder, "kube-scheduler", *common, f"--secure-port={free_port()}", "--bind-address=127.0.0.1"))  # fmt: skip
        kube.kubectl("apply", "--server-side", "-f", (FOLDER / "crds").resolve())
        kube.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        stack.enter_context(running(
            folder, "prometheus-operator", f"--web.listen-address=127.0.0.1:{free_port()}"
        ))  # fmt: skip
        yield kube


# --- what the operator reads and writes ---------------------------------------------------------------------

EVERYTHING: dict[str, Any] = {"matchLabels": {}}


def custom(kind: str, namespace: str, *selectors: str, **spec: Any) -> dict[str, Any]:
    """An object of the operator's that takes what is in its namespace."""
    chosen = dict.fromkeys(selectors, EVERYTHING)
    return {
        "apiVersion": "monitoring.coreos.com/v1", "kind": kind, "metadata": {"name": "made", "namespace": namespace},
        "spec": {"replicas": 1, **chosen, **spec},
    }  # fmt: skip


def made(kube: Cluster, namespace: str, secret: str, key: str) -> Any:
    """What the operator wrote, parsed: None as long as it has not."""
    done = kube.kubectl("get", "secret", secret, "-n", namespace, "-o", "json", check=False)
    if done.returncode:
        return None
    return yaml.safe_load(gzip.decompress(base64.b64decode(json.loads(done.stdout)["data"][key])))


def secret(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data}  # fmt: skip
