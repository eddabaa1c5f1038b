"""The decoder of a linear code that knows the whole prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import ndtr

from toysup.checks import check_interval
from toysup.decoders.encoding import Encoding

__all__ = ["bayes_amp"]


def _posterior(y: Tensor, sigma: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x ~ Bernoulli(density) x U[0, 1] given y = x + sigma Z."""
    near, far = (torch.exp(-((v / sigma) ** 2) / 2) / (2 * torch.pi) ** 0.5 for v in (y, y - 1))
    side = torch.where(y < 0.5, 1.0, -1.0)  # tails are subtracted on the side where both are small
    zeroth = side * (ndtr(side * y / sigma) - ndtr(side * (y - 1) / sigma))
    first = y * zeroth + sigma * (near - far)
    second = (y**2 + sigma**2) * zeroth + sigma * (y * near - (y + 1) * far)
    evidence = density * zeroth + (1 - density) * near / sigma
    lost = evidence < 1e-30  # far outside [0, 1] the nearest value is all that is left
    mean = torch.where(lost, y.clamp(0, 1), density * first / evidence.clamp(min=1e-30)).clamp(0, 1)
    variance = torch.where(lost, sigma**2, density * second / evidence.clamp(min=1e-30) - mean**2)
    return mean, variance.clamp(min=0)


def bayes_amp(encoding: Encoding, h: Tensor, *, iterations: int = 60, damping: float = 0.2) -> Tensor:
    """Approximate message passing with the posterior mean of the true prior (Donoho, Maleki & Montanari 2009).

    x'_i is the posterior mean given x'_i + W_i . z / |W_i|^2 seen with noise tau / |W_i|^2, tau = |z|^2 / m; z is the
    residual with Onsager's term, damped. On large random dictionaries it follows state evolution down to
    `theory.bayes_amp_ratio`; on others it may not settle, so each sample keeps the iterate of its least residual.
    """
    check_interval("bayes_amp", "damping", damping, 0, 1, open_high=True)
    W, width = encoding.W.double(), encoding.W.shape[-1]
    h = h.double()
    squared = W.square().sum(-1).clamp(min=1e-8).unsqueeze(1)
    density = encoding.density.double().unsqueeze(1)
    x = encoding.mean.double().unsqueeze(1).expand(*h.shape[:-1], -1)
    z = h - x @ W
    best, least = x, z.square().sum(-1, keepdim=True)
    size = least.clamp(min=1e-30)
    for _ in range(iterations):
        tau = (z.square().sum(-1, keepdim=True) / width).clamp(min=1e-14)
        new, variance = _posterior(x + z @ W.mT / squared, (tau / squared).sqrt(), density)
        x = damping * x + (1 - damping) * new
        missed = h - x @ W
        z = damping * z + (1 - damping) * (missed + z * (squared * variance).sum(-1, keepdim=True) / (width * tau))
        z = torch.where(z.square().sum(-1, keepdim=True) < 1e4 * size, z, missed)  # where it runs away, start again
        left = missed.square().sum(-1, keepdim=True)
        best, least = torch.where(left < least, x, best), torch.minimum(left, least)
    return best.to(encoding.W.dtype)
