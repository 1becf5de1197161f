"""A release: what it consists of, that it works alone, that the same source gives the same bytes; its audit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import venv
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import released
from jobwatt import __version__
from trees import Node

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
LOCK = PACKAGING / "requirements.txt"
sys.path.append(str(PACKAGING))
import release  # noqa: E402  a program of packaging/
import sbom  # noqa: E402

# What may go into one work with code under Apache-2.0. MPL-2.0 (certifi) asks for its own files' source, unchanged here.
COMPATIBLE = {"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "PSF-2.0", "MPL-2.0"}


def run(*argv: str | Path, **more: object) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if lacking := released.missing():
        pytest.skip(f"needs {', '.join(lacking)}")
    return released.release(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def bill(out: Path) -> dict[str, object]:
    return json.loads((out / f"jobwatt-{__version__}.cdx.json").read_text(encoding="utf-8"))


# --- what it consists of ---------------------------------------------------------------------------


@pytest.mark.slow
def test_files(out: Path) -> None:
    """Six files and their sums, which are right."""
    stem = f"jobwatt-{__version__}"
    names = {path.name for path in out.iterdir()}
    (deb,) = out.glob("*.deb")
    assert names - {deb.name} == {
        f"{stem}-py3-none-any.whl", f"{stem}.tar.gz", f"{stem}.tgz",
        f"{stem}-requirements.txt", f"{stem}.cdx.json", "SHA256SUMS",
    }  # fmt: skip
    assert run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=out).count("OK") == 6


@pytest.mark.slow
def test_the_wheel_works_alone(out: Path, tmp_path: Path) -> None:
    """In a new environment, with the locked libraries by their hashes, the wheel measures a node."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    run(*pip, "--require-hashes", "-r", next(out.glob("*-requirements.txt")))
    run(*pip, "--no-index", next(out.glob("*.whl")))
    node = Node(tmp_path / "node")
    node.add_intel(sockets=1)
    page = run(
        tmp_path / "venv/bin/jobwatt", "once", f"--path.sysfs={node.sys}", f"--path.procfs={node.proc}",
        f"--path.cgroupfs={node.cgroup}", f"--path.state={tmp_path}/state", "--no-source.nvml",
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert f'jobwatt_build_info{{version="{__version__}"' in page
    assert 'jobwatt_rapl_energy_joules_total{zone="package-0"' in page
    data = run(python, "-c", "import jobwatt.alerts as a; print(*a.__path__)").strip()
    assert (Path(data) / "data/rules/user.yaml").exists()


@pytest.fixture(scope="session")
def tree(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked: all that somebody has who was given the source."""
    where = tmp_path_factory.mktemp("sdist")
    with tarfile.open(next(out.glob("*.tar.gz"))) as tar:
        tar.extractall(where, filter="data")
    return where / f"jobwatt-{__version__}"


@pytest.mark.slow
def test_the_sdist_is_enough_to_test(tree: Path) -> None:
    """Its tests run where it was unpacked, and what building and testing needs is there; nothing of this machine is."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tree}.tmp",
    ]
    said = run(*argv, "tests/test_procstat.py", cwd=tree)
    assert " passed" in said
    for needed in ("Makefile", "packaging/payload.sh", "helm/jobwatt/Chart.yaml", "alerts/site.toml", "tests/system.sh", "docs/install.md", "grafana/src/generate.py"):  # fmt: skip
        assert (tree / needed).exists(), needed
    assert not [path for path in tree.rglob("*") if path.name in {"node_modules", ".venv"}]


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes(out: Path, tree: Path, tmp_path: Path) -> None:
    """Wheel, sdist, chart and bill, made again from the sdist; `release.py --check` does so with the package, too."""
    epoch = int((tree / "PKG-INFO").stat().st_mtime)
    hatch = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist"]
    run(*hatch, "-d", tmp_path, cwd=tree, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)})
    release.chart(tree, tmp_path / f"jobwatt-{__version__}.tgz", epoch)
    lock = next(out.glob("*-requirements.txt"))
    made = sorted(tmp_path.iterdir())
    site = release.site_of(next(out.glob("*.deb")), tmp_path / "deb")
    text = sbom.make(next(tmp_path.glob("*.whl")), lock, site, epoch)
    assert text == (out / f"jobwatt-{__version__}.cdx.json").read_text(encoding="utf-8")
    sums = (out / "SHA256SUMS").read_text(encoding="utf-8")
    assert len(made) == 3
    for path in made:
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" in sums, path.name


@pytest.mark.slow
@pytest.mark.npm
def test_the_chart_is_what_helm_would_pack(out: Path, tmp_path: Path) -> None:
    """The same files as `helm package`, and Helm takes it: only the times of its files are the release's."""
    from helmchart import CHART, helm3

    helm3("package", CHART, "--destination", tmp_path)
    archives = [out / f"jobwatt-{__version__}.tgz", next(tmp_path.glob("*.tgz"))]
    ours, theirs = ({m.name for m in tarfile.open(a) if m.isfile()} for a in archives)  # noqa: SIM115
    assert ours == theirs
    helm3("template", "demo", archives[0], "--kube-version=1.31", "--set=image.repository=x.example.org/y")  # fmt: skip


# --- the bill of materials ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_bill_has_every_hash(out: Path, bill: dict[str, object]) -> None:
    """Each library of requirements.txt is in it with its version and each of its hashes; the wheel with its own."""
    hashes = {
        entry["content"]
        for part in bill["components"]
        for reference in part["externalReferences"]
        for entry in reference["hashes"]
    }
    text = LOCK.read_text(encoding="utf-8")
    assert hashes == set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    assert {(p["name"], p["version"]) for p in bill["components"]} == set(
        re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    )
    wheel = hashlib.sha256(next(out.glob("*.whl")).read_bytes()).hexdigest()
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": wheel}]


@pytest.mark.slow
def test_the_bill_says_who_needs_whom(bill: dict[str, object]) -> None:
    """jobwatt needs what pyproject.toml names; all else is needed by something that is there."""
    import tomllib

    graph = {d["ref"]: set(d.get("dependsOn", [])) for d in bill["dependencies"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["bmc"]
    names = {re.match(r"[\w-]+", one)[0].lower() for one in asked}
    assert {re.sub(r"pkg:pypi/(.*)@.*", r"\1", ref) for ref in graph["jobwatt"]} == names
    assert set().union(*graph.values()) == graph.keys() - {"jobwatt"}


@pytest.mark.slow
def test_every_licence_goes_with_ours(bill: dict[str, object]) -> None:
    """What the packages and the image carry may be given away together with code under Apache-2.0."""
    for part in [bill["metadata"]["component"], *bill["components"]]:
        (entry,) = part["licenses"]
        said = entry.get("expression") or entry["license"].get("id")
        assert said, f"{part['name']}: {entry} is no SPDX identifier"
        assert set(re.split(r" (?:AND|OR|WITH) ", said)) <= COMPATIBLE, (part["name"], said)


def test_licences_of_the_extras() -> None:
    """Those of jobwatt[bmc] and [demo]; pyslurm (GPL-2) is the site's own, and in nothing that is given away."""
    from importlib.metadata import distribution, distributions

    found = {d.metadata["Name"].lower() for d in distributions()}
    for name in ("aiosmtpd", "atpublic", "attrs", "redfish", "requests"):
        assert set(sbom.licence(distribution(name)).split(" AND ")) <= COMPATIBLE, name
    assert "aiosmtpd" in found
    assert "pyslurm" not in {one.name for one in sbom.locked(LOCK.read_text(encoding="utf-8"))}


class Library:
    """What importlib.metadata tells of a library, as far as a licence is asked for."""

    def __init__(self, **said: str) -> None:
        self.metadata = {"Name": "thing", **{k.replace("_", "-"): v for k, v in said.items()}}


@pytest.mark.parametrize("said", [{}, {"License": "UNKNOWN"}, {"License": "see LICENSE\nCopyright"}])  # fmt: skip
def test_a_library_without_a_licence_stops_the_release(said: dict[str, str]) -> None:
    """Nothing is written down as free because it says nothing."""
    with pytest.raises(ValueError, match="thing: what licence"):
        sbom.licence(Library(**said))  # type: ignore[arg-type]


def test_a_bill_of_other_versions_is_refused(tmp_path: Path) -> None:
    """What is installed has to be what is locked."""
    (tmp_path / "jobwatt-1.dist-info").mkdir()
    (tmp_path / "jobwatt-1.dist-info/METADATA").write_text("Name: jobwatt\nVersion: 1\n")
    (tmp_path / "lock").write_text("thing==2 \\\n    --hash=sha256:" + 64 * "0" + "\n")
    (tmp_path / "wheel").touch()
    with pytest.raises(ValueError, match=r"thing: .* has 2, .* has none"):
        sbom.make(tmp_path / "wheel", tmp_path / "lock", tmp_path, 0)


def test_no_release_of_what_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkout with a change is refused by name, and a directory that has something in it is left alone."""
    repository = tmp_path / "r"
    run("git", "init", "--quiet", repository)
    (repository / "new").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    monkeypatch.setattr(release, "ROOT", repository)
    for more, why in ([str(tmp_path / "none")], "?? new"), (["--dirty", str(tmp_path / "full")], "is not empty"):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["release.py", *more])
        monkeypatch.setattr(release, "version", lambda: "1")
        assert release.main() == 1
        assert why in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


# --- the audit -----------------------------------------------------------------------------------------


class Osv(ThreadingHTTPServer):
    """OSV's interface: one advisory, as it was published; every version that was asked for; a status for all."""

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, str]] = []
        self.status = status
        text = (ROOT / "tests/data/osv/PYSEC-2023-192.json").read_text(encoding="utf-8")
        self.advisory = json.loads(text)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class _Answer(BaseHTTPRequestHandler):
    server: Osv

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        one = query["package"]["name"], query["version"]
        self.server.asked.append(one)
        known = {"vulns": [self.server.advisory]} if one == ("urllib3", "2.0.5") else {}
        body = json.dumps(known).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def audit(tmp_path: Path, server: Osv, lock: Path) -> tuple[int, str]:
    """`make audit` against this server, of this lock alone: what is installed here changes from day to day."""
    nothing = tmp_path / "python"
    nothing.write_text(
        f'#!/bin/sh\n[ "$2" = pip ] && exit 0\nexec {sys.executable} "$@"\n', encoding="utf-8"
    )
    nothing.chmod(0o755)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [PACKAGING / "audit.sh", "-s", "osv", "--osv-url", server.url, "--cache-dir", tmp_path / "cache"],
            env={**os.environ, "PYTHON": str(nothing), "AUDIT_LOCK": str(lock), "NO_PROXY": "127.0.0.1"},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    return done.returncode, done.stdout + done.stderr


def test_the_audit_asks_about_every_library(tmp_path: Path) -> None:
    """Each locked version is asked about, and where nothing is known of any the audit is content."""
    server = Osv()
    code, said = audit(tmp_path, server, LOCK)
    assert (code, "No known vulnerabilities" in said) == (0, True), said
    wanted = {(one.name, one.version) for one in sbom.locked(LOCK.read_text(encoding="utf-8"))}
    python = "backports-zstd" if sys.version_info >= (3, 14) else ""
    assert set(server.asked) == {one for one in wanted if one[0] != python}


def test_the_audit_finds_a_known_vulnerability(tmp_path: Path) -> None:
    """An old urllib3 in the lock is a failure that names the advisory and the version that mends it."""
    lock = tmp_path / "lock.txt"
    lock.write_text(
        re.sub(r"^urllib3==\S+", "urllib3==2.0.5", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )  # fmt: skip
    code, said = audit(tmp_path, Osv(), lock)
    assert code == 1
    assert re.search(r"urllib3\s+2\.0\.5\s+PYSEC-2023-192\s+1\.26\.17,2\.0\.6", said), said


def test_an_audit_that_was_not_answered_is_a_failure(tmp_path: Path) -> None:
    """A service that has no such interface, as a mirror of PyPI may have none, is no clean bill."""
    code, said = audit(tmp_path, Osv(status=404), LOCK)
    assert code == 1, said
