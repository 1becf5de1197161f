"""`jobwatt compare` as a whole: a job that a real Prometheus has, and what is refused."""

from __future__ import annotations

import json
import sys
import time

import pytest

from backfill import line, past
from comparekit import DATA, compare


def history(now):
    """Two nodes with a job of 100 s; the job's user gets a name after 50 s; a page lingers."""
    lines = []
    begin = now - 400
    families = {}

    def sample(name, labels, value, at):
        families.setdefault(name, []).append(line(name, labels, value, at))

    for node in ("gpu01", "gpu02"):
        for at in range(int(begin) - 100, int(now), 10):
            ran = min(max(at - begin, 0), 100)
            job = {"instance": node, "jobid": "77", "user": "60001" if ran < 50 else "alice"}
            sample("jobwatt_node_energy_joules_total", {"instance": node, "component": "cpu"}, 200.0 * (at - begin + 100), at)  # fmt: skip
            sample("jobwatt_gpu_energy_joules_total", {"instance": node, "gpu": "0", "uuid": f"GPU-{node}"}, 300.0 * (at - begin + 100), at)  # fmt: skip
            if at < begin or at > begin + 200:
                continue
            sample("jobwatt_job_energy_joules_total", {**job, "component": "cpu"}, 50.0 * ran, at)
            sample("jobwatt_job_energy_joules_total", {**job, "component": "gpu"}, 300.0 * ran, at)
            sample("jobwatt_job_gpu_allocated_seconds_total", {**job, "gpu": "0", "uuid": f"GPU-{node}"}, float(ran), at)  # fmt: skip
            sample("jobwatt_job_start_time_seconds", job, begin, at)
            sample("jobwatt_job_cpu_seconds_total", job, 2.0 * ran, at)
            sample("jobwatt_job_info", {**job, "array_job_id": "70", "array_task_id": "3"}, 1.0, at)
            if ran >= 100:
                sample("jobwatt_job_end_time_seconds", job, begin + 100, at)
    for at in range(int(begin) - 100, int(now), 10):
        for source, grams in (("rte", 40.0), ("table", 56.0)):
            grid = {"instance": "admin01:9818", "zone": "FR", "source": source}
            grid |= {"scope": "lifecycle", "kind": "average"}
            sample("jobwatt_grid_carbon_intensity_grams_per_kwh", grid, grams, at)
            sample("jobwatt_grid_chosen", grid, float(source == "rte"), at)
    for found in families.values():
        lines += found
    return lines, begin


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    lines, begin = history(time.time())
    with past(tmp_path_factory.mktemp("past"), lines) as prometheus:
        yield f"http://127.0.0.1:{prometheus.port}", begin


@pytest.mark.prometheus
@pytest.mark.slow
def test_a_job_of_two_nodes_from_prometheus(server):
    """Each node's last total once, though the job's labels changed; an array's task by its number."""
    url, begin = server
    for jobid in ("77", "70_3"):
        job = json.loads(compare(f"--job={jobid}", f"--url={url}", "--json").stdout)["job"]
        assert job["energy_j"] == {"cpu": 10_000, "gpu": 60_000}
        assert job["span"] == pytest.approx([begin, begin + 100], abs=1)
        assert (job["user"], job["running"], job["cpu_s"]) == ("alice", False, 400)
        assert job["intensity"] == 40
        assert sorted(job["gpus"]) == ["GPU-gpu01", "GPU-gpu02"]


@pytest.mark.prometheus
@pytest.mark.slow
def test_green_algorithms_beside_it(server, tmp_path):
    """`--sacct FILE` alone is enough; its reasons are the models'."""
    file = tmp_path / "sacct.txt"
    file.write_text("JobID|Elapsed|NCPUS|TotalCPU|AllocTRES\n77|00:01:40|8|00:06:40|cpu=8,gres/gpu:p100=2,mem=64G\n")  # fmt: skip
    text = compare("--job=77", f"--url={server[0]}", f"--sacct={file}").stdout
    sys.stdout.write(text)
    assert "GPUs at TDP all the time" in text
    assert "2 GPUs p100 at 250 W TDP" in text
    assert max(map(len, text.splitlines())) <= 96


@pytest.mark.prometheus
@pytest.mark.slow
def test_what_is_refused(server, tmp_path):
    """An unknown job, a file that is none, a wrong URL, a wrong flag: one line each, and no more."""
    url, _ = server
    empty = tmp_path / "emissions.csv"
    empty.write_text("")
    for flags, said in (
        (["--job=9", f"--url={url}"], "no job 9"),
        (["--job=77", f"--url={url}", f"--codecarbon={empty}"], "no column energy_consumed"),
        (["--job=77", f"--url={url}", f"--codecarbon={tmp_path}/none"], "cannot be read"),
        (["--job=77", f"--url={url}", f"--codecarbon={DATA}/codecarbon/v1.csv"], "no row of"),
        (["--job=77", f"--url={url}", f"--carbontracker={tmp_path}"], "log_dir"),
        (["--job=77", f"--url={url}", "--match=}", "--json"], "parse error"),
        (['--job=7"}', f"--url={url}"], "not a job id"),
        (["--job=77", "--url=http://127.0.0.1:1"], "cannot be reached"),
    ):
        done = compare(*flags, code=1)
        assert said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stdout == ""
    assert "--pue" in compare("--job=77", "--pue=none", code=2).stderr
