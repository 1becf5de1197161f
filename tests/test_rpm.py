"""The .rpm: its spec read and linted, built by rpmbuild, installed in a root of its own, run there, removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import released
import systemdvm
from jobwatt import __version__
from released import need, run

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "packaging/rpm/jobwatt.spec"
VERSION = ["--define", f"jobwatt_version {__version__}"]
# What systemd-rpm-macros has on a system of RPMs; Debian has no such package. Its scriptlets only switch units.
MACROS = r"""
%_unitdir /usr/lib/systemd/system
%_sysusersdir /usr/lib/sysusers.d
%_tmpfilesdir /usr/lib/tmpfiles.d
%_udevrulesdir /usr/lib/udev/rules.d
%_sharedstatedir /var/lib
%tmpfiles_create() systemd-tmpfiles --create %{?*} || : \
%{nil}
%systemd_post() echo post %{?*} >>/scriptlets \
%{nil}
%systemd_preun() echo preun %{?*} >>/scriptlets \
%{nil}
%systemd_postun_with_restart() echo postun %{?*} >>/scriptlets \
%{nil}
%systemd_requires %{nil}
"""
UNITS = "jobwatt.service jobwatt-grid.service jobwatt-bmc-proxy.service jobwatt-sd.service"


def test_spec() -> None:
    """rpm reads the spec, rpmlint finds no error in it, and its version is the project's."""
    need("rpmspec", "rpmlint", root=False)
    assert f"Version:        {__version__}" in run("rpmspec", "-P", *VERSION, SPEC)
    said = subprocess.run(
        ["rpmlint", "--rpmlintrc", SPEC.with_suffix(".rpmlintrc"), SPEC],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "0 errors, 0 warnings" in said, said


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the release's source archive, with the Python of the tests."""
    need("rpmbuild", *released.TOOLS)
    where = tmp_path_factory.mktemp("rpm")
    out = released.release(tmp_path_factory.getbasetemp())
    shutil.copy(out / f"jobwatt-{__version__}.tar.gz", where)
    (where / "macros").write_text(MACROS)
    python = f"python3.{sys.version_info[1]}"
    run(
        # --nodeps: this machine's packages are not in rpm's database
        *("rpmbuild", "-bb", SPEC, "--nodeps", f"--load={where}/macros", *VERSION),
        *("--define", f"_sourcedir {where}", "--define", f"_topdir {where}/top"),
        *("--define", f"jobwatt_python {python}", "--define", f"_tmppath {where}"),
        env={**os.environ, "TMPDIR": str(where)},
    )
    (built,) = (where / "top/RPMS").glob("*/*.rpm")
    return built


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian that has nothing but Python, systemd and udev, and the package by rpm."""
    need("mmdebstrap", "unshare")
    bare = released.bare(tmp_path_factory.getbasetemp())
    root = systemdvm.copy(bare, tmp_path_factory.mktemp("rpmroot") / "root")
    rpm(root, "--install", "--ignoreos", str(package))
    return root


def rpm(root: Path, *argv: str) -> str:
    """Rpm on ``root``, whose own programs (Python, useradd) it does not know from its database."""
    mounted = 'mount -t proc proc "$0/proc" && exec rpm --root="$0" --nodeps "$@"'
    return run("unshare", "--mount", "sh", "-c", mounted, root, *argv)


@pytest.mark.slow
def test_files_and_needs(package: Path, tmp_path: Path) -> None:
    """Root's, writable by nobody else; needs a Python and nobody's libraries, and offers its own to none."""
    query = ["rpm", "--dbpath", tmp_path, "--query", "--package"]
    listed = [line.split(maxsplit=8) for line in run(*query, "--list", "-v", package).splitlines()]
    assert [e for e in listed if e[2:4] != ["root", "root"] or {e[0][5], e[0][8]} & {"w"}] == [
        e for e in listed if e[0].startswith("l")
    ]
    paths = {entry[8].split(" -> ")[0] for entry in listed}
    assert {f"/usr/lib/systemd/system/{unit}" for unit in UNITS.split()} <= paths
    assert {"/usr/share/doc/jobwatt/README.md", "/usr/share/doc/jobwatt/docs/README.md"} <= paths
    needs = set(run(*query, "--requires", package).split("\n"))
    assert {n for n in needs if n and not n.startswith(("rpmlib(", "config("))} == {
        "/bin/sh", "/usr/lib/jobwatt/bin/python3", f"python3.{sys.version_info[1]}", "shadow-utils",
    }  # fmt: skip
    assert {p.split()[0] for p in run(*query, "--provides", package).splitlines()} <= {
        "jobwatt", "jobwatt(x86-64)", "config(jobwatt)", "jobwatt(aarch-64)",
    }  # fmt: skip
    assert run(*query, "--configfiles", package).split() == ["/etc/jobwatt/jobwatt.toml"]


@pytest.mark.slow
def test_links_of_its_pages(installed: Path) -> None:
    """What the packaged pages link to is in the package."""
    assert released.dead_links(installed / "usr/share/doc/jobwatt") == []


@pytest.mark.slow
def test_it_runs_where_it_was_installed(installed: Path) -> None:
    """Its user and state directory are made, its units are sound, and the program shows a page."""
    inside = systemdvm.inside
    assert inside(installed, "jobwatt", "--version").stdout == f"jobwatt {__version__}\n"
    assert "jobwatt_build_info" in inside(installed, "jobwatt", "once").stdout
    owner = inside(installed, "stat", "--format=%U:%G %a", "/var/lib/jobwatt/hooks").stdout
    assert owner == "jobwatt:jobwatt 750\n"
    said = inside(installed, "systemd-analyze", "verify", "--man=no", *UNITS.split())
    assert said.stdout + said.stderr == ""
    assert (installed / "scriptlets").read_text() == f"post {UNITS}\n"


@pytest.mark.slow
def test_it_goes_and_leaves_what_is_the_sites(installed: Path) -> None:
    """Removed, of jobwatt stay the settings that were changed and the node's account."""
    settings = installed / "etc/jobwatt/jobwatt.toml"
    settings.write_text(settings.read_text() + '\n[web]\nlisten-address = "0.0.0.0:9817"\n')
    (installed / "var/lib/jobwatt/ledger.db").write_text("an account")
    rpm(installed, "--erase", "jobwatt")
    assert (installed / "scriptlets").read_text() == (
        f"post {UNITS}\npreun {UNITS}\npostun {UNITS}\n"
    )
    kept = {"etc/jobwatt/jobwatt.toml.rpmsave", "var/lib/jobwatt/ledger.db"}
    left = {
        str(path.relative_to(installed))
        for path in installed.rglob("*")
        if "jobwatt" in str(path.relative_to(installed)) and path.is_file()
    }
    assert left == kept
