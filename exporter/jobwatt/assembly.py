"""
The parts of a node's daemon, built from its settings: sources, what samples, what computes, what is shown.

A new sensor has its lines in ``sources``.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from .jobview import Terms
from .model import NS_PER_S
from .pipeline import Pipeline
from .privacy import KEY_CHARS, Names
from .sampler import Sampler
from .slurm.controller import RpcRunner
from .slurm.find import Jobs
from .slurm.resolve import Resolver
from .sources.guard import Guarded
from .sources.procstat import ProcStat
from .sources.secrets import read_line

if TYPE_CHECKING:
    from pathlib import Path

    from .config import Config
    from .ledger import Ledger
    from .model import Source

# A driver call that takes longer than this hangs; the slowest read that others report is 4.5 ms a GPU.
_NVML_LIMIT_S = 0.5
# A gap is an interval longer than two and a half regular ones: one tick may be late or lost.
_GAP_INTERVALS = 2.5


def sources(config: Config) -> list[Source]:
    """Open the sources that are switched on."""
    opened: list[Source] = []
    if config.source_rapl:
        from .sources import rapl

        opened.append(rapl.open_source(config.path_sysfs))
    if config.source_nvml:
        from .sources import nvml

        source = nvml.open_source(
            procfs=config.path_procfs, process_every_ns=config.nvml_process_interval
        )
        opened.append(Guarded(source, _NVML_LIMIT_S))
    if config.source_hwmon:
        from .sources import hwmon

        if hwmon.present(config.path_sysfs):  # most nodes have no such chip: no source that is down
            opened.append(
                hwmon.open_source(
                    config.path_sysfs,
                    includes_gpu=config.hwmon_includes_gpu,
                    rapl=config.source_rapl,
                )
            )
    if config.source_wattmeter and config.wattmeter_input:
        from .sources import wattmeter

        ports = dict(config.wattmeter_ports)
        opened.append(wattmeter.open_source(config.wattmeter_input, ports, short_name()))
    if config.source_remote and config.remote_url:
        from .sources import remote

        files = config.remote_credentials, config.remote_ca_file
        opened.append(
            remote.open_source(
                remote.Access(config.remote_url, *files),
                config.remote_node or short_name(),
                config.remote_interval,
                bmc_includes_gpu=config.bmc_includes_gpu,
            )
        )
    if config.source_bmc and (config.bmc_ipmi or config.bmc_redfish):
        opened.append(_bmc(config))
    if config.source_estimate:  # the last: it is read only where none of the others measures CPUs
        from .sources import estimate

        opened.append(estimate.open_source(config.path_procfs, config.estimate_tdp))
    return opened


def _bmc(config: Config) -> Source:
    from .sources import bmc

    files = config.bmc_credentials, config.bmc_ca_file
    service = bmc.RedfishAccess(config.bmc_redfish, *files, config.bmc_verify)
    return bmc.open_source(
        config.bmc_ipmi or service,
        every_ns=config.bmc_interval,
        timeout_ns=config.bmc_timeout,
        includes_gpu=config.bmc_includes_gpu,
    )


def short_name() -> str:
    """The node's name up to its first dot, as maps of meters have it."""
    return socket.gethostname().partition(".")[0]


def sampler(config: Config, *, keeper: bool = False) -> Sampler:
    """Everything that reads the node. ``keeper``: the daemon, which alone tidies the hooks' records up."""
    procstat = ProcStat(config.path_procfs)
    jobs = Jobs(config.path_cgroupfs, config.path_procfs, config.slurm_slice)
    rpc = (
        RpcRunner(timeout_s=config.slurm_rpc_timeout / NS_PER_S, slurm_conf=config.slurm_conf)
        if config.slurm_rpc
        else None
    )
    resolver = Resolver(
        procfs=config.path_procfs,
        state=config.path_state,
        rpc=rpc,
        numbering=config.slurm_gpu_numbering,
        forget=keeper,
    )
    return Sampler(sources(config), procstat, jobs, resolver, procstat.boot_id())


def gap_ns(config: Config) -> int:
    """A longer interval than this is a gap."""
    return int(_GAP_INTERVALS * config.sample_interval)


def pipeline(config: Config, ledger: Ledger) -> Pipeline:
    """Everything that computes."""
    return Pipeline(ledger, gap_ns(config), config.ledger_linger)


def terms(config: Config) -> Terms:
    """On which terms pages show what there is; ValueError where the pseudonyms' key cannot be used."""
    return Terms(
        Names(config.privacy_users, pseudonym_key(config.privacy_key_file)),
        config.limits_jobs,
        config.limits_series,
    )


def pseudonym_key(path: Path | None) -> bytes:
    """Read the key of the pseudonyms; ValueError with what mends it."""
    if path is None:
        return b""
    key = read_line(path, "key of the pseudonyms", f"{KEY_CHARS} characters or more")
    if len(key) < KEY_CHARS:
        raise ValueError(
            f"{path}: {len(key)} characters can be guessed; give {KEY_CHARS} or more: openssl rand -hex 32"
        )
    return key.encode()
