"""Bugs that the crash points must find, one for every oracle; see :mod:`benchmarks.planted`."""

from __future__ import annotations

CRASH_BUGS: dict[str, str] = {
    # A file is written at its final name.
    "written in place": """
from contextlib import contextmanager
def _plant(module):
    @contextmanager
    def in_place(path):
        yield path
    module.atomic_path = in_place
PLANTS |= {"wsi_hr.runtime": _plant}
""",
    # A temporary name that the next run does not know.
    "name of its own": """
import os
from contextlib import contextmanager
def _plant(module):
    @contextmanager
    def atomic_path(path):
        tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        yield tmp
        tmp.replace(path)
    module.atomic_path = atomic_path
PLANTS |= {"wsi_hr.runtime": _plant}
""",
    # A failure is kept secret.
    "swallowed": """
def _plant(module):
    from wsi_hr.errors import WriteError
    from wsi_hr.exchange.export import Exported
    export = module.export_store
    def export_store(store, out, form):
        try:
            return export(store, out, form)
        except WriteError:
            return Exported(out / store.slide_id, 1, kept=True)
    module.export_store = export_store
PLANTS |= {"pipelines.export": _plant}
""",
    # Something a user can mend ends in a traceback.
    "not for users": """
def _plant(module):
    from wsi_hr.errors import WriteError
    draw = module.write_sheets
    def write_sheets(*args):
        try:
            return draw(*args)
        except WriteError as cause:
            raise RuntimeError("no sheet") from cause
    module.write_sheets = write_sheets
PLANTS |= {"pipelines.sample": _plant}
""",
    # The user is told that nothing was done.
    "blames the request": """
def _plant(module):
    from wsi_hr.errors import StoreError, WriteError
    draw = module.write_sheets
    def write_sheets(*args):
        try:
            return draw(*args)
        except WriteError as cause:
            raise StoreError("no sheet") from cause
    module.write_sheets = write_sheets
PLANTS |= {"pipelines.sample": _plant}
""",
    # A full disk is waited for.
    "tries for ever": """
import time
def _plant(module):
    from wsi_hr.errors import WriteError
    write = module.write_table
    def write_table(*args):
        while True:
            try:
                return write(*args)
            except WriteError:
                time.sleep(0.1)
    module.write_table = write_table
PLANTS |= {"pipelines.sample": _plant}
""",
    # What an outdated store is replaced by is not there yet.
    "replaced too early": """
import shutil
def _plant(module):
    def set_aside(path):
        if path.exists():
            shutil.rmtree(path)
    module.set_aside = set_aside
PLANTS |= {"pipelines.tile_jobs": _plant}
""",
    # Written by the C library's own buffers, which the preloaded library does not see.
    "past the library": """
import ctypes, os
def _plant(module):
    write = module.write_table
    def write_table(path, *rest):
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        file = ctypes.c_void_p(libc.fopen(os.fsencode(path.parent / ".aside"), b"w"))
        libc.fputs(b"text", file)
        libc.fclose(file)
        os.unlink(path.parent / ".aside")
        write(path, *rest)
    module.write_table = write_table
PLANTS |= {"pipelines.export": _plant}
""",
    # The k-th call is not always the same one.
    "by chance": """
import uuid
def _plant(module):
    write = module.write_table
    def write_table(path, *rest):
        stray = path.with_name(f".{uuid.uuid4().hex}")
        stray.touch()
        stray.unlink()
        write(path, *rest)
    module.write_table = write_table
PLANTS |= {"pipelines.export": _plant}
""",
}
"""Bugs by name; undisturbed, the commands end as they do without them."""
