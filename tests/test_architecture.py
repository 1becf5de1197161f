"""The rooms of the house, from the imports: who may know whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jobwatt

ROOT = Path(jobwatt.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
PURE = (
    "meter",
    "attribute",
    "presence",
    "pools",
    "interval",
    "totals",
    "exposition",
    "encoder",
    "bookrows",
    "model",
    "metrics",
    "pageview",
    "pagerows",
    "page",
    "readable",
    "jobview",
    "privacy",
    "wall",
)
OUTSIDE = {
    "os",
    "time",
    "logging",
    "socket",
    "subprocess",
    "threading",
    "sqlite3",
    "pathlib",
    "random",
    "io",
}


def imported(path):
    """Modules a file imports at run time, as dotted names below jobwatt where they are ours."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(("jobwatt", *package[: len(package) - node.level + 1]))
                if node.level
                else ""
            )
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def importers(library):
    return {
        str(path.relative_to(ROOT))
        for path in FILES
        if library in {name.split(".")[0] for name in imported(path)}
    }


def test_one_importer_each():
    """pynvml, pyslurm, SQL, psutil and inotify each have one home."""
    assert importers("pynvml") == {"sources/nvml_calls.py"}
    assert importers("pyslurm") == {"slurm/bypyslurm.py"}
    assert importers("sqlite3") == {"ledger.py"}
    assert importers("inotify_simple") == {"slurm/events.py"}


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name):
    """Metering, splitting and showing do no I/O, read no clock and log nothing."""
    assert not OUTSIDE & {module.split(".")[0] for module in imported(ROOT / f"{name}.py")}


def test_model_imports_no_sibling():
    """The types stand alone."""
    assert not [module for module in imported(ROOT / "model.py") if module.startswith("jobwatt")]


def test_sources_know_only_the_model():
    """A sensor never knows jobs, the ledger or the page."""
    for path in (ROOT / "sources").glob("*.py"):
        ours = {module.split(".")[1] for module in imported(path) if module.startswith("jobwatt.")}
        assert ours <= {"model", "sources", "kernelfiles"}, path


def test_only_the_command_line_exits_and_prints():
    """Libraries raise and log; the command line exits and prints."""
    for path in FILES:
        text = path.read_text()
        if path.name != "cli.py":
            assert "sys.exit(" not in text or path.name == "rpc.py", path
        if path.name not in {"cli.py", "commands.py"}:
            calls = [
                n
                for n in ast.walk(ast.parse(text))
                if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"
            ]
            assert not calls or path.name == "rpc.py", path


def test_no_process_is_started_on_the_sampling_path():
    """Only the child's runner starts processes; the demo and central/, no parts of the daemon, start others."""
    daemon = {
        path for path in importers("subprocess") if not path.startswith(("demo/", "central/"))
    }
    assert daemon <= {
        "slurm/controller.py",
        "slurm/scontrol.py",
        "sources/wattmeter_input.py",  # in the wattmeter's own thread
        "sources/ipmi_child.py",  # in the BMC's own thread
    }
    assert importers("multiprocessing") == set()


def test_nothing_needs_the_demo():
    """It is imported by its command alone, where that is run; and its simulation knows nothing of what shows it."""
    found = {
        str(path.relative_to(ROOT))
        for path in FILES
        if "demo" not in path.relative_to(ROOT).parts
        and any(name.startswith("jobwatt.demo") for name in imported(path))
    }
    assert found == {"commands.py", "parser.py"}
    for path in (ROOT / "demo/sim").glob("*.py"):
        theirs = {name for name in imported(path) if name.startswith("jobwatt.demo.")}
        assert all(name.startswith("jobwatt.demo.sim") for name in theirs), path
