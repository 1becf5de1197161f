"""
Alertmanager's files of a site: those shipped, with the site's own blocks written anew.

A block stands between ``site: NAME`` and ``end of site``, in comments; all else is taken as it is. Whatever
comes from site.toml is quoted for YAML, for a matcher or for a template, so that it stays text.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from . import files, regex, schedule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .site import Cost, Mail, Site

# User names that can stand in front of an @ as they are: what POSIX and sites use, nothing that mail
# gives a meaning to. alice.martin, a1234, 2024_bob, Alice; not DOMAIN\user, a@b, "a, b".
SAFE_USER = "[A-Za-z0-9_](?:[.]?[A-Za-z0-9_-]){0,31}"
_MARK = r"^(?:# |\{\{- /\* )"  # a comment of YAML or of a template, at the beginning of a line
_BLOCK = re.compile(
    rf"(?P<begin>{_MARK}site: (?P<name>[\w-]+)[^\n]*\n)(?P<old>.*?)(?P<end>{_MARK}end of site)",
    re.DOTALL | re.MULTILINE,
)


def texts(site: Site) -> dict[str, str]:
    """Alertmanager's files of the site, name -> text."""
    blocks = {
        "global": _global(site.mail),
        "users": f"        - {_quoted(_matcher('user', addressed(site.mail)))}\n",
        "operators": f"      - to: {_quoted(', '.join(site.mail.operators))}\n",
        "reply-to": f"          Reply-To: {_quoted(_reply_to(site.mail))}\n",
        "hours": _hours(site),
        "holidays": _holidays(site),
        "to": _to(site.mail),
        "variables": _variables(site),
    }
    return {name: filled(text, blocks) for name, text in files.alertmanager().items()}


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """``text`` with each of its blocks replaced; what stands between the blocks is kept."""
    return _BLOCK.sub(lambda m: m["begin"] + blocks[m["name"]] + m["end"], text)


def addressed(mail: Mail) -> str:
    """Return an expression that matches the users who have an address."""
    listed = "|".join(regex.literally(user) for user in sorted(mail.addresses))
    if mail.only_listed:
        return listed
    unsafe = [user for user in sorted(mail.addresses) if not re.fullmatch(SAFE_USER, user)]
    return "|".join([SAFE_USER, *(regex.literally(user) for user in unsafe)])


def _matcher(label: str, expression: str) -> str:
    return f"{label}=~{_quoted(expression)}"


def _quoted(text: str) -> str:
    """In double quotes as YAML, Alertmanager's matchers and Go's templates all read them."""
    return json.dumps(text, ensure_ascii=False)


def _reply_to(mail: Mail) -> str:
    return mail.reply_to or mail.operators[0]


def _global(mail: Mail) -> str:
    keys = {
        "smtp_smarthost": mail.smarthost,
        "smtp_from": mail.sender,
        "smtp_hello": mail.hello,
        "smtp_auth_username": mail.auth_username,
        "smtp_auth_password_file": mail.auth_password_file,
    }
    lines = [f"  {key}: {_quoted(value)}\n" for key, value in keys.items() if value]
    return "".join([*lines, f"  smtp_require_tls: {json.dumps(mail.require_tls)}\n"])


# --- time intervals ------------------------------------------------------------------------------


def _hours(site: Site) -> str:
    begin, end = site.schedule.hours
    days = ", ".join(_quoted(one) for one in schedule.day_ranges(site.schedule.days))
    return (
        f"      - location: {_quoted(site.schedule.timezone)}\n"
        f"        weekdays: [{days}]\n"
        f'        times: [{{start_time: "{_clock(begin)}", end_time: "{_clock(end)}"}}]\n'
    )


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _holidays(site: Site) -> str:
    zone = _quoted(site.schedule.timezone)
    lines = [
        f'      - {{years: ["{first.year}"], months: ["{first.month}"], '
        f'days_of_month: ["{first.day}:{last.day}"], location: {zone}}}\n'
        for begin, end in site.schedule.holidays
        for first, last in schedule.month_parts(begin, end)
    ]
    return "".join(lines) or '      - {years: ["1970"]}  # none: a year that will not come again\n'


# --- the templates -------------------------------------------------------------------------------


def _variables(site: Site) -> str:
    """What the mails' texts take from the site, as variables of a template; "" for what is not set."""
    mail = site.mail
    values = {
        "grafana": site.links.grafana,
        "currency": site.cost.currency,
        "contact": mail.contact or _reply_to(mail),
        "contact_url": mail.contact_url,
        "figures": _figures(site.cost),
    }
    return "".join(f"{{{{- ${name} := {_quoted(text)} -}}}}\n" for name, text in values.items())


def _to(mail: Mail) -> str:
    """
    The template of the address: from the table, else at the domain, else the operators.

    The route has made sure that the user is one of these; it is not relied upon here.
    """
    lines = ['{{ define "jobwatt.to" }}{{ $user := .GroupLabels.user }}{{ $to := "" -}}']
    for user, address in sorted(mail.addresses.items()):
        lines.append(
            f"{{{{ if eq $user {_quoted(user)} }}}}{{{{ $to = {_quoted(address)} }}}}{{{{ end -}}}}"
        )
    if not mail.only_listed:
        safe = _quoted(f"^(?:{SAFE_USER})$")
        at_domain = f'{{{{ $to = printf "%s@%s" $user {_quoted(mail.domain)} }}}}'
        lines.append(f"{{{{ if and (not $to) (match {safe} $user) }}}}{at_domain}{{{{ end -}}}}")
    lines.append(f"{{{{ or $to {_quoted(', '.join(mail.operators))} }}}}{{{{ end }}}}")
    return "\n".join(lines) + "\n"


def _figures(cost: Cost) -> str:
    """Where the mail's figures come from, in a sentence or more; what changes is not told as one number."""
    energy = "kWh: the energy that the GPUs drew meanwhile"
    if cost.pue_series:
        energy += ", times the PUE of the time for cooling and losses"
    elif cost.pue is not None:
        energy += f", times {cost.pue:g} for cooling and losses (PUE)"
    parts = [
        "GPU hours: time for which GPUs were held while no kernel ran on them, measured on the nodes",
        energy,
    ]
    if cost.carbon_intensity_series:
        parts.append("CO2e: at the carbon intensity of the electricity at the time")
    elif cost.carbon_intensity_g_per_kwh is not None:
        parts.append(f"CO2e: at {cost.carbon_intensity_g_per_kwh:g} g per kWh")
    at = list(_prices(cost))
    if at:
        parts.append(f"Cost: at {' and '.join(at)}")
    return ".\n".join(parts) + "."


def _prices(cost: Cost) -> Iterator[str]:
    if cost.price_per_kwh_series:
        yield f"the price in {cost.currency} per kWh at the time"
    elif cost.price_per_kwh is not None:
        yield f"{cost.price_per_kwh:g} {cost.currency} per kWh"
    if cost.price_per_gpu_hour is not None:
        yield f"{cost.price_per_gpu_hour:g} {cost.currency} per GPU hour"
