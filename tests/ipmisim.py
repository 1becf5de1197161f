"""
A BMC that measures power, simulated: OpenIPMI's ipmi_sim on loopback, with DCMI added (ipmisim.c).

    with SimulatedBmc(tmp_path / "bmc") as bmc:
        bmc.answer(watts=344)
        bmc.tools(tmp_path / "bin", monkeypatch)     # the real tools, in PATH

What is real here is the tools, what they print, and IPMI 2.0 between them and the simulator.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ACTIVE, NOT_ACTIVE = 0x40, 0
USER, PASSWORD = (
    "meter",
    's3#c\\r"e',
)  # an account that may do no more than USER; a difficult password
_SOURCE = Path(__file__).with_name("ipmisim.c")
_NEEDED = ("ipmi_sim", "ipmitool", "ipmi-dcmi", "ipmiutil", "gcc")
# Get Channel Authentication Capabilities (IPMI 2.0, 22.13): what a session begins with.
_KNOCK = bytes.fromhex("0600ff07" + "00" * 9 + "092018c88100388e04b5")

_LAN_CONF = """name "bmc"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback md5
    allowed_auths_user md5
    allowed_auths_operator md5
    allowed_auths_admin md5
    guid a123456789abcdefa123456789abcdef
  endlan
  user 2 true "{user}" "{password}" user 10 md5
  loadlib "{module}" "{answers}"
"""
_COMMANDS = """mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
mc_enable 0x20
"""


class SimulatedBmc:
    """One simulated BMC, and the tools that reach it."""

    def __init__(self, directory: Path) -> None:
        missing = [tool for tool in _NEEDED if shutil.which(tool) is None]
        if missing or not Path("/usr/include/OpenIPMI/mcserv.h").exists():
            pytest.skip(f"needs {', '.join(missing) or 'libopenipmi-dev'}")
        directory.mkdir(parents=True)
        self._directory = directory
        self._module = directory / "dcmi.so"
        flags = ["-shared", "-fPIC", "-Wall", "-Werror"]
        subprocess.run(["gcc", *flags, _SOURCE, "-o", self._module, "-ldl"], check=True)
        self.answer()
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def answer(
        self, watts: int = 344, state: int = ACTIVE, code: int = 0, delay_s: int = 0
    ) -> None:
        """What it says from now on."""
        new = self._directory / "answers.new"
        new.write_text(f"{watts} {state} {code} {delay_s}\n")
        new.rename(self._directory / "answers")

    def hang(self) -> None:
        """It answers nothing any more, not even that it is there."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """It goes on."""
        self._process.send_signal(signal.SIGCONT)

    def lan_tools(self, directory: Path) -> Path:
        """
        A directory with ipmitool and ipmi-dcmi that only get round two of the simulator's faults: it
        does not tell its cipher suites, and answers 0 for the privilege when it is asked for the
        highest (FreeIPMI's workaround for such BMCs).
        """
        _script(directory / "ipmitool", [_which("ipmitool"), "-C", "3"], '"$@"')
        _script(directory / "ipmi-dcmi", [_which("ipmi-dcmi"), "-W", "opensesspriv"], '"$@"')
        return directory

    def inband_tools(self, directory: Path) -> Path:
        """
        A directory with all three tools as if this machine's own BMC were the simulated one: whatever
        they are asked, the real ones are run over the network.
        """
        lan = self.lan_tools(directory / "lan")
        config = directory / "freeipmi.conf"
        config.write_text(f'username "{USER}"\npassword "s3\\#c\\\\r\\"e"\n')
        where, port = "127.0.0.1", str(self.port)
        tool = [str(lan / "ipmitool"), "-I", "lanplus", "-L", "USER", "-H", where, "-p", port]
        _script(directory / "ipmitool", [*tool, "-U", USER, "-E", "dcmi", "power", "reading"])
        dcmi = [str(lan / "ipmi-dcmi"), "-D", "LAN_2_0", "-h", f"{where}:{port}", "-l", "USER"]
        dcmi += [f"--config-file={config}", "--get-system-power-statistics"]
        _script(directory / "ipmi-dcmi", dcmi)
        util = [_which("ipmiutil"), "dcmi", "-p", port, "-F", "lan", "-N", where, "-U", USER, "-E"]
        _script(directory / "ipmiutil", [*util, "-V", "2", "power"])
        return directory

    def _start(self) -> None:
        for _ in range(5):  # the port may be taken between the look and the simulator's own bind
            self.port = _free_port()
            (self._directory / "state").mkdir(exist_ok=True)
            (self._directory / "lan.conf").write_text(
                _LAN_CONF.format(
                    port=self.port,
                    user=USER,
                    password=PASSWORD,
                    module=self._module,
                    answers=self._directory / "answers",
                )
            )
            (self._directory / "bmc.emu").write_text(_COMMANDS)
            with (self._directory / "log").open("w") as log:
                self._process = subprocess.Popen(
                    ["ipmi_sim", "-n", "-c", "lan.conf", "-f", "bmc.emu", "-s", "state"],
                    cwd=self._directory,
                    env=os.environ | {"LD_PRELOAD": str(self._module)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            if self._answers():
                return
            self._process.kill()
            self._process.wait()
        raise RuntimeError((self._directory / "log").read_text())

    def _answers(self) -> bool:
        deadline = time.monotonic() + 60
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as knocking:
            knocking.settimeout(0.2)
            knocking.connect(("127.0.0.1", self.port))
            while time.monotonic() < deadline and self._process.poll() is None:
                with contextlib.suppress(OSError):
                    knocking.send(_KNOCK)
                    return bool(knocking.recv(512))
                time.sleep(0.05)
        return False


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _which(tool: str) -> str:
    found = shutil.which(tool)
    assert found is not None
    return found


def _script(path: Path, argv: Sequence[str], more: str = "") -> None:
    """A program that becomes another; the password is in its environment, as ipmiutil wants it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    quoted = " ".join(f"'{word}'" for word in argv)
    path.write_text(f"#!/bin/sh\nexport IPMI_PASSWORD='{PASSWORD}'\nexec {quoted} {more}\n")
    path.chmod(0o755)
