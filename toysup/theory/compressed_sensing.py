"""How many sparse features fit in m dimensions, by every reference that needs no training.

Vocabulary: `density` p is the probability that a feature is active, n features share m dimensions, and an active
feature's magnitude is U[0, 1]. The load is n/m; compressed sensing calls m/n = delta and (active features)/m = rho, so
that p = delta rho. One-step decoding has a file of its own and is exported here too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import erfcx, ndtr

from toysup.checks import check_interval
from toysup.theory.one_step import OneStep, one_step_r2, one_step_r2_gaussian, one_step_ratio, random_frame
from toysup.theory.solve import bisect

__all__ = [
    "OneStep",
    "bayes_amp_ratio",
    "elhage_ratio",
    "inverse_density",
    "l1_ratio",
    "l1_weak_threshold",
    "one_step_r2",
    "one_step_r2_gaussian",
    "one_step_ratio",
    "random_frame",
    "welch_coherence",
]


# ---------------------------------------------------------------------------------------------------- closed forms


def elhage_ratio(density: ArrayLike) -> np.ndarray:
    """n/m = 1/(p ln(1/p)): how superposition grows with sparsity (Elhage et al. 2022, "Toy Models of Superposition").

    A shape, not a cutoff: its constant is not determined. It falls with p only below p = 1/e and is infinite at p = 1.

    Args:
        density: p, numbers in (0, 1].

    Raises:
        InputError: a density outside (0, 1].
    """
    check_interval("elhage_ratio", "density", density, 0, 1, open_low=True)
    density = np.asarray(density, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return 1 / (-density * np.log(density) + 0.0)


def inverse_density(density: ArrayLike) -> np.ndarray:
    """n/m = 1/p: on average as many features active as there are dimensions; Wu & Verdu 2010's limit."""
    check_interval("inverse_density", "density", density, 0, 1, open_low=True)
    density = np.asarray(density, dtype=np.float64)
    return 1 / density


def welch_coherence(n: ArrayLike, m: ArrayLike) -> np.ndarray:
    """sqrt((n-m)/(m(n-1))), 0 if n <= m: the least possible largest |<w_i, w_j>| of n unit vectors (Welch 1974).

    Raises:
        InputError: n or m below 1.
    """
    check_interval("welch_coherence", "n", n, 1, open_high=True)
    n = np.asarray(n, dtype=np.float64)
    check_interval("welch_coherence", "m", m, 1, open_high=True)
    m = np.asarray(m, dtype=np.float64)
    return np.sqrt(np.maximum(n - m, 0) / (m * np.maximum(n - 1, 1)))


# ------------------------------------------------------------------------------------------------ l1 weak threshold


def _l1_curve(z: np.ndarray, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """(eps, delta) at the soft threshold z that is best for that eps.

    delta(eps) = min_z eps (1 + z^2) + (1 - eps) kappa g(z) with g(z) = (1 + z^2) Phi(-z) - z phi(z). Its derivative
    vanishes at eps/(1 - eps) = kappa (phi(z)/z - Phi(-z)), so z parametrises the whole curve. Mills' ratio keeps large
    z accurate.
    """
    phi = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    mills = np.sqrt(np.pi / 2) * erfcx(z / np.sqrt(2))
    odds = kappa * phi * (1 / z - mills)
    g = phi * ((1 + z**2) * mills - z)
    eps = odds / (1 + odds)
    return eps, eps * (1 + z**2) + kappa * g / (1 + odds)


def l1_weak_threshold(delta: ArrayLike, nonnegative: bool = True) -> np.ndarray:
    """rho = k/m up to which l1 minimisation recovers a typical k-sparse vector from m = delta n random measurements.

    rho(delta) = max_z [1 - (kappa/delta) g(z)] / [1 + z^2 - kappa g(z)], kappa = 1 for features known to be
    non-negative and 2 for signed ones (Donoho, Maleki & Montanari 2009, rho_SE; Donoho & Tanner 2005, 2009 by counting
    faces). Solved from the equivalent minimisation over z of delta at fixed density.

    Args:
        delta: m/n, numbers in (0, 1].
        nonnegative: whether the decoder may use that features are >= 0.

    Raises:
        InputError: a delta outside (0, 1].
    """
    check_interval("l1_weak_threshold", "delta", delta, 0, 1, open_low=True)
    delta = np.asarray(delta, dtype=np.float64)
    kappa = 1.0 if nonnegative else 2.0
    z = bisect(lambda z: -_l1_curve(z, kappa)[1], -delta, 1e-12, 37.0)
    return _l1_curve(z, kappa)[0] / delta


def l1_ratio(density: ArrayLike, nonnegative: bool = True) -> np.ndarray:
    """n/m at which features of this density sit exactly on the l1 weak threshold; see `l1_weak_threshold`.

    Args:
        density: p = k/n, numbers in (0, 1].

    Raises:
        InputError: a density outside (0, 1].
    """
    check_interval("l1_ratio", "density", density, 0, 1, open_low=True)
    density = np.asarray(density, dtype=np.float64)
    kappa = 1.0 if nonnegative else 2.0
    z = bisect(lambda z: -_l1_curve(z, kappa)[0], -density, 1e-12, 37.0)
    return 1 / _l1_curve(z, kappa)[1]


# -------------------------------------------------------------------------------------------------------- Bayes-AMP


def _mmse(sigma: float, density: float) -> float:
    """E Var(x | x + sigma Z) for x ~ Bernoulli(density) x U[0, 1], by Gauss-Legendre panels of at most 3 sigma."""
    edges = np.linspace(-8 * sigma, 1 + 8 * sigma, int(np.ceil((1 / sigma + 16) / 3)) + 1)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    y = (edges[:-1, None] + half) + half * nodes
    near, far = (np.exp(-((v / sigma) ** 2) / 2) / np.sqrt(2 * np.pi) for v in (y, y - 1))
    # Moments of u ~ U[0, 1] against the density of y given u: integrals of u^k phi((y - u)/sigma)/sigma.
    # The two normal tails are subtracted on the side where both are small, else the far tail would be rounding alone.
    side = np.where(y < 0.5, 1.0, -1.0)
    zeroth = side * (ndtr(side * y / sigma) - ndtr(side * (y - 1) / sigma))
    first = y * zeroth + sigma * (near - far)
    second = (y**2 + sigma**2) * zeroth + sigma * (y * near - (y + 1) * far)
    evidence = density * zeroth + (1 - density) * near / sigma
    seen = evidence > 0
    spread = density * second - (density * first) ** 2 / np.where(seen, evidence, 1.0)
    return float(np.sum(weights * half * np.where(seen, spread, 0.0)))


def bayes_amp_ratio(density: ArrayLike) -> np.ndarray:
    """n/m up to which Bayes-optimal approximate message passing recovers Bernoulli(p) x U[0, 1] features without noise.

    1/delta* with delta* = sup_sigma mmse(sigma)/sigma^2: below it state evolution sigma^2 <- mmse(sigma)/delta has a
    fixed point above 0 (Donoho, Maleki & Montanari 2009; Krzakala et al. 2012). The ceiling for deep decoders of a
    random linear encoding; a result above it is a bug. Accurate to 1e-6 relative.

    Args:
        density: p, numbers in [1e-5, 1].

    Raises:
        InputError: a density outside [1e-5, 1].
    """
    check_interval("bayes_amp_ratio", "density", density, 1e-5, 1)
    density = np.asarray(density, dtype=np.float64)
    delta = np.vectorize(_bayes_amp_delta, otypes=[np.float64])(density)
    return 1 / np.maximum(delta, density)  # mmse/sigma^2 tends to p as sigma does to 0, below the searched range


def _bayes_amp_delta(density: float) -> float:
    def negative(log_sigma: float) -> float:
        sigma = np.exp(log_sigma)
        return -_mmse(sigma, density) / sigma**2

    grid = np.linspace(np.log(1e-3), np.log(3.0), 50)
    best = int(np.argmin([negative(u) for u in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return -minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-6}).fun
