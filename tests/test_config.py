"""Settings: precedence, refusals that name the way out, and the way to YAML and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from wsi_hr.config import (
    Config,
    TileConfig,
    dump_config,
    load_recipe,
    resolve_config,
)
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import METHOD_CONFIGS, DBPSConfig, PatchGDConfig
from wsi_hr.sampler_config import (
    SAMPLER_CONFIGS,
    CheckerboardConfig,
    RandomDropConfig,
    WindowsConfig,
)


def refusal(recipe: dict | None = None, options: dict | None = None, *assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve_config(recipe, options, assignments)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert resolve_config() == Config()  # pyright: ignore[reportCallIssue]


def test_later_sources_win() -> None:
    recipe = {"seed": 1, "train": {"epochs": 2, "lr": 0.1, "batch_size": 8}}
    options = {"seed": None, "train.epochs": 3, "train.lr": 0.2, "tile.mpp": None}
    config = resolve_config(recipe, options, ["train.lr=0.3", "train.lr=0.4"])
    assert config.seed == 1
    assert config.train.batch_size == 8
    assert config.train.epochs == 3
    assert config.train.lr == 0.4
    assert config.tile.mpp == TileConfig().mpp  # pyright: ignore[reportCallIssue]


def test_sources_are_not_written_to() -> None:
    recipe = {"method": {"name": "dbps", "num_salient": 5}, "train": {"epochs": 2}}
    resolve_config(recipe, {"method.name": "patchgd"}, ["train.epochs=9"])
    assert recipe == {"method": {"name": "dbps", "num_salient": 5}, "train": {"epochs": 2}}


def test_a_config_cannot_be_changed() -> None:
    config = resolve_config()
    with pytest.raises(ValidationError):
        config.train.epochs = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("method.accumulate=null", None),
        ("method.accumulate=4", 4),
        ("method.head=cnn", "cnn"),
        (" method.head =cnn", "cnn"),
        ("method.sample=1e-1", 0.1),
    ],
)
def test_assigned_values_are_yaml(text: str, value: object) -> None:
    config = resolve_config(None, {"method.name": "patchgd"}, [text])
    assert getattr(config.method, text.split("=")[0].strip().split(".")[1]) == value


def test_a_value_may_hold_an_equals_sign() -> None:
    config = resolve_config(None, None, ["encoder.weights=/data/a=b.safetensors"])
    assert config.encoder.weights == "/data/a=b.safetensors"


class TestMethod:
    """The settings of the method are told apart by its name."""

    DBPS = {"method": {"name": "dbps", "scan_chunk": 500, "num_salient": 100}}

    def test_another_method_drops_what_the_recipe_set_for_its_own(self) -> None:
        for options, assignments in (
            ({"method.name": "patchgd"}, []),
            ({}, ["method.name=patchgd"]),
            ({}, ["method={name: patchgd}"]),
            ({"method.name": "dbps"}, ["method.name=patchgd"]),
        ):
            assert resolve_config(self.DBPS, options, assignments).method == PatchGDConfig()  # pyright: ignore[reportCallIssue]

    def test_the_same_method_keeps_them(self) -> None:
        config = resolve_config(self.DBPS, {"method.name": "dbps"}, ["method.heads=4"])
        assert isinstance(config.method, DBPSConfig)
        assert (config.method.scan_chunk, config.method.heads) == (500, 4)

    def test_a_recipe_without_a_name_means_the_default_method(self) -> None:
        recipe = {"method": {"scan_chunk": 7}}
        config = resolve_config(recipe)
        assert isinstance(config.method, DBPSConfig)
        assert config.method.scan_chunk == 7
        switched = resolve_config(recipe, {"method.name": "patchgd"})
        assert switched.method == PatchGDConfig()  # pyright: ignore[reportCallIssue]

    def test_what_the_user_sets_beside_the_switch_stays_whatever_the_order(self) -> None:
        texts = ["method.num_salient=7", "method.name=patchgd"]
        for assignments in (texts, texts[::-1]):
            config = resolve_config(self.DBPS, None, assignments)
            assert isinstance(config.method, PatchGDConfig)
            assert config.method.num_salient == 7

    def test_a_setting_of_the_other_method_is_refused_as_such(self) -> None:
        said = refusal(self.DBPS, {"method.name": "patchgd"}, "method.scan_chunk=3")
        assert said == "method.scan_chunk: a setting of dbps, not of patchgd"
        assert "a setting of patchgd, not of dbps" in refusal(None, None, "method.head=cnn")

    @pytest.mark.parametrize(
        ("setting", "fits", "does_not"),
        [
            ("heads=2", "window", "cnn"),
            ("layers=3", "window", "transformer"),
            ("positions=true", "transformer", "window"),
        ],
    )
    def test_a_setting_of_another_head_is_refused(self, setting, fits, does_not) -> None:
        texts = ["method.name=patchgd", f"method.{setting}"]
        config = resolve_config(None, None, [*texts, f"method.head={fits}"])
        assert isinstance(config.method, PatchGDConfig)
        assert len(config.method.head_settings) == 1
        said = refusal(None, None, *texts, f"method.head={does_not}")
        assert f"not for {does_not}" in said

    def test_another_encoder_keeps_its_weights_setting(self) -> None:
        """Dropping it would train from scratch without a word."""
        recipe = {"encoder": {"name": "resnet50", "weights": "pretrained", "freeze_bn": True}}
        encoder = resolve_config(recipe, {"encoder.name": "resnet18"}).encoder
        assert (encoder.name, encoder.weights, encoder.freeze_bn) == (
            "resnet18",
            "pretrained",
            True,
        )


@pytest.mark.parametrize(
    ("settings", "decided"),
    [
        ([], "batch"),
        (["encoder.weights=pretrained"], "batch"),
        (["encoder.freeze_bn=false"], "batch"),
        (["encoder.freeze_bn=true"], "recalibrate"),
        (["encoder.freeze_bn=true", "encoder.weights=pretrained"], "running"),
        (["method.name=patchgd"], "batch"),
        (["method.name=patchgd", "method.exact=true"], "recalibrate"),
        (["method.name=patchgd", "method.exact=true", "encoder.weights=w.pt"], "recalibrate"),
        (["method.name=patchgd", "method.exact=true", "encoder.freeze_bn=true"], "recalibrate"),
        (
            ["method.name=patchgd", "method.exact=true", "encoder.freeze_bn=true",
             "encoder.weights=w.pt"],
            "running",
        ),
        (["method.name=abmil"], "recalibrate"),
        (["method.name=abmil", "encoder.weights=w.pt"], "running"),
        (["method.name=gd", "method.input=image", "encoder.freeze_bn=true"], "running"),
        (["encoder.norm_stats=running"], "running"),
        (["method.name=patchgd", "method.exact=true", "encoder.norm_stats=batch"], "batch"),
    ],
)  # fmt: skip
def test_norm_statistics_are_decided_where_they_are_left_open(settings, decided) -> None:
    config = resolve_config(assignments=settings).settled()
    assert config.encoder.norm_stats == decided
    assert config.settled() == config
    again = Config.model_validate(config.model_dump(mode="json"))
    assert again == config, "the old name is not written"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["encoder.freeze_bn=true", "encoder.norm_stats=running"], "old name of norm_stats"),
        (["method.name=abmil", "encoder.norm_stats=batch"], "never trains"),
        (
            ["method.name=gd", "method.input=image", "encoder.norm_stats=recalibrate"],
            "sees whole slides",
        ),
        (["encoder.norm_stats=on"], "'running', 'batch' or 'recalibrate'"),
        (["encoder.norm_patches=1"], "encoder.norm_patches"),
    ],
)
def test_norm_statistics_that_cannot_be(settings, why) -> None:
    assert why in refusal(None, None, *settings)


@pytest.mark.parametrize(
    ("assignment", "nearest"),
    [
        ("train.epoch=3", "train.epochs"),
        ("epochs=3", "train.epochs"),
        ("trian.epochs=3", "train"),
        ("method.num_salients=3", "method.num_salient"),
        ("tile.patchsize=64", "tile.patch_size"),
        ("encoder.freezebn=true", "encoder.freeze_bn"),
        ("sampler.dropp=0.1", "sampler.drop"),
        ("sed=1", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(assignment: str, nearest: str) -> None:
    key = assignment.split("=")[0]
    said = refusal(None, None, assignment)
    assert said.endswith(f"unknown setting; the nearest known one is {nearest}")
    assert said.startswith(key.split(".")[0])


def test_a_key_that_resembles_nothing_tells_where_to_look() -> None:
    assert refusal(None, None, "zzzzzz=3") == "zzzzzz: unknown setting; wsi-hr show lists them"


def test_a_recipe_is_checked_like_an_option() -> None:
    assert "train.epochs" in refusal({"train": {"epoch": 3}})
    assert refusal({"train": 5}).startswith("train: ")
    assert refusal({1: 5}).startswith("1: ")  # pyright: ignore[reportArgumentType]


def test_all_mistakes_are_named_at_once() -> None:
    said = refusal({"train": {"epoch": 3}, "tile": {"mpp": -1}, "seed": "x"})
    assert said.count(";") >= 3
    for key in ("train.epoch:", "tile.mpp:", "seed:"):
        assert key in said


@pytest.mark.parametrize(
    ("assignment", "where", "got"),
    [
        ("train.epochs=many", "train.epochs", "'many'"),
        ("train.epochs=2.5", "train.epochs", "2.5"),
        ("train.epochs=0", "train.epochs", "0"),
        ("train.lr=.nan", "train.lr", "nan"),
        ("tile.mpp=0", "tile.mpp", "0"),
        ("tile.mpp={a: 1}", "tile.mpp", "{'a': 1}"),
        ("method.num_salient=0", "method.num_salient", "0"),
        ("method.dropout=1", "method.dropout", "1"),
        ("encoder.name=[resnet18]", "encoder.name", "['resnet18']"),
        ("sampler.drop=1", "sampler.drop", "1"),
        ("seed=-1", "seed", "-1"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(assignment: str, where: str, got: str) -> None:
    said = refusal(None, None, assignment)
    assert said.startswith(f"{where}: ")
    assert said.endswith(f"(got {got})")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("method.name=foo", "method: "),
        ("method=dbps", "method: "),
        ("tile.segmenter=foo", "tile.segmenter: Value error, no such segmenter; use saturation"),
        ("tile.segmenter=entropie", "tile.segmenter: Value error, no such segmenter; the nearest"),
        ("tile.segmenter=a.b:c:d", "tile.segmenter: Value error, no such segmenter"),
        ("tile.artifacts=[pen, dust]", "tile.artifacts.1: Input should be 'pen'"),
        ("train", "--set train: expected key=value"),
        (
            "method={name: gd, input: image, memory: checkpoint}",
            "method: Value error, checkpoint goes by chunks of patches",
        ),
        ("train.lr={", "--set train.lr={: the value is not YAML"),
        ("train.epochs=010", "--set train.epochs=010: the value is not YAML (010 begins with a"),
        ("train.epochs=1:30", "--set train.epochs=1:30: the value is not YAML (1:30 may mean"),
        ("train.epochs=on", "train.epochs: Input should be a valid integer (got True, as YAML"),
        ("train.lr=.inf", "train.lr: Input should be a finite number"),
        ("train={lr: 1, lr: 2}", "--set train={lr: 1, lr: 2}: the value is not YAML ('lr' again"),
        ("seed=&a 1", "--set seed=&a 1: the value is not YAML (the anchor &a"),
        (f"seed={'[' * 9000}", "--set seed=[[["),
        ("seed" + ".x" * 9000 + "=1", "seed.x.x"),
        ("seed.x.y=1", "seed: "),
    ],
)
def test_what_makes_no_sense_is_refused(assignment: str, said: str) -> None:
    assert refusal(None, None, assignment).startswith(said)


def test_a_value_has_no_settings_below_it() -> None:
    assert "it has no settings below it" in refusal({"seed": 3}, None, "seed.x=1")


def test_a_split_must_leave_something_to_train_on() -> None:
    assert "leave something to train on" in refusal(None, None, "split.val=0.6", "split.test=0.4")
    assert resolve_config(None, None, ["split.val=0", "split.test=0"]).split.test == 0


def test_stride_is_the_patch_size_unless_set() -> None:
    assert resolve_config(None, {"tile.patch_size": 96}).tile.spec().stride_px == 96
    spec = resolve_config(None, {"tile.patch_size": 96}, ["tile.stride=48"]).tile.spec()
    assert (spec.patch_px, spec.stride_px) == (96, 48)


_fractions = st.floats(0, 0.499)
_positive = st.floats(1e-12, 1e6)
_counts = st.integers(1, 10**6)
_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
_dbps = st.fixed_dictionaries(
    {"name": st.just("dbps")},
    optional={
        "num_salient": _counts,
        "positions": st.booleans(),
        "explore": st.sampled_from(["none", "random", "half_sampled"]),
        "dropout": _fractions,
    },
)
_patchgd = st.fixed_dictionaries(
    {"name": st.just("patchgd")},
    optional={"accumulate": st.none() | _counts, "sample": st.floats(1e-9, 1)},
)
_recipes = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**63),
        "tile": st.fixed_dictionaries(
            {},
            optional={
                "mpp": st.floats(1e-6, 100),
                "stride": st.none() | _counts,
                "deadline_s": _positive | st.just(float("inf")),
                "codec": st.sampled_from(["jpeg", "raw"]),
            },
        ),
        "encoder": st.fixed_dictionaries({}, optional={"name": _texts, "weights": _texts}),
        "method": _dbps | _patchgd,
        "train": st.fixed_dictionaries(
            {}, optional={"lr": _positive, "clip_norm": st.none() | _positive, "device": _texts}
        ),
        "split": st.fixed_dictionaries({}, optional={"val": _fractions, "test": _fractions}),
    },
)


@given(_recipes)
@settings(max_examples=100)
def test_what_is_dumped_loads_as_the_same(tmp_path_factory, recipe: dict) -> None:
    config = resolve_config(recipe)
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert resolve_config(load_recipe(path)) == config


@given(_recipes)
@settings(max_examples=50)
def test_a_recipe_says_what_its_settings_say_one_by_one(recipe: dict) -> None:
    given_: dict = {}
    for section, value in recipe.items():
        if isinstance(value, dict):
            given_ |= {f"{section}.{key}": inner for key, inner in value.items()}
        else:
            given_[section] = value
    empty = [f"{key}=null" for key, value in given_.items() if value is None]
    assert resolve_config(None, given_, empty) == resolve_config(recipe)


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    found = [model]
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += _models(field.annotation)
    return found


@pytest.mark.parametrize(
    "model",
    [*_models(Config), *METHOD_CONFIGS.values(), *SAMPLER_CONFIGS.values()],
    ids=lambda model: model.__name__,
)
def test_every_setting_is_described(model: type[BaseModel]) -> None:
    sections = {*Config.model_fields} - {"seed"}
    undescribed = [
        name
        for name, field in model.model_fields.items()
        if not field.description and name != "name" and not (model is Config and name in sections)
    ]
    assert undescribed == []


class TestSampler:
    """One sampler or a list, told apart by name."""

    def test_a_name_alone_will_do(self) -> None:
        (sampler,) = resolve_config(None, {"sampler.name": "windows"}, ["sampler.keep=0.3"]).sampler
        assert sampler == WindowsConfig(keep=0.3)

    def test_another_sampler_drops_what_the_recipe_set_for_its_own(self) -> None:
        for recipe in ({"sampler": {"drop": 0.4}}, {"sampler": [{"name": "windows"}]}):
            config = resolve_config(recipe, {"sampler.name": "checkerboard"})
            assert config.sampler == (CheckerboardConfig(),)
        kept = resolve_config({"sampler": {"drop": 0.4}}, {"sampler.name": "random_drop"})
        assert kept.sampler == (RandomDropConfig(drop=0.4),)

    @pytest.mark.parametrize("text", ["sampler=[{name: windows, keep: 0.6}, {drop: 0.1}]",
                                      "sampler={name: learned, random: 0}"])  # fmt: skip
    def test_one_and_several_come_back_from_yaml(self, tmp_path: Path, text: str) -> None:
        config = resolve_config(None, None, [text])
        path = tmp_path / "recipe.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert resolve_config(load_recipe(path)) == config
        assert isinstance(load_recipe(path)["sampler"], list) == ("[" in text)

    @pytest.mark.parametrize(
        ("assignments", "said"),
        [
            (["sampler.keep=1"], "sampler.keep: a setting of windows, not of random_drop"),
            (["sampler.name=windows", "sampler.keeep=1"],
             "sampler.keeep: unknown setting; the nearest known one is sampler.keep"),
            (["sampler.name=window"], "sampler: Input tag 'window' found using 'name' does not"),
            (["sampler=[{name: windows, drop: 1}, {drop: 4}]"],
             "sampler.0.drop: a setting of random_drop, not of windows; sampler.1.drop: Input"),
            (["sampler=[{}, {}]"], "sampler: random_drop is there twice; each goes into a list on"),
            (["sampler=[]"], "sampler: is empty; random_drop with drop: 0 leaves out nothing"),
            (["sampler=[{}]", "sampler.drop=0.3"], "sampler.drop: sampler is a list here; set the"),
            (["sampler=windows"], "sampler: Input should be"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_one_sentence(self, assignments, said: str) -> None:
        assert refusal(None, None, *assignments).startswith(said)

    @pytest.mark.parametrize("name", ["attention", "learned"])
    def test_attention_is_asked_only_of_methods_that_keep_it(self, monkeypatch, name: str) -> None:
        monkeypatch.setattr("wsi_hr.config.GIVE_ATTENTION", ("dbps",))
        assert resolve_config(None, {"sampler.name": name}).sampler[0].reads_attention
        said = refusal(None, {"sampler.name": name, "method.name": "patchgd"})
        assert said.startswith(f"sampler: {name} asks for the attention of the epoch before, which")
        assert "patchgd does not keep; use dbps, another sampler" in said

    def test_a_thumbnails_attention_goes_with_every_method(self) -> None:
        texts = ["sampler.name=attention", "sampler.source=thumbnail"]
        for method in METHOD_CONFIGS:
            assert resolve_config(None, {"method.name": method}, texts).method.name == method


class TestLoadRecipe:
    """A recipe is a mapping in a YAML file, and data only."""

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "a recipe is a mapping"),
            (b"- train", "a recipe is a mapping"),
            (b"train: {epochs: 3", "not valid YAML"),
            (b"\xff\xfe\xfa", "cannot be read"),
            (b"train: !!python/object/apply:os.system ['false']", "not valid YAML"),
        ],
    )
    def test_anything_else_is_refused(self, tmp_path: Path, content: bytes, said: str) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=said) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(str(path))

    @pytest.mark.parametrize(
        ("content", "line", "said"),
        [
            ("train:\n  lr: 0.1\n  lr: 0.2", 3, "'lr' again, after line 2"),
            ("train:\n  epochs: 010", 2, "010 begins with a zero"),
            ("train:\n  epochs: 1:30", 2, "1:30 may mean"),
            ("train:\n  epochs: on", 2, "train.epochs: Input should be a valid integer (got True"),
            ("seed: true", 1, "seed: Input should be a valid integer (got True"),
            ("train: {lr: yes}", 1, "train.lr: Input should be a valid number (got True"),
            ("tile:\n  more_mpp: [1, on]", 2, "tile.more_mpp.1: Input should be a valid number"),
            ("method:\n  num_salient: off", 2, "method.num_salient: Input should be a valid int"),
            ("sampler:\n- name: windows\n  keep: on", 3, "sampler.0.keep: Input should be a valid"),
            ("dense: {classes: [yes]}", 1, "dense.classes.0: Input should be a valid string"),
            ("train:\n\n  lr: .inf", 3, "train.lr: Input should be a finite number (got inf)"),
            ("train: {lr: -.INF}", 1, "train.lr: Input should be a finite number"),
            ("train: {lr: .nan}", 1, "train.lr: Input should be a finite number (got nan)"),
            ("train: {lr: inf}", 1, "train.lr: Input should be a finite number (got 'inf')"),
            ("train: {lr: 1.0e+999}", 1, "train.lr: Input should be a finite number"),
            ("tile: {more_mpp: [.inf]}", 1, "tile.more_mpp.0: Input should be"),
            ("seed: 1\na: " + "[" * 9000, 2, "more than 16 sections deep"),
            ("seed: &a 1", 1, "the anchor &a"),
            ("seed: 1\n---\nseed: 2", 2, "a second document"),
            ("seed: 1\ntrain:\n  epoch: 3", 3, "train.epoch: unknown setting"),
            ("train:\n  lr: -1", 2, "train.lr: Input should be greater than 0"),
            ("seed: 1\ntrain.lr: 1", 2, "train.lr: unknown setting; in a recipe it stands in its"),
        ],
    )
    def test_what_reads_in_two_ways_is_refused_with_its_line(
        self, tmp_path: Path, content: str, line: int, said: str
    ) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError) as caught:
            resolve_config(load_recipe(path))
        assert str(caught.value).startswith(f"{path}, line {line}: ")
        assert said in str(caught.value)

    def test_truth_values_are_read_where_they_are_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text("encoder: {freeze_bn: on}\ntile: {deadline_s: .inf}")
        config = resolve_config(load_recipe(path))
        assert config.encoder.freeze_bn is True
        assert config.tile.deadline_s == float("inf"), "which is no limit"

    def test_a_line_is_named_only_for_what_the_recipe_says(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text("train:\n  lr: -1\n  epochs: 0")
        with pytest.raises(ConfigError) as caught:
            resolve_config(load_recipe(path), {"train.lr": -2})
        said = str(caught.value)
        assert said.startswith(f"{path}, line 3: train.epochs: ")
        assert said.endswith("; train.lr: Input should be greater than 0 (got -2)")

    def test_a_large_file_is_no_recipe(self, tmp_path: Path) -> None:
        path = tmp_path / "slide.yaml"
        path.write_text("#" * (1 << 20) + "\n")
        with pytest.raises(ConfigError, match=r"slide\.yaml: larger than 1 MiB"):
            load_recipe(path)

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="absent.yaml: the recipe cannot be read"):
            load_recipe(tmp_path / "absent.yaml")


@pytest.mark.parametrize("classes", [["a", "a"], ["background"]])
def test_classes_of_patches_that_are_none(classes: list[str]) -> None:
    assert "dense" in refusal({"dense": {"classes": classes}}, None)
