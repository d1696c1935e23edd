"""Who may import whom, read off the source; and that each rule can be broken."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from pipelines.cli import app
from tests.code_from_data import code_from_data
from tests.paths_from_names import paths_from_names
from tests.unshown import unshown

ROOT = Path(__file__).resolve().parent.parent

# Each room of wsi_hr may import the rooms of the rows above its own, and itself.
FOUNDATION = (
    "errors",
    "file_names",
    "frozen",
    "plain_yaml",
    "recipe",
    "refused_settings",
    "encoder_args",
    "method_config",
    "sampler_config",
    "config",
    "runtime",
    "scratch",
    "listing",
    "living",
    "remote",
    "geometry",
    "jpeg_segments",
    "machine",
    "pixel_memory",
    "slide_prediction",
)
ROWS = (
    FOUNDATION,
    ("slides", "store"),
    ("exchange",),
    ("tiling", "cohort"),
    ("bags", "samplers"),
    ("models",),
    ("methods",),
    ("training", "prediction"),
)
# Synthetic slides are made from the foundation alone, and the library does not live on them.
TESTING = "testing"

# One library, one door: who may import it, as beginnings of paths.
DOORS = {
    "openslide": ("wsi_hr/slides/", "pipelines/doctor.py"),  # which looks whether it loads
    "tifffile": ("wsi_hr/slides/", "wsi_hr/testing/", "wsi_hr/prediction/exports/"),
    "zarr": ("wsi_hr/store/",),
    "fsspec": ("wsi_hr/remote.py",),
    "h5py": ("wsi_hr/exchange/coords_h5.py",),
    "timm": ("wsi_hr/models/timm_nets.py",),
    "torch": ("wsi_hr/models/", "wsi_hr/methods/", "wsi_hr/training/", "pipelines/"),
    "torchvision": ("wsi_hr/models/jpeg_decoder.py", "pipelines/doctor.py"),
    "dask": ("pipelines/",),
    "distributed": ("pipelines/",),
    "typer": ("pipelines/",),
    "rich": ("pipelines/",),
    "pickle": ("wsi_hr/slides/isolate",),  # from a child of ours
    **dict.fromkeys(("marshal", "shelve", "dill", "cloudpickle", "joblib", "runpy"), ("nowhere",)),
}
# What is imported or run is never what a file says; here it is this.
CODE: dict[str, set[str]] = {
    # what the user named on the command line
    "wsi_hr/tiling/tissue.py": {"importlib.import_module(module)"},
    "wsi_hr/slides/isolate_server.py": {"importlib.import_module(name)"},  # of PRELOAD
    "pipelines/doctor.py": {"importlib.import_module(name)", "entry.load()"},  # its own list
}
# Names become paths in file_names.py only; elsewhere where they cannot come from a foreign file.
PATHS_FROM_NAMES: dict[str, set[str]] = {
    "wsi_hr/file_names.py": {"folder / whole", "path.parent / f'{before}{path.name}{after}'"},
    # what the user's own manifest and folders name, wherever it lies, is looked at and only read
    "wsi_hr/cohort/manifest.py": {
        "path.parent / cell",
        "Path(parent) / name",
        "Path(f'{name}.slide')",  # no place: its stem is asked for
    },
    "wsi_hr/cohort/slide_names.py": {"Path(path.name)"},  # likewise
    # parts without `..` of where a slide was tiled, below a folder of the user's; only read
    "wsi_hr/tiling/slide_pixels.py": {"Path(folder, *tiled.parts[first:])"},
    # what the kernel names
    "wsi_hr/living.py": {"Path(f'/proc/{pid}/stat')"},
    "wsi_hr/machine.py": {
        "Path(inside.removeprefix('/'))",
        "CGROUPS / controllers",
        "CGROUPS / controllers / each",
        "CGROUPS / controllers / each / name",
    },
    # the URL that the user gives, and what its server lists below it
    "wsi_hr/remote.py": {
        "RemotePath(text.rstrip('/'))",
        "RemotePath(f'{self.url}/{name}')",
        "PurePath(self.name)",
    },
}
# What people see passes pipelines/terminal.py; elsewhere where it reaches nobody, or through it.
SHOWN: dict[str, set[str]] = {
    "pipelines/progress.py": {"Progress(*columns, console=console, **_BAR)"},  # a ShownConsole
    # a child of ours: its streams are a file, and its log is sent to the caller
    "wsi_hr/slides/isolate_server.py": {
        "logging.basicConfig(level=log_level, handlers=[sender], force=True)",
        "os.dup2(stderr_fd, 1)",
        "os.dup2(stderr_fd, 2)",
        "sys.stderr",
        "sys.stdout",
        "logging.Formatter('%(message)s')",
        "traceback.print_exc()",
    },
}
MAY_ASK_EXISTS = (
    "wsi_hr/listing.py",
    "wsi_hr/testing/",
    # of the user's, and nothing is written for a no
    "wsi_hr/tiling/slide_pixels.py",
    "pipelines/doctor.py",
)
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def violations(root: Path) -> list[str]:
    """Every breach of the rules in the packages under ``root``, one sentence each."""
    found = []
    for path in sorted([*root.glob("wsi_hr/**/*.py"), *root.glob("pipelines/**/*.py")]):
        where = path.relative_to(root).as_posix()
        if path.stem in VAGUE or VAGUE & set(path.relative_to(root).parent.parts):
            found.append(f"{where}: names no subject")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for line, module in imported(tree):
            problem = problem_of(where, module)
            if problem:
                found.append(f"{where}:{line}: {problem}")
        found += [
            f"{where}:{line}: makes a path of a name, which wsi_hr/file_names.py does: {source}"
            for line, source in paths_from_names(tree)
            if source not in PATHS_FROM_NAMES.get(where, ())
        ]
        found += [
            f"{where}:{line}: runs what it is given: {source}"
            for line, source in code_from_data(tree)
            if source not in CODE.get(where, ())
        ]
        found += [
            f"{where}:{line}: lists a folder by glob, which takes one that cannot be read for "
            "empty; wsi_hr/listing.py does not"
            for line in globs(tree)
        ]
        found += [
            f"{where}:{line}: asks exists, which may take a disk that fails for a no; is_there of "
            "wsi_hr/listing.py does not"
            for line in asks_exists(tree)
            if not where.startswith(MAY_ASK_EXISTS)
        ]
        found += [
            f"{where}:{line}: goes around pipelines/terminal.py: {source}"
            for line, source in unshown(tree)
            if source not in SHOWN.get(where, ()) and where != "pipelines/terminal.py"
        ]
    return found


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, also inside functions and by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield node.lineno, str(argument.value)


def globs(tree: ast.Module) -> Iterator[int]:
    """Lines that call ``glob`` or ``rglob`` of a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("glob", "rglob", "iglob"):
            yield node.lineno


def asks_exists(tree: ast.Module) -> Iterator[int]:
    """Lines that ask a path, or the system, whether something exists."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("exists", "lexists"):
            yield node.lineno


def called(node: ast.Call) -> str:
    return ast.unparse(node.func).rsplit(".", 1)[-1]


def problem_of(where: str, module: str) -> str | None:
    """Why the file at ``where`` may not import ``module``; None: it may."""
    if module.startswith("."):
        return "a relative import: write the whole name"
    package, _, rest = module.partition(".")
    if package in DOORS and not where.startswith(DOORS[package]):
        return f"imports {package}, which belongs to {' and '.join(DOORS[package])}"
    if not where.startswith("wsi_hr/"):
        return None
    if package == "pipelines":
        return "the library imports the application"
    if package != "wsi_hr":
        return None
    own, other = room_of(where), rest.split(".")[0]
    if other == TESTING and own != TESTING:
        return "the library imports its testing package"
    if own is None or other not in RANK or own == other:
        return None
    if RANK[other] < RANK[own] or (own in FOUNDATION and other in FOUNDATION):
        return None
    return f"{own} imports {other}, which is not below it"


RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
RANK[TESTING] = 1


def room_of(where: str) -> str | None:
    """``wsi_hr/slides/open.py`` is in ``slides``, ``wsi_hr/errors.py`` is ``errors``."""
    name = Path(where).parts[1].removesuffix(".py")
    return None if name == "__init__" else name


def test_the_real_tree_keeps_the_rules() -> None:
    assert violations(ROOT) == []


def test_every_room_has_its_place() -> None:
    rooms = {
        path.stem
        for path in (ROOT / "wsi_hr").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} == set(RANK)


@pytest.mark.parametrize(
    ("where", "source", "sentence"),
    [
        ("wsi_hr/slides/a.py", "from wsi_hr.store.shards import x", "slides imports store"),
        ("wsi_hr/slides/a.py", "import wsi_hr.tiling.tile", "slides imports tiling"),
        ("wsi_hr/store/a.py", "from wsi_hr import bags", "store imports bags"),
        ("wsi_hr/prediction/a.py", "from wsi_hr.training.run import x", "prediction imports train"),
        ("wsi_hr/models/a.py", "def f():\n    from wsi_hr.methods import x", "models imports meth"),
        ("wsi_hr/geometry.py", "from wsi_hr.slides.mpp import x", "geometry imports slides"),
        ("wsi_hr/testing/a.py", "from wsi_hr.slides.open import x", "testing imports slides"),
        ("wsi_hr/methods/a.py", "from wsi_hr.testing.svs import x", "imports its testing package"),
        ("wsi_hr/training/a.py", "import pipelines.cli", "imports the application"),
        ("wsi_hr/training/a.py", "from pipelines import lock", "imports the application"),
        ("wsi_hr/bags/a.py", "import torch", "imports torch"),
        ("wsi_hr/samplers/a.py", "from torch import Tensor", "imports torch"),
        ("wsi_hr/tiling/a.py", "import openslide", "imports openslide"),
        ("wsi_hr/store/a.py", "from tifffile import imread", "imports tifffile"),
        ("wsi_hr/bags/a.py", "import importlib\nimportlib.import_module('zarr')", "imports zarr"),
        ("pipelines/a.py", "import zarr.codecs", "imports zarr"),
        ("wsi_hr/models/heads.py", "import timm", "imports timm"),
        ("wsi_hr/slides/a.py", "import dask", "imports dask"),
        ("wsi_hr/cohort/a.py", "from rich.console import Console", "imports rich"),
        ("wsi_hr/errors.py", "from .config import x", "a relative import"),
        *(
            (where, source, "goes around pipelines/terminal.py")
            for where in ("wsi_hr/tiling/a.py", "pipelines/a.py")
            for source in (
                "print('done')",
                "import sys\nsys.stdout.write('done')",
                "import sys\nx = sys.stderr",
                "import sys as s\ns.__stderr__.write('done')",
                "from sys import stdout as out\nout.write(x)",
                "import builtins\nbuiltins.print('done')",
                "say = print",
                "from logging import StreamHandler as Handler\nHandler()",
                "import logging\nlogging.basicConfig()",
                "import logging as log\nlog.FileHandler(x)",
                "import traceback\ntraceback.print_exc()",
                "from traceback import print_exception\nprint_exception(x)",
                "import warnings\nwarnings.showwarning(x)",
                "import sys\nsys.excepthook = x",
                "import os\nos.write(2, b'done')",
                "import os\nos.fdopen(1)",
                "import os\nos.dup2(x, 1)",
                "open(2, 'w')",
                "open('/dev/stderr', 'w')",
                "x.write_text('/dev/tty')",
            )
        ),
        *(
            ("pipelines/a.py", source, "goes around pipelines/terminal.py")
            for source in (
                "import typer\ntyper.echo('done')",
                "from typer import secho\nsecho('done')",
                "import rich\nrich.print('done')",
                "from rich import print as say\nsay('done')",
                "from rich.console import Console\nConsole()",
                "from rich.console import Console as C\nC(stderr=True)",
                "import rich.console\nrich.console.Console()",
                "from rich.console import Console\nclass C(Console): ...",
                "from rich.logging import RichHandler\nRichHandler()",
                "from rich.progress import track\ntrack([])",
                "from rich.progress import Progress\nProgress()",
                "from rich import get_console\nget_console()",
            )
        ),
        *(
            ("wsi_hr/tiling/a.py", f"def f(folder: Path, x, rows): return {source}", "makes a path")
            for source in (
                'folder / f"{x}.png"',
                "folder / x",
                "folder / str(x)",
                'folder / (x + ".png")',
                'folder / ("%s.png" % x)',
                'folder / rows[0]["slide_id"]',
                'folder / "qc" / x.name',
                'folder / "../b"',
                "folder.parent / x",
                "(folder / x if x else folder)",
                "Path(x) / x.stem",
                'x / f"{rows}.png"',
                "[one / rows for one in folder.iterdir()]",
                "folder.joinpath(x)",
                'folder.with_name(f"{x}.png")',
                "folder.with_suffix(x)",
                "Path(folder, x)",
                "Path(*rows)",
                'Path(f"{folder}/{x}")',
                'RemotePath(f"{folder}/{x}")',
                "os.path.join(folder, x)",
                'open(f"{folder}/{x}")',
            )
        ),
        *(
            ("wsi_hr/models/a.py", f"def f(x): return {source}", "runs what it is given")
            for source in (
                "eval(x)",
                "exec(x)",
                "importlib.import_module(x)",
                "__import__(x)",
                "np.load(x)",
                "np.load(x, allow_pickle=True)",
                "torch.load(x)",
                "torch.load(x, weights_only=False)",
                "torch.hub.load(x)",
                "yaml.load(x, Loader=yaml.Loader)",
                "yaml.unsafe_load(x)",
                "tar.extractall(x)",
                "entry.load()",
                "os.system(x)",
                "subprocess.run(x, shell=True)",
            )
        ),
        ("wsi_hr/store/a.py", "import pickle", "imports pickle"),
        ("pipelines/a.py", "from marshal import loads", "imports marshal"),
        ("pipelines/a.py", "x = Path('a')\nx /= name", "makes a path"),
        ("pipelines/a.py", "def f() -> Path: ...\nwith y(f()) as z: f() / z", "makes a path"),
        ("wsi_hr/store/a.py", "any(folder.rglob('*'))", "by glob"),
        ("wsi_hr/store/a.py", "if path.exists(): ...", "asks exists"),
        ("pipelines/a.py", "os.path.lexists(path)", "asks exists"),
        ("pipelines/a.py", "list(folder.glob('*.zarr'))", "by glob"),
        ("wsi_hr/utils.py", "", "names no subject"),
        ("pipelines/common.py", "", "names no subject"),
        ("wsi_hr/slides/utils/a.py", "", "names no subject"),
    ],
)
def test_a_planted_breach_is_found(tmp_path: Path, where: str, source: str, sentence: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (breach,) = violations(tmp_path)
    assert sentence in breach


@pytest.mark.parametrize(
    ("where", "source"),
    [
        ("wsi_hr/tiling/a.py", "from wsi_hr.slides.open import open_slide"),
        ("wsi_hr/slides/a.py", "import openslide\nimport tifffile\nfrom wsi_hr.slides import b"),
        ("wsi_hr/config.py", "from wsi_hr.geometry import PatchSpec"),
        ("wsi_hr/store/a.py", "from wsi_hr import __version__\nimport zarr"),
        ("wsi_hr/models/timm_nets.py", "import timm\nimport torch"),
        ("wsi_hr/training/a.py", "import torch\nfrom wsi_hr.samplers import build_sampler"),
        (
            "wsi_hr/tiling/a.py",
            "def f(p: Path, x): return p / 'a' / NAME / file_name(x, of='')",
        ),
        (
            "wsi_hr/training/a.py",
            "torch.load(x, weights_only=True); np.load(x, allow_pickle=False)",
        ),
        ("wsi_hr/tiling/a.py", "def f(a, b): return a / b, a.size / b.num, 3 / sum(b)"),
        ("wsi_hr/tiling/a.py", "def f(out: Path, x): return file_in(out / QC, x, '.png', of='id')"),
        ("pipelines/a.py", "import typer\nimport torch\nfrom wsi_hr.testing import svs"),
        ("pipelines/a.py", "from rich.console import Console\ndef f(console: Console): g(console)"),
        ("pipelines/a.py", "from rich.table import Table\nt = Table(); fingerprint(t)"),
        ("wsi_hr/tiling/a.py", "import os\nos.write(handle, b'')\nos.dup2(a, b)"),
    ],
)
def test_what_is_allowed_is_let_through(tmp_path: Path, where: str, source: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pipelines.cli", {"torch", "zarr", "openslide", "tifffile", "dask", "distributed"}),
        ("wsi_hr.remote", {"fsspec"}),
        ("pipelines.tile", {"torch", "timm"}),
        ("wsi_hr.tiling.tile", {"torch", "timm", "dask", "distributed"}),
        ("wsi_hr.slides.isolate_server", {"torch", "zarr", "openslide", "dask"}),
    ],
)
def test_what_a_module_does_not_load(module: str, heavy: set[str]) -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert module in loaded
    assert heavy & set(loaded) == set()


COMMANDS = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    for flag in ("--help", "-h"):
        shown = CliRunner().invoke(app, [command, flag])
        assert shown.exit_code == 0
        assert f"Example: wsi-hr {command}" in shown.output


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_and_command_has_its_sentence(command: str) -> None:
    assert COMMANDS[command].help
    unexplained = [p.name for p in COMMANDS[command].params if not getattr(p, "help", None)]
    assert unexplained == []


def test_the_program_explains_itself() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    assert [name for name in COMMANDS if name not in shown.output] == []
