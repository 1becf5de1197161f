"""
Ninety-nine users of five labs. All of them are invented.

A user's name is the initial of a first name and a surname; surnames are made up after the sound of
many languages, so that no list of real people is behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

LABS = {"ltci": 31, "lisn": 24, "samovar": 17, "l2s": 15, "satie": 12}
FIRST_UID = 20_001

_NAMES = """
abelvaux aokondira mlefontel sdrazinov tnguyenot jdurambel crossalia abenharif kvestergren pokaforu
lmirandel hzhangyu ytakamori epapadoki rkowalnik fsantoval imbekele dpetrosky nkhatibi gmorellin
obrandvik vsubramal cduvernoy asilveiro mhaddadou jlindholt bozturkan wkuipersen zfarahani eromanelu
tmasekoni pgautherin srahmatov lchenguang dmuravick ajimenelo nbouazizi kfujisawo rdelmontel hokonjoba
moreilleux yparkseon avasilenk ctremblot gnakamuru ifitzgarel jabubakri lpellerano ssvobodin tbanerjil
vcastelneu wmwangiru xliuyuan zkarimovi bdelacruze erosenqvi fokekemba hmarchetta kpapazian nquirogal
omarovian ptheriaul qnguetsop ralmeidon staniguchu uyilmazel vbergstru woduyalen yandrianas zsimonelu
adiallomb bfontanill cgrunewa dhosseiny eivanchuk fjankovit gkamarado hlevasseu imontalba jnwosuchi
kolivarez lpereyral mquintano nrousselet osanchero ptakahado qurbaniak rvalentik swojcikal txavierin
uyamadori vzielinka wabdoulin xbrianson yferrandol znovotnil akarlstein bmensahor ctolonenk
"""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody of a lab, with ``appetite``: how often they submit, relative to the others."""

    index: int
    name: str
    uid: int
    lab: str
    appetite: float


def _labs() -> list[str]:
    """A lab for each user, the labs dealt out evenly over the ranks of appetite."""
    places = [((place + 0.5) / size, lab) for lab, size in LABS.items() for place in range(size)]
    return [lab for _, lab in sorted(places)]


def _users() -> tuple[User, ...]:
    """The first are the heavy ones: appetite falls with the rank, as it does on real clusters."""
    names = _NAMES.split()
    return tuple(
        User(index, name, FIRST_UID + index, lab, 1 / (index + 8))
        for index, (name, lab) in enumerate(zip(names, _labs(), strict=True))
    )


USERS = _users()
