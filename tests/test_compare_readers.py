"""`jobwatt compare`: the readers take every version's files, and whatever else is in one."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comparekit import DATA
from jobwatt.central.compare import carbontracker, codecarbon, greenalgorithms, sacct
from jobwatt.central.compare.figures import J_PER_KWH, CompareError

ALWAYS = (0.0, 4e9)
TEXTS = st.text(alphabet="0123456789.,|\n\r\"'\\-: eE\0infagzéUW()[]=", max_size=300)


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
