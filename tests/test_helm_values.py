"""The chart's values: what is refused, by what words; versions, names and pages."""

from __future__ import annotations

import json
import re

import pytest
import yaml

import jobwatt
from helmchart import (
    CHART,
    IMAGE,
    ROOT,
    TOOLS,
    everywhere,
    flat,
    helm3,
    rendered,
    template,
    values_file,
)

pytestmark = pytest.mark.npm


def test_every_object_of_the_schema_is_closed():
    """Wherever the chart knows the keys, another is refused; and every default is in the schema."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def look(part, where):
        if isinstance(part, dict):
            if "properties" in part and part.get("type") == "object":
                assert part.get("additionalProperties") is False, where
            for key, value in part.items():
                look(value, f"{where}.{key}")

    look(schema, "")
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(schema["properties"]) - {"global"} == set(defaults)
    for name, part in schema["properties"].items():
        if isinstance(defaults.get(name), dict) and "properties" in part:
            assert set(part["properties"]) == set(defaults[name]), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"imagee": {}}, "imagee"),
        ({"image": {"repository": "x", "tags": "1"}}, "tags"),
        ({"image": {"repository": "x", "tag": "latest"}}, "image.tag"),
        ({"settings": {"sample.intervall": "1s"}}, "sample.intervall"),
        ({"settings": {"path.sysfs": "/sys"}}, "path.sysfs"),
        ({"settings": {"bmc.ipmi": "auto"}}, "bmc.ipmi"),
        ({"settings": {"source.nvml": "no"}}, "source.nvml"),
        ({"pools": [{"name": "gpu", "nvidia": True, "nodeSelectors": {}}]}, "nodeSelectors"),
        ({"pools": []}, "pools"),
        ({"privileges": {"envs": True}}, "envs"),
        ({"monitor": {"interval": "2m"}}, "monitor.interval"),
        ({"web": {"port": "metrics"}}, "web.port"),
        ({"web": {"port": 443}}, "web.port"),
        ({"state": {"hostPath": "/var/lib/../jobwatt"}}, "state.hostPath"),
        ({"commonLabels": {"team": "a b"}}, "commonLabels.team"),
        ({"podLabels": {"a/b/c": "d"}}, "podLabels"),
        ({"podLabels": {"app.kubernetes.io/component": "x"}}, "podLabels"),
        ({"monitor": {"labels": {"release": "kube prometheus"}}}, "monitor.labels.release"),
        ({"pools": [{"name": "a", "nvidia": True, "nodeSelector": {"pool": "b c"}}]}, "nodeSelector.pool"),
        ({"grid": {"httpsProxy": "http://me:pass@proxy:3128"}}, "grid.httpsProxy"),
        ({"image": {"repository": ""}}, "image.repository: name the image"),
        ({"privileges": {"root": False, "perf": True}}, "gives an added capability to root alone"),
        ({"pools": [{"name": "a", "nvidia": True}, {"name": "a", "nvidia": False}]}, "there twice"),
        ({"networkPolicy": {"enabled": True}}, "networkPolicy.from"),
        ({"networkPolicy": {"enabled": True, "from": [{}]}, "hostNetwork": True}, "hostNetwork"),
        ({"bmcProxy": {"enabled": True}}, "bmcProxy.config"),
        ({"rules": {"enabled": True, "site": "rules: []"}}, "rules.site: no rules file"),
        ({"rules": {"enabled": True, "site": "a: [b"}}, "rules.site: no rules file"),
        ({"alertmanager": {"enabled": True, "config": "global: {}"}}, "alertmanager.config"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(tmp_path, values, said):
    """A misspelt, impossible or unsafe value ends the installation, and the message names it."""
    done = template(tmp_path, values)
    assert done.returncode != 0
    assert said in done.stderr


def test_helm_4_refuses_what_is_misspelt_too():
    """The schema holds under Helm 4's validator."""
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart, pytest.raises(helm_python.HelmError, match="intervall"):  # fmt: skip
        chart.render({**IMAGE, "settings": {"sample.intervall": "1s"}}, name="a", namespace="b")


def notes(**values):
    import helm_python

    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render({**IMAGE, **values}, name="demo", namespace="hpc")
    return next(text for name, text in files.items() if name.endswith("NOTES.txt"))


def test_notes_say_what_is_left_to_do():
    """What an installation prints names the next commands, and warns of a page that is open to all."""
    said = notes()
    assert "exec ds/demo-jobwatt-gpu -- jobwatt doctor --path.sysfs=/host/sys" in said
    assert "namespace hpc pod-security.kubernetes.io/enforce=privileged" in said
    assert "asks nobody who they are" in said
    assert "asks nobody who they are" not in notes(web={"certificateSecretName": "tls"})
    assert "configSecret: demo-jobwatt-alertmanager" in notes(alertmanager={"enabled": True})
    assert "uid 65532 has to own /var/lib/jobwatt" in notes(privileges={"root": False})


# --- versions and words -------------------------------------------------------------------------


def test_versions_go_together():
    """The chart's appVersion is the package's, and so the image's tag; no image is `latest`."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == jobwatt.__version__
    image = rendered("minimal")["DaemonSet", "demo-jobwatt-gpu"]["spec"]["template"]["spec"]["containers"][0]["image"]  # fmt: skip
    assert image.endswith(f":{jobwatt.__version__}")
    assert all("latest" not in container["image"] for _, _, container in everywhere())


def test_names_stay_short_enough(tmp_path):
    """However long the release's name, no name is longer than 63 characters."""
    long = "a" * 53  # what Helm allows
    path = values_file("central")
    done = helm3("template", long, ".", "--kube-version=1.31", f"--values={path}", "--set=dashboards.enabled=true")  # fmt: skip
    assert all(len(name) <= 63 for _, name in flat(done.stdout))


def test_the_readme_has_every_value():
    """The table of values names each one, and none that is not there."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    whole = {"resources", "updateStrategy"}  # Kubernetes' own objects
    names = {
        f"{name}.{key}" if key else name
        for name, value in defaults.items()
        for key in (value if isinstance(value, dict) and name not in whole else {}) or [""]
    }
    text = (CHART / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert told >= names, sorted(names - told)
    assert {name for name in told - names if not name.startswith("pools[].")} == set()


def test_the_page_names_values_that_are_there():
    """docs/kubernetes.md speaks of no value that the schema would refuse."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    told = [one.split(".") for one in re.findall(r"`([a-zA-Z]+\.[a-zA-Z]+)[`:]", text)]
    told = [one for one in told if one[0] in schema["properties"] and one[1] not in ("yaml", "yml")]
    assert len(told) > 10
    assert [one for one in told if one[1] not in schema["properties"][one[0]]["properties"]] == []


def test_tools_are_pinned_and_the_lock_names_no_host():
    """What the tests run is fixed to a version, and comes from whichever registry the machine uses."""
    wanted = json.loads((TOOLS / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert all(re.fullmatch(r"[0-9.]+", version) for version in wanted.values())
    assert "://" not in (TOOLS / "package-lock.json").read_text(encoding="utf-8")


def test_the_hook_directory_is_the_daemons():
    """state.hostPath is mounted where the daemon keeps its state, below which hooks write."""
    spec = rendered("minimal")["DaemonSet", "demo-jobwatt-gpu"]["spec"]["template"]["spec"]
    volume = next(v for v in spec["volumes"] if v["name"] == "state")
    assert volume["hostPath"] == {"path": "/var/lib/jobwatt", "type": "DirectoryOrCreate"}
    assert "--path.state=/var/lib/jobwatt" in spec["containers"][0]["args"]
