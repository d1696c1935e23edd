"""The parent under test: runs the tile stage over one folder after another, told by stdin."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path


def main() -> None:
    """Read ``[slides, store, config]`` a line, tile, and answer a line when it is done."""
    from pipelines.tile import tile_stage
    from wsi_hr.config import TileConfig

    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        slides, store, config = json.loads(line)
        tile_stage([Path(slides)], Path(store), TileConfig(**config), workers=2)
        print("tiled", flush=True)


if __name__ == "__main__":
    main()
