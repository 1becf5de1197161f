"""docs/extending.md's walk-through, applied to a copy of the tree and run: a metric, a sensor, an alert, a dashboard."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from daemon import BOOT_ID, paths
from docpages import ROOT, blocks
from trees import Node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/extending.md"
COPIED = (
    "exporter",
    "alerts",
    "docs",
    "grafana/src",
    "grafana/dashboards",
    "tests",
    "helm/jobwatt",
)
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")
# A page's first line says where a block belongs: a file, "FILE: before LINE" or "FILE: at the end".
PLACE = re.compile(r"# ([\w/.-]+\.(?:py|yaml|md))(?:: (at the end|before (.*)))?\n")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the example in it."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns(
        "__pycache__", "node_modules", "*.pyc", "recordings", "bench", "artifacts"
    )  # the last one's pictures come and go while another process draws mails
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    for block in blocks(PAGE, "python", "yaml", "markdown"):
        _apply(tree, block.text)
    return tree


def _apply(tree: Path, text: str) -> None:
    place = PLACE.match(text)
    assert place, text.splitlines()[0]
    path, body = tree / place[1], text[place.end() :]
    if place[2] is None:
        assert not path.exists(), path
        path.write_text(body)
    elif place[3] is None:
        path.write_text(path.read_text() + body)
    else:
        lines = path.read_text().splitlines(keepends=True)
        at = next(i for i, line in enumerate(lines) if line.lstrip().startswith(place[3]))
        path.write_text("".join((*lines[:at], body, *lines[at:])))


def run(tree: Path, *argv: object) -> str:
    env = {
        **os.environ,
        "PYTHONPATH": f"{tree}/exporter:{tree}/tests",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        list(map(str, argv)),
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def pytest_in(tree: Path, *arguments: str) -> None:
    """
    Pytest in a tree of its own, and in a temporary directory of its own.

    Where it makes one, it closes the directory above, which other tests have opened to a user without rights.
    """
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run(tree, *argv, f"--basetemp={tree}.tmp", *arguments)


def test_the_sensor_is_measured_and_tested(tree: Path, tmp_path: Path) -> None:
    """The page's test passes, and the sensor's figure is on the page of `jobwatt once`."""
    pytest_in(tree, "tests/test_fans.py", "tests/test_architecture.py")
    node = Node(tmp_path, cpus=2, boot_id=BOOT_ID)
    node.add_intel(sockets=1)
    (tmp_path / "fans").mkdir()
    (tmp_path / "fans/front").write_text("1200\n")
    flags = (*paths(node, tmp_path / "state"), f"--fans.directory={tmp_path}/fans", "--no-source.nvml", "--no-slurm.rpc", "--sample.interval=100ms")  # fmt: skip
    page = run(tree, sys.executable, "-m", "jobwatt", "once", *flags)
    assert 'jobwatt_fan_speed_hertz{fan="front"} 20' in page
    assert 'jobwatt_source_up{source="fans"} 1' in page


def test_it_is_written_as_the_house_writes(tree: Path) -> None:
    """The example's files have no finding of ruff's."""
    files = ("exporter/jobwatt/sources/fans.py", "exporter/jobwatt/assembly.py", "exporter/jobwatt/config.py", "tests/test_fans.py")  # fmt: skip
    run(tree, sys.executable, "-m", "ruff", "check", "--no-cache", *files)


def test_tables_take_it_up(tree: Path) -> None:
    """`make docs` writes the new metric, its writer, its settings and its alert into the reference."""
    run(tree, sys.executable, "tests/docs.py")
    written = (tree / "docs/metrics.md").read_text()
    assert "| `jobwatt_fan_speed_hertz` | gauge | Hz | `fan` |" in written
    assert "| `jobwatt_fan_speed_hertz` | `sources/fans.py` |" in written
    assert "`--fans.directory=`" in (tree / "docs/configure.md").read_text()
    assert "JobwattFanStopped.md" in (tree / "docs/alerts.md").read_text()


@pytest.mark.prometheus
def test_the_alert_is_tested(tree: Path) -> None:
    """The page's own commands: promtool lints the rules and runs the alert's test; it has its runbook."""
    (block,) = blocks(PAGE, "sh")
    run(tree, "bash", "-euc", block.text)
    wanted = "runbook or tested or test_annotations or test_labels or test_expression"
    pytest_in(tree, "tests/test_rules.py", "-k", wanted)


def test_the_dashboard_is_generated(tree: Path) -> None:
    """The generator writes the dashboard; a query for a metric that is not there is refused."""
    run(tree, sys.executable, "grafana/src/generate.py")
    assert "jobwatt_fan_speed_hertz" in (tree / "grafana/dashboards/fans.json").read_text()
    source = tree / "grafana/src/dashboards/fans.py"
    good = source.read_text()
    source.write_text(good.replace("fan_speed_hertz", "fan_speed"))
    try:
        with pytest.raises(AssertionError, match="no such series: jobwatt_fan_speed"):
            run(tree, sys.executable, "grafana/src/generate.py")
    finally:
        source.write_text(good)
