"""
Which GPUs a job holds, by UUID, from whatever numbering Slurm's words are in. Pure.

Six numberings of one GPU meet on a node:

1. Slurm's index (``SLURM_JOB_GPUS``, ``SLURM_STEP_GPUS``, ``GRES=...(IDX:0-1)``, pyslurm's
   ``indexes``): the position of the device in gres.conf's list (gres_device->index in Slurm's
   gres_common.c). Where gres.conf lists /dev/nvidia0, 1, ... in order that is
2. the device minor, N of /dev/nvidiaN; it need not be
3. NVML's index, in PCI bus order.
4. CUDA's ordinal counts only what the process may see: with ConstrainDevices a job's third GPU
   is its ordinal 0. No index in a task's ``CUDA_VISIBLE_DEVICES`` is therefore ever used.
5. MIG: with AutoDetect=nvml Slurm's list has the instances in place of the partitioned GPU, so
   one index counts whole GPUs and instances together (the *flat* list).
6. UUIDs (``GPU-...``, ``MIG-...``, abbreviated as CUDA allows), which Slurm writes into
   ``CUDA_VISIBLE_DEVICES`` for MIG, from 25.11 on for whole GPUs too in the Prolog, and from
   26.05 on in tasks where gres.conf has ``Flags=env_uuid``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobwatt.slurm.text import clean, indexes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jobwatt.model import GpuState

NUMBERINGS = ("minor", "nvml", "list")
_GRES_INDEXES = re.compile(r"(?:gres[/:])?(?:gpu|shard|mps)\b[^(),]*\((?:[^()]*,)?IDX:([0-9,-]+)\)")
_NONE = ("", "N/A", "(null)", "none", "NoDevFiles")
MAX_DEVICES = 4096  # named in one text, repetitions included: far beyond a node's


@dataclass(frozen=True, slots=True)
class Holdings:
    """
    What a job holds.

    Attributes:
        slices: UUID -> compute slices (all of a whole GPU's; a shard's GPU counts whole here, the
            split between its holders is the attribution's).
        unknown: what names no GPU of this node, as it was written, fit to be shown.
    """

    slices: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def gpu_holdings(spec: str, inventory: Sequence[GpuState], *, numbering: str = "minor") -> Holdings:
    """
    The GPUs that ``spec`` names: ``0,2-3``, UUIDs, ``PARENT:INSTANCE``, a mixture of them.

    ``numbering`` says what an index counts: ``minor``, ``nvml`` (NVML's index) or ``list``
    (position in the list of all devices by minor, where minors have holes). As soon as a GPU is
    partitioned every index is a position in the flat list, by minor or by NVML's index. A
    partitioned GPU named by its own UUID is held through all of its instances.
    """
    slices: dict[str, int] = {}
    unknown: list[str] = []
    numbered = _numbered(inventory, numbering)
    for part in _parts(spec):
        named = _named(part, inventory, numbered)
        if not named:
            unknown.append(clean(part, 80))
        slices.update((gpu.uuid, gpu.slices) for gpu in named)
    return Holdings(slices, tuple(unknown))


def has_uuids(spec: str) -> bool:
    """Whether every part of ``CUDA_VISIBLE_DEVICES`` is a UUID: then it is not renumbered."""
    parts = [part.strip() for part in spec.split(",")]
    return all(part.startswith(("GPU-", "MIG-")) for part in parts)


def gres_indexes(gres: str) -> str:
    """
    Slurm's GPU indexes in ``gpu:a100:2(IDX:0-1),shard:2(IDX:4)``: ``0-1,4``; "" where none is.

    Shards and MPS percentages are shares of the GPU whose index stands there.
    """
    return ",".join(match[1].strip(",") for match in _GRES_INDEXES.finditer(gres))


def layout_indexes(gres: Mapping[str, object]) -> str:
    """The same from pyslurm's ``{'gpu:a100': {'count': 2, 'indexes': '0-1'}}``."""
    found = []
    for name, value in gres.items():
        if name.split(":")[0] in ("gpu", "shard", "mps") and isinstance(value, dict):
            found.append(str(value.get("indexes") or ""))
    return ",".join(part for part in found if part not in _NONE)


def _parts(spec: str) -> list[str]:
    """
    One GPU each; a range is taken apart, so that one unknown GPU does not hide its neighbours.

    What stands behind the ``MAX_DEVICES``th is not looked at: no node has so many.
    """
    parts: list[str] = []
    for part in (piece.strip() for piece in spec.split(",", MAX_DEVICES)):
        if len(parts) >= MAX_DEVICES:
            break
        try:
            parts.extend(str(at) for at in indexes(part, MAX_DEVICES - len(parts)))
        except ValueError:
            parts.append(part)
    return [part for part in dict.fromkeys(parts) if part not in _NONE]


def _numbered(inventory: Sequence[GpuState], numbering: str) -> dict[str, GpuState]:
    """Slurm's index -> device, for one numbering."""
    if numbering not in NUMBERINGS:
        raise ValueError(f"numbering {numbering!r} is none of {', '.join(NUMBERINGS)}")
    by_minor = numbering != "nvml" and any(gpu.minor is not None for gpu in inventory)

    def place(gpu: GpuState) -> int | None:
        return gpu.minor if by_minor else gpu.index

    placed = [(at, gpu) for gpu in inventory if (at := place(gpu)) is not None]
    if numbering == "list" or any(gpu.mig_enabled or gpu.parent for gpu in inventory):
        order = sorted(placed, key=lambda pair: (pair[0], _instance(pair[1])))
        flat = [gpu for _, gpu in order if not gpu.mig_enabled]
        return {str(at): gpu for at, gpu in enumerate(flat)}
    return {str(at): gpu for at, gpu in placed}


def _instance(gpu: GpuState) -> int:
    return -1 if gpu.mig_device is None else gpu.mig_device


def _named(
    part: str, inventory: Sequence[GpuState], numbered: Mapping[str, GpuState]
) -> list[GpuState]:
    if part in numbered:
        return [numbered[part]]
    if part.startswith(("GPU-", "MIG-")):
        return _by_uuid(part, inventory)
    parent, colon, instance = part.partition(":")
    if not colon:
        return []
    wanted = (parent, instance)  # as text: a number of any length is harmless
    return [gpu for gpu in inventory if (str(gpu.index), str(gpu.mig_device)) == wanted]


def _by_uuid(text: str, inventory: Sequence[GpuState]) -> list[GpuState]:
    """The whole UUID, or the beginning of exactly one (CUDA C++ guide, CUDA_VISIBLE_DEVICES)."""
    found = [gpu for gpu in inventory if gpu.uuid == text]
    found = found or [gpu for gpu in inventory if len(text) > 4 and gpu.uuid.startswith(text)]
    if len(found) != 1:
        return []
    instances = [gpu for gpu in inventory if gpu.parent == found[0].uuid]
    return instances if found[0].mig_enabled and instances else found
