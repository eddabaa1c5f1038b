"""Do two ensembles of networks, of whatever widths, learn the same features? Similarities of every pair of networks.

Networks of different width share no basis, so what is compared lives elsewhere: in truth coordinates (a score or a
direction for each true feature), or in samples (activations on shared held-out draws). Every similarity takes one array
for each ensemble, instance first, and returns (instance_a, instance_b); give it the same array twice for pairs inside
one ensemble, whose diagonal is each network with itself. `chance` is what a similarity is without a common order of
features or samples, and `toysup.stats.agreement` holds pairs across against pairs within.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from toysup import stats
from toysup.checks import InputError, check_interval, check_whole, numbers_in
from toysup.evidence import SEEN, away, usual
from toysup.safely import one_thread

__all__ = [
    "above_chance",
    "chance",
    "explained",
    "feature_correlation",
    "gram_similarity",
    "linear_cka",
    "matched_cosine",
    "monomials",
    "svcca",
]

Pairs = Float[Tensor, "instance_a instance_b"]


# ------------------------------------------------------------------------------------------------ in truth coordinates


def _scores(where: str, values: ArrayLike, given: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """(instance, feature) and (feature, control) as arrays; InputError where the controls don't suit."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise InputError(f"{where}: expected (instance, feature), got shape {values.shape}")
    n = values.shape[1]
    controls = np.zeros((n, 0)) if given is None else np.asarray(given, dtype=np.float64).reshape(len(given), -1)
    if len(controls) != n or not np.isfinite(controls).all():
        raise InputError(f"{where}: given must be finite, (feature = {n}, control), got shape {controls.shape}")
    if _basis(controls) is None:
        raise InputError(
            f"{where}: {controls.shape[1]} controls are too many for {n} features, or depend on each other"
        )
    return values, controls


def _basis(controls: np.ndarray) -> np.ndarray | None:
    """Orthonormal (feature, number), of the span of 1 and the controls; None where they are too many or dependent."""
    n = len(controls)
    basis = np.column_stack([np.ones(n), controls])
    if n < basis.shape[1] + 2:
        return None
    basis, triangle = np.linalg.qr(basis / np.maximum(np.abs(basis).max(0), np.finfo(float).tiny))
    return None if np.abs(np.diag(triangle)).min() < 1e-10 * np.abs(triangle).max() else basis


def _residuals(values: np.ndarray, controls: np.ndarray, ranks: bool) -> np.ndarray:
    """(instance, feature): values, or their ranks, less their least-squares fit on 1 and the controls; NaN where there
    are too few features for that."""
    basis = _basis(controls)
    if basis is None:
        return np.full_like(values, np.nan)
    values = scipy.stats.rankdata(values, axis=1, nan_policy="propagate") if ranks else values
    return values - values @ basis @ basis.T


def _alike(values: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, known features) for the rows that know the same features, those that are not NaN."""
    known, of = np.unique(~np.isnan(values), axis=0, return_inverse=True)
    return [(np.flatnonzero(of.reshape(-1) == number), own) for number, own in enumerate(known)]


def feature_correlation(a: ArrayLike, b: ArrayLike, *, given: ArrayLike | None = None, ranks: bool = True) -> Pairs:
    """Correlation over features of two networks' scores, for each pair, with `given` partialled out.

    The correlation of the residuals of least squares on a constant and the controls: for one control the textbook
    (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2) (1 - r_bc^2)). A pair is compared over the features that are known, not NaN,
    in both; NaN where those are too few (none, in a network that diverged) or nothing is left of a score.

    Args:
        a, b: (instance, feature), such as R^2 or bits of each true feature.
        given: (feature, control), such as log frequency and log importance; take powers and products of them too where
            scores depend on them in a curve. Not ranked.
        ranks: Spearman's correlation in place of Pearson's.
    """
    (left, controls), (right, _) = (_scores("feature_correlation", values, given) for values in (a, b))
    if left.shape[1] != right.shape[1]:
        raise InputError(f"feature_correlation: {left.shape[1]} features in a, {right.shape[1]} in b")
    found = np.full((len(left), len(right)), np.nan)
    for rows, known in _alike(left):
        for columns, too in _alike(right):
            both = known & too
            if both.any():
                sides = (np.ascontiguousarray(one[:, both]) for one in (left[rows], right[columns]))
                one, other = (_directed(side, controls[both], ranks) for side in sides)
                found[np.ix_(rows, columns)] = one @ other.T
    return torch.from_numpy(found)


def _directed(values: np.ndarray, controls: np.ndarray, ranks: bool) -> np.ndarray:
    """Residuals at length 1; NaN where they are rounding errors of what was fitted."""
    residual = _residuals(values, controls, ranks)
    length = np.linalg.norm(residual, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(length > _rounding(values, ranks), residual / length, np.nan)


def _rounding(values: np.ndarray, ranks: bool) -> np.ndarray:
    """The length of residuals, (instance, 1), that rounding leaves."""
    scale = values.shape[1] if ranks else np.abs(values).max(1, keepdims=True)
    return 1e-10 * scale * values.shape[1] ** 0.5


def explained(values: ArrayLike, given: ArrayLike, *, ranks: bool = True) -> Float[Tensor, " instance"]:
    """The share of a network's score (of its ranks) over features that the controls explain by least squares: R^2,
    adjusted for how many controls there are, so that noise explains about nothing. Features that are not known (NaN)
    are left out; NaN where too few are left, or a score is the same for all."""
    values, controls = _scores("explained", values, given)
    found = np.full(len(values), np.nan)
    for rows, known in _alike(values):
        own, mine = np.ascontiguousarray(values[rows][:, known]), controls[known]
        n, fitted = own.shape[1], 1 + mine.shape[1]
        if n >= fitted + 2:
            residual, total = _residuals(own, mine, ranks), _residuals(own, mine[:, :0], ranks)
            all_of_it = (total**2).sum(1)
            all_of_it = np.where(np.sqrt(all_of_it) > np.ravel(_rounding(own, ranks)), all_of_it, np.nan)
            found[rows] = 1 - (residual**2).sum(1) / (n - fitted) / (all_of_it / (n - 1))
    return torch.from_numpy(found)


def monomials(columns: ArrayLike, degree: int) -> Float[np.ndarray, "feature control"]:
    """Controls for `given` where scores depend on columns in a curve: all products of powers of the columns, each less
    its mean and over its standard deviation, up to `degree` in total.

    columns: (column, feature), such as log frequency and log importance; InputError where one is the same for all.
    """
    values = numbers_in("monomials", "columns", columns, ("column", "feature"))
    check_whole("monomials", "degree", degree)
    if not (values.std(1) > 0).all():
        raise InputError("monomials: every column must be finite and vary over features")
    z = [(own - own.mean()) / own.std() for own in values]
    powers = [p for p in np.ndindex(*[degree + 1] * len(z)) if 0 < sum(p) <= degree]
    return np.stack([np.prod([x**k for x, k in zip(z, p, strict=True)], axis=0) for p in powers], 1)


def gram_similarity(a: Float[Tensor, "instance_a feature _"], b: Float[Tensor, "instance_b feature _"]) -> Pairs:
    """Do features press on each other alike? Pearson correlation of the off-diagonal W_i . W_j of two networks.

    a, b: each feature's direction W_i (`directions`), of any widths; the Gram matrix does not know the basis.
    """
    _same("gram_similarity", a, b, "features")
    upper = torch.triu_indices(a.shape[1], a.shape[1], 1)
    pressed = [(W.double() @ W.double().mT)[:, upper[0], upper[1]].numpy() for W in (a, b)]
    return feature_correlation(*pressed, ranks=False)


def matched_cosine(a: Float[Tensor, "instance_a unit_a _"], b: Float[Tensor, "instance_b unit_b _"]) -> Pairs:
    """Mean cosine of units matched one to one so that it is largest (Hungarian algorithm), over the smaller number of
    units.

    a, b: units in truth coordinates (`unit_responses`), or dictionaries. Units that are zero match nothing, at 0. High
    by chance where units are many or have a mean in common: take `chance` off.
    """
    if a.shape[2] != b.shape[2]:
        raise InputError(f"matched_cosine: {a.shape[2]} features in a, {b.shape[2]} in b")
    left, right = (torch.nn.functional.normalize(units.double(), dim=-1) for units in (a, b))
    found = torch.full((len(a), len(b)), torch.nan, dtype=torch.float64)
    for i, one in enumerate(left):
        for j, cosines in enumerate((one @ right.mT).numpy()):
            if np.isfinite(cosines).all():
                found[i, j] = float(cosines[scipy.optimize.linear_sum_assignment(cosines, maximize=True)].mean())
    return found


# -------------------------------------------------------------------------------------------------- on shared samples


def _same(where: str, a: Tensor, b: Tensor, what: str) -> None:
    if a.ndim != 3 or b.ndim != 3 or a.shape[1] != b.shape[1]:
        raise InputError(f"{where}: expected as many {what} in a and b, got shapes {tuple(a.shape)}, {tuple(b.shape)}")


def linear_cka(a: Float[Tensor, "instance_a sample _"], b: Float[Tensor, "instance_b sample _"]) -> Pairs:
    """Linear centred kernel alignment of activations on the same samples, debiased: 1 for the same up to rotation and
    scale, 0 on average for unrelated ones, however many units there are (so sometimes below 0).

    HSIC_1(K, L) / sqrt(HSIC_1(K, K) HSIC_1(L, L)) with K = X X^T (Kornblith et al. 2019, "Similarity of neural network
    representations revisited", eq. 3 and 4; the unbiased estimator of Song et al. 2012, JMLR 13:1393, eq. 5, as Murphy
    et al. 2024, "Correcting biased centered kernel alignment measures", recommend). Needs 4 samples or more. NaN for
    activations that never vary, or do in too few of the samples (SEEN, or half of fewer than 32): one common outlier
    would make any two networks alike.
    """
    _same("linear_cka", a, b, "samples")
    n = a.shape[1]
    check_whole("linear_cka", "samples", n, 4)
    with one_thread():
        left, right = (_Kernel(x.double() - x.double().mean(1, keepdim=True)) for x in (a, b))
        a_length, b_length = (
            torch.where(h > 0, h, torch.nan).sqrt() for h in (left.with_itself(), right.with_itself())
        )
        return torch.where(_varied(a, b), left.with_all(right) / (a_length.unsqueeze(1) * b_length), torch.nan)


def _varied(a: Tensor, b: Tensor) -> Bool[Tensor, "instance_a instance_b"]:
    """Whether the activations of both are away from their usual values in samples enough."""
    left, right = (away(x, usual(x)).any(-1).sum(1) >= min(SEEN, x.shape[1] / 2) for x in (a, b))
    return left.unsqueeze(1) & right


class _Kernel:
    """What HSIC_1 needs of each instance's linear kernel without its diagonal, never forming (sample, sample)."""

    def __init__(self, x: Float[Tensor, "instance sample unit"]) -> None:
        self.x, self.diagonal = x, x.square().sum(-1)
        self.rows = (x @ x.sum(1).unsqueeze(-1)).squeeze(-1) - self.diagonal

    def with_itself(self) -> Float[Tensor, " instance"]:
        traces = (self.x.mT @ self.x).square().sum((-2, -1)) - self.diagonal.square().sum(-1)
        return self._combined(traces, self.rows.sum(-1).square(), self.rows.square().sum(-1))

    def with_all(self, other: _Kernel) -> Pairs:
        cross = torch.einsum("asu,bsv->abuv", self.x, other.x).square().sum((-2, -1))
        sums = self.rows.sum(-1).unsqueeze(1) * other.rows.sum(-1)
        return self._combined(cross - self.diagonal @ other.diagonal.T, sums, self.rows @ other.rows.T)

    def _combined(self, traces: Tensor, sums: Tensor, products: Tensor) -> Tensor:
        n = self.x.shape[1]
        return (traces + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * products) / (n * (n - 3))


def svcca(
    a: Float[Tensor, "instance_a sample _"], b: Float[Tensor, "instance_b sample _"], *, variance: float = 0.99
) -> Pairs:
    """Mean canonical correlation of activations on the same samples, each cut to the principal directions that hold
    `variance` of theirs (Raghu et al. 2017, "SVCCA").

    With variance = 1 (plain CCA; directions within rounding of 0 are left out) no invertible linear map of the units
    changes it, with less of it rotations and scale do not. Over the smaller number of directions, so that a subspace
    matches what holds it. By chance it is about sqrt(units / samples), not 0: take `chance` off. NaN for activations
    that vary too seldom, as in `linear_cka`.
    """
    _same("svcca", a, b, "samples")
    check_interval("svcca", "variance", variance, 0, 1, open_low=True)
    with one_thread():
        (left, k), (right, m) = (_principal(x, variance) for x in (a, b))
        cross = torch.einsum("asu,bsv->abuv", left, right)
        total = torch.linalg.svdvals(cross.nan_to_num()).clamp(max=1).sum(-1)
    number = torch.minimum(k.unsqueeze(1), m)
    return torch.where((number > 0) & _varied(a, b) & cross.isfinite().all((-2, -1)), total / number, torch.nan)


def _principal(x: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Orthonormal directions over samples that hold the variance, zero columns for the others; and how many."""
    x = x.double() - x.double().mean(1, keepdim=True)
    whole = x.isfinite().all((1, 2), keepdim=True)
    U, S, _ = torch.linalg.svd(torch.where(whole, x, 0.0), full_matrices=False)
    squared = S.square()
    before = squared.cumsum(-1) - squared  # held by the directions before this one
    used = (before < variance * squared.sum(-1, keepdim=True)) & (S > 1e-10 * S[:, :1].clamp(min=1e-30))
    return torch.where(whole, U * used.unsqueeze(1), torch.nan), used.sum(-1)


# -------------------------------------------------------------------------------------------------------------- chance


def chance(
    similarity: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, *, axis: int, repeats: int = 4, seed: int = 0
) -> Pairs:
    """The floor of a similarity: its mean over `repeats` random orders of what a and b share, another for each instance
    of b.

    axis: of b that is shuffled, that of features or samples: -1 for scores and unit responses, 1 for activations and
        directions.
    """
    check_whole("chance", "repeats", repeats)
    rng, b = np.random.default_rng(seed), torch.as_tensor(b)
    orders = [[torch.from_numpy(rng.permutation(b.shape[axis])) for _ in b] for _ in range(repeats)]
    place = axis - 1 if axis > 0 else axis  # inside one instance
    mixed = (torch.stack([one.index_select(place, o) for one, o in zip(b, own, strict=True)]) for own in orders)
    return torch.stack([similarity(a, other) for other in mixed]).mean(0)


def above_chance(
    similarity: Callable[[Tensor, Tensor], Tensor],
    a: Tensor,
    b: Tensor,
    *,
    axis: int | None = None,
    repeats: int = 4,
    seed: int = 0,
    floors: Sequence[float] = (0.0, 0.0, 0.0),
) -> stats.Agreement:
    """How alike two ensembles are beside how alike the members of each are (`stats.agreement`), above `chance`.

    Args:
        similarity, a, b: one of these functions and what it compares.
        axis, repeats, seed: of `chance`; axis None: the similarity is 0 by chance.
        floors: of pairs across, within a and within b, taken off beside chance, such as what untrained networks of the
            same shapes reach.
    """
    found, lows = [], []
    for (x, y), floor in zip(((a, b), (a, a), (b, b)), floors, strict=True):
        found.append(similarity(x, y).numpy())
        lows.append(floor + (0.0 if axis is None else
                             chance(similarity, x, y, axis=axis, repeats=repeats, seed=seed).numpy()))  # fmt: skip
    return stats.agreement(*found, floors=(lows[0], lows[1], lows[2]))
