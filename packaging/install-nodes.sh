#!/usr/bin/env bash
# The package on a cluster's nodes by ssh: on one as a trial, then on several at a time.
#
#   packaging/install-nodes.sh [--dry-run] [--config FILE] [--parallel N] PACKAGE NODE...
#   packaging/install-nodes.sh [--dry-run] [--parallel N] --rollback NODE...
#   packaging/install-nodes.sh jobwatt_0.1.0-1_amd64.deb gpu{01..12}
#   packaging/install-nodes.sh jobwatt_0.1.0-1_amd64.deb $(scontrol show hostnames 'gpu[01-12]')
#
# For each node: copy, install (apt-get or dnf), FILE as /etc/jobwatt/jobwatt.toml, restart, look at the unit and ask
# jobwatt doctor. Where that fails on the first node no other is touched; where it fails later, those being done are
# finished (N at a time, 4 by default) and no more are begun. What was done, failed and not tried is said at the end.
# Again with the same arguments it goes on: a node that has this package and this FILE, and measures, is left alone.
# --rollback puts back the package and the settings that a node had before, or removes the package where it had none.
# Needs ssh as root, or as a user with sudo that asks for no password. Jobs are not touched. Slurm's hooks are the
# cluster's own affair: docs/install.md.
set -euo pipefail

usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dry='' config='' parallel=4 rollback=''
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --rollback) rollback=yes ;;
    --config) [ $# -gt 1 ] || usage; config=$2; shift ;;
    --parallel) [ $# -gt 1 ] || usage; parallel=$2; shift ;;
    -*) usage ;;
    *) break ;;
  esac
  shift
done
[[ $parallel =~ ^[1-9][0-9]{0,2}$ ]] || usage
package=''
if [ -z "$rollback" ]; then
  [ $# -ge 2 ] || usage
  package=$1
  shift
  [[ ${package##*/} =~ ^[A-Za-z0-9._+~-]+\.(deb|rpm)$ ]] || { echo "install-nodes: $package is neither .deb nor .rpm" >&2; exit 2; }
elif [ -n "$config" ] || [ $# -lt 1 ]; then usage; fi
for file in ${package:+"$package"} ${config:+"$config"}; do
  [ -r "$file" ] || { echo "install-nodes: cannot read $file" >&2; exit 2; }
done
declare -A given=()
for node in "$@"; do
  [[ $node =~ ^[A-Za-z0-9][A-Za-z0-9._@-]*$ ]] || { echo "install-nodes: $node is no node's name" >&2; exit 2; }
  [ -z "${given[$node]:-}" ] || { echo "install-nodes: $node is given twice" >&2; exit 2; }
  given[$node]=yes
done
options=(-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15)

# What runs on the node, as root. $kept has the package there now, the one before, and the settings before.
common() {
  cat <<'R'
set -eu
kept=/var/cache/jobwatt
toml=/etc/jobwatt/jobwatt.toml
doctor() { runuser -u jobwatt -- jobwatt doctor --config.file=$toml 2>/dev/null; }
put() {  # a package, an older one too
  case $1 in
    *.deb) DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades \
      -o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold "$1" ;;
    *.rpm) dnf install -y "$1" || dnf downgrade -y "$1" ;;
  esac >"$1.log" 2>&1 || { tail -20 "$1.log"; exit 1; }
  rm -f "$1.log"
}
start() {
  systemctl enable --quiet jobwatt
  systemctl restart jobwatt
  sleep 5
  systemctl is-active --quiet jobwatt || { journalctl -u jobwatt -n 20 --no-pager; exit 1; }
  doctor
}
R
}

# $1 is the directory that scp has filled
installing() {
  local sums
  sums=$(cat "$package" ${config:+"$config"} | sha256sum | cut -d' ' -f1)
  common
  cat <<R
cd "\$1"
trap 'rm -rf "\$1"' EXIT
if [ "\$(cat \$kept/done 2>/dev/null)" = $sums ] && systemctl is-active --quiet jobwatt && doctor; then
  exit 0
fi
install -d -m 700 \$kept
rm -f \$kept/done
new='$(basename "$package")'
# an attempt that failed has moved all this already: what was there before is what was there before it
if [ ! -e "\$kept/now/\$new" ] || ! cmp -s "\$new" "\$kept/now/\$new"; then
  rm -rf \$kept/before
  if [ -d \$kept/now ]; then mv \$kept/now \$kept/before; else mkdir \$kept/before; fi
  if [ -z "\$(ls \$kept/before)" ] && [ -e /usr/bin/jobwatt ]; then touch \$kept/before/unknown; fi
  if [ -e \$toml ]; then cp -p \$toml \$kept/before/jobwatt.toml; fi
  mkdir \$kept/now
  cp "\$new" \$kept/now
fi
put "./\$new"
[ ! -e jobwatt.toml ] || install -m 644 jobwatt.toml \$toml
start
echo $sums >\$kept/done
R
}

rolling_back() {
  common
  cat <<'R'
[ -d $kept/before ] || { echo "nothing is kept from before in $kept"; exit 1; }
[ ! -e $kept/before/unknown ] || { echo "the package that was here before was not put here by this script: install it"; exit 1; }
rm -f $kept/done
old=$(find $kept/before -name '*.deb' -o -name '*.rpm')
if [ -z "$old" ]; then
  if command -v apt-get >/dev/null; then apt-get remove -y jobwatt; else dnf remove -y jobwatt; fi >/dev/null 2>&1
  rm -rf $kept
  echo "removed: this node had none before"
  exit 0
fi
put "$old"
if [ -e $kept/before/jobwatt.toml ]; then install -m 644 $kept/before/jobwatt.toml $toml; fi
rm -rf $kept/now
mv $kept/before $kept/now
rm -f $kept/now/jobwatt.toml
start
R
}

# A directory of the node's own making: nobody can have put anything there before. Its name, checked, is meant to be put
# into the command here.
# shellcheck disable=SC2029
on() {
  local node=$1 where='' as_root="sudo=; [ \$(id -u) = 0 ] || sudo='sudo -n'; \$sudo sh -s --"
  if [ -n "$rollback" ]; then
    rolling_back | ssh "${options[@]}" "$node" "$as_root"
    return
  fi
  where=$(ssh -n "${options[@]}" "$node" mktemp -d) || return 1
  [[ $where =~ ^/[A-Za-z0-9/._-]*/tmp\.[A-Za-z0-9]+$ ]] || { echo "mktemp -d said: $where"; return 1; }
  scp -q "${options[@]}" "$package" "$node:$where/" || return 1
  if [ -n "$config" ]; then scp -q "${options[@]}" "$config" "$node:$where/jobwatt.toml" || return 1; fi
  installing | ssh "${options[@]}" "$node" "$as_root $where"
}

if [ -n "$dry" ]; then
  echo "on each of: $*"
  if [ -n "$rollback" ]; then rolling_back; else installing; fi
  exit 0
fi

said=$(mktemp -d)
trap 'rm -rf "$said"' EXIT
done=() failed=() left=("$@")
verb=$([ -n "$rollback" ] && echo "as before" || echo "installed, measures")

try() {  # one node; its word goes into a file, so that several do not talk at once
  if on "$1" >"$said/$1" 2>&1; then mv "$said/$1" "$said/$1.done"; else mv "$said/$1" "$said/$1.failed"; fi
}
tell() {
  local node
  for node in "$@"; do
    if [ -e "$said/$node.done" ]; then
      done+=("$node")
      printf '%s: %s\n' "$node" "$verb"
      sed 's/^/    /' "$said/$node.done"
    else
      failed+=("$node")
      printf '%s: FAILED\n' "$node" >&2
      sed 's/^/    /' "$said/$node.failed" >&2
    fi
  done
}

some=1  # the first alone
while [ ${#left[@]} -gt 0 ] && [ ${#failed[@]} -eq 0 ]; do
  now=("${left[@]:0:some}")
  left=("${left[@]:some}")
  for node in "${now[@]}"; do try "$node" & done
  wait
  tell "${now[@]}"
  some=$parallel
done
[ ${#failed[@]} -gt 0 ] || exit 0
{
  echo "done: ${#done[@]}${done[*]:+: ${done[*]}}"
  echo "failed: ${failed[*]}"
  [ ${#left[@]} -eq 0 ] || echo "not tried: ${left[*]}"
  echo "the same command again goes on where this one stopped"
} >&2
exit 1
