"""What a wall meter saw beyond the chips' sensors: settled exactly, smooth, and said where it cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.model import NS_PER_S, Delta, Device, Domain, Step
from jobwatt.wall import BELOW_NS, PATIENCE_NS, SILENT_NS, Block, Wall, charged, rank

S = NS_PER_S
J = 10**6
CPU = Device(Domain.CPU, "cpu", "rapl")
GPU = Device(Domain.GPU, "gpu", "nvml")
METER = Device(Domain.NODE, "wattmeter", "wattmeter")
BMC = Device(Domain.NODE, "bmc", "bmc")


def plain(device, energy_uj, dt_ns=S, step=Step.NORMAL):
    return Delta(device, energy_uj, dt_ns, step)


def first(device):
    return Delta(device, 0, 0, Step.FIRST)


class Account:
    """Intervals one after another, and what they came to."""

    def __init__(self):
        self.wall, self.t_ns = Wall(), 1000 * S
        self.others, self.residual_uj, self.parts_uj = [], 0, 0

    def step(self, *deltas, dt_ns=S):
        self.t_ns += dt_ns
        charge = charged(self.wall, deltas, dt_ns, self.t_ns)
        self.wall = charge.wall
        self.others.append(charge.other_uj)
        self.residual_uj += charge.residual_uj
        self.parts_uj += sum(d.energy_uj for d in deltas if d.device.domain is not Domain.NODE)
        return charge

    @property
    def other_uj(self):
        return sum(other or 0 for other in self.others)


def test_an_account_begins_with_nothing():
    """Nothing seen, nothing owed, nothing lost, no meter."""
    charge = charged(Wall(), [plain(CPU, 5), plain(GPU, 7)], S, 9 * S)
    nothing = Block(0, 0, 0)
    assert charge.wall == Wall(
        meter="", source="", includes_gpu=True, last_ns=0, host_uj=5, gpu_uj=7, credit_uj=0, due_uj=0,
        window_ns=0, every_ns=0, lost=False, compared=nothing, block=nothing, latest=nothing, below_ns=0,
    )  # fmt: skip
    assert (charge.other_uj, charge.residual_uj, charge.window_ns) == (None, 0, 0)


@pytest.mark.parametrize(
    ("window_ns", "every_ns", "silent_ns", "late_ns"),
    [
        (0, 0, 15 * S, S * 5 // 2),
        (S, S, 15 * S, S * 5 // 2),
        (10 * S, 0, 30 * S, 25 * S),
        (0, 10 * S, 30 * S, 25 * S),
        (6 * S, 2 * S, 18 * S, 15 * S),
    ],
)
def test_how_long_a_meter_is_waited_for(window_ns, every_ns, silent_ns, late_ns):
    """Three of its own windows and 15 s at least until another counts; two and a half until OTHER is not known."""
    wall = Wall("m", last_ns=7, window_ns=window_ns, every_ns=every_ns)
    for holds, ns in ((wall.speaks, silent_ns), (wall.feeds, late_ns)):
        assert (holds(7 + ns), holds(8 + ns)) == (True, False)
    assert (Wall().speaks(0), Wall().feeds(0)) == (False, False)
    assert BELOW_NS == PATIENCE_NS == 60 * S


def test_the_best_meter_first():
    """By source, then by name; one of an unknown kind last."""
    meters = [
        Device(Domain.NODE, f"{n}", s) for n, s in enumerate(("odd", "bmc", "hwmon", "wattmeter"))
    ]
    more = Device(Domain.NODE, "0", "wattmeter")
    assert sorted([*meters, more], key=rank) == [more, *reversed(meters)]


@pytest.mark.parametrize(("window_ns", "settled_ns"), [(60 * S, 60 * S), (60 * S + 1, 0)])
def test_a_window_of_a_minute_is_settled(window_ns, settled_ns):
    """A longer silence is not: nobody can say who was there."""
    account = Account()
    account.step(first(METER))
    account.step(plain(CPU, 100 * J))
    charge = account.step(plain(METER, 150 * J, window_ns))
    assert (charge.window_ns, charge.wall.window_ns, charge.residual_uj) == (
        settled_ns,
        settled_ns,
        0,
    )
    assert (charge.wall.compared.dt_ns, charge.wall.below_ns) == (settled_ns, 0)


@pytest.mark.parametrize(
    ("window_ns", "other_uj"),
    [(S // 2, 50 * J), (3 * S // 2, 50 * J), (3 * S // 2 + 2, 33_333_333)],
)
def test_a_window_a_little_longer_than_the_interval(window_ns, other_uj):
    """Is settled at once; from one and a half intervals on it is spread over the next of its length."""
    account = Account()
    account.step(first(METER))
    account.step(plain(CPU, 100 * J))
    assert account.step(plain(METER, 150 * J, window_ns)).other_uj == other_uj


@pytest.mark.parametrize("credit_uj", [-5, 0, 1, 2])
def test_what_is_owed_is_charged_though_the_meter_is_gone(credit_uj):
    """To the last microjoule; nothing owed and nothing heard is not known, rather than 0; another meter inherits no debt."""
    wall = Wall("wattmeter", "wattmeter", credit_uj=credit_uj)
    charge = charged(wall, [], S, 100 * S)
    assert charge.other_uj == (credit_uj if credit_uj > 0 else None)
    charge = charged(wall, [first(BMC)], S, 100 * S)
    assert (charge.wall.meter, charge.other_uj) == ("bmc", max(credit_uj, 0))
    assert (charge.wall.credit_uj, charge.residual_uj, charge.window_ns) == (0, 0, 0)


def test_a_meter_read_at_each_sample_is_settled_at_once():
    """What it saw beyond the components is charged in the same interval, to the microjoule."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    for extra in (1, 2_000_003, 77, 0):
        assert account.step(plain(CPU, 100 * J), plain(METER, 100 * J + extra)).other_uj == extra
    assert (account.residual_uj, account.wall.below_ns) == (0, 0)
    assert account.wall.shown == account.wall.block == Block(400 * J + 2_000_081, 400 * J, 4 * S)


def test_a_slow_meter_is_smooth_and_owes_at_most_a_window():
    """A BMC that answers every ten seconds: the same power each second, and in the long run node = wall."""
    account = Account()
    account.step(plain(CPU, 300 * J), first(BMC))
    for second in range(1, 101):
        news = plain(BMC, 10 * 350 * J, 10 * S) if second % 10 == 0 else plain(BMC, 0, 0)
        account.step(plain(CPU, 300 * J), news)
    # until the first window is over nothing is known of it, which is not nothing
    assert account.others[:11] == [0, 0, 0] + [None] * 7 + [50 * J]
    assert set(account.others[11:]) == {50 * J}
    assert account.other_uj == 91 * 50 * J  # of 100 s: nine seconds are still to be charged
    assert account.wall.credit_uj == 9 * 50 * J


def test_a_deficit_is_paid_by_later_windows():
    """A step in the load that the meter shows a second later: nothing is lost and nothing is a residual."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    account.step(plain(CPU, 500 * J), plain(METER, 110 * J))  # 390 J too little
    account.step(plain(CPU, 500 * J), plain(METER, 900 * J))  # 400 J too much
    account.step(plain(CPU, 500 * J), plain(METER, 510 * J))
    assert account.others == [0, 0, 10 * J, 10 * J]
    assert account.residual_uj == 0


@pytest.mark.parametrize("lag_s", [1, 5])
@pytest.mark.parametrize("events", [False, True], ids=["ticks", "events"])
def test_a_meter_that_lags_is_no_mismatch(lag_s, events):
    """
    A load that swings between 100 and 800 W every ten seconds, a meter that averages over the last seconds,
    windows cut short by job events: in the long run node = wall, and nothing is a residual.
    """
    account, loads, wall_uj, parts_uj = Account(), [], 0, 0
    account.step(first(METER))
    for second in range(600):
        loads.append(100 if second // 10 % 2 else 800)
        lagging = 1.06 * sum(loads[-lag_s - 1 :]) / len(loads[-lag_s - 1 :])
        parts_uj, wall_uj = parts_uj + loads[-1] * J, wall_uj + int(lagging * J)
        cuts = ([20, 980] if second % 10 == 0 else [1000]) if events else [1000]
        for ms in cuts:
            part, seen = loads[-1] * J * ms // 1000, int(lagging * J) * ms // 1000
            account.step(plain(CPU, part, ms * S // 1000), plain(METER, seen, ms * S // 1000), dt_ns=ms * S // 1000)  # fmt: skip
    assert account.residual_uj == 0
    node = account.parts_uj + account.other_uj
    assert node == account.wall.compared.wall_uj - account.wall.credit_uj
    assert node == pytest.approx(wall_uj, rel=0.01)


def test_a_meter_below_the_components_is_a_residual():
    """It counts as 0, nobody is paid back, and what exceeds a minute or two is said; after a minute it is a mismatch."""
    account = Account()
    account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), first(METER))
    for _ in range(600):
        account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), plain(METER, 300 * J))
    assert account.other_uj == 0
    assert account.residual_uj - account.wall.credit_uj == 600 * 500 * J
    assert -120 * 800 * J <= account.wall.credit_uj < 0
    assert account.wall.below_ns == 600 * S > BELOW_NS
    assert account.wall.shown.wall_uj < account.wall.shown.parts_uj
    account.step(plain(CPU, 100 * J), plain(METER, 300 * J))
    assert account.wall.below_ns == 0


def test_a_meter_without_the_gpus_is_held_against_the_rest():
    """`includes_gpu` off: the GPUs come on top, and OTHER is what is beyond CPUs and memory."""
    account = Account()
    meter = Device(Domain.NODE, "bmc", "bmc", includes_gpu=False)
    account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), first(meter))
    charge = account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), plain(meter, 150 * J))
    assert (charge.other_uj, charge.residual_uj) == (50 * J, 0)
    assert not charge.wall.includes_gpu


def test_the_best_meter_counts_and_another_takes_over():
    """Wattmeter before BMC; when it is silent for a while the BMC counts, and it comes back once it has delivered."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER), first(BMC))
    assert (
        account.step(plain(CPU, 100 * J), plain(METER, 130 * J), plain(BMC, 110 * J)).other_uj
        == 30 * J
    )
    for _ in range(SILENT_NS // S):
        assert not account.step(plain(CPU, 100 * J), plain(BMC, 110 * J)).other_uj
    account.step(plain(CPU, 100 * J), plain(BMC, 110 * J))  # from here on it counts
    assert account.wall.source == "bmc"
    assert account.step(plain(CPU, 100 * J), plain(BMC, 110 * J)).other_uj == 10 * J
    account.step(plain(CPU, 100 * J), first(METER), plain(BMC, 110 * J))
    assert account.wall.source == "bmc"  # a first reading delivers nothing yet
    account.step(plain(CPU, 100 * J), plain(METER, 130 * J), plain(BMC, 110 * J))
    assert account.wall.source == "wattmeter"
    assert account.step(plain(CPU, 100 * J), plain(METER, 130 * J)).other_uj == 30 * J


def test_a_better_meter_that_flaps_shuts_no_other_out():
    """A wattmeter that begins anew every 50 s beside a BMC that delivers: the BMC's account goes on."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(BMC))
    for second in range(1, 601):
        flap = (plain(METER, 0, S, Step.RESET),) if second % 50 == 0 else ()
        account.step(plain(CPU, 100 * J), plain(BMC, 130 * J), *flap)
    assert account.other_uj == 600 * 30 * J


def test_a_meter_that_speaks_seldom_counts():
    """Every two minutes, as it says itself: that is no silence, from the first window on."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(BMC))
    for second in range(1, 601):
        news = (plain(BMC, 0, 0),)
        if second % 120 == 0:
            news = (Delta(BMC, 120 * 130 * J, 120 * S, Step.NORMAL, 120 * S),)
        account.step(plain(CPU, 100 * J), *news)
    assert account.wall.compared.wall_uj == 600 * 130 * J
    assert account.other_uj + account.wall.credit_uj == 600 * 30 * J


def test_a_window_with_a_component_unknown_is_held_against_nothing():
    """RAPL that may have wrapped twice while the meter counted on: its energy is nobody's OTHER."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    account.step(
        plain(CPU, 0, 300 * S, Step.AMBIGUOUS), plain(METER, 300 * 130 * J, 300 * S), dt_ns=300 * S
    )
    account.step(plain(CPU, 100 * J), plain(METER, 130 * J))
    assert account.others == [0, 0, 30 * J]


def test_one_meters_debt_is_no_others():
    """What a meter that left out the GPUs owes is not paid by the one that replaces it, nor by itself once it is told."""
    account = Account()
    account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), first(BMC))
    for _ in range(30):
        account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), plain(BMC, 150 * J))
    told = Device(Domain.NODE, "bmc", "bmc", includes_gpu=False)
    for _ in range(3):
        account.step(plain(CPU, 100 * J), plain(GPU, 700 * J), plain(told, 150 * J))
    assert account.others[-2:] == [50 * J, 50 * J]


@pytest.mark.parametrize("step", [Step.RESET, Step.AMBIGUOUS, Step.GAP])
def test_a_window_of_which_nothing_is_known_charges_nothing(step):
    """A meter that began again: the components of that time are not held against the next window."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    account.step(plain(CPU, 100 * J), plain(METER, 0, S, step))
    account.step(plain(CPU, 100 * J), plain(METER, 120 * J))
    assert account.others == [0, 0, 20 * J]
    assert account.residual_uj == 0


def test_a_meter_that_goes_and_stays_away_ends_other():
    """Without a meter there is no OTHER, rather than one of 0."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    account.step(plain(CPU, 100 * J), plain(METER, 120 * J))
    for _ in range(2 * PATIENCE_NS // S):
        account.step(plain(CPU, 100 * J))
    assert account.others[:4] == [0, 20 * J, 0, 0]  # late, but not yet too late
    assert set(account.others[4:]) == {None}


def test_a_long_outage_is_charged_to_nobody():
    """A counter that bridges minutes tells how much, not whose: those who are there now did not use it."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    account.step(plain(CPU, 100 * J), plain(METER, 120 * J))
    for _ in range(300):
        account.step(plain(CPU, 100 * J))
    account.step(plain(CPU, 100 * J), plain(METER, 301 * 120 * J, 301 * S))
    account.step(plain(CPU, 100 * J), plain(METER, 120 * J))
    assert account.other_uj == 40 * J


def test_samples_far_apart_are_no_outage():
    """A meter that is read at every sample is not silent, however far apart the samples are (a restart, a recording)."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    for _ in range(3):
        account.step(
            plain(CPU, 30000 * J, 300 * S), plain(METER, 36000 * J, 300 * S), dt_ns=300 * S
        )
    assert account.others == [0, 6000 * J, 6000 * J, 6000 * J]


watts = st.integers(0, 3000)
windows = st.lists(
    st.tuples(st.integers(1, 12), st.lists(watts, min_size=12, max_size=12), watts), max_size=30
)


@given(windows)
def test_node_equals_wall_but_for_what_is_said(some):
    """Parts + OTHER + what is owed = wall + residual, exactly, whatever the windows; OTHER is never negative."""
    account = Account()
    account.step(first(METER))
    wall_uj = 0
    for seconds, load, extra in some:
        for second in range(seconds):
            news = (
                (plain(METER, extra * J * seconds, seconds * S),) if second == seconds - 1 else ()
            )
            account.step(plain(CPU, load[second] * J), *news)
        wall_uj += extra * J * seconds
    assert (
        account.parts_uj + account.other_uj + account.wall.credit_uj
        == wall_uj + account.residual_uj
    )
    assert all(other >= 0 for other in account.others if other is not None)
    assert account.wall.compared.wall_uj == wall_uj
    assert account.wall.compared.parts_uj == account.parts_uj


def test_the_ratio_is_told_over_whole_minutes():
    """16 % above is said to be 16 % above, once a minute is whole, and not the noise of a second."""
    account = Account()
    account.step(plain(CPU, 100 * J), first(METER))
    for second in range(200):
        account.step(plain(CPU, 100 * J), plain(METER, (108 if second % 2 else 124) * J))
    shown = account.wall.shown
    assert (shown.dt_ns, shown.wall_uj * 100) == (60 * S, shown.parts_uj * 116)
