"""Noise from a seed is torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from triton_models.diffusion.noise import Generator

SEEDS = [0, 1, 42, 1234567890, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -1, -(2**63)]
SHAPES = [(1, 4, 32, 32), (1, 4, 64, 64), (4, 9, 9), (4, 8, 8), (16,), (17,), (31,), (33,), (4, 9, 11)]


@pytest.mark.parametrize("seed", SEEDS)
def test_consecutive_draws_equal_torch(seed: int) -> None:
    ours, theirs = Generator(seed), torch.Generator("cpu").manual_seed(seed)
    for shape in SHAPES * 2:
        expected = torch.randn(shape, generator=theirs).numpy()
        drawn = ours.randn(shape)
        assert drawn.dtype == np.float32
        assert drawn.shape == shape
        assert np.abs(drawn - expected).max() <= 5e-7


def test_many_seeds_equal_torch() -> None:
    for seed in range(500):
        expected = torch.randn((4, 16, 16), generator=torch.Generator("cpu").manual_seed(seed)).numpy()
        assert np.abs(Generator(seed).randn((4, 16, 16)) - expected).max() <= 5e-7


def test_the_low_32_bits_choose_the_stream() -> None:
    assert np.array_equal(Generator(7).randn((16,)), Generator(7 + 2**32).randn((16,)))
    assert not np.array_equal(Generator(7).randn((16,)), Generator(8).randn((16,)))


def test_too_few_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="noise of 15 numbers"):
        Generator(0).randn((15,))
