#!/usr/bin/env bash
# The Debian package of this working tree, by Debian's own tools:  packaging/build-deb.sh [OUTDIR]
# Needs: apt-get install dpkg-dev debhelper python3-venv   (and PyPI, see payload.sh)
set -euo pipefail
out=$(realpath -m "${1:-dist}")
mkdir -p "$out"
cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' exporter/jobwatt/__init__.py)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/jobwatt-$version
mkdir "$tree"
# what belongs to the project and nothing that lies around in it
git ls-files -z --cached --others --exclude-standard . ':!tests' |
  while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
  tar -c --null -T - | tar -x -C "$tree"
cp -r "$tree/packaging/debian" "$tree/debian"
# one place for the version and for what changed: the project's own
stamp=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cat >"$tree/debian/changelog" <<C
jobwatt ($version-1) unstable; urgency=medium

  * Changes are in /usr/share/doc/jobwatt/changelog.gz.

 -- ${DEBFULLNAME:-the jobwatt developers} <${DEBEMAIL:-jobwatt@localhost}>  $(date -R -u -d "@$stamp")
C
cd "$tree"
if ! dpkg-buildpackage -b -us -uc >"$work/log" 2>&1; then
  tail -40 "$work/log" >&2
  exit 1
fi
cp "$work"/*.deb "$out"/
ls "$out"/jobwatt_"$version"-1_*.deb
