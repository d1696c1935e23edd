"""One slide on a dask cluster of this machine's cores, beside the same cores without a cluster.

    python -m benchmarks.tiling_cluster --slide FILE [--mpp 0.5] [--rounds 3] [--json OUT]

The workers are processes of one thread each, as many as there are cores. A round tiles the slide by
all cores of this process's own run, by all workers, and by one worker. JSON: ``cluster_x`` (time
without a cluster through time with all workers), ``second_worker_x`` (time with one worker through
time with all), both with every round's number and the seconds they are made from; ``machine``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.measure import Rounds, machine, seconds
from pipelines.tile import tile_stage
from wsi_hr.config import TileConfig
from wsi_hr.machine import num_usable_cores
from wsi_hr.store.patch_store import PatchStore

_PACKAGES = ("wsi-hr", "distributed", "zarr", "simplejpeg", "openslide-bin")


@contextmanager
def cluster(workers: int, folder: Path) -> Iterator[str]:
    """The address of one whose workers have a thread each."""
    options: dict[str, Any] = {
        "dashboard_address": "127.0.0.1:0",
        "local_directory": str(folder),
    }
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, **options) as local,
        Client(local) as client,
    ):
        yield client.scheduler_info()["address"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    config = TileConfig.model_validate({"mpp": asked.mpp})
    facts, rounds, cores = machine(_PACKAGES), Rounds(), num_usable_cores()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def tiled(scheduler: str | None) -> float:
            store = folder / "store"
            shutil.rmtree(store, ignore_errors=True)
            return seconds(lambda: tile_stage([asked.slide], store, config, scheduler=scheduler))

        with cluster(cores, folder / "all") as many, cluster(1, folder / "one") as one:
            for scheduler in (None, many, one):  # the slide into memory, the processes into being
                tiled(scheduler)
            for _ in range(asked.rounds):
                alone, by_all, by_one = tiled(None), tiled(many), tiled(one)
                rounds.add("alone_s", alone)
                rounds.add("all_workers_s", by_all)
                rounds.add("one_worker_s", by_one)
                rounds.add("cluster_x", alone / by_all)
                rounds.add("second_worker_x", by_one / by_all)
        (found,) = (folder / "store").glob("*.zarr")
        num_patches = len(PatchStore.open(found))
    for name in rounds.values:
        least, most = rounds.spread(name)
        print(f"{name:20}{rounds.median(name):8.3g}  {least:8.3g} - {most:8.3g}")
    if asked.json:
        report = {
            "cluster_x": rounds.median("cluster_x"),
            "second_worker_x": rounds.median("second_worker_x"),
            "rounds": dict(rounds.values),
            "workers": cores,
            "num_patches": num_patches,
            "mpp": asked.mpp,
            "machine": facts,
        }
        asked.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
