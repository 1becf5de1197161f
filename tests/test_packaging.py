"""The packages: built by Debian's tools, installed in a Debian of its own, run by its systemd, removed."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import nvmlshim
import released
import systemdvm
from jobwatt import __version__
from jobwatt.config import from_flags, settings
from released import need, run
from trees import Node

ROOT = Path(__file__).resolve().parents[1]
PACKAGING = ROOT / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
SITE = "usr/lib/jobwatt/lib"
# `systemd-analyze security`: 0 (nothing can be done) to 10. jobwatt.service has 1.8 by systemd 252, the others
# 1.4; systemd-networkd has 2.6 and most daemons above 9. Newer systemd knows more rules to ask for.
EXPOSURE = {"jobwatt.service": 2.0}
EXPOSURE_CENTRAL = 1.6


# --- what needs no building ------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_exposure(unit: Path) -> None:
    """A unit gives away no more than it did: systemd's own measure stays below a bound."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    bound = int(10 * EXPOSURE.get(unit.name, EXPOSURE_CENTRAL))
    run("systemd-analyze", "security", "--offline=true", f"--threshold={bound}", unit)


def test_example_config() -> None:
    """The settings that a package installs are accepted, as they are and with every example switched on."""
    path = PACKAGING / "jobwatt.toml"
    assert from_flags({"config.file": str(path)}) == from_flags({})
    lines = [re.sub(r"^# (?=[a-z.-]+ = |\[)", "", line) for line in path.read_text().splitlines()]
    assert lines != path.read_text().splitlines()


def test_every_example_of_the_config_is_a_setting(tmp_path: Path) -> None:
    """Uncommented, each key of the example is one that the daemon knows."""
    text = re.sub(
        r"^# (?=[a-z.-]+ = |\[)", "", (PACKAGING / "jobwatt.toml").read_text(), flags=re.MULTILINE
    )
    (tmp_path / "all.toml").write_text(text)
    config = from_flags({"config.file": str(tmp_path / "all.toml")})
    assert config.remote_url == "https://mgmt.example.org:9817/metrics"


def test_man_pages(tmp_path: Path) -> None:
    """Every setting and command has its place in the man pages, which groff takes without a warning."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}
    run(sys.executable, PACKAGING / "manpages.py", tmp_path, env=env)
    toml = (tmp_path / "jobwatt.toml.5").read_text().replace("\\-", "-")
    assert [
        s.metadata["name"] for s in settings() if f"\\fB{s.metadata['name']}\\fR" not in toml
    ] == []
    assert {"jobwatt.1", "jobwatt-serve.1", "jobwatt-bmc-proxy.1"} <= set(os.listdir(tmp_path))
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    for page in tmp_path.iterdir():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", page],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (page.name, done.stderr) == (page.name, "")


def test_lock_covers_the_dependencies() -> None:
    """The packages carry every library that pyproject.toml asks for, each pinned by hash."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {
        re.match(r"[\w-]+", one)[0].lower()
        for one in project["dependencies"] + project["optional-dependencies"]["bmc"]
    }
    text = (PACKAGING / "requirements.txt").read_text()
    locked = dict(re.findall(r"^([\w-]+)==(\S+)", text, flags=re.MULTILINE))
    assert wanted <= locked.keys()
    assert text.count("--hash=sha256:") >= len(locked)


@pytest.mark.parametrize("event", ["prolog", "epilog"])
def test_slurm_snippet_never_fails(tmp_path: Path, event: str) -> None:
    """Without jobwatt the snippet ends with 0: a Prolog that fails drains the node."""
    snippet = (
        (PACKAGING / "slurm" / event)
        .read_text()
        .replace("/usr/bin/jobwatt", str(tmp_path / "none"))
    )
    assert subprocess.run(["sh", "-eu", "-c", snippet], check=False).returncode == 0


def test_scripts() -> None:
    """shellcheck has nothing to say about the packaging's scripts."""
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    scripts = [*PACKAGING.glob("*.sh"), *(PACKAGING / "slurm").iterdir()]
    scripts += [PACKAGING / "debian/postinst", PACKAGING / "debian/postrm"]
    run("shellcheck", *scripts)


def fake(path: Path, text: str) -> None:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


class Nodes:
    """
    A cluster of directories: an ssh, an scp and a node's own programs that keep to them.

    A node has its own /etc/jobwatt, /usr/bin/jobwatt and /var/cache/jobwatt. "Installed" is what its apt-get was last
    given; a node named in ``broken`` measures nothing with the package that ``broken`` says.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self.bin, self.log = where / "bin", where / "log"
        self.bin.mkdir()
        self.log.touch()
        self.broken: dict[str, str] = {}
        tmp = where / "tmp"
        tmp.mkdir()
        fake(
            self.bin / "ssh",
            f"""for last; do :; done
                while [ "$1" != "${{1#-}}" ]; do [ "$1" = -o ] && shift; shift; done
                export NODE=$1 TMPDIR={tmp} ROOT={where}/nodes/$1
                echo "$NODE" >>{self.log}
                mkdir -p "$ROOT/etc" "$ROOT/cache" "$ROOT/bin"
                case "$*" in *mktemp*) exec mktemp -d {tmp}/tmp.XXXXXX;; esac
                sed -e "s,/var/cache/jobwatt,$ROOT/cache/jobwatt," -e "s,/etc/jobwatt,$ROOT/etc," \\
                    -e "s,/usr/bin/jobwatt,$ROOT/bin/jobwatt," -e 's,sleep 5,:,' |
                  PATH={self.bin}:$PATH sh -s -- ${{last##* }}""",
        )
        fake(self.bin / "scp", 'for to; do from=$was was=$to; done; exec cp "$from" "${to#*:}"\n')
        fake(
            self.bin / "apt-get",
            """for last; do :; done
               case $1 in
                 install) touch "$ROOT/bin/jobwatt"; cat "$last" >"$ROOT/installed";;
                 remove) rm -f "$ROOT/bin/jobwatt" "$ROOT/installed";;
               esac""",
        )
        fake(self.bin / "systemctl", 'echo "$NODE $1" >>"$ROOT/../../calls"\n')
        fake(
            self.bin / "runuser",
            f"""echo "rapl: $(cat "$ROOT/installed")"
                ! grep -qx "$NODE $(cat "$ROOT/installed")" {where}/broken""",
        )

    def __call__(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        told = "".join(f"{node} {package}\n" for node, package in self.broken.items())
        (self.where / "broken").write_text(told)
        (self.where / "calls").write_text("")
        self.log.write_text("")
        return subprocess.run(
            [PACKAGING / "install-nodes.sh", *args],
            env={**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def package(self, text: str) -> Path:
        path = self.where / f"jobwatt_{text}_amd64.deb"
        path.write_text(text)
        return path

    def has(self, node: str) -> str | None:
        path = self.where / "nodes" / node / "installed"
        return path.read_text() if path.exists() else None

    @property
    def reached(self) -> set[str]:
        return set(self.log.read_text().split())

    @property
    def restarted(self) -> list[str]:
        return sorted(re.findall(r"(\w+) restart", (self.where / "calls").read_text()))


@pytest.fixture
def cluster(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path)


TWELVE = [f"gpu{n:02d}" for n in range(1, 13)]


def test_install_nodes_does_all_twelve(cluster: Nodes) -> None:
    """Each is done once and says what it measures; again, none is touched: nothing is restarted."""
    done = cluster("--parallel", "5", cluster.package("1"), *TWELVE)
    assert done.returncode == 0, done.stderr
    assert [cluster.has(node) for node in TWELVE] == ["1"] * 12
    assert re.findall(r"(\w+): installed, measures\n    rapl: 1\n", done.stdout) == TWELVE
    assert cluster.restarted == TWELVE
    again = cluster(cluster.package("1"), *TWELVE)
    assert (again.returncode, cluster.restarted) == (0, [])


def test_install_nodes_stops_at_a_first_that_fails(cluster: Nodes) -> None:
    """One node first; where it does not measure, the other eleven are not even reached."""
    cluster.broken = {"gpu01": "1"}
    done = cluster(cluster.package("1"), *TWELVE)
    assert (done.returncode, cluster.reached) == (1, {"gpu01"})
    assert "gpu01: FAILED" in done.stderr
    assert f"not tried: {' '.join(TWELVE[1:])}" in done.stderr


def test_install_nodes_goes_on_after_a_failure(cluster: Nodes) -> None:
    """A later failure ends it after those being done; mended, the same command does the rest and only that."""
    cluster.broken = {"gpu03": "1"}
    done = cluster("--parallel", "3", cluster.package("1"), *TWELVE)
    assert done.returncode == 1
    assert cluster.reached == set(TWELVE[:4])
    assert "done: 3: gpu01 gpu02 gpu04\nfailed: gpu03\nnot tried: gpu05" in done.stderr
    cluster.broken = {}
    done = cluster("--parallel", "3", cluster.package("1"), *TWELVE)
    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.restarted == ["gpu03", *TWELVE[4:]]


def test_install_nodes_rolls_back(cluster: Nodes) -> None:
    """A new version and its settings go, those from before come; where there was none, the package goes."""
    for name in ("old", "new"):
        (cluster.where / f"{name}.toml").write_text(name)
    old, new = cluster.where / "old.toml", cluster.where / "new.toml"
    nodes = TWELVE[:2]
    assert cluster("--config", old, cluster.package("1"), *nodes).returncode == 0
    cluster.broken = {"gpu02": "2"}
    for _ in range(2):  # tried again, it still knows what was there before
        assert cluster("--config", new, cluster.package("2"), *nodes).returncode == 1
    assert [cluster.has(node) for node in nodes] == ["2", "2"]
    done = cluster("--rollback", *nodes)
    assert (done.returncode, done.stdout.count("as before\n    rapl: 1")) == (0, 2), done.stderr
    assert [cluster.has(node) for node in nodes] == ["1", "1"]
    assert (cluster.where / "nodes/gpu02/etc/jobwatt.toml").read_text() == "old"
    done = cluster("--rollback", "gpu01")
    assert (done.returncode, "nothing is kept" in done.stderr) == (1, True)
    assert cluster(cluster.package("1"), "gpu05").returncode == 0
    done = cluster("--rollback", "gpu05")
    assert (done.returncode, cluster.has("gpu05")) == (0, None), done.stderr


def test_install_nodes_takes_nothing_away_that_it_did_not_bring(cluster: Nodes) -> None:
    """A package that was there already is not removed by --rollback."""
    there = cluster.where / "nodes/gpu01/bin"
    there.mkdir(parents=True)
    (there / "jobwatt").touch()
    assert cluster(cluster.package("2"), "gpu01").returncode == 0
    done = cluster("--rollback", "gpu01")
    assert (done.returncode, cluster.has("gpu01")) == (1, "2")
    assert "was not put here by this script" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["jobwatt.zip", "gpu01"],
        ["jobwatt_1_amd64.deb"],
        ["jobwatt_1_amd64.deb", "gpu01", "gpu01"],
        ["jobwatt_1_amd64.deb", "-oProxyCommand=x"],
        ["--parallel", "0", "jobwatt_1_amd64.deb", "gpu01"],
        ["--rollback", "--config", "x", "gpu01"],
        ["jobwatt_2_amd64.deb", "gpu01"],
    ],
)
def test_install_nodes_refuses_what_makes_no_sense(cluster: Nodes, args: list[str]) -> None:
    """Another kind of file, no node, one twice, an option in a node's place: a usage error, and no node is reached."""
    cluster.package("1")
    done = cluster(*(cluster.where / a if a.startswith("jobwatt") else a for a in args))
    assert (done.returncode, cluster.reached) == (2, set())


@pytest.mark.parametrize("what", [["--rollback"], ["jobwatt_1_amd64.deb"]])
def test_install_nodes_shows_before_it_does(cluster: Nodes, what: list[str]) -> None:
    """--dry-run reaches no node, and shows a script that sh can read."""
    cluster.package("1")
    args = (cluster.where / a if a.startswith("jobwatt") else a for a in what)
    done = cluster("--dry-run", *args, "gpu01")
    assert (done.returncode, cluster.reached) == (0, set())
    first, script = done.stdout.split("\n", 1)
    assert "gpu01" in first
    run("sh", "-n", input=script)


_TRIES = """
import ctypes, json, os, struct, sys
def attempt(what):
    try:
        what()
    except OSError:
        return False
    return True
def perf():
    # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, every process of CPU 0: allowed to whom RAPL's PMU is
    attr = struct.pack("=IIQQQQQIIQ", 1, 64, 0, 0, 0, 0, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(int(sys.argv[3]), attr, -1, 0, -1, 8) < 0:
        raise OSError(ctypes.get_errno(), "perf_event_open")
pid, file = sys.argv[1:3]
print(json.dumps([
    attempt(lambda: open(file).read()),
    attempt(lambda: open(f"/proc/{pid}/environ").read()),
    attempt(lambda: os.readlink(f"/proc/{pid}/exe")),
    attempt(perf),
    attempt(lambda: open(f"/proc/{pid}/maps").read()),
]))
"""


@pytest.mark.parametrize(
    ("capabilities", "file", "environ", "exe", "perf"),
    [
        ("", False, False, False, False),
        ("perfmon", False, False, False, True),
        ("sys_ptrace", False, False, True, False),
        ("dac_read_search", True, False, False, False),
        ("sys_ptrace,dac_read_search", True, True, True, False),
    ],
)
def test_what_each_capability_opens(
    capabilities: str, file: bool, environ: bool, exe: bool, perf: bool
) -> None:
    """What docs/privileges.md says of each capability holds on this kernel."""
    need("setpriv", "sleep")
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) < 1:
        perf = True  # this machine lets everybody
    caps = "".join(f",+{name}" for name in filter(None, capabilities.split(",")))
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    drop += [f"--{which}-caps=-all{caps}" for which in ("inh", "ambient")] + [
        f"--bounding-set=-all{caps}"
    ]
    other = subprocess.Popen(
        ["setpriv", "--reuid=20001", "--regid=20001", "--clear-groups", "sleep", "60"]
    )
    with tempfile.TemporaryDirectory() as where:
        Path(where).chmod(0o755)
        secret = Path(where) / "energy_uj"
        secret.write_text("1")
        secret.chmod(0o400)
        try:
            while "20001" not in Path(f"/proc/{other.pid}/status").read_text():
                time.sleep(0.01)
            number = "241" if platform.machine() == "aarch64" else "298"
            argv = [*drop, "/usr/bin/python3", "-I", "-c", _TRIES, str(other.pid), secret, number]
            *found, maps = json.loads(run(*argv))
            assert found == [file, environ, exe, perf]
            # new kernels show maps to PERFMON too (6.18 does), older ones do not
            assert maps == exe or "perfmon" in capabilities
        finally:
            other.kill()
            other.wait()


# --- the package -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The release's package, and a Debian that has nothing but Python, systemd and udev: made at the same time."""
    need(*released.TOOLS, "mmdebstrap", "unshare")
    where = tmp_path_factory.getbasetemp()
    with ThreadPoolExecutor(2) as pool:
        bare = pool.submit(released.bare, where)
        built = pool.submit(released.release, where)
        return next(built.result().glob("*.deb")), bare.result()


@pytest.fixture(scope="session")
def package(made: tuple[Path, Path]) -> Path:
    return made[0]


@pytest.fixture(scope="session")
def bare(made: tuple[Path, Path]) -> Path:
    return made[1]


@pytest.fixture(scope="session")
def installed(bare: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the package."""
    root = systemdvm.copy(bare, tmp_path_factory.mktemp("vm") / "root")
    shutil.copy(package, root / "jobwatt.deb")
    systemdvm.inside(root, "dpkg", "--install", "/jobwatt.deb")
    (root / "jobwatt.deb").unlink()
    return root


@pytest.fixture(scope="session")
def lived(bare: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What happened on a machine that got the package, ran its daemon, and then got rid of it."""
    need("linux.uml", "gcc")
    root = systemdvm.copy(bare, tmp_path_factory.mktemp("vm") / "booted")
    node = Node(root / "srv")
    node.add_intel()
    for zone in (root / "srv").rglob("energy_uj"):
        zone.chmod(0o400)
    script = nvmlshim.Script(root / "srv/nvml")
    script.gpus[0] = nvmlshim.plain_gpu(0)
    script.write()
    shutil.copy(nvmlshim.build() / "libnvidia-ml.so.1", root / "usr/lib/")
    dropin = root / "etc/systemd/system/jobwatt.service.d"
    dropin.mkdir(parents=True)
    (dropin / "shim.conf").write_text(
        f"[Service]\nEnvironment=JOBWATT_NVML_SCRIPT=/{script.path.relative_to(root)}\n"
    )
    (root / "guest").mkdir()
    (root / "guest/root-only").write_text("x")
    nodes = Path(__file__).parent / "data/interop/scontrol/nodes.txt"
    shutil.copy(nodes, root / "guest/nodes.txt")
    (root / "guest/jobwatt.toml").write_text('[path]\nsysfs = "/srv/sys"\n')
    shutil.copy(package, root / "guest/jobwatt_0_all.deb")
    shutil.copy(PACKAGING / "install-nodes.sh", root / "guest")
    printed = systemdvm.boot(root, Path(__file__).parent / "vm/check.py")
    found = json.loads(printed.splitlines()[-1])
    assert "error" not in found, found["error"]
    found["left"] = [
        f"/{path.relative_to(root)}"
        for path in root.rglob("*jobwatt*")
        if path.parts[len(root.parts)] not in {"guest", "srv"}
    ]
    return found


@pytest.mark.slow
def test_files_of_the_package(package: Path) -> None:
    """Everything is where it belongs, root's, writable by nobody else, and knows nothing of the build."""
    listed = [
        line.split(maxsplit=5) for line in run("dpkg-deb", "--contents", package).splitlines()
    ]
    paths = {entry[5].split(" -> ")[0] for entry in listed}
    assert {
        "./usr/bin/jobwatt",
        "./etc/jobwatt/jobwatt.toml",
        "./lib/systemd/system/jobwatt.service",
        "./lib/systemd/system/jobwatt-grid.service",
        "./lib/systemd/system/jobwatt-bmc-proxy.service",
        "./lib/systemd/system/jobwatt-sd.service",
        "./usr/lib/sysusers.d/jobwatt.conf",
        "./usr/lib/tmpfiles.d/jobwatt.conf",
        "./usr/lib/udev/rules.d/60-jobwatt.rules",
        "./usr/share/man/man1/jobwatt.1.gz",
        "./usr/share/doc/jobwatt/examples/perf.conf",
    } <= paths
    assert [
        e for e in listed if e[1] != "root/root" or re.search("^[-d].{4}w|^[-d].{7}w", e[0])
    ] == []
    assert run("dpkg-deb", "--field", package, "Version").strip() == f"{__version__}-1"


@pytest.mark.slow
def test_package_knows_nothing_of_its_build(installed: Path, package: Path) -> None:
    """No file holds the directory it was built in, and no module lacks its compiled form."""
    home = installed / "usr/lib/jobwatt"
    build = str(package.parent.parent).encode()
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [
        path for path in files if build in path.read_bytes() or b"/tmp/tmp." in path.read_bytes()
    ] == []
    modules = [path for path in files if path.suffix == ".py"]
    tag = next(home.rglob("jobwatt/__pycache__/cli.*.pyc")).suffixes[0]
    assert [
        m for m in modules if not (m.parent / "__pycache__" / f"{m.stem}{tag}.pyc").exists()
    ] == []
    page = gzip.decompress((installed / "usr/share/man/man1/jobwatt-serve.1.gz").read_bytes())
    assert b"web.listen\\-address" in page


@pytest.mark.slow
def test_links_of_its_pages(installed: Path) -> None:
    """What the packaged pages link to is in the package."""
    assert released.dead_links(installed / "usr/share/doc/jobwatt") == []


@pytest.mark.slow
def test_units_are_sound(installed: Path) -> None:
    """systemd finds no fault in the units, where the package is installed."""
    names = [unit.name for unit in UNITS]
    said = systemdvm.inside(installed, "systemd-analyze", "verify", "--man=no", *names)
    assert said.stdout + said.stderr == ""


@pytest.mark.slow
def test_installed_program(installed: Path) -> None:
    """The program runs on what the package brings: the hooks, a page, and the child that asks slurmctld."""
    assert systemdvm.inside(installed, "jobwatt", "--version").stdout == f"jobwatt {__version__}\n"
    assert "jobwatt_build_info" in systemdvm.inside(installed, "jobwatt", "once").stdout
    for module in ("jobwatt.slurm.rpc", "redfish", "pynvml", "bcrypt", "yaml", "psutil"):
        systemdvm.inside(installed, "/usr/lib/jobwatt/bin/python3", "-P", "-c", f"import {module}")


@pytest.mark.slow
@pytest.mark.uml
def test_daemon_without_a_privilege(lived: dict[str, object]) -> None:
    """Under its unit the daemon has no capability, cannot get one, and still knows the job from root's hook."""
    status = lived["status"]
    assert re.findall(r"Cap(?:Inh|Prm|Eff|Bnd|Amb):\s+(\w+)", status) == ["0" * 16] * 5
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert lived["prolog"] == "0\n"
    job = 'jobwatt_job_cpu_seconds_total{jobid="7",user="alice",account="lab",partition="gpu"}'
    assert job in lived["before"]
    assert 'resolved_by="hook"' in lived["before"]
    assert "cannot open" not in lived["journal"]


@pytest.mark.slow
@pytest.mark.uml
def test_a_job_in_a_pod_is_seen(lived: dict[str, object]) -> None:
    """On a real cgroup v2, by the daemon under its unit: a job whose slurmd is a pod of Kubernetes uses CPU time."""
    used = re.search(
        r'^jobwatt_job_cpu_seconds_total\{jobid="8",.*\} (\S+)$', lived["after"], re.MULTILINE
    )
    assert used
    assert float(used[1]) > 0


@pytest.mark.slow
@pytest.mark.uml
def test_gpu_library_under_the_unit(lived: dict[str, object]) -> None:
    """ctypes, libffi and the driver's library get along with MemoryDenyWriteExecute and the filter of calls."""
    assert 'jobwatt_source_up{source="nvml"} 1' in lived["after"]
    assert "jobwatt_gpu_power_watts{" in lived["after"]


@pytest.mark.slow
@pytest.mark.uml
def test_rapl_by_group(lived: dict[str, object]) -> None:
    """Root-only counters are refused, in one line that mends it; the udev rule lets the group read them."""
    told = [line for line in lived["installed"].splitlines() if "Permission denied" in line]
    assert any("energy_uj" in line and "jobwatt" in line for line in told), lived["installed"]
    assert "jobwatt_rapl_energy_joules_total{" not in lived["before"]
    assert lived["ruled"] == "440 root:jobwatt"
    assert lived["rule_faults"] == []
    assert "jobwatt_rapl_energy_joules_total{" in lived["after"]


@pytest.mark.slow
@pytest.mark.uml
def test_install_nodes_on_a_node(lived: dict[str, object]) -> None:
    """The script installs and starts; a node that measures nothing is a failure, and again is well."""
    assert "FAILED" in lived["installed"]
    assert "status 1\n" in lived["installed"]
    assert lived["again"].startswith("node: installed, measures\n")
    assert "rapl: package-0" in lived["again"]
    assert "status 0\n" in lived["again"]


@pytest.mark.slow
@pytest.mark.uml
def test_state_belongs_to_the_daemon(lived: dict[str, object]) -> None:
    """The state is the daemon's alone; what root's hook leaves there its group may read."""
    lines = dict(reversed(line.rsplit(" ", 1)) for line in lived["state"].splitlines())
    assert lines["/var/lib/jobwatt"] == "750 jobwatt:jobwatt"
    assert lines["/var/lib/jobwatt/hooks"] == "750 jobwatt:jobwatt"
    assert [kept for path, kept in lines.items() if path.endswith(".json")] == ["640 root:jobwatt"]
    assert lines["/var/lib/jobwatt/ledger.db"].endswith("0 jobwatt:jobwatt")


NEEDED = {
    "read /proc/PID/stat of others",
    "read /proc/PID/cgroup of others",
    "read /proc/stat",
    "list cgroups",
    "load a library",
    "listen",
}
OPENED = {
    "plain": set(),
    "perf": {"perf on a CPU"},
    "environ": {
        "read /proc/PID/environ of others",
        "read /etc/shadow",
        "read /guest/root-only",
    },
}


@pytest.mark.slow
@pytest.mark.uml
@pytest.mark.parametrize("unit", OPENED)
def test_what_the_unit_allows(lived: dict[str, object], unit: str) -> None:
    """What the daemon needs is allowed, what a drop-in is for is opened by it, and nothing else is."""
    # this kernel has no perf: the filter of calls let it be asked for
    allowed = {name for name, how in lived[unit].items() if how in {"ok", "ENOSYS"}}
    assert allowed == NEEDED | OPENED[unit], lived[unit]


@pytest.mark.slow
@pytest.mark.uml
def test_units_of_the_cluster(lived: dict[str, object]) -> None:
    """The grid's intensity, the BMCs' power and Slurm's nodes are served under their units, which let less through."""
    assert "jobwatt_grid_" in lived["grid"], lived["central"]
    assert "jobwatt_meter_" in lived["proxy"], lived["central"]
    # three nodes at one address: one page
    assert "jobwatt_sd_targets 1" in lived["sd"], lived["central"]
    assert lived["listed"].startswith("644 jobwatt\n[\n"), lived["central"]


@pytest.mark.slow
@pytest.mark.uml
def test_only_the_daemon_starts_by_itself(lived: dict[str, object]) -> None:
    """What runs once per cluster starts only where somebody asks for it."""
    assert lived["others"].split() == ["disabled"] * 3


@pytest.mark.slow
@pytest.mark.uml
def test_removal(lived: dict[str, object]) -> None:
    """Removal stops the daemon and keeps its account; a purge leaves nothing but what it names."""
    assert lived["after_remove"].split()[0] == "inactive"
    assert "ledger.db" in lived["after_remove"]
    assert "stays in /var/lib/jobwatt" in lived["removed"]
    assert "kept /etc/jobwatt" in lived["purged"]
    assert "kept the system user" in lived["purged"]
    ours = {"/etc/jobwatt", "/etc/systemd/system/jobwatt.service.d"}
    assert set(lived["left"]) - ours == set(), lived["purged"]
