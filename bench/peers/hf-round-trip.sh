#!/bin/sh
# Compares models and tokenizers with Hugging Face transformers, both ways (hf-round-trip.py says how).
# Makes a throw-away Python environment; PYTHON=/path/to/python uses one that has torch and transformers.
set -eu
cd "$(dirname "$0")/../.."
node scripts/build.mjs
if [ -z "${PYTHON:-}" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet torch transformers numpy
  PYTHON=$folder/bin/python
fi
"$PYTHON" bench/peers/hf-round-trip.py
