"""Which weights files a run began with: one that is replaced behind its path is another run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsi_hr.cohort.table import read_table
from wsi_hr.config import Config
from wsi_hr.errors import ConfigError, LabelError
from wsi_hr.listing import is_there
from wsi_hr.models.weights_file import identify
from wsi_hr.sampler_config import AttentionConfig

WEIGHTS = "weights.csv"
WEIGHT_COLUMNS = ("setting", "file", "bytes", "sha256")
_NO_FILES = ("none", "pretrained")


def weights_files(config: Config) -> dict[str, str]:
    """Weights files that the settings name, by setting."""
    named = {"encoder.weights": config.encoder.weights}
    for sampler in config.sampler:
        if isinstance(sampler, AttentionConfig) and sampler.source == "thumbnail":
            named["sampler.vit_weights"] = sampler.vit_weights
    return {setting: file for setting, file in named.items() if file not in _NO_FILES}


def weight_rows(config: Config, run_dir: Path, *, resumes: bool) -> list[dict[str, str]]:
    """Rows of ``weights.csv``.

    A run that goes on may do so without its files: what it wrote of them before stands for those.

    Raises:
        ConfigError: a file is not there.
        ReadError: it cannot be read just now.
    """
    before = {row["setting"]: row for row in read_weight_rows(run_dir)} if resumes else {}
    rows = []
    for setting, file in weights_files(config).items():
        if resumes and not is_there(Path(file)):
            rows += [before[setting]] if setting in before else []
            continue
        found = identify(Path(file), setting)
        rows.append(
            {
                "setting": setting,
                "file": file,
                "bytes": str(found.bytes),
                "sha256": found.sha256,
            }
        )
    return rows


def read_weight_rows(run_dir: Path) -> list[dict[str, str]]:
    """Rows of a run's ``weights.csv``; none where there is no such file.

    Raises:
        LabelError: the file is not such a table.
    """
    path = run_dir / WEIGHTS
    if not is_there(path):
        return []
    table = read_table(path)
    if absent := [column for column in WEIGHT_COLUMNS if column not in table.columns]:
        raise LabelError(
            f"{table.path}: has no column {absent[0]!r}, so it is not what wsi-hr train wrote; "
            "restore the file"
        )
    return [{column: row[column] for column in WEIGHT_COLUMNS} for row in table.rows]


def refuse_other_weights(run_dir: Path, rows: Sequence[dict[str, str]]) -> None:
    """Refuse to go on with a run whose weights files have changed.

    Raises:
        ConfigError: naming the first that has, with both digests.
    """
    before = {row["setting"]: row["sha256"] for row in read_weight_rows(run_dir)}
    for row in rows:
        there = before.get(row["setting"], row["sha256"])
        if there != row["sha256"]:
            raise ConfigError(
                f"{run_dir / WEIGHTS}: the run was started with another {row['setting']} "
                f"{row['file']} (SHA-256 {there[:12]}... there, {row['sha256'][:12]}... now); "
                "give another -o to train from the new one"
            )
