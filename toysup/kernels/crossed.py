"""Products of batches over their samples: what gradients of small matrices are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.jit import njit
from toysup.kernels import residual, tiles
from toysup.kernels.residual import _crossed
from toysup.simd import source_of

__all__ = ["crossed"]


def _make(source: str) -> Callable[..., None]:
    @njit(nogil=True)
    def kernel(out, a, x, instances, rows, columns, samples):
        """a, x: where they start, in numbers after `out`, from which all is counted."""
        source  # noqa: B018
        for j in range(out.size):
            out[j] = 0
        for i in range(instances):
            at = i * rows * columns
            _crossed(
                out, at, columns, a + i * rows * samples, x + i * columns * samples, rows, columns, samples, samples
            )

    return kernel


_kernel = _make(source_of(__name__, residual.__name__, tiles.__name__))


def crossed(a: Float[Tensor, "instance row sample"], x: Float[Tensor, "instance column sample"]) -> Tensor:
    """sum_s a[i, r, s] x[i, c, s], (instance, row, column): contiguous float32 on the CPU, samples a multiple of 16."""
    (instances, rows, samples), columns = a.shape, x.shape[1]
    out = torch.empty(instances, rows, columns)
    places = ((own.data_ptr() - out.data_ptr()) // out.element_size() for own in (a, x))
    _kernel(out.numpy().reshape(-1), *places, instances, rows, columns, samples)
    return out
