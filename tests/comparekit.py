"""Files of other meters as they were recorded, and `jobwatt compare` as a command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from daemon import command, environment

DATA = Path(__file__).parent / "data/interop"


def compare(*flags, code=0):
    done = subprocess.run(
        command("compare", *flags),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done
