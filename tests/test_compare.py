"""`jobwatt compare`: the readers take every version's files, whatever is in them; reasons add up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill import line, past
from daemon import command, environment
from jobwatt.central.compare import carbontracker, codecarbon, greenalgorithms, sacct, view
from jobwatt.central.compare.figures import J_PER_KWH, CompareError, Gpu, Ours, Theirs
from jobwatt.central.compare.job import _between
from jobwatt.central.compare.reasons import Around, reasons

DATA = Path(__file__).parent / "data/interop"
ALWAYS = (0.0, 4e9)
BEGAN = 1_795_000_000.0
TEXTS = st.text(alphabet="0123456789.,|\n\r\"'\\-: eE\0infagzéUW()[]=", max_size=300)


def compare(*flags, code=0):
    done = subprocess.run(
        command("compare", *flags),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


# --- CodeCarbon ------------------------------------------------------------------------------------


def test_codecarbon_v1_has_a_total_only():
    """Version 1 knows no components: the total is read, no part is invented."""
    runs, bad = codecarbon.read(DATA / "codecarbon/v1.csv")
    told = codecarbon.theirs(runs, ALWAYS, bad)
    assert told.total_j == pytest.approx(0.1406667 * J_PER_KWH)
    assert told.parts_j == {}
    assert told.tool == "CodeCarbon"


def test_codecarbon_v2_flushes_are_counted_once():
    """A run that was flushed has several rows with all it had so far: the last one counts."""
    runs, _ = codecarbon.read(DATA / "codecarbon/v2.2.csv")
    assert [run.energy_j / J_PER_KWH for run in runs] == [0.2813334, 0.1406667]
    assert [run.mode for run in runs] == ["node", "process"]
    told = codecarbon.theirs(runs, runs[0].span)
    assert told.parts_j["gpu"] == pytest.approx(0.2066666 * J_PER_KWH)
    assert "1 rows outside" in told.notes[-1]


def test_codecarbon_v3_takes_pue_out():
    """Since 2.3 every energy carries PUE: the parts are without it, the total as the file has it."""
    runs, bad = codecarbon.read(DATA / "codecarbon/v3.3-appended.csv")
    told = codecarbon.theirs(runs, ALWAYS, bad)
    assert (len(runs), bad, told.pue) == (2, 0, pytest.approx(1.5))
    seconds = told.seconds
    assert told.parts_j["cpu"] == pytest.approx(200 * seconds, rel=0.01)
    assert told.parts_j["gpu"] == pytest.approx(620 * seconds, rel=0.01)
    assert sum(told.parts_j.values()) + told.overhead_j == pytest.approx(told.total_j)


def test_codecarbon_row_that_lost_its_empty_columns():
    """A row appended without its empty columns, not even their commas, is put under the right names."""
    head = "run_id,energy_consumed,cpu_energy,gpu_energy,ram_energy,region,latitude,tracking_mode,pue\n"
    text = head + "a,3,1,1,1,,,machine,1.0\n" + "b,6,2,2,2,process,2.0\n" + "c,1,1\n"
    runs, bad = codecarbon.parse(text)
    assert [(run.mode, run.pue) for run in runs] == [("node", 1.0), ("process", 2.0)]
    assert bad == 1


def test_codecarbon_overlapping_runs_are_noted():
    """Several trackers of one job in machine mode each count the node: that is said."""
    runs, _ = codecarbon.read(DATA / "codecarbon/v3.3-appended.csv")
    assert any("overlap" in note for note in codecarbon.theirs([runs[0], runs[0]], ALWAYS).notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column energy_consumed"),
        ("a,b\n1,2\n", "no column energy_consumed"),
        ("energy_consumed\nnan\n-1\n1e99\n\n", "no row"),
        ('energy_consumed\n"' + "x" * 200_000, "not a CSV file"),
    ],
)
def test_codecarbon_bad_files_say_one_line(text, said):
    """What is no emissions.csv is refused in one line."""
    with pytest.raises(CompareError, match=said):
        codecarbon.parse(text)


@settings(max_examples=200)
@given(st.one_of(TEXTS, TEXTS.map(lambda rows: f"energy_consumed,timestamp,duration,pue\n{rows}")))
def test_codecarbon_never_crashes(text):
    """Whatever a file holds, runs of sane figures come out or a CompareError."""
    try:
        runs, _ = codecarbon.parse(text)
    except CompareError:
        return
    assert all(0 <= run.energy_j < 1e19 and run.pue >= 1 for run in runs)


# --- Carbontracker -----------------------------------------------------------------------------------


def test_carbontracker_of_today():
    """Real logs of 2.4.7: the prediction counts where epochs were left out, and the mean is seen."""
    whole, predicted = carbontracker.read(DATA / "carbontracker")
    assert (whole.version, whole.pue) == ("2.4.7", 1.58)
    told = carbontracker.theirs([whole], ALWAYS)
    assert told.predicted_j == 0
    assert sum(told.parts_j.values()) + told.overhead_j == pytest.approx(told.total_j, rel=1e-3)
    # two GPUs of 100 W and four zones of 230 W in all: it counts half, and a quarter
    assert told.parts_j["gpu"] + told.lost_j["gpu"] == pytest.approx(200 * 8, rel=0.01)
    assert told.parts_j["cpu"] + told.lost_j["cpu"] == pytest.approx(230 * 8, rel=0.02)
    ahead = carbontracker.theirs([predicted], ALWAYS)
    assert ahead.total_j == pytest.approx(0.002762788824 * J_PER_KWH)
    assert ahead.predicted_j == pytest.approx((0.002762788824 - 0.000553021024) * J_PER_KWH)
    assert ahead.notes == ("predicts 10 epochs from the 2 that it measured",)


def test_carbontracker_of_old():
    """1.2 has a figure for each device and another PUE; stopped training makes the actual count."""
    (run,) = carbontracker.read(DATA / "carbontracker-1.2")
    assert (run.version, run.pue, run.lost_j) == ("1.2.0", 1.55, {})
    assert run.parts_j == {"gpu": 60_000.0, "cpu": 6050.0}
    told = carbontracker.theirs([run], ALWAYS)
    assert told.total_j == pytest.approx(0.028438 * J_PER_KWH)
    assert told.grams is None
    assert told.seconds == 200


def test_carbontracker_folder_without_logs(tmp_path):
    """A folder that has none, or is none, is refused in one line."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CompareError, match=str(folder)):
            carbontracker.read(folder)


LOGGED = st.lists(
    st.sampled_from(
        [
            "Actual consumption for 2 epoch(s):\n\tTime:\t0:00:08\n\tEnergy:\t0.1 kWh\n\tCO2eq:\t1 g\n",
            "Predicted consumption for 9 epoch(s):\n\tTime:\t1:00:00\n\tEnergy:\tnan kWh\n\tCO2eq:\t1 g\n",
            "2026-11-25 22:11:14 - ", "Duration: 0:00:04.00\n", "carbontracker version 9\n",
            "Average power usage (W) for gpu: [1. 2. nan]\n", "Average power usage (W) for cpu: None\n",
            "PUE coefficient of 0", "The following components were found: GPU with device(s) A, B.\n", "9999-99-99 99:99:99 - ",
        ]
    )
)  # fmt: skip


@settings(max_examples=200)
@given(st.one_of(TEXTS, LOGGED.map("".join)), st.one_of(TEXTS, LOGGED.map("".join)))
def test_carbontracker_never_crashes(output, standard):
    """Whatever logs hold, a run of sane figures comes out or nothing."""
    run = carbontracker.parse(output, standard)
    if run is not None:
        assert run.pue >= 1
        told = carbontracker.theirs([run], run.span or ALWAYS)
        assert told.total_j >= 0


# --- sacct and Green Algorithms ------------------------------------------------------------------------


def test_sacct_of_a_real_slurm():
    """A job of two GPUs, an array's task by either of its numbers, a job of two nodes, other columns."""
    text = (DATA / "sacct/gpu.txt").read_text()
    jobid = text.splitlines()[1].split("|")[0]
    job = sacct.parse(text, jobid)
    assert (job.seconds, job.cpus, job.nodes, job.memory_gb) == (4, 2, 1, 0.6)
    assert job.gpus == {"a100": 2}
    assert 0 < job.cpu_s < 8
    array = (DATA / "sacct/array.txt").read_text()
    raw, task = array.splitlines()[1].split("|")[:2]
    assert sacct.parse(array, raw) == replace(sacct.parse(array, task), jobid=raw)
    two = (DATA / "sacct/two_nodes.txt").read_text()
    job = sacct.parse(two, two.splitlines()[1].split("|")[0])
    assert (job.nodes, job.cpus, job.gpus) == (2, 2, {"a100": 1, "v100": 1})
    other = sacct.read(DATA / "sacct/ga4hpc_columns.txt", jobid)
    assert (other.cpus, other.gpus) == (2, {"a100": 2})
    cancelled = (DATA / "sacct/cancelled.txt").read_text()
    assert sacct.parse(cancelled, cancelled.splitlines()[1].split("|")[0]).state == "CANCELLED"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4-00:16:00", 346_560), ("00:01.500", 1.5), ("01:02:03", 3723), ("17", 17), ("", None), ("x", None)],
)  # fmt: skip
def test_slurm_durations(text, expected):
    """Every form of sacct's times."""
    assert sacct.duration(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250G", 250), ("6760Mc", 13.52), ("250Gn", 1000), ("1T", 1000), ("500", 0.5), ("?", None)],
)
def test_slurm_memory(text, expected):
    """In all, per CPU and per node."""
    assert sacct.memory_gb(text, nodes=4, cpus=2) == expected


def test_green_algorithms_by_hand():
    """The formula on figures small enough for paper: 1 h, 10 cores half used, one A100, 100 GB."""
    job = sacct.Job("1", "COMPLETED", 3600, 1, 10, 18_000, 100, {"a100": 1})
    told = greenalgorithms.theirs(job, greenalgorithms.Assumed())
    assert told.parts_j == {"cpu": 60 * 3600, "dram": 37.25 * 3600, "gpu": 400 * 3600}
    assert told.total_j == pytest.approx(497.25 * 3600 * 1.67)
    unknown = greenalgorithms.theirs(replace(job, cpu_s=0), greenalgorithms.Assumed(pue=1.0))
    assert unknown.parts_j["cpu"] == 120 * 3600
    assert "unknown to Slurm" in unknown.notes[0]


@pytest.mark.parametrize(
    ("kind", "watts", "known"),
    [("a100", 400, True), ("nvidia_a100_80gb", 400, True), ("l40s", 350, True), ("l4", 72, True),
     ("tesla-v100", 300, True), ("a100x", 200, False), ("", 200, False)],
)  # fmt: skip
def test_gpu_types(kind, watts, known):
    """A type's name is found among its words, and no other type's is taken for it."""
    assert greenalgorithms.gpu_w(kind) == (watts, known)


@settings(max_examples=200)
@given(TEXTS.map(lambda rows: f"JobID|Elapsed|NCPUS|TotalCPU|ReqMem|AllocTRES\n1|{rows}"))
def test_sacct_never_crashes(text):
    """Whatever is in the columns, a job comes out or a CompareError."""
    try:
        told = greenalgorithms.theirs(sacct.parse(text, "1"), greenalgorithms.Assumed())
    except CompareError:
        return
    assert told.total_j >= 0


def test_sacct_that_fails_hangs_or_is_not_there(monkeypatch, tmp_path):
    """Each is one line, the hanging one within its time, and no id reaches a command line unchecked."""
    script = tmp_path / "sacct"
    cases = ("sleep 60", 0.5, "no answer within"), ("echo down >&2; exit 1", 30, "sacct: down")
    for body, limit_s, said in cases:
        monkeypatch.setattr(sacct, "_TIMEOUT_S", limit_s)
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        began = time.monotonic()
        with pytest.raises(CompareError, match=said):
            sacct.ask("1", [str(script)])
        assert time.monotonic() - began < 30
    with pytest.raises(CompareError, match="not here"):
        sacct.ask("1", [str(tmp_path / "none")])
    with pytest.raises(CompareError, match="not a job id"):
        sacct.ask("-u root", [str(script)])


# --- reasons -------------------------------------------------------------------------------------------

OURS = Ours(
    jobid="41",
    user="alice",
    instances=("gpu01",),
    energy_j={"cpu": 1000.0, "dram": 100.0, "gpu": 5000.0, "other": 300.0},
    span=(BEGAN, BEGAN + 100),
    running=False,
    gpus={"GPU-0": Gpu(100, 20, 5000, 200)},
    node_gpus=4,
    sources={"cpu": "rapl, measured"},
    cpus=4,
    cpu_s=150,
    coverage=1.0,
    intensity=50.0,
)
AROUND = Around({"cpu": 4000.0, "dram": 400.0, "gpu": 9000.0}, {"cpu": 900.0, "dram": 90.0, "gpu": 4500.0}, 4500.0)  # fmt: skip
SPANS = ((BEGAN + 5, BEGAN + 95),)


def sizes(theirs, around=AROUND, ours=OURS):
    found = reasons(ours, theirs, around)
    return {reason.text: reason.joules for reason in found}


def test_every_reason_of_machine_mode():
    """Time span, other jobs, GPUs not held, the memory model, the wall and PUE, each with its size."""
    parts = {"cpu": 4000.0, "dram": 500.0, "gpu": 9000.0}
    told = sizes(Theirs("CodeCarbon", 13_500 * 1.2, parts, pue=1.2, spans=SPANS))
    assert list(told.values()) == pytest.approx([-600, 3100, 4500, 400, -300, 2700, 0])
    assert list(told)[-1] == "not explained"


def test_gpus_of_the_job_alone():
    """Where it tracked the job's own GPUs, nothing is said of others."""
    parts = {"cpu": 4000.0, "dram": 500.0, "gpu": 4510.0}
    told = sizes(Theirs("CodeCarbon", 9010, parts, spans=SPANS))
    assert not any("does not hold" in text for text in told)
    assert told["not explained"] == pytest.approx(10)


def test_process_mode_and_models():
    """What is estimated is compared component by component, and nothing is left over."""
    parts = {"cpu": 300.0, "dram": 10.0, "gpu": 4500.0}
    process = sizes(Theirs("CodeCarbon", 4810, parts, covers="process", spans=SPANS))
    assert any("process" in text for text in process)
    assert process["not explained"] == pytest.approx(0)
    model = sizes(Theirs("Green Algorithms", 4810 * 1.67, parts, pue=1.67, covers="model"), Around({}, {}, None))  # fmt: skip
    assert any("50 W, 20 % of the time idle" in text for text in model)
    assert model["not explained"] == pytest.approx(0)


def test_every_reason_of_carbontracker():
    """RAPL's DRAM is in its CPU; the mean over devices is told from GPUs that it does not count."""
    around = replace(AROUND, node_j={"cpu": 4000.0, "dram": 400.0, "gpu": 9000.0})
    theirs = Theirs(
        "Carbontracker", 3350 * 1.58 + 1000, {"cpu": 1100.0, "gpu": 2250.0}, pue=1.58,
        cpu_has_dram=True, spans=SPANS, lost_j={"cpu": 3300.0, "gpu": 6750.0}, predicted_j=1000.0,
    )  # fmt: skip
    told = sizes(theirs, around)
    # span, whole node, GPUs not held, mean, wall, PUE, prediction, nothing
    assert list(told.values()) == pytest.approx(
        [-610, 4400 - 990, 4500, -10_050, -300, 3350 * 0.58, 1000, 0]
    )


def test_unknown_sizes_are_not_guessed():
    """Without Prometheus's figures of the node the reason stands without a size, and is left over."""
    parts = {"cpu": 4000.0, "dram": 500.0, "gpu": 9000.0}
    told = sizes(Theirs("CodeCarbon", 13_500, parts, spans=SPANS), Around({}, {}, None))
    assert told["the whole node's CPUs and not the job's share"] is None
    assert told["not explained"] > 0


JOULES = st.floats(0, 1e9)
PARTS = st.fixed_dictionaries({}, optional={"cpu": JOULES, "dram": JOULES, "gpu": JOULES})


@given(
    st.builds(
        Theirs, st.text(max_size=60), JOULES, PARTS, st.floats(1, 3),
        st.sampled_from(["node", "process", "model"]), st.booleans(), st.just(SPANS), st.none(),
        notes=st.tuples(st.text(max_size=200)),
    ),
    st.builds(Around, PARTS, PARTS, st.one_of(st.none(), JOULES)),
    PARTS,
)  # fmt: skip
def test_reasons_always_add_up(theirs, around, energy):
    """
    Whatever is known, sizes and what is left over are the difference; whatever a file says, the
    text fits a terminal and does it no harm.
    """
    ours = replace(OURS, energy_j=energy)
    found = reasons(ours, theirs, around)
    total = sum(reason.joules for reason in found if reason.joules is not None)
    assert total == pytest.approx(theirs.total_j - ours.total_j, abs=1.0)
    text = view.as_text(ours, [(theirs, found)])
    assert max(map(len, text.split("\n"))) <= view.WIDTH
    assert text.replace("\n", "").isprintable()
    json.loads(view.as_json(ours, [(theirs, found)]))


def test_counters_between_samples():
    """On the line between two samples, a sample's distance beyond them, and nowhere else."""
    points = [(10.0, 100.0), (20.0, 200.0), (40.0, 300.0)]
    assert _between(points, 15) == 150
    assert _between(points, 30) == 250
    assert _between(points, 5) == 50
    assert _between(points, 60) == 400
    assert _between(points, -1) is None
    assert _between(points, 61) is None
    assert _between(points[:1], 10) is None


# --- the whole of it --------------------------------------------------------------------------------------


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
