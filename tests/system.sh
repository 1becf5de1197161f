#!/usr/bin/env bash
# The Debian packages that the tests use: installed when root and apt are there, else named.
# With arguments only those of these commands: what `make demo` uses.
set -euo pipefail

declare -A package_of=(
  [prometheus]=prometheus [promtool]=prometheus [slurmctld]=slurmctld [slurmd]=slurmd [slurmdbd]=slurmdbd
  [sbatch]=slurm-client [munged]=munge [mariadbd]=mariadb-server [gcc]=gcc [strace]=strace
  [linux.uml]=user-mode-linux [ip]=iproute2 [openssl]=openssl
  [prometheus-alertmanager]=prometheus-alertmanager [amtool]=prometheus-alertmanager [chromium]=chromium
  [node]=nodejs [npm]=npm [snmpd]=snmpd [prometheus-snmp-exporter]=prometheus-snmp-exporter
  [dpkg-buildpackage]=dpkg-dev [dh]=debhelper [mmdebstrap]=mmdebstrap [rpmspec]=rpm [rpmlint]=rpmlint
  [shellcheck]=shellcheck [systemd-analyze]=systemd [setpriv]=util-linux [groff]=groff-base [buildah]=buildah
  [victoria-metrics]=victoria-metrics [vmalert]=victoria-metrics
  [ipmitool]=ipmitool [ipmi-dcmi]=freeipmi-tools [ipmiutil]=ipmiutil [ipmi_sim]=openipmi
)
wanted=("$@")
[ $# -gt 0 ] || wanted=("${!package_of[@]}")
missing=()
for command in "${wanted[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("${package_of[$command]}")
done
if [ $# -eq 0 ]; then
  [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
  # what ipmi_sim lacks is added to it (ipmisim.c)
  [ -e /usr/include/OpenIPMI/mcserv.h ] || missing+=(libopenipmi-dev)
  # what a package of jobwatt carries is installed into a venv
  /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  # chromium draws the mails and the dashboards
  [ -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf ] || missing+=(fonts-dejavu-core)
  [ -e /usr/share/fonts/truetype/liberation2 ] || [ -e /usr/share/fonts/truetype/liberation ] || missing+=(fonts-liberation2)
fi
[ ${#missing[@]} -eq 0 ] && exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "left out for want of root and apt: what needs ${missing[*]}" >&2
  exit 0
fi
echo "installing: ${missing[*]}" >&2
# no service may start: the tests bring up their own on loopback
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -20 "$log" >&2
  echo "apt-get could not install ${missing[*]} (see above)" >&2
  exit 1
fi
