"""The best affine decoder of a linear code, and the best that one ReLU layer can do."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.decoders.encoding import Encoding
from toysup.random import Stream

__all__ = ["affine_relu", "linear_probe"]


def _filter(encoding: Encoding) -> tuple[Tensor, Tensor]:
    """(weights (instance, feature, width), offset (instance, feature)) of the best affine decoder, in closed form."""
    W, variance = encoding.W.double(), encoding.variance.double()
    weighted = variance.unsqueeze(-1) * W
    weights = weighted @ torch.linalg.pinv(W.mT @ weighted, hermitian=True)
    offset = encoding.mean.double() - torch.einsum("ifw,igw,ig->if", weights, W, encoding.mean.double())
    return weights.to(encoding.W.dtype), offset.to(encoding.W.dtype)


def linear_probe(
    encoding: Encoding, h: Float[Tensor, "instance batch width"]
) -> Float[Tensor, "instance batch feature"]:
    """The best affine decoder, from the features' exact moments (Wiener filter): no fit, so nothing is memorised.

    Its R^2 sum to the rank of W at most (`theory.pca_r2`).
    """
    weights, offset = _filter(encoding)
    return h @ weights.mT + offset.unsqueeze(-2)


def affine_relu(encoding: Encoding, h: Tensor, *, steps: int = 300, batch: int = 512, lr: float = 0.02) -> Tensor:
    """relu(U h + b), U and b fitted: all that one layer can do with the code.

    Starts as the better of the matched filter W_i / |W_i|^2 and the best affine decoder, each with its best gain and
    threshold on a first batch, then Adam with a cosine schedule on fresh draws that neither training (steps beyond its
    end) nor the score uses. Fitted once for an encoding.
    """
    key = affine_relu, steps, batch, lr
    if key not in encoding.fits:
        encoding.fits[key] = _fit(encoding, steps, batch, lr)
    weights, offset = encoding.fits[key]
    return torch.relu(h @ weights.mT + offset.unsqueeze(-2))


def _fit(encoding: Encoding, steps: int, batch: int, lr: float) -> tuple[Tensor, Tensor]:
    def fresh(number: int, size: int) -> tuple[Tensor, Tensor]:
        x = encoding.draw(encoding.unused + number, size, Stream.TRAIN)
        return x, x @ encoding.W

    x, h = fresh(0, 4 * batch)
    matched = encoding.W / encoding.W.square().sum(-1, keepdim=True).clamp(min=1e-6)
    candidates = [_scaled(x, h, matched), _scaled(x, h, _filter(encoding)[0])]
    losses = torch.stack([loss for *_, loss in candidates])
    best = losses.argmin(0)
    weights = torch.where((best == 0).unsqueeze(-1), candidates[0][0], candidates[1][0]).clone()
    offset = torch.where(best == 0, candidates[0][1], candidates[1][1]).clone()
    with torch.enable_grad():
        parameters = [weights.requires_grad_(), offset.requires_grad_()]
        optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            x, h = fresh(1 + step, batch)
            guess = torch.relu(h @ weights.mT + offset.unsqueeze(-2))
            loss = ((guess - x).square().mean(1) / encoding.variance).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return weights.detach(), offset.detach()


def _scaled(x: Tensor, h: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and offsets with each feature's best gain and threshold among a few, and its loss."""
    z = h @ weights.mT
    spread, level = z.std(1), z.mean(1)
    best_loss = torch.full_like(level, torch.inf)
    gain, offset = torch.ones_like(level), torch.zeros_like(level)
    for shift in torch.linspace(-1, 4, 26):
        threshold = level + shift * spread
        on = torch.relu(z - threshold.unsqueeze(1))
        a = ((on * x).sum(1) / on.square().sum(1).clamp(min=1e-12)).clamp(min=0)
        loss = (a.unsqueeze(1) * on - x).square().mean(1)
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        gain, offset = torch.where(better, a, gain), torch.where(better, -a * threshold, offset)
    return gain.unsqueeze(-1) * weights, offset, best_loss
