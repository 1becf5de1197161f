#!/usr/bin/env bash
# The package on a cluster's nodes, one after the other, by ssh:
#
#   packaging/install-nodes.sh [--dry-run] [--config FILE] PACKAGE NODE...
#   packaging/install-nodes.sh jobwatt_0.1.0-1_amd64.deb gpu{01..12}
#   packaging/install-nodes.sh jobwatt_0.1.0-1_amd64.deb $(scontrol show hostnames 'gpu[01-12]')
#
# For each node: copy, install (apt-get or dnf), FILE as /etc/jobwatt/jobwatt.toml, restart, look at the page
# and ask jobwatt doctor. It stops at the first node where that fails, so the first is the trial; running it
# again does no harm. Needs ssh as root, or as a user with sudo that asks for no password. Jobs are not touched.
# Slurm's hooks are the cluster's own affair: docs/install.md.
set -euo pipefail

usage() { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dry=''
config=''
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --config) [ $# -gt 1 ] || usage; config=$2; shift ;;
    -*) usage ;;
    *) break ;;
  esac
  shift
done
[ $# -ge 2 ] || usage
package=$1
shift
for file in "$package" ${config:+"$config"}; do
  [ -r "$file" ] || { echo "install-nodes: cannot read $file" >&2; exit 2; }
done
case $package in
  *.deb) install='DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold' ;;
  *.rpm) install='dnf install -y' ;;
  *) echo "install-nodes: $package is neither .deb nor .rpm" >&2; exit 2 ;;
esac
options=(-o BatchMode=yes -o ConnectTimeout=10)

# runs on the node, as root; $1 is the directory that scp has filled
remote() {
  cat <<R
set -eu
cd "\$1"
trap 'rm -rf "\$1"' EXIT
$install ./$(basename "$package") >install.log 2>&1 || { tail -20 install.log; exit 1; }
[ ! -e jobwatt.toml ] || install -m 644 jobwatt.toml /etc/jobwatt/jobwatt.toml
systemctl enable --quiet jobwatt
systemctl restart jobwatt
sleep 5
systemctl is-active --quiet jobwatt || { journalctl -u jobwatt -n 20 --no-pager; exit 1; }
runuser -u jobwatt -- jobwatt doctor --config.file=/etc/jobwatt/jobwatt.toml 2>/dev/null
R
}

# a directory of the node's own making: nobody can have put anything there before
on() {
  local node=$1 where
  where=$(ssh -n "${options[@]}" "$node" mktemp -d) || return 1
  [[ $where =~ ^/[A-Za-z0-9/._-]*/tmp\.[A-Za-z0-9]+$ ]] || { echo "mktemp -d said: $where"; return 1; }
  scp -q "${options[@]}" "$package" "$node:$where/" || return 1
  if [ -n "$config" ]; then scp -q "${options[@]}" "$config" "$node:$where/jobwatt.toml" || return 1; fi
  # shellcheck disable=SC2029  # the directory, checked above, is meant to be put in here
  remote | ssh "${options[@]}" "$node" "sudo=; [ \$(id -u) = 0 ] || sudo='sudo -n'; \$sudo sh -s -- $where"
}

if [ -n "$dry" ]; then
  echo "on each of: $*"
  remote
  exit 0
fi
for node in "$@"; do
  if ! said=$(on "$node" 2>&1); then
    printf '%s: FAILED; this node and those after it need a look\n%s\n' "$node" "$said" >&2
    exit 1
  fi
  printf '%s: installed, measures\n%s\n' "$node" "$(printf '%s\n' "$said" | sed 's/^/    /')"
done
