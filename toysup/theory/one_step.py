"""How many sparse features one affine ReLU decode can read back from m dimensions: in theory, and sampled.

What a tied ReLU autoencoder can do: a linear encoding z = W^T W x, then relu(a z_i - b) for each feature. The notation
is that of `compressed_sensing`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import check_broadcast, check_choice, check_interval, check_kind, check_room, check_whole, numbers_in
from toysup.jit import njit
from toysup.theory.solve import bisect

__all__ = ["OneStep", "one_step_r2", "one_step_r2_gaussian", "one_step_ratio", "random_frame"]

Frame = Literal["tight", "random"]
FRAMES = get_args(Frame)


# ------------------------------------------------------------------------------------- one-step decoding, in theory


def _gaussian_gain(threshold: np.ndarray, sigma: np.ndarray, density: np.ndarray) -> np.ndarray:
    """C^2/Q at threshold t: what the best multiple of r = relu(x + sigma Z - t) takes off E x^2.

    M_k(mu) = E relu(mu + sigma Z)^k; since M_k' = k M_{k-1} the average over x ~ U[0, 1] is in closed form too.
    """

    def moments(mu):
        z = mu / sigma
        cdf, pdf = scipy.special.ndtr(z), np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
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
        InputError: a ratio or density out of range, or an unknown frame.
    """
    where = "one_step_r2_gaussian"
    check_choice(where, "frame", frame, FRAMES)
    tight = frame == "tight"
    check_interval(where, "ratio", ratio, 1 if tight else 0, open_low=not tight, open_high=True)
    ratio = numbers_in(where, "ratio", ratio)
    check_interval(where, "density", density, 0, 1, open_low=True)
    density = numbers_in(where, "density", density)
    check_broadcast(where, ratio=ratio, density=density)
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
        InputError: a density or R^2 out of range, or an unknown frame.
    """
    check_choice("one_step_ratio", "frame", frame, FRAMES)
    check_interval("one_step_ratio", "density", density, 0, 1, open_low=True)
    density = numbers_in("one_step_ratio", "density", density)
    check_interval("one_step_ratio", "r2", r2, 0, 1, open_low=True, open_high=True)
    r2 = numbers_in("one_step_ratio", "r2", r2)
    check_broadcast("one_step_ratio", density=density, r2=r2)
    density, r2 = np.broadcast_arrays(density, r2)
    low = 1.0 if frame == "tight" else 1e-9
    return bisect(lambda ratio: -_r2_gaussian(ratio, density, frame), -r2, low, 1e9, steps=50)


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
    _check_sizes("random_frame", n, m)
    check_kind("random_frame", "rng", rng, np.random.Generator)
    check_choice("random_frame", "frame", frame, FRAMES)
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


def _check_sizes(where: str, n: int, m: int) -> None:
    check_whole(where, "n", n)
    check_whole(where, "m", m)
    check_room(where, f"n = {n}, m = {m}", 24 * n * m)


@njit(fastmath=True)
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
        InputError: sizes that are not whole and positive, a density outside (0, 1], an unknown frame.
    """
    where = "one_step_r2"
    _check_sizes(where, n, m)
    frames = int(np.clip(1024 // n, 8, 64)) if frames is None else frames
    check_whole(where, "frames", frames, 2, 2**16 - 1)
    check_whole(where, "seed", seed, 0)
    check_choice(where, "frame", frame, FRAMES)
    check_interval(where, "density", density, 0, 1, open_low=True, one=True)
    density = float(density)
    samples = max(64, int(np.ceil(24000 / (density * n * frames)))) if samples is None else samples
    check_whole(where, "samples", samples, at_most=2**32 - 1)  # more than an hour
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


def _sparse_uniform(samples: int, n: int, density: float, rng: np.random.Generator) -> scipy.sparse.csr_array:
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
    return scipy.sparse.csr_array((values, where % n, rows), shape=(samples, n))
