#!/usr/bin/env bash
# Known vulnerabilities: of the libraries that packages and image carry, and of what is installed to build and to test.
#   packaging/audit.sh [PIP-AUDIT'S OPTIONS]         with the Python of .venv, or of PYTHON
# pip-audit asks PyPI, which tells with each version what is known of it; a mirror often has the files alone, and then
# `-s osv`, or `-s osv --osv-url URL`, asks OSV or a copy of it. What could not be asked about is a failure (--strict):
# without that pip-audit names it and ends with 0. docs/release.md
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
lock=${AUDIT_LOCK:-packaging/requirements.txt}
audit() { "$python" -m pip_audit --strict --disable-pip --progress-spinner off "$@"; }
here=$(mktemp)
trap 'rm -f "$here"' EXIT
bad=0
echo "what packages and image carry: $lock" >&2
audit --require-hashes -r "$lock" "$@" || bad=1
echo "what is installed here to build and test" >&2
"$python" -m pip freeze --exclude-editable >"$here"
audit --no-deps -r "$here" "$@" || bad=1
exit $bad
