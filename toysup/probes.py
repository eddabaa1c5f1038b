"""Linear probes in closed form or nearly so, for whole stacks at once: ridge, a ReLU of it, and softmax for labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Moments", "ReluProbe", "fit_ridge", "fit_softmax", "predict_softmax"]

PENALTIES = tuple(10.0**k for k in range(-6, 2))  # of ridge, as a share of the units' mean variance
LOWEST, HIGHEST, BINS = -4.0, 12.0, 48  # of a readout, in its standard deviations; sparse ones reach far up


def fit_ridge(
    second: Float[Tensor, "*stack unit unit"],
    crossed: Float[Tensor, "*stack unit target"],
    variance: Float[Tensor, "*stack target"],
    samples: int,
    penalties: Sequence[float] = PENALTIES,
) -> Float[Tensor, "*stack unit target"]:
    """Ridge weights from centred moments, each target's penalty chosen by generalised cross-validation.

    w = (C_xx + k I)^-1 c_xy; GCV(k) = MSE(k) / (1 - (1 + df(k)) / n)^2, df = tr C_xx (C_xx + k I)^-1, and 1
    for the mean (Golub, Heath and Wahba 1979, Technometrics 21:215). k = penalty times the mean variance of the units.

    Args:
        second, crossed, variance: C_xx, c_xy and Var y, means over `samples`.
    """
    values, vectors = torch.linalg.eigh(second)
    values = values.clamp(min=0)
    along = vectors.mT @ crossed  # unit target
    best = torch.full_like(variance, torch.inf)
    weights = torch.zeros_like(crossed)
    scale = values.mean(-1).clamp(min=torch.finfo(values.dtype).tiny)
    for penalty in penalties:
        k = (penalty * scale)[..., None]
        error = variance - (along.square() * ((values + 2 * k) / (values + k).square()).unsqueeze(-1)).sum(-2)
        freedom = 1 + (values / (values + k)).sum(-1, keepdim=True)
        found = error / (1 - freedom / samples).clamp(min=1e-6).square()
        better = found < best
        fitted = vectors @ (along / (values + k).unsqueeze(-1))
        weights = torch.where(better.unsqueeze(-2), fitted, weights)
        best = torch.where(better, found, best)
    return weights


class Moments:
    """Sums for a ridge fit of one set of layers."""

    def __init__(self) -> None:
        self.n, self.sums = 0, None

    def add(self, x: Tensor, y: Tensor) -> None:
        new = [x.sum(1), y.sum(1), x.mT @ x, x.mT @ y, y.square().sum(1)]
        new = [one.double() for one in new]
        self.sums = new if self.sums is None else [a + b for a, b in zip(self.sums, new, strict=True)]
        self.n += x.shape[1]

    def fit(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(weights, mean x, mean y, standard deviation of the readout)."""
        x, y, xx, xy, yy = (one / self.n for one in self.sums)
        second = xx - x.unsqueeze(-1) * x.unsqueeze(-2)
        crossed = xy - x.unsqueeze(-1) * y.unsqueeze(-2)
        weights = fit_ridge(second, crossed, (yy - y * y).clamp(min=0), self.n)
        spread = (weights * (second @ weights)).sum(-2).clamp(min=0).sqrt()
        return tuple(one.float() for one in (weights, x, y, spread))


class ReluProbe:
    """A linear readout and, where `curved`, a ReLU of it."""

    def __init__(self, moments: Moments, curved: bool) -> None:
        self.weights, self.x, self.y, spread = moments.fit()
        self.spread, self.hinge = spread.clamp(min=1e-12).unsqueeze(1), None
        if curved:
            self.seen = self.y.new_zeros(2, *self.y.shape, BINS)  # samples and sums of the target by bin of the readout

    def _readout(self, x: Tensor) -> Float[Tensor, "instance batch target"]:
        """In its own standard deviations."""
        return ((x - self.x.unsqueeze(1)) @ self.weights / self.spread).clamp(LOWEST, HIGHEST)

    def calibrate(self, x: Tensor, y: Tensor) -> None:
        bins = ((self._readout(x) - LOWEST) * (BINS / (HIGHEST - LOWEST))).clamp(max=BINS - 1).long().mT
        for sums, what in zip(self.seen, (torch.ones_like(y.mT), y.mT), strict=True):
            sums.scatter_add_(-1, bins, what)

    def settle(self) -> None:
        """Choose the threshold t among the edges of the bins, and the slope and level of the best a + b ReLU(z - t)."""
        edges = torch.linspace(LOWEST, HIGHEST, BINS + 1)
        above = ((edges[:-1] + edges[1:]) / 2 - edges[:-1, None]).clamp(min=0)  # threshold bin
        above, (samples, sums) = above.double(), self.seen.double()
        n = samples.sum(-1, keepdim=True)
        mean, level = samples @ above.mT / n, sums.sum(-1, keepdim=True) / n
        variance = samples @ above.square().mT / n - mean.square()
        covariance = (sums @ above.mT / n - mean * level).clamp(min=0)
        gain = torch.where(variance > 1e-9, covariance.square() / variance, 0.0)
        best = gain.argmax(-1, keepdim=True)
        mean, variance, covariance = (one.gather(-1, best) for one in (mean, variance, covariance))
        slope = covariance / variance.clamp(min=1e-9)
        self.hinge = tuple(one.float().mT for one in (edges[:-1][best], slope, level - slope * mean))

    def predict(self, x: Tensor) -> Float[Tensor, "instance batch target"]:
        if self.hinge is None:
            return (x - self.x.unsqueeze(1)) @ self.weights + self.y.unsqueeze(1)
        threshold, slope, level = self.hinge
        return level + slope * (self._readout(x) - threshold).clamp(min=0)


def _with_one(units: Tensor) -> Tensor:
    return torch.cat([units, torch.ones_like(units[..., :1])], -1)


def predict_softmax(
    coefficients: Float[Tensor, "*stack unit1 label"], units: Float[Tensor, "*stack sample unit"]
) -> Float[Tensor, "*stack sample label"]:
    """Log-probabilities of the labels; the last row of the coefficients is the intercept."""
    return torch.log_softmax(_with_one(units) @ coefficients, -1)


def fit_softmax(
    units: Float[Tensor, "*stack sample unit"],
    labels: Int[Tensor, "*stack sample"],
    n_labels: int,
    penalty: float,
    weight: Float[Tensor, "*stack sample"] | None = None,
    iterations: int = 12,
    tolerance: float = 1e-5,
) -> Float[Tensor, "*stack unit1 label"]:
    """Multinomial logistic regression, min mean cross-entropy + penalty / 2 |W|^2; the intercept is (all but) free.

    Newton steps, halved until they descend: `iterations` at most, until no gradient exceeds `tolerance`. `weight` >= 0
    counts samples; the problems of a stack are fitted independently.
    """
    x = _with_one(units)
    n, wide = n_labels, x.shape[-1]
    share = torch.ones_like(x[..., 0]) if weight is None else weight
    share = share / share.sum(-1, keepdim=True)
    hot = torch.nn.functional.one_hot(labels, n).to(x.dtype)
    decay = torch.full((wide, 1), penalty, dtype=x.dtype)
    decay[-1] = 1e-6  # settles the constant that all intercepts share
    B = x.new_zeros(*x.shape[:-2], wide, n)

    def objective(B: Tensor) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(x @ B, -1)
        loss = -(share * (hot * logs).sum(-1)).sum(-1)
        return loss + (decay * B.square()).sum((-2, -1)) / 2, logs

    loss, logs = objective(B)
    for _ in range(iterations):
        p = logs.exp()
        gradient = x.mT @ (share.unsqueeze(-1) * (p - hot)) + decay * B
        if gradient.abs().max() < tolerance:
            break
        hessian = x.new_zeros(*B.shape[:-2], n, wide, n, wide)
        for a in range(n):
            for b in range(a, n):
                curvature = share * p[..., a] * (float(a == b) - p[..., b])
                block = x.mT @ (curvature.unsqueeze(-1) * x)
                hessian[..., a, :, b, :] = block
                hessian[..., b, :, a, :] = block
        hessian = hessian.flatten(-4, -3).flatten(-2) + torch.diag(decay.repeat(n, 1)[:, 0])
        step = torch.linalg.solve(hessian, gradient.mT.flatten(-2)).unflatten(-1, (n, wide)).mT
        size = x.new_ones(*loss.shape)
        for _ in range(6):
            moved, _ = objective(B - size[..., None, None] * step)
            worse = ~(moved <= loss)
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        size = torch.where(worse, 0.0, size)
        B = B - size[..., None, None] * step
        loss, logs = objective(B)
    return B
