"""A linear code with what it encodes, and the score of a decoder of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toysup.checks import check_whole
from toysup.evidence import BATCH, GROUPS, Estimate, Evidence, over_groups, positive_sum
from toysup.models import unit_rows
from toysup.random import Stream, uniforms
from toysup.safely import one_thread

__all__ = ["Decoder", "Encoding", "decoded", "decoded_count"]

Decoder = Callable[["Encoding", Tensor], Tensor]


@dataclass(frozen=True)
class Encoding:
    """A linear code and what it encodes: h = x W. `measure.encoding_of` has that of trained networks.

    `W` is (instance, feature, width); `mean`, `variance` and `density` are the features' own, (instance, feature).
    `draw(number, size, stream)` is x of batch `number` of a stream, (instance, size, feature); batches of the training
    stream from `unused` on were seen by nobody. `seeds`: of `random`, one for each instance.
    """

    W: Float[Tensor, "instance feature width"]
    mean: Float[Tensor, "instance feature"]
    variance: Float[Tensor, "instance feature"]
    density: Float[Tensor, "instance feature"]
    draw: Callable[[int, int, Stream], Tensor]
    unused: int
    seeds: Int[np.ndarray, " instance"]
    fits: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)  # what decoders fitted to this code

    def random(self) -> Encoding:
        """Unit rows in random directions, of the same shape, each instance's from its own seed: a dictionary that
        was not learned. The draw is that of `initial_values` at a place no parameter has."""
        count, n, width = self.W.shape
        draws = uniforms(self.seeds, 2**20, n * width, 1, stream=Stream.INIT)
        return replace(self, W=unit_rows()(draws.reshape(count, n, width)))


def decoded(encoding: Encoding, decoder: Decoder, *, samples: int = 4 * BATCH) -> Estimate:
    """R^2 of each feature, (instance, feature), and its standard error, from `samples` held-out draws of each instance.

    R^2_i = 1 - E (x_i - x'_i)^2 / Var x_i, as `r_squared`; NaN for features of which the draws show too little.
    """
    shares, known = _shares("decoded", encoding, decoder, samples)
    return over_groups(torch.where(known, shares, torch.nan))


def decoded_count(encoding: Encoding, decoder: Decoder, *, samples: int = 4 * BATCH) -> Estimate:
    """F_eff = sum_i max(0, R^2_i) of a decoder, (instance,), as `recovered` counts a network's own (`positive_sum`)."""
    return positive_sum(*_shares("decoded_count", encoding, decoder, samples))


def _shares(
    where: str, encoding: Encoding, decoder: Decoder, samples: int
) -> tuple[Float[Tensor, "group instance feature"], Bool[Tensor, "instance feature"]]:
    """R^2 by group, and of which features the draws show enough."""
    check_whole(where, "samples", samples, GROUPS)
    size = -(-samples // GROUPS)
    groups, evidence = [], Evidence()
    with torch.no_grad(), one_thread():
        for number in range(GROUPS):
            x = encoding.draw(number, size, Stream.HELD_OUT)
            evidence.add(x)
            guess = decoder(encoding, x @ encoding.W)
            groups.append(1 - (x - guess).square().mean(1) / encoding.variance)
    return torch.stack(groups), evidence.known() & (encoding.variance > 0)
