"""Dictionaries: sparse autoencoders and crosscoders, whose latents are to be the features that a network's units hold.

They read activations, not features: the task `Reconstruction` hands them those of any network, or of an `Embedding`.
How latents are kept sparse is an object of its own; another one is another class here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from toysup.checks import InputError, check_flag, check_interval, check_kind, check_whole
from toysup.models.base import (
    Activations,
    Initial,
    check_fits,
    check_sizes,
    constant,
    empty,
    unit_rows,
    zeros,
)


class Code(NamedTuple):
    """What a dictionary makes of activations; `cost` is what the penalty multiplies, sample by sample.

    Columns of `decoder` are what one unit of each latent adds to the reconstruction.
    """

    reconstruction: Float[Tensor, "batch unit"]
    latents: Float[Tensor, "batch latent"]
    cost: Float[Tensor, " batch"]
    decoder: Float[Tensor, "unit latent"]


class Sparsity(ABC):
    """From what the encoder reads to latents, on where they are not 0, and their cost.

    Latents of the kinds here are never below 0; your own may be. `norm` is |D_j|, the norm of each latent's decoder
    column, so that norm times latent is what it adds, whatever way the scale is shared between encoder and decoder. A
    sparsity with a `threshold` learns one for each latent, starting there.
    """

    threshold: ClassVar[float | None] = None

    def check(self, latents: int) -> None:  # noqa: B027 (most can use any number)
        """Refuse a number of latents that this sparsity cannot use, with an InputError."""

    @abstractmethod
    def __call__(
        self, read: Float[Tensor, "batch latent"], norm: Float[Tensor, " latent"], threshold: Tensor | None
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, " batch"]]:
        """(latents, cost)."""


@dataclass(frozen=True)
class L1(Sparsity):
    """z = ReLU(read) at the cost of sum_j z_j |D_j| (Bricken et al. 2023, "Towards Monosemanticity"; weighted by norms
    as in Conerly et al. 2024, "Update on how we train SAEs")."""

    def __call__(self, read: Tensor, norm: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
        latents = torch.relu(read)
        return latents, (latents * norm).sum(-1)


@dataclass(frozen=True)
class TopK(Sparsity):
    """The k latents that add most, of those that read more than 0; no cost (Gao et al. 2024, "Scaling and evaluating
    sparse autoencoders", eq. 2, without their auxiliary loss for dead latents). Never more than k: of those that add
    the same some are taken."""

    k: int = 1

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, "k", self.k)

    def check(self, latents: int) -> None:
        if self.k > latents:
            raise InputError(f"{type(self).__name__}: k must be at most {latents} latents, got {self.k}")

    def __call__(self, read: Tensor, norm: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
        latents = torch.relu(read)
        kept = torch.where(self.most((latents * norm).detach()), latents, 0.0)
        return kept, torch.zeros_like(kept[..., 0])

    def most(self, adds: Tensor) -> Bool[Tensor, "batch latent"]:
        """Which latents are kept, by what each adds."""
        return _largest(adds, self.k)


@dataclass(frozen=True)
class BatchTopK(TopK):
    """k latents for each sample on average: those that add most in the whole batch (Bussmann et al. 2024, "BatchTopK
    sparse autoencoders"), never more, also where samples are alike. Where it is measured the batch is the held-out one,
    in place of a threshold kept in training.
    """

    def most(self, adds: Tensor) -> Bool[Tensor, "batch latent"]:
        return _largest(adds.flatten(), self.k * adds.shape[:-1].numel()).view(adds.shape)


def _largest(values: Tensor, k: int) -> Bool[Tensor, "*stack"]:
    """Which are the k largest along the last axis: exactly k, whatever ties."""
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, values.topk(k, dim=-1).indices, True)


@dataclass(frozen=True)
class JumpReLU(Sparsity):
    """z = read where it exceeds the latent's own threshold t, else 0, at the cost of the number of latents on
    (Rajamanoharan et al. 2024, "Jumping ahead", eqs. 6 and 9).

    Neither has a gradient with respect to t; the published estimators are used (their eqs. 11 and 12): dz/dt = -(t / b)
    K((read - t) / b) and dH/dt = -(1 / b) K((read - t) / b), K = 1 on (-1/2, 1/2).

    Args:
        threshold: where t starts. bandwidth: b; some readings must fall this close to the threshold for it to move.
    """

    threshold: float = 0.05
    bandwidth: float = 0.1

    def __post_init__(self) -> None:
        check_interval("JumpReLU", "threshold", self.threshold, 0, open_low=True, one=True)
        check_interval("JumpReLU", "bandwidth", self.bandwidth, 0, open_low=True, one=True)

    def __call__(self, read: Tensor, norm: Tensor, threshold: Tensor | None) -> tuple[Tensor, Tensor]:
        on = (read > threshold).to(read.dtype)
        ramp = ((read.detach() - threshold) / self.bandwidth + 0.5).clamp(0, 1)
        moves = ramp - ramp.detach()  # 0, with the gradient of the estimator
        return read * on + threshold.detach() * moves, (on + moves).sum(-1)


class SparseAutoencoder(nn.Module):
    """h' = D z + b_dec with sparse z = sparsity((h - b_dec) W_enc + b_enc); a crosscoder where h is several layers.

    The units of a crosscoder's layers stand one after another, and with them the rows of D: one set of latents reads
    all layers and writes to all, and |D_j| is the sum over layers of the norms (Lindsey et al. 2024, "Sparse
    crosscoders", eqs. 1 and 2). Encoder and decoder start equal (Gao et al. 2024), with columns that are random unit
    vectors, all biases at 0.

    Args:
        latents: how many, H. layers: number of equal parts that h consists of.
        sparsity: `L1()`, `TopK(k)`, `BatchTopK(k)`, `JumpReLU(threshold, bandwidth)`, or your own `Sparsity`.
        unit_norm: columns of D are W_dec's divided by their norms; otherwise W_dec's own, and what latents cost or how
            they rank is weighted by the norms. centred: whether there is a b_dec.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        latents: int,
        sparsity: Sparsity = L1(),
        layers: int = 1,
        unit_norm: bool = True,
        centred: bool = True,
    ) -> None:
        super().__init__()
        where = "SparseAutoencoder"
        check_sizes(where, n_in, n_out)
        latents, layers = check_whole(where, "latents", latents), check_whole(where, "layers", layers)
        check_flag(where, "unit_norm", unit_norm)
        check_flag(where, "centred", centred)
        check_fits(where, 2 * latents * n_in, latents=latents)
        if n_in != n_out or n_in % layers:
            raise InputError(
                f"SparseAutoencoder: expected equal inputs and outputs in {layers} layers, got {n_in} and {n_out}"
            )
        check_kind(where, "sparsity", sparsity, Sparsity)
        sparsity.check(latents)
        self.W_enc, self.W_dec = empty(n_in, latents), empty(n_in, latents)
        self.b_enc, self.b_dec = empty(latents), empty(n_in) if centred else None
        self.log_threshold = None if sparsity.threshold is None else empty(latents)
        self.sparsity, self.layers, self.unit_norm = sparsity, layers, unit_norm

    def initial(self) -> Initial:
        values: Initial = {"W_enc": unit_columns, "W_dec": "W_enc", "b_enc": zeros}
        if self.b_dec is not None:
            values["b_dec"] = zeros
        if self.log_threshold is not None:
            values["log_threshold"] = constant(math.log(self.sparsity.threshold))
        return values

    def forward(self, h: Float[Tensor, "batch unit"], record: bool = False):
        """The `Code`; recorded: the latents as neurons, what was read as residual."""
        decoder = nn.functional.normalize(self.W_dec, dim=0) if self.unit_norm else self.W_dec
        if self.unit_norm and self.layers == 1:
            norm = torch.ones_like(self.b_enc)
        else:
            norm = decoder.unflatten(0, (self.layers, -1)).norm(dim=1).sum(0)
        read = (h if self.b_dec is None else h - self.b_dec) @ self.W_enc + self.b_enc
        threshold = None if self.log_threshold is None else self.log_threshold.exp()
        latents, cost = self.sparsity(read, norm, threshold)
        again = latents @ decoder.T
        code = Code(again if self.b_dec is None else again + self.b_dec, latents, cost, decoder)
        return (code, Activations(latents.unsqueeze(-2), h.unsqueeze(-2))) if record else code


class Embedding(nn.Module):
    """h = x W, W of shape (n_features, width), never trained: features along fixed directions and nothing else.

    Rows are random unit vectors, or `orthonormal` ones in a random orientation, which needs width >= n_features.
    """

    def __init__(self, n_in: int, n_out: int, *, width: int, orthonormal: bool = False) -> None:
        super().__init__()
        check_sizes("Embedding", n_in, n_out)
        width = check_whole("Embedding", "width", width)
        check_flag("Embedding", "orthonormal", orthonormal)
        check_fits("Embedding", width * n_in, width=width)
        if orthonormal and width < n_in:
            raise InputError(f"Embedding: {n_in} orthonormal directions need a width of at least {n_in}, got {width}")
        self.register_buffer("W", torch.zeros(n_in, width))
        self.orthonormal = orthonormal

    def initial(self) -> Initial:
        return {"W": orthonormal_rows if self.orthonormal else unit_rows()}

    def forward(self, x: Float[Tensor, "batch feature"], record: bool = False):
        h = x @ self.W
        return (h, Activations(h.unsqueeze(-2), h.unsqueeze(-2))) if record else h


def unit_columns(uniforms: Tensor) -> Tensor:
    """Initial columns uniform on the unit sphere."""
    return nn.functional.normalize(torch.special.ndtri(uniforms), dim=-2)


def orthonormal_rows(uniforms: Float[Tensor, "*stack row column"]) -> Tensor:
    """Initial rows orthonormal, uniform over all such (QR of a normal matrix, its signs fixed; Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.special.ndtri(uniforms).mT)
    return (q * torch.sign(r.diagonal(dim1=-2, dim2=-1)).unsqueeze(-2)).mT.contiguous()
