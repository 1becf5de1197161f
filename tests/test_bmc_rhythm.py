"""BMCs at their worst beside a daemon: what else is measured keeps its rhythm, and what mends it is said once."""

from __future__ import annotations

import datetime
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise

import pytest

import webcerts
from daemon import Daemon, command, environment, paths
from redfishmock import PASSWORD, USER, Bmc, Certs
from trees import Node

pytestmark = pytest.mark.slow
INTERVAL_S, WATCHED_S = 0.2, 8.0
# what the BMC does -> words of the line that says so, and what mends it
CASES = {
    "hangs": "did not answer in time",
    "answers after 40 s": "did not answer in time",
    "wrong credentials": "password",
    "expired certificate": "expired",
}


def expired(place):
    """A certificate of the site's CA whose time is over; the CA's file and the pair."""
    ca, pair = webcerts.make("test CA"), None
    pair = webcerts.make("bmc", ca)
    old, now = pair.certificate, datetime.datetime.now(datetime.UTC)
    builder = webcerts.x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number,
        now - datetime.timedelta(days=2), now - datetime.timedelta(days=1), list(old.extensions),
    )  # fmt: skip
    signed = builder.sign(ca.key, old.signature_hash_algorithm)
    return ca.write(place, "ca")[0], webcerts.Pair(signed, pair.key).write(place, "old")


class Case:
    """A node of files, its BMC, and the flags that a daemon and `doctor` are given."""

    def __init__(self, name, folder, stack, certs):
        self.name, self.node = name, Node(folder, cpus=4)
        self.node.add_intel(sockets=1)
        self.state = folder / "state"
        if name == "no BMC":
            self.flags = []
            return
        ca, pair = certs.ca, certs.good
        if name == "expired certificate":
            ca, pair = expired(folder)
        bmc = stack.enter_context(Bmc(pair))
        over = threading.Event()
        stack.callback(over.set)
        late_s = {"hangs": 600, "answers after 40 s": 40}.get(name)
        if late_s:
            bmc.on_request = lambda _handler: bool(over.wait(late_s)) and False
        secret = folder / "bmc.credentials"
        secret.write_text(f"{USER}:{'wrong' if name == 'wrong credentials' else PASSWORD}\n")
        secret.chmod(0o600)
        self.flags = [
            f"--bmc.redfish={bmc.url}", f"--bmc.credentials={secret}", f"--bmc.ca-file={ca}",
            "--bmc.interval=10s", "--bmc.timeout=3s",
        ]  # fmt: skip

    def watch(self, daemon):
        """Samples of WATCHED_S and the longest time between two, in seconds."""
        began = daemon.samples(2).value("jobwatt_samples_total", cause="tick")
        stamps, until = [], time.monotonic() + WATCHED_S
        while time.monotonic() < until:
            stamp = daemon.scrape().value("jobwatt_snapshot_timestamp_seconds")
            stamps += [stamp] if stamp not in stamps[-1:] else []
            time.sleep(0.05)
        samples = daemon.scrape().value("jobwatt_samples_total", cause="tick") - began
        return samples, max(b - a for a, b in pairwise(stamps))

    def doctor(self):
        argv = command(
            "doctor", *paths(self.node, self.state), "--no-source.nvml", "--no-slurm.rpc"
        )
        done = subprocess.run(
            [*argv, *self.flags],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr  # RAPL is measured all the same
        return done.stdout


def test_everything_else_keeps_its_rhythm(tmp_path):
    """
    Five daemons at 200 ms, four of them with a BMC that hangs, answers after 40 s, refuses the password or has an
    expired certificate: as many samples as without a BMC, one line in the log, the same in `doctor`.
    """
    with ExitStack() as stack:
        certs = Certs(tmp_path)
        cases = []
        for number, name in enumerate(["no BMC", *CASES]):
            folder = tmp_path / str(number)
            folder.mkdir()
            cases.append(Case(name, folder, stack, certs))
        daemons = [
            stack.enter_context(Daemon(case.node, case.state, *case.flags, interval="200ms"))
            for case in cases
        ]
        with ThreadPoolExecutor(len(cases)) as pool:
            watched = list(pool.map(Case.watch, cases, daemons))
            doctors = list(pool.map(Case.doctor, cases))
        for case, (samples, longest_s) in zip(cases, watched, strict=True):
            print(
                f"{case.name:22} {samples:3.0f} samples in {WATCHED_S:.0f} s, longest pause {longest_s * 1000:.0f} ms"
            )
        alone = watched[0][0]
        for case, daemon, doctor, (samples, longest_s) in zip(
            cases[1:], daemons[1:], doctors[1:], watched[1:], strict=True
        ):
            assert samples >= 0.8 * alone, case.name
            assert longest_s < 2.5, case.name  # a look at the BMC may take 3 s and would be seen
            page = daemon.scrape()
            assert page.value("jobwatt_source_up", source="rapl") == 1
            assert page.value("jobwatt_source_up", source="bmc") == 0
            (said,) = (line for line in daemon.said("bmc") if line.startswith("W"))
            (found,) = (line for line in doctor.splitlines() if "bmc:" in line)
            for line in (said, found):
                assert CASES[case.name] in line, (case.name, line)
                assert PASSWORD not in line
