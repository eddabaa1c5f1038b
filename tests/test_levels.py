"""Values near levels: closed forms, and levels found in draws with a fixed seed."""

import numpy as np
import pytest

from toysup.checks import InputError
from toysup.stats import busiest_levels, near_levels


def test_share_by_hand():
    share, blurred = near_levels([0.5, 0.52, 0.9, 0.1], [0.5], 0.03, 0.1)
    # 0.5 and 0.52 are near; blurred by 0.1 each hits the window of 0.06 with probability 0.3, the others never
    assert share == 0.5 and blurred == pytest.approx(0.15)


def test_blurred_share_is_that_of_blurred_values():
    rng = np.random.default_rng(0)
    values, levels = rng.beta(2, 3, 300), [0, 0.4, 0.5, 0.9]
    moved = values + rng.uniform(-0.15, 0.15, (4000, 300))
    expected = near_levels(moved, levels, 0.03, 0.1)[0]
    assert near_levels(values, levels, 0.03, 0.15)[1] == pytest.approx(expected, abs=0.002)


def test_smooth_values_are_no_nearer_than_their_blur():
    values = np.linspace(-1, 2, 30_001)
    share, blurred = near_levels(values, [0.2, 0.5, 0.7], 0.03, 0.15)
    assert share == pytest.approx(0.06, abs=1e-3) and blurred == pytest.approx(share, abs=1e-3)


def test_finds_the_levels():
    rng = np.random.default_rng(1)
    truth = np.array([0.07, 0.4, 0.5, 0.8])
    values = np.r_[np.repeat(truth, [100, 400, 300, 200]) + rng.normal(0, 0.005, 1000), rng.uniform(0, 1, 200)]
    np.testing.assert_allclose(busiest_levels(values, 4, 0.03), truth, atol=0.02)
    np.testing.assert_allclose(busiest_levels(values, 1, 0.03), [0.4], atol=0.02)
    many = busiest_levels(values, 40, 0.03)
    assert np.diff(many).min() > 0.06 and near_levels(values, many, 0.03, 0.1)[0] > 0.9


def test_few_values():
    assert busiest_levels([], 3, 0.1).size == 0
    np.testing.assert_allclose(busiest_levels([1, 1, 5], 3, 0.1), [1, 5], atol=0.1)
    assert np.isnan(near_levels([], [1], 0.1, 0.1)).all()


def test_bad_input_is_refused():
    for bad in (
        lambda: near_levels([0.1], [0.5, 0.55], 0.03, 0.1),
        lambda: near_levels([0.1], [], 0.03, 0.1),
        lambda: near_levels([0.1], [0.5], 0, 0.1),
        lambda: near_levels([0.1], [0.5], 0.03, 0),
        lambda: near_levels([np.nan], [0.5], 0.03, 0.1),
        lambda: busiest_levels([0.1], 0, 0.03),
    ):
        with pytest.raises(InputError) as refused:
            bad()
        assert "\n" not in str(refused.value)
