"""The codebook: cells of a feature map as a few bytes, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from heatv2x.errors import ConfigError, MessageError
from heatv2x.link.message import pack, unpack
from heatv2x.model.codebook import Codebook, CodebookConfig
from heatv2x.model.collaboration import Collaboration
from heatv2x.model.variants import reading
from tests.scene_factory import GRID, SmallScenes, small_model

SMALL = CodebookConfig(stages=3, entries=16)


def rows(count: int = 400, channels: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.fixture
def book() -> Codebook:
    book = Codebook(SMALL, 6)
    book.fit(rows(), 0)
    return book


def maps(seed: int = 1) -> Tensor:
    return rows(2 * 4 * 5, seed=seed).view(2, 4, 5, 6).permute(0, 3, 1, 2).contiguous()


def test_codes_are_whole_numbers_from_one_on(book: Codebook) -> None:
    codes = book.encode(maps())
    assert codes.shape == (2, 3, 4, 5) and torch.equal(codes, codes.round())
    assert codes.min() >= 1 and codes.max() <= 16


def test_every_stage_brings_the_feature_nearer(book: Codebook) -> None:
    errors = [float((maps() - Codebook.decode(book, book.encode(maps()))).square().mean())]
    for stages in (2, 1):
        shorter = Codebook(CodebookConfig(stages=stages, entries=16), 6)
        shorter.tables.copy_(book.tables[:stages])
        errors.append(float((maps() - shorter.decode(shorter.encode(maps()))).square().mean()))
    assert errors[0] < errors[1] < errors[2] < float(maps().square().mean())


def test_a_sum_of_its_vectors_is_kept(book: Codebook) -> None:
    """Of well separated vectors at least, where the nearest is the right one."""
    apart = Codebook(CodebookConfig(stages=2, entries=4), 4)
    apart.tables[0] = 100 * torch.eye(4)
    apart.tables[1] = torch.eye(4)
    wanted = torch.randint(1, 5, (1, 2, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(apart.encode(apart.decode(wanted)), wanted)


def test_cells_that_were_not_sent_are_empty(book: Codebook) -> None:
    codes = book.encode(maps())
    codes[:, :, 1, 2] = 0
    found = book.decode(codes)
    assert not found[:, :, 1, 2].any() and torch.equal(found[:, :, 0], book.quantise(maps())[:, :, 0])


def test_gradients_pass_straight_through(book: Codebook) -> None:
    x = maps().requires_grad_()
    book.quantise(x).mul(torch.arange(x.numel()).view_as(x)).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.arange(x.numel()).view_as(x).float())


def test_a_fit_depends_on_the_seed_alone() -> None:
    books = [Codebook(SMALL, 6) for _ in range(3)]
    for book, seed in zip(books, (0, 0, 1), strict=True):
        book.fit(rows(), seed)
    assert torch.equal(books[0].tables, books[1].tables) and not torch.equal(books[0].tables, books[2].tables)


def test_too_few_cells_are_an_error() -> None:
    with pytest.raises(ConfigError, match="15 cells are too few"):
        Codebook(SMALL, 6).fit(rows(15), 0)


class TestOnTheLink:
    @staticmethod
    def model(budget_bytes: int | None = None) -> Collaboration:
        model = reading(small_model(), None, SMALL, budget_bytes)
        assert model.codebook is not None
        model.codebook.fit(torch.randn(400, 16, generator=torch.Generator().manual_seed(0)), 0)
        return model

    def test_codes_travel_and_the_feature_arrives(self) -> None:
        model, frame = self.model(), SmallScenes(frames=1).read(0, ("lidar64",))
        message = model.encode(frame.agents[1], "lidar64")
        data = pack(message)
        plain = replace(message, codes=None, codec="int8")
        assert model.codec == "codes" and len(data) < len(pack(plain))
        arrived = unpack(data, model.feature_space)
        assert arrived.feature is None and arrived.codes is not None and arrived.codec == "codes"
        assert message.feature is not None and model.codebook is not None
        assert torch.equal(model.feature_of(arrived), model.codebook.quantise(message.feature[None])[0])
        assert torch.equal(model.feature_of(message), message.feature), "an ego's own is not quantised"

    def test_training_sees_what_arrives(self) -> None:
        model, frame = self.model(), SmallScenes(frames=1).read(0, ("lidar64",))
        message = model.encode(frame.agents[1], "lidar64")
        assert message.feature is not None
        cells = torch.zeros(GRID.shape, dtype=torch.bool)
        cells[3:9, 2:5] = True
        arrived = unpack(pack(replace(message, cells=cells)))
        assert torch.equal(model.feature_of(arrived), model.quantise(message.feature[None], cells[None])[0])

    def test_another_base_cannot_read_codes(self) -> None:
        frame = SmallScenes(frames=1).read(0, ("lidar64",))
        message = unpack(pack(self.model().encode(frame.agents[1], "lidar64")))
        with pytest.raises(MessageError, match="sent codes, but this base has no codebook"):
            small_model().feature_of(message)

    def test_a_code_beyond_the_table_reads_as_its_last_vector(self) -> None:
        model = self.model()
        assert model.codebook is not None
        codes = torch.full((1, 3, *GRID.shape), 255.0)
        assert torch.equal(model.codebook.decode(codes), model.codebook.decode(torch.full_like(codes, 16.0)))

    def test_codes_without_a_codebook_are_a_wrong_setting(self) -> None:
        with pytest.raises(ConfigError, match="codec=codes needs a codebook"):
            small_model().use_codec("codes")

    def test_a_budget_is_kept_and_used(self) -> None:
        frame = SmallScenes(frames=1).read(0, ("lidar64",))
        whole = len(pack(self.model().encode(frame.agents[1], "lidar64")))
        sizes = [len(pack(self.model(budget).encode(frame.agents[1], "lidar64"))) for budget in (1000, whole - 50)]
        assert sizes[0] <= 1000 and 0.9 * (whole - 50) < sizes[1] <= whole - 50
