"""torch's CPU noise without torch, so that a seed means here what it means elsewhere."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_BLOCK = 16  # torch turns uniform numbers into normal ones in blocks of this size


class Generator:
    """The stream of normal numbers of ``torch.Generator("cpu").manual_seed(seed)``.

    Equal to ``torch.randn`` to 5e-7, over consecutive draws, for every seed that torch accepts
    (−2^63 … 2^64−1; the Mersenne Twister beneath sees its low 32 bits).
    """

    def __init__(self, seed: int) -> None:
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def randn(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Draw the next normal numbers, float32 of ``shape``.

        Raises ValueError below 16 numbers, which torch draws another way and no latents ever have.
        """
        count = math.prod(shape)
        if count < _BLOCK:
            raise ValueError(f"noise of {count} numbers was asked for; the least is {_BLOCK}")
        whole, rest = divmod(count, _BLOCK)
        normal = _box_muller(self._uniform(count)[: whole * _BLOCK])
        if rest:  # torch fills the last sixteen numbers anew, over the end of the block before
            normal = np.concatenate([normal[: count - _BLOCK], _box_muller(self._uniform(_BLOCK))])
        return normal.reshape(shape)

    def _uniform(self, count: int) -> npt.NDArray[np.float32]:
        """``count`` numbers of [0, 1) with 24 random bits each."""
        words: npt.NDArray[np.uint32] = self._twister.randint(0, 2**32, count, dtype=np.uint32)
        return (words & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)


def _box_muller(uniform: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Uniform numbers to normal ones: in each block, eight radii and eight angles give sixteen."""
    blocks = uniform.reshape(-1, _BLOCK)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, :8]))
    angle = np.float32(2 * np.pi) * blocks[:, 8:]
    return np.hstack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(-1)
