"""Double descent is found where a curve has it, and noise, falls and single rises are not taken for it."""

import numpy as np
import pandas as pd
import pytest

from toysup import stats
from toysup.checks import InputError

SIZES = [3, 10, 30, 100, 300, 1000]


def curves(logs, noise=0.01, seeds=8, seed=0):
    drawn = np.asarray(logs) + noise * np.random.default_rng(seed).normal(size=(seeds, len(logs)))
    return pd.DataFrame(np.exp(drawn), columns=SIZES[: len(logs)])


def test_the_turns_of_a_known_curve():
    found = stats.double_descent(curves([1.0, 0.5, 0.0, 2.0, 0.5, -1.0]))
    assert found.verdict == "supported"
    for factor, log in ((found.fall, 1.0), (found.rise, 2.0), (found.end, 3.0)):
        assert factor.low < np.exp(log) < factor.high
    assert (found.peak.low, found.peak.value, found.peak.high) == (100, 100, 100)


@pytest.mark.parametrize(
    "logs, verdict",
    [
        ([1.0, 0.8, 0.6, 0.4, 0.2, 0.0], "rejected"),  # falls only: no rise
        ([0.0, 0.0, 0.0, 2.0, 0.5, -1.0], "undecided"),  # no first fall
        ([1.0, 0.5, 0.0, 1.0, 2.0, 3.0], "rejected"),  # no second fall
    ],
)
def test_what_is_no_double_descent(logs, verdict):
    assert stats.double_descent(curves(logs)).verdict == verdict


def test_noise_alone_is_seldom_taken_for_it():
    """Each of three 95% intervals lies above 0 by chance in 2.5% of cases at most, and all three have to."""
    found = [stats.double_descent(curves([0.0] * 6, noise=0.3, seed=seed)) for seed in range(60)]
    assert sum(one.verdict == "supported" for one in found) <= 1
    rises = np.log([one.rise.value for one in found])
    assert abs(rises.mean()) < 5 * rises.std() / 60**0.5  # its own extremes would give 0.3 or more
    assert any(one.peak.low < one.peak.high for one in found)


def test_bad_losses_are_refused():
    good = curves([1.0, 0.0, 1.0, 0.0])
    for bad, message in (
        (good.iloc[:1], "expected two seeds and three sizes at least, got shape"),
        (good.iloc[:, :2], "expected two seeds and three sizes"),
        (good * [1, 1, np.nan, 1], "expected positive, finite losses"),
        (good - 10, "expected positive, finite losses"),
        (good[[3, 30, 10, 100]], "expected sizes in ascending order"),
    ):
        with pytest.raises(InputError, match=message):
            stats.double_descent(bad)
