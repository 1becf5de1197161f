"""
Which nodes become targets, and with which labels. Pure.

A target's own labels are only those that say who it is (``instance``, ``cluster``): they are on every series
of it. All else is ``__meta_slurm_*``, as Prometheus' own discoveries do it: there to be chosen from by
relabel_configs, dropped otherwise. So a node that is drained stays the same target and begins no new
series, and no label hides one that jobwatt's series bring (``partition``, ``node``).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypedDict

from ...slurm.text import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .nodes import Node
    from .settings import Rack, SdConfig

GONE = "__meta_slurm_gone_since"  # Unix time; of a target that Slurm no longer names


class Group(TypedDict):
    """A target group of file_sd and http_sd."""

    targets: list[str]
    labels: dict[str, str]


Groups = dict[str, Group]  # by node


class Selection:
    """
    The targets among nodes.

    Attributes:
        groups: a group per target.
        left_out: how many nodes are no target, by reason (state, gpu, partition, address, shared_host,
            shared_address).
        resting: nodes that are none because of their state: they are known, and come back.
    """

    def __init__(self, nodes: Sequence[Node], config: SdConfig, cluster: str = "") -> None:
        self.groups: Groups = {}
        self.left_out: Counter[str] = Counter()
        self.resting: set[str] = set()
        asked: set[str] = set()
        hosts: set[str] = set()
        for node in nodes:
            where = _where(node, config)
            reason = unwanted(node, config)
            if not reason and not where:
                reason = "address"
            elif not reason and node.host in hosts:  # several slurmd on a host: its page is one
                reason = "shared_host"
            elif not reason and where in asked:
                reason = "shared_address"
            if reason:
                self.left_out[reason] += 1
                self.resting |= {node.name} if reason == "state" else set()
                continue
            asked.add(where)
            hosts |= {node.host} - {""}
            self.groups[node.name] = {
                "targets": [f"{where}:{config.port}"],
                "labels": labels(node, config, config.cluster or cluster),
            }


def unwanted(node: Node, config: SdConfig) -> str:
    """Why a node is no target; "" where it is one."""
    if node.states & config.excluded:
        return "state"
    if config.only_gpus and not node.gpus:
        return "gpu"
    if config.partitions and not config.partitions & set(node.partitions):
        return "partition"
    return ""


def labels(node: Node, config: SdConfig, cluster: str) -> dict[str, str]:
    """A target's labels; what is not known is not there."""
    found = {
        "instance": node.name,
        "cluster": clean(cluster, 128),
        "__scheme__": config.scheme if config.scheme != "http" else "",
        "__meta_slurm_node": node.name,
        "__meta_slurm_cluster": clean(cluster, 128),
        "__meta_slurm_partitions": listed(node.partitions),
        "__meta_slurm_features": listed(node.features),
        "__meta_slurm_state": node.state,
        "__meta_slurm_rack": rack(node, config.rack),
        "__meta_slurm_gpu_model": ",".join(kind for kind, _ in node.gpus if kind),
        "__meta_slurm_gpu_count": str(sum(count for _, count in node.gpus)),
    }
    return {name: value for name, value in found.items() if value}


def listed(words: Sequence[str]) -> str:
    """``,a,b,`` as Consul's tags: ``.*,a,.*`` finds one, and nothing that only contains it."""
    return f",{','.join(words)}," if words else ""


def rack(node: Node, where: Rack) -> str:
    """The node's rack; "" where nothing says it."""
    if where.source == "switch":
        return node.unit
    if where.pattern is None:
        return ""
    texts = {
        "feature": node.features,
        "name": (node.name,),
        "comment": (node.comment,),
        "extra": (node.extra,),
    }
    for text in texts[where.source]:
        found = where.pattern.search(text)
        if found:
            return clean((found[1] if where.pattern.groups else found[0]) or "")
    return ""


def settled(chosen: Selection, old: Mapping[str, Group], now_s: float, hold_s: float) -> Groups:
    """
    What is written now: the targets, and those that were there and are not believed to be gone.

    Slurm knows its nodes from its configuration: one or a few that go were taken out of it, and go at
    once. Where more than half go at a time it is the question that has changed (another slurm.conf,
    PrivateData, half a configuration): they stay for ``hold_s``, marked with the time. What is new is
    added in any case, and what rests (powered down) goes without suspicion.
    """
    lost = [name for name in old if name not in chosen.groups and name not in chosen.resting]
    many = 2 * len(lost) > len(old)
    asked = {target for group in chosen.groups.values() for target in group["targets"]}
    kept: Groups = {}
    for name in lost:
        if asked & set(old[name]["targets"]):  # renamed: asked twice, its jobs would count twice
            continue
        since_s = min(_since(old[name], now_s if many else None) or 0.0, now_s)
        if now_s - since_s < hold_s:
            kept[name] = {
                "targets": old[name]["targets"],
                "labels": old[name]["labels"] | {GONE: f"{since_s:.0f}"},
            }
    merged = kept | chosen.groups
    return {name: merged[name] for name in sorted(merged)}


def _since(group: Group, default: float | None) -> float | None:
    said = group["labels"].get(GONE, "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 12 else default


def _where(node: Node, config: SdConfig) -> str:
    name = {"addr": node.address, "host": node.host, "name": node.name}[config.address]
    return name + config.domain if name and not set(name) & set(".:[") else name
