"""
A real Slurm for a test: slurmctld, one slurmd a node, munge, and slurmdbd on MariaDB, all on loopback.

Which Slurm: that of PATH's usual places, Debian's; or with JOBWATT_TEST_SLURM=PREFIX the one whose commands
are in PREFIX/bin and PREFIX/sbin (in PATH too where Debian's is not installed), configured with
--enable-multiple-slurmd for the several slurmd of one host.
"""

import os
import pwd
import random
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slurm import cgroups, conf, database, records, registry
from slurm.conf import NODES, Node, search_path
from slurm.processes import (
    ClusterError,
    Daemon,
    await_true,
    kill_all,
    members,
    on_loopback,
    processes_of,
    stepds_of,
)
from slurm.records import FINISHED, Recorder, Seen
from slurm.uml import missing_uml, run_in_uml

__all__ = [
    "FINISHED", "NODES", "Cluster", "ClusterError", "HookRun", "Node", "Recorder", "Seen",
    "cluster", "leftovers", "missing", "missing_uml", "native_mode", "new_run_dir", "run_in_uml",
]  # fmt: skip

_PATH = search_path()
_BINARIES = ("slurmctld", "slurmd", "munged", "sbatch", "setpriv", "unshare", "useradd")
_ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db")
_LONGEST_SOCKET = 107  # sockaddr_un.sun_path, unix(7), less the final zero


def missing(mode: str = "linuxproc", *, acct: bool = True) -> str:
    """Why no cluster can be had here, as a reason for a skip; empty when one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    lacking = [
        name
        for name in (*_BINARIES, *(_ACCOUNTING if acct else ()))
        if not shutil.which(name, path=_PATH)
    ]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if mode == "cgv1" and not (cgroups.ROOT / "memory/cgroup.procs").exists():
        return "cgroup v1 is not mounted"
    return _missing_v2() if mode == "cgv2" else ""


def _missing_v2() -> str:
    if not (cgroups.ROOT / "cgroup.controllers").exists():
        return f"{cgroups.ROOT} is not a pure cgroup v2"
    try:
        cgroups.prepare_v2()
    except OSError as err:  # in a container, mostly
        return f"no controllers for Slurm: {err}"
    return ""


def native_mode() -> str:
    """The process tracking this machine's kernel allows."""
    return next(
        mode for mode in ("cgv1", "cgv2", "linuxproc") if not missing(mode) or mode == "linuxproc"
    )


def new_run_dir() -> Path:
    """A fresh directory that users can enter, with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="jw-slurm."))
    path.chmod(0o755)
    return path


@dataclass(frozen=True, slots=True)
class HookRun:
    """One command run by a Prolog or an Epilog."""

    kind: str
    jobid: int
    node: str
    index: int
    status: int
    microseconds: int


@dataclass
class Cluster:
    """
    A Slurm of several nodes on this machine; leaving the context leaves nothing behind.

    Daemons die with the thread that started them: call `up` from the main thread.
    """

    run_dir: Path = field(default_factory=new_run_dir)
    _: KW_ONLY
    mode: str = "cgv1"
    acct: bool = True
    nodes: Sequence[Node] = NODES
    prolog: Sequence[str] = ()
    epilog: Sequence[str] = ()
    prolog_flags: str = "Alloc"
    constrain_cores: bool = False
    constrain_devices: bool = True
    message_timeout: int = 100
    extra_conf: str = ""

    def __post_init__(self) -> None:
        if len(f"{self.run_dir}/munge.socket.lock") > _LONGEST_SOCKET:
            raise ValueError(f"{self.run_dir}: too long for a socket in it")
        self.conf = self.run_dir / "etc" / "slurm.conf"
        self.first_job = cgroups.JOBS_PER_CLUSTER * random.randrange(1, 1000)
        self._daemons: list[Daemon] = []
        self._ctld: Daemon | None = None

    def __enter__(self) -> "Cluster":
        self.up()
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    # -- life ------------------------------------------------------------------------------------

    def up(self) -> None:
        """Start everything and return when all nodes are idle; ClusterError, with nothing left, otherwise."""
        if reason := missing(self.mode, acct=self.acct):
            raise ClusterError(reason)
        for dead in registry.claim(self.run_dir.name, self._facts()):
            _clean(dead)
        try:
            self._start()
        except ClusterError as err:
            tails = "\n".join(f"-- {daemon.name}\n{daemon.tail()}" for daemon in self._daemons)
            self.down()
            raise ClusterError(f"{err}\n{tails}") from err
        except BaseException:  # an interrupt, too, leaves nothing behind
            self.down()
            raise

    def down(self) -> None:
        """End jobs and daemons at once, and remove cgroups, files and the users it added."""
        for daemon in reversed(self._daemons):
            daemon.stop(signal.SIGKILL)
        self._daemons.clear()
        self._ctld = None
        _clean(self._facts() | {"name": self.run_dir.name})

    def _facts(self) -> dict[str, Any]:
        names = [node.name for node in self.nodes]
        return {"run_dir": str(self.run_dir), "nodes": names, "first_job": self.first_job}

    def _start(self) -> None:
        self._write()
        self._start_munge()
        if self.acct:
            self._start_accounting()
        self.start_slurmctld()
        for node in self.nodes:
            self._start_slurmd(node)
        await_true(self._all_idle, 30, "all nodes idle")

    def _write(self) -> None:
        run = self.run_dir
        for name in (
            "etc",
            "log",
            "ctld",
            "mysql.tmp",
            "spool",
            *(f"spool/{node.name}" for node in self.nodes),
        ):
            (run / name).mkdir()
        for name in ("out", "hooks"):
            (run / name).mkdir()
            (run / name).chmod(0o1777)
        conf.make_devices(self.nodes, run / "dev")
        ctld_port, dbd_port, *node_ports = conf.free_ports(2 + len(self.nodes))
        values = {
            "run": str(run),
            "ctld_port": str(ctld_port),
            "dbd_port": str(dbd_port),
            "first_job": str(self.first_job),
            "message_timeout": str(self.message_timeout),
            "prolog_flags": self.prolog_flags,
            "constrain_cores": "yes" if self.constrain_cores else "no",
            "constrain_devices": "yes" if self.constrain_devices else "no",
            "tres": conf.tres(self.nodes),
            "nodes": conf.node_lines(self.nodes, node_ports),
            "extra": self.extra_conf,
            **conf.MODES[self.mode],
        }
        values["accounting"] = conf.render("accounting.conf.in", values) if self.acct else ""
        for name in ("slurm.conf", "slurmdbd.conf", "cgroup.conf", "my.cnf"):
            (run / "etc" / name).write_text(conf.render(f"{name}.in", values))
        (run / "etc" / "slurmdbd.conf").chmod(0o600)
        (run / "etc" / "gres.conf").write_text(conf.gres_conf(self.nodes, run / "dev"))
        self.set_hooks(prolog=self.prolog, epilog=self.epilog)

    def _daemon(self, name: str, *argv: str) -> Daemon:
        daemon = Daemon(name, argv, self.env, self.run_dir / "log" / f"{name}.log")
        self._daemons.append(daemon)
        return daemon

    def _start_munge(self) -> None:
        run = self.run_dir
        (run / "munge.key").write_bytes(secrets.token_bytes(128))
        (run / "munge.key").chmod(0o600)
        argv = [
            "munged", "--foreground", "--force", "--num-threads=10", f"--key-file={run}/munge.key",
            f"--socket={run}/munge.socket", f"--pid-file={run}/munged.pid",
            f"--log-file={run}/log/munged.log", f"--seed-file={run}/munge.seed",
        ]  # fmt: skip
        self._daemon("munged", *argv).start(self._munge_answers)

    def _munge_answers(self) -> bool:
        argv = ["munge", "-n", "-S", f"{self.run_dir}/munge.socket"]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0

    def _start_accounting(self) -> None:
        seed = database.seed_path(self.env)
        if seed.exists():
            database.unpack(seed, self.run_dir)
            self._start_database()
            return
        database.install(self.run_dir, self.env)
        mariadbd, slurmdbd = self._start_database()
        database.associate(self.env)
        slurmdbd.stop()
        mariadbd.stop()
        database.pack(self.run_dir, seed)
        mariadbd.start(self._succeeds("mariadb-admin", "--no-defaults", "ping"))
        slurmdbd.start(self._succeeds("sacctmgr", "-n", "show", "cluster"))

    def _start_database(self) -> tuple[Daemon, Daemon]:
        mariadbd = self._daemon(
            "mariadbd", "mariadbd", f"--defaults-file={self.run_dir}/etc/my.cnf"
        )
        mariadbd.start(self._succeeds("mariadb-admin", "--no-defaults", "ping"))
        slurmdbd = self._daemon("slurmdbd", "slurmdbd", "-D")
        slurmdbd.start(self._succeeds("sacctmgr", "-n", "show", "cluster"))
        return mariadbd, slurmdbd

    def _start_slurmd(self, node: Node) -> None:
        if self.mode == "cgv2":
            cgroups.prepare_v2()
        self._daemon(f"slurmd-{node.name}", "slurmd", "-D", "-N", node.name).start(lambda: True)

    def _all_idle(self) -> bool:
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
        return set(filter(None, states)) == {f"{node.name} idle" for node in self.nodes}

    def start_slurmctld(self) -> None:
        """Start the controller on the state it left."""
        if self._ctld is None:
            self._ctld = self._daemon("slurmctld", "slurmctld", "-D", "-i")
        self._ctld.start(self._controller_answers)

    def stop_slurmctld(self) -> None:
        """Stop the controller; jobs go on."""
        if self._ctld:
            self._ctld.stop()

    def freeze_slurmctld(self, *, thaw: bool = False) -> None:
        """Make the controller accept connections and answer nothing, or let it go on."""
        if self._ctld:
            self._ctld.send(signal.SIGCONT if thaw else signal.SIGSTOP)

    def _controller_answers(self) -> bool:
        done = subprocess.run(
            ["scontrol", "ping"],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return "is UP" in done.stdout

    def _succeeds(self, *argv: str) -> Any:
        return lambda: (
            subprocess.run(argv, env=self.env, capture_output=True, check=False).returncode == 0
        )

    # -- commands --------------------------------------------------------------------------------

    @property
    def env(self) -> dict[str, str]:
        """The environment in which Slurm's commands talk to this cluster."""
        return {
            "PATH": _PATH,
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            "MYSQL_UNIX_PORT": str(self.run_dir / "mysql.sock"),
        }

    def run(self, *argv: str, timeout: float = 60) -> str:
        """A command as root; its standard output. ClusterError with its message when it fails."""
        done = subprocess.run(
            argv,
            env=self.env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(f"{argv[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _as(
        self, user: str, argv: Sequence[str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        account = pwd.getpwnam(user)
        env = self.env | {"USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        env.pop("MYSQL_UNIX_PORT")
        setpriv = [
            "setpriv",
            f"--reuid={account.pw_uid}",
            f"--regid={account.pw_gid}",
            "--clear-groups",
        ]
        return subprocess.run(
            on_loopback([*setpriv, *argv]), env=env, cwd="/tmp", capture_output=True, text=True,
            errors="replace", check=False, **options,
        )  # fmt: skip

    def submit(
        self, user: str, *args: str, script: str | Path = "sleep 30", argv: Sequence[str] = ()
    ) -> int:
        """
        Queue a batch job and return its id (an array's first, a heterogeneous job's leader).

        `script` is a file, run with `argv`, or the text of a bash script; output goes to `out/ID.out`.
        """
        command = ["sbatch", "--parsable", "-o", f"{self.run_dir}/out/%j.out", *args]
        if isinstance(script, Path):
            done = self._as(user, [*command, str(script), *argv], timeout=60)
        else:
            text = script if script.startswith("#!") else f"#!/bin/bash\n{script}\n"
            done = self._as(user, command, input=text, timeout=60)
        if done.returncode != 0:
            raise ClusterError(f"sbatch: {done.stderr.strip()}")
        return int(done.stdout.split(";")[0])

    def srun(self, user: str, *args: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a job of one step and wait for it."""
        try:
            return self._as(user, ["srun", *args], timeout=timeout, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as err:
            raise ClusterError(
                f"srun: no end after {timeout} s: {(err.stderr or b'').decode(errors='replace')}\n"
                f"{self.run('sinfo', '-R', '-l')}{self.run('squeue', '-l')}"
                f"hooks that failed: {[run for run in self.hook_runs() if run.status]}"
            ) from err

    def output(self, jobid: int) -> str:
        """What a job printed so far."""
        return (self.run_dir / "out" / f"{jobid}.out").read_text(errors="replace")

    def cancel(self, jobid: int, *args: str) -> None:
        """Cancel a job, as root."""
        self.run("scancel", *args, str(jobid))

    def show(self, *args: str) -> str:
        """The text of `scontrol -o -d show job`."""
        return self.run("scontrol", "-o", "-d", "show", "job", *args)

    def scontrol(self, jobid: int) -> dict[str, str]:
        """The controller's fields of a job (of an array, of the task shown first)."""
        return records.fields(records.split_jobs(self.show(str(jobid)))[0])

    def gpus(self, jobid: int) -> dict[str, tuple[int, ...]]:
        """GPU indices per node of a running job."""
        return records.gpu_layout(self.show(str(jobid)))

    def states(self, jobid: int) -> list[str]:
        """The states of a job and, of an array, of each task."""
        return [
            records.fields(job)["JobState"] for job in records.split_jobs(self.show(str(jobid)))
        ]

    def wait(
        self, jobid: int, states: Sequence[str] | frozenset[str] = FINISHED, timeout: float = 60
    ) -> str:
        """Return the state of the job once it, and every task of an array, is in one of `states`."""
        wanted, found = set(states), [""]

        def arrived() -> bool:
            found[:] = self.states(jobid)
            if set(found) <= FINISHED and not set(found) <= wanted:
                raise ClusterError(f"job {jobid} ended as {found}, awaited {sorted(wanted)}")
            return set(found) <= wanted

        await_true(arrived, timeout, f"job {jobid} in {sorted(wanted)}", 0.05)
        return found[0]

    def wait_empty(self, timeout: float = 120) -> None:
        """Return when no job is queued, running or completing."""
        await_true(lambda: not self.run("squeue", "-h"), timeout, "queue empty", 0.1)

    def sacct(
        self,
        jobid: int,
        fields: Sequence[str] = ("JobIDRaw", "State"),
        *,
        steps: bool = False,
        at_least: int = 1,
        timeout: float = 20,
    ) -> list[dict[str, str]]:
        """
        The accounting rows of a finished job, one a task or, with `steps`, one a step.

        Records come to slurmdbd after the job's end and one by one: asked again until there are
        `at_least` so many and all have ended. A quote in a name comes back as a backtick.
        """
        names = list(dict.fromkeys([*fields, "JobIDRaw", "State", "End", "Partition"]))
        found: list[dict[str, str]] = []

        def settled() -> bool:
            found[:] = self._sacct(jobid, names, steps=steps)
            return len(found) >= at_least and all(map(_complete, found))

        await_true(settled, timeout, f"{at_least} rows of job {jobid} in sacct", 0.2)
        return found

    def _sacct(self, jobid: int, names: list[str], *, steps: bool) -> list[dict[str, str]]:
        argv = ["sacct", "-n", "-p", "--delimiter=\x1f", "-j", str(jobid), "-o", ",".join(names)]
        return records.rows(self.run(*argv, *([] if steps else ["-X"])), names, "\x1f")

    def recorder(self, period: float = 0.3) -> Recorder:
        """A context in which the states and GPU layouts of all jobs are remembered."""
        return Recorder(partial(self._show_or_nothing), period)

    def _show_or_nothing(self) -> str:
        try:
            return self.show()
        except (ClusterError, subprocess.TimeoutExpired):  # the controller is stopped
            return ""

    # -- hooks -----------------------------------------------------------------------------------

    def set_hooks(self, *, prolog: Sequence[str] = (), epilog: Sequence[str] = ()) -> None:
        """Replace the shell commands that Prolog and Epilog run, from the next job on."""
        conf.write_hook(self.run_dir, "prolog", prolog)
        conf.write_hook(self.run_dir, "epilog", epilog)

    def hook_env(self, kind: str, jobid: int, node: str = "*") -> list[dict[str, str]]:
        """The environments in which `prolog` or `epilog` ran for a job, oldest first."""
        found = (self.run_dir / "hooks").glob(f"{kind}.{jobid}.{node}.*.env")
        texts = [
            path.read_text(errors="replace") for path in sorted(found, key=lambda p: p.suffixes[-2])
        ]
        return [
            dict(item.split("=", 1) for item in text.split("\0") if "=" in item) for text in texts
        ]

    def hook_runs(self) -> list[HookRun]:
        """Every command the hooks ran so far, with its exit status and duration."""
        path = self.run_dir / "hooks" / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [
            HookRun(kind, int(jobid), node, int(index), int(status), int(us))
            for kind, jobid, node, index, status, us in map(str.split, lines)
        ]


def _complete(row: dict[str, str]) -> bool:
    # slurmdbd shows the end of a job whose start it has still to take in: without a partition.
    return row["End"] != "Unknown" and bool(row["Partition"] or "." in row["JobIDRaw"])


def _clean(facts: dict[str, Any]) -> None:
    run, nodes, first = Path(facts["run_dir"]), facts["nodes"], facts["first_job"]

    def processes() -> set[int]:
        directories = list(cgroups.job_directories(nodes, first))
        cgroups.thaw(directories)  # a frozen process does not even die of SIGKILL
        in_jobs = {pid for directory in directories for pid in members(directory)}
        return (
            in_jobs | set(processes_of(run / "etc" / "slurm.conf")) | set(stepds_of(_jobs(first)))
        )

    kill_all(processes)
    cgroups.remove(nodes, first)
    shutil.rmtree(run, ignore_errors=True)
    registry.release(facts["name"])


def _jobs(first: int) -> range:
    return range(first, first + cgroups.JOBS_PER_CLUSTER)


def leftovers(cluster: Cluster) -> list[str]:
    """What is still there of a cluster that is down: processes, cgroups, files, mounts."""
    names = [node.name for node in cluster.nodes]
    mounts = Path("/proc/mounts").read_text().splitlines()
    return [
        *(f"process {pid}" for pid in processes_of(cluster.conf)),
        *(f"slurmstepd {pid}" for pid in stepds_of(_jobs(cluster.first_job))),
        *map(str, cgroups.job_directories(names, cluster.first_job)),
        *map(str, cgroups.unused(names)),
        *filter(os.path.exists, [str(cluster.run_dir)]),
        *(line for line in mounts if str(cluster.run_dir) in line),
    ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with accounting in the mode of this machine's kernel, shared by a module's tests."""
    if reason := missing(native_mode()):
        pytest.skip(reason)
    with Cluster(mode=native_mode()) as started:
        yield started
