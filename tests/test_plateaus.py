import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toysup import stats
from toysup.checks import InputError


def test_a_plateau_is_as_long_as_it_was_made():
    """y = e^-x, held at 1/2 from x = ln 2 for a length of 1.5: within 5% that adds ln(1.05 / 0.95)."""
    x = np.array([0, np.log(2), np.log(2) + 1.5, np.log(2) + 3])
    y = np.exp(-np.array([0, np.log(2), np.log(2), np.log(2) + 1.5]))
    found = stats.stretches(x, y[None], [0.5, 0.8, 2.0], 0.05)
    np.testing.assert_allclose(found, [[1.5 + np.log(1.05 / 0.95), np.log(1.05 / 0.95), 0]])


def test_each_curve_is_measured_alone():
    x = np.array([0.0, 1, 2])
    flat, steep = [1.0, 1, 1], [1.0, 0.1, 0.01]
    np.testing.assert_allclose(stats.stretches(x, [flat, steep], 1.0, 0.1), [[2], [np.log(1 / 0.9) / np.log(10)]])


def test_the_longest_of_two_stretches_counts_and_they_are_not_added():
    x = np.arange(8.0)
    y = np.array([1, 1, 9, 9, 1, 1, 1, 9.0])
    edges = np.log(1.1) / np.log(9)  # what each jump spends in the band
    np.testing.assert_allclose(stats.stretches(x, y[None], 1.0, 0.1), [[2 + 2 * edges]])


@given(
    st.lists(st.floats(0.05, 2), min_size=2, max_size=8),
    st.floats(0.1, 1.5),
    st.floats(0.01, 0.5),
    st.floats(0.5, 2),
)
def test_stretches_scale_with_x_and_see_only_ratios_of_y(values, level, within, factor):
    x, y = np.arange(float(len(values))), np.array([values])
    found = stats.stretches(x, y, level, within)
    assert 0 <= found <= x[-1] + 1e-9
    np.testing.assert_allclose(stats.stretches(3 * x, y, level, within), 3 * found, atol=1e-9)
    assert stats.stretches(x, y, level, min(0.9, 2 * within)) >= found - 1e-9
    backwards = stats.stretches(x, y[:, ::-1], level, within)
    np.testing.assert_allclose(backwards, found, atol=1e-6)


def test_log_linear_stretch_is_the_stretch_of_a_straight_line():
    x = np.linspace(0, 4.6, 20)
    straight = np.exp(-0.7 * x)[None]
    wanted = np.log(1.05 / 0.95) / 0.7
    np.testing.assert_allclose(stats.stretches(x, straight, 0.5, 0.05), [[wanted]])
    np.testing.assert_allclose(stats.log_linear_stretch(x, straight, 0.5, 0.05), [wanted])
    held = np.where((x > 0.5) & (x < 2), 0.5, straight)
    np.testing.assert_allclose(stats.log_linear_stretch(x, held, 0.5, 0.05), [wanted])  # the ends alone count


@pytest.mark.parametrize(
    ("x", "y", "within", "message"),
    [
        ([0, 1], [1, 1], 0.1, "expected x"),
        ([0, 1], [[1, 1, 1]], 0.1, "expected x"),
        ([1, 0], [[1, 1]], 0.1, "x must ascend"),
        ([0, 1], [[1, 0]], 0.1, "y must lie in"),
        ([0, 1], [[1, 1]], 1.0, "within must lie in"),
    ],
)
def test_bad_input_is_named(x, y, within, message):
    with pytest.raises(InputError, match=message):
        stats.stretches(x, y, 1.0, within)
