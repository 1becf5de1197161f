"""The chips' sensors against a wall meter, through the whole account."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobwatt.faults import wall_mismatch
from jobwatt.ledger import Ledger
from jobwatt.model import NS_PER_S, Device, Domain, Kind, Reading
from test_pipeline import charged, fresh, killed, page
from world import DRAM, PACKAGE, WATT, World

METER = Device(Domain.NODE, "wattmeter", "wattmeter", name="1+2")
BMC = Device(Domain.NODE, "bmc", "bmc", name="dcmi")
ESTIMATE = Device(Domain.CPU, "estimate:cpu", "estimate")
ABOVE = 116  # percent of what the chips' sensors see


class Walled(World):
    """A world with a meter in its feed that shows ABOVE percent of the components."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.plugged, self.percent = True, ABOVE

    @property
    def parts_uj(self):
        return sum(self.truth.values())

    def snapshot(self, **kwargs):
        snapshot = super().snapshot(**kwargs)
        if not self.plugged:
            return snapshot
        meter = Reading(METER, Kind.ENERGY, self.parts_uj * self.percent // 100, self.t_ns)
        return replace(snapshot, readings=(*snapshot.readings, meter))


def lived(world, pipeline, seconds, use):
    for _ in range(seconds):
        world.run(1, use, system=0.1)
        pipeline.push(world.snapshot())
    return pipeline.totals


def job_uj(totals):
    return sum(sum(job.energy_uj.values()) for job in totals.jobs.values())


def other_owners_uj(totals):
    return sum(totals.owners.values())


def test_jobs_sum_to_the_wall_and_the_balance_reads_16_percent():
    """Two jobs and a meter 16 % above RAPL + NVML: jobs + system + unallocated = wall, and the page says 0.16."""
    world, pipeline = Walled(), fresh()
    world.start("7", gpus=[0])
    world.start("8", gpus=[1], cpus=4)
    pipeline.push(world.snapshot())
    began = world.parts_uj
    totals = lived(world, pipeline, 90, {"7": 0.5, "8": 3.0})
    wall_uj = (world.parts_uj - began) * ABOVE // 100
    assert job_uj(totals) + other_owners_uj(totals) == wall_uj
    assert charged(totals) == totals.node
    shown = page(pipeline, world.snapshot())
    assert shown["jobwatt_wall_balance_ratio", ()] == "0.160000"
    assert shown["jobwatt_wall_seen_ratio", ()] == f"{100 / ABOVE:.6f}"
    assert totals.residual_uj == 0


def test_without_a_meter_jobs_sum_to_the_parts():
    """No OTHER, no ratio, no zero in place of either."""
    world, pipeline = World(), fresh()
    world.start("7", gpus=[0])
    pipeline.push(world.snapshot())
    began = sum(world.truth.values())
    for _ in range(90):
        world.run(1, {"7": 0.5}, system=0.1)
        totals = pipeline.push(world.snapshot())
    assert job_uj(totals) + other_owners_uj(totals) == sum(world.truth.values()) - began
    assert Domain.OTHER not in totals.node
    assert not [name for name, _ in page(pipeline, world.snapshot()) if "wall" in name]


@pytest.mark.parametrize("away_s", [3, 200])
def test_a_meter_that_comes_and_goes_changes_other_only(away_s):
    """The same life with and without a meter that is unplugged: every other figure of every job is the same."""
    lives = []
    for has_meter in (True, False):
        world, pipeline = Walled(), fresh()
        world.plugged = has_meter
        world.start("7", gpus=[0])
        pipeline.push(world.snapshot())
        lived(world, pipeline, 70, {"7": 0.5})
        world.plugged = False
        lived(world, pipeline, away_s, {"7": 0.5})
        world.plugged = has_meter
        lived(world, pipeline, 70, {"7": 0.5})
        lives.append(pipeline.totals)
    with_meter, without = lives
    job, same = with_meter.jobs["n1/7"], without.jobs["n1/7"]
    assert job.energy_uj[Domain.OTHER] > 0
    assert {d: uj for d, uj in job.energy_uj.items() if d is not Domain.OTHER} == same.energy_uj
    assert (job.measured_ns, job.gpus, job.cpu_ns) == (same.measured_ns, same.gpus, same.cpu_ns)
    assert {k: v for k, v in with_meter.owners.items() if k[1] is not Domain.OTHER} == dict(
        without.owners
    )


def test_what_fed_each_component_is_told_per_job_and_for_how_long():
    """RAPL, NVML and the meter feed a job with a GPU; one without, or with one that nobody reads, has no time of the GPU's."""
    world, pipeline = Walled(), fresh()
    world.start("7", gpus=[0])
    world.start("8")
    world.start("9", gpus=[5])
    pipeline.push(world.snapshot())
    totals = lived(world, pipeline, 10, {"7": 0.5})
    ten = 10 * NS_PER_S
    assert totals.jobs["n1/7"].fed_ns == {
        "cpu/rapl": ten,
        "dram/rapl": ten,
        "gpu/nvml": ten,
        "other/wattmeter": ten,
    }
    for other in ("n1/8", "n1/9"):
        assert totals.jobs[other].fed_ns.keys() == {"cpu/rapl", "dram/rapl", "other/wattmeter"}
    world.plugged = False
    totals = lived(world, pipeline, 300, {})
    assert totals.jobs["n1/7"].fed_ns["other/wattmeter"] == ten + 2 * NS_PER_S  # then it was late
    assert not pipeline._waiting  # claims wait for components alone
    shown = page(pipeline, world.snapshot())
    assert ("jobwatt_component_info", ("cpu", "rapl", "measured")) in shown
    assert ("jobwatt_component_info", ("other", "wattmeter", "measured")) not in shown
    assert shown["jobwatt_component_age_seconds", ("other", "wattmeter")] == "300.000000000"
    assert ("jobwatt_node_power_watts", ("other",)) not in shown


def test_a_meter_that_leaves_out_the_gpus_is_found_out():
    """Below CPUs, memory and GPUs for a minute: one line that names the setting; a right one has none."""
    world, pipeline = Walled(), fresh()
    world.percent = 60
    pipeline.push(world.snapshot())
    lived(world, pipeline, 59, {})
    assert wall_mismatch(pipeline.totals.wall, world.t_ns) == ()
    lived(world, pipeline, 2, {})
    (fault,) = wall_mismatch(pipeline.totals.wall, world.t_ns)
    assert fault.reason == "below_components"
    assert "shows 240 W while CPUs, memory and GPUs alone draw 400 W" in fault.message
    assert fault.message.endswith("Have it sum all of the node's power supplies")
    (fault,) = wall_mismatch(replace(pipeline.totals.wall, source="bmc"), world.t_ns)
    assert "Set bmc.includes-gpu to false if it leaves the GPUs out" in fault.message
    assert (
        wall_mismatch(pipeline.totals.wall, world.t_ns + 3600 * NS_PER_S) == ()
    )  # it is silent by then
    lived(world, pipeline, 300, {})
    assert pipeline.totals.residual_uj > 0
    world.percent = 300
    lived(world, pipeline, 1, {})
    assert wall_mismatch(pipeline.totals.wall, world.t_ns) == ()


def test_an_estimate_counts_as_no_measurement():
    """A job fed by the model alone is marked estimated, with a coverage of nothing."""
    world, pipeline = World(gpus=0), fresh()
    world.start("7")

    def push():
        snapshot = world.snapshot()
        reading = Reading(ESTIMATE, Kind.POWER, 50 * WATT, world.t_ns)
        return pipeline.push(replace(snapshot, readings=(reading,)))

    push()
    for _ in range(5):
        world.run(1, {"7": 1.0})
        totals = push()
    job = totals.jobs["n1/7"]
    assert job.energy_uj == {Domain.CPU: 250 * WATT}
    assert (job.measured_ns, job.fed_ns) == (0, {"cpu/estimate": 5 * NS_PER_S})
    shown = page(pipeline, world.snapshot())
    assert ("jobwatt_component_info", ("cpu", "estimate", "estimated")) in shown


def test_a_counter_does_not_bridge_what_was_estimated():
    """RAPL read, then locked while the model stands in after a restart, then read: no joule twice."""
    world, pipeline = World(gpus=0, wrap_uj=10**15), fresh()
    pipeline.push(world.snapshot())
    for _ in range(5):
        world.run(1)
        reading = Reading(ESTIMATE, Kind.POWER, 100 * WATT, world.t_ns)
        pipeline.push(replace(world.snapshot(), readings=(reading,)))
    world.run(1)
    totals = pipeline.push(world.snapshot())
    assert totals.node[Domain.CPU] == 400 * WATT  # four trapezoids of the model; RAPL begins anew
    assert PACKAGE.id in totals.devices
    assert DRAM.id in totals.devices


def test_the_account_with_the_wall_survives_a_kill(tmp_path):
    """A BMC's window that a restart falls into is settled as if nothing had happened."""
    world, pipeline = World(gpus=0), fresh(tmp_path / "ledger.db")
    bmc = [Reading(BMC, Kind.ENERGY, 0, world.t_ns, every_ns=10 * NS_PER_S)]
    wall = 0

    def push():
        return pipeline.push(
            replace(world.snapshot(), readings=(*world.snapshot().readings, bmc[0]))
        )

    push()
    for second in range(1, 41):
        world.run(1)
        wall += 250 * WATT
        if second % 10 == 0:
            bmc[0] = replace(bmc[0], value=wall, t_ns=world.t_ns)
        totals = push()
        if second == 25:
            killed(pipeline.ledger)
            pipeline = fresh(tmp_path / "ledger.db")
    assert totals.wall.compared.wall_uj == wall
    assert totals.wall.compared.parts_uj == sum(world.truth.values())
    assert totals.node[Domain.OTHER] + totals.wall.credit_uj == wall - sum(world.truth.values())


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([50, 100, 116, 140]), st.integers(1, 4)),
        max_size=20,
    )
)
def test_conservation_whatever_the_meter_does(lives):
    """Jobs + system + unallocated = node by component, plugged or not, above or below the parts."""
    world, pipeline = Walled(), fresh()
    world.start("7", gpus=[0])
    pipeline.push(world.snapshot())
    for plugged, percent, seconds in lives:
        world.plugged = plugged
        world.percent = max(percent, world.percent)  # a counter only grows
        totals = lived(world, pipeline, seconds, {"7": 0.5})
        assert charged(totals) == totals.node


def test_a_meter_read_elsewhere_is_the_same_counter():
    """A box that was read here and comes from another host now: one series, which only grows; `other` names one source."""
    world, pipeline = World(gpus=0), fresh()
    away = Device(Domain.NODE, "remote:wattmeter:1+2", "wattmeter", name="1+2")
    key = ("jobwatt_wall_energy_joules_total", ("wattmeter", "1+2"))
    shown = []
    for second in range(1, 61):
        world.run(1)
        meter = METER if second < 20 or second > 40 else away
        reading = Reading(meter, Kind.ENERGY, second * 300 * WATT, world.t_ns)
        bmc = Reading(BMC, Kind.ENERGY, second * 280 * WATT, world.t_ns)
        snapshot = replace(world.snapshot(), readings=(*world.snapshot().readings, reading, bmc))
        pipeline.push(snapshot)
        shown.append(float(page(pipeline, snapshot)[key]))
    assert shown == sorted(shown)
    feeding = [
        labels
        for name, labels in page(pipeline, snapshot)
        if name == "jobwatt_component_age_seconds"
    ]
    assert ("other", "wattmeter") in feeding
    assert ("other", "bmc") not in feeding


def test_an_old_ledger_is_read():
    """Rows written before the wall's account was kept restore to an empty one."""
    ledger = Ledger(None)
    assert ledger.restore("boot").totals.wall.meter == ""
