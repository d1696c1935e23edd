"""What an epoch leaves of every slide for the next: one small file a slide, in the run folder.

Files of an epoch are never overwritten by the next one, so a run that was killed in the middle of
an epoch starts it again from what the undisturbed run had started it from.
"""

from __future__ import annotations

import io
import shutil
import zlib
from pathlib import Path

import numpy as np

from wsi_hr.errors import CheckpointError
from wsi_hr.file_names import file_in, own_folder, require_own
from wsi_hr.geometry import Float32Array
from wsi_hr.listing import read_if_there
from wsi_hr.runtime import atomic_path, remove_folder

MEMORY = "memory"
_CRC_BYTES = 4


class EpochMemory:
    """The memory of one epoch: reads what the one before kept, keeps for the one after.

    Args:
        run_dir: the run's folder.
        epoch: counted from 0.
    """

    def __init__(self, run_dir: Path, epoch: int) -> None:
        memory = own_folder(run_dir, MEMORY)
        self._before = file_in(memory, _epoch_name(epoch - 1), of="epoch")
        self._now = own_folder(memory, _epoch_name(epoch))
        for older in memory.iterdir():
            if older.is_symlink():
                older.unlink()  # not ours, nor is what it leads to
            elif older not in (self._before, self._now):
                shutil.rmtree(older)

    def recall(self, slide_id: str) -> Float32Array | None:
        """f32[J, N] kept of the slide by the epoch before, or None.

        Raises:
            CheckpointError: the file is damaged.
            ReadError: it cannot be read just now.
        """
        path = file_in(self._before, slide_id, ".npy", of="slide id")
        data = read_if_there(path)
        if data is None:
            return None
        content = data[:-_CRC_BYTES]
        if zlib.crc32(content).to_bytes(_CRC_BYTES, "little") != data[-_CRC_BYTES:]:
            raise CheckpointError(
                f"{path}: does not match its checksum; train again into another folder"
            )
        return np.load(io.BytesIO(content), allow_pickle=False)

    def keep(self, slide_id: str, values_JN: Float32Array) -> None:
        """Keep f32[J, N] of the slide for the epoch after."""
        buffer = io.BytesIO()
        np.save(buffer, values_JN, allow_pickle=False)
        content = buffer.getvalue()
        with atomic_path(file_in(self._now, slide_id, ".npy", of="slide id")) as tmp:
            tmp.write_bytes(content + zlib.crc32(content).to_bytes(_CRC_BYTES, "little"))


def forget(run_dir: Path) -> None:
    """Remove the memory of a run that is at its end.

    Raises:
        FileNameError: a link that leads out of the run's folder stands there.
        WriteError: it cannot be removed.
    """
    remove_folder(require_own(run_dir, MEMORY))


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:05}"
