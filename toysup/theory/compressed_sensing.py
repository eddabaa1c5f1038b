"""How many sparse features fit in m dimensions, by the thresholds of compressed sensing.

Vocabulary: `density` p is the probability that a feature is active, n features share m dimensions. The load is n/m;
compressed sensing calls m/n = delta and (active features)/m = rho, so that p = delta rho. Bounds that come from
counting, face counting and one-step decoding have files of their own.
"""

from __future__ import annotations

import itertools

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import check_broadcast, check_choice, check_flag, check_interval, numbers_in
from toysup.theory.solve import bisect

__all__ = [
    "MAGNITUDES",
    "bayes_amp_r2",
    "bayes_amp_ratio",
    "elhage_ratio",
    "inverse_density",
    "l1_ratio",
    "l1_weak_threshold",
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
    density = numbers_in("elhage_ratio", "density", density)
    with np.errstate(divide="ignore"):
        return 1 / (-density * np.log(density) + 0.0)


def inverse_density(density: ArrayLike) -> np.ndarray:
    """n/m = 1/p: on average as many features active as there are dimensions; Wu & Verdu 2010's limit."""
    check_interval("inverse_density", "density", density, 0, 1, open_low=True)
    return 1 / numbers_in("inverse_density", "density", density)


# ------------------------------------------------------------------------------------------------ l1 weak threshold


def _l1_curve(z: np.ndarray, kappa: float) -> tuple[np.ndarray, np.ndarray]:
    """(eps, delta) at the soft threshold z that is best for that eps.

    delta(eps) = min_z eps (1 + z^2) + (1 - eps) kappa g(z) with g(z) = (1 + z^2) Phi(-z) - z phi(z). Its derivative
    vanishes at eps/(1 - eps) = kappa (phi(z)/z - Phi(-z)), so z parametrises the whole curve. Mills' ratio keeps large
    z accurate.
    """
    phi = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    mills = np.sqrt(np.pi / 2) * scipy.special.erfcx(z / np.sqrt(2))
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
    check_flag("l1_weak_threshold", "nonnegative", nonnegative)
    check_interval("l1_weak_threshold", "delta", delta, 0, 1, open_low=True)
    delta = numbers_in("l1_weak_threshold", "delta", delta)
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
    check_flag("l1_ratio", "nonnegative", nonnegative)
    check_interval("l1_ratio", "density", density, 0, 1, open_low=True)
    density = numbers_in("l1_ratio", "density", density)
    kappa = 1.0 if nonnegative else 2.0
    z = bisect(lambda z: -_l1_curve(z, kappa)[0], -density, 1e-12, 37.0)
    return 1 / _l1_curve(z, kappa)[1]


# -------------------------------------------------------------------------------------------------------- Bayes-AMP


def _uniform(y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments k = 0, 1, 2 of u ~ U[0, 1] against the density of y: integrals over u of u^k phi((y - u)/sigma)/sigma."""
    near, far = (np.exp(-((v / sigma) ** 2) / 2) / np.sqrt(2 * np.pi) for v in (y, y - 1))
    # The two normal tails are subtracted on the side where both are small, else the far tail would be rounding alone.
    side = np.where(y < 0.5, 1.0, -1.0)
    zeroth = side * (scipy.special.ndtr(side * y / sigma) - scipy.special.ndtr(side * (y - 1) / sigma))
    first = y * zeroth + sigma * (near - far)
    second = (y**2 + sigma**2) * zeroth + sigma * (y * near - (y + 1) * far)
    return zeroth, first, second


def _boolean(y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for u = 1."""
    density = np.exp(-(((y - 1) / sigma) ** 2) / 2) / (np.sqrt(2 * np.pi) * sigma)
    return density, density, density


def _normal(y: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for u = |N(0, 1)|: a normal density in u, cut at 0."""
    total, width = 1 + sigma**2, sigma / np.sqrt(1 + sigma**2)
    mean = y / total
    scale = 2 * np.exp(-(y**2) / (2 * total)) / np.sqrt(2 * np.pi * total)
    z = mean / width
    cdf, pdf = scipy.special.ndtr(z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return scale * cdf, scale * (mean * cdf + width * pdf), scale * ((mean**2 + width**2) * cdf + mean * width * pdf)


# name -> (moments of the magnitude against the density of what is seen, its largest value as far as it matters, its
# first and second moments)
MAGNITUDES = {
    "uniform": (_uniform, 1.0, 1 / 2, 1 / 3),
    "boolean": (_boolean, 1.0, 1.0, 1.0),
    "normal": (_normal, 8.0, np.sqrt(2 / np.pi), 1.0),
}


def _mmse(sigma: float, density: float, magnitudes: str = "uniform") -> float:
    """E Var(x | x + sigma Z), x = 0 but a magnitude with probability `density`; Gauss-Legendre panels of 3 sigma."""
    moments, top, *_ = MAGNITUDES[magnitudes]
    edges = np.linspace(-8 * sigma, top + 8 * sigma, int(np.ceil((top / sigma + 16) / 3)) + 1)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    y = (edges[:-1, None] + half) + half * nodes
    zeroth, first, second = moments(y, sigma)
    off = np.exp(-((y / sigma) ** 2) / 2) / (np.sqrt(2 * np.pi) * sigma)
    evidence = density * zeroth + (1 - density) * off
    seen = evidence > 0
    spread = density * second - (density * first) ** 2 / np.where(seen, evidence, 1.0)
    return float(np.sum(weights * half * np.where(seen, np.maximum(spread, 0.0), 0.0)))


def bayes_amp_ratio(density: ArrayLike, magnitudes: str = "uniform") -> np.ndarray:
    """n/m up to which Bayes-optimal approximate message passing recovers sparse features exactly, without noise.

    1/delta* with delta* = sup_sigma mmse(sigma)/sigma^2: below it state evolution sigma^2 <- mmse(sigma)/delta has a
    fixed point above 0 (Donoho, Maleki & Montanari 2009; Krzakala et al. 2012). Average-case and asymptotic, for x
    with independent entries and a random linear encoding with independent entries; sufficient for this decoder, and
    the ceiling of what is known to be decoded in polynomial time. A result above it, as to exact recovery, is a bug.
    Accurate to 1e-6 relative.

    Args:
        density: p, numbers in [1e-5, 1].
        magnitudes: of active features: "uniform" U[0, 1], "boolean" 1, "normal" |N(0, 1)|.

    Raises:
        InputError: a density outside [1e-5, 1], magnitudes that have no name here.
    """
    density = _prior("bayes_amp_ratio", density, magnitudes)
    delta = np.vectorize(_bayes_amp_delta, otypes=[np.float64], excluded=[1])(density, magnitudes)
    # As sigma falls to 0, below the searched range, mmse/sigma^2 tends to p, or to 0 for magnitudes without a density.
    with np.errstate(divide="ignore"):  # booleans that are always on need no dimension
        return 1 / (delta if magnitudes == "boolean" else np.maximum(delta, density))


def _prior(where: str, density: ArrayLike, magnitudes: str) -> np.ndarray:
    check_interval(where, "density", density, 1e-5, 1)
    check_choice(where, "magnitudes", magnitudes, MAGNITUDES)
    return numbers_in(where, "density", density)


def bayes_amp_r2(ratio: ArrayLike, density: ArrayLike, magnitudes: str = "uniform") -> np.ndarray:
    """R^2 that Bayes-optimal message passing reaches at a load: 1 up to `bayes_amp_ratio`, then falling at a jump.

    1 - mmse(sigma) / Var x at the largest fixed point sigma^2 = (n/m) mmse(sigma) of state evolution (Donoho, Maleki &
    Montanari 2009; Bayati & Montanari 2011), where the algorithm stops when it starts knowing nothing. Average-case,
    asymptotic. (n/m) times it is the ceiling for F_eff / m of a decoder of any depth on a random linear code; its
    largest value over the load is `bayes_amp_ratio` itself for densities up to about 0.3.

    Args:
        ratio: n/m, numbers > 0. density: p, numbers in [1e-5, 1]; broadcast against `ratio`.
        magnitudes: as in `bayes_amp_ratio`.

    Raises:
        InputError: a ratio or density out of range, magnitudes that have no name here.
    """
    check_interval("bayes_amp_r2", "ratio", ratio, 0, open_low=True, open_high=True)
    density = _prior("bayes_amp_r2", density, magnitudes)
    ratio = numbers_in("bayes_amp_r2", "ratio", ratio)
    check_broadcast("bayes_amp_r2", ratio=ratio, density=density)
    ratio, density = np.broadcast_arrays(ratio, density)
    return np.vectorize(_bayes_amp_r2, otypes=[np.float64], excluded=[2])(ratio, density, magnitudes)


def _bayes_amp_r2(ratio: float, density: float, magnitudes: str) -> float:
    *_, mean, second = MAGNITUDES[magnitudes]
    variance = density * second - (density * mean) ** 2

    def growth(log_sigma: float) -> float:
        return ratio * _mmse(np.exp(log_sigma), density, magnitudes) / np.exp(2 * log_sigma) - 1

    # mmse is at most the variance, so no fixed point lies above ratio * variance
    grid = np.linspace(np.log(1e-3), 0.5 * np.log(ratio * variance) + 0.01, 120)[::-1]
    above = growth(grid[0])
    for upper, lower in itertools.pairwise(grid):
        below = growth(lower)
        if below > 0 >= above:
            fixed = np.exp(scipy.optimize.brentq(growth, lower, upper, xtol=1e-10))
            return 1 - _mmse(fixed, density, magnitudes) / variance
        above = below
    return 1.0


def _bayes_amp_delta(density: float, magnitudes: str) -> float:
    def negative(log_sigma: float) -> float:
        sigma = np.exp(log_sigma)
        return -_mmse(sigma, density, magnitudes) / sigma**2

    grid = np.linspace(np.log(1e-3), np.log(3.0), 50)
    best = int(np.argmin([negative(u) for u in grid]))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    return -scipy.optimize.minimize_scalar(negative, bounds=bounds, method="bounded", options={"xatol": 1e-6}).fun
