"""The train stage: a folder of patch stores and a labels table become a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from pipelines.annotation_folder import Annotations, annotations_of
from pipelines.figures import epoch_in_words, slides_of_patients
from pipelines.hashed_names import names_key_of, open_key, require_same_names, with_hashed_patients
from pipelines.lock import run_lock
from pipelines.norms import norms_in_words, settle
from pipelines.progress import counted, progress_bar
from pipelines.record import RunRecord
from pipelines.run_folder import (
    DIGEST_COLUMNS,
    SIDES,
    Inputs,
    Rows,
    claim,
    describe,
    refuse_other_run,
    split_rows,
)
from pipelines.scales import cut_at, require_scale, too_little_tissue
from pipelines.sentences import say
from pipelines.tile_settings import TILE_FILE
from pipelines.weights_of_run import weight_rows
from wsi_hr.bags.bag_set import BagSet, stored_slides
from wsi_hr.bags.patch_labels import PatchLabels
from wsi_hr.cohort.distinct_patients import (
    DistinctPatients,
    read_distinct_patients,
    refuse_twins_apart,
)
from wsi_hr.cohort.labels import Labels, load_labels
from wsi_hr.cohort.same_content import check_same_content
from wsi_hr.cohort.splits import make_splits
from wsi_hr.config import Config, TileConfig
from wsi_hr.errors import CheckpointError, ConfigError, StoreError, WsiHrError
from wsi_hr.listing import is_there
from wsi_hr.machine import num_usable_cores
from wsi_hr.method_config import encoder_px, low_mpp
from wsi_hr.methods import build_method
from wsi_hr.methods.method import Method
from wsi_hr.models.encoder import Encoder, build_encoder, has_bfloat16
from wsi_hr.models.norm_stats import norms_of
from wsi_hr.models.provenance import Origin
from wsi_hr.models.published_nets import NamedEncoder, resolve_encoder
from wsi_hr.remote import Place
from wsi_hr.runtime import seed_for
from wsi_hr.training.checkpoint import checkpoint_meta
from wsi_hr.training.loop import BEST, LAST, TrainingSet, best_epoch, evaluate, fit
from wsi_hr.training.run import load_run, pick_device, require_same_tiling, run_facts

ENCODER = "encoder"
"""What a checkpoint and a record say of the encoder's origin under."""


@dataclass(frozen=True)
class LabelsSource:
    """The labels table and, where headers are ambiguous, which columns to take.

    Attributes:
        distinct_patients: a table of patients who differ though their names hardly do.
    """

    path: Path
    slide_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    distinct_patients: Path | None = None


@dataclass(frozen=True)
class TrainReport:
    """What training ended with.

    Attributes:
        best: metrics of the chosen epoch.
        test: metrics on the held-out slides; empty where there are none.
        classes: names in the order of the probabilities.
    """

    best: dict[str, float]
    test: dict[str, float]
    classes: tuple[str, ...]


def train_stage(
    store: Place,
    labels: LabelsSource,
    run_dir: Path,
    config: Config,
    console: Console | None,
    *,
    mpp: float | None = None,
    annotations: Path | None = None,
    hash_names: Path | None = None,
) -> TrainReport:
    """Train, or go on training, one run, at the scale ``mpp`` of the store; None: at its first.

    With a folder of ``annotations`` the classes of patches are learned beside those of slides. The
    run folder receives config.yaml, splits.csv, stores.csv, metrics.jsonl, best and last checkpoint
    and run.json, and then annotations.csv. The same command on a run that was interrupted resumes
    it; on a finished one it only reports. Every labelled slide is looked at before the first one is
    learned from: training does not start with a store that is damaged, since leaving it out would
    be another study. ``hash_names`` is the key file of stores whose slides have hashed names:
    labels and annotations may call slides by their own, and patients are hashed too.

    Raises:
        WsiHrError: labels, splits, settings or stores that cannot be trained on.
    """
    if run_dir.resolve() == store.resolve():
        raise ConfigError(f"-o {run_dir}: is the store; choose a folder of its own for the run")
    if config.dense.classes and annotations is None:
        raise ConfigError(
            f"dense.classes {', '.join(config.dense.classes)}: needs the annotations; give their "
            "folder by --annotations"
        )
    slide_ids = stored_slides(store)
    if not slide_ids:
        raise StoreError(
            f"{store}: holds no finished patch store; see its status.csv, or make one with: "
            f"wsi-hr tile SLIDES -o {store}"
        )
    names, key = names_key_of(store / TILE_FILE), None
    if hash_names is not None:
        key = open_key(hash_names, [store, run_dir])
        require_same_names(store, names, key)
    elif names:
        say(
            console,
            "note: these slides have hashed names; labels that call them by their own need "
            "--hash-names KEYFILE",
        )
    table = load_labels(
        labels.path,
        slide_ids,
        slide_column=labels.slide_column,
        label_column=labels.label_column,
        patient_column=labels.patient_column,
        names=None if key is None else key.slide_names(slide_ids),
    )
    say(console, table.mapping, *(f"warning: {text}" for text in table.warnings))
    split_of = make_splits(
        table.rows, val=config.split.val, test=config.split.test, seed=config.seed
    )
    distinct = DistinctPatients()
    if labels.distinct_patients is not None:
        distinct = read_distinct_patients(labels.distinct_patients, table.rows)
    refuse_twins_apart(table.rows, split_of, distinct)
    rows = table.rows if key is None else with_hashed_patients(table.rows, key)
    splits = split_rows(rows, split_of)
    say(console, describe(splits))
    device = pick_device(config.train.device)
    named = resolve_encoder(config.encoder)
    config = config.model_copy(update={"encoder": named.config})
    say(console, *([named.said] if named.said else []))
    weights = weight_rows(config, run_dir, resumes=is_there(run_dir / LAST))
    second = low_mpp(config.method)
    labelled = [row["slide_id"] for row in splits]
    bags = BagSet(store, mpp=mpp, low_mpp=second)
    require_scale(bags, labelled, mpp)
    tile, stores = _looked_over(bags, labelled, mpp, console)
    if second is not None and second <= tile.mpp:
        raise ConfigError(
            f"method.low_mpp {second:g}: must be coarser than the patches at {tile.mpp:g} um/px; "
            "give a larger one, or null"
        )
    say(console, *_tiling_in_words(config.tile, tile), device_in_words(device, config))
    config = config.model_copy(update={"tile": tile})
    drawn = None
    if annotations is not None:
        bags = BagSet(store, mpp=tile.mpp)
        drawn = annotations_of(annotations, splits, bags, config.dense, console, key)
        config = config.model_copy(update={"dense": drawn.dense})
    inputs = Inputs(splits, stores, drawn.rows() if drawn else (), weights)
    if key is not None:
        key.save()  # before any id that it made is written
    with run_lock(run_dir):
        asked, config = config, settle(config, run_dir)
        return _train(
            table, inputs, drawn, store, run_dir, config, named, device, names, console, asked
        )


def _train(
    table: Labels,
    inputs: Inputs,
    drawn: Annotations | None,
    store: Place,
    run_dir: Path,
    config: Config,
    named: NamedEncoder,
    device: torch.device,
    names: str,
    console: Console | None,
    asked: Config,
) -> TrainReport:
    record = RunRecord("train", config)
    classes = table.classes
    label_of = {row.slide_id: classes.index(row.label) for row in table.rows}
    slides = {
        side: tuple(row["slide_id"] for row in inputs.splits if row["split"] == side)
        for side in SIDES
    }
    refuse_other_run(run_dir, config, inputs)
    side_of = {row["slide_id"]: row["split"] for row in inputs.splits}
    digests = {row["slide_id"]: [row[name] for name in DIGEST_COLUMNS] for row in inputs.stores}
    say(console, *(f"warning: {text}" for text in check_same_content(table.rows, side_of, digests)))
    torch.set_num_threads(config.train.threads or num_usable_cores())
    method = _build(config, classes, [label_of[s] for s in slides["train"]], run_dir).to(device)
    origin = _origin(method.encoder, named, run_dir)
    say(console, *origin.in_words())
    say(console, *norms_in_words(asked, config, method.encoder))
    # only now: settings that cannot be built do not bind the folder
    claim(run_dir, config, inputs)
    bags = BagSet(
        store,
        label_of,
        mpp=config.tile.mpp,
        low_mpp=low_mpp(config.method),
        patch_labels=PatchLabels(drawn.files, drawn.dense) if drawn else None,
    )
    patient_of = {row["slide_id"]: row["patient_id"] for row in inputs.splits}
    data = TrainingSet(bags, slides["train"], slides["val"], label_of, patient_of)
    trained_on = slides_of_patients(len(data.train), len({patient_of[s] for s in data.train}))
    num_steps = config.train.epochs * len(slides["train"])
    with progress_bar(console, "training", num_steps) as advance:
        note, num_done = "", 0

        def on_slides(count: int) -> None:
            nonlocal num_done
            num_done += count
            advance(count, note)

        def on_epoch(row: dict[str, float]) -> None:
            nonlocal note
            note = f"epoch {int(row['epoch']) + 1}"
            say(console, epoch_in_words(row, trained_on))
            # epochs of an earlier run took no slides in this one
            on_slides((int(row["epoch"]) + 1) * len(slides["train"]) - num_done)

        facts = run_facts(config, classes)
        if origin.facts():
            facts[ENCODER] = origin.facts()
        history = fit(method, data, config, run_dir, facts, on_epoch=on_epoch, on_slides=on_slides)
    best = history[best_epoch(history)]
    # the held-out slides are looked at once, here, after the best epoch is chosen
    judge = load_run(run_dir, device=str(device)).method
    test = evaluate(judge, data, slides["test"], config.dense)
    record.write(
        run_dir,
        names=names,
        device=_device_name(device),
        threads=torch.get_num_threads(),
        encoder=origin.facts(),
        chunk=method.encoder.chunk,
        norm_stats=method.encoder.norm_stats if norms_of(method.encoder.net) else None,
        jpeg_decoder=method.encoder.jpeg_decoder,
        classes=list(classes),
        slides={side: len(ids) for side, ids in slides.items()},
        best=best,
        test=test,
    )
    say(console, f"best: {epoch_in_words(best, trained_on)}", f"model: {run_dir / BEST}")
    return TrainReport(best, test, classes)


def _build(config: Config, classes: tuple[str, ...], labels: list[int], run_dir: Path) -> Method:
    torch.manual_seed(seed_for(config.seed, "init"))
    encoder = build_encoder(
        config.encoder,
        encoder_px(config.method, config.tile.patch_size),
        load_weights=not is_there(run_dir / LAST),
    )
    weights = [1.0] * len(classes)
    if config.train.class_weights:
        counts = Counter(labels)
        weights = [len(labels) / (len(classes) * counts[c]) for c in range(len(classes))]
    return build_method(config.method, encoder, weights, config.dense)


def _origin(encoder: Encoder, named: NamedEncoder, run_dir: Path) -> Origin:
    """Where the encoder is from; of a run that goes on, what it wrote of that at its beginning.

    Raises:
        CheckpointError: the last checkpoint's header is damaged.
    """
    if is_there(run_dir / LAST):
        try:
            return Origin.from_facts(checkpoint_meta(run_dir / LAST).get(ENCODER, {}))
        except (KeyError, TypeError, AttributeError) as cause:
            raise CheckpointError(
                f"{run_dir / LAST}: its header is damaged; restore it or train again"
            ) from cause
    origin = encoder.origin
    if origin.normalisation is None or named.normalisation_from is None:
        return origin
    told = origin.normalisation._replace(source=named.normalisation_from)
    return replace(origin, normalisation=told)


def _looked_over(
    bags: BagSet, slide_ids: Sequence[str], mpp: float | None, console: Console | None
) -> tuple[TileConfig, Rows]:
    """How the slides were cut, all of them alike, and the rows of ``stores.csv``.

    Sizes and small files are checked; the pixels, which take long, when they are read.

    Raises:
        StoreError: some stores cannot be trained on; names them, and what is wrong with the first.
    """
    problems: dict[str, str] = {}
    tile: TileConfig | None = None
    rows = []
    with counted(console, "looking at stores", slide_ids) as looked_at:
        for slide_id in looked_at:
            try:
                num_patches = len(bags.open(slide_id))
                store = bags.store(slide_id)
                if not cut_at(store, mpp):
                    raise StoreError(f"{store.path}: {too_little_tissue(mpp)}")
                tile = tile or store.info.tile
                require_same_tiling(tile, store.info.tile, bags.path(slide_id))
                rows.append(
                    {
                        "slide_id": slide_id,
                        "patches": str(num_patches),
                        "sha256": store.digests.content_sha256,
                        "source_sha256": store.digests.source_sha256,
                        "pixels_sha256": store.digests.pixels_sha256,
                    }
                )
            except WsiHrError as error:
                problems[slide_id] = str(error)
    if problems or tile is None:
        first, *others = problems.values()
        also = f" (also: {', '.join(list(problems)[1:])})" if others else ""
        raise StoreError(
            f"{first}; or take the slide out of the labels. "
            f"{len(problems)} of {len(slide_ids)} labelled slides cannot be trained on{also}"
        )
    return tile, rows


def _tiling_in_words(asked: TileConfig, tile: TileConfig) -> list[str]:
    lines = [
        f"warning: tile.{name} {getattr(asked, name)} has no effect here; "
        f"{getattr(tile, name)} is how the slides were tiled"
        for name in sorted(asked.model_fields_set)
        if getattr(asked, name) != getattr(tile, name)
    ]
    return [*lines, f"patches: {tile.patch_size} px at {tile.mpp} um/px"]


def device_in_words(device: torch.device, config: Config) -> str:
    """Which device is learned on, and what it cannot do."""
    missing = " (no CUDA GPU found)" if config.train.device == "auto" else ""
    if device.type == "cpu":
        return f"device: {_device_name(device)}{missing}"
    return f"device: {_device_name(device)}{_precision_in_words(config)}"


def _precision_in_words(config: Config) -> str:
    if has_bfloat16() or config.encoder.precision == "float32":
        return ""
    if config.encoder.precision == "auto":
        return " (no bfloat16 of its own, so encoder.precision auto is float32)"
    return (
        " (warning: it emulates bfloat16 if it has it at all, which is slower than float32 and no "
        "more exact; set encoder.precision=auto)"
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
