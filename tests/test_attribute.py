"""The split: exact, conserved, and equal to the worked example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobwatt.attribute import (
    SYSTEM,
    UNALLOCATED,
    Beyond,
    Claim,
    Pool,
    attribute,
    by_owner,
    split,
    split_pool,
)
from jobwatt.model import NS_PER_S, Domain

DT = 60 * NS_PER_S
KJ = 10**9  # uJ


def worked_example():
    """60 s of a node of 64 cores and 512 GB with jobs A and B."""
    cpu = Pool(
        Domain.CPU,
        "cpu",
        240 * 60 * 10**6,
        DT,
        120 * 10**6,
        64 * DT,
        2000 * NS_PER_S,
        (Claim("A", 16 * DT, 600 * NS_PER_S), Claim("B", 32 * DT, 1320 * NS_PER_S)),
    )
    dram = Pool(
        Domain.DRAM,
        "dram",
        40 * 60 * 10**6,
        DT,
        30 * 10**6,
        512 * DT,
        2000 * NS_PER_S,
        (Claim("A", 128 * DT, 600 * NS_PER_S), Claim("B", 256 * DT, 1320 * NS_PER_S)),
    )
    gpus = [
        Pool(Domain.GPU, f"g{i}", watts * 60 * 10**6, DT, 60 * 10**6, DT, None, claims)
        for i, (watts, claims) in enumerate(
            [
                (400, (Claim("A", DT, DT),)),
                (90, (Claim("A", DT, DT),)),
                (300, (Claim("B", DT, DT),)),
                (60, ()),
            ]
        )
    ]
    return [cpu, dram, *gpus]


def test_worked_example_is_exact():
    """The worked example of the README, to the microjoule."""
    result = attribute(worked_example(), Beyond("wall", 1300 * 60 * 10**6 - 67800 * 10**6))
    table = {}
    for (owner, domain, _), energy_uj in result.rows.items():
        table[owner, str(domain)] = table.get((owner, str(domain)), 0) + energy_uj
    joule = 10**6
    assert {key: value for key, value in table.items() if key[1] != "other" and value} == {
        ("A", "cpu"): 3960 * joule,
        ("B", "cpu"): 8352 * joule,
        (SYSTEM, "cpu"): 288 * joule,
        (UNALLOCATED, "cpu"): 1800 * joule,
        ("A", "dram"): 630 * joule,
        ("B", "dram"): 1296 * joule,
        (SYSTEM, "dram"): 24 * joule,
        (UNALLOCATED, "dram"): 450 * joule,
        ("A", "gpu"): 29400 * joule,
        ("B", "gpu"): 18000 * joule,
        (UNALLOCATED, "gpu"): 3600 * joule,
    }
    # 10200 J of `other` in proportion to 33990 / 27648 / 312 / 5850 of 67800 J
    assert {owner: value for (owner, part), value in table.items() if part == "other"} == {
        "A": 5_113_539_823,
        "B": 4_159_433_628,
        SYSTEM: 46_938_053,
        UNALLOCATED: 880_088_496,
    }
    totals = by_owner(result.rows)
    assert {owner: round(uj / joule, 1) for owner, uj in totals.items()} == {
        "A": 39103.5,
        "B": 31807.4,
        SYSTEM: 358.9,
        UNALLOCATED: 6730.1,
    }
    assert sum(totals.values()) == 78_000 * joule


def mig_pool():
    """A GPU of seven slices over 60 s: 18 kJ of which 3.6 kJ static; 4g at 80 %, 2g at 50 %, 1g free."""
    return Pool(
        Domain.GPU,
        "g",
        18 * KJ,
        DT,
        60 * 10**6,
        7 * DT,
        None,
        (Claim("a", 4 * DT, 4 * 800 * DT), Claim("b", 2 * DT, 2 * 500 * DT)),
    )


def test_mig_example():
    """The example of a shared GPU, as docs/attribution.md has it."""
    shares = split_pool(mig_pool())
    assert {owner: round(uj / 10**6, 1) for owner, uj in shares.items()} == {
        "a": 13028.6,
        "b": 4457.1,
        UNALLOCATED: 514.3,
    }
    assert sum(shares.values()) == 18 * KJ


def test_idle_shared_gpu_follows_slices():
    """Where no holder used a shared GPU, or one's use is unknown, the slices decide."""
    for used in (0, None):
        pool = Pool(Domain.GPU, "g", 7000, DT, 0, 7, None, (Claim("a", 4, used), Claim("b", 3, 0)))
        assert split_pool(pool) == {"a": 4000, "b": 3000, UNALLOCATED: 0}


def test_reservation_is_paid_without_use():
    """A job with no CPU time and no GPU still pays its reservation."""
    pool = Pool(Domain.CPU, "cpu", 100, NS_PER_S, 100, 4, 0, (Claim("j", 1, 0),))
    assert split_pool(pool) == {"j": 25, UNALLOCATED: 75, SYSTEM: 0}


@pytest.mark.parametrize("had", [1, 2])
def test_who_has_it_all_pays_it_all(had):
    """Nothing is free and nothing is the system's where a job holds and used all, or by its own account more."""
    pool = Pool(Domain.CPU, "cpu", 100, NS_PER_S, 50, 1, 1, (Claim("j", had, had),))
    assert split_pool(pool) == {"j": 100, UNALLOCATED: 0, SYSTEM: 0}


def test_no_busy_time_goes_to_system():
    """C = 0 sends dynamic energy to the system."""
    assert split_pool(Pool(Domain.CPU, "cpu", 50, 1, 0, 0, 0, (Claim("j", 0, 0),))) == {
        "j": 0,
        UNALLOCATED: 0,
        SYSTEM: 50,
    }


@pytest.mark.parametrize(
    ("includes_gpu", "others"), [(True, {"a": 70, "b": 10, SYSTEM: 20}), (False, {"a": 40, "b": 20, SYSTEM: 40})]
)  # fmt: skip
def test_a_meter_without_the_gpus_costs_their_users_no_more(includes_gpu, others):
    """What it saw beyond the components follows CPU and memory alone; one that sees the GPUs follows these, too."""
    cpu = Pool(Domain.CPU, "cpu", 50, DT, 0, 0, 50, (Claim("a", 0, 20), Claim("b", 0, 10)))
    gpu = Pool(Domain.GPU, "g", 50, DT, 0, 1, None, (Claim("a", 1, 1),))
    rows = attribute([cpu, gpu], Beyond("wall", 100, includes_gpu)).rows
    assert {owner: uj for (owner, d, _), uj in rows.items() if d is Domain.OTHER and uj} == others


@pytest.mark.parametrize(
    ("weights_", "shares"),
    [
        ({"a": 1, "b": 0}, {"a": 7, "b": 0}),
        ({"a": 0, "b": 0}, {"a": 0, "b": 7}),
        ({"a": 1, "b": 1}, {"a": 4, "b": 3}),  # ties by owner name
        ({"a": 1, "b": 2}, {"a": 2, "b": 5}),
        ({}, {"b": 7}),
    ],
)
def test_split(weights_, shares):
    """Exact; `b` is who receives the rest where nobody has a weight."""
    assert split(7, weights_, rest="b") == shares


energies = st.integers(0, 10**15)
weights = st.integers(0, 10**14)
claims = st.lists(
    st.builds(Claim, st.text("abcdefgh", min_size=1, max_size=2), weights, st.none() | weights),
    max_size=8,
    unique_by=lambda claim: claim.owner,
)
pools = st.builds(
    Pool,
    st.sampled_from([Domain.CPU, Domain.DRAM, Domain.GPU]),
    st.text("xyz", max_size=2),
    energies,
    st.integers(0, 10**12),
    st.integers(0, 10**10),
    weights,
    st.none() | weights,
    claims.map(tuple),
)


@given(
    st.lists(pools, max_size=6),
    st.none() | st.builds(Beyond, st.just("w"), energies, st.booleans()),
)
def test_conservation(some, beyond):
    """Jobs + system + unallocated = node, always, to the microjoule; nobody gets less than 0."""
    result = attribute(some, beyond)
    measured = sum(pool.energy_uj for pool in some)
    assert sum(result.rows.values()) == measured + (beyond.energy_uj if beyond else 0)
    assert all(energy_uj >= 0 for energy_uj in result.rows.values())
    for domain in (Domain.CPU, Domain.DRAM, Domain.GPU):
        assert sum(uj for (_, d, _), uj in result.rows.items() if d == domain) == sum(
            pool.energy_uj for pool in some if pool.domain == domain
        )


@given(pools)
def test_order_of_jobs_does_not_matter(pool):
    """The same claims in another order give the same shares."""
    turned = Pool(
        pool.domain,
        pool.device,
        pool.energy_uj,
        pool.dt_ns,
        pool.idle_uw,
        pool.capacity,
        pool.busy,
        tuple(reversed(pool.claims)),
    )
    assert split_pool(pool) == split_pool(turned)


@given(energies, st.dictionaries(st.text("abc", min_size=1, max_size=3), weights, max_size=8))
def test_split_is_within_one_unit_of_proportion(energy_uj, by_name):
    """A share differs from the exact proportion by less than one microjoule."""
    total = sum(by_name.values())
    shares = split(energy_uj, by_name, rest="rest")
    if total:
        assert all(abs(shares[o] * total - energy_uj * w) < total for o, w in by_name.items())
