"""What models have in common: what they record, and rules for their values at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from toysup.checks import check_room, check_whole

# name of a parameter or buffer -> map from uniforms of its shape, or the name of another that it starts equal to
Initial = dict[str, Callable[[Tensor], Tensor] | str]


class Activations(NamedTuple):
    """What a model computes on the way: hidden neurons after their nonlinearity, and the stream that layers write to.

    `neurons` is (batch, layer, neuron). `residual` is (batch, stream, width): the embedded input, then the stream after
    each block; in models without a residual stream the same as `neurons`.
    """

    neurons: Float[Tensor, "batch layer neuron"]
    residual: Float[Tensor, "batch stream width"]


def normal(std: float) -> Callable[[Tensor], Tensor]:
    """Initial values N(0, std^2)."""
    return lambda uniforms: std * torch.special.ndtri(uniforms)


def unit_rows(scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Initial rows uniform on the sphere of radius `scale`."""
    return lambda uniforms: scale * nn.functional.normalize(torch.special.ndtri(uniforms), dim=-1)


def zeros(uniforms: Tensor) -> Tensor:
    """Initial values 0."""
    return torch.zeros_like(uniforms)


def ones(uniforms: Tensor) -> Tensor:
    """Initial values 1."""
    return torch.ones_like(uniforms)


def constant(value: float) -> Callable[[Tensor], Tensor]:
    """Initial values all the same."""
    return lambda uniforms: torch.full_like(uniforms, value)


def empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def check_sizes(where: str, n_in: int, n_out: int) -> None:
    """Refuse sizes of input and output that are not whole and positive."""
    check_whole(where, "n_in", n_in)
    check_whole(where, "n_out", n_out)


def check_fits(where: str, parameters: int, layers: int = 1, **sizes: int) -> None:
    """Refuse sizes whose parameters don't fit into memory, before any is made; a layer takes about 4 kB besides."""
    check_room(where, ", ".join(f"{name} = {size}" for name, size in sizes.items()), 4 * parameters + 4096 * layers)
