"""`jobwatt doctor` on a node with a package: whose rights, which settings, and each part of the installation."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from daemon import BOOT_ID, Daemon
from jobwatt import doctor, installation, probes
from jobwatt.config import Config
from jobwatt.web import WebServer
from treefiles import write
from trees import Node
from webkit import FixedSite

if TYPE_CHECKING:
    from pathlib import Path

ME = pwd.getpwuid(os.geteuid()).pw_name
SCRIPT = "#!/bin/sh\n[ -x /usr/bin/jobwatt ] && /usr/bin/jobwatt hook {}\nexit 0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node on which everything is as the package and docs/install.md leave it."""
    root = tmp_path / "root"
    write(root / "usr/lib/systemd/system/jobwatt.service", "[Service]\n")
    write(root / installation.SETTINGS, "")
    wants = root / "etc/systemd/system/multi-user.target.wants/jobwatt.service"
    write(wants, "")
    write(root / "cgroup/system.slice/jobwatt.service/cgroup.procs", "41\n")
    write(root / "usr/lib/udev/rules.d/60-jobwatt.rules", "")
    write(root / "sys/class/powercap/intel-rapl:0/energy_uj", "1\n")
    write(
        root / "etc/slurm/slurm.conf",
        "PrologFlags=Contain,X11 # what it is\nprolog=/nowhere\nProlog=prolog.d/*\nEpilog=epilog\n",
    )
    write(root / "etc/slurm/prolog.d/50-jobwatt", SCRIPT.format("prolog"))
    write(root / "etc/slurm/epilog", SCRIPT.format("epilog"))
    (root / "state/hooks").mkdir(parents=True, mode=0o750)
    (root / "state").chmod(0o750)
    return root


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)


@contextmanager
def served():
    server = WebServer("127.0.0.1:0", FixedSite())
    server.start()
    try:
        yield server.address[1]
    finally:
        server.stop()


def config(root: Path, port: int = 0) -> Config:
    return dataclasses.replace(
        Config(),
        path_cgroupfs=root / "cgroup",
        path_sysfs=root / "sys",
        path_state=root / "state",
        web_listen_address=f"127.0.0.1:{port}",
    )


def looked(root: Path, part: str = "", user: str = ME, port: int = 0) -> list[installation.Check]:
    found = installation.look(config(root, port), root, user)
    return [check for check in found if part in ("", check.part)]


def test_all_is_well(root: Path) -> None:
    """What the package and the guide leave behind is found, part by part; the clock is this machine's own."""
    found = [check for check in looked(root) if check.part != "clock"]
    assert {check.state for check in found} == {"ok"}, found
    assert {check.part for check in found} == {"unit", "user", "state", "rapl", "hooks"}
    assert all(not check.mend for check in found)
    assert sum(check.part == "hooks" for check in found) == 2


def test_nothing_is_said_where_nothing_was_installed(tmp_path: Path) -> None:
    """A checkout or a pip install has no unit, no settings and no user: no word about any."""
    assert installation.look(config(tmp_path), tmp_path, "no-such-user") == ()


def stopped(root: Path) -> None:
    write(root / "cgroup/system.slice/jobwatt.service/cgroup.procs", "")


def not_enabled(root: Path) -> None:
    (root / "etc/systemd/system/multi-user.target.wants/jobwatt.service").unlink()


def no_unit(root: Path) -> None:
    (root / "usr/lib/systemd/system/jobwatt.service").unlink()


def open_state(root: Path) -> None:
    (root / "state").chmod(0o755)


def writable_hooks(root: Path) -> None:
    (root / "state/hooks").chmod(0o770)


def no_state(root: Path) -> None:
    (root / "state/hooks").rmdir()


def rule_not_applied(root: Path) -> None:
    (root / "sys/class/powercap/intel-rapl:0/energy_uj").chmod(0)


def no_rule(root: Path) -> None:
    rule_not_applied(root)
    (root / "usr/lib/udev/rules.d/60-jobwatt.rules").unlink()


def no_epilog(root: Path) -> None:
    conf = root / "etc/slurm/slurm.conf"
    conf.write_text(conf.read_text().replace("Epilog", "#Epilog"))


def other_epilog(root: Path) -> None:
    (root / "etc/slurm/epilog").write_text(SCRIPT.format("prolog"))


def commented_prolog(root: Path) -> None:
    text = (
        SCRIPT.format("prolog").replace("[ -x", "# [ -x") + "true #/usr/bin/jobwatt hook prolog\n"
    )
    (root / "etc/slurm/prolog.d/50-jobwatt").write_text(text)
    conf = root / "etc/slurm/slurm.conf"
    conf.write_text(conf.read_text().replace("prolog=/nowhere", ""))


def no_alloc(root: Path) -> None:
    conf = root / "etc/slurm/slurm.conf"
    conf.write_text(conf.read_text().replace("Contain,X11", "Serial"))


@pytest.mark.parametrize(("harm", "part", "mend"), [
    (stopped, "unit", "systemctl enable --now jobwatt"),
    (not_enabled, "unit", "systemctl enable jobwatt"),
    (no_unit, "unit", "docs/install.md"),
    (open_state, "state", f"chown {ME}:"),
    (writable_hooks, "state", "chmod 0750"),
    (no_state, "state", "systemd-tmpfiles --create jobwatt.conf"),
    (rule_not_applied, "rapl", "udevadm trigger --subsystem-match=powercap"),
    (no_rule, "rapl", "docs/install.md"),
    (no_epilog, "hooks", "jobwatt hook epilog"),
    (other_epilog, "hooks", "/usr/bin/jobwatt hook epilog"),
    (commented_prolog, "hooks", "/usr/bin/jobwatt hook prolog"),
    (no_alloc, "hooks", "PrologFlags=Alloc"),
])  # fmt: skip
def test_each_fault_has_its_mend(root: Path, harm, part: str, mend: str) -> None:
    """One part out of order: that part alone is to be mended, and its line says with what."""
    harm(root)
    (bad,) = [check for check in looked(root) if check.state != "ok" and check.part != "clock"]
    assert (bad.part, bad.state) == (part, "mend")
    assert mend in bad.mend
    assert "\n" not in bad.says + bad.mend


def test_a_user_that_is_not_there(root: Path) -> None:
    """Without the daemon's user that is said once; what belongs to it is not looked at."""
    (bad,) = looked(root, "user", user="no-such-user")
    assert bad.mend == "systemd-sysusers jobwatt.conf"
    assert not looked(root, "state", user="no-such-user")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"Prolog\n=\n==", b'Prolog=*/../[\nEpilog="\n', b""]
)
def test_a_strange_slurm_conf_is_no_exception(root: Path, content: bytes) -> None:
    """Whatever stands in slurm.conf, the hooks' lines are lines and all other parts are looked at."""
    (root / "etc/slurm/slurm.conf").write_bytes(content)
    found = looked(root)
    assert {"unit", "user", "state", "rapl", "hooks"} <= {check.part for check in found}


@pytest.mark.parametrize("conf", [
    "Include hooks.d/jobwatt.conf\n",
    "include  hooks.d/jobwatt.conf # ours\n",
    "Prolog=prolog.d/* Epilog=epilog PrologFlags=Alloc\n",
    'Prolog = "prolog.d/*"   Epilog="epilog"\\\n PROLOGFLAGS=nohold,serial\n',
])  # fmt: skip
def test_slurm_conf_as_slurm_reads_it(root: Path, conf: str) -> None:
    """Included files, several settings on a line, quotes, a line that goes on: the hooks are found in each."""
    write(root / "etc/slurm/slurm.conf", conf)
    write(root / "etc/slurm/hooks.d/jobwatt.conf", "Include flags.conf\nProlog=prolog.d/*\nEpilog=epilog\n")  # fmt: skip
    write(root / "etc/slurm/hooks.d/flags.conf", "PrologFlags=Alloc\n")
    assert [check.state for check in looked(root, "hooks")] == ["ok", "ok"]


@pytest.mark.parametrize("conf", [
    "Include gone.conf\n", "Include slurm.conf\n", "Include \0\n", "Epilog=epilog\nProlog=a b\n", 'Prolog="a\n',
])  # fmt: skip
def test_what_is_not_understood_is_unknown(root: Path, conf: str) -> None:
    """Where a part of slurm.conf could not be read nothing is said to be missing; what was found stays found."""
    write(root / "etc/slurm/slurm.conf", conf)
    found = looked(root, "hooks")
    assert {check.state for check in found} <= {"unknown", "ok"}
    assert any("Include" in check.says or "not understood" in check.says for check in found)


def test_includes_have_an_end(root: Path) -> None:
    """A thousand files, each with the next: 64 are read."""
    for number in range(1000):
        write(root / f"etc/slurm/{number}.conf", f"Include {number + 1}.conf\n")
    (root / "etc/slurm/0.conf").rename(root / "etc/slurm/slurm.conf")
    found = looked(root, "hooks")
    assert {check.state for check in found} == {"unknown"}
    assert "64.conf is not followed" in found[0].says


@pytest.mark.parametrize(("age", "state"), [("0", "ok"), ("600", "ok"), ("601", "mend"), ("86399", "mend")])  # fmt: skip
def test_a_scrape_of_yesterday(
    root: Path, monkeypatch: pytest.MonkeyPatch, age: str, state: str
) -> None:
    """Who asks less often than ended jobs stay on the page misses some: that is to be mended."""
    monkeypatch.setattr(probes, "health", lambda *_: f"last sample 0.2 s ago, last scrape {age} s ago")  # fmt: skip
    (check,) = looked(root, "prometheus", port=9816)
    assert (check.state, bool(check.mend)) == (state, state == "mend")
    assert "any GET of /metrics counts" in check.says


def test_a_part_that_fails_is_a_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of the examination itself is that part's "unknown"."""
    monkeypatch.setattr(probes, "clock_error_us", lambda: 1 // 0)
    (clock,) = looked(root, "clock")
    assert clock.state == "unknown"


@pytest.mark.parametrize(("error_us", "state"), [(1000, "ok"), (16_000_000, "mend")])
def test_clock(root: Path, monkeypatch: pytest.MonkeyPatch, error_us: int, state: str) -> None:
    """A clock whose error the kernel states as 16 s, its greatest, is synchronised by nobody."""
    monkeypatch.setattr(probes, "clock_error_us", lambda: error_us)
    (clock,) = looked(root, "clock")
    assert clock.state == state


def test_the_kernel_states_its_clocks_error() -> None:
    """adjtimex(2) is understood: an error between 0 and the greatest there is, 16 s and some."""
    assert 0 <= probes.clock_error_us() <= 17_000_000


def test_when_it_was_last_scraped(tmp_path: Path) -> None:
    """/healthz says when the page was asked for: never, then a moment ago; doctor reads it there."""
    node = Node(tmp_path, cpus=2, boot_id=BOOT_ID)
    node.add_intel(sockets=1)
    with Daemon(node, tmp_path / "state") as daemon:
        assert probes.health("127.0.0.1", daemon.port).endswith("no scrape yet")
        daemon.scrape()
        assert re.search(r"last scrape \d+ s ago$", probes.health("127.0.0.1", daemon.port))


def test_nobody_scrapes(root: Path) -> None:
    """A daemon that answers and was never asked is to be put into prometheus.yml; one that is not there is unknown."""
    with served() as port:
        (check,) = looked(root, "prometheus", port=port)
        assert check.state == "mend"
        assert f"HOST:{port}" in check.mend
    (check,) = looked(root, "prometheus", port=port)
    assert check.state == "unknown"


def test_whose_rights_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root beside a daemon's user or settings, and without its settings file, a note each; else none."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    file = tmp_path / installation.SETTINGS
    assert doctor._as_whom(None, tmp_path) == []
    write(file, "")
    (note,) = doctor._as_whom(None, tmp_path)
    assert "default settings" in note
    assert doctor._as_whom("/etc/jobwatt/jobwatt.toml", tmp_path) == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (note,) = doctor._as_whom("/etc/jobwatt/jobwatt.toml", tmp_path)
    assert "runuser -u jobwatt -- jobwatt doctor --config.file=" in note


@pytest.mark.parametrize(("systemd", "notes"), [(True, 1), (False, 0)])
def test_an_image_is_no_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: bool, notes: int
) -> None:
    """A container has the user and root is the daemon's own there: nothing is said, and no unit is missed."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(installation, "known", lambda _user: True)
    if systemd:
        (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert len(doctor._as_whom(None, tmp_path)) == notes
    assert bool(installation.look(config(tmp_path), tmp_path)) is systemd


def test_both_forms_show_it() -> None:
    """Text has one line per part, with its mend; JSON has the fields."""
    checks = (
        installation.Check(
            "unit", "mend", "jobwatt.service does not run", "systemctl start jobwatt"
        ),
        installation.Check("clock", "ok", "the kernel's clock is synchronised"),
    )
    found = doctor.Findings((), (), (), (), (), checks)
    text = doctor.as_text(found).split("installation\n")[1].splitlines()
    assert text == [
        "  mend     unit: jobwatt.service does not run; mend: systemctl start jobwatt",
        "  ok       clock: the kernel's clock is synchronised",
    ]
    assert json.loads(doctor.as_json(found))["installation"][0]["mend"] == "systemctl start jobwatt"
    assert "installation" not in doctor.as_text(dataclasses.replace(found, installation=()))
