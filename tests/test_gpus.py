"""Which GPUs a job holds, for every numbering that meets on a node."""

from __future__ import annotations

import pytest

from jobwatt.model import GpuState
from jobwatt.slurm.gpus import gpu_holdings, gres_indexes, has_uuids, layout_indexes

# NVML's order and the minors differ, as on boards where the driver numbers in its own order
WHOLE = [
    GpuState(f"GPU-{letter}0000000-1111", index=index, minor=minor)
    for index, (letter, minor) in enumerate(zip("abcd", (2, 3, 0, 1), strict=True))
]
MIG = [
    GpuState("GPU-a", index=0, minor=0, mig_enabled=True, slices=7),
    GpuState("GPU-b", index=1, minor=1),
    GpuState("MIG-a4", index=0, minor=0, parent="GPU-a", slices=4, mig_device=0),
    GpuState("MIG-a2", index=0, minor=0, parent="GPU-a", slices=2, mig_device=1),
]


def held(spec: str, inventory: list[GpuState], numbering: str = "minor") -> list[str]:
    return [uuid[:5] for uuid in gpu_holdings(spec, inventory, numbering=numbering).slices]


@pytest.mark.parametrize(
    ("spec", "numbering", "expected"),
    [
        ("0,2-3", "minor", ["GPU-c", "GPU-a", "GPU-b"]),
        ("0,2-3", "nvml", ["GPU-a", "GPU-c", "GPU-d"]),
        ("1", "list", ["GPU-d"]),
        ("", "minor", []),
        ("N/A", "minor", []),
        ("NoDevFiles", "minor", []),
        ("GPU-c0000000-1111", "minor", ["GPU-c"]),
        ("GPU-b0", "minor", ["GPU-b"]),
    ],
)
def test_whole_gpus(spec: str, numbering: str, expected: list[str]) -> None:
    """The same index is another GPU in another numbering; a UUID is itself in all of them."""
    assert held(spec, WHOLE, numbering) == expected


def test_list_closes_the_holes_that_minors_have() -> None:
    """With minors 1, 3 and 4 position 2 of the list is minor 4, and minor 2 is nobody."""
    gpus = [GpuState(f"GPU-{minor}", index=9 - minor, minor=minor) for minor in (4, 1, 3)]
    assert held("2", gpus, "list") == ["GPU-4"]
    assert gpu_holdings("2", gpus).unknown == ("2",)


def test_unknown_does_not_hide_its_neighbours() -> None:
    """Of a range that leaves the node, what is there is held and the rest is reported."""
    holdings = gpu_holdings("3-5,GPU-x,GPU-,x;y", WHOLE)
    assert list(holdings.slices) == ["GPU-b0000000-1111"]
    assert holdings.unknown == ("4", "5", "GPU-x", "GPU-", "x;y")


def test_absurd_range_is_unknown_not_enumerated() -> None:
    """A list of indexes nobody has costs no memory."""
    assert gpu_holdings("0-4000000000", WHOLE).unknown == ("0-4000000000",)
    assert len(gpu_holdings("0-4095," * 18_000, WHOLE).unknown) <= 4096
    assert len(gpu_holdings("x," * 100_000 + "y", WHOLE).unknown) == 1
    assert gpu_holdings("9" * 5000 + ":1", MIG).slices == {}
    assert gpu_holdings("0:" + "9" * 5000, MIG).slices == {}


def test_unknown_is_fit_to_be_shown() -> None:
    """What names no GPU may have been written by a user."""
    assert gpu_holdings("a\nb\udcff\x1b", WHOLE).unknown == ("a b\ufffd ",)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0", {"MIG-a4": 4}),
        ("1-2", {"MIG-a2": 2, "GPU-b": 1}),
        ("MIG-a2", {"MIG-a2": 2}),
        ("0:1", {"MIG-a2": 2}),
        ("GPU-a", {"MIG-a4": 4, "MIG-a2": 2}),
    ],
)
def test_mig(spec: str, expected: dict[str, int]) -> None:
    """Slurm's index runs over the instances in place of their GPU; slices are the instance's."""
    assert gpu_holdings(spec, MIG).slices == expected


def test_mig_beyond_the_list() -> None:
    """A partitioned GPU takes no place of its own: three devices, index 3 is none."""
    assert gpu_holdings("3", MIG).unknown == ("3",)


def test_without_minors_the_nvml_index_counts() -> None:
    """Where no GPU tells its minor the index is all there is."""
    assert held("1", [GpuState("GPU-x", index=0), GpuState("GPU-y", index=1)]) == ["GPU-y"]


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:a100:2(IDX:0-1)", "0-1"),
        ("gpu:a100:2(IDX:0-1),gpu:v100:1(IDX:4)", "0-1,4"),
        ("shard:2(IDX:1)", "1"),
        ("mps:50(IDX:3)", "3"),
        ("gres/shard:2", ""),
        ("nic:2(IDX:0-1)", ""),
        ("", ""),
        ("(null)", ""),
    ],
)
def test_gres_of_scontrol(gres: str, expected: str) -> None:
    """The indexes of GPUs and of their shares, and of nothing else."""
    assert gres_indexes(gres) == expected


def test_layout_of_pyslurm() -> None:
    """The same from pyslurm's dictionary; another gres has no GPU index."""
    layout = {"gpu:a100": {"count": "2", "indexes": "0,3"}, "nic": {"count": 1, "indexes": "1"}}
    assert layout_indexes(layout) == "0,3"
    assert layout_indexes({}) == ""


def test_only_uuids_survive_renumbering() -> None:
    """An index in CUDA_VISIBLE_DEVICES means nothing outside the job."""
    assert has_uuids("GPU-1,MIG-2")
    assert not has_uuids("GPU-1,0")
    assert not has_uuids("")


def test_numbering_is_one_of_three() -> None:
    """A numbering that does not exist is refused, not guessed."""
    with pytest.raises(ValueError, match="cuda"):
        gpu_holdings("0", WHOLE, numbering="cuda")
