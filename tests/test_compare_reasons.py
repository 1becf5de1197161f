"""`jobwatt compare`: why two meters differ, in reasons that always add up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.central.compare import view
from jobwatt.central.compare.figures import Gpu, Ours, Theirs
from jobwatt.central.compare.job import _between
from jobwatt.central.compare.reasons import Around, reasons

BEGAN = 1_795_000_000.0
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
