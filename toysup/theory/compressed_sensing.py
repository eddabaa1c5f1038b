"""How many sparse features fit in m dimensions, by every reference that needs no training.

Vocabulary: `density` p is the probability that a feature is active, n features share m dimensions, and an active
feature's magnitude is U[0, 1]. The load is n/m; compressed sensing calls m/n = delta and (active features)/m = rho, so
that p = delta rho.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numba
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import erfcx, ndtr

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

Frame = Literal["tight", "random"]


def _require(where: str, name: str, value: ArrayLike, low: float, high: float, brackets: str = "(]") -> np.ndarray:
    """`value` as float64, refused in one line unless every entry lies in the interval with these ends and brackets."""
    array = np.asarray(value, dtype=np.float64)
    above = array > low if brackets[0] == "(" else array >= low
    below = array < high if brackets[1] == ")" else array <= high
    good = above & below & np.isfinite(array)
    if not good.all():
        interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
        raise ValueError(f"{where}: {name} must lie in {interval}, got {array[~good].flat[0]:g}")
    return array


def _require_whole(where: str, name: str, value: int, at_least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{where}: {name} must be a whole number >= {at_least}, got {value!r}")


def _require_frame(where: str, frame: str) -> None:
    if frame not in ("tight", "random"):
        raise ValueError(f"{where}: frame must be 'tight' or 'random', got {frame!r}")


def _bisect(increasing, target, low: float, high: float, steps: int = 100) -> np.ndarray:
    """Where an increasing function of positive numbers reaches `target`, elementwise; bisects the logarithm."""
    low, high = np.full(np.shape(target), np.log(low)), np.full(np.shape(target), np.log(high))
    for _ in range(steps):
        middle = (low + high) / 2
        reached = increasing(np.exp(middle)) >= target
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.exp((low + high) / 2)


# ---------------------------------------------------------------------------------------------------- closed forms


def elhage_ratio(density: ArrayLike) -> np.ndarray:
    """n/m = 1/(p ln(1/p)): how superposition grows with sparsity (Elhage et al. 2022, "Toy Models of Superposition").

    A shape, not a cutoff: its constant is not determined. It falls with p only below p = 1/e and is infinite at p = 1.

    Args:
        density: p, numbers in (0, 1].

    Raises:
        ValueError: a density outside (0, 1].
    """
    density = _require("elhage_ratio", "density", density, 0, 1)
    with np.errstate(divide="ignore"):
        return 1 / (-density * np.log(density) + 0.0)


def inverse_density(density: ArrayLike) -> np.ndarray:
    """n/m = 1/p: on average as many features active as there are dimensions; Wu & Verdu 2010's limit."""
    return 1 / _require("inverse_density", "density", density, 0, 1)


def welch_coherence(n: ArrayLike, m: ArrayLike) -> np.ndarray:
    """sqrt((n-m)/(m(n-1))), 0 if n <= m: the least possible largest |<w_i, w_j>| of n unit vectors (Welch 1974).

    Raises:
        ValueError: n or m below 1.
    """
    n = _require("welch_coherence", "n", n, 1, np.inf, "[)")
    m = _require("welch_coherence", "m", m, 1, np.inf, "[)")
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
        ValueError: a delta outside (0, 1].
    """
    delta = _require("l1_weak_threshold", "delta", delta, 0, 1)
    kappa = 1.0 if nonnegative else 2.0
    z = _bisect(lambda z: -_l1_curve(z, kappa)[1], -delta, 1e-12, 37.0)
    return _l1_curve(z, kappa)[0] / delta


def l1_ratio(density: ArrayLike, nonnegative: bool = True) -> np.ndarray:
    """n/m at which features of this density sit exactly on the l1 weak threshold; see `l1_weak_threshold`.

    Args:
        density: p = k/n, numbers in (0, 1].

    Raises:
        ValueError: a density outside (0, 1].
    """
    density = _require("l1_ratio", "density", density, 0, 1)
    kappa = 1.0 if nonnegative else 2.0
    z = _bisect(lambda z: -_l1_curve(z, kappa)[0], -density, 1e-12, 37.0)
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
        ValueError: a density outside [1e-5, 1].
    """
    density = _require("bayes_amp_ratio", "density", density, 1e-5, 1, "[]")
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


# ------------------------------------------------------------------------------------- one-step decoding, in theory


def _gaussian_gain(threshold: np.ndarray, sigma: np.ndarray, density: np.ndarray) -> np.ndarray:
    """C^2/Q at threshold t: what the best multiple of r = relu(x + sigma Z - t) takes off E x^2.

    M_k(mu) = E relu(mu + sigma Z)^k; since M_k' = k M_{k-1} the average over x ~ U[0, 1] is in closed form too.
    """

    def moments(mu):
        z = mu / sigma
        cdf, pdf = ndtr(z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
        m2 = (mu**2 + sigma**2) * cdf + mu * sigma * pdf
        m3 = (mu**3 + 3 * mu * sigma**2) * cdf + (mu**2 * sigma + 2 * sigma**3) * pdf
        return m2, m3

    (off2, off3), (on2, on3) = moments(-threshold), moments(1 - threshold)
    return _gain(density, off2, off3, on2, on3)


def _gain(density, off2, off3, on2, on3):
    """C^2/Q from E relu(u)^2 and E relu(u)^3 at u = noise - t (off) and u = 1 + noise - t (fully on)."""
    square = (1 - density) * off2 + density * (on3 - off3) / 3
    cross = density * (on2 / 2 - (on3 - off3) / 6)
    usable = (square > 1e-30) & (cross > 0)
    return np.where(usable, cross, 0.0) ** 2 / np.where(usable, square, 1.0)


def one_step_r2_gaussian(ratio: ArrayLike, density: ArrayLike, frame: Frame = "tight") -> np.ndarray:
    """R^2 of the best one-step decode relu(a z - b) of a linear encoding, its interference taken as Gaussian.

    z = x + sigma Z with sigma^2 = Var(x) (n/m - 1) for a unit-norm tight frame and Var(x) n/m for random unit columns;
    Var(x) = p/3 - p^2/4; R^2 = 1 - min_{a,b} E(relu(a z - b) - x)^2 / Var(x). At a fixed threshold b/a the best a is in
    closed form, so only the threshold is searched. Optimistic when p n is small: see `one_step_r2`.

    Args:
        ratio: n/m, numbers >= 1 for a tight frame, > 0 for a random one.
        density: p, numbers in (0, 1]; broadcast against `ratio`.
        frame: "tight" or "random".

    Raises:
        ValueError: a ratio or density out of range, or an unknown frame.
    """
    where = "one_step_r2_gaussian"
    _require_frame(where, frame)
    ratio = _require(where, "ratio", ratio, *((1, np.inf, "[)") if frame == "tight" else (0, np.inf, "()")))
    density = _require(where, "density", density, 0, 1)
    return _r2_gaussian(*np.broadcast_arrays(ratio, density), frame)


def _r2_gaussian(ratio: np.ndarray, density: np.ndarray, frame: Frame) -> np.ndarray:
    variance = density / 3 - density**2 / 4
    noise = variance * (ratio - (frame == "tight"))
    sigma = np.sqrt(np.maximum(noise, 1e-24))[..., None]
    density = density[..., None]
    # The affine optimum without the ReLU has its threshold at -mean * noise/variance; the search starts well below it.
    low = -0.5 * density * sigma**2 / variance[..., None] - 3 * sigma
    high = 1 + 6 * sigma
    for points in (201, 21, 21, 21, 21):  # each round narrows to two cells of the one before: width 2.4e-6 of the range
        threshold = low + (high - low) * np.linspace(0, 1, points)
        gain = _gaussian_gain(threshold, sigma, density)
        best = np.argmax(gain, axis=-1)[..., None]
        cell = (high - low) / (points - 1)
        centre = np.take_along_axis(threshold, best, axis=-1)
        low, high = centre - cell, centre + cell
    residual = density[..., 0] / 3 - gain.max(axis=-1)
    return np.clip(1 - residual / variance, 0.0, 1.0)


def one_step_ratio(density: ArrayLike, r2: ArrayLike, frame: Frame = "tight") -> np.ndarray:
    """n/m up to which one-step decoding reaches this R^2 in the Gaussian form: the inverse of `one_step_r2_gaussian`.

    Args:
        density: p, numbers in (0, 1].
        r2: numbers in (0, 1); broadcast against `density`.
        frame: "tight" (n/m >= 1) or "random" (which may need n < m).

    Raises:
        ValueError: a density or R^2 out of range, or an unknown frame.
    """
    _require_frame("one_step_ratio", frame)
    density = _require("one_step_ratio", "density", density, 0, 1)
    r2 = _require("one_step_ratio", "r2", r2, 0, 1, "()")
    density, r2 = np.broadcast_arrays(density, r2)
    low = 1.0 if frame == "tight" else 1e-9
    return _bisect(lambda ratio: -_r2_gaussian(ratio, density, frame), -r2, low, 1e9, steps=50)


# -------------------------------------------------------------------------------------- one-step decoding, sampled


class OneStep(NamedTuple):
    """A Monte-Carlo R^2 in [0, 1] and its standard error."""

    r2: float
    standard_error: float


def random_frame(n: int, m: int, rng: np.random.Generator, frame: Frame = "random") -> np.ndarray:
    """n unit columns in m dimensions, shape (m, n): independent directions, or made a tight frame (W W^T = (n/m) 1).

    The tight frame is the random one after alternating projections between tight frames and unit columns (Tropp,
    Dhillon, Heath & Strohmer 2005), stopped once sum_{j != i} <w_i, w_j>^2 is n/m - 1 to 1e-6; with n <= m it is
    orthonormal.
    """
    columns = rng.standard_normal((m, n))
    columns /= np.linalg.norm(columns, axis=0)
    if frame == "tight" and n <= m:
        return np.linalg.qr(columns)[0]
    if frame == "tight":
        for _ in range(1000):
            values, vectors = np.linalg.eigh(columns @ columns.T)
            if np.ptp(values) < 1e-6 * n / m:
                break
            columns = (vectors / np.sqrt(values)) @ (vectors.T @ columns)
            columns /= np.linalg.norm(columns, axis=0)
    return columns


@numba.njit(cache=True, fastmath=True)
def _bin_moments(values, centre, low, per_unit, table):
    """Add 1, v, v^2, v^3 of each v = values[sample, feature] - centre[feature] to its bin of width 1/per_unit."""
    last = table.shape[0] - 1
    for s in range(values.shape[0]):
        for i in range(values.shape[1]):
            v = values[s, i] - centre[i]
            k = int((v - low) * per_unit)
            if v >= low:
                k = min(k, last)
                table[k, 0] += 1
                table[k, 1] += v
                table[k, 2] += v * v
                table[k, 3] += v * v * v


def one_step_r2(
    n: int,
    m: int,
    density: float,
    samples: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    frame: Frame = "random",
) -> OneStep:
    """R^2 of the best one-step decode at this very (n, m, p): a tied ReLU autoencoder with unit columns.

    h = W x with unit columns, z = W^T h, and feature i is decoded as relu(a (z_i - c_i) - b), c_i the mean of feature
    i's own interference (an autoencoder has a bias per feature), a and b shared and best for the frame. R^2 is the mean
    over features, relative to Var(x_i), so that n * r2 is comparable with a trained network's F_eff. Interference does
    not depend on the feature it falls on, so the average over x_i is taken in closed form, as is the best a; only the
    interference is sampled.

    Args:
        n: features. m: dimensions. density: p in (0, 1].
        samples: draws of x per frame; by default enough for 24,000 active features over all frames, at least 64.
        frames: independent draws of W, at least 2; their spread gives the standard error. By default 8, and more where
            n < 128, since small frames differ more. The defaults give a standard error below 0.01 for n >= 20 and take
            about 10 ms at p = 0.05, 0.1 s at p = 0.001.
        seed: of the NumPy Philox generator.
        frame: "random" unit columns or a "tight" frame (see `random_frame`).

    Raises:
        ValueError: sizes that are not whole and positive, a density outside (0, 1], an unknown frame.
    """
    where = "one_step_r2"
    _require_whole(where, "n", n)
    _require_whole(where, "m", m)
    frames = int(np.clip(1024 // n, 8, 64)) if frames is None else frames
    _require_whole(where, "frames", frames, 2)
    _require_whole(where, "seed", seed, 0)
    _require_frame(where, frame)
    density = float(_require(where, "density", density, 0, 1))
    samples = max(64, int(np.ceil(24000 / (density * n * frames)))) if samples is None else samples
    _require_whole(where, "samples", samples)
    rng = np.random.Generator(np.random.Philox(seed))
    r2 = [_frame_r2(random_frame(n, m, rng, frame), density, samples, rng) for _ in range(frames)]
    return OneStep(float(np.mean(r2)), float(np.std(r2, ddof=1) / np.sqrt(frames)))


def _frame_r2(columns: np.ndarray, density: float, samples: int, rng: np.random.Generator) -> float:
    n = columns.shape[1]
    variance = density / 3 - density**2 / 4
    gram_sums = columns.T @ columns.sum(axis=1) - 1
    noise = variance * max(np.sum((columns @ columns.T) ** 2) / n - 1, 1e-6)  # mean over i of sum_{j != i} <w_i, w_j>^2
    sigma = np.sqrt(noise)
    # The best of thresholds sigma/40 apart is within sigma/80 of the optimum; the loss is quadratic there: about 1e-4
    # of R^2.
    per_unit = int(np.clip(40 / sigma, 128, 4096))
    low = int(np.floor(-0.5 * density * noise / variance - 3 * sigma)) - 1
    bins = int(np.ceil(2 + 6 * sigma) - low) * per_unit
    table = np.zeros((bins, 4))
    columns = columns.astype(np.float32)
    centre = (density / 2 * gram_sums).astype(np.float32)
    chunk = max(1, 2**21 // n)  # 8 MiB of decoded values at a time
    for start in range(0, samples, chunk):
        x = _sparse_uniform(min(chunk, samples - start), n, density, rng)
        interference = (x @ columns.T) @ columns
        interference[np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), x.indices] -= x.data
        _bin_moments(interference, centre, low, per_unit, table)
    # Sums over {v > t} at the bins' lower edges t, hence E relu(v - t)^k, exactly for the sampled interference.
    s0, s1, s2, s3 = np.cumsum(table[::-1], axis=0)[::-1].T / (samples * n)
    t = low + np.arange(bins) / per_unit
    power2 = s2 - 2 * t * s1 + t**2 * s0
    power3 = s3 - 3 * t * s2 + 3 * t**2 * s1 - t**3 * s0
    gain = _gain(density, power2[per_unit:], power3[per_unit:], power2[:-per_unit], power3[:-per_unit])
    return float(np.clip(1 - (density / 3 - gain.max()) / variance, 0.0, 1.0))


def _sparse_uniform(samples: int, n: int, density: float, rng: np.random.Generator) -> sparse.csr_array:
    """x of shape (samples, n), float32: U[0, 1] with probability `density`, drawn by gaps between active ones."""
    total = samples * n
    where = np.zeros(0, dtype=np.int64)
    last = -1
    while last < total:
        gaps = rng.geometric(density, size=int(density * (total - last) + 5 * np.sqrt(density * total) + 10))
        where = np.concatenate([where, last + np.cumsum(gaps)])
        last = int(where[-1])
    where = where[where < total]
    rows = np.searchsorted(where, np.arange(samples + 1) * n)
    values = rng.random(len(where), dtype=np.float32)
    return sparse.csr_array((values, where % n, rows), shape=(samples, n))
