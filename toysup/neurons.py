"""What single neurons do: how many features each serves, and how they share features ("Computation in superposition"
and "Superposition in a privileged basis" of Elhage et al. 2022).

Everything is a pure function of weights W_in (feature, neuron) and W_out (neuron, feature) of one hidden ReLU layer
without bias, stacked as you like, and does not change when a neuron's input weights are multiplied by a positive number
and its output weights divided by it. A tied autoencoder of non-negative inputs has W_in = W.clamp(min=0), W_out = W^T:
its other entries never fire a neuron by themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toysup.checks import InputError, check_interval

__all__ = [
    "Motifs",
    "alignment",
    "asymmetric_motifs",
    "closed_sides",
    "drawn",
    "effective_features",
    "relabelled",
    "rotated",
    "served",
    "slopes",
]

SILENT = 0.01  # largest slope up to which a neuron is dead: a hundredth of one side of |x|


def _check(where: str, W_in: Tensor, W_out: Tensor) -> None:
    if W_in.ndim < 2 or W_in.shape != W_out.mT.shape:
        raise InputError(
            f"{where}: W_in must be (feature, neuron) and W_out (neuron, feature), "
            f"got {tuple(W_in.shape)} and {tuple(W_out.shape)}"
        )


def slopes(
    W_in: Float[Tensor, "*stack feature neuron"], W_out: Float[Tensor, "*stack neuron feature"]
) -> Float[Tensor, "*stack feature neuron"]:
    """|W_in[i, k]| W_out[k, i]: what neuron k adds to output i for each unit of feature i alone, on the side (x_i > 0
    or x_i < 0) on which it fires. |x_i| is exact where both sides' slopes sum to 1 (and the bias is 0)."""
    _check("slopes", W_in, W_out)
    return W_in.abs() * W_out.mT


def _of_largest(
    weight: Float[Tensor, "*stack feature neuron"], slope: Float[Tensor, "*stack feature neuron"], threshold: float
) -> Bool[Tensor, "*stack feature neuron"]:
    check_interval("neurons", "threshold", threshold, 0, 1, open_low=True, open_high=True)
    alive = slope.amax(-2, keepdim=True) > SILENT
    return (weight > threshold * weight.amax(-2, keepdim=True)) & alive


def served(
    W_in: Float[Tensor, "*stack feature neuron"], W_out: Float[Tensor, "*stack neuron feature"], threshold: float = 0.1
) -> Bool[Tensor, "*stack feature neuron"]:
    """Whether neuron k serves feature i: its slope is above `threshold` times the neuron's largest.

    A neuron whose largest slope is at most SILENT is dead and serves none.
    """
    slope = slopes(W_in, W_out).clamp(min=0)
    return _of_largest(slope, slope, threshold)


def drawn(
    W_in: Float[Tensor, "*stack feature neuron"], W_out: Float[Tensor, "*stack neuron feature"], threshold: float = 0.1
) -> Bool[Tensor, "*stack feature neuron"]:
    """The rule by the paper's picture, a stack of |W_in[:, k]| for each neuron, scaled so that the largest is 1:
    whether rectangle i is higher than `threshold`. Dead neurons as in `served`. Features that merely inhibit count."""
    return _of_largest(W_in.abs(), slopes(W_in, W_out), threshold)


def effective_features(
    W_in: Float[Tensor, "*stack feature neuron"], W_out: Float[Tensor, "*stack neuron feature"]
) -> Float[Tensor, "*stack neuron"]:
    """(sum_i s_i)^2 / sum_i s_i^2 over the neuron's positive slopes: how many features it serves, without a threshold;
    0 where it is dead."""
    slope = slopes(W_in, W_out).clamp(min=0)
    count = slope.sum(-2).square() / slope.square().sum(-2).clamp(min=torch.finfo(slope.dtype).tiny)
    return torch.where(slope.amax(-2) <= SILENT, 0.0, count)  # NaN stays NaN


def closed_sides(
    W_in: Float[Tensor, "*stack feature neuron"],
    W_out: Float[Tensor, "*stack neuron feature"],
    bias: Float[Tensor, "*stack feature"],
    floor: float = 0.1,
) -> Int[Tensor, "*stack feature"]:
    """How many of the two sides of each feature never answer: y_i at x = e_i, and at x = -e_i, below `floor`, not 1.

    A side whose output ReLU is off there has no gradient from inputs where the feature is alone.
    """
    slope, positive = slopes(W_in, W_out), W_in > 0
    up, down = ((slope * side).sum(-1) + bias for side in (positive, ~positive))
    return (up < floor).long() + (down < floor).long()


class Motifs(NamedTuple):
    """Pairs of features that share a neuron: (*stack,) counts of (neuron, i, j).

    `shared`: unordered pairs that the neuron serves both. `asymmetric`: of those, stored with unequal magnitudes and
    reciprocal output weights. `inhibited`: of those, the pairs with another neuron that inhibits: the whole motif.
    `by_chance`: how many of those would be expected if each neuron fired on a random side of its features: a null that
    keeps what neurons serve and inhibit, but not that they agree on where.
    """

    shared: Int[Tensor, "*stack"]
    asymmetric: Int[Tensor, "*stack"]
    inhibited: Int[Tensor, "*stack"]
    by_chance: Float[Tensor, "*stack"]


def asymmetric_motifs(
    W_in: Float[Tensor, "*stack feature neuron"],
    W_out: Float[Tensor, "*stack neuron feature"],
    *,
    ratio: float = 2.0,
    threshold: float = 0.1,
) -> Motifs:
    """Asymmetric superposition with inhibition, counted (Elhage et al. 2022, "The asymmetric superposition motif").

    Neuron k and features i, j make an asymmetric pair if it serves both (`served`) and

        |W_in[i, k]| >= ratio |W_in[j, k]|   and   W_out[k, j] >= ratio W_out[k, i]

    (the paper's example is W_in = [2, -1/2], W_out = [1/2, 2]: ratio 4). Feature i then interferes with j by
    |W_in[i, k]| W_out[k, j], and j hardly with i. Another neuron l can inhibit if -|W_in[i, l]| W_out[l, j] is at least
    that, which turns positive interference into negative, where the output's ReLU hides it; and it does so if it fires
    on the same side of i, W_in[i, l] having the sign of W_in[i, k]. With c neurons that can, a random side for each
    gives 1 - 2^-c by chance.

    Args:
        ratio: > 1.
    """
    check_interval("asymmetric_motifs", "ratio", ratio, 1, open_low=True)
    serves = served(W_in, W_out, threshold)
    stack, (n, m) = W_in.shape[:-2], W_in.shape[-2:]
    counts = []
    for own, a, b in zip(*(w.reshape(-1, n, m) for w in (serves, W_in, W_out.mT)), strict=True):
        both = own[:, None] & own[None] & ~torch.eye(n, dtype=torch.bool)[..., None]
        unequal = (a.abs()[:, None] >= ratio * a.abs()[None]) & (b[None] >= ratio * b[:, None])
        i, j, k = (both & unequal).nonzero().unbind(-1)
        interference = (a[i, k].abs() * b[j, k]).unsqueeze(-1)
        can = -a[i].abs() * b[j] >= interference  # (pair, neuron); never k itself, whose b[j, k] is positive
        does = can & (a[i] * a[i, k].unsqueeze(-1) > 0)
        chance = (1 - 0.5 ** can.sum(-1).double()).sum()
        counts.append(torch.stack([both.sum() / 2, torch.tensor(len(i)), does.any(-1).sum(), chance]))
    found = torch.stack(counts).reshape(*stack, 4)
    return Motifs(*found[..., :3].long().unbind(-1), found[..., 3])


def relabelled(
    W_in: Float[Tensor, "*stack feature neuron"],
    W_out: Float[Tensor, "*stack neuron feature"],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """A null: each neuron's features renamed by a permutation of its own, the same at input and output. What neurons
    are like stays, but not which of them meet at a feature."""
    _check("relabelled", W_in, W_out)
    order = torch.rand(W_in.shape, generator=generator).argsort(-2)
    return W_in.gather(-2, order), W_out.mT.gather(-2, order).mT


def alignment(W: Float[Tensor, "*stack feature neuron"], represented: float = 0.5) -> Float[Tensor, "*stack"]:
    """max_k |W_ik| / |W_i|, averaged over features with |W_i| > `represented`: 1 where each feature lies on a neuron,
    1 / sqrt(m) at least; NaN where no feature is represented."""
    length = W.norm(dim=-1)
    counted = length > represented
    share = W.abs().amax(-1) / length.clamp(min=torch.finfo(W.dtype).tiny)
    return (share * counted).sum(-1) / counted.sum(-1)


def rotated(W: Float[Tensor, "*stack feature neuron"], generator: torch.Generator) -> Tensor:
    """A null: hidden space turned by an orthogonal matrix, drawn uniformly (Haar) for each network."""
    m = W.shape[-1]
    q, r = torch.linalg.qr(torch.randn(*W.shape[:-2], m, m, generator=generator, dtype=W.dtype))
    return W @ (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2))
