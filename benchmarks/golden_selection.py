"""Golden files of IPS and DBPS: which patches are kept, and what is made of them."""

from __future__ import annotations

import ast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks.golden_file import Finding, GoldenError, GoldenFile, spelled_numbers
from wsi_hr.bags.bag import Bag
from wsi_hr.errors import ConfigError
from wsi_hr.method_config import DBPSConfig
from wsi_hr.methods.dbps import DBPS
from wsi_hr.models.attention import DualAttention, sinusoid
from wsi_hr.models.encoder import Encoder
from wsi_hr.slide_prediction import Role, SlidePrediction
from wsi_hr.store.jpeg_patches import JpegPatches, Patches
from wsi_hr.testing.memory_patches import MemoryPatches, numbered_pixels

# Letters: B slides, N patches of a slide, M salient, S sub-salient, D embedding, C classes.

PROBS_TOLERANCE = 1e-6

_NAMES = {  # ours: the released code's
    "attention.queries": "crs_attn.q",
    "attention.w_q.weight": "crs_attn.q_w.weight",
    "attention.w_k.weight": "crs_attn.k_w.weight",
    "attention.w_v.weight": "crs_attn.v_w.weight",
    "attention.w_o.weight": "crs_attn.fc.weight",
    "norm.weight": "crs_attn.layer_norm.weight",
    "norm.bias": "crs_attn.layer_norm.bias",
    "w_1.weight": "mlp.w_1.weight",
    "w_1.bias": "mlp.w_1.bias",
    "w_2.weight": "mlp.w_2.weight",
    "w_2.bias": "mlp.w_2.bias",
    "mlp_norm.weight": "mlp.layer_norm.weight",
    "mlp_norm.bias": "mlp.layer_norm.bias",
}


class _LookUp(Encoder):
    """Embeds a patch by looking up the number that it spells."""

    def __init__(self, table_ND: Tensor) -> None:
        super().__init__(nn.Identity(), dim=table_ND.shape[1])
        self.table = nn.Parameter(table_ND)

    def forward(self, patches_KPP3: Patches | Tensor, reduce: int = 1) -> Tensor:
        assert not isinstance(patches_KPP3, JpegPatches)
        return self.table[spelled_numbers(patches_KPP3)]


class _AnyQuery(DualAttention):
    """Gives query ``task`` in the place of the first, and remembers which P_S it read."""

    task = 0
    sub_SD = torch.empty(0, 0)

    def forward(
        self,
        salient_BMD: Tensor,
        mask_BM: Tensor | None,
        sub_BSD: Tensor,
        mask_BS: Tensor | None,
    ) -> Tensor:
        self.sub_SD = sub_BSD[0]
        return super().forward(salient_BMD, mask_BM, sub_BSD, mask_BS).roll(-self.task, 1)


class GoldenSelection:
    """DBPS (IPS where the file has no ``sub_idx``) with a file's weights.

    Task t reads query t, in the order of the file's ``state.output_layers.*``.

    Raises:
        GoldenError: the file is not of the form.
    """

    def __init__(self, file: GoldenFile) -> None:
        self.emb_BND = file.tensor("emb", 3)
        self.num_slides, self.num_patches, dim = self.emb_BND.shape
        self.salient_BM = _indices(file, "idx", self.num_slides)
        self.sub_BS = (
            _indices(file, "sub_idx", self.num_slides)
            if "sub_idx" in file
            else np.empty((self.num_slides, 0), np.int64)
        )
        self.sub_emb_BSD = file.tensor("sub_emb", 3) if "sub_emb" in file else None
        conf = _conf(file)
        num_queries = file.tensor("state.transf.crs_attn.q", 3).shape[1]
        self.classifiers = _classifiers(file, self.emb_BND.dtype)
        if len(self.classifiers) > num_queries:
            raise GoldenError(f"{len(self.classifiers)} tasks read {num_queries} queries")
        self.probs_BC = {
            task: file.array(f"probs.{task}", 2).astype(np.float64) for task in self.classifiers
        }
        unread = [k for k in file if k.startswith("probs.") and k[6:] not in self.probs_BC]
        if unread:
            raise GoldenError(f"{unread[0]} has no state.output_layers.{unread[0][6:]}.0.weight")
        for task, probs_BC in self.probs_BC.items():
            expected = (self.num_slides, self.classifiers[task].out_features)
            if probs_BC.shape != expected:
                raise GoldenError(f"probs.{task} is {probs_BC.shape}, not {expected}")
        if self.sub_emb_BSD is not None and self.sub_emb_BSD.shape != (*self.sub_BS.shape, dim):
            raise GoldenError("sub_emb does not hold one embedding per sub_idx")
        given = (self.num_patches, dim, num_queries, dim)
        told = (conf["N"], conf["D"], conf["n_token"], conf["H"] * conf.get("D_k", dim / conf["H"]))
        self.contradictions = sum(a != b for a, b in zip(given, told, strict=True))
        self.positions = bool(conf["use_pos"])
        try:
            self.method = self._method(file, conf, num_queries)
        except (ConfigError, RuntimeError, ValueError) as cause:
            reason = str(cause).splitlines()[-1].strip()
            raise GoldenError(f"its weights do not fit its conf ({reason})") from cause

    def _method(self, file: GoldenFile, conf: dict, num_queries: int) -> DBPS:
        dim = self.emb_BND.shape[2]
        settings = {
            "num_salient": conf["M"],
            "num_sub_salient": conf["S"] if self.sub_BS.shape[1] else 0,
            "scan_chunk": conf["I"],
            "heads": conf["H"],
            "dropout": 0.0,
            "mlp_ratio": conf["D_inner"] / dim,
            "positions": self.positions,
            "explore": "none",
        }
        encoder = _LookUp(self.emb_BND.flatten(0, 1))
        method = DBPS(DBPSConfig.model_validate(settings), encoder, [1.0, 1.0])
        self.aggregate = _AnyQuery(
            dim, heads=conf["H"], hidden=conf["D_inner"], num_queries=num_queries, dropout=0.0
        )
        for norm in (self.aggregate.norm, self.aggregate.mlp_norm):
            norm.eps = conf.get("eps", norm.eps)
        state = {ours: f"state.transf.{theirs}" for ours, theirs in _NAMES.items()}
        own = self.aggregate.state_dict()
        self.aggregate.load_state_dict(
            {ours: file.tensor(theirs, own[ours].ndim) for ours, theirs in state.items()}
        )
        method.aggregate = self.aggregate
        return method.to(self.emb_BND.dtype).eval()

    def findings(self) -> list[Finding]:
        """Sets of salient and sub-salient patches, and the probabilities of every task."""
        errors = {"idx": [0.0], "sub_idx": [0.0], "sub_emb": [0.0]}
        for slide in range(self.num_slides):
            for number, (task, classifier) in enumerate(self.classifiers.items()):
                self.aggregate.task, self.method.classifier = number, classifier
                made = self.method.predict_bag(self._bag(slide))
                away = np.abs(made.probs - self.probs_BC[task][slide]).max()
                errors.setdefault(f"probs.{task}", []).append(float(away))
                errors["idx"].append(_differing(made, Role.SALIENT, self.salient_BM[slide]))
                errors["sub_idx"].append(_differing(made, Role.SUB_SALIENT, self.sub_BS[slide]))
            errors["sub_emb"].append(self._sub_emb_error(slide))
        if not self.sub_BS.shape[1]:
            del errors["sub_idx"]
        if self.sub_emb_BSD is None:
            del errors["sub_emb"]
        return [
            Finding("conf", self.contradictions, 0),
            *(
                Finding(name, float(np.max(each)), 0 if name.endswith("idx") else PROBS_TOLERANCE)
                for name, each in errors.items()
            ),
        ]

    def _bag(self, slide: int) -> Bag:
        numbers = np.arange(self.num_patches) + slide * self.num_patches
        cells = np.stack([np.zeros_like(numbers), np.arange(self.num_patches)], 1).astype(np.int32)
        return Bag.of(MemoryPatches(numbered_pixels(numbers), cells=cells))  # raster index: n

    def _sub_emb_error(self, slide: int) -> float:
        """How far the embeddings of P_S, in no order, are from the file's."""
        if self.sub_emb_BSD is None or not self.sub_emb_BSD.shape[1]:
            return 0.0
        expected_SD = self.sub_emb_BSD[slide].to(self.emb_BND.dtype)
        if self.positions:
            raster_S = torch.from_numpy(self.sub_BS[slide])
            expected_SD = expected_SD + sinusoid(raster_S, expected_SD.shape[1])
        ours_SD = self.aggregate.sub_SD
        if len(ours_SD) != len(expected_SD):
            return float("inf")
        away_SS = torch.cdist(ours_SD, expected_SD, p=float("inf"))
        return float(torch.maximum(away_SS.amin(0).max(), away_SS.amin(1).max()))


def _indices(file: GoldenFile, name: str, num_slides: int) -> npt.NDArray[np.int64]:
    indices = file.array(name, 2)
    if len(indices) != num_slides or (indices.size and indices.dtype.kind not in "iu"):
        raise GoldenError(f"{name} does not hold patch numbers of {num_slides} slides")
    return indices.astype(np.int64)


def _conf(file: GoldenFile) -> dict:
    """The settings, a printed dict.

    Raises:
        GoldenError: it is none, or lacks a setting.
    """
    try:
        conf = ast.literal_eval(str(file.array("conf", 0)))
    except (SyntaxError, ValueError) as cause:
        raise GoldenError("conf is not a printed dict") from cause
    counts = ("M", "S", "I", "H", "D_inner", "D", "N", "n_token")
    missing = [
        name for name in (*counts, "use_pos") if not isinstance(conf, dict) or name not in conf
    ]
    if missing:
        raise GoldenError(f"conf has no {', '.join(missing)}")
    wrong = [name for name in counts if type(conf[name]) is not int or conf[name] < (name != "S")]
    if wrong:
        raise GoldenError(f"conf's {wrong[0]} is {conf[wrong[0]]!r}, not a count")
    return conf


def _classifiers(file: GoldenFile, dtype: torch.dtype) -> dict[str, nn.Linear]:
    """The linear layer of every task, in the file's order."""
    found = {}
    for key in file:
        task = key.removeprefix("state.output_layers.").removesuffix(".0.weight")
        if key != f"state.output_layers.{task}.0.weight":
            continue
        weight_CD, bias_C = file.tensor(key, 2), file.tensor(key.removesuffix("weight") + "bias", 1)
        if len(weight_CD) != len(bias_C):
            raise GoldenError(f"{key} and its bias have different lengths")
        layer = nn.Linear(weight_CD.shape[1], len(weight_CD))
        layer.load_state_dict({"weight": weight_CD, "bias": bias_C})
        found[task] = layer.to(dtype)
    if not found:
        raise GoldenError("has no state.output_layers.TASK.0.weight")
    return found


def _differing(prediction: SlidePrediction, role: Role, expected: npt.NDArray[np.int64]) -> float:
    """How many patches are in one of two sets only."""
    ours = set(np.flatnonzero(prediction.role == role).tolist())
    return float(len(ours ^ set(expected.tolist())))
