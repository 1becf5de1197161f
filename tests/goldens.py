"""
Nodes of several kinds, and the page each gives: what tests/golden holds.

Each kind is a real tree (sys, proc, cgroup), a scripted driver below the real pynvml, and hook
records; two samples are taken through the whole daemon. What depends on the moment is masked with
``*``; every energy is exact. ``make golden`` writes the pages anew; read the difference before you
commit it.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import nvmlshim
from jobwatt import agent, assembly
from jobwatt.board import Board
from jobwatt.config import Config
from jobwatt.ledger import Ledger
from jobwatt.model import NS_PER_S
from jobwatt.sampler import now_ns
from jobwatt.slurm import hooks
from trees import Node, sluid

GOLDEN = Path(__file__).parent / "golden"
SECOND = 10**9
JOULE = 10**6

# What depends on the moment: times, and powers, which divide by one.
_MOMENT = re.compile(
    r"^(jobwatt_(?:snapshot_timestamp_seconds|sample_seconds|source_read_seconds|job_power_watts|node_power_watts"
    r"|(?:job_)?component_measured_seconds_total|component_age_seconds"
    r"|job_gpu_(?:allocated|idle|unknown|utilization)_seconds_total|job_start_time_seconds|job_end_time_seconds"
    r"|job_coverage_ratio|gpu_integrated_energy_joules_total|gpu_energy_agreement_ratio)(?:\{.*\})?) .*$",
    re.MULTILINE,
)


class Scene:
    """One node, before and after."""

    def __init__(self, root: Path, *, gpus: int = 0, cpus: int = 8, sockets: int = 1):
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.state = root / "state"
        self.node = Node(root, cpus=cpus, sockets=sockets, boot_id=boot_id)
        self.script = nvmlshim.Script.of(root / "nvml.script", gpus) if gpus else None
        self.began_s, self.began_ns = time.time(), now_ns()

    def prolog(
        self, jobid: int, uid: int, gpus: str = "", cpus: int = 1, node: str = "node1", **more: str
    ) -> None:
        env = {
            "SLURM_JOB_ID": str(jobid),
            "SLURM_JOB_USER": f"user{uid}",
            "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_ACCOUNT": "ltci",
            "SLURM_JOB_PARTITION": "A100",
            "SLURM_JOB_GPUS": gpus,
            "SLURM_JOB_CPUS_PER_NODE": str(cpus),
            "SLURM_NODELIST": node,
            "SLURMD_NODENAME": node,
            **more,
        }
        hooks.write(self.state, "prolog", env, t_ns=self.began_ns, wall_s=self.began_s)

    def page(self, change) -> str:
        """Sample, ``change``, sample again: the page."""
        config = Config(
            path_sysfs=self.node.sys,
            path_procfs=self.node.proc,
            path_cgroupfs=self.node.cgroup,
            path_state=self.state,
            source_nvml=self.script is not None,
            slurm_rpc=False,
            sample_interval=60 * NS_PER_S,  # a busy machine's pause between two samples is no gap
        )
        with ExitStack() as stack:
            if self.script:
                stack.enter_context(nvmlshim.loaded(self.script))
            sampler = assembly.sampler(config)
            stack.callback(sampler.close)
            board = Board(1.0)
            one = agent.Agent(config, sampler, assembly.pipeline(config, Ledger(None)), board, None)
            one.step(full=True, cause="tick")
            change()
            one.step(full=True, cause="tick")
        return _MOMENT.sub(r"\1 *", board.metrics(openmetrics=False, names=frozenset()).decode())

    def gpus_use(self, *joules: int) -> None:
        for gpu, used in zip(self.script.gpus.values(), joules, strict=True):
            gpu.energy_mj += used * 1000
        self.script.write()


def intel_8gpu(root: Path) -> str:
    """Two Intel sockets with dram and psys, eight GPUs, three jobs on cgroup v2, one GPU idle but held."""
    scene = Scene(root, gpus=8, cpus=16, sockets=2)
    node = scene.node
    node.add_intel()
    scene.prolog(41, 61001, "0-1", 4)
    scene.prolog(42, 61002, "2", 4)
    jobs = [
        node.add_job(41, uid=61001),
        node.add_job(42, uid=61002, mem_limit=8 << 30),
        node.add_job(43, uid=61003, environ={"SLURM_JOB_GPUS": "7", "SLURM_JOB_ACCOUNT": "lisn"}),
    ]
    scene.script.gpus[1].util = scene.script.gpus[3].util = 0

    def change():
        for zone, uj in (
            ("intel-rapl:0", 120),
            ("intel-rapl:1", 80),
            ("intel-rapl:0:1", 20),
            ("intel-rapl:1:1", 10),
        ):
            node.advance_rapl(zone, uj * JOULE)
        node.advance(SECOND, [(jobs[0], 3 * SECOND), (jobs[1], SECOND)], SECOND // 2)
        node.set_memory(jobs[1], 1 << 30, cache=5 << 30)
        scene.gpus_use(400, 90, 300, 60, 60, 60, 60, 350)

    return scene.page(change)


def amd_no_dram(root: Path) -> str:
    """AMD: packages without dram, cgroup v1, no GPU; a job without CPU time."""
    scene = Scene(root, cpus=8, sockets=2)
    node = scene.node
    node.add_amd()
    scene.prolog(7, 61001, cpus=2)
    jobs = [node.add_job(7, uid=61001, layout="v1"), node.add_job(8, uid=61002, layout="v1")]

    def change():
        node.advance_rapl(
            "intel-rapl:0", 65_532 * JOULE
        )  # wraps: that is 610 mJ short of the range
        node.advance_rapl("intel-rapl:1", 100 * JOULE)
        node.advance(SECOND, [(jobs[0], SECOND)], SECOND)

    return scene.page(change)


def mig(root: Path) -> str:
    """Four GPUs, two of them partitioned; one instance's activity is known, another's is not."""
    scene = Scene(root, gpus=4)
    node, gpus = scene.node, scene.script.gpus
    for index in (0, 1):
        gpus[index].mig = True
        gpus[index].gpm = {2: 50.0}
        gpus[index].migs = {
            slot: nvmlshim.Mig(
                f"MIG-{index}{slot}000000-0000-4000-8000-00000000000{slot}",
                profile,
                gi=slot + 1,
                gi_slices=slices,
                ci_slices=slices,
            )
            for slot, (profile, slices) in enumerate(
                [("4g.40gb", 4), ("2g.20gb", 2), ("1g.10gb", 1)]
            )
        }
    scene.script.write()
    node.add_intel(sockets=1)
    scene.prolog(51, 61001, CUDA_VISIBLE_DEVICES=gpus[0].migs[0].uuid)
    scene.prolog(52, 61002, CUDA_VISIBLE_DEVICES=gpus[0].migs[1].uuid)
    scene.prolog(53, 61003, CUDA_VISIBLE_DEVICES=gpus[2].uuid)
    jobs = [node.add_job(jobid, uid=uid) for jobid, uid in ((51, 61001), (52, 61002), (53, 61003))]

    def change():
        node.advance_rapl("intel-rapl:0", 100 * JOULE)
        node.advance(SECOND, [(job, SECOND) for job in jobs])
        scene.gpus_use(300, 70, 250, 60)

    return scene.page(change)


def v1_two_gpus(root: Path) -> str:
    """The layout of cgroup v1, with extern and two steps; a name that wants escaping."""
    scene = Scene(root, gpus=2)
    node = scene.node
    node.add_intel(sockets=1)
    scene.prolog(9, 61001, "1", 2, SLURM_JOB_NAME='say "hi"\n\\o/' + "x" * 4000)
    job = node.add_job(9, uid=61001, layout="v1", steps=("extern", "batch", "0"), mem_limit=4 << 30)

    def change():
        node.advance_rapl("intel-rapl:0", 100 * JOULE)
        node.burn(job, SECOND, "batch")
        node.end_step(job, "0")
        scene.gpus_use(70, 400)

    return scene.page(change)


def sluids(root: Path) -> str:
    """Slurm 26.05: directories named by SLUID; hook and environment tell the job's number."""
    scene = Scene(root, gpus=2)
    node = scene.node
    node.add_intel(sockets=1)
    scene.prolog(61, 61001, "0")
    jobs = [
        node.add_job(61, uid=61001, sluid=sluid(61)),
        node.add_job(62, uid=61002, sluid=sluid(62)),
    ]

    def change():
        node.advance_rapl("intel-rapl:0", 100 * JOULE)
        node.advance(SECOND, [(jobs[0], SECOND), (jobs[1], 3 * SECOND)])
        scene.gpus_use(400, 60)

    return scene.page(change)


def two_slurmd(root: Path) -> str:
    """Two slurmd on one host and a job that has a part under each."""
    scene = Scene(root, gpus=4)
    node = scene.node
    node.add_intel(sockets=1)
    scene.prolog(71, 61001, "0", node="gpu01")
    scene.prolog(71, 61001, "3", node="gpu02")
    parts = [node.add_job(71, uid=61001, layout="v1", nodename=name) for name in ("gpu01", "gpu02")]
    other = node.add_job(72, uid=61002, layout="v1", nodename="gpu02")

    def change():
        node.advance_rapl("intel-rapl:0", 100 * JOULE)
        node.advance(SECOND, [(parts[0], SECOND), (parts[1], SECOND), (other, 2 * SECOND)])
        scene.gpus_use(400, 60, 60, 300)

    return scene.page(change)


def no_cgroup(root: Path) -> str:
    """proctrack/linuxproc: jobs are process trees below slurmstepd."""
    scene = Scene(root)
    node = scene.node
    node.add_intel(sockets=1)
    scene.prolog(81, 61001)
    job = node.add_job(81, uid=61001, layout="none")

    def change():
        node.advance_rapl("intel-rapl:0", 100 * JOULE)
        node.advance(SECOND, [(job, SECOND)], SECOND)

    return scene.page(change)


KINDS = {
    "intel-8gpu": intel_8gpu,
    "amd-no-dram": amd_no_dram,
    "mig": mig,
    "v1": v1_two_gpus,
    "sluid": sluids,
    "two-slurmd": two_slurmd,
    "no-cgroup": no_cgroup,
}


def main() -> None:
    for name, make in KINDS.items():
        with tempfile.TemporaryDirectory() as root:
            (GOLDEN / f"{name}.prom").write_text(make(Path(root)))
        print(f"wrote {name}.prom", file=sys.stderr)


if __name__ == "__main__":
    main()
