"""The network of the scan is the encoder in eval mode, however its weights change."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from wsi_hr.models.encoder import Encoder, frozen
from wsi_hr.models.scan_net import ScanNet


def moving(net: nn.Module) -> nn.Module:
    """The network with running statistics as training leaves them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.eval()


def same(net: nn.Module, scan: ScanNet) -> bool:
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        return torch.allclose(net(x), scan(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "num_folded"),
    [("test_resnet", None), ("test_efficientnet", None), ("test_byobnet", None), ("test_vit", 0)],
)
def test_it_computes_what_the_network_does(name: str, num_folded: int | None) -> None:
    torch.manual_seed(0)
    more = {"img_size": 32} if "vit" in name else {}
    net = moving(timm.create_model(name, num_classes=0, **more))
    scan = ScanNet(net)
    num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert scan.num_folded == (num_norms if num_folded is None else num_folded)
    assert same(net, scan)


def test_it_follows_the_weights() -> None:
    torch.manual_seed(0)
    net = moving(timm.create_model("test_resnet", num_classes=0))
    scan = ScanNet(net)
    assert same(net, scan)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    net(torch.randn(2, 3, 32, 32)).tanh().sum().backward()
    optimizer.step()
    assert same(net, scan)
    net.train()
    net(torch.randn(4, 3, 32, 32))  # moves the running statistics alone
    assert same(net.eval(), scan)
    net.load_state_dict(moving(timm.create_model("test_resnet", num_classes=0)).state_dict())
    assert same(net, scan)
    assert same(net.double().float(), scan)


def test_its_memory_can_be_had_back() -> None:
    torch.manual_seed(0)
    net = moving(timm.create_model("test_resnet", num_classes=0))
    scan = ScanNet(net)
    scan.release()
    assert same(net, scan)
    scan.release()
    assert not any(parameter.untyped_storage().nbytes() for parameter in scan._copy.parameters())
    assert same(net, scan)
    scan.release()
    assert same(net.double().float(), scan)


def test_a_gradient_has_the_scan_s_memory() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=0)
    encoder = Encoder(net, dim=net.num_features)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with frozen(encoder):
        before = encoder(pixels)
    assert encoder._scan_net is not None
    copy = encoder._scan_net._copy
    assert any(parameter.untyped_storage().nbytes() for parameter in copy.parameters())
    encoder(pixels)
    assert not any(parameter.untyped_storage().nbytes() for parameter in copy.parameters())
    with frozen(encoder):
        assert encoder(pixels).shape == before.shape


@pytest.mark.parametrize("used", ["twice", "inside", "untraceable"])
def test_what_cannot_be_folded_is_left(used: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if used == "untraceable" and x.sum() > 1e9:
                return x
            y = self.conv(x)
            z = self.norm(y)
            if used == "twice":
                z = self.norm(self.conv(z))
            return z + y if used == "inside" else z

    net = moving(Net())
    scan = ScanNet(net)
    assert scan.num_folded == 0
    assert same(net, scan)


def test_the_encoder_scans_with_it_in_eval_mode_without_gradient_only() -> None:
    torch.manual_seed(0)
    encoder = Encoder(moving(timm.create_model("test_resnet", num_classes=0)), dim=1)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    plain = encoder(pixels)
    assert encoder._scan_net is None
    assert plain.requires_grad
    before = set(encoder.state_dict())
    with frozen(encoder):
        folded = encoder(pixels)
    assert encoder._scan_net is not None
    assert torch.allclose(plain, folded, rtol=1e-3, atol=1e-4)
    assert set(encoder.state_dict()) == before
    encoder.train()
    with torch.no_grad():
        assert not torch.allclose(encoder(pixels), folded, atol=1e-3)  # batch statistics


def test_bfloat16_where_asked_comes_back_as_float32() -> None:
    torch.manual_seed(0)
    net = moving(timm.create_model("test_resnet", num_classes=0))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    exact, half = Encoder(net, dim=1), Encoder(net, dim=1, precision="bfloat16")
    with frozen(net), torch.no_grad():
        assert not exact.autocast  # auto, on a CPU
        a, b = exact.eval()(pixels), half.eval()(pixels)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert torch.allclose(a, b, rtol=0.1, atol=0.1 * float(a.abs().max()))
    assert not half.double().autocast


@pytest.mark.slow
def test_a_compiled_scan_computes_the_same() -> None:
    torch.manual_seed(0)
    net = moving(timm.create_model("test_resnet", num_classes=0))
    assert same(net, ScanNet(net, compiled=True))
