"""In the machine of systemdvm.py: the package's units at work. Prints one JSON object."""

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

found = {}
UNITS = Path("/etc/systemd/system")
STEP = "system.slice/slurmstepd.scope/job_{}/step_batch/user/task_0"
JOB = Path("/sys/fs/cgroup", STEP.format(7))
POD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0e5b7c0a_62a4_4f3e_9f0b_5d1c0c8d2e11.slice"
IN_POD = Path("/sys/fs/cgroup", POD, STEP.format(8))


def sh(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def page(wanted="", limit_s=30, port=9816):
    """A daemon's page, once ``wanted`` is on it."""
    until, text = time.monotonic() + limit_s, ""
    while time.monotonic() < until:
        try:
            text = (
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20)
                .read()
                .decode()
            )
            if wanted in text:
                break
        except OSError as err:
            text = f"no page: {err}"
        time.sleep(0.3)
    return text


def install():
    """What install-nodes.sh does on a node: only ssh and scp are not what they are there."""
    for tool, text in (
        ("ssh", 'while [ "$1" != node ]; do shift; done; shift; exec sh -c "$*"'),
        ("scp", 'for to in "$@"; do from=$was was=$to; done; exec cp "$from" "${to#node:}"'),
    ):
        path = Path("/usr/local/bin") / tool
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    return sh(
        "bash /guest/install-nodes.sh --config /guest/jobwatt.toml /guest/jobwatt_0_all.deb node; echo status $?"
    )


def a_job():
    """A step of another user's, as slurmstepd arranges it, and what root's Prolog tells."""
    JOB.mkdir(parents=True)
    IN_POD.mkdir(parents=True)  # and one of a slurmd that is a pod of Kubernetes
    burn = "while True: sum(range(9999)); __import__('time').sleep(0.2)"
    argv = ["setpriv", "--reuid=20001", "--regid=20001", "--clear-groups", "python3", "-c", burn]
    process = subprocess.Popen(argv, env={**os.environ, "SLURM_JOB_ID": "7"})
    (JOB / "cgroup.procs").write_text(str(process.pid))
    (IN_POD / "cgroup.procs").write_text(str(subprocess.Popen(argv).pid))
    Path("/guest/other.pid").write_text(str(process.pid))
    env = "SLURM_JOB_ID=7 SLURM_JOB_USER=alice SLURM_JOB_UID=20001 SLURM_JOB_ACCOUNT=lab SLURM_JOB_PARTITION=gpu"
    found["prolog"] = sh(f"{env} /usr/share/doc/jobwatt/examples/slurm/prolog; echo $?")


def the_rule():
    """The udev rule, on an attribute that this kernel has: the loopback interface's address."""
    rule = Path("/usr/lib/udev/rules.d/60-jobwatt.rules").read_text()
    for old, new in (("powercap", "net"), ("intel-rapl*:*", "lo"), ("energy_uj", "address")):
        rule = rule.replace(old, new)
    Path("/run/udev/rules.d").mkdir(parents=True, exist_ok=True)
    Path("/run/udev/rules.d/61-like-jobwatt.rules").write_text(rule)
    sh("udevadm control --reload; udevadm trigger --settle --action=change /sys/class/net/lo")
    found["ruled"] = sh("stat -c '%a %U:%G' /sys/class/net/lo/address").strip()
    said = sh("udevadm test /sys/class/net/lo")
    lines = [line for line in said.splitlines() if re.search(r"jobwatt\.rules:\d", line)]
    found["rule_faults"] = [line for line in lines if " RUN '" not in line]
    # and its very commands, on the zones of the tree that stands for a node's /sys
    commands = re.findall(
        r'RUN\+="([^"]*)"', Path("/usr/lib/udev/rules.d/60-jobwatt.rules").read_text()
    )
    for zone in Path("/srv/sys/devices/virtual/powercap/intel-rapl").rglob("intel-rapl:*"):
        for command in commands:
            devpath = str(zone).removeprefix("/srv/sys")
            sh(command.replace("$sys", "/srv/sys").replace("$devpath", devpath))


def probe(name, *dropins):
    """What can be done under the daemon's unit, and with drop-ins of the package's examples."""
    unit = Path("/lib/systemd/system/jobwatt.service").read_text()
    unit = re.sub(r"ExecStart=.*", "ExecStart=/usr/bin/python3 /guest/probe.py", unit)
    unit = unit.replace("Type=exec", "Type=oneshot").replace("Restart=always", "Restart=no")
    unit = unit.replace("[Install]", f"StandardOutput=truncate:/guest/{name}.json\n[Install]")
    (UNITS / f"{name}.service").write_text(unit)
    for dropin in dropins:
        (UNITS / f"{name}.service.d").mkdir(exist_ok=True)
        shutil.copy(f"/usr/share/doc/jobwatt/examples/{dropin}.conf", UNITS / f"{name}.service.d")
    said = sh(f"systemctl daemon-reload; systemctl start {name}")
    text = Path(f"/guest/{name}.json").read_text()
    found[name] = json.loads(text) if text else said + sh(f"journalctl -u {name} --no-pager")


def central():
    """What runs once per cluster, with a BMC that refuses and the built-in table of intensities."""
    etc = Path("/etc/jobwatt")
    (etc / "grid.toml").write_text('zone = "FR"\n')
    (etc / "bmc.secret").write_text("monitor:secret\n")
    sh("chgrp jobwatt /etc/jobwatt/bmc.secret; chmod 640 /etc/jobwatt/bmc.secret")
    bmc = '[[bmc]]\nnode = "gpu01"\nurl = "https://127.0.0.1:9"\ncredentials = "/etc/jobwatt/bmc.secret"\n'
    (etc / "bmcs.toml").write_text(bmc)
    scontrol = Path("/usr/local/bin/scontrol")
    scontrol.write_text(
        "#!/bin/sh\ncase $* in *nodes*) cat /guest/nodes.txt;; *config*) echo ClusterName = vm;; esac\n"
    )
    scontrol.chmod(0o755)
    # on this machine's root file system every file is root's
    sh("mkdir /var/lib/jobwatt-sd; mount -t tmpfs -o mode=0755 tmpfs /var/lib/jobwatt-sd")
    sh("systemctl start jobwatt-grid jobwatt-bmc-proxy jobwatt-sd")
    found["grid"] = page("jobwatt_grid_", port=9818)
    found["proxy"] = page("jobwatt_meter_", port=9817)
    found["sd"] = page("jobwatt_sd_targets 1", port=9819)
    listed = "/var/lib/jobwatt-sd/targets.json"
    found["listed"] = sh(
        f"stat -c '%a %U' {listed}; setpriv --reuid=65534 --clear-groups cat {listed}"
    )
    found["central"] = sh(
        "journalctl -u jobwatt-grid -u jobwatt-bmc-proxy -u jobwatt-sd --no-pager"
    )
    sh(
        "systemctl stop jobwatt-grid jobwatt-bmc-proxy jobwatt-sd; umount /var/lib/jobwatt-sd; rm /etc/jobwatt/grid.toml /etc/jobwatt/bmcs.toml /etc/jobwatt/*.secret"
    )


def take_away():
    """Remove, then purge, with systemd running."""
    found["removed"] = sh("dpkg --remove jobwatt")
    found["after_remove"] = sh("systemctl is-active jobwatt; ls /var/lib/jobwatt")
    sh("umount /var/lib/jobwatt; : >/var/lib/jobwatt/ledger.db")
    Path("/etc/jobwatt/site.secret").write_text("x")
    found["purged"] = sh("dpkg --purge jobwatt")


def main():
    found["installed"] = install()
    a_job()
    found["before"] = page('jobwatt_job_cpu_seconds_total{jobid="7",user="alice"')
    the_rule()
    found["after"] = page("jobwatt_rapl_energy_joules_total{")
    found["again"] = install()
    pid = sh("systemctl show -p MainPID --value jobwatt").strip()
    found["status"] = Path(f"/proc/{pid}/status").read_text()
    found["state"] = sh(
        "stat -c '%a %U:%G %n' /var/lib/jobwatt /var/lib/jobwatt/hooks /var/lib/jobwatt/hooks/*.json /var/lib/jobwatt/ledger.db"
    )
    found["journal"] = sh("journalctl -u jobwatt --no-pager")
    found["others"] = sh("systemctl is-enabled jobwatt-grid jobwatt-bmc-proxy jobwatt-sd")
    sh(
        "mknod /dev/kmsg-like c 1 11; chmod 666 /dev/kmsg-like; mkdir -p /home/alice; echo x >/root/secret"
    )
    os.chmod("/guest/root-only", 0o400)
    probe("plain")
    probe("perf", "perf")
    probe("environ", "environ")
    central()
    take_away()


try:
    main()
except Exception as err:  # noqa: BLE001  said to the test, which shows it
    found["error"] = repr(err)
print(json.dumps(found))
