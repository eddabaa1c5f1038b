"""What counting, packing and single correlations allow: references that name no decoder, or the simplest one.

n features share m dimensions, K of them are active at once, or each with probability p.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import ArrayLike

from toysup.checks import check_broadcast, check_interval, numbers_in

__all__ = [
    "ba_indyk_price_woodruff",
    "counting_ratio",
    "matched_filter_auc",
    "matched_filter_measurements",
    "pca_r2",
    "welch_coherence",
]


def _numbers(where: str, name: str, value: ArrayLike, low: float = 1) -> np.ndarray:
    check_interval(where, name, value, low, open_high=True)
    return numbers_in(where, name, value)


def counting_ratio(density: ArrayLike, bits: ArrayLike) -> np.ndarray:
    """n/m = b / H2(p): which features are active takes H2(p) bits each, and m neurons hold b bits each (Shannon 1948).

    Necessary, for any encoder and decoder, on average over samples, exact as n grows; it leaves the magnitudes out, so
    it is generous. b is not known for a trained network: the reference says what its precision would have to be.

    Args:
        density: p, numbers in (0, 1); H2(p) = -p log2 p - (1 - p) log2(1 - p).
        bits: usable bits per neuron, > 0.

    Raises:
        InputError: a density outside (0, 1), bits not positive.
    """
    check_interval("counting_ratio", "density", density, 0, 1, open_low=True, open_high=True)
    check_interval("counting_ratio", "bits", bits, 0, open_low=True, open_high=True)
    p, bits = numbers_in("counting_ratio", "density", density), numbers_in("counting_ratio", "bits", bits)
    check_broadcast("counting_ratio", density=p, bits=bits)
    return bits / scipy.stats.entropy(np.stack([p, 1 - p]), base=2, axis=0)


def ba_indyk_price_woodruff(n: ArrayLike, k: ArrayLike, C: ArrayLike = 2.0) -> np.ndarray:
    """m >= (1 - H_q(1/2)) k log2(q) / log2(4 + 2 C), q = floor(n / k): measurements that every *linear* sketch needs.

    Necessary, worst case, finite n: a matrix from which some decoder finds x' with |x - x'|_1 <= C min |x - x_k|_1 over
    k-sparse x_k, for every x (Ba, Indyk, Price & Woodruff 2010, SODA, theorem 3.1). The volume argument: a q-ary code
    of length k and distance k / 2 has q^(k (1 - H_q(1/2))) words (Gilbert-Varshamov); as k-sparse 0/1 vectors their
    images are the centres of disjoint copies of a body that grow by the factor 4 + 2 C at most. Nonlinear sketches are
    not bound by it, nor are decoders that only have to succeed on typical x.

    Args:
        n: features. k: active ones, with n / k >= 3 (at q = 2 the bound is 0). C: approximation factor, >= 1.

    Returns:
        The least m (not rounded); H_q(x) = x log_q((q - 1) / x) + (1 - x) log_q(1 / (1 - x)).

    Raises:
        InputError: n or k below 1, n / k below 2, C below 1.
    """
    where = "ba_indyk_price_woodruff"
    n, k, C = _numbers(where, "n", n), _numbers(where, "k", k), _numbers(where, "C", C)
    check_broadcast(where, n=n, k=k, C=C)
    check_interval(where, "n / k", n / k, 2, open_high=True)
    q = np.floor(n / k)
    half_entropy = (np.log(q - 1) + 2 * np.log(2)) / (2 * np.log(q))
    return (1 - half_entropy) * k * np.log2(q) / np.log2(4 + 2 * C)


def welch_coherence(n: ArrayLike, m: ArrayLike) -> np.ndarray:
    """sqrt((n-m)/(m(n-1))), 0 if n <= m: the least possible largest |<w_i, w_j>| of n unit vectors (Welch 1974).

    Necessary, worst pair, finite; reached by equiangular tight frames only.

    Raises:
        InputError: n or m below 1.
    """
    n, m = _numbers("welch_coherence", "n", n), _numbers("welch_coherence", "m", m)
    check_broadcast("welch_coherence", n=n, m=m)
    return np.sqrt(np.maximum(n - m, 0) / (m * np.maximum(n - 1, 1)))


def matched_filter_measurements(n: ArrayLike, k: ArrayLike) -> np.ndarray:
    """m = 2 K (sqrt(ln(n - K)) + sqrt(ln K))^2: where single correlations begin to tell all K active features apart.

    Sufficient for h = W x with random unit columns, x of K ones, each feature judged by <w_i, h> alone against one
    threshold; average-case, asymptotic (the largest of n - K normal variables of variance K/m must stay below the
    smallest of K around 1, each by its sqrt(2 ln) term; Fletcher, Rangan & Goyal 2009, IEEE Trans. Inf. Theory
    55:5758, treat the general case). At finite n the transition is wide.

    Args:
        n: features. k: active ones, 1 <= K < n.

    Raises:
        InputError: n or k below 1, k not below n.
    """
    where = "matched_filter_measurements"
    n, k = _numbers(where, "n", n), _numbers(where, "k", k)
    check_broadcast(where, n=n, k=k)
    check_interval(where, "n - k", n - k, 1, open_high=True)
    return 2 * k * (np.sqrt(np.log(n - k)) + np.sqrt(np.log(k))) ** 2


def matched_filter_auc(d: ArrayLike, k: ArrayLike) -> np.ndarray:
    """Phi(sqrt(d / (2 K))): how often <w_i, h> is larger for an active feature than for one that is not.

    Average-case, random unit columns in d dimensions, K ones active; the interference taken as normal of variance K/d
    on both sides, so for d and K of ten or more. Independent of n: ranking one feature against another never gets
    harder with more of them, which is why AUC counts grow without bound while R^2 counts do not.

    Args:
        d: dimensions. k: active features, >= 1.

    Raises:
        InputError: d or k below 1.
    """
    d, k = _numbers("matched_filter_auc", "d", d), _numbers("matched_filter_auc", "k", k)
    check_broadcast("matched_filter_auc", d=d, k=k)
    return scipy.special.ndtr(np.sqrt(d / (2 * k)))


def pca_r2(n: ArrayLike, m: ArrayLike) -> np.ndarray:
    """min(1, m / n): mean R^2 of n features of equal variance, uncorrelated, from any m linear measurements.

    Necessary for linear decoders and reached by PCA, finite and exact: R^2_i summed is the trace of a projection, so it
    is at most m (Pearson 1901; the linear model of Elhage et al. 2022 keeps m features whole). The floor of every plot.

    Raises:
        InputError: n or m below 1.
    """
    n, m = _numbers("pca_r2", "n", n), _numbers("pca_r2", "m", m)
    check_broadcast("pca_r2", n=n, m=m)
    return np.minimum(1, m / n)
