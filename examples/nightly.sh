#!/bin/sh
# Predict a day's rows once, however often this is begun; the exit code says how it went (docs/command-line.md).
# CELERIAC_BROKER_URL=redis://... nightly.sh digits /data/2026-11-29.npy /data/scores-2026-11-29.npy
set -eu
model=$1 input=$2 output=$3

# A name for this piece of work: what comes again by it waits for, continues, or finds done what was begun.
celeriac predict "$model" "$input" -o "$output" --job "$model of $(basename "$input")" --quiet --json
