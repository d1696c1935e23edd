"""Bugs and poison planted into the program under test, to see that they are found.

A planted folder goes to the front of ``PYTHONPATH``; its ``sitecustomize`` changes a module of the
program right after that module is imported, in every process of the run.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.crash_planted import CRASH_BUGS

_HOOK = """
import importlib.util, sys

class _Planter:
    def find_spec(self, name, path=None, target=None):
        if name not in PLANTS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            PLANTS[name](module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, _Planter())
"""

_POISON = """
import os, signal, time

def _plant(module):
    opened = module.open_slide
    def open_slide(path, **settings):
        if path.stem == "poison":
            {act}
        return opened(path, **settings)
    module.open_slide = open_slide

PLANTS |= {{"wsi_hr.tiling.tile": _plant}}
"""

POISON: dict[str, str] = {
    name: _POISON.format(act=act)
    for name, act in {
        "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
        "abort": "os.abort()",
        "killed": "os.kill(os.getpid(), signal.SIGKILL)",
        "exit": "os._exit(0)",
        "hang": "time.sleep(1e6)",
        "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
        "memory": "bytearray(1 << 40)",
        "bug": "raise RuntimeError('no such thing')",
    }.items()
}
"""What a slide named ``poison`` does to the process that opens it."""

BUGS: dict[str, str] = {
    **CRASH_BUGS,
    # A store depends on when it was made.
    "clock in the store": """
import time
def _plant(module):
    module.__version__ = str(time.time())
PLANTS |= {"wsi_hr": _plant}
""",
    # Something half-written stays.
    "stray": """
def _plant(module):
    module.sweep_attempts = lambda store: (store / "left.zarr.tmp").mkdir(exist_ok=True)
PLANTS |= {"pipelines.tile": _plant}
""",
    # A process outlives the run.
    "orphan": """
import subprocess
def _plant(module):
    subprocess.Popen(["sleep", "600"], start_new_session=True)
PLANTS |= {"pipelines.tile": _plant}
""",
    # A pool breaks with the first child that dies, and fails whatever comes after it.
    "one death for all": """
def _plant(module):
    run, broken = module.run_isolated, []
    def run_isolated(*args, **limits):
        if broken:
            raise module.WsiHrError("the pool is broken")
        try:
            return run(*args, **limits)
        except module.WsiHrError:
            broken.append(True)
            raise
    module.run_isolated = run_isolated
PLANTS |= {"pipelines.tile_jobs": _plant}
""",
    "parent leaks": """
def _plant(module):
    put, kept = module.StatusTable.put, []
    def leak(self, row):
        kept.append(b"x" * (1 << 21))
        put(self, row)
    module.StatusTable.put = leak
PLANTS |= {"pipelines.status": _plant}
""",
    "server leaks": """
def _plant(module):
    accept, kept = module._accept, []
    def leak(listener, own_fds):
        kept.append(b"x" * (1 << 21))
        return accept(listener, own_fds)
    module._accept = leak
PLANTS |= {"wsi_hr.slides.isolate_server": _plant}
""",
    "parent crashes": """
import os
def _plant(module):
    module.StatusTable.put = lambda self, row: os.abort()
PLANTS |= {"pipelines.status": _plant}
""",
    "parent hangs": """
import time
def _plant(module):
    module.StatusTable.put = lambda self, row: time.sleep(1e6)
PLANTS |= {"pipelines.status": _plant}
""",
    "row lost": """
def _plant(module):
    put = module.StatusTable.put
    def forget(self, row):
        if row["status"] == "done" or row["slide_id"].endswith(("1", "4", "7")):
            put(self, row)
    module.StatusTable.put = forget
PLANTS |= {"pipelines.status": _plant}
""",
    "bare traceback": """
import traceback
def _plant(module):
    run = module.run_isolated
    def run_isolated(*args, **limits):
        try:
            return run(*args, **limits)
        except module.WsiHrError as error:
            raise module.WsiHrError("".join(traceback.format_exception(error)))
    module.run_isolated = run_isolated
PLANTS |= {"pipelines.tile_jobs": _plant}
""",
    "deadline ignored": """
import time
def _plant(module):
    run = module.run_isolated
    def run_isolated(*args, deadline_s, **limits):
        time.sleep(deadline_s + 12)
        return run(*args, deadline_s=deadline_s, **limits)
    module.run_isolated = run_isolated
PLANTS |= {"pipelines.tile_jobs": _plant}
""",
    # The store claims that it came from the undisturbed slide.
    "hash of another file": """
import os
def _plant(module):
    module.Source.sha256 = lambda self: os.environ["WSI_HR_KNOWN_" + self.files[0].name[0]]
PLANTS |= {"wsi_hr.slides.source": _plant}
""",
    # A file of the store is emptied after its checksum was taken.
    "half a store": """
def _plant(module):
    commit = module.PatchStoreWriter.commit
    def half(self):
        commit(self)
        (self._path / "zarr.json").write_bytes(b"")
    module.PatchStoreWriter.commit = half
PLANTS |= {"wsi_hr.store.patch_writer": _plant}
""",
}
"""Bugs by name; each is found by the oracle that is for it."""


def plant(folder: Path, source: str) -> Path:
    """Write a planted folder; put it in front of ``PYTHONPATH``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text("PLANTS = {}\n" + source + _HOOK, encoding="utf-8")
    return folder
