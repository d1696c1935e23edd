"""An encoder that ends after one of its network's stages: what lies behind is thrown away."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wsi_hr.errors import ConfigError


class CutNet(nn.Module):
    """A network up to one of its stages, and the mean over what that stage gives.

    Source: METHODS section 3b (E2E-ABMILX cuts a ResNet after ``layer3``).

    Args:
        net: one of timm's; it is changed, its later stages are removed.
        stage: name of the last stage that is kept, e.g. ``layer3``.
        name: of the network, for the error.

    Attributes:
        dim: channels of the stage.

    Raises:
        ConfigError: the network has no stage of that name, or cannot be cut.
    """

    def __init__(self, net: Any, stage: str, name: str) -> None:
        super().__init__()
        stages: list[dict[str, Any]] = list(getattr(net, "feature_info", ()))
        names = [info["module"] for info in stages]
        if stage not in names:
            has = f"its stages are {', '.join(names)}" if names else "it names no stages"
            raise ConfigError(f"encoder.cut {stage}: {name} has no such stage; {has}")
        if not hasattr(net, "prune_intermediate_layers"):
            raise ConfigError(f"encoder.cut {stage}: {name} cannot be cut; use another encoder")
        self.dim: int = stages[names.index(stage)]["num_chs"]
        # what the net calls this stage from now on: those behind it are gone
        self._index: int = names.index(stage)
        net.prune_intermediate_layers([self._index], prune_norm=True, prune_head=True)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised images float[K, 3, P, P] -> [K, dim]."""
        (maps_KDHW,) = self.net.forward_intermediates(
            x,
            indices=[self._index],
            norm=False,
            stop_early=True,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps_KDHW.mean((2, 3))
