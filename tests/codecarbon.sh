#!/usr/bin/env bash
# CodeCarbon in an environment of its own, for tests/test_codecarbon.py alone: jobwatt needs none of it.
# Made once; where the package index cannot be reached it says so, and the test is left out.
set -euo pipefail
version=3.3.2
venv=$(cd "$(dirname "$0")/.." && pwd)/.cache/codecarbon-venv
[ "$(cat "$venv/.installed" 2>/dev/null || true)" = "$version" ] && exit 0
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
if ! "$venv/bin/pip" install --quiet --disable-pip-version-check "codecarbon==$version"; then
  echo "left out for want of CodeCarbon $version: the test that runs it beside jobwatt" >&2
  exit 0
fi
echo "$version" >"$venv/.installed"
