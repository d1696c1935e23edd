"""How long a cohort takes on one core and on several, as ``wsi-hr tile`` goes about it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wsi_hr.config import TileConfig

_NUM_SLIDES = 4

_CODE = """
import os, shutil, sys, time
from pathlib import Path
slides, store, num_cores = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
config = TileConfig.model_validate_json(sys.argv[3])
for _ in range(2):  # the first time, processes start and modules are read
    shutil.rmtree(store, ignore_errors=True)
    start = time.perf_counter()
    rows = tile_stage([slides], store, config)
    took_s = time.perf_counter() - start
assert {row["status"] for row in rows} == {"done"}, rows
print(took_s)
"""


def cohort_s(slide: Path, settings: TileConfig, num_cores: int) -> float:
    """Seconds for a folder of copies of one slide, on that many of the cores there are."""
    with tempfile.TemporaryDirectory(prefix="wsi-hr-bench-") as scratch:
        folder = Path(scratch) / "slides"
        folder.mkdir()
        for number in range(_NUM_SLIDES):
            shutil.copyfile(slide, folder / f"{number}{slide.suffix}")
        arguments = [str(folder), f"{scratch}/store", settings.model_dump_json(), str(num_cores)]
        command = [sys.executable, "-c", _CODE, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)
