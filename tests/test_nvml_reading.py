"""The source nvml: what is read of a GPU, when, and how often it is asked."""

from __future__ import annotations

import time
from itertools import pairwise

import nvmlkit
import nvmlshim
from jobwatt.model import Kind, Sample
from jobwatt.sources.nvml import open_source
from nvmlkit import GPM, Rig, assert_catalogued, of, samples, state
from nvmlshim import Process, Script

script, rig = nvmlkit.script, nvmlkit.rig  # fixtures


def test_eight_gpus_are_read_in_full(rig: Rig) -> None:
    """Each GPU gives its counter in uJ, its power beside it, its state and its samples."""
    rig.script.gpus[2].processes = [Process(42, 3 << 30)]
    rig.script.write()
    result = rig.read()
    assert result.failures == ()
    assert_catalogued(result)
    for index, gpu in rig.script.gpus.items():
        energy, power = of(result, gpu.uuid), of(result, gpu.uuid, Kind.POWER)
        assert energy is not None
        assert power is not None
        assert energy.value == 1_000_000_000 * (index + 1)
        assert energy.wrap_uj == 0
        assert power.value == 400_000_000
        assert energy.max_power_uw == power.max_power_uw == 1_400_000_000
        assert (energy.device.domain, energy.device.name) == ("gpu", str(index))
    found = state(result, rig.uuid(2))
    assert (found.index, found.minor, found.slices, found.busy_permille) == (2, 2, 1, 900)
    assert found.pci_bus_id == "00000000:1A:00.0"
    assert found.memory_used_bytes == 20 << 30
    assert [(p.pid, p.memory_bytes) for p in found.processes or ()] == [(42, 3 << 30)]
    assert state(result, rig.uuid(3)).processes == ()
    labels = ("5", rig.uuid(5))
    expected = {
        "power_watts": 400, "power_limit_watts": 700, "utilization_ratio": 0.9, "memory_busy_ratio": 0.4,
        "temperature_celsius": 55, "sm_clock_hertz": 1.98e9, "memory_clock_hertz": 2.619e9, "up": 1,
        "memory_total_bytes": 80 << 30, "processes": 0,
    }  # fmt: skip
    assert {name: samples(result, f"gpu_{name}")[labels] for name in expected} == expected
    assert samples(result, "gpu_throttle_seconds_total")[*labels, "sw_power_cap"] == 2
    assert samples(result, "gpu_ecc_errors_total")[*labels, "uncorrected"] == 1
    assert samples(result, "gpu_remapped_rows")[*labels, "corrected"] == 2
    assert samples(result, "driver_info") == {("570.86.15", "12.8"): 1}


def test_values_carry_the_moment_of_their_own_call(script: Script) -> None:
    """A reading's time lies between the calls around it; a moving counter is right for that time."""
    gpu = script.gpus[0]
    gpu.set_power(350_000)
    script.write()
    with nvmlshim.loaded(script):
        source = open_source()
        times, off_uj = [nvmlshim.boottime_ns()], []
        for _ in range(9):
            reading = of(source.read(full=False), gpu.uuid)
            assert reading is not None
            times += [reading.t_ns, nvmlshim.boottime_ns()]
            off_uj.append(abs(reading.value - gpu.energy_at(reading.t_ns) * 1000))
            time.sleep(0.01)
        source.close()
    assert all(earlier < later for earlier, later in pairwise(times))
    # Within the counter's step of 1 mJ and 1 ms between call and clock at 350 W. The middle one: a busy
    # machine may well let a process wait between the two.
    assert sorted(off_uj)[4] <= 1000 + 350_000


def test_a_quick_read_asks_only_for_energy_and_use(rig: Rig) -> None:
    """full=False costs two calls a GPU, and still shows the page what was known."""
    shown = rig.read().samples
    rig.library.reset()
    result = rig.read(full=False)
    assert rig.library.counts() == {
        "nvmlDeviceGetTotalEnergyConsumption": 8,
        "nvmlDeviceGetUtilizationRates": 8,
    }
    assert {r.kind for r in result.readings} == {Kind.ENERGY}
    assert result.samples == shown


def test_slow_things_are_asked_at_their_own_pace(rig: Rig) -> None:
    """In a minute of full reads lists and health are taken at most each 10 s, and shown always."""
    slow = (
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetEnforcedPowerLimit",
        "nvmlDeviceGetMigMode",
    )
    rig.read()
    rig.library.reset()
    for _ in range(60):
        result = rig.read()
        assert len(samples(result, "gpu_processes")) == 8
        assert len(samples(result, "gpu_power_limit_watts")) == 8
    counts = rig.library.counts()
    for name in slow:
        assert 8 * 5 <= counts[name] <= 8 * 6, name
    assert counts["nvmlDeviceGetFieldValues"] == 8 * 60 + 8 * 6  # power each time, health each 10 s


def test_gentle_things_are_asked_of_one_gpu_after_the_other(rig: Rig) -> None:
    """In 40 s each GPU is asked for its temperature each 5 s, and no read asks more than two."""
    for gpu in rig.script.gpus.values():
        gpu.gpm = dict(GPM)
    rig.script.write()
    rig.read()
    for _ in range(12):
        rig.read()  # each GPU has its own turn by now
    names = ("nvmlDeviceGetTemperatureV", "nvmlGpmSampleGet", "nvmlGpmMetricsGet")
    total = dict.fromkeys(names, 0)
    for _ in range(40):
        rig.library.reset()
        result = rig.read()
        assert len(samples(result, "gpu_temperature_celsius")) == 8
        assert len(samples(result, "gpu_sm_active_ratio")) == 8
        for name in names:
            assert rig.library.calls(name) <= 2
            total[name] += rig.library.calls(name)
    assert set(total.values()) == {8 * 8}


def test_process_lists_of_many_gpus_are_spread(rig: Rig) -> None:
    """After the first read no read takes the lists of more than two of eight GPUs."""
    rig.read()
    for _ in range(40):
        rig.library.reset()
        rig.read()
        assert rig.library.calls("nvmlDeviceGetComputeRunningProcesses_v3") <= 2


def test_mps_clients_and_sm_shares(rig: Rig) -> None:
    """MPS clients are listed beside compute processes; a process without a sample used nothing."""
    rig.script.gpus[0].processes = [Process(7, sm=30), Process(8, sm=60, mps=True), Process(9)]
    rig.script.gpus[1].processes = [Process(5)]
    rig.script.write()
    result = rig.read()
    shares = {p.pid: p.sm_permille for p in state(result, rig.uuid(0)).processes or ()}
    assert shares == {7: 300, 8: 600, 9: 0}
    assert [p.sm_permille for p in state(result, rig.uuid(1)).processes or ()] == [0]
    assert result.failures == ()


def test_shares_are_unknown_where_the_driver_does_not_tell(rig: Rig) -> None:
    """Without process utilisation a share is None, never 0."""
    rig.script.gpus[0].processes = [Process(7, sm=30)]
    rig.script.fail("nvmlDeviceGetProcessUtilization", nvmlshim.NOT_SUPPORTED)
    (process,) = state(rig.read(), rig.uuid(0)).processes or ()
    assert process.sm_permille is None


def test_gpm_is_the_activity_between_two_reads(rig: Rig) -> None:
    """The first read opens the window, the next gives ratios; reads within 100 ms give the last."""
    rig.script.gpus[0].gpm = dict(GPM)
    rig.script.write()
    assert state(rig.read(), rig.uuid(0)).sm_permille is None
    result = rig.read()
    assert state(result, rig.uuid(0)).sm_permille == 400
    assert state(result, rig.uuid(1)).sm_permille is None
    labels = ("0", rig.uuid(0))
    assert samples(result, "gpu_sm_active_ratio") == {labels: 0.4}
    assert samples(result, "gpu_tensor_active_ratio") == {labels: 0.125}
    rig.library.reset()
    assert state(rig.read(after=0.05), rig.uuid(0)).sm_permille == 400
    assert rig.library.calls("nvmlGpmSampleGet") == 0


def test_gpm_windows_are_long_enough_for_the_library(script: Script) -> None:
    """In real time, with a library that refuses windows under 100 ms, figures still come."""
    script.gpm_min_ms = 100
    script.gpus[0].gpm = dict(GPM)
    script.write()
    with nvmlshim.loaded(script):
        source = open_source()
        for _ in range(6):
            result = source.read(full=True)
            time.sleep(0.03)
        source.close()
    assert state(result, script.gpus[0].uuid).sm_permille == 400


def test_gpm_held_by_another_is_left_alone(rig: Rig) -> None:
    """A profiler that holds the counters costs the figures, no failure and no further call."""
    rig.script.gpus[0].gpm = dict(GPM)
    rig.script.fail("nvmlGpmSampleGet", nvmlshim.IN_USE, 0)
    assert rig.read().failures == ()
    rig.library.reset()
    assert rig.read().failures == ()
    assert rig.library.calls("nvmlGpmSampleGet") == 0


def test_without_a_counter_power_stands_alone(rig: Rig) -> None:
    """A GPU without an energy counter gives power in every read, the quick one too."""
    rig.script.gpus[4].energy_mj = None
    rig.script.write()
    for full in (True, False):
        result = rig.read(full=full)
        assert of(result, rig.uuid(4)) is None
        assert of(result, rig.uuid(4), Kind.POWER) is not None
        assert result.failures == ()


def test_average_power_is_preferred(rig: Rig) -> None:
    """Power is the average over a second where the driver gives it, else its general figure."""
    rig.script.gpus[0].power_average_mw = 333_000
    rig.script.gpus[1].field_errors = {185: nvmlshim.NOT_SUPPORTED}
    rig.script.gpus[1].power_average_mw = 333_000
    rig.script.write()
    result = rig.read()
    values = [of(result, rig.uuid(i), Kind.POWER) for i in (0, 1)]
    assert [r and r.value for r in values] == [333_000_000, 400_000_000]


def test_each_field_value_has_its_own_outcome(rig: Rig) -> None:
    """A field that fails is missing and said, one that is unsupported is missing; the rest stay."""
    rig.script.gpus[0].field_errors = {269: nvmlshim.UNKNOWN, 142: nvmlshim.NOT_SUPPORTED}
    rig.script.write()
    result = rig.read()
    labels = ("0", rig.uuid(0))
    throttle = samples(result, "gpu_throttle_seconds_total")
    assert (*labels, "sw_power_cap") in throttle
    assert (*labels, "sw_thermal") not in throttle
    assert (*labels, "corrected") not in samples(result, "gpu_remapped_rows")
    assert [(f.device, f.reason) for f in result.failures] == [(rig.uuid(0), "nvml_error")]
    assert "field 269" in result.failures[0].message


def test_unsupported_calls_are_asked_once(rig: Rig) -> None:
    """NOT_SUPPORTED is remembered per GPU until the driver is opened again, and is no failure."""
    rig.script.fail("nvmlDeviceGetUtilizationRates", nvmlshim.NOT_SUPPORTED, 0)
    assert rig.read().failures == ()
    rig.library.reset()
    result = rig.read()
    assert state(result, rig.uuid(0)).busy_permille is None
    assert rig.library.calls("nvmlDeviceGetUtilizationRates") == 7
    rig.script.mend()
    rig.source.close()
    assert state(rig.read(), rig.uuid(0)).busy_permille == 900


def test_older_drivers_are_asked_by_their_older_calls(rig: Rig) -> None:
    """Where a newer function is missing, the older one gives the same figure."""
    for name in ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetCurrentClocksEventReasons"):
        rig.script.fail(name, nvmlshim.FUNCTION_NOT_FOUND)
    rig.script.gpus[0].reasons = 0x4
    rig.script.write()
    result = rig.read()
    assert len(samples(result, "gpu_temperature_celsius")) == 8
    throttled = samples(result, "gpu_throttled")
    assert throttled["0", rig.uuid(0), "sw_power_cap"] == 1
    assert throttled["1", rig.uuid(1), "sw_power_cap"] == 0


def test_xid_events_are_given_once(rig: Rig) -> None:
    """Each XID event is one increment in one read."""
    assert rig.read().events == ()
    rig.script.gpus[3].xids = [(1, 79), (2, 48), (3, 48)]
    rig.script.write()
    assert rig.read(full=False).events == ()
    labels = ("3", rig.uuid(3))
    increments = [
        Sample("jobwatt_gpu_xid_events_total", (*labels, xid), 1) for xid in ("79", "48", "48")
    ]
    assert list(rig.read().events) == increments
    assert rig.read().events == ()


def test_undecodable_names_are_shown_safely(rig: Rig) -> None:
    """Bytes that are no UTF-8 and control characters do not reach the page or stop the read."""
    rig.script.gpus[0].name = "NVIDIA \udcff\udcfe\x1b[31mX"
    rig.script.write()
    result = rig.read()
    assert result.failures == ()
    assert state(result, rig.uuid(0)).model == "NVIDIA \ufffd\ufffd[31mX"
