"""
The daemon on a real Slurm: real jobs, cgroups and processes; sensors that are files and a script.

RAPL moves in real time (raplsim knows the truth), the real pynvml runs on the scripted library, and
everything about jobs comes from the Slurm of slurmcluster.py.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import nvmlshim
from daemon import Daemon
from prom import Prometheus
from raplsim import RaplSim, constant, powercap_zones
from trees import Node

if TYPE_CHECKING:
    from slurmcluster import Cluster

REPOSITORY = Path(__file__).parents[1]
GPUS = 8  # gpu02 has eight, gpu01 the first four of them
WATTS = {"intel-rapl:0": 120.0, "intel-rapl:0:1": 12.0}


def hook(event: str, state: Path) -> str:
    """The line that a site puts into its Prolog or Epilog."""
    return f"PYTHONPATH={REPOSITORY}/exporter {sys.executable} -m jobwatt hook {event} --path.state={state}"


class RealNode:
    """A daemon over this machine's jobs and simulated sensors; leaving the context ends it."""

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        *,
        interval: str = "500ms",
        rpc: bool = True,
        prometheus: bool = False,
        hooks: bool = False,
        step: float = 0.01,
    ) -> None:
        self.folder, self.cluster, self.interval, self.rpc = folder, cluster, interval, rpc
        self.state = folder / "state"
        self._scrape, self._hooks, self._step = prometheus, hooks, step
        self._stack = ExitStack()

    def __enter__(self) -> RealNode:
        files = Node(self.folder / "node", cpus=2)
        files.add_intel(sockets=1)
        self.script = nvmlshim.Script.of(self.folder / "nvml.script", GPUS)
        self.began_mj = {index: gpu.energy_mj for index, gpu in self.script.gpus.items()}
        trees = SimpleNamespace(
            root=files.root, sys=files.sys, proc=Path("/proc"), cgroup=Path("/sys/fs/cgroup")
        )
        flags = [f"--slurm.conf={self.cluster.conf}"]
        env = {"PATH": self.cluster.env["PATH"]}
        self.daemon = Daemon(
            trees,
            self.state,
            *flags,
            script=self.script,
            env=env,
            interval=self.interval,
            rpc=self.rpc,
        )
        self._stack.enter_context(self.daemon)
        if self._hooks:
            self.hooks()
        self._power_on(files)
        if self._scrape:
            self.prometheus = self._stack.enter_context(
                Prometheus(self.folder / "prometheus", [f"127.0.0.1:{self.daemon.port}"], "500ms")
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)

    def _power_on(self, files: Node) -> None:
        """Counters begin to move after the first sample, so that the truth is known to the last uJ."""
        zones = powercap_zones(files.sys)
        powers = {name: constant(WATTS.get(name, 0.0)) for name in zones}
        self.sim = RaplSim(zones, powers, truth=self.folder / "truth.json", step=self._step)
        self.sim.start()
        self._stack.callback(self.sim.stop)
        for gpu in self.script.gpus.values():
            gpu.set_power(100_000)
        self.script.write()

    def power_off(self) -> dict[str, int]:
        """Counters stand still from now on; what each device has used, in uJ."""
        for gpu in self.script.gpus.values():
            gpu.set_power(0)
        self.script.write()
        truth = {zone: told["total_uj"] for zone, told in self.sim.stop().items()}
        for index, gpu in self.script.gpus.items():
            truth[gpu.uuid] = (gpu.energy_mj - self.began_mj[index]) * 1000
        return truth

    def hooks(self) -> None:
        """Have Slurm call the hooks from now on."""
        self.cluster.set_hooks(
            prolog=[hook("prolog", self.state)], epilog=[hook("epilog", self.state)]
        )

    def uuids(self, indexes) -> set[str]:
        """UUIDs of Slurm's GPU indexes (here /dev/nvidiaN is minor N)."""
        return {self.script.gpus[index].uuid for index in indexes}
