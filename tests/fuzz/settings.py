"""Files that a site writes: settings, addresses, rules."""

from __future__ import annotations

from pathlib import Path

import yaml

from fuzz.base import Broken, escaped, hold, joined, line, parts, put, target
from jobwatt import config
from jobwatt.alerts import addresses, alertmanager, inline, regex, render, site
from jobwatt.central.bmcproxy import targets
from jobwatt.config import ConfigError

SETTINGS = {one.metadata["name"]: one for one in config.settings()}
_TOML = b"""[web]
listen-address = ":9816"
[sample]
interval = "1s"
[source]
rapl = false
[wattmeter]
input = "exec:wattmetre-read --tty=/dev/ttyUSB0"
ports = "1=gpu01,2=gpu01"
[remote]
url = "https://h:9816"
[estimate]
tdp = "250.5"
"""


@target(
    "settings.toml",
    [_TOML, b'"remote.url" = "http://x"\nbmc.ipmi = "auto"\n'],
    ConfigError,
    share=0.5,
)
def settings_toml(data: bytes) -> None:
    try:
        config.from_flags({"config.file": str(put("jobwatt.toml", data))})
    except ConfigError as err:
        line(err, 20_000)
        raise


@target(
    "settings.values",
    [
        joined("sample.interval", "1h30m"), joined("wattmeter.input", "tcp://[::1]:7"), joined("wattmeter.ports", "1=a,2=b.c"),
        joined("remote.url", "https://u:p@h/x?y"), joined("estimate.tdp", "250.5"), joined("bmc.redfish", "https://bmc"),
        joined("bmc.interval", "10s"), joined("path.state", "/var"), joined("log.level", "info"),
    ],
    share=2.0,
)  # fmt: skip
def values(data: bytes) -> None:
    name, value = map(escaped, parts(data, 2))
    for one in [SETTINGS[name]] if name in SETTINGS else SETTINGS.values():
        if one.metadata["parse"] is not None:
            try:
                config._parsed(one, value, name)
            except ConfigError as err:
                line(repr(str(err)), 1 << 16)


def _site() -> list[bytes]:
    return [Path(__file__).parents[2].joinpath("alerts/site.toml").read_bytes(), _SITE]


_SITE = b"""[mail]
smarthost = "smtp.example.org:587"
from = "GPU <gpu@example.org>"
operators = ["ops@example.org"]
domain = "example.org"
addresses = { amartin = "a.m@example.org" }
[schedule]
timezone = "Europe/Paris"
hours = "08:00-19:00"
days = ["monday:friday"]
holidays = ["2026-12-24..2027-01-03"]
[cost]
pue = 1.3
carbon_intensity_series = "grid_g"
[thresholds]
idle = "1h"
[exclude]
user = ["root|test.*"]
"""


@target("settings.site", _site, ConfigError, max_len=8192, share=0.15)
def site_toml(data: bytes) -> None:
    try:
        found = site.read(put("site.toml", data))
    except ConfigError as err:
        line(err, 20_000)
        raise
    list(site.notes(found))
    for name, text in {**alertmanager.texts(found), **render.texts(found)}.items():
        if name.endswith((".yml", ".yaml")):
            try:
                yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except yaml.YAMLError as err:
                raise Broken(f"{name} is no YAML: {err}") from err


@target(
    "settings.addresses",
    [b"user,address\na,a@example.org\n# c\nb, b@example.org\n", b'"a\n'],
    ValueError,
    share=1.0,
)
def address_table(data: bytes) -> None:
    for name in ("listed.csv", "listed.toml"):
        try:
            found = addresses.read(put(name, data))
        except ValueError as err:
            line(repr(str(err)), 1 << 16)
        else:
            for user, address in found.items():
                hold(
                    user.isprintable() and address.isascii() and address.isprintable(), "no address"
                )


@target(
    "settings.regex",
    [b"root|test.*", b"(?i:a)[[:alpha:]]{2,3}\\d+", b"(?:a{1000}){1000}", b"[]a]"],
    ValueError,
    max_len=512,
    share=1.0,
)
def regexes(data: bytes) -> None:
    regex.check(escaped(data))


@target(
    "settings.rules",
    [
        b"groups:\n- name: a\n  rules:\n  - record: jobwatt:x\n    expr: sum(a) by (b)\n  - alert: B\n    expr: jobwatt:x > 1\n    for: 5m\n    labels: {audience: user}\n",
        b"groups: [{name: a, rules: [{alert: B, expr: 'x{a=\"b\"}', for: 1h30m, annotations: {a: b}}]}]",
        b"groups: 2000-01-01",
    ],
    inline.RuleError,
    share=0.2,
)
def rules(data: bytes) -> None:
    found = inline.read({"site.yaml": data.decode("utf-8", "replace")})
    for alert in found.alerts:
        inline.expand(alert.expr, found.records)


@target(
    "settings.bmc_list",
    [b'threads = 4\n[defaults]\ncredentials = "/etc/c"\n[[bmc]]\nnode = "gpu01"\nurl = "https://bmc1"\ninterval = "30s"\n[[bmc]]\nnode = "gpu02"\nipmi = "bmc2"\nverify = false\n'],
    ConfigError,
    share=0.5,
)  # fmt: skip
def bmc_list(data: bytes) -> None:
    try:
        found = targets.read(put("bmc.toml", data))
    except ConfigError as err:
        line(err, 20_000)
        raise
    for entry in found.entries:
        hold(entry.node.isprintable() and bool(entry.url) != bool(entry.ipmi), "no BMC")
