"""What training tools wrap around a network's tensors, taken off again and told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TIERS: tuple[tuple[str, ...], ...] = (
    (
        *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model"),
        *("ema", "params_ema", "averaged_model", "ema_weights", "ema_network", "swa_model", "swa"),
        "shadow",
    ),
    ("teacher", "teacher_model"),
    ("student", "student_model"),
    (
        *("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params"),
        *("weights", "module", "_orig_mod"),
    ),
    (
        *("backbone", "encoder", "image_encoder", "visual_encoder", "feature_extractor", "trunk"),
        *("base_encoder", "encoder_q"),
    ),
    ("momentum_encoder", "encoder_k"),
)
"""Names of wrappers, best first: where several are there, the first row that has one is taken.

A moving average before the weights it averages and a teacher before its student, as those who train
so evaluate them; a whole network before its part; of two that contrast, not the one that follows.
Two of one row are nobody's to choose between.
"""

_HEADS = (
    *("head", "heads", "fc", "classifier", "projector", "projection_head", "proj_head"),
    *("predictor", "prototypes", "criterion", "dino_head", "ibot_head", "mask_token", "n_averaged"),
    *("queue", "queue_ptr"),
)
# timm's own functions know these beginnings, and need them.
_LAYOUTS = ("visual", "beit3", "radio_model", "vision_encoder", "preprocessor")
_DEEPEST = 8
_MOST_NAMED = 6


class NotUnwrapped(Exception):
    """Why a file's tensors cannot be told from what is around them, a clause."""


@dataclass(frozen=True)
class Unwrapped:
    """A network's tensors by name.

    Attributes:
        tensors: the wrappers' names are gone from theirs.
        said: what was taken off and what was left, a clause each.
    """

    tensors: dict[str, Tensor]
    said: tuple[str, ...]


def unwrap(content: Any, own: Iterable[str]) -> Unwrapped:
    """Take the tensors of one network out of what a file holds.

    Args:
        content: of the file.
        own: names of the tensors of the network that they are for; what it calls a part of its own
            is no wrapper.

    Raises:
        NotUnwrapped: there are none, or of several networks and no rule which.
    """
    own_parts = {name.split(".", 1)[0] for name in own}
    said: list[str] = []
    for _ in range(_DEEPEST):
        inner = _container(content, said)
        if inner is None:
            break
        content = inner
    tensors = {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
    for _ in range(_DEEPEST):
        stripped = _without_prefix(tensors, own_parts, said)
        if stripped is None:
            break
        tensors = stripped
    return Unwrapped(tensors, tuple(said))


def told(names: Iterable[str]) -> str:
    """Some names, in quotes; the rest counted."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def _container(content: Any, said: list[str]) -> Mapping[Any, Any] | None:
    """The mapping inside, which holds the tensors; None: this one does.

    Raises:
        NotUnwrapped: there is none, or it is not clear which.
    """
    if not isinstance(content, Mapping):
        raise NotUnwrapped(
            f"holds a {type(content).__name__}, not tensors by name; save the network's "
            "state_dict()"
        )
    inside = {str(name): one for name, one in content.items() if _holds_tensors(one)}
    tensors = {str(name): one for name, one in content.items() if isinstance(one, Tensor)}
    if not inside:
        if not tensors:
            raise NotUnwrapped(
                "holds no tensors by name, only "
                f"{told(map(str, content)) or 'nothing'}; save the network's state_dict()"
            )
        return None
    if any(one.ndim for one in tensors.values()):
        raise NotUnwrapped(
            f"holds tensors of its own ({told(tensors)}) and more of them in {told(inside)}; save "
            "one network's state_dict() alone"
        )
    taken = _first(inside)
    if taken is None:
        if len(inside) > 1:
            raise NotUnwrapped(
                f"holds tensors in {told(inside)}, and nothing says which of them are the "
                "encoder's; save its state_dict() alone"
            )
        (taken,) = inside
    beside = [name for name in inside if name != taken]
    said.append(f"taken from `{taken}`" + (f", not from {told(beside)}" if beside else ""))
    return inside[taken]


def _holds_tensors(one: Any) -> bool:
    """Whether it is a mapping with tensors by name, or with such mappings in it."""
    if not isinstance(one, Mapping):
        return False
    return any(
        isinstance(name, str) and (isinstance(inner, Tensor) or _holds_tensors(inner))
        for name, inner in one.items()
    )


def _first(names: Iterable[str]) -> str | None:
    """The best of the known wrappers among ``names``; None: there is none.

    Raises:
        NotUnwrapped: two of the same row are there.
    """
    names = set(names)
    for tier in TIERS:
        there = [name for name in tier if name in names]
        if len(there) > 1:
            raise NotUnwrapped(
                f"holds several networks, {told(there)}, and nothing says which is meant; save one "
                "network's state_dict() alone"
            )
        if there:
            return there[0]
    return None


def _without_prefix(
    tensors: dict[str, Tensor], own_parts: set[str], said: list[str]
) -> dict[str, Tensor] | None:
    """The tensors whose names begin with a wrapper's, without it; None: there is no wrapper."""
    parts: dict[str, int] = {}
    for name in tensors:
        first, dot, _ = name.partition(".")
        if dot:
            parts[first] = parts.get(first, 0) + 1
    known = [part for part in parts if part not in own_parts]
    taken = _first(known)
    if taken is None:
        if own_parts & {name.split(".", 1)[0] for name in tensors if not _is_head(name)}:
            return None
        wrappers = [part for part in parts if not _is_head(part)]
        if len(wrappers) != 1 or wrappers[0] in _LAYOUTS:
            return None
        taken = wrappers[0]
    inside = {
        name.removeprefix(f"{taken}."): one
        for name, one in tensors.items()
        if name.startswith(f"{taken}.")
    }
    beside = dict.fromkeys(
        name.split(".", 1)[0] for name in tensors if not name.startswith(f"{taken}.")
    )
    strange = [part for part in beside if not _is_head(part) and not _is_worse(part, taken)]
    if strange:
        raise NotUnwrapped(
            f"holds {len(inside)} tensors whose names begin with `{taken}.`, and beside them "
            f"others that are of no head: {told(strange)}; save the encoder's state_dict() alone"
        )
    said.append(f"names without `{taken}.`" + (f", and none of {told(beside)}" if beside else ""))
    return inside


def _is_head(name: str) -> bool:
    first = name.split(".", 1)[0]
    return first in _HEADS or first.endswith(("_head", "_loss"))


def _is_worse(part: str, taken: str) -> bool:
    """Whether ``part`` is the same network in a form that is not taken: student, raw, follower.

    Two parts of one network, such as a backbone and another encoder, are not.
    """
    rows = {name: number for number, tier in enumerate(TIERS) for name in tier}
    if part not in rows or taken not in rows:
        return False
    follows = rows[part] == len(TIERS) - 1
    return rows[taken] < rows[part] and (rows[taken] <= 1 or follows)
