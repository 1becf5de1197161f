"""Payload for User Mode Linux: some of the panel on a pure cgroup v2; prints what was seen as JSON."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from slurm import scenario
from slurm.processes import await_true
from slurmcluster import Cluster, leftovers

# A guest's system calls are slow: the whole panel takes 75 s here, these 25.
LABELS = ("failed", "oom", "two_nodes", "per_task", "cancelled")


def main() -> None:
    """Run some of the panel, print per label states and GPUs, and the cgroups of a running job."""
    with Cluster(mode="cgv2", acct=False, prolog_flags="Alloc,Contain") as cluster:
        held = cluster.submit("alice", "-p", "V100", "--gres=gpu:2", script="srun -n1 sleep 60")
        cluster.wait(held, ["RUNNING"])
        with cluster.recorder(1) as recorder:
            jobs = scenario.run(cluster, only=LABELS)
            scopes = Path("/sys/fs/cgroup/system.slice")
            names = (f"job_{held}", cluster.scontrol(held).get("SLUID", f"job_{held}"))

            def found(what: str) -> set[str]:
                return {path.name for name in names for path in scopes.glob(f"*/{name}/{what}")}

            await_true(lambda: bool(found("step_0")), 60, "srun's step")
            steps = sorted(found("step_*"))
            cluster.cancel(held)
            cluster.wait_empty()
            recorder.poll()
        seen = {
            label: {"states": recorder.seen(job).states, "gpus": recorder.seen(job).gpus}
            for label, job in jobs.items()
        }
    print(json.dumps({"jobs": seen, "steps": steps, "left": leftovers(cluster)}))


if __name__ == "__main__":
    main()
