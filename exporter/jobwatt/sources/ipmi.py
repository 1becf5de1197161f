"""
The node's power from its BMC through IPMI (DCMI's Get Power Reading), by way of a tool.

In-band through the kernel's driver and nothing else: left to themselves, FreeIPMI and ipmiutil fall
back to talking to the hardware's ports behind the kernel's back. The figure is the instantaneous
reading; how old it is and over what it is smoothed is the BMC's own business. Whether it includes
the GPUs depends on the machine (bmc.includes-gpu).

Over the network (``lan_reading``) for whoever asks other nodes' BMCs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobwatt.model import Device, Domain, Failure, Kind, Reading, Sample, SourceResult

from .ipmi_child import Runner
from .ipmi_grammars import complaint, last_words, parse_power

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .ipmi_child import Outcome

NAME = "bmc"
_UW_PER_W = 1_000_000
_DEVICE = Path("/dev/ipmi0")
# `auto` takes the first of these that is there.
TOOLS = ("ipmi-dcmi", "ipmitool", "ipmiutil")
_IN_BAND = {
    "ipmi-dcmi": ("--driver-type=OPENIPMI", "--get-system-power-statistics"),
    "ipmitool": ("-I", "open", "dcmi", "power", "reading"),
    "ipmiutil": ("dcmi", "-F", "open", "power"),
}
# Tools of administrators are often in directories that a daemon's PATH does not name.
_MORE_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
# The tools' words are the programs' own only in the C locale.
_ENV = {"LC_ALL": "C", "PATH": _MORE_PATH}

_MENDING = {
    "no_tool": "install freeipmi-tools (ipmi-dcmi), ipmitool or ipmiutil",
    "no_device": "modprobe -a ipmi_devintf ipmi_si (a virtual machine has no BMC)",
    "permission": 'let the daemon use it (udev: KERNEL=="ipmi*", GROUP="jobwatt", MODE="0660";'
    " under the package's unit its example ipmi.conf as well)",
    # OpenBMC gave good figures and "deactivated" (openbmc/phosphor-host-ipmid#167); it was mended since.
    "not_active": "switch power monitoring on in the BMC's settings; OpenBMC of before September 2023 says"
    " this always: renew it, or ask it through Redfish",
    "timeout": "the BMC is slow or hangs: `ipmitool mc reset cold` restarts it, the node runs on",
    "busy": "it is asked again; others may be asking the BMC too",
    "not_supported": "this BMC has no DCMI power reading: try bmc.redfish, or --no-source.bmc",
    "implausible": "see what the tool prints when run by hand; new firmware often mends a BMC",
    "garbage": "see what the tool prints when run by hand; its words may be another version's",
    "failed": "run the tool by hand",
}
_MENDING_LAN = _MENDING | {
    "no_tool": "install freeipmi-tools (ipmi-dcmi) or ipmitool",
    "permission": "let the account have USER over LAN; where the BMC wants more for power, ask by Redfish",
    "timeout": "see that it answers: `ipmitool -I lanplus -H HOST -U USER mc info`",
    "not_supported": "this BMC has no DCMI power reading: ask it through Redfish",
    "wrong_credentials": "see user and password in the credentials file",
    "no_session": "see that IPMI over LAN is enabled on the BMC, its address, user and password",
    "address": "give a name or an IPv4 address, and user and password as IPMI knows them (16 and 20)",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Power in uW, and CLOCK_BOOTTIME in ns when the tool had answered."""

    uw: int
    t_ns: int


class Inband:
    """
    The BMC of the machine this runs on, asked through one tool. ``look`` never raises; it is for one
    thread (polled.py).

    Args:
        tool: one of TOOLS, or ``auto``.
        every_ns: how far apart looks are; given on with each Reading.
        timeout_s: a tool that takes longer is killed with all it started.
        device: the kernel driver's device; without it no tool is started.
        path: directories that are searched for the tool, as in PATH (default: PATH and sbin).
    """

    def __init__(
        self,
        tool: str,
        *,
        every_ns: int,
        timeout_s: float,
        includes_gpu: bool = True,
        device: Path = _DEVICE,
        path: str = "",
    ) -> None:
        self._tool, self._every_ns, self._timeout_s = tool, every_ns, timeout_s
        self._device, self._path = device, path or _search_path()
        self._runner = Runner(timeout_s)
        self._meter = Device(
            Domain.NODE, id=NAME, source=NAME, name="dcmi", includes_gpu=includes_gpu
        )

    def look(self) -> SourceResult:
        """Ask once: one Reading (uW), or one Failure whose reason is a key of ``_MENDING``."""
        answer = self._ask()
        if isinstance(answer, Failure):
            return SourceResult(failures=(answer,))
        reading = Reading(self._meter, Kind.POWER, answer.uw, answer.t_ns, every_ns=self._every_ns)
        watts = Sample("jobwatt_wall_power_watts", (NAME, "dcmi"), answer.uw / _UW_PER_W)
        return SourceResult(readings=(reading,), samples=(watts,))

    def stop(self) -> None:
        """End a look in progress; from any thread. A later look gives a failure."""
        self._runner.stop()

    def _ask(self) -> Answer | Failure:
        found = _find(self._tool, self._path)
        if found is None:
            wanted = ", ".join(TOOLS) if self._tool == "auto" else self._tool
            return _failure("no_tool", f"none of {wanted} is in {self._path}")
        if not os.access(self._device, os.F_OK, effective_ids=True):
            return _failure("no_device", f"{self._device} does not exist")
        if not os.access(self._device, os.R_OK | os.W_OK, effective_ids=True):
            return _failure("permission", f"{self._device} cannot be opened by uid {os.geteuid()}")
        tool, program = found
        outcome = self._runner.run((program, *_IN_BAND[tool]), _ENV)
        return _judged(tool, outcome, self._timeout_s)


def lan_reading(
    host: str,
    user: str,
    password: str,
    tool: str,
    timeout_s: float,
    *,
    port: int = 623,
    privilege: str = "USER",
    runner: Runner | None = None,
) -> Answer | Failure:
    """
    Ask another machine's BMC for its power over IPMI 2.0 (RMCP+); never raises.

    Blocks for ``timeout_s`` and a second at most: for a background thread. The password is given to
    the tool in a file that has no name (memfd_create(2), read as /proc/self/fd/N): it is never in an
    argument, in the environment (children inherit it, crash reports hold it) or on a disk, and is
    gone with the child.

    Args:
        host: name or IPv4 address; nothing that a tool could take for an option or a list.
        user, password: at most 16 and 20 printable ASCII characters, IPMI's limits.
        tool: ``ipmitool``, ``ipmi-dcmi``, or ``auto`` for the first of ipmi-dcmi, ipmitool that is
            there (ipmiutil takes a password from the environment only).
        timeout_s: the tool is killed after this.
        privilege: what is asked for: ``USER`` (enough for power on OpenBMC, dcmihandler.cpp),
            ``OPERATOR`` or ``ADMIN``.
        runner: runs the tool, for ``timeout_s``; who may have to end it keeps one for each BMC.

    Returns:
        The power, or a Failure of source ``bmc`` whose message names the host and what mends it.
        Reasons: ``no_tool``, ``address``, ``wrong_credentials``, ``permission``, ``no_session``,
        ``timeout``, ``busy``, ``not_active``, ``implausible``, ``not_supported``, ``garbage``, ``failed``.
    """
    if not _usable(host, user, password):
        return _failure("address", "host, user or password is not fit for IPMI", _MENDING_LAN)
    found = _find(tool, _search_path(), tuple(_LAN))
    if found is None:
        wanted = "ipmi-dcmi, ipmitool" if tool == "auto" else tool
        return _failure("no_tool", f"{host}: {wanted} not found, or not for this", _MENDING_LAN)
    name, program = found
    secret = _quoted(user, password) if name == "ipmi-dcmi" else password + "\n"
    try:
        with _nameless_file(secret) as descriptor:
            session = _Session(host, port, user, f"/proc/self/fd/{descriptor}", privilege)
            argv = (program, *_LAN[name](session))
            outcome = (runner or Runner(timeout_s)).run(argv, _ENV, (descriptor,))
    except OSError as err:
        return _failure("failed", f"{host}: no file for the password: {err.strerror}", _MENDING_LAN)
    return _judged(name, outcome, timeout_s, f"{host}: ", _MENDING_LAN)


@dataclass(frozen=True, slots=True)
class _Session:
    """Where to, as whom; ``file`` holds the password."""

    host: str
    port: int
    user: str
    file: str
    privilege: str


def _ipmi_dcmi_lan(to: _Session) -> Sequence[str]:
    return (
        "--driver-type=LAN_2_0",
        f"--hostname={to.host}:{to.port}",
        f"--config-file={to.file}",  # names the user too
        f"--privilege-level={to.privilege}",
        "--get-system-power-statistics",
    )


def _ipmitool_lan(to: _Session) -> Sequence[str]:
    level = "ADMINISTRATOR" if to.privilege == "ADMIN" else to.privilege
    where = ("-H", to.host, "-p", str(to.port), "-U", to.user, "-f", to.file, "-L", level)
    # only with -v does it tell a wrong password from a BMC that is not there
    return ("-v", "-I", "lanplus", *where, "dcmi", "power", "reading")


_LAN = {"ipmi-dcmi": _ipmi_dcmi_lan, "ipmitool": _ipmitool_lan}


def _usable(host: str, user: str, password: str) -> bool:
    """
    Whether tools will take all three for what they are. To FreeIPMI a host may be a list, and
    ``localhost`` is the machine's own BMC.
    """
    return bool(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", host)
        and host.lower() != "localhost"
        and re.fullmatch(r"[!-,.-~][ -~]{0,15}", user)
        and re.fullmatch(r"[ -~]{1,20}", password)
    )


def _quoted(user: str, password: str) -> str:
    """A FreeIPMI configuration file with both, quoted as its reader wants it (freeipmi.conf(5))."""
    text = ""
    for key, value in (("username", user), ("password", password)):
        text += f'{key} "' + re.sub(r'(["\\#])', r"\\\1", value) + '"\n'
    return text


@contextlib.contextmanager
def _nameless_file(text: str) -> Iterator[int]:
    """A descriptor of a file in memory that has no name."""
    descriptor = os.memfd_create("ipmi")
    try:
        os.write(descriptor, text.encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _search_path() -> str:
    return f"{os.environ.get('PATH', '')}:{_MORE_PATH}"


def _find(tool: str, path: str, among: Sequence[str] = TOOLS) -> tuple[str, str] | None:
    """The tool's name and program."""
    for name in among:
        if tool in ("auto", name) and (program := shutil.which(name, path=path)):
            return name, program
    return None


def _judged(
    tool: str,
    outcome: Outcome,
    timeout_s: float,
    where: str = "",
    mending: Mapping[str, str] = _MENDING,
) -> Answer | Failure:
    """What came of it. A figure counts whatever the status: ipmiutil fails at what comes after it."""
    t_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    if outcome.trouble:
        reason, what = _TROUBLES[outcome.trouble]
        what = what.format(tool=tool, limit=timeout_s, why=last_words(outcome.err))
        return _failure(reason, where + what, mending)
    found = parse_power(tool, outcome.out)
    if isinstance(found, int):
        return Answer(found * _UW_PER_W, t_ns)
    if outcome.status and found.reason == "garbage":
        found = complaint(tool, outcome.status, outcome.out + "\n" + outcome.err)
    return _failure(found.reason, where + found.what, mending)


_TROUBLES: Mapping[str, tuple[str, str]] = {
    "no_start": ("no_tool", "cannot be started: {why}"),
    "timeout": ("timeout", "{tool} has not answered within {limit:g} s and was ended"),
    "too_much": ("garbage", "{tool} printed without end and was ended"),
    "stopped": ("failed", "{tool} was ended, for the daemon ends"),
    "stuck": ("timeout", "{tool} waits for the BMC in the kernel and cannot be ended"),
}


def _failure(reason: str, what: str, mending: Mapping[str, str] = _MENDING) -> Failure:
    mend = mending.get(reason, mending["failed"])
    return Failure(NAME, reason, f"BMC through IPMI: {what}; mend: {mend}")
