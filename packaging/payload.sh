#!/usr/bin/env bash
# Everything that a package of jobwatt installs, into a directory: the same for .deb and .rpm.
#   packaging/payload.sh DESTDIR [UNITDIR]
# Needs PyPI (or a mirror that pip is told of) and a Python of 3.11 or later with venv. The Python it is run
# with (PYTHON, default /usr/bin/python3) is the one that the package then needs. JOBWATT_WHEEL: the wheel to install.
set -euo pipefail
dest=$(realpath -m "$1")
cd "$(dirname "$0")"
units=$dest${2:-/usr/lib/systemd/system}
python=${PYTHON:-/usr/bin/python3}
home=/usr/lib/jobwatt
minor=$($python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
site=$dest$home/lib/python$minor/site-packages
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# a venv made by hand: `python -m venv` would write the build's paths into it
mkdir -p "$dest$home/bin" "$site"
ln -s "$python" "$dest$home/bin/python3"
printf 'home = %s\ninclude-system-site-packages = false\nversion = %s\n' "$(dirname "$python")" \
  "$($python -c 'import platform; print(platform.python_version())')" >"$dest$home/pyvenv.cfg"

$python -m venv "$work/pip"
pip() { "$work/pip/bin/python" -m pip --quiet --disable-pip-version-check --no-cache-dir "$@"; }
pip install --no-deps --no-compile --only-binary=:all: --require-hashes --target "$site" -r requirements.txt
# a release has made its wheel (release.py): the same one is in all its packages
if [ -n "${JOBWATT_WHEEL:-}" ]; then cp "$JOBWATT_WHEEL" "$work"; else pip wheel --no-deps --wheel-dir "$work" ..; fi
pip install --no-deps --no-compile --no-index --upgrade --target "$site" "$work"/jobwatt-*.whl
# scripts of these libraries, with the build's paths; where a package came from is the build's affair
rm -rf "${site:?}"/{bin,example.py} "$site"/*.dist-info/{direct_url.json,REQUESTED,INSTALLER}
# ... and the sums of what is gone: those of the scripts are of the build's paths
sed -i -E '/^(\.\.\/|bin\/|example\.py,)/d; /\.dist-info\/(direct_url\.json|REQUESTED|INSTALLER),/d' "$site"/*.dist-info/RECORD
find "$site" -type f -perm /111 -exec chmod 644 {} +
# checked by no time stamp: those of a package's files are not the build's
$python -m compileall -q -j 0 -s "$dest" --invalidation-mode unchecked-hash "$site"

install -d "$dest/usr/bin"
printf '#!%s/bin/python3 -I\nfrom jobwatt.cli import entry\n\nentry()\n' $home >"$dest/usr/bin/jobwatt"
chmod 755 "$dest/usr/bin/jobwatt"

install -D -m 644 -t "$units" systemd/*.service
install -D -m 644 systemd/jobwatt.sysusers "$dest/usr/lib/sysusers.d/jobwatt.conf"
install -D -m 644 systemd/jobwatt.tmpfiles "$dest/usr/lib/tmpfiles.d/jobwatt.conf"
install -D -m 644 -t "$dest/usr/lib/udev/rules.d" systemd/60-jobwatt.rules
install -D -m 644 -t "$dest/etc/jobwatt" jobwatt.toml
doc=$dest/usr/share/doc/jobwatt
install -D -m 644 -t "$doc/examples" examples/*.conf
install -D -m 755 -t "$doc/examples/slurm" slurm/prolog slurm/epilog
# pages, and what they link to: rules, runbooks, dashboards, other programs' configuration, the chart
for part in {README,CONTRIBUTING,CHANGELOG}.md docs alerts interop grafana/{README.md,dashboards,provisioning,compose,screenshots} helm/jobwatt; do
  mkdir -p "$doc/$(dirname "$part")"
  cp -R "../$part" "$doc/$part"
done
find "$doc" -name __pycache__ -prune -exec rm -rf {} +
find "$doc" -type d -exec chmod 755 {} +
find "$doc" -path "$doc/examples/slurm" -prune -o -type f -exec chmod 644 {} +

PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$site $python manpages.py "$work/man"
for page in "$work"/man/*; do
  gzip -9n "$page"
  install -D -m 644 -t "$dest/usr/share/man/man${page##*.}" "$page.gz"
done
