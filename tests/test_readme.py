"""The README and docs tell the truth: paths, links, commands, settings and columns exist."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import typer.main

from pipelines.cli import app
from pipelines.qc_table import QC_COLUMNS
from pipelines.run_folder import SPLIT_COLUMNS
from pipelines.sample import KEPT_COLUMNS, SAMPLE_COLUMNS
from pipelines.settings import recipe_names, resolve
from pipelines.status import STATUS_COLUMNS
from wsi_hr.cohort.label_entries import SPLIT_ALIASES
from wsi_hr.cohort.manifest import PATH_ALIASES
from wsi_hr.cohort.table import LABEL_ALIASES, MPP_ALIASES, PATIENT_ALIASES, SLIDE_ALIASES
from wsi_hr.config import Config
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import METHOD_CONFIGS
from wsi_hr.prediction.exports.tables import PATCH_COLUMNS
from wsi_hr.prediction.heatmap import RESEARCH_USE
from wsi_hr.sampler_config import SAMPLER_CONFIGS
from wsi_hr.slides.open import SLIDE_SUFFIXES
from wsi_hr.store.store_info import StoreInfo

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CLI = typer.main.get_command(app)
COMMANDS = CLI.commands  # pyright: ignore[reportAttributeAccessIssue]
SECTIONS = "|".join(Config.model_fields)
MASK_SETTINGS = ("artifacts", "max_artifact", "min_tissue", "min_fragment_um2", "max_hole_um2")
FILE_SUFFIXES = {"py", "json", "csv", "yaml", "jsonl"}


@dataclass(frozen=True)
class Code:
    """A line of a code block, or an inline span, of a page."""

    text: str
    block: bool


def code_of(page: str) -> Iterator[Code]:
    """All code of a Markdown page; lines that end in a backslash are joined."""
    prose, after_blank = [], True
    for line in page.replace("\\\n", " ").splitlines():
        if line.startswith("    ") and after_blank:
            yield Code(line.strip(), block=True)
            continue
        prose.append(line)
        after_blank = not line.strip()
    for span in re.findall(r"`([^`]+)`", "\n".join(prose)):
        yield Code(" ".join(span.split()), block=False)


def commands_of(page: str) -> Iterator[list[str]]:
    """Arguments of every ``wsi-hr`` command line on a page, also those given to the image."""
    for code in code_of(page):
        found = re.match(r"(?:.*\s)?(?:\S+/)?wsi-hr(?:\s+(.*))?$", code.text)
        if code.block and code.text.startswith("run "):
            found = re.match(r"run .*?wsi-hr:\w+\s+(.*)$", code.text)
        if found and not code.text.startswith("#"):
            arguments = shlex.split(found[1] or "", comments=True)
            end = next((i for i, word in enumerate(arguments) if word in "|&&;>"), None)
            yield arguments[:end]


def problem_of(arguments: list[str]) -> str | None:
    """Why a command line would be refused before it does anything; None: it would not."""
    if not arguments:
        return None
    name, *rest = arguments
    if name.startswith("-"):
        return None if name in {o for p in CLI.params for o in p.opts} | {"--help"} else name
    if name not in COMMANDS:
        return f"no command {name}"
    if not rest or rest == ["--help"]:
        return None
    try:
        given = COMMANDS[name].make_context(name, list(rest)).params
    except Exception as error:
        return f"{name}: {error}"
    if given.get("recipe") not in (None, *recipe_names()):
        return f"no recipe {given['recipe']}"
    names = {f"{what}.name": given.get(what) for what in ("method", "sampler")}
    try:
        resolve(given.get("recipe"), names, given.get("assignments"))
    except ConfigError as error:
        return f"{name}: {error}"
    return None


def known_settings() -> set[str]:
    known = {"method.name", "sampler.name"}
    tables = {"method": METHOD_CONFIGS, "sampler": SAMPLER_CONFIGS}
    for section, field in Config.model_fields.items():
        models = tables.get(section, {section: field.annotation}).values()
        for model in models:
            known |= {f"{section}.{name}" for name in getattr(model, "model_fields", {})}
    return known


def settings_of(page: str) -> set[str]:
    """Settings that the spans of a page name, as ``section.key``."""
    named = set()
    for code in code_of(page):
        found = re.match(rf"(({SECTIONS})\.(\w+))(?:$|[=: ])", code.text)
        if found and not code.block and found[3] not in FILE_SUFFIXES:
            named.add(found[1])
    return named


def links_of(page: str) -> list[str]:
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    return [link for link in links if not re.match(r"\w+:", link)]


def tree_of(page: str) -> dict[str, str]:
    """Path to sentence of the README's tree; a folder's path ends in a slash."""
    section = page.split("## Where things are", 1)[1].split("\n## ", 1)[0]
    entries, parents = {}, []
    for line in section.splitlines():
        found = re.match(r"    ( *)(\S+)(?: +(.*))?$", line)
        if found:
            depth = len(found[1]) // 2
            parents[depth:] = [found[2]]
            entries["".join(parents)] = found[3] or ""
    return entries


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_parses(page: Path) -> None:
    commands = list(commands_of(page.read_text(encoding="utf-8")))
    assert [(c, problem_of(c)) for c in commands if problem_of(c)] == []
    assert commands or page.name == "development.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_exists(page: Path) -> None:
    assert settings_of(page.read_text(encoding="utf-8")) - known_settings() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page: Path) -> None:
    links = links_of(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == []


def test_a_false_page_is_found_out() -> None:
    page = (
        "Call `wsi-hr tyle x` or `wsi-hr show --recipe nosuch`, see `train.epoch`.\n\n"
        "    wsi-hr tile slides -o store --mppp 2\n"
        "    .venv/bin/wsi-hr train store -o run   # labels are missing\n"
        "    wsi-hr show --set tile.mpp=-1\n"
        "    run --gpus all wsi-hr:cuda predict run\n"
        "    wsi-hr show --set method.head=cnn | less\n"
    )
    problems = [problem_of(command) for command in commands_of(page)]
    assert len(problems) == 7
    assert None not in problems
    assert settings_of(page) - known_settings() == {"train.epoch"}


def test_a_true_page_is_let_through() -> None:
    page = (
        "`wsi-hr tile` and `wsi-hr --version` and `tile.json` and `method.head=cnn`\n\n"
        "    wsi-hr tile slides -o store \\\n      --mpp 2   # as asked\n"
        "    wsi-hr show --recipe panda --set method.head=cnn | less\n"
        "    docker build -t wsi-hr:cuda .\n"
    )
    commands = list(commands_of(page))
    assert commands[0] == ["tile", "slides", "-o", "store", "--mpp", "2"]
    assert len(commands) == 4
    assert [problem_of(command) for command in commands] == [None] * 4
    assert settings_of(page) == {"method.head"}


def test_the_tree_names_what_exists() -> None:
    tree = tree_of(README.read_text(encoding="utf-8"))
    assert len(tree) > 40
    missing = [path for path in tree if not (ROOT / path).exists()]
    assert missing == []
    assert [path for path in tree if (ROOT / path).is_dir() != path.endswith("/")] == []


def test_the_tree_names_every_package_and_folder() -> None:
    packages = {path.parent for path in ROOT.glob("wsi_hr/**/__init__.py")}
    single = {path for path in ROOT.glob("wsi_hr/*.py") if path.stem != "__init__"}
    tops = {path for path in ROOT.iterdir() if path.is_dir() and has_sources(path)}
    wanted = {f"{path.relative_to(ROOT).as_posix()}/" for path in packages | tops}
    wanted |= {path.relative_to(ROOT).as_posix() for path in single}
    wanted |= {"pipelines/recipes/", "pyproject.toml", "requirements.lock", "Makefile"}
    tree = tree_of(README.read_text(encoding="utf-8"))
    assert wanted - tree.keys() == set()
    assert [path for path in wanted if not tree[path]] == []  # each has its sentence


def has_sources(folder: Path) -> bool:
    """Whether a top folder is ours, and not an output or environment somebody left there."""
    if folder.name.startswith(".") or (folder / "pyvenv.cfg").exists():
        return False
    return any(path.suffix in (".py", ".md") or path.name == "Dockerfile"
               for path in folder.iterdir())  # fmt: skip


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_readme_documents_every_command(command: str) -> None:
    page = README.read_text(encoding="utf-8")
    row = re.search(rf"^\| `{command}` \| .+ \| `(wsi-hr {command}.*?)` \|$", page, re.MULTILINE)
    assert row, f"no row with an example for {command}"


def test_the_readme_names_every_recipe_and_the_disclaimer() -> None:
    page = README.read_text(encoding="utf-8")
    assert [name for name in recipe_names() if not re.search(rf"\b{name}\b", page)] == []
    assert RESEARCH_USE in page


def test_the_first_commands_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    page = README.read_text(encoding="utf-8")
    first = [code.text.split("#")[0].strip() for code in code_of(page) if code.block][:2]
    assert first == ["make demo", "make test"]
    for target in re.findall(r"make (\w+)", page):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("formats.md", PATH_ALIASES),
        ("formats.md", SLIDE_ALIASES),
        ("formats.md", MPP_ALIASES),
        ("formats.md", LABEL_ALIASES),
        ("formats.md", PATIENT_ALIASES),
        ("formats.md", SPLIT_ALIASES),
        ("formats.md", STATUS_COLUMNS),
        ("formats.md", QC_COLUMNS),
        ("formats.md", [f"tile.{name}" for name in MASK_SETTINGS]),
        ("formats.md", SPLIT_COLUMNS),
        ("formats.md", PATCH_COLUMNS),
        ("formats.md", [field.name for field in fields(StoreInfo)]),
        ("formats.md", list(Config.model_fields)),
        *(
            ("methods.md", [f"method.{name}" for name in model.model_fields if name != "name"])
            for model in METHOD_CONFIGS.values()
        ),
        *(
            ("methods.md", [f"sampler.{name}" for name in model.model_fields if name != "name"])
            for model in SAMPLER_CONFIGS.values()
        ),
        ("methods.md", list(SAMPLER_CONFIGS)),
        ("formats.md", SAMPLE_COLUMNS),
        ("formats.md", KEPT_COLUMNS),
        ("quickstart.md", sorted(SLIDE_SUFFIXES)),
    ],
)
def test_the_docs_are_complete(page: str, names: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    spans = {code.text for code in code_of(text) if not code.block}
    absent = [name for name in names if not any(re.match(rf"{name}(?!\w)", s) for s in spans)]
    assert absent == []


def test_the_scripts_for_a_cluster_are_sound() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^(?:    .*)?\n)+", page, re.M)]
    (batch,) = (block for block in blocks if "#SBATCH" in block)
    (python,) = (block for block in blocks if "SLURMCluster" in block)
    assert (
        subprocess.run(["bash", "-n"], input=batch.strip(), text=True, check=False).returncode == 0
    )
    assert "cluster.scale" in ast.unparse(ast.parse(python))
