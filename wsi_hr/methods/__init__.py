"""The methods, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wsi_hr.method_config import (
    ABMILConfig,
    ABMILXConfig,
    DBPSConfig,
    DenseConfig,
    GDConfig,
    IPSConfig,
    MethodConfig,
    PatchGDConfig,
)
from wsi_hr.methods.abmil import ABMIL
from wsi_hr.methods.abmilx import E2EABMILX
from wsi_hr.methods.dbps import DBPS
from wsi_hr.methods.gd import GD
from wsi_hr.methods.ips import IPS
from wsi_hr.methods.method import Method
from wsi_hr.methods.patchgd import PatchGD
from wsi_hr.models.encoder import Encoder

METHODS: dict[type[MethodConfig], Callable[..., Method]] = {
    DBPSConfig: DBPS,
    IPSConfig: IPS,
    PatchGDConfig: PatchGD,
    GDConfig: GD,
    ABMILConfig: ABMIL,
    ABMILXConfig: E2EABMILX,
}


def build_method(
    config: MethodConfig,
    encoder: Encoder,
    class_weights: Sequence[float],
    dense: DenseConfig | None = None,
) -> Method:
    """Make the method a config names, for as many classes as there are weights.

    Args:
        config: which method, and how.
        encoder: embeds patches.
        class_weights: of each class of slides in the loss.
        dense: the classes of patches to be learned; none by default, or where it names none.

    Raises:
        ConfigError: a setting does not fit the encoder, or the method learns no classes of patches.
    """
    method = METHODS[type(config)](config, encoder, class_weights)
    if dense is not None and dense.classes:
        method.learn_patches(dense)
    return method
