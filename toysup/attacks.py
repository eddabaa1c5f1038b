"""The largest squared error of a ReLU layer over a ball of perturbations.

Inside a linear region of the layer the loss is a convex quadratic, whose maximum over a ball is found exactly
(`ball_maximum`). Which region is best is combinatorial, so ascents of several kinds compete, each a lower bound.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Ascent", "ball_maximum", "unit"]

STEPS, ROUNDS = 60, 20
NEWTON = 12  # steps, quadratic from the first few on
PARTS = (1.0, 0.5, 0.25, 0.1, 0.03)  # of the way to a region's maximum


@dataclass(frozen=True)
class Ascent:
    """Maximise |relu(offset + slope v) - target - drift v|^2 over |v| <= radius, for every sample of every instance.

    v (instance, sample, dimension) are coordinates of the perturbation. Without `relu` the network is linear; without
    `drift` the target stays where it is.
    """

    slope: Float[Tensor, "instance out dimension"]
    offset: Float[Tensor, "instance sample out"]
    target: Float[Tensor, "instance sample out"]
    radius: Float[Tensor, " instance"]
    drift: Float[Tensor, "instance out dimension"] | None = None
    relu: bool = True

    def _residual(self, answer: Tensor, drifted: Tensor | float) -> Tensor:
        answer = self.offset + answer
        return (answer.clamp_(min=0) if self.relu else answer) - self.target - drifted

    def residual(self, v: Tensor) -> Float[Tensor, "instance sample out"]:
        """Output minus target."""
        return self._residual(v @ self.slope.mT, 0.0 if self.drift is None else v @ self.drift.mT)

    def loss(self, v: Tensor) -> Float[Tensor, "instance sample"]:
        """What is maximised."""
        return self.residual(v).square().sum(-1)

    def active(self, v: Tensor) -> Bool[Tensor, "instance sample out"]:
        """Which outputs answer: the linear region."""
        answer = self.offset + v @ self.slope.mT
        return answer > 0 if self.relu else torch.ones_like(answer, dtype=torch.bool)

    def still(self) -> Float[Tensor, "instance sample dimension"]:
        """No perturbation."""
        return self.offset.new_zeros(*self.offset.shape[:2], self.slope.shape[-1])

    def repeated(self, times: int) -> Ascent:
        """Every sample `times` times, for several starts at once."""
        offset, target = (t.repeat(1, times, 1) for t in (self.offset, self.target))
        return dataclasses.replace(self, offset=offset, target=target)

    def along(self, directions: Float[Tensor, "instance way dimension"]) -> Float[Tensor, "instance way sample"]:
        """The loss of going `radius` along each of some directions, the same ones for all samples."""
        v = self.radius[:, None, None] * unit(directions)
        answers = v @ self.slope.mT
        drifts = torch.zeros_like(answers) if self.drift is None else v @ self.drift.mT
        ways = [
            self._residual(answers[:, i, None], drifts[:, i, None]).square().sum(-1) for i in range(answers.shape[1])
        ]
        return torch.stack(ways, 1)

    def climb(self, start: Tensor, steps: int = STEPS) -> Tensor:
        """Projected gradient ascent along normalised gradients; the best v met on the way.

        Steps shrink geometrically from the radius to a hundredth of it: inside a region the loss is convex, so long
        steps lose nothing there, and short ones settle on the boundary between regions. A sample whose gradient
        vanishes (no output answers) stays where it is.
        """
        radius = self.radius[:, None, None]
        v, best = start, start
        most = self.loss(start)
        for step in range(steps):
            residual = self.residual(v)
            gradient = (residual * self.active(v)) @ self.slope
            if self.drift is not None:
                gradient = gradient - residual @ self.drift
            v = v + radius * 0.01 ** (step / steps) * unit(gradient)
            v = v * (radius / v.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)).clamp(max=1)
            loss = self.loss(v)
            better = loss > most
            most, best = torch.where(better, loss, most), torch.where(better[..., None], v, best)
        return best

    def hop(self, start: Tensor, rounds: int = ROUNDS) -> Tensor:
        """From region to region, uphill: the exact maximum, over the whole ball, of the quadratic that the loss is in
        v's region, and the best part of the way to it along the sphere; until no sample gains.

        The whole way often leads through too many regions for the quadratic to hold, so a round tries several parts of
        it, and of the way to the maximum of the linear approximation.
        """
        radius = self.radius[:, None, None]
        outer = self.slope[..., :, None] * self.slope[..., None, :]
        fixed: Tensor | float = 0.0
        if self.drift is not None:
            mixed = self.slope[..., :, None] * self.drift[..., None, :]
            outer = outer - mixed - mixed.mT
            fixed = (self.drift.mT @ self.drift)[:, None]
        v, most = start, self.loss(start)
        for _ in range(rounds):
            mask = self.active(v).to(v.dtype)
            # with J = mask slope - drift: A = J^T J and g = J^T r, r the residual at no perturbation
            A = (mask @ outer.flatten(-2)).unflatten(-1, outer.shape[-2:]) + fixed
            r = mask * self.offset - self.target
            g = (mask * r) @ self.slope - (0.0 if self.drift is None else r @ self.drift)
            ends = ball_maximum(A, g, self.radius[:, None]), radius * unit(g + (A @ v[..., None])[..., 0])
            best, gained = v, most
            for end, part in itertools.product(ends, PARTS):
                there = radius * unit(v + part * (end - v))
                loss = self.loss(there)
                better = loss > gained
                gained, best = torch.where(better, loss, gained), torch.where(better[..., None], there, best)
            if (gained <= most * (1 + 1e-9)).all():
                return best
            v, most = best, gained
        return v


def unit(v: Float[Tensor, "*stack dim"]) -> Float[Tensor, "*stack dim"]:
    return torch.nn.functional.normalize(v, dim=-1)


def ball_maximum(
    A: Float[Tensor, "*stack dim dim"],
    g: Float[Tensor, "*stack dim"],
    radius: Float[Tensor, "*stack"],
) -> Float[Tensor, "*stack dim"]:
    """The v that maximises v^T A v + 2 g^T v over |v| <= radius > 0, for symmetric positive semidefinite A.

    The maximum lies on the sphere: (l - A) v = g with l >= the largest eigenvalue of A and |v| = radius, one number to
    find: 1 / radius - 1 / |v| is convex in l, so Newton's steps from below end at it (More and Sorensen 1983, SIAM J.
    Sci. Stat. Comput. 4:553). The part along the top eigenvector is what the others leave of the radius, which also
    covers the hard case, g orthogonal to it.
    """
    values, vectors = torch.linalg.eigh(A)
    h = (vectors.mT @ g[..., None])[..., 0]
    gap = values[..., -1:] - values
    radius = torch.as_tensor(radius, dtype=A.dtype)[..., None]
    tiny = torch.finfo(A.dtype).tiny
    above = h[..., -1:].abs() / radius  # l - the largest eigenvalue, never too large
    for _ in range(NEWTON):
        spread = (above + gap).clamp(min=tiny**0.3)  # its cube is a number too
        norm = (h / spread).norm(dim=-1, keepdim=True)
        slope = (h.square() / spread**3).sum(-1, keepdim=True).clamp(min=tiny)
        above = above + (norm / radius - 1).clamp(min=0) * norm.square() / slope
    rest = (h / (above + gap).clamp(min=tiny))[..., :-1]
    left = (radius.square() - rest.square().sum(-1, keepdim=True)).clamp(min=0).sqrt()
    v = torch.cat([rest, torch.where(h[..., -1:] < 0, -left, left)], -1)
    v = v * (radius / v.norm(dim=-1, keepdim=True).clamp(min=tiny)).clamp(max=1)
    return (vectors @ v[..., None])[..., 0]
