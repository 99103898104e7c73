#!/usr/bin/env bash
# Zarr: opening an array asks the store for the metadata of both formats, two of which are not there.
#
# Versions: zarr 3.1.6, numpy 2.4.6.
#
# A Zarr 3 array has one file of metadata, `zarr.json`, so one request is expected to open it; behind a URL that is a
# round trip, and a 404 is paid for like any other. `zarr.open_array` and `zarr.open_group` ask for the files of formats
# 2 and 3 side by side unless they are told `zarr_format`; a Zarr 2 array asks for `.zattrs` besides, which may be missing.
#
# Seen, the keys that are asked for to open an array `x`, and the group that has it:
#   Zarr 3                  x/.zarray x/.zattrs x/zarr.json | .zattrs .zgroup .zmetadata zarr.json
#   Zarr 3, zarr_format=3   x/zarr.json | zarr.json
#   Zarr 2                  x/.zarray x/.zattrs x/zarr.json | .zattrs .zgroup .zmetadata zarr.json
#   Zarr 2, zarr_format=2   x/.zarray x/.zattrs | .zattrs .zgroup .zmetadata
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-compile zarr==3.1.6 numpy==2.4.6

cat >open.py <<'PYTHON'
import numpy as np
import zarr
from zarr.storage import MemoryStore

asked = []


class Counted(MemoryStore):
    async def get(self, key, prototype, byte_range=None):
        asked.append(key)
        return await super().get(key, prototype, byte_range)


def keys(opened):
    asked.clear()
    opened()
    return " ".join(sorted(asked))


for kind in (3, 2):
    store = Counted()
    zarr.create_group(store, zarr_format=kind).create_array("x", data=np.arange(6), chunks=(3,))
    for name, told in (("", {}), (f", zarr_format={kind}", {"zarr_format": kind})):
        array = keys(lambda: zarr.open_array(store, path="x", mode="r", **told))
        group = keys(lambda: zarr.open_group(store, mode="r", **told))
        print(f"Zarr {kind}{name}: {array} | {group}")
PYTHON
venv/bin/python open.py >seen
cat seen

cat >expected <<'TEXT'
Zarr 3: x/.zarray x/.zattrs x/zarr.json | .zattrs .zgroup .zmetadata zarr.json
Zarr 3, zarr_format=3: x/zarr.json | zarr.json
Zarr 2: x/.zarray x/.zattrs x/zarr.json | .zattrs .zgroup .zmetadata zarr.json
Zarr 2, zarr_format=2: x/.zarray x/.zattrs | .zattrs .zgroup .zmetadata
TEXT
cmp seen expected || { echo "the behaviour has changed" >&2; exit 1; }
