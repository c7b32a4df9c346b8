"""What every adapter promises; a new file in heatv2x/adapters/ is tested by being there."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from heatv2x.adapters.base import Adapter
from heatv2x.core import plugins
from heatv2x.nn.residual import ResidualBlock
from tests.parts import parts
from tests.scene_factory import CHANNELS, same_state, shaken, state_copy

SHAPES = [(1, CHANNELS, 16, 16), (3, CHANNELS, 7, 12), (2, CHANNELS, 1, 1), (1, CHANNELS, 40, 40)]


def build_adapter(part: str, channels: int = CHANNELS) -> Adapter:
    adapter_class = plugins.find("adapters", part)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapter: Adapter = adapter_class(adapter_class.Config(), channels)
    return adapter


def features(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=parts("adapters"))
def part(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def adapter(part: str) -> Adapter:
    return build_adapter(part)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_identity_at_the_start(adapter: Adapter, shape: tuple[int, ...]) -> None:
    x = features(shape)
    for mode in (True, False):
        adapter.train(mode)
        for inputs in (x, x.relu(), -x.relu(), torch.zeros(shape), 1e4 * x, 1e-8 * x):
            assert torch.equal(adapter(inputs), inputs)


@pytest.mark.parametrize("channels", [1, 3, 48, 64])
def test_is_the_identity_for_any_number_of_channels(part: str, channels: int) -> None:
    x = features((1, channels, 12, 12))
    assert torch.equal(build_adapter(part, channels)(x), x)


def test_does_something_once_trained(adapter: Adapter) -> None:
    x = features(SHAPES[0])
    adapted = shaken(adapter)(x)
    assert adapted.shape == x.shape and adapted.isfinite().all() and (adapted - x).abs().max() > 0.1


def test_disabled_it_is_the_identity(adapter: Adapter) -> None:
    x = features(SHAPES[0])
    shaken(adapter).enabled = False
    assert torch.equal(adapter(x), x)
    adapter.enabled = True
    assert not torch.equal(adapter(x), x)


def test_behaves_alike_in_training_and_in_use(adapter: Adapter) -> None:
    shaken(adapter)
    x = features(SHAPES[0])
    assert not list(adapter.buffers())
    assert torch.equal(adapter.train()(x), adapter.eval()(x))


def test_agents_in_a_batch_do_not_touch_one_another(adapter: Adapter) -> None:
    shaken(adapter)
    x = features((3, CHANNELS, 16, 16))
    torch.testing.assert_close(adapter(x)[1:2], adapter(x[1:2]), rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(adapter: Adapter) -> None:
    shaken(adapter)
    adapter(features(SHAPES[0])).square().mean().backward()
    assert all(parameter.requires_grad for parameter in adapter.parameters())
    silent = [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent, silent


def test_something_learns_from_the_start(adapter: Adapter) -> None:
    x = features(SHAPES[0])
    before = state_copy(adapter)
    optimizer = torch.optim.SGD(adapter.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (adapter(x) - 2 * x.roll(1, dims=1)).square().mean().backward()
        optimizer.step()
    moved = [key for key, value in adapter.state_dict().items() if not torch.equal(before[key], value)]
    assert len(moved) > len(before) / 2, moved


def test_is_saved_and_loaded_alone(part: str, adapter: Adapter) -> None:
    shaken(adapter)
    stored = safetensors.torch.load(safetensors.torch.save(state_copy(adapter)))
    fresh = build_adapter(part)
    fresh.load_state_dict(stored)
    assert same_state(fresh.state_dict(), adapter.state_dict())
    assert torch.equal(fresh(features(SHAPES[1])), adapter(features(SHAPES[1])))


def test_is_cheap(part: str, adapter: Adapter) -> None:
    """Fewer values than one residual block of the same width."""

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert size(build_adapter(part, 64)) < size(ResidualBlock(64, 64))
