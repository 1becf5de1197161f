"""The source nvml and its driver: reloaded, away, upgraded, let go of; and a real one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import nvmlkit
import nvmlshim
from nvmlkit import Rig, of, samples
from nvmlshim import Script

if TYPE_CHECKING:
    from pathlib import Path

script, rig = nvmlkit.script, nvmlkit.rig  # fixtures


def test_the_driver_is_reloaded(rig: Rig) -> None:
    """No driver: one failure, GPUs down. It returns: all GPUs read, each in a new epoch."""
    before = rig.read()
    rig.script.unload()
    result = rig.read()
    assert result.readings == ()
    assert [f.reason for f in result.failures] == ["driver_not_loaded"]
    assert set(samples(result, "gpu_up").values()) == {0}
    assert len(result.gpus) == 8
    for gpu in rig.script.gpus.values():
        gpu.energy_mj = 9_000_000  # higher than before: only the epoch tells
    rig.script.write()
    after = rig.read(after=60)
    assert after.failures == ()
    for gpu in rig.script.gpus.values():
        old, new = of(before, gpu.uuid), of(after, gpu.uuid)
        assert old is not None
        assert new is not None
        assert new.epoch > old.epoch


def test_a_driver_that_stays_away_is_tried_at_growing_intervals(rig: Rig) -> None:
    """Nine tries in five minutes, not three hundred."""
    rig.read()
    rig.script.unload()
    rig.library.reset()
    for _ in range(300):
        assert [f.reason for f in rig.read().failures] == ["driver_not_loaded"]
    assert 5 <= rig.library.calls("nvmlInitWithFlags") <= 11


def test_gpus_are_known_by_uuid_when_their_index_changes(rig: Rig) -> None:
    """After a reload a GPU is the same device under another index; one that is gone is down."""
    rig.read()
    gone, moved = rig.script.gpus.pop(0), rig.script.gpus[7]
    rig.script.gpus = dict(enumerate(rig.script.gpus.values()))
    rig.script.unload()
    rig.read()
    rig.script.write()
    result = rig.read(after=60)
    found = of(result, moved.uuid)
    assert found is not None
    assert found.device.name == "6"
    assert [(f.reason, f.device) for f in result.failures] == [("gpu_is_lost", gone.uuid)]
    assert samples(result, "gpu_up")["0", gone.uuid] == 0


def test_released_gpus_are_let_go_of(rig: Rig) -> None:
    """Released: nobody holds the driver and nothing is called. Resumed: all is read again."""
    before = of(rig.read(), rig.uuid(0))
    rig.source.release()
    assert rig.library.references == 0
    rig.library.reset()
    for full in (True, False):
        result = rig.read(full=full)
        assert [f.reason for f in result.failures] == ["released"]
        assert result.readings == ()
        assert samples(result, "gpu_up") == {}
    assert rig.library.counts() == {}
    rig.source.resume()
    after = of(rig.read(), rig.uuid(0))
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch


def test_a_node_without_gpus_says_so(rig: Rig) -> None:
    """A driver with no GPU is one failure that names the mend."""
    rig.script.gpus.clear()
    rig.script.write()
    (failure,) = rig.read().failures
    assert failure.reason == "no_gpu"
    assert "nvidia-smi -L" in failure.message


def run(code: str, library_dir: Path, script: Path, *argv: str) -> str:
    """Run a program that uses whatever libnvidia-ml.so.1 is in ``library_dir``."""
    environment = nvmlshim.env(script) | {
        "LD_LIBRARY_PATH": str(library_dir),
        "PYTHONPATH": ":".join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("loaded", "says"), [(True, "user libraries"), (False, "no NVIDIA driver")]
)
def test_a_missing_library_is_told_from_a_missing_driver(
    tmp_path: Path, loaded: bool, says: str
) -> None:
    """The message names the mend: the user libraries where the module is loaded."""
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    if loaded:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 570.86.15\n")
    code = """
import sys
from pathlib import Path
from jobwatt.sources.nvml import open_source
source = open_source(procfs=Path(sys.argv[1]))
for full in (True, False):
    (failure,) = source.read(full=full).failures
    print(failure.reason, failure.message)
source.close()
"""
    lines = run(code, tmp_path, tmp_path / "none", str(tmp_path / "proc")).splitlines()
    assert len(set(lines)) == 1
    assert lines[0].startswith("no_library ")
    assert says in lines[0]


def test_an_upgraded_driver_gets_its_own_library(tmp_path: Path) -> None:
    """
    The module is upgraded under the running process: the old library refuses it, and after the
    back-off the new file is loaded in its place.
    """
    library = tmp_path / "libnvidia-ml.so.1"
    library.symlink_to(nvmlshim.build(1) / library.name)
    script = tmp_path / "script"
    code = """
import sys
from pathlib import Path
import nvmlshim
from jobwatt.sources.nvml import NvmlSource
path, library = Path(sys.argv[1]), Path(sys.argv[2])
now = [10**12]
source = NvmlSource(clock=lambda: now[0])
script = nvmlshim.Script.of(path, 2)
print(len(source.read(full=True).readings))
script.rm_version = 2
script.fail("*", nvmlshim.LIB_RM_VERSION_MISMATCH)
print(*(f.reason for f in source.read(full=True).failures))
script.mend()
now[0] += 10**11
print(*(f.reason for f in source.read(full=True).failures))
library.unlink()
library.symlink_to(nvmlshim.build(2) / library.name)
now[0] += 10**11
print(len(source.read(full=True).readings))
source.close()
"""
    nvmlshim.build(2)
    printed = run(code, tmp_path, script, str(script), str(library)).splitlines()
    assert printed == ["4", "lib_rm_version_mismatch", "lib_rm_version_mismatch", "4"]


def test_a_process_of_its_own_sees_the_script_through_its_environment(tmp_path: Path) -> None:
    """env() is all another process needs, and its calls are counted in a file."""
    script = Script.of(tmp_path / "script", 2)
    counts = tmp_path / "counts"
    code = "from jobwatt.sources.nvml import open_source as o; s = o(); print(len(s.read(full=True).gpus)); s.close()"
    environment = nvmlshim.env(script, counts) | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "2"
    assert "nvmlDeviceGetTotalEnergyConsumption 2" in counts.read_text().splitlines()


@pytest.mark.gpu
@pytest.mark.skipif(
    not os.path.exists("/proc/driver/nvidia/version"), reason="no NVIDIA driver loaded"
)
def test_a_real_gpu_is_read() -> None:
    """On real hardware: no failure, a rising counter, and power that agrees with it within 3 x."""
    code = """
import time
from jobwatt.model import Kind
from jobwatt.sources.nvml import open_source
source = open_source()
results = []
for _ in range(4):
    results.append(source.read(full=True))
    time.sleep(1)
source.close()
print([f.message for r in results for f in r.failures])
of = lambda r, kind: [x for x in r.readings if x.kind is kind][0]
first, last = of(results[0], Kind.ENERGY), of(results[-1], Kind.ENERGY)
mean_uw = (last.value - first.value) * 10**9 / (last.t_ns - first.t_ns)
print(mean_uw / of(results[-1], Kind.POWER).value)
"""
    environment = {k: v for k, v in os.environ.items() if k != "JOBWATT_NVML_SCRIPT"}
    environment["PYTHONPATH"] = ":".join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    failures, ratio = done.stdout.strip().splitlines()
    assert failures == "[]"
    assert 1 / 3 < float(ratio) < 3
