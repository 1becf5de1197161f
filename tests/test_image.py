"""
The image: built from helm/Containerfile and a release by a real builder, and run as the chart's pods run it.

No registry is asked: the base, that only builds, is a Debian made by mmdebstrap from where this machine's apt gets it.
buildah runs the steps in a chroot, which wants root and no daemon.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.utils import canonicalize_name

import podlike
import released
from daemon import wait
from helmchart import flat, template
from jobwatt import __version__
from prom import free_port
from test_helm_pod import answer, node, pod_of  # noqa: F401  node is a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = ROOT / "helm/Containerfile"
# unpacked; measured 74 MB, of which Python has 33, jobwatt and its libraries 20, the C library and OpenSSL 16
MB_AT_MOST = 85

pytestmark = [pytest.mark.slow, pytest.mark.npm, pytest.mark.image]


class Builder:
    """buildah with a store of its own."""

    def __init__(self, store: Path) -> None:
        self._base = [
            "buildah", "--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "overlay",
        ]  # fmt: skip

    def __call__(self, *args: str | Path) -> str:
        done = subprocess.run(
            [*self._base, *map(str, args)], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout.strip()


def pip_conf(to: Path) -> list[str]:
    """What this machine's pip is told of its index, for the pip of the build: as --volume arguments."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    told = dict(re.findall(r"^(?:global|install|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE))
    volumes = []
    if "cert" in told:
        volumes.append(f"--volume={told['cert']}:/etc/site.crt:ro")
        told["cert"] = "/etc/site.crt"
    names = ("index-url", "extra-index-url", "trusted-host", "proxy", "cert")
    lines = [f"{name} = {told[name]}" for name in names if name in told]
    to.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    return [*volumes, f"--volume={to}:/etc/pip.conf:ro"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, object]]]:
    """The image's files, mounted, and its configuration."""
    lacking = released.missing()
    lacking += [tool for tool in ("buildah", "mmdebstrap") if shutil.which(tool) is None]
    if os.geteuid():
        lacking.append("root")
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")
    where = tmp_path_factory.mktemp("image")
    buildah = Builder(where)
    base = buildah("from", "--name=base", "scratch")
    bare = released.bare(tmp_path_factory.getbasetemp())
    subprocess.run(["cp", "-a", f"{bare}/.", buildah("mount", base)], check=True)
    buildah("umount", base)
    buildah("commit", "--quiet", "--disable-compression", base, "localhost/base:1")
    buildah("rm", base)
    release = released.release(tmp_path_factory.getbasetemp())
    buildah(
        "bud", "--quiet", "--isolation=chroot", "--layers=false", "--pull-never", *pip_conf(where / "pip.conf"),
        "--build-arg=BASE=localhost/base:1", f"--build-arg=VERSION={__version__}", "--build-arg=REVISION=abc",
        "--tag=localhost/jobwatt:1", f"--file={CONTAINERFILE}", release,
    )  # fmt: skip
    config = json.loads(buildah("inspect", "--type=image", "localhost/jobwatt:1"))["OCIv1"]
    buildah("from", "--name=made", "--pull-never", "localhost/jobwatt:1")
    yield Path(buildah("mount", "made")), config["config"]
    buildah("rm", "made")
    shutil.rmtree(where)


@pytest.fixture(scope="module")
def root(built: tuple[Path, dict[str, object]]) -> Path:
    return built[0]


@pytest.fixture(scope="module")
def image(built: tuple[Path, dict[str, object]]) -> podlike.Image:
    return podlike.Image(built[0], dict(one.split("=", 1) for one in built[1]["Env"]))


def test_the_containerfile_lints() -> None:
    """hadolint, with the shell checks in it, has nothing to say but what is answered beside its line."""
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, CONTAINERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_configuration(built: tuple[Path, dict[str, object]]) -> None:
    """Nobody's uid by number, the program itself as entry point, and the labels that registries show."""
    config = built[1]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("65532:65532", ["jobwatt"], ["serve"])  # fmt: skip
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Labels"].items()}
    assert labels["version"] == __version__
    assert (labels["revision"], labels["licenses"]) == ("abc", "Apache-2.0")
    assert "9816/tcp" in config["ExposedPorts"]


def test_nothing_in_it_that_nobody_needs(root: Path) -> None:
    """Small; no shell, no package manager, no pip, nothing set-uid, nothing that others may write but /tmp."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < MB_AT_MOST * 10**6
    programs = {p.name for p in files if p.stat().st_mode & 0o111 and ".so" not in p.name}
    assert {re.sub(r"[\d.]+$", "", name) for name in programs} <= {"python", "jobwatt"}
    assert not [p for p in files if p.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    open_to_all = [p for p in root.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o002]
    assert {str(p.relative_to(root)) for p in open_to_all} <= {"tmp", "var/tmp", "var/lock"}
    assert all(p.stat().st_mode & stat.S_ISVTX for p in open_to_all)
    others = {p for p in root.rglob("*") if p.lstat().st_uid and p.lstat().st_uid != 65532}
    assert not others
    assert not list(root.rglob("pip")) + list(root.rglob("ensurepip"))


def test_what_is_in_it_is_written_down(root: Path) -> None:
    """The release's bill is in the image and names each library that is; Debian's packages are where scanners look."""
    (bill,) = (root / "usr/share/jobwatt").glob("*.cdx.json")
    told = json.loads(bill.read_text(encoding="utf-8"))
    names = {(part["name"], part["version"]) for part in told["components"]}
    (site,) = root.glob("usr/local/lib/python3.*/dist-packages")
    there = {(canonicalize_name(d.name), d.version) for d in distributions(path=[str(site)])}
    assert there == names | {("jobwatt", __version__)}
    status = list((root / "var/lib/dpkg/status.d").iterdir())
    fields = [path.read_text(encoding="utf-8") for path in status]
    assert {"libc6", "libssl3", "tzdata"} <= {path.name for path in status}
    assert all(re.search(r"^Version: \S+$", text, re.MULTILINE) for text in fields)
    assert not [p for p in status if not (root / "usr/share/doc" / p.name / "copyright").exists()]


@pytest.mark.parametrize("as_root", [True, False])
def test_the_charts_pod_runs_in_it(tmp_path: Path, node, image, as_root: bool) -> None:  # noqa: F811
    """With the command, the mounts and the rights of the rendered pod, its root read-only, the daemon is scraped."""
    pod, url = pod_of(tmp_path, privileges={"root": as_root, "supplementalGroups": [990]})
    if not as_root:
        os.chown(node["/var/lib/jobwatt"], 65532, 65532)
        for counter in node["/sys"].rglob("energy_uj"):
            os.chown(counter, 0, 990)
            counter.chmod(0o440)
    with podlike.running(pod, node, tmp_path / "scratch", image=image) as process:
        wait(lambda: answer(f"{url}/readyz") or process.poll() is not None, 90)
        assert process.poll() is None, process.stdout.read()
        page = answer(f"{url}/metrics")
    assert 'jobwatt_rapl_energy_joules_total{zone="package-0"' in page
    assert f'jobwatt_build_info{{version="{__version__}"' in page
    assert process.returncode == 0


def test_what_helm_test_and_doctor_need_is_there(tmp_path: Path, node, image) -> None:  # noqa: F811
    """`helm test` and `jobwatt doctor` find their programs; so do TLS, time zones and every library that is imported."""
    tester = flat(template(tmp_path, {}).stdout)["Pod", "demo-jobwatt-test"]["spec"]
    command = [*tester["containers"][0]["command"], f"http://127.0.0.1:{free_port()}/readyz"]
    pod, _ = pod_of(tmp_path)
    modules = "import redfish, bcrypt, yaml, psutil, pynvml, ssl, sqlite3, zoneinfo\n"
    tries = "assert ssl.create_default_context().get_ca_certs(); zoneinfo.ZoneInfo('Europe/Paris')"
    for n, (argv, code, said) in enumerate([
        (command, 1, "Connection refused"),
        (["jobwatt", "doctor", "--path.sysfs=/host/sys", "--path.cgroupfs=/host/cgroup"], 0, "package-0"),
        (["python3", "-I", "-c", modules + tries], 0, ""),
        (["sh", "-c", "true"], 1, "No such file"),
    ]):  # fmt: skip
        with podlike.running(pod, node, tmp_path / f"scratch{n}", argv, image) as process:
            out, _ = process.communicate(timeout=90)
        assert (process.returncode, said in out) == (code, True), out


def test_the_image_alone(tmp_path: Path, image: podlike.Image) -> None:
    """As its own user, with nothing but a read-only root, /tmp and a state of its own, it serves a page."""
    port = free_port()
    places = [{"name": name, "mountPath": path} for name, path in (("state", "/var/lib/jobwatt"), ("tmp", "/tmp"))]  # fmt: skip
    pod = {
        "securityContext": {"runAsUser": 65532, "runAsGroup": 65532},
        "volumes": [{"name": "state"}, {"name": "tmp"}],
        "containers": [{
            "command": ["jobwatt"], "args": ["serve", f"--web.listen-address=127.0.0.1:{port}"], "volumeMounts": places,
            "securityContext": {
                "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
            },
        }],
    }  # fmt: skip
    with podlike.running(pod, {}, tmp_path / "scratch", image=image) as process:
        page = wait(lambda: answer(f"http://127.0.0.1:{port}/metrics"), 90)
    assert "jobwatt_node_cpu_seconds_total" in page or "jobwatt_build_info" in page
    assert process.returncode == 0
