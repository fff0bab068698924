#!/bin/sh
# Compares LoRA adapters with those of the peft package, both ways (peft-round-trip.py says how).
# Makes a throw-away Python environment; PYTHON=/path/to/python uses one that has torch, transformers and peft.
set -eu
cd "$(dirname "$0")/../.."
node scripts/build.mjs
if [ -z "${PYTHON:-}" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet torch transformers peft numpy
  PYTHON=$folder/bin/python
fi
"$PYTHON" bench/peers/peft-round-trip.py
