"""
Every parser that reads what a user, a device or another host controls: no crash, no hang, no memory without end.

Replayed here: the seeds, all inputs that were ever found (tests/fuzz/found), and some mutations with a fixed seed.
``make fuzz`` hunts for more (docs/fuzzing.md).
"""

from __future__ import annotations

import logging
import random
import signal
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from fuzz import base
from fuzz.mutate import Mutator
from fuzz.targets import TARGETS
from jobwatt.central.compare import sacct
from jobwatt.slurm import scontrol, text
from jobwatt.sources.nvml_calls import Calls

FOUND = Path(__file__).parent / "fuzz" / "found"
HANG_S = 90.0  # an input takes milliseconds; this machine may be busy
MUTATIONS = 200  # of a target with a whole share of the inputs


@pytest.fixture(autouse=True)
def _own_place(tmp_path):
    base.use_place(tmp_path)
    log = logging.getLogger("jobwatt")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)
    base._place.clear()


@contextmanager
def limited(seconds):
    def late(*_):
        raise TimeoutError(f"no end within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "path", sorted(FOUND.glob("*/*")), ids=lambda p: f"{p.parent.name}-{p.name}"
)
def test_found(path):
    """What once broke a parser does so no more."""
    with limited(HANG_S):
        TARGETS[path.parent.name].feed(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_seeds(target):
    """What each parser is made for, it takes."""
    with limited(HANG_S):
        seeds = target.seeds()
        assert seeds
        for seed in seeds:
            target.feed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda t: t.name)
def test_mutations(target):
    """What is nearly right is taken or refused, and never more than that; the same inputs each time."""
    seeds = target.seeds()
    mutator = Mutator(seeds, tree=target.json)
    rng = random.Random(zlib.crc32(target.name.encode()))
    with limited(HANG_S):
        for _ in range(int(MUTATIONS * min(target.share, 1.0))):
            data = mutator(rng.choice(seeds), rng, target.max_len)
            try:
                target.feed(data)
            except Exception as err:
                raise AssertionError(f"{target.name}: {data!r:.2000}") from err


def test_found_names():
    """Each input that is kept belongs to a target that there is."""
    assert {path.parent.name for path in FOUND.glob("*/*")} <= TARGETS.keys()


# --- what takes too large an input to keep, or none that is bytes ---------------------------------


def peak(do):
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_accounting_of_a_cluster_is_read_row_by_row():
    """Of sacct's output one job is wanted: the rows of the others are not kept."""
    rows = "JobID|Elapsed|AllocCPUS\n" + "1|01:00:00|1\n" * 50_000
    assert peak(lambda: sacct.parse(rows, "1")) < 8 * len(rows)


@pytest.mark.parametrize(
    "nodes",
    [
        "a" * 4060 + "[0-65534]",
        "\u0102" * 240 + "[0-65534]",
        ",".join(f"{n}" + "b" * 240 + "[0-9999]" for n in range(6)),
    ],
)
def test_names_of_a_node_list_are_bounded(nodes):
    """However long a node list makes its names, and a job's environment may say any: 65536 names are some megabytes."""

    def expand():
        with pytest.raises(ValueError, match="too long"):
            text.expand_nodes(nodes)

    assert peak(expand) < 48 << 20


def test_nodes_of_a_record_are_bounded():
    """A record that names more nodes than there can be is not written out."""
    groups = "".join(f"  Nodes=a{n}[0-65534] CPU_IDs=0 Mem=1 GRES=" for n in range(500))
    assert len(scontrol._nodes(groups)) < 200_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e300])
def test_field_of_the_driver_that_is_no_number(value):
    """A field that the driver gives as a double that is none is missing: the other fields are there."""
    item = SimpleNamespace(nvmlReturn=0, valueType=0, value=SimpleNamespace(dVal=value))
    good = SimpleNamespace(nvmlReturn=0, valueType=1, value=SimpleNamespace(uiVal=7))
    api = SimpleNamespace(NVMLError=OSError, nvmlDeviceGetFieldValues=lambda *_: [item, good])
    assert Calls(api, "GPU-0", "GPU 0").fields(None, [185, 74]) == {74: 7}
