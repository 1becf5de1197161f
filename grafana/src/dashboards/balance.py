"""The energy balance: everything measured is somebody's, and what is not explained is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import to
from facade import COUNT, KWH, SHARE, WATT, Column, Q, bars, figures, grid, series
from layout import board
from palette import GREY, OWNERS, VERMILION
from promql import CLUSTER, kwh, now, total

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

    from facade import Panel

NODE = "jobwatt:cluster_component_energy_joules:rate5m"
PARTS = {
    "jobs": "jobwatt:cluster_component_job_energy_joules:rate5m",
    "system": "jobwatt:cluster_component_system_energy_joules:rate5m",
    "unallocated": "jobwatt:cluster_component_unallocated_energy_joules:rate5m",
}
NO_METER = "No wall meter"


def unexplained(by: str = "") -> str:
    """Node less jobs, system and unallocated, now."""
    parts = " - ".join(f"({now(series_, by)} or {now(NODE, by)} * 0)" for series_ in PARTS.values())
    return f"{now(NODE, by)} - {parts}"


def build() -> Dashboard:
    """The dashboard."""
    return board(
        "jobwatt-balance",
        "Energy balance",
        "Jobs + system + unallocated = node, and the node against the wall. What is not explained is on show.",
        [
            ("The account", _account()),
            ("By component", _components()),
            ("Against the wall", _wall()),
        ],
    )


def _account() -> list[Panel]:
    whole = total(NODE)
    parts = [total(name) for name in PARTS.values()]
    return [
        figures(
            "Nodes",
            "Energy that all nodes measured over the time range on show.",
            KWH,
            Q(kwh(whole)),
            size=(5, 4),
            decimals=1,
        ),
        *(
            figures(
                title,
                description,
                KWH,
                Q(kwh(total(PARTS[owner]))),
                size=(5, 4),
                decimals=1,
            )
            for owner, title, description in (
                ("jobs", "Jobs", "Energy that jobs are charged with."),
                ("system", "System", "Energy of daemons and the kernel, which no job caused."),
                (
                    "unallocated",
                    "Unallocated",
                    "Energy of what nobody has reserved: the idle power of free CPUs, memory and GPUs.",
                ),
            )
        ),
        figures(
            "Unexplained",
            "Share of the nodes' energy that is in none of the three. On each node they add up to the last microjoule; "
            "what is left here happened while Prometheus or a node was away.",
            SHARE,
            Q(f"1 - ({' + '.join(f'({part})' for part in parts)}) / ({whole} > 0)"),
            size=(4, 4),
            decimals=2,
            steps=[(None, "text"), (0.005, VERMILION)],
        ),
        series(
            "Who the power is for",
            "Jobs, system and unallocated, stacked; the dashed line is what the nodes measured. Any gap is unexplained.",
            WATT,
            *(Q(now(name), owner) for owner, name in PARTS.items()),
            Q(now(NODE), "nodes"),
            size=(16, 10),
            stack=True,
            colours=OWNERS | {"nodes": GREY},
            lines=["nodes"],
        ),
        series(
            "Unexplained power",
            "What the nodes measured, less jobs, system and unallocated, by component. Above or below 0 for minutes "
            "means that Prometheus missed a node or that a daemon was restarted.",
            WATT,
            Q(f"round({unexplained('component')}, 0.001)", "{{component}}"),
            size=(8, 10),
            bounds=(None, None),
        ),
    ]


def _components() -> list[Panel]:
    return [
        bars(
            f"{title}: energy by component",
            description,
            KWH,
            Q(f"sort_desc({kwh(total(name, 'component'))})", "{{component}}"),
            size=(8, 7),
            decimals=1,
        )
        for title, description, name in (
            ("Jobs", "Energy that jobs are charged with, by component.", PARTS["jobs"]),
            ("System", "Energy of daemons and the kernel, by component.", PARTS["system"]),
            (
                "Unallocated",
                "Energy of what nobody has reserved, by component.",
                PARTS["unallocated"],
            ),
        )
    ]


def _wall() -> list[Panel]:
    def reconciled(part: str, by: str) -> str:
        of = f'jobwatt_reconciled_energy_joules_total{{{CLUSTER},part="{part}"}}'
        return (
            f"sum by ({by}) (increase({of}[$__range]))" if by else f"sum (increase({of}[$__range]))"
        )

    chips, wall = (reconciled(part, "instance") for part in ("components", "wall"))
    wall_w, seen_w = (
        now(f"jobwatt:cluster_{what}_energy_joules:rate5m") for what in ("wall", "seen")
    )
    return [
        figures(
            "Seen by the chips' sensors",
            "Share of the wall meters' energy that RAPL and NVML saw on the same nodes over the time range on show. The "
            "rest are fans, boards, disks and what power supplies lose.",
            SHARE,
            Q(f"({reconciled('components', '')}) / ({reconciled('wall', '')} > 0)"),
            size=(6, 4),
            decimals=1,
            empty=NO_METER,
        ),
        figures(
            "The wall above them",
            "By how much the wall meters exceed the chips' sensors. Negative: a meter does not see all of its node.",
            SHARE,
            Q(f"({reconciled('wall', '')}) / ({reconciled('components', '')} > 0) - 1"),
            size=(6, 4),
            decimals=1,
            steps=[(None, VERMILION), (0, "text")],
            empty=NO_METER,
        ),
        figures(
            "Above the wall",
            "Energy by which the chips' counters exceeded the wall meter by more than clocks explain. It counts as 0 in the "
            "account, and should be 0: else a meter or a counter is wrong, or the meter does not feed all of the node.",
            KWH,
            Q(kwh(total("jobwatt:cluster_residual_energy_joules:rate5m"))),
            size=(6, 4),
            decimals=2,
            steps=[(None, "text"), (0.01, VERMILION)],
            empty=NO_METER,
        ),
        figures(
            "Nodes with a meter",
            "Nodes of which a wall meter or a BMC tells the whole power.",
            COUNT,
            Q(f"count ({wall} > 0)"),
            size=(6, 4),
            empty=NO_METER,
        ),
        series(
            "Nodes with a wall meter: the meter against the account",
            "What wall meters measure, and what jobwatt accounts for on the same nodes. The account takes what the "
            "chips do not show (fans, boards, power supplies) from the meter as component `other`.",
            WATT,
            Q(wall_w, "wall meters"),
            Q(now("jobwatt:cluster_walled_energy_joules:rate5m"), "account"),
            Q(seen_w, "chips' sensors"),
            Q(now("jobwatt:cluster_residual_energy_joules:rate5m"), "more than the wall"),
            size=(12, 9),
            colours={"more than the wall": VERMILION, "chips' sensors": GREY},
            empty=NO_METER,
        ),
        grid(
            "Each node: chips against the wall",
            "Energy over the time range on show that the chips' own counters show (CPUs, memory, GPUs), what the "
            "wall meter measured in the same stretches of time, and the share of the wall that the chips show.",
            [
                Column("instance", "Node", link=to.node("${__value.raw:percentencode}")),
                Column("Value #A", "Chips", KWH, bar=True, decimals=1),
                Column("Value #B", "Wall", KWH, decimals=1, width=100),
                Column("Value #C", "Seen", SHARE, decimals=0, width=70),
            ],
            Q(kwh(chips)),
            Q(kwh(wall)),
            Q(f"({chips}) / ({wall} > 0)"),
            size=(12, 9),
            sort="Chips",
            empty=NO_METER,
        ),
        series(
            "The wall above the chips' sensors, by node",
            "By how much each node's meter exceeds its sensors, over five minutes. It is larger on an idle node, where "
            "fans and boards weigh more; below 0 a meter does not see all of the node.",
            SHARE,
            Q(f"jobwatt:node_wall_balance:ratio5m{{{CLUSTER}}}", "{{instance}}"),
            size=(24, 9),
            bounds=(None, None),
            empty=NO_METER,
        ),
    ]
