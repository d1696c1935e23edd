"""Where an encoder's weights and normalisation are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from wsi_hr.models.weights_file import FileIdentity


@dataclass(frozen=True)
class LoadedWeights:
    """Which file was loaded, and what was done to what it holds.

    Attributes:
        identity: which file.
        form: how it is written.
        said: what was unwrapped, renamed and resampled, a clause each.
        left_out: tensors of it that are not used, and do no harm.
        defaulted: tensors that it does not have, and that start as in a new network.
    """

    identity: FileIdentity
    form: str
    said: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()

    def in_words(self) -> str:
        """One line about the file."""
        clauses = [f"{self.identity.bytes} bytes", f"SHA-256 {self.identity.sha256}", *self.said]
        if self.left_out:
            clauses.append(f"not used: {_few(self.left_out)}")
        if self.defaulted:
            clauses.append(f"{len(self.defaulted)} counters start at 0")
        return f"weights: {self.identity.file} ({'; '.join(clauses)})"


class Normalisation(NamedTuple):
    """How pixels are normalised, and who says so.

    Attributes:
        mean: per channel, of 0..1.
        std: likewise.
        source: who says so, in words.
        is_guess: nobody who knows the weights says so.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    is_guess: bool = False

    def in_words(self) -> str:
        """One line about it."""
        told = f"normalisation: mean {_numbers(self.mean)}, std {_numbers(self.std)} ({self.source}"
        if not self.is_guess:
            return f"{told})"
        return (
            f"warning: {told}, since the weights file does not say what it learned with); see "
            "where the weights were published, and set encoder.mean and encoder.std if that differs"
        )


@dataclass(frozen=True)
class Origin:
    """Where an encoder is from.

    Attributes:
        normalisation: of its pixels; None: not known here.
        weights: the file that it was loaded from; None: there was none.
    """

    normalisation: Normalisation | None = None
    weights: LoadedWeights | None = None

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Origin:
        """What :meth:`facts` were made of; what they do not tell is not known.

        Raises:
            KeyError, TypeError: they are of another form.
        """
        normalisation, weights = None, None
        if "mean" in facts:
            normalisation = Normalisation(
                tuple(facts["mean"]),
                tuple(facts["std"]),
                facts["normalisation_from"],
                facts["normalisation_is_a_guess"],
            )
        if "weights" in facts:
            told = facts["weights"]
            identity = FileIdentity(told["file"], told["bytes"], told["sha256"])
            lists = {name: tuple(told[name]) for name in ("said", "left_out", "defaulted")}
            weights = LoadedWeights(identity, told["form"], **lists)
        return cls(normalisation, weights)

    def in_words(self) -> list[str]:
        """What is known, a line each."""
        return [one.in_words() for one in (self.weights, self.normalisation) if one is not None]

    def facts(self) -> dict[str, Any]:
        """As plain values, for records."""
        facts: dict[str, Any] = {}
        if self.normalisation is not None:
            facts |= {
                "mean": list(self.normalisation.mean),
                "std": list(self.normalisation.std),
                "normalisation_from": self.normalisation.source,
                "normalisation_is_a_guess": self.normalisation.is_guess,
            }
        if self.weights is not None:
            told = asdict(self.weights)
            facts["weights"] = {
                **told.pop("identity"),
                **{name: list(v) if isinstance(v, tuple) else v for name, v in told.items()},
            }
        return facts


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _numbers(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"
