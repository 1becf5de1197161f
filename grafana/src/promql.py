"""
Pieces of PromQL that the dashboards share.

Energy over the time range on show comes from rates recorded every minute over five minutes: sampled every five
minutes they tile the range (alerts/rules/recording.yaml). Whatever is over one job, or one node, is read raw.
"""

J_PER_KWH = "3.6e6"
CLUSTER = 'cluster=~"$cluster"'
STEP = "[$__range:5m]"  # the range on show, in the tiles of the recorded rates


def total(series: str, by: str = "", where: str = CLUSTER, window: str = STEP) -> str:
    """What a rate recorded over five minutes adds up to over ``window``, summed by the labels ``by``."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (sum_over_time({series}{{{where}}}{window})) * 300"


def kwh(joules: str) -> str:
    """Joules as kWh."""
    return f"({joules}) / {J_PER_KWH}"


def hours(seconds: str) -> str:
    """Seconds as hours."""
    return f"({seconds}) / 3600"


def now(series: str, by: str = "", where: str = CLUSTER) -> str:
    """A recorded series, summed by the labels ``by``."""
    return f"sum by ({by}) ({series}{{{where}}})" if by else f"sum ({series}{{{where}}})"


def grams(
    level: str, what: str = "", where: str = CLUSTER, window: str = STEP, by: str = ""
) -> str:
    """
    CO2e over ``window``, PUE included, with the carbon intensity of each five minutes; nothing where the site has set none.

    ``level``: job, user, account or cluster; ``what``: "" or ``gpu_idle_``.
    """
    return total(f"jobwatt:{level}_{what}co2e_grams:rate5m", by, where, window)


def cost(level: str, what: str = "", where: str = CLUSTER, window: str = STEP, by: str = "") -> str:
    """The same in the site's currency; nothing where the site has set no price."""
    return total(f"jobwatt:{level}_{what}cost:rate5m", by, where, window)


def caught_up(sum_: str, parts: list[tuple[str, str, str]]) -> str:
    """
    An integral, and what was not recorded of it (the last minutes, what was before the rules) at today's figures.

    ``parts``: the whole as the counters have it, what of it was recorded while there was a figure, and the series
    that prices one of it.
    """
    rest = " + ".join(
        f"(({whole}) - ({seen})) * on () group_left () {per}" for whole, seen, per in parts
    )
    alone = " + ".join(f"({whole}) * on () group_left () {per}" for whole, _, per in parts)
    return f"({sum_}) + {rest} or {alone}"


def priced(series: str, where: str, by: str) -> str:
    """What a job's recorded rate adds up to in the tiles for which there was an intensity or a price (``by``)."""
    return f"sum (sum_over_time(({series}{{{where}}} and on () {by}){STEP})) * 300"


def site_kwh(joules: str) -> str:
    """kWh of joules at the building's meter: the site's PUE included, where it is set."""
    return f"({joules}) * on () group_left () jobwatt:waste_kwh:per_joule"


def unused_share(level: str, where: str, by: str = "") -> str:
    """Idle GPU time over GPU time known, over the range on show."""
    idle = total(f"jobwatt:{level}_gpu_idle_seconds:rate5m", by, where)
    known = total(f"jobwatt:{level}_gpu_known_seconds:rate5m", by, where)
    return f"({idle}) / ({known} > 0)"
