"""
Settings: one table gives the flags, the TOML keys, the defaults and the help.

A flag beats the file, the file beats the default. A key or a flag that is not known is refused with
the nearest one that is: a misspelt setting must not be silently without effect.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .kinds import (
    bmc_interval,
    bmc_url,
    choice,
    count,
    directory,
    interval,
    meter_input,
    meter_ports,
    optional_file,
    optional_watts,
    page_url,
    positive_duration,
    remote_interval,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class ConfigError(ValueError):
    """A setting that cannot be used: which, where, and how to mend it; one line, whatever a file holds."""

    def __str__(self) -> str:
        return "".join(c if c.isprintable() else " " for c in super().__str__())


def _setting(name: str, default: str | bool, parse: Callable[[str], Any] | None, text: str) -> Any:
    value = default if parse is None else parse(str(default))
    meta = {"name": name, "parse": parse, "help": text, "shown": default}
    return field(default=value, metadata=meta)


@dataclass(frozen=True)
class Config:
    """Every setting, parsed. Durations are in ns."""

    web_listen_address: str = _setting(
        "web.listen-address",
        ":9816",
        str,
        "host:port to serve on; :9816 is every interface, 127.0.0.1:9816 only this machine",
    )
    web_config_file: Path | None = _setting(
        "web.config.file",
        "",
        optional_file,
        "TLS, client certificates and basic auth, in the exporter-toolkit's YAML format",
    )
    path_sysfs: Path = _setting("path.sysfs", "/sys", directory, "where sysfs is mounted")
    path_procfs: Path = _setting("path.procfs", "/proc", directory, "where procfs is mounted")
    path_cgroupfs: Path = _setting(
        "path.cgroupfs", "/sys/fs/cgroup", directory, "where the cgroup trees are mounted"
    )
    path_state: Path = _setting(
        "path.state",
        "/var/lib/jobwatt",
        directory,
        "the ledger, the calibration and the hooks' records",
    )
    sample_interval: int = _setting(
        "sample.interval", "1s", interval, "time between two samples, 100ms to 60s"
    )
    source_rapl: bool = _setting(
        "source.rapl", True, None, "read RAPL (powercap, else the perf power PMU)"
    )
    source_nvml: bool = _setting("source.nvml", True, None, "read NVIDIA GPUs through NVML")
    nvml_process_interval: int = _setting(
        "nvml.process-interval",
        "10s",
        positive_duration,
        "time between two GPU process lists (they take the driver's lock)",
    )
    nvml_release: int = _setting(
        "nvml.release",
        "10m",
        positive_duration,
        "how long `jobwatt release-gpus` lets go of the driver",
    )
    source_wattmeter: bool = _setting(
        "source.wattmeter", True, None, "read a wattmeter, where wattmeter.input names one"
    )
    wattmeter_input: str = _setting(
        "wattmeter.input",
        "",
        meter_input,
        "where frames come from: a file or FIFO, tcp://HOST:PORT, or exec:COMMAND ARGUMENTS (wattmetre-read)",
    )
    wattmeter_ports: tuple[tuple[str, str], ...] = _setting(
        "wattmeter.ports",
        "",
        meter_ports,
        "which node each port feeds: 1=gpu01,2=gpu01,3=gpu02 (both power supplies of a node are summed)",
    )
    source_remote: bool = _setting(
        "source.remote",
        True,
        None,
        "take this node's wall power from another jobwatt, where remote.url names one",
    )
    remote_url: str = _setting(
        "remote.url",
        "",
        page_url,
        "metrics page of the jobwatt that reads this node's meter or BMC",
    )
    remote_node: str = _setting(
        "remote.node",
        "",
        str,
        "this node's name there (default the host name); compared up to the first dot, with a dot as it is",
    )
    remote_interval: int = _setting(
        "remote.interval", "5s", remote_interval, "time between two questions, 1s to 60s"
    )
    remote_credentials: Path | None = _setting(
        "remote.credentials",
        "",
        optional_file,
        "file with USER:PASSWORD that others cannot read (root's: its group may)",
    )
    remote_ca_file: Path | None = _setting(
        "remote.ca-file", "", optional_file, "certificates that the other side's is checked against"
    )
    source_bmc: bool = _setting(
        "source.bmc", True, None, "ask the BMC, where bmc.ipmi or bmc.redfish says how"
    )
    bmc_ipmi: str = _setting(
        "bmc.ipmi",
        "",
        choice("", "auto", "ipmitool", "ipmi-dcmi", "ipmiutil"),
        "ask this node's own BMC in-band through this tool; auto takes the first that is there",
    )
    bmc_redfish: str = _setting("bmc.redfish", "", bmc_url, "https URL of this node's BMC")
    bmc_credentials: Path | None = _setting(
        "bmc.credentials",
        "",
        optional_file,
        "file with USER:PASSWORD that others cannot read (root's: its group may)",
    )
    bmc_ca_file: Path | None = _setting(
        "bmc.ca-file", "", optional_file, "certificates that the BMC's is checked against"
    )
    bmc_verify: bool = _setting("bmc.verify", True, None, "check the BMC's certificate")
    bmc_interval: int = _setting(
        "bmc.interval", "10s", bmc_interval, "time between two questions, 10s to 60s"
    )
    bmc_timeout: int = _setting(
        "bmc.timeout", "20s", positive_duration, "a question that takes longer is given up"
    )
    bmc_includes_gpu: bool = _setting(
        "bmc.includes-gpu",
        True,
        None,
        "the BMC's power includes the GPUs, also where it comes by remote.url",
    )
    source_hwmon: bool = _setting(
        "source.hwmon", True, None, "read hwmon: ACPI power meters, NVIDIA Grace, amd_energy"
    )
    hwmon_includes_gpu: bool = _setting(
        "hwmon.includes-gpu", True, None, "the ACPI power meter's power includes the GPUs"
    )
    source_estimate: bool = _setting(
        "source.estimate", True, None, "estimate CPU and memory where no sensor can be read"
    )
    estimate_tdp: int | None = _setting(
        "estimate.tdp",
        "",
        optional_watts,
        "the CPUs' thermal design power together, in W (default: by the CPU's name)",
    )
    slurm_slice: str = _setting(
        "slurm.slice",
        "system.slice",
        str,
        "systemd slice that holds slurmstepd's scope (cgroup v2)",
    )
    slurm_gpu_numbering: str = _setting(
        "slurm.gpu-numbering",
        "minor",
        choice("minor", "nvml", "list"),
        "what Slurm's GPU index counts: minor, nvml or list",
    )
    slurm_rpc: bool = _setting(
        "slurm.rpc", True, None, "ask slurmctld (pyslurm or scontrol, in a child) once per new job"
    )
    slurm_rpc_timeout: int = _setting(
        "slurm.rpc-timeout", "5s", positive_duration, "after this the child is killed"
    )
    slurm_conf: Path | None = _setting(
        "slurm.conf", "", optional_file, "slurm.conf for the child that asks slurmctld"
    )
    ledger_linger: int = _setting(
        "ledger.linger", "10m", positive_duration, "how long a finished job's series stay"
    )
    limits_jobs: int = _setting(
        "limits.jobs",
        "512",
        count,
        "jobs on the page at most; running ones and the latest come first, the others are counted",
    )
    limits_series: int = _setting(
        "limits.series",
        "5000",
        count,
        "series of one metric on the page at most; jobs that do not fit, and series, are left out whole and counted",
    )
    privacy_users: str = _setting(
        "privacy.users",
        "name",
        choice("name", "hash", "drop"),
        "how users are shown: by name, by a pseudonym, or not at all (the last two without uid and job name)",
    )
    privacy_key_file: Path | None = _setting(
        "privacy.key-file",
        "",
        optional_file,
        "file with the key of the pseudonyms, the same on every node, that others cannot read",
    )
    log_level: str = _setting(
        "log.level",
        "info",
        choice("debug", "info", "warning", "error"),
        "least severe level that is logged",
    )


Setting = dataclasses.Field[Any]


def settings() -> Iterator[Setting]:
    """Every setting's field; its metadata has name, parse (None for a switch), help and shown."""
    return iter(dataclasses.fields(Config))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` a flag per setting and --config.file."""
    group = parser.add_argument_group(
        "settings", 'each is also a key of the TOML file: [web] listen-address = ":9816"'
    )
    group.add_argument(
        "--config.file", dest="config.file", metavar="FILE", help="settings in TOML; flags beat it"
    )
    for setting in settings():
        name, shown = setting.metadata["name"], setting.metadata["shown"]
        if setting.metadata["parse"] is None:
            text = f"{setting.metadata['help']} (default {'on' if shown else 'off'})"
            action: Any = argparse.BooleanOptionalAction
            group.add_argument(f"--{name}", dest=name, action=action, default=None, help=text)
        else:
            text = f"{setting.metadata['help']} (default {shown or 'none'})".replace("%", "%%")
            group.add_argument(f"--{name}", dest=name, metavar="VALUE", help=text)


def from_flags(given: Mapping[str, Any]) -> Config:
    """Config from parsed flags (by setting name; None where not given) and the file they name."""
    values: dict[str, Any] = {}
    path = given.get("config.file")
    if path:
        values.update(_from_file(Path(path)))
    for setting in settings():
        name = setting.metadata["name"]
        if given.get(name) is not None:
            values[setting.name] = _parsed(setting, given[name], f"--{name}")
    config = Config(**values)
    _refuse_halves(config)
    return config


def _refuse_halves(config: Config) -> None:
    """ConfigError where a setting is of no use, or unsafe, without another."""
    if config.source_wattmeter and config.wattmeter_input and not config.wattmeter_ports:
        raise ConfigError(
            "wattmeter.input without wattmeter.ports: say which node each port feeds,"
            " as in --wattmeter.ports=1=gpu01,2=gpu01,3=gpu02 (self is this node)"
        )
    url = urlsplit(config.remote_url)
    clear = url.scheme == "http" and url.hostname not in {"localhost", "127.0.0.1", "::1"}
    if config.source_remote and config.remote_credentials and clear:
        raise ConfigError(
            "remote.credentials would go over the network in the clear: give remote.url as https"
        )
    if config.privacy_users == "hash" and not config.privacy_key_file:
        raise ConfigError(
            "privacy.users=hash without privacy.key-file: make a key, the same on every node, with"
            " openssl rand -hex 32 | install -m 640 -g jobwatt /dev/stdin /etc/jobwatt/pseudonyms.key"
        )
    if config.source_bmc and config.bmc_ipmi and config.bmc_redfish:
        raise ConfigError(
            "bmc.ipmi and bmc.redfish ask the same meter, which would count twice: give one of them"
        )


def _from_file(path: Path) -> dict[str, Any]:
    by_name = {setting.metadata["name"]: setting for setting in settings()}
    try:
        plain = dict(_flat(tomllib.loads(path.read_text(encoding="utf-8")), by_name))
    except OSError as err:
        raise ConfigError(f"--config.file: {path}: cannot read ({err.strerror})") from err
    except (ValueError, RecursionError) as err:  # tomllib: a number of 5000 digits is a ValueError
        raise ConfigError(f"--config.file: {path}: not TOML ({err})") from err
    values = {}
    for name, value in plain.items():
        if name not in by_name:
            raise ConfigError(f"{path}: unknown key {name}{nearest(name, by_name)}")
        values[by_name[name].name] = _parsed(by_name[name], value, f"{path}: {name}")
    return values


def _flat(
    table: Mapping[str, Any], known: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and prefix + key not in known:
            yield from _flat(value, known, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parsed(setting: Setting, value: Any, where: str) -> Any:
    parse = setting.metadata["parse"]
    expected = bool if parse is None else str
    if not isinstance(value, expected):
        raise ConfigError(
            f"{where}: {value!r} must be {'true or false' if parse is None else 'a string'}"
        )
    try:
        return value if parse is None else parse(value)
    except ValueError as err:
        raise ConfigError(f"{where}: {err}") from err


def nearest(word: str, known: Any) -> str:
    """``; did you mean X?`` or ""."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""
