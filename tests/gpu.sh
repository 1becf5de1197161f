#!/usr/bin/env bash
# Whether the tests on a real GPU, and those of programs that no package has, can run here: said aloud, or as a pytest
# marker expression.
left=()
say() { [ "$marker" = --marker ] || echo "$*" >&2; }
marker=${1:-}

if [ -e /dev/nvidiactl ]; then
  say "an NVIDIA driver is here: the tests on a real GPU run too"
else
  say "no NVIDIA driver here: the tests marked gpu are left out; the real pynvml runs on tests/shim/nvml"
  left+=("not gpu")
fi
for program in mimir thanos kubernetes; do
  variable=JOBWATT_${program^^}
  if [ -z "${!variable:-}" ]; then
    page=storage.md
    [ $program != kubernetes ] || page=kubernetes.md
    say "no $variable: the tests of a real $program are left out; its files are checked without it (docs/$page)"
    left+=("not $program")
  fi
done
if [ "$marker" = --marker ]; then
  expression=$(printf ' and %s' "${left[@]}")
  echo "${expression# and }"
fi
