"""The commands that are disturbed, on a cohort as small as they take."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.command_runs import Bench, tree
from benchmarks.victims import write_pink_slide
from wsi_hr.exchange.export import FORMATS
from wsi_hr.geometry import Size

_SLIDE = Size(256, 256)
_LONGEST_RUN_S = 600.0
_PATCHES = ("--patch-size", 64)
_ENCODER = ("--encoder", "test_resnet", "--device", "cpu", "--batch-size", 1)
_ONE_CORE = ("--set", "train.threads=1", "--set", "encoder.chunk=16")
_FEW = (
    *("--set", "method.num_salient=2", "--set", "method.num_sub_salient=2"),
    *("--set", "method.explore_patches=4", "--set", "encoder.norm_stats=running"),
)
_SMALL = ("--heatmap-px", 128, "--device", "cpu")


@dataclass(frozen=True)
class Command:
    """A command, what it finds, and what an undisturbed run leaves.

    Attributes:
        args: of ``wsi-hr``; ``OUT`` stands for the output folder.
        before: what is in the output folder when it begins; None: it does not exist.
        wanted: the tree of the output folder after a real, undisturbed run.
    """

    args: tuple[str, ...]
    before: Path | None
    wanted: Mapping[str, str]

    def argv(self, out: Path) -> list[str]:
        """The arguments for an output folder."""
        return [str(out) if arg == OUT else arg for arg in self.args]

    def lay_out(self, out: Path) -> None:
        """Make the output folder what it was before."""
        if out.exists():
            shutil.rmtree(out)
        if self.before is not None:
            shutil.copytree(self.before, out)


OUT = "OUT"

NAMES: tuple[str, ...] = (
    "tile",
    "tile again",
    "train",
    "train features",
    "predict",
    "predict again",
    "predict slides",
    *(f"export {form}" for form in FORMATS),
    "export clam again",
    "export png again",
    "sample",
)
"""What is disturbed. ``again``: over the results of an earlier run, of which some are outdated."""


class Cohort:
    """Slides, stores and runs that the commands read, made when they are first needed.

    Args:
        folder: new; they are made there, by real runs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bench = Bench(folder / "bench")
        for number in range(3):
            self._slide("slides", f"s{number}", seed=number)
        for name, seed in (("s0", 7), ("s1", 1)):  # s0 is another slide now
            self._slide("changed", name, seed=seed)
        self._slide("one", "s0", seed=0)
        rows = ("slide,label,patient,split", "s0,a,p0,train", "s1,b,p1,train", "s2,a,p2,val")
        (folder / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def command(self, name: str) -> Command:
        """One of :data:`NAMES`."""
        again = name.endswith(" again")
        args = tuple(map(str, self._args(name, anew=again)))
        before = None
        if again:
            before = self._made(f"before {name}", self._args(name, anew=False))
        wanted = self._folder / f"wanted {name}"
        if before is not None:
            shutil.copytree(before, wanted)
        self._run(args, wanted)
        return Command(args, before, tree(wanted))

    def _args(self, name: str, *, anew: bool) -> tuple[object, ...]:
        """The arguments of a command; ``anew``: where what it reads has changed since."""
        verb, _, rest = name.removesuffix(" again").partition(" ")
        if verb == "tile":
            slides = "changed" if anew else "slides"
            scales = ("--mpp", "1.0,2.0" if name.endswith("again") else "1.0")
            files = [self._folder / slides / f"{slide}.svs" for slide in ("s0", "s1")]
            return ("tile", *files, "-o", OUT, *_PATCHES, *scales)
        if verb == "train":
            return self._train(features=rest == "features")
        if verb == "predict":
            run = self._made("other run" if anew else "run", self._train(seed=int(anew)))
            slides = self._folder / "one" if rest == "slides" else self._store("store")
            return ("predict", run, slides, "-o", OUT, *_SMALL)
        store = self._store("changed store" if anew else "store")
        if verb == "export":
            return ("export", store, "-o", OUT, "--format", rest)
        return ("sample", store, "-o", OUT, "--set", "encoder.name=test_resnet")

    def _train(self, *, features: bool = False, seed: int = 0) -> tuple[object, ...]:
        labels = ("--labels", self._folder / "labels.csv")
        settings = (
            ("--method", "abmil", "--epochs", 2)
            if features
            else (*_FEW, "--sampler", "learned", "--epochs", 2)
        )
        store = self._store("store of three", "s0", "s1", "s2")
        return (
            "train",
            store,
            *labels,
            "-o",
            OUT,
            *_ENCODER,
            *_ONE_CORE,
            *settings,
            "--seed",
            seed,
        )

    def _store(self, name: str, *slides: str) -> Path:
        source = self._folder / ("changed" if name.startswith("changed") else "slides")
        files = [source / f"{slide}.svs" for slide in slides or ("s0", "s1")]
        return self._made(name, ("tile", *files, "-o", OUT, *_PATCHES, "--mpp", 1.0))

    def _made(self, name: str, args: Iterable[object]) -> Path:
        """The output of a real run, which is made once."""
        out = self._folder / name
        if not out.exists():
            self._run(args, out)
        return out

    def _run(self, args: Iterable[object], out: Path) -> None:
        given = [out if arg == OUT else arg for arg in args]
        code = self._bench.run(*given, timeout_s=_LONGEST_RUN_S)
        if code != 0:
            log = self._bench.folder / "log.txt"
            raise RuntimeError(f"the undisturbed run of {given[0]} ended with {code}; see {log}")

    def _slide(self, folder: str, name: str, *, seed: int) -> None:
        write_pink_slide(self._folder / folder / f"{name}.svs", seed=seed, size=_SLIDE)
