"""Reading one linear code h = x W with other decoders than the network's own, so that a gap can be laid at the door of
the dictionary W or of the decoding.

An `Encoding` is W with the distribution of the features: a trained network's own (`Encoding.of`) or random unit rows
of the same shape (`random`). A decoder is a function (encoding, h) -> x', batched over instances and samples; adding
one is writing one. `decoded` scores it by R^2 on the network's held-out draws, as `r_squared` scores the network.

Decoders, from the least to the most they may use: `linear_probe` (best affine), `affine_relu` (best affine and a ReLU,
what one layer can do), `matching_pursuit` and `l1_homotopy` (sparsity and sign), `bayes_amp` (the whole prior).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.special import ndtr

from toysup.checks import InputError, check_interval, check_whole
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseUniform
from toysup.features.base import UNIFORM
from toysup.jit import njit
from toysup.measure.geometry import directions
from toysup.measure.held_out import BATCH, GROUPS, Estimate, Evidence, over_groups
from toysup.measure.recovery import positive_sum
from toysup.models import unit_rows
from toysup.random import Stream, uniforms

__all__ = [
    "Encoding",
    "affine_relu",
    "bayes_amp",
    "decoded",
    "decoded_count",
    "l1_homotopy",
    "linear_probe",
    "matching_pursuit",
]

Decoder = Callable[["Encoding", Tensor], Tensor]


@dataclass(frozen=True)
class Encoding:
    """A linear code and what it encodes: h = x W.

    `W` is (instance, feature, width); `mean`, `variance` and `density` are the features' own, (instance, feature);
    `trained` is the network whose held-out draws are read.
    """

    W: Float[Tensor, "instance feature width"]
    mean: Float[Tensor, "instance feature"]
    variance: Float[Tensor, "instance feature"]
    density: Float[Tensor, "instance feature"]
    trained: Trained

    @classmethod
    def of(cls, trained: Trained) -> Encoding:
        """The code of trained networks, by the directions that features take in their first layer.

        InputError unless features are SparseUniform, unsigned: the decoders know that x >= 0, and one the prior.
        """
        features = trained.setting.features
        if type(features) is not SparseUniform or features.given_active is not UNIFORM:
            raise InputError(f"Encoding: features must be SparseUniform, unsigned, got {type(features).__name__}")
        n = features.n_features
        moments = [
            trained.per_instance(lambda setting, _, name=name: getattr(setting.features, name).expand(n))
            for name in ("mean", "variance", "activity")
        ]
        return cls(directions(trained), *moments, trained)

    def random(self) -> Encoding:
        """Unit rows in random directions, of the same shape, each instance's from its own init_seed: a dictionary that
        was not learned. The draw is that of `initial_values` at a place no parameter has."""
        count, n, width = self.W.shape
        draws = uniforms(self.trained.stack.init_seed, 2**20, n * width, 1, stream=Stream.INIT)
        return replace(self, W=unit_rows()(draws.reshape(count, n, width)))

    def draw(self, number: int, size: int, stream: Stream = Stream.HELD_OUT) -> Tensor:
        """x of batch `number` of a stream, (instance, size, feature)."""
        return self.trained.batch(number, size, stream)[0]


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
            x = encoding.draw(number, size)
            evidence.add(x)
            guess = decoder(encoding, x @ encoding.W)
            groups.append(1 - (x - guess).square().mean(1) / encoding.variance)
    return torch.stack(groups), evidence.known() & (encoding.variance > 0)


# ----------------------------------------------------------------------------------------------------------- linear


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
    key = ("affine_relu", id(encoding.W), steps, batch, lr)
    kept = encoding.trained.kept
    if key not in kept:
        kept[key] = (encoding.W, _fit(encoding, steps, batch, lr))  # W is held so that its id stays its own
    weights, offset = kept[key][1]
    return torch.relu(h @ weights.mT + offset.unsqueeze(-2))


def _fit(encoding: Encoding, steps: int, batch: int, lr: float) -> tuple[Tensor, Tensor]:
    first = encoding.trained.setting.steps

    def fresh(number: int, size: int) -> tuple[Tensor, Tensor]:
        x = encoding.draw(first + number, size, Stream.TRAIN)
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


# ---------------------------------------------------------------------------------------------------------- sparse


def l1_homotopy(encoding: Encoding, h: Tensor) -> Tensor:
    """min sum x' subject to x' W = h, x' >= 0, exactly: the path of min |h - x' W|^2 / 2 + lambda sum x' down to 0.

    x' is linear in lambda between the places where a feature joins or leaves (Osborne, Presnell & Turlach 2000; Donoho
    & Tsaig 2008, IEEE Trans. Inf. Theory 54:4789). A code of few features takes about a step for each; near the
    threshold, where proximal gradient stops short of recovery, it is exact still. In double precision, on the CPU. Of
    two equal rows only one is used; h that no x' >= 0 gives is fitted in the least squares.
    """
    W = encoding.W.double()
    gram, aligned = ((rows @ W.mT).numpy(force=True) for rows in (W, h.double()))
    found = np.zeros_like(aligned)
    for own in zip(gram, aligned, found, strict=True):
        _paths(*own, W.shape[-1])
    return torch.from_numpy(found).to(encoding.W)


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _paths(gram: np.ndarray, aligned: np.ndarray, found: np.ndarray, rank: int) -> None:
    """Follow each sample's path. gram: W W^T (feature, feature); aligned: h W^T (sample, feature); found is filled."""
    n, most = len(gram), min(rank, len(gram))
    inverse = np.zeros((most, most))  # of the Gram matrix of the active features
    active, place = np.zeros(most, np.int64), np.zeros(n, np.int64)
    x, slope, column, shared, pull = np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(n)
    for sample in range(len(aligned)):
        left, size, barred = aligned[sample].copy(), 0, -1
        place[:] = -1
        join = np.argmax(left)
        level, first = left[join], left[join]
        for _ in range(20 * most):
            if level <= 1e-12 * first or level <= 0:
                break
            if join >= 0:  # the inverse grows by a row and column (Schur complement)
                rest = gram[join, join]
                for i in range(size):
                    shared[i] = gram[join, active[i]]
                for i in range(size):
                    total = 0.0
                    for j in range(size):
                        total += inverse[i, j] * shared[j]
                    column[i] = total
                    rest -= total * shared[i]
                if rest <= 1e-10 * gram[join, join]:  # it adds no direction
                    place[join] = -2
                else:
                    for i in range(size):
                        for j in range(size):
                            inverse[i, j] += column[i] * column[j] / rest
                        inverse[i, size] = inverse[size, i] = -column[i] / rest
                    inverse[size, size], active[size], place[join], x[size] = 1 / rest, join, size, 0.0
                    size += 1
            pull[:] = 0
            for i in range(size):
                total = 0.0
                for j in range(size):
                    total += inverse[i, j]
                slope[i] = total
                row = gram[active[i]]
                for j in range(n):
                    pull[j] += total * row[j]
            step, join, leave = level, -1, -1
            if size < most:
                for j in range(n):
                    if place[j] == -1 and j != barred and pull[j] < 1:
                        far = max(level - left[j], 0.0) / (1 - pull[j])
                        if far < step:
                            step, join = far, j
            for i in range(size):
                if slope[i] < 0 and -x[i] / slope[i] < step:
                    step, join, leave = -x[i] / slope[i], -1, i
            for i in range(size):
                x[i] += step * slope[i]
            for j in range(n):
                left[j] -= step * pull[j]
            level -= step
            barred = -1
            if leave >= 0:  # the last takes its place, and the inverse loses a row and column
                barred, last = active[leave], size - 1
                place[barred] = -1
                for i in range(size):
                    inverse[i, leave], inverse[i, last] = inverse[i, last], inverse[i, leave]
                for j in range(size):
                    inverse[leave, j], inverse[last, j] = inverse[last, j], inverse[leave, j]
                active[leave], x[leave] = active[last], x[last]
                if leave != last:
                    place[active[leave]] = leave
                for i in range(last):
                    for j in range(last):
                        inverse[i, j] -= inverse[i, last] * inverse[last, j] / inverse[last, last]
                size = last
            elif join < 0:
                break
        for i in range(size):
            found[sample, active[i]] = max(x[i], 0.0)


def matching_pursuit(encoding: Encoding, h: Tensor, *, most: int | None = None, tolerance: float = 1e-4) -> Tensor:
    """Orthogonal matching pursuit, nonnegative: the feature whose direction the residual has most of joins, all
    coefficients are fitted anew, until the residual is `tolerance` of |h| or `most` features have joined.

    Pati, Rezaiifar & Krishnaprasad 1993; Tropp 2004, IEEE Trans. Inf. Theory 50:2231. `most` is the width at most.
    Negative coefficients of the last fit are set to 0.
    """
    W, width = encoding.W, encoding.W.shape[-1]
    most = min(width if most is None else most, W.shape[-2])
    check_whole("matching_pursuit", "most", most)
    norms = W.norm(dim=-1)
    unit = W / norms.clamp(min=1e-12).unsqueeze(-1)
    count, batch = h.shape[:2]
    index = torch.arange(count).view(-1, 1).expand(count, batch)
    basis = h.new_zeros(count, batch, most, width)  # orthonormal rows
    # chosen rows in terms of the basis
    triangle = torch.eye(most, dtype=h.dtype).expand(count, batch, most, most).clone()
    chosen = torch.zeros(count, batch, most, dtype=torch.long)
    taken = (norms < 1e-6).unsqueeze(1).expand(count, batch, -1).clone()
    residual, going = h.clone(), torch.ones(count, batch, dtype=torch.bool)
    for k in range(most):
        score = (residual @ unit.mT).masked_fill(taken, -torch.inf)
        value, pick = score.max(-1)
        going = going & (value > 0) & (residual.norm(dim=-1) > tolerance * h.norm(dim=-1))
        if not bool(going.any()):
            break
        row = unit[index, pick]
        inside = torch.einsum("cbkw,cbw->cbk", basis, row)
        new = row - torch.einsum("cbk,cbkw->cbw", inside, basis)
        again = torch.einsum("cbkw,cbw->cbk", basis, new)  # orthogonalised twice, against rounding
        new = new - torch.einsum("cbk,cbkw->cbw", again, basis)
        length = new.norm(dim=-1)
        going = going & (length > 1e-5)
        new = torch.where(going.unsqueeze(-1), new / length.clamp(min=1e-12).unsqueeze(-1), 0.0)
        basis[:, :, k] = new
        column = inside + again
        column[..., k] = length
        triangle[..., k] = torch.where(going.unsqueeze(-1), column, triangle[..., k])
        chosen[..., k] = pick
        taken = taken.scatter(-1, pick.unsqueeze(-1), going.unsqueeze(-1) | taken.gather(-1, pick.unsqueeze(-1)))
        residual = residual - (residual * new).sum(-1, keepdim=True) * new
    weights = torch.linalg.solve_triangular(triangle, torch.einsum("cbkw,cbw->cbk", basis, h).unsqueeze(-1), upper=True)
    used = basis.abs().sum(-1) > 0
    weights = torch.where(used, weights.squeeze(-1), 0.0).clamp(min=0)
    found = h.new_zeros(count, batch, W.shape[-2]).scatter_add(-1, chosen, weights)
    return found / norms.clamp(min=1e-12).unsqueeze(1)


# ----------------------------------------------------------------------------------------------------------- Bayes


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
