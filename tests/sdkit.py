"""Nodes as Slurm prints them, and the targets that `jobwatt sd` makes of them."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from jobwatt.central.sd import nodes, settings, targets

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/discovery.md").read_text()
TEXT = (ROOT / "tests/data/interop/scontrol/nodes.txt").read_text()  # a real 22.05.8's
# as slurm_sprint_node_table of 26.05 writes it (node_info.c), free text wherever there can be some
NEWER = (
    "NodeName=gpu07 Arch=x86_64 CoresPerSocket=32  CPUAlloc=0 CPUEfctv=64 CPUTot=64 CPULoad=0.10 "
    "AvailableFeatures=a100,rack7 ActiveFeatures=a100,rack7 Gres=gpu:a100:4(S:0-1),gpu:1g.5gb:7(S:2),shard:32 GresDrain=N/A "
    "NodeAddr=10.1.0.7 NodeHostName=gpu07 Version=26.05.3 OS=Linux 6.1 State=DOWN #1 Partitions=forged  "
    "RealMemory=515000 AllocMem=0 FreeMem=N/A Sockets=2 Boards=1 CoreSpecCount=2 CPUSpecList=0-1 MemSpecLimit=1024 "
    "RestrictedCoresPerGPU=1(gpu:a100) State=IDLE+CLOUD+DRAIN ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A "
    "Partitions=gpu,debug  BootTime=2026-11-25T18:23:02 SlurmdStartTime=2026-11-25T22:10:09 "
    "LastBusyTime=2026-11-25T22:10:15 ResumeAfterTime=None SuspendTime=INFINITE CfgTRES=cpu=64,gres/gpu=4 AllocTRES= "
    'CurrentWatts=n/a AveWatts=n/a Reason=fan Partitions=all [root@2026-11-25T22:10:10] Comment=row C rack12 Extra={"rack": 9} '
    "InstanceId=i-1 InstanceType=big Topology=default:leaf3 Parameters=x"
)  # fmt: skip


def chosen(nodes_, **config):
    return targets.Selection(nodes_, settings.SdConfig(**config), "c")


def tell(capture, word):
    return [record.message for record in capture.records if word in record.message]


def node(name, **more):
    return nodes.Node(name, **{"address": f"{name}.lan", "states": frozenset({"IDLE"}), **more})


def listed(*names):
    return chosen([node(name) for name in names]).groups


def page(board):
    text = board.metrics(openmetrics=False, names=frozenset()).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "_sd_" in sample.name
    }
