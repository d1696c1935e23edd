"""Learning with folded batch norms gives the network's own outputs and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from wsi_hr.models.encoder import Encoder
from wsi_hr.models.folded_net import FoldedNet

NAMES = ["test_resnet", "test_efficientnet", "test_vit"]


def moving(net: nn.Module) -> nn.Module:
    """The network with running statistics as training leaves them."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


def encoder(name: str, **settings) -> Encoder:
    torch.manual_seed(0)
    more = {"img_size": 32} if "vit" in name else {}
    net = moving(timm.create_model(name, num_classes=0, **more))
    return Encoder(net, dim=net.num_features, norm_stats="running", **settings).double().train()


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


def backward(output: Tensor, gradient: Tensor) -> None:
    output.backward(gradient)


def gradients(model: Encoder) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def learn(model: Encoder, patches: np.ndarray) -> Tensor:
    """Two chunks, a gradient each."""
    outputs = torch.cat([model(patches[:3]), model(patches[3:])])
    outputs.sin().sum().backward()
    return outputs.detach()


@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_the_network_s(name: str) -> None:
    model = encoder(name)
    for _ in range(2):  # the second time with other weights
        expected, plain = learn(model, pixels()), gradients(model)
        with model.folded(backward):
            outputs = learn(model, pixels())
        torch.testing.assert_close(outputs, expected)
        found = gradients(model)
        assert found.keys() == plain.keys()
        for key, grad in found.items():
            assert (grad - plain[key]).norm() <= 1e-9 * plain[key].norm() + 1e-12, key
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9)


def test_no_batch_norm_is_run() -> None:
    model = encoder("test_resnet")
    norms = [m for m in model.net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert FoldedNet(model.net).num_folded == len(norms)
    run = []
    for norm in norms:
        norm.register_forward_hook(lambda *_: run.append(1))
    with model.folded(backward):
        learn(model, pixels())
    assert not run
    learn(model, pixels())
    assert len(run) == 2 * len(norms)


def test_weights_that_are_frozen_get_no_gradient() -> None:
    model = encoder("test_resnet")
    frozen = [name for name, _ in model.named_parameters() if "layer1" in name or "bn" in name]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    learn(model, pixels())
    plain = gradients(model)
    with model.folded(backward):
        learn(model, pixels())
    found = gradients(model)
    assert found.keys() == plain.keys()
    assert not found.keys() & set(frozen)
    for key, grad in found.items():
        torch.testing.assert_close(grad, plain[key])


def test_it_follows_the_dtype_and_loaded_weights() -> None:
    model = encoder("test_resnet", precision="float32")
    with model.folded(backward):
        learn(model, pixels())
    gradients(model)
    model.float().load_state_dict(encoder("test_resnet").float().state_dict())
    expected = learn(model, pixels())
    plain = gradients(model)
    with model.folded(backward):
        torch.testing.assert_close(learn(model, pixels()), expected)
    for key, grad in gradients(model).items():
        torch.testing.assert_close(grad, plain[key], rtol=1e-3, atol=1e-4)


def test_dropout_is_that_of_the_network() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten())  # fmt: skip
    model = Encoder(moving(net), dim=4, norm_stats="running").train()
    with model.folded(backward):
        a, b = model(pixels()), model(pixels())
        assert not torch.equal(a, b)
        torch.manual_seed(1)
        a = model(pixels())
    torch.manual_seed(1)
    torch.testing.assert_close(a, model(pixels()))


def test_after_an_error_inside_nothing_is_handed_over() -> None:
    model = encoder("test_resnet")

    def fail(*_: object) -> None:
        raise KeyError

    with pytest.raises(KeyError), model.folded(backward):
        fail(learn(model, pixels()))
    assert not gradients(model), "every weight of this network is folded"
    learn(model, pixels())
    plain = gradients(model)
    with model.folded(backward):
        learn(model, pixels())
    assert gradients(model).keys() == plain.keys()


def test_where_batch_norms_learn_or_rest_nothing_changes() -> None:
    model = encoder("test_resnet")
    model.norm_stats = "batch"
    with model.train().folded(backward):
        assert model._network() is model.net
    model.norm_stats = "running"
    with model.eval().folded(backward), torch.enable_grad():
        assert model._network() is model.net
