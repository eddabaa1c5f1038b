"""When l1 minimisation recovers every sparse vector, or almost every one: by counting the faces of random polytopes.

Nonnegative k-sparse vectors are recovered from m = delta n Gaussian measurements as the faces of the simplex that
survive projection from n to m dimensions; signed ones as those of the cross-polytope (Donoho & Tanner 2005, PNAS
102:9446 and 9452; Donoho 2006, Discrete Comput. Geom. 35:617). The expected number of lost faces is
2 sum_{s >= 0} sum_F sum_G beta(F, G) gamma(G), G over the faces of m + 1 + 2 s dimensions that contain F
(Affentranger & Schneider 1992); beta is an internal angle, gamma an external one. With k = kappa n and faces of nu n
vertices all three grow or fall exponentially in n, at the rates

    faces G around F     (1 - kappa) H((nu - kappa) / (1 - kappa)), + (nu - kappa) ln 2 if signed
    internal angles      min_u (nu - kappa) ln(erfcx(u) / 2) + kappa u^2
    external angles      max_x -nu x^2 + (1 - nu) ln G(x), G(x) = erfc(-x) / 2, or erf(x) if signed
    faces F              H(kappa), + kappa ln 2 if signed: for the strong threshold, which asks for all of them

with H the entropy in nats. Internal angles are those of simplices; their rate is the saddle point of Donoho's (2006)
integral for B(1/(k + 1), nu n - k). The strong threshold is the least rho = k / m at which the sum of all four reaches
0 for some nu in [delta, 1]. Without the last the sum is a probability's: its largest value over nu in [kappa, 1] is
always 0, and the weak threshold is where that value lies at nu = delta.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import check_flag, check_interval, numbers_in

__all__ = ["l1_strong_threshold", "l1_threshold_by_faces"]

NU = 400  # face sizes searched before the largest exponent is refined


def _entropy(p: np.ndarray) -> np.ndarray:
    return scipy.special.entr(p) + scipy.special.entr(1 - p)


def _lowest(function: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Where a function with one minimum in [low, high] has it, elementwise, by golden sections."""
    shrink = (np.sqrt(5) - 1) / 2
    for _ in range(75):
        span = shrink * (high - low)
        left = function(high - span) < function(low + span)
        low, high = np.where(left, low, high - span), np.where(left, low + span, high)
    return (low + high) / 2


class _Rates:
    """The exponents, and what they are extreme at, for faces of nu n vertices."""

    def __init__(self, nu: ArrayLike, rho: float, delta: float, nonnegative: bool) -> None:
        self.nu, self.kappa, self.nonnegative = np.asarray(nu, dtype=np.float64), rho * delta, nonnegative
        nu = self.nu
        # G > 1 - exp(-x^2), so beyond x^2 = ln(1 / nu) + 3 more x only costs; and the slope of the internal rate,
        # 2 kappa u - (nu - kappa) / u at most, is positive beyond the square root of nu / kappa.
        self.x = _lowest(lambda x: -self._external(x), np.full_like(nu, 1e-9), np.sqrt(3 + np.log(1 / nu)))
        self.u = _lowest(self._internal, np.zeros_like(nu), np.sqrt(nu / self.kappa) + 1)

    def _log_g(self, x: np.ndarray) -> np.ndarray:
        return np.log(scipy.special.erfc(-x) / 2 if self.nonnegative else scipy.special.erf(x))

    def _external(self, x: np.ndarray) -> np.ndarray:
        return -self.nu * x**2 + (1 - self.nu) * self._log_g(x)

    def _internal(self, u: np.ndarray) -> np.ndarray:
        return (self.nu - self.kappa) * np.log(scipy.special.erfcx(u) / 2) + self.kappa * u**2

    def total(self) -> np.ndarray:
        """Of the expected number of lost faces: all four."""
        nu, kappa = self.nu, self.kappa
        around = (1 - kappa) * _entropy((nu - kappa) / (1 - kappa)) + _entropy(kappa)
        signs = 0 if self.nonnegative else nu * np.log(2)
        return around + signs + self._internal(self.u) + self._external(self.x)

    def slope(self) -> np.ndarray:
        """Its derivative by nu; the extremes over x and u do not contribute (envelope theorem)."""
        around = np.log((1 - self.nu) / (self.nu - self.kappa))
        signs = 0 if self.nonnegative else np.log(2)
        return around + signs + np.log(scipy.special.erfcx(self.u) / 2) - self.x**2 - self._log_g(self.x)


def _weak(delta: float, nonnegative: bool) -> float:
    return scipy.optimize.brentq(
        lambda rho: float(_Rates(delta, rho, delta, nonnegative).slope()), 1e-9, 1 - 1e-9, xtol=1e-12
    )


def _strong(delta: float, nonnegative: bool) -> float:
    grid = delta + (1 - delta) * np.linspace(0, 1, NU + 1)[:-1] ** 2  # mostly the largest is near delta

    def most(rho: float) -> float:
        values = _Rates(grid, rho, delta, nonnegative).total()
        best = int(np.argmax(values))
        ends = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        near = scipy.optimize.minimize_scalar(
            lambda nu: -float(_Rates(nu, rho, delta, nonnegative).total()), bounds=ends, method="bounded"
        )
        return max(float(values[best]), -near.fun)

    return scipy.optimize.brentq(most, 1e-6, 1 - 1e-6, xtol=1e-9)


def l1_threshold_by_faces(delta: ArrayLike, nonnegative: bool = True) -> np.ndarray:
    """The weak threshold of `l1_weak_threshold` by counting faces instead of by state evolution.

    Average-case and asymptotic, as there. A second route to the same curve, about 0.1 s per number: use the other.

    Args:
        delta: m/n, numbers in (0, 1); from 0.001 checked.
        nonnegative: whether the decoder may use that features are >= 0.

    Raises:
        InputError: a delta outside (0, 1).
    """
    check_flag("l1_threshold_by_faces", "nonnegative", nonnegative)
    check_interval("l1_threshold_by_faces", "delta", delta, 0, 1, open_low=True, open_high=True)
    delta = numbers_in("l1_threshold_by_faces", "delta", delta)
    return np.vectorize(lambda one: _weak(float(one), nonnegative), otypes=[np.float64])(delta)


def l1_strong_threshold(delta: ArrayLike, nonnegative: bool = True) -> np.ndarray:
    """rho = k/m up to which l1 minimisation recovers *every* k-sparse vector from m = delta n random measurements.

    Worst-case over vectors, for almost all Gaussian matrices, asymptotic (n to infinity at fixed delta and rho);
    sufficient for l1, and necessary if all vectors are asked for. Donoho & Tanner 2005 (simplex, non-negative), Donoho
    2006 (cross-polytope, signed). The least rho at which the exponent of the expected number of lost faces reaches 0,
    over faces of all sizes; see the head of this file.

    Args:
        delta: m/n, numbers in (0, 1); from 0.001 checked. About 0.1 s each.
        nonnegative: whether the decoder may use that features are >= 0.

    Raises:
        InputError: a delta outside (0, 1).
    """
    check_flag("l1_strong_threshold", "nonnegative", nonnegative)
    check_interval("l1_strong_threshold", "delta", delta, 0, 1, open_low=True, open_high=True)
    delta = numbers_in("l1_strong_threshold", "delta", delta)
    return np.vectorize(lambda one: _strong(float(one), nonnegative), otypes=[np.float64])(delta)
