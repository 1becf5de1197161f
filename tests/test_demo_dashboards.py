"""Who shows the demo's dashboards: an installed Grafana, a container of it, or the viewer."""

from __future__ import annotations

import os
import re

import pytest

import demokit
from daemon import wait
from jobwatt.demo import grafana, lifetime, tools, viewer
from jobwatt.demo.files import dashboards

children = demokit.children  # a fixture


@pytest.fixture
def fake_bin(tmp_path, monkeypatch):
    """A PATH with nothing but what is put there: ``fake_bin(name)`` makes a program that notes argv and environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(tools, "_MORE", ())

    def make(name, script="exit 0"):
        path = folder / name
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >>"{tmp_path}/{name}.argv"\n/usr/bin/env >"{tmp_path}/{name}.env"\n{script}\n'
        )
        path.chmod(0o755)
        return path

    return make


def the_grafana(found, tmp_path):
    return grafana.Grafana(
        found,
        tmp_path / "files",
        tmp_path / "data",
        host="127.0.0.1",
        port=3001,
        prometheus="http://127.0.0.1:9090",
    )


@pytest.mark.parametrize("name", ["grafana-server", "grafana"])
def test_an_installed_grafana_gets_the_projects_files(fake_bin, children, tmp_path, name):
    """Its own data folder, the project's provisioning and dashboards, a viewer without login."""
    fake_bin("docker")
    home = tmp_path / "conf"
    home.mkdir()
    (home / "defaults.ini").touch()
    fake_bin(name)
    found = grafana.look()
    child = the_grafana(found, tmp_path).start(children)
    assert child.process.wait(60) == 0
    argv = (tmp_path / f"{name}.argv").read_text().split()
    assert argv[1:] == ["server"] * (name == "grafana") + [f"--homepath={tmp_path}"]
    env = dict(line.split("=", 1) for line in (tmp_path / f"{name}.env").read_text().splitlines())
    assert env["GF_PATHS_DATA"] == str(tmp_path / "data")
    assert env["GF_PATHS_PROVISIONING"] == str(tmp_path / "files" / "provisioning")
    assert env["JOBWATT_DASHBOARDS"] == str(tmp_path / "files" / "dashboards")
    assert env["JOBWATT_PROMETHEUS_URL"] == "http://127.0.0.1:9090"
    assert (env["GF_SERVER_HTTP_ADDR"], env["GF_SERVER_HTTP_PORT"]) == ("127.0.0.1", "3001")
    assert env["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_a_container_engine_is_the_second_choice(fake_bin, children, tmp_path):
    """Where it answers: the image is fetched, the container named, removed at the end; files go in read-only."""
    fake_bin("docker", "exit 1")
    assert grafana.look() is None
    fake_bin("podman")
    found = grafana.look()
    assert found.container
    grafana.fetch(found, children)
    one = the_grafana(found, tmp_path)
    one.start(children).process.wait(60)
    one.stop()
    lines = (tmp_path / "podman.argv").read_text().splitlines()
    called = [line.split()[1] for line in lines]
    assert called == ["info", "pull", "run", "rm"]
    run = lines[2]
    name = re.search(r"--name=(jobwatt-demo-\d+-[0-9a-f]{6})", run)[1]
    assert name in lines[3]
    assert f"--volume={tmp_path}/files:/jobwatt:ro" in run
    assert "--env=JOBWATT_DASHBOARDS=/jobwatt/dashboards" in run
    assert run.endswith(grafana.IMAGE)
    assert ":latest" not in grafana.IMAGE


def test_a_container_goes_at_the_second_signal_too(fake_bin, children, tmp_path):
    """Its client is killed, which leaves the container: that is removed without waiting."""
    left = lifetime.Left(children, tmp_path / "run")
    one = the_grafana(grafana.Found(str(fake_bin("docker", "exec /bin/sleep 9")), True), tmp_path)
    left.container = one.stop_at_once
    client, calls = one.start(children), tmp_path / "docker.argv"
    wait(calls.exists)
    left.end_at_once()
    wait(lambda: not client.alive)
    removed = wait(lambda: re.findall(r" rm --force (\S+)", calls.read_text()))
    assert removed == [one._name]


def test_an_engine_that_hangs_is_none(fake_bin, monkeypatch):
    """A client whose daemon does not answer costs seconds, not the demo."""
    monkeypatch.setattr(grafana, "_ANSWER_S", 0.2)
    fake_bin("docker", "exec /bin/sleep 30")
    assert grafana.look() is None


def test_what_is_missing_is_named_with_its_remedy(fake_bin, children, tmp_path):
    """One line each: the program, what the demo is without it, how to get it."""
    lines = tools.missing(tools.PROMETHEUS, tools.PROMTOOL, tools.ALERTMANAGER, tools.NPM)
    assert len(lines) == 4
    assert all(": no " in line and "apt-get install" in line for line in lines)
    assert "prometheus-alertmanager" in lines[2]
    fake_bin("alertmanager")
    assert not tools.missing(tools.ALERTMANAGER)
    with pytest.raises(
        viewer.NoViewerError,
        match="node is missing: no dashboards; get it: apt-get install nodejs npm",
    ):
        viewer.build(tmp_path, tmp_path, children)


def test_the_viewer_is_built_once_for_each_source(fake_bin, children, tmp_path):
    """From a copy of its sources; kept while they stay the same, replaced when they change."""
    sources, kept = tmp_path / "preview", tmp_path / "cache"
    (sources / "src").mkdir(parents=True)
    (sources / "node_modules").mkdir()
    (sources / "node_modules" / "junk").touch()
    (sources / "package.json").write_text("{}")
    kept.mkdir()
    fake_bin("node", "echo v20.1.0")
    fake_bin(
        "npm",
        '[ ! -e node_modules/junk ] || exit 9\n[ "$1" = ci ] || { /bin/mkdir out; : >out/index.html; }',
    )
    assert viewer.built(sources, kept) is None
    out = viewer.build(sources, kept, children)
    assert viewer.built(sources, kept) == out
    assert [line.split()[1] for line in (tmp_path / "npm.argv").read_text().splitlines()] == [
        "ci",
        "run",
    ]
    assert not (sources / "out").exists()
    (sources / "src" / "app.js").write_text("1")
    assert viewer.built(sources, kept) is None
    newer = viewer.build(sources, kept, children)
    assert out.exists()  # another demo may serve from it
    (sources / "src" / "app.js").write_text("2")
    os.utime(out.parent, (0, 0))
    viewer.build(sources, kept, children)
    assert (out.exists(), newer.exists()) == (False, True)
    fake_bin("node", "echo v18.20.4")
    (sources / "src" / "app.js").write_text("3")
    with pytest.raises(viewer.NoViewerError, match=r"node 18 is too old .* get 20 or later"):
        viewer.build(sources, kept, children)


def test_dashboards_are_listed_from_their_folder(tmp_path):
    """What has no uid is no dashboard."""
    (tmp_path / "a.json").write_text('{"uid": "a", "title": "A", "tags": ["x"]}')
    (tmp_path / "b.json").write_text("[]")
    (found,) = dashboards(tmp_path)
    assert (found.uid, found.title, found.file, found.tags) == ("a", "A", "a.json", ("x",))
