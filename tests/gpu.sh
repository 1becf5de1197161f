#!/usr/bin/env bash
# Whether the tests on a real GPU can run here: said aloud, or as a pytest marker expression.
if [ -e /dev/nvidiactl ]; then
  [ "${1:-}" = --marker ] || echo "an NVIDIA driver is here: the tests on a real GPU run too" >&2
  exit 0
fi
if [ "${1:-}" = --marker ]; then
  echo "not gpu"
else
  echo "no NVIDIA driver here: the tests marked gpu are left out; the real pynvml runs on tests/shim/nvml" >&2
fi
