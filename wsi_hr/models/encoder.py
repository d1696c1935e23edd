"""The network that embeds one patch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsi_hr.bags.bag import Bag
from wsi_hr.bags.stream import pack, pack_encoded
from wsi_hr.errors import ConfigError, DeviceMemoryError
from wsi_hr.geometry import Int64Array, UInt8Array
from wsi_hr.method_config import EncoderConfig, NormStats
from wsi_hr.models.encoder_cut import CutNet
from wsi_hr.models.folded_net import FoldedNet, HandOver
from wsi_hr.models.group_norm import to_group_norm
from wsi_hr.models.input_size import takes
from wsi_hr.models.jpeg_decoder import JpegDecoder, device_decoder
from wsi_hr.models.norm_stats import norms_of
from wsi_hr.models.provenance import Normalisation, Origin
from wsi_hr.models.scan_net import ScanNet
from wsi_hr.models.timm_nets import load_net
from wsi_hr.models.upload import Upload
from wsi_hr.store.jpeg_patches import JpegPatches, Patches

logger = logging.getLogger(__name__)

# Letters: K patches, P patch edge, D embedding.


class ChunkMemoryError(torch.OutOfMemoryError):
    """The device's memory is too small for ``encoder.chunk`` patches with what they leave."""


class Encoder(nn.Module):
    """uint8 patches in, embeddings out; normalisation happens here, on the device.

    Attributes:
        dim: D, width of an embedding.
        chunk: patches embedded at a time without gradient. The batch shape never changes (the last
            chunk is padded), so equal patches get bit-equal embeddings wherever they stand. Only
            where the device's memory is too small for it, it is halved, for good.
        origin: where its weights and normalisation are from, where it was built by name.
        patch_px: edge of the patches that it was built for; None: not known.
        norm_stats: what batch norms normalise by in train mode; all but ``batch`` are statistics
            that no step changes.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        dim: int,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        chunk: int = 64,
        norm_stats: NormStats = "batch",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        decode: Literal["auto", "cpu"] = "auto",
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.dim = dim
        self.chunk = chunk
        self.origin = Origin()
        self.patch_px: int | None = None
        self.norm_stats: NormStats = norm_stats
        self.precision = precision
        self._compiled = compiled
        self._scan_net: ScanNet | None = None
        self._folded_net: FoldedNet | None = None
        self._learns_folded = False
        self._upload: Upload | None = None
        self._decode = decode
        self._decoder: JpegDecoder | None = None
        self._decoder_sought_on: torch.device | None = None
        std_3 = torch.tensor(std, dtype=torch.float32)
        # in the checkpoint too: a model keeps the normalisation it learned with, whatever timm says
        self.register_buffer("scale", 1 / (255 * std_3))
        self.register_buffer("shift", -torch.tensor(mean) / std_3)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.scale.device

    def train(self, mode: bool = True) -> Encoder:
        """As ``nn.Module.train``, but frozen batch norms stay on their running statistics."""
        super().train(mode)
        if mode and self.norms_are_frozen:
            for norm in norms_of(self.net).values():
                norm.eval()
        return self

    def takes_at(self, scale: float) -> bool:
        """Whether it takes its patches at a smaller scale too; most transformers do not."""
        return self.patch_px is None or takes(self.net, round(self.patch_px * scale))

    @property
    def norms_are_frozen(self) -> bool:
        """Whether batch norms take no statistics from the patches of a step."""
        return self.norm_stats != "batch"

    @property
    def autocast(self) -> bool:
        """Whether the network computes in bfloat16."""
        if self.scale.dtype != torch.float32:
            return False
        if self.precision == "auto":
            return self.device.type == "cuda" and has_bfloat16()
        return self.precision == "bfloat16"

    @property
    def decodes(self) -> bool:
        """Whether it is better given JPEG streams than pixels, see ``Bag.fetch``."""
        if self._decoder_sought_on != self.device:
            self._decoder = device_decoder(self.device) if self._decode == "auto" else None
            self._decoder_sought_on = self.device
        return self._decoder is not None

    @property
    def jpeg_decoder(self) -> str:
        """Who decodes patches, for a record of where their pixels came from."""
        return "nvjpeg" if self.decodes else "libjpeg-turbo"

    def forward(self, patches_KPP3: Patches | Tensor, reduce: int = 1) -> Tensor:
        """Embed u8[K, P, P, 3] -> float[K, D].

        In eval mode without gradient the network is the one of the scan: the same function, batch
        norms folded into convolutions.

        Args:
            patches_KPP3: pixels, on any device; or JPEG streams, where it :attr:`decodes`.
            reduce: px of a patch, per axis, that are averaged into one before.
        """
        return self._through(self._network(), patches_KPP3, reduce)

    def unfolded(self, patches_KPP3: Patches | Tensor) -> Tensor:
        """As :meth:`forward`, by the network's own modules in every mode: hooks see them run."""
        return self._through(self.net, patches_KPP3)

    def _through(
        self,
        network: Callable[[Tensor], Tensor],
        patches_KPP3: Patches | Tensor,
        reduce: int = 1,
    ) -> Tensor:
        if isinstance(patches_KPP3, JpegPatches):
            patches_KPP3 = self._decoded(patches_KPP3)
        x = torch.as_tensor(patches_KPP3).to(self.device)
        # NHWC bytes seen as NCHW are already in channels_last order: no copy before the cast
        x = x.permute(0, 3, 1, 2).to(self.scale.dtype)
        x = x * self.scale.view(3, 1, 1) + self.shift.view(3, 1, 1)
        if reduce > 1:
            x = nn.functional.avg_pool2d(x, reduce)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            embedded = network(x)
        return embedded.to(self.scale.dtype)

    def _network(self) -> Callable[[Tensor], Tensor]:
        """What stands for the network in this mode."""
        if self._learns_folded and self._folded_net is not None:
            return self._folded_net
        if not (self.training or torch.is_grad_enabled()):
            return self._scan
        if self._scan_net is not None and torch.is_grad_enabled():
            self._scan_net.release()  # its copy of the weights is about to be out of date
        return self.net

    @contextmanager
    def folded(self, hand_over: HandOver) -> Iterator[None]:
        """Inside, batch norms that are frozen are part of the convolutions before them.

        For train mode, and for gradients that are gathered over many chunks before a step.

        Args:
            hand_over: is told, on leaving, what the folded weights follow from, and the gradient by
                them.
        """
        if not (self.norms_are_frozen and self.training):
            yield
            return
        if self._folded_net is None:
            self._folded_net = FoldedNet(self.net)
        self._folded_net.begin()
        self._learns_folded = True
        try:
            yield
            self._folded_net.end(hand_over)
        finally:
            self._learns_folded = False
            self._folded_net.forget()

    def _scan(self, x: Tensor) -> Tensor:
        if self._scan_net is None:
            self._scan_net = ScanNet(self.net, compiled=self._compiled)
        return self._scan_net(x)

    def _decoded(self, patches: JpegPatches) -> Tensor:
        assert self._decoder is not None, "streams are for those that said they decode"
        return self._decoder(patches)

    def embed_padded(self, patches_KPP3: Patches, reduce: int = 1) -> Tensor:
        """Embed patches ``chunk`` at a time, always that many; the padding is cut off again.

        Where memory is too small for it in eval mode, the chunk is halved.

        Raises:
            ChunkMemoryError: it is too small in train mode or with gradient: then whoever asked
                keeps what all of its patches leave, and has to ask for fewer.
            DeviceMemoryError: it is too small for one patch.
        """
        num = len(patches_KPP3)
        more = {} if reduce == 1 else {"reduce": reduce}
        while True:
            try:
                parts = [
                    self(self._chunk_there(patches_KPP3[first : first + self.chunk]), **more)
                    for first in range(0, max(num, 1), self.chunk)
                ]
                return torch.cat(parts)[:num]
            except torch.OutOfMemoryError as cause:
                if self.training or torch.is_grad_enabled():
                    raise ChunkMemoryError(str(cause)) from cause
                self.halve_chunk(cause)

    def halve_chunk(self, cause: torch.OutOfMemoryError) -> None:
        """Halve ``chunk`` for good, and say so.

        Args:
            cause: why.

        Raises:
            DeviceMemoryError: it is one patch already.
        """
        if self.chunk == 1:
            raise DeviceMemoryError(
                "the device's memory is too small for one patch at a time (encoder.chunk is 1 "
                "already); free what others hold of it, take another device (--device cpu), or "
                "train with a smaller encoder (encoder.name), one that ends early (encoder.cut), "
                "or smaller patches (tile.patch_size)"
            ) from cause
        self.chunk //= 2
        logger.warning(
            "the device's memory is too small for encoder.chunk %d; going on with %d",
            2 * self.chunk,
            self.chunk,
        )

    def _chunk_there(self, patches_KPP3: Patches) -> Tensor:
        """Pixels u8[chunk, P, P, 3] on the device, black beyond the patches given."""
        if isinstance(patches_KPP3, JpegPatches):
            padding = (0, 0, 0, 0, 0, 0, 0, self.chunk - len(patches_KPP3))
            return nn.functional.pad(self._decoded(patches_KPP3), padding)
        if self._upload is None or self._upload.device != self.device:
            self._upload = Upload(self.device)
        return self._upload(_padded(patches_KPP3, self.chunk))


def _padded(patches_KPP3: UInt8Array, chunk: int) -> UInt8Array:
    padding = np.zeros((chunk - len(patches_KPP3), *patches_KPP3.shape[1:]), np.uint8)
    return np.concatenate([patches_KPP3, padding]) if len(padding) else patches_KPP3


def has_bfloat16() -> bool:
    """Whether the GPU in use computes in bfloat16 itself.

    Emulated (Turing, Volta) it is slower than float32, and no more exact.
    """
    return torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient inside; each submodule's own mode is restored on exit."""
    with in_eval(*modules), torch.no_grad():
        yield


@contextmanager
def in_eval(*modules: nn.Module) -> Iterator[None]:
    """Eval mode inside; each submodule's own mode is restored on exit."""
    before = [(module, module.training) for root in modules for module in root.modules()]
    try:
        for root in modules:
            root.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


def embed_packed(
    encoder: Encoder,
    bags: Sequence[Bag],
    wanted: Sequence[Int64Array] | None = None,
    *,
    reduce: int = 1,
) -> Iterator[tuple[int, Int64Array, Tensor]]:
    """Embed the patches of bags chunk by chunk in eval mode, without gradient.

    A chunk is filled from several bags, and read ahead in the background; at most one is embedded.
    The encoder is in eval mode until the last chunk is taken, or no more are asked for.

    Args:
        encoder: embeds; its ``chunk`` is the batch size.
        bags: N patches each.
        wanted: positions i64[J] of each bag, in the order wanted; all of them if not given.
        reduce: see :meth:`Encoder.forward`.

    Yields:
        The number of a bag, positions i64[K] in it, and their embeddings [K, D]; one bag after the
        other, in order.
    """
    packed = pack_encoded if encoder.decodes else pack
    with in_eval(encoder):  # not for every chunk anew: a fast device would wait for it
        for pieces, patches in packed(bags, encoder.chunk, wanted):
            with torch.no_grad():
                embedded = encoder.embed_padded(patches, reduce)
            parts = embedded.split([len(piece.positions) for piece in pieces])
            for piece, part in zip(pieces, parts, strict=True):
                yield piece.bag, piece.positions, part


def build_encoder(config: EncoderConfig, patch_px: int, *, load_weights: bool = True) -> Encoder:
    """Make the encoder a config names.

    Args:
        config: timm name, weights, where it ends, batch norm policy.
        patch_px: edge of a patch; networks of fixed input size, such as vision transformers, are
            fitted to it, their position codes resampled.
        load_weights: False where a checkpoint will overwrite them anyway.

    Raises:
        ConfigError: unknown name, weights that cannot be had or do not fit, or an encoder that
            cannot take patches of this size.
    """
    name = config.name
    weights = config.weights if load_weights else "none"
    loaded = load_net(name, weights, args=config.args, patch_px=patch_px)
    net, dim = loaded.net, loaded.dim
    assert dim is not None, "it was tried with a patch"
    normalisation = normalisation_of(net, config)
    if config.norm == "group" and not to_group_norm(net):
        raise ConfigError(f"encoder.norm group: {name} has no batch norm; leave it at batch")
    if config.cut is not None:
        net = CutNet(net, config.cut, name)
        dim = net.dim
    encoder = Encoder(
        net,
        dim=dim,
        mean=normalisation.mean,
        std=normalisation.std,
        chunk=config.chunk,
        norm_stats=config.norm_stats or "batch",
        precision=config.precision,
        decode=config.decode,
        compiled=config.compile,
    )
    encoder.origin, encoder.patch_px = Origin(normalisation, loaded.weights), patch_px
    return encoder


def normalisation_of(net: Any, config: EncoderConfig) -> Normalisation:
    """What pixels are normalised by: what is set, else what timm says."""
    cfg: dict[str, Any] = getattr(net, "pretrained_cfg", {})
    is_file = config.weights not in ("none", "pretrained")
    timms = f"timm's for {'the weights of ' if config.weights == 'pretrained' else ''}{config.name}"
    own = {name: tuple(cfg.get(name, (0.5, 0.5, 0.5))) for name in ("mean", "std")}
    given = {name: value for name in own if (value := getattr(config, name)) is not None}
    source = "as set" if len(given) == len(own) else timms
    if given and len(given) < len(own):
        (name,) = given
        source = f"encoder.{name} as set, the rest {timms}"
    values = {**own, **given}
    guess = is_file and len(given) < len(own)
    return Normalisation(values["mean"], values["std"], source, guess)
