"""Slurm's accounting database: made once, then unpacked from a seed in the cache."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

ASSOCIATIONS = """\
add cluster jobwatt
add account ltci Description=LTCI Organization=telecom
add account infres Description=INFRES Organization=telecom parent=ltci
add account lisn Description=LISN Organization=upsaclay
add user root account=ltci
add user alice account=infres
add user bob account=lisn
add user bob account=ltci
add user carol account=ltci
"""


def cache_dir() -> Path:
    """Where seeds are kept between runs: JOBWATT_TEST_CACHE, else the user's cache."""
    default = Path.home() / ".cache" / "jobwatt-tests"
    return Path(os.environ.get("JOBWATT_TEST_CACHE") or default)


def seed_path(env: Mapping[str, str]) -> Path:
    """The seed's file, named after all that its content depends on."""
    versions = [
        subprocess.run(
            [tool, "-V"], env=dict(env), capture_output=True, text=True, check=True
        ).stdout
        for tool in ("mariadbd", "slurmctld")
    ]
    conf = (Path(__file__).parent / "my.cnf.in").read_text()
    key = hashlib.sha256("".join([*versions, conf, ASSOCIATIONS]).encode()).hexdigest()[:16]
    return cache_dir() / f"slurm-db-{key}.tar"


def install(run: Path, env: Mapping[str, str]) -> None:
    """An empty data directory (some seconds)."""
    argv = [
        "mariadb-install-db",
        f"--defaults-file={run}/etc/my.cnf",
        "--skip-test-db",
        "--user=root",
        "--auth-root-authentication-method=normal",
    ]
    with (run / "log" / "install-db.log").open("wb") as log:
        subprocess.run(argv, env=dict(env), stdout=log, stderr=log, check=True)


def unpack(seed: Path, run: Path) -> None:
    """The data directory as it was saved."""
    with tarfile.open(seed) as archive:
        archive.extractall(run, filter="fully_trusted")


def pack(run: Path, seed: Path) -> None:
    """Save the data directory of a stopped server; readers see the whole file or none."""
    seed.parent.mkdir(parents=True, exist_ok=True)
    draft = seed.with_suffix(f".{os.getpid()}")
    with tarfile.open(draft, "w") as archive:
        archive.add(run / "mysql", "mysql")
    draft.rename(seed)


def associate(env: Mapping[str, str]) -> None:
    """Cluster, accounts and users, through sacctmgr."""
    argv = ["sacctmgr", "-i"]
    subprocess.run(
        argv, env=dict(env), input=ASSOCIATIONS, text=True, check=True, capture_output=True
    )
