"""What is remembered of messages: no more than fits, and only under the name of the networks that said it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from heatv2x.evaluation.message_cache import ByteCache, OwnMessage
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.deploy import optimised
from heatv2x.model.variants import exchanging, fusing_by, reaching
from tests.scene_factory import SmallScenes, joined, shaken, small_model


@dataclass(frozen=True)
class Thing:
    kept_bytes: int


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: ByteCache[Thing] = ByteCache(100)
    for name in "abc":
        cache.put(name, Thing(30))
    assert cache.get("a") == Thing(30) and cache.held_bytes == 90
    cache.put("d", Thing(30))
    assert sorted(map(str, cache)) == ["a", "c", "d"] and cache.get("b") is None
    cache.put("c", Thing(50))
    assert sorted(map(str, cache)) == ["c", "d"] and cache.held_bytes == 80
    cache.put("e", Thing(101))
    assert cache.get("e") is None and len(cache) == 2, "what never fits drives nothing out"
    cache.drop("c")
    cache.drop("nothing")
    assert cache.held_bytes == 30 and len(cache) == 1


@pytest.mark.parametrize("share", [None, 0.2])
def test_an_egos_own_message_comes_back_bit_for_bit(share: float | None) -> None:
    model = joined(small_model())
    if share is not None:
        model.fusion.sends_at_most(share)
    message = model.encode(SmallScenes().read(0, ["lidar64"]).agents[0], "lidar64", 5)
    back = OwnMessage.of(message).whole()
    assert message.feature is not None and back.feature is not None and torch.equal(back.feature, message.feature)
    assert (back.sender, back.captured_us, back.codec) == (message.sender, 5, message.codec)
    if message.cells is None:
        assert back.cells is None
    else:
        assert back.cells is not None and torch.equal(back.cells, message.cells)
    assert OwnMessage.of(message).kept_bytes >= 4 * message.feature.numel()


CHANGES: dict[str, Callable[[Collaboration], object]] = {
    "encoder": lambda model: shaken(model.agent("lidar16"), 1e-6),
    "adapter": lambda model: shaken(model.senders["lidar16"], 1e-6),
    "statistics": lambda model: next(b for n, b in model.backbone.named_buffers() if "running_mean" in n).add_(1e-6),
    "backbone": lambda model: next(model.backbone.parameters()).data.mul_(1.001),
    "head": lambda model: next(model.head.parameters()).data.add_(1e-6),
    "own parameters of the fusion": lambda model: shaken(model.fusion.typed_module("lidar16"), 1e-6),  # type: ignore[arg-type]
    "codec": lambda model: model.use_codec("half"),
    "share": lambda model: model.fusion.sends_at_most(0.5),
    "smaller share": lambda model: model.fusion.sends_at_most(0.25),
    "settings of the head": lambda model: setattr(model.head, "config", None),
}


def test_whatever_decides_a_message_is_in_its_name() -> None:
    model = joined(joined(small_model(), shake=0.1), "other", shake=0.1)
    names = [model.voice("lidar16")]
    assert names[0] == model.voice("lidar16")
    for what, change in CHANGES.items():
        change(model)
        names.append(model.voice("lidar16"))
        assert names[-1] not in names[:-1], what


def test_other_networks_have_other_names() -> None:
    model = joined(small_model(), shake=0.1)
    variants = [model, reaching(model, 25.6, 12.8), exchanging(model, "boxes"), fusing_by(model, "maximum")]
    variants += [exchanging(model, "points"), optimised(model, "float32"), optimised(model, "bfloat16")]
    assert len({variant.voice("lidar16") for variant in variants}) == len(variants)
    assert model.voice("lidar64") != model.voice("lidar16")


def test_another_newcomer_changes_nothing() -> None:
    """So that messages are shared between models that differ in what joined them."""
    model = joined(small_model(), shake=0.1)
    before = model.voice("lidar64"), model.voice("lidar16")
    joined(model, "other", shake=0.3)
    assert (model.voice("lidar64"), model.voice("lidar16")) == before
