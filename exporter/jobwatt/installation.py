"""
What a package installed on this node, as `jobwatt doctor` looks at it: from files and sockets alone.

Nothing is started and nothing is written. A part that cannot be looked at is said to be unknown; no
fault of a part is one of the examination.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from . import probes
from .slurm import conf as slurmconf
from .weblisten import parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .config import Config

USER = "jobwatt"
UNIT = "jobwatt.service"
SETTINGS = "etc/jobwatt/jobwatt.toml"
RULE = "60-jobwatt.rules"
_UNIT_DIRS = ("etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")  # fmt: skip
_RULE_DIRS = ("etc/udev/rules.d", "run/udev/rules.d", "usr/lib/udev/rules.d", "lib/udev/rules.d")
# Debian's, older Debian's, configless slurmd's two, and where Slurm's own make install puts it
_SLURM_CONF = (
    "etc/slurm/slurm.conf",
    "etc/slurm-llnl/slurm.conf",
    "run/slurm/conf/slurm.conf",
    "var/spool/slurmd/conf-cache/slurm.conf",
    "usr/local/etc/slurm.conf",
)
_SCRIPT_BYTES = 1 << 16
_SCRIPTS = 64
_COMMENT = re.compile(rb"(?:^|(?<=\s))#.*", re.MULTILINE)  # of a shell's
# slurm.conf(5): each of these implies Alloc
_ALLOC = {"alloc", "contain", "deferbatch", "forcerequeueonfail", "nohold", "runinjob", "x11"}
# as timedatectl has it: the greatest error that the kernel states, in us, while nobody disciplines it
_UNSYNCHRONISED_US = 16_000_000
_SCRAPE = re.compile(r"last scrape (\d+) s ago")  # as board.py writes it
# Jobs that ended stay on the page for ten minutes (`ledger.linger`): who asks less often misses some.
_SCRAPE_S = 600


@dataclass(frozen=True, slots=True)
class Check:
    """
    One part of the installation.

    Attributes:
        part: what was looked at; state: ``ok``, ``mend`` or ``unknown``.
        says: what was found; mend: the one line that mends it, "" where nothing is to be mended.
    """

    part: str
    state: str
    says: str
    mend: str = ""


def look(config: Config, root: Path = Path("/"), user: str = USER) -> tuple[Check, ...]:
    """Every part, or nothing where no package of jobwatt's was installed. Never raises."""
    if not _installed(root, user):
        return ()
    parts: dict[str, Callable[[], Iterator[Check]]] = {
        "unit": lambda: _unit(config, root),
        "user": lambda: _user(user),
        "state": lambda: _state(config.path_state, user),
        "rapl": lambda: _rapl(config.path_sysfs, root, user),
        "hooks": lambda: _hooks(config, root),
        "prometheus": lambda: _scraped(config.web_listen_address),
        "clock": _clock,
    }
    found: list[Check] = []
    for part, checks in parts.items():
        try:
            found += checks()
        except Exception as err:  # noqa: BLE001  whatever a strange node has: one line
            found.append(Check(part, "unknown", f"cannot be looked at: {err}"))
    return tuple(found)


def _installed(root: Path, user: str) -> bool:
    return (
        _first(root, _UNIT_DIRS, UNIT) is not None
        or (root / SETTINGS).exists()
        or has_daemons_user(root, user)
    )


def has_daemons_user(root: Path = Path("/"), user: str = USER) -> bool:
    """Whether a daemon would run as ``user``: not in an image, which has the user and no systemd (sd_booted(3))."""
    return known(user) and (root / "run/systemd/system").is_dir()


def known(user: str = USER) -> bool:
    """Whether the daemon's user exists here."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _first(root: Path, directories: tuple[str, ...], name: str) -> Path | None:
    paths = (root / directory / name for directory in directories)
    return next((path for path in paths if path.exists()), None)


def _unit(config: Config, root: Path) -> Iterator[Check]:
    if _first(root, _UNIT_DIRS, UNIT) is None:
        yield Check("unit", "mend", f"no {UNIT} here", "install the package (docs/install.md)")
        return
    on = any((root / "etc/systemd/system").glob(f"*.wants/{UNIT}"))
    # cgroup v2; v1's own hierarchy of systemd; v2 beside v1
    trees = (config.path_cgroupfs / tree for tree in ("", "systemd", "unified"))
    runs = any(_text(tree / "system.slice" / UNIT / "cgroup.procs").strip() for tree in trees)
    if on and runs:
        yield Check("unit", "ok", f"{UNIT} is enabled and runs")
    elif runs:
        mend = "systemctl enable jobwatt"
        yield Check("unit", "mend", f"{UNIT} runs, and will not after a boot", mend)
    else:
        mend = "systemctl enable --now jobwatt; why it ended: journalctl -u jobwatt -n 20"
        yield Check("unit", "mend", f"{UNIT} does not run", mend)


def _user(user: str) -> Iterator[Check]:
    if known(user):
        yield Check("user", "ok", f"{user} exists")
    else:
        yield Check("user", "mend", f"there is no user {user}", "systemd-sysusers jobwatt.conf")


def _state(state: Path, user: str) -> Iterator[Check]:
    if not known(user):
        return  # that is said already
    for path, forbidden, wanted in ((state, 0o027, "0750"), (state / "hooks", 0o022, "0750")):
        try:
            about = path.stat()
        except FileNotFoundError:
            mend = "systemd-tmpfiles --create jobwatt.conf"
            yield Check("state", "mend", f"{path} does not exist", mend)
            return
        mode = f"{stat.S_IMODE(about.st_mode):04o}"
        says = f"{path} belongs to {_name(about.st_uid)}, mode {mode}"
        if about.st_uid == pwd.getpwnam(user).pw_uid and not about.st_mode & forbidden:
            yield Check("state", "ok", says)
        else:
            yield Check("state", "mend", says, f"chown {user}: {path} && chmod {wanted} {path}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _rapl(sysfs: Path, root: Path, user: str) -> Iterator[Check]:
    counters = sorted((sysfs / "class/powercap").glob("intel-rapl*:*/energy_uj"))
    if not counters or not known(user):
        return
    closed = [path for path in counters if not _may_read(path.stat(), user)]
    rule = _first(root, _RULE_DIRS, RULE)
    if not closed:
        yield Check("rapl", "ok", f"{user} may read {len(counters)} counters of RAPL")
    elif rule is None:
        says = f"{user} may not read {closed[0]}, and there is no {RULE}"
        yield Check("rapl", "mend", says, "install the package (docs/install.md)")
    else:
        says = f"{user} may not read {closed[0]}: {rule} has not been applied"
        mend = (
            "udevadm control --reload && udevadm trigger --subsystem-match=powercap --action=change"
        )
        yield Check("rapl", "mend", says, mend)


def _may_read(about: os.stat_result, user: str) -> bool:
    entry = pwd.getpwnam(user)
    groups = {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)}
    if about.st_uid == entry.pw_uid:
        return bool(about.st_mode & stat.S_IRUSR)
    return bool(about.st_mode & (stat.S_IRGRP if about.st_gid in groups else stat.S_IROTH))


# --- Slurm's hooks -------------------------------------------------------------------------------


def _hooks(config: Config, root: Path) -> Iterator[Check]:
    conf = _slurm_conf(config, root)
    if conf is None:
        yield Check("hooks", "unknown", "no slurm.conf found", "name it with --slurm.conf")
        return
    settings = slurmconf.settings(conf)
    checks = [
        _hook(conf, key, event, settings.get(key))
        for key, event in (("Prolog", "prolog"), ("Epilog", "epilog"))
    ]
    flags = {flag for line in settings.get("PrologFlags") for flag in line.lower().split(",")}
    if not flags & _ALLOC:
        says = f"{conf} has no PrologFlags=Alloc: the Prolog runs at a job's first step only"
        checks.append(Check("hooks", "mend", says, "PrologFlags=Alloc, then scontrol reconfigure"))
    for check in checks:  # what seems to be missing may be in what was not understood
        unsure = check.state == "mend" and settings.odd
        yield (
            replace(check, state="unknown", says=f"{check.says}; but {settings.odd[0]}")
            if unsure
            else check
        )


def _slurm_conf(config: Config, root: Path) -> Path | None:
    named = [config.slurm_conf, os.environ.get("SLURM_CONF")]
    paths = [Path(path) for path in named if path] + [root / path for path in _SLURM_CONF]
    return next((path for path in paths if path.is_file()), None)


def _hook(conf: Path, key: str, event: str, values: list[str]) -> Check:
    scripts = [script for value in values for script in _scripts(conf, value)]
    if not scripts:
        mend = f"name a script with `jobwatt hook {event}` there (docs/install.md)"
        return Check("hooks", "mend", f"{conf} names no {key}", mend)
    closed = []
    for script in scripts:
        try:
            with script.open("rb") as file:
                text = _COMMENT.sub(b"", file.read(_SCRIPT_BYTES))
        except OSError:
            closed.append(script)
            continue
        if b"jobwatt" in text and re.search(rf"\bhook\s+[\"']?{event}\b".encode(), text):
            return Check("hooks", "ok", f"{script} calls jobwatt hook {event}")
    if closed:
        says = f"{closed[0]}, which {conf} names, cannot be read: whether it calls jobwatt is not known"
        return Check("hooks", "unknown", says, "run doctor as root to see")
    says = f"{scripts[0]}, which {conf} names, has no `jobwatt hook {event}` (what it calls was not looked into)"
    return Check("hooks", "mend", says, f"add: [ -x /usr/bin/jobwatt ] && /usr/bin/jobwatt hook {event}")  # fmt: skip


def _scripts(conf: Path, value: str) -> list[Path]:
    """The scripts that a Prolog= names: a path, or a pattern of them; relative to slurm.conf's directory."""
    path = conf.parent / value.strip("\"'")
    if not any(sign in path.name for sign in "*?["):
        return [path]
    return sorted(path.parent.glob(path.name))[:_SCRIPTS]


# --- who asks, and the time ------------------------------------------------------------------------


def _scraped(address: str) -> Iterator[Check]:
    host, port = parse_address(address)
    if not port:
        return
    said = probes.health(host or "127.0.0.1", port)
    mend = (
        f"a scrape job with HOST:{port} in prometheus.yml; look at Prometheus' page Status, Targets"
    )
    if scrape := _SCRAPE.search(said):
        says = f"{said} (by whomever: any GET of /metrics counts)"
        late = int(scrape[1]) > _SCRAPE_S
        yield Check("prometheus", "mend", says, mend) if late else Check("prometheus", "ok", says)
        return
    if peers := probes.peers(port):
        says = f"{', '.join(peers[:3])} keeps a connection to port {port}, as Prometheus does between scrapes"
        yield Check("prometheus", "ok", says)
        return
    says = said or f"nobody has a connection to port {port} now"
    yield Check("prometheus", "mend" if said else "unknown", says, mend)


def _clock() -> Iterator[Check]:
    if probes.clock_error_us() < _UNSYNCHRONISED_US:
        yield Check("clock", "ok", "the kernel's clock is synchronised")
    else:
        mend = "systemctl enable --now chrony (or systemd-timesyncd)"
        yield Check("clock", "mend", "nothing synchronises the kernel's clock", mend)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
