"""What IPMI's tools print, tools that are scripts, and the BMC of a machine that has them."""

from __future__ import annotations

from pathlib import Path

from jobwatt.model import NS_PER_S, SourceResult
from jobwatt.sources import ipmi

DATA = Path(__file__).with_name("data") / "ipmi"


def printed(tool: str, what: str) -> str:
    return (DATA / f"{tool}-{what}.txt").read_text()


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def inband(path: Path, tool: str = "auto", timeout_s: float = 60.0, **more: object) -> ipmi.Inband:
    """The BMC of a machine whose tools are those in ``path``."""
    settings = {"every_ns": 10 * NS_PER_S, "device": Path("/dev/null"), "path": str(path)} | more
    return ipmi.Inband(tool, timeout_s=timeout_s, **settings)


def reason(result: SourceResult) -> str:
    (failure,) = result.failures
    assert (result.readings, result.samples, failure.source) == ((), (), "bmc")
    assert "\n" not in failure.message
    assert "; mend: " in failure.message
    return failure.reason
