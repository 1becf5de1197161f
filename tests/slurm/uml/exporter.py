"""
Payload for User Mode Linux: the daemon on a real Slurm on pure cgroup v2, with PrologFlags=Contain.

Prints as JSON what the page says of each job beside what Slurm says, for the test outside to judge.
"""

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from realnode import RealNode
from slurm import scenario
from slurm.processes import ClusterError, await_true
from slurmcluster import Cluster

# A guest's system calls are slow: some of the panel, chosen for what cgroup v2 is about, and long
# enough for slurmctld, which takes seconds there, to be asked while they run.
PANEL = {batch.label: batch for batch in scenario.PANEL}
BATCHES = (
    scenario.OOM,
    replace(PANEL["two_nodes"], script="srun sleep 12"),
    PANEL["no_gpu"],
)
COUNTED = "jobwatt_job_gpu_allocated_seconds_total"


def main() -> None:
    """Run some of the panel with hooks; print page and truth."""
    with (
        Cluster(mode="cgv2", acct=False, prolog_flags="Alloc,Contain") as cluster,
        RealNode(
            Path(tempfile.mkdtemp()), cluster, interval="1s", hooks=sys.argv[1] == "hooks", step=0.2
        ) as node,
    ):
        with cluster.recorder(1) as recorder:
            jobs = {}
            for (
                batch
            ) in BATCHES:  # one by one: slow prologs at once make Slurm 22.05 give up a launch
                jobs[batch.label] = scenario.submit(cluster, batch)
                cluster.wait_empty(90)
                recorder.poll()
        for run in cluster.hook_runs():
            print(run)
        _await_names(node.daemon, set(map(str, jobs.values())))
        time.sleep(2)
        truth = node.power_off()
        page = node.daemon.samples(3, 30)
        told = {
            label: _told(page, jobid, recorder.seen(jobid), node) for label, jobid in jobs.items()
        }
        node_uj = page.micro("jobwatt_node_energy_joules_total")
        print(
            json.dumps(
                {"jobs": told, "node_uj": node_uj, "truth": truth, "log": node.daemon.text()}
            )
        )


def _await_names(daemon, jobs: set[str]) -> None:
    try:
        await_true(lambda: _named(daemon.scrape(parse=False)) >= jobs, 150, "names", 1)
    except ClusterError:
        page = daemon.scrape()
        print(f"not named: {jobs - _named(page)}", page.text, daemon.text(), sep="\n")
        raise


def _named(page) -> set[str]:
    """Jobs whose owner somebody has told (without accounting the account is empty)."""
    shown = [dict(pairs) for pairs in page.find("jobwatt_job_info")]
    return {labels["jobid"] for labels in shown if labels["resolved_by"]}


def _told(page, jobid: int, seen, node) -> dict:
    info = [dict(pairs) for pairs in page.find("jobwatt_job_info", jobid=str(jobid))]
    held = {index for indexes in seen.gpus.values() for index in indexes}
    return {
        "info": info,
        "slurm": {
            key: seen.fields.get(key, "") for key in ("UserId", "Account", "Partition", "JobState")
        },
        "gpus": sorted(page.labels(COUNTED, "uuid", jobid=str(jobid))),
        "held": sorted(node.uuids(held)),
        "cpu_s": page.value("jobwatt_job_cpu_seconds_total", jobid=str(jobid)),
        "ended": bool(page.find("jobwatt_job_end_time_seconds", jobid=str(jobid))),
    }


if __name__ == "__main__":
    main()
