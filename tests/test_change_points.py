"""Change points, transitions and coincidences on series made by hand. Every draw has a fixed seed."""

import numpy as np
import pytest

from toysup import stats
from toysup.checks import InputError
from toysup.stats import around, change_points, coincidence, transitions


def steps(levels, samples=50):
    return np.repeat(np.asarray(levels, dtype=float), samples)


def sigmoid(time, middle, width):
    return 1 / (1 + np.exp(-(time - middle) / width))


# --- mean shifts


def test_finds_every_step_and_its_size():
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = change_points(steps([0, 1, 0.4, 0.4, 2]) + rng.normal(0, 0.1, 250))
        # a step of 6 noises or more is placed within a sample or two; level means of 50 samples have error 0.02
        assert len(found.index) == 3
        assert np.abs(found.index - [50, 100, 200]).max() <= 2
        assert np.abs(found.change[:, 0] - [1, -0.6, 1.6]).max() < 0.1


def test_without_noise_it_is_exact():
    found = change_points(steps([3, -1, 5]))
    assert found.index.tolist() == [50, 100]
    np.testing.assert_allclose(found.change[:, 0], [-4, 6])
    np.testing.assert_allclose(found.levels[:, 0], steps([3, -1, 5]))


@pytest.mark.parametrize("channels", [1, 5])
def test_no_change_rarely_gives_one(channels):
    """The docstring says about one series of 200 in 100; 5 in 500 are expected, over 14 have probability 2e-4."""
    rng = np.random.default_rng(1)
    false = sum(len(change_points(rng.normal(2, 3, (200, channels))).index) > 0 for _ in range(500))
    assert false <= 14


def test_a_constant_has_no_change():
    assert not len(change_points(np.full(100, 0.1)).index)
    assert not len(change_points(np.zeros(100)).index)


def test_channels_share_their_changes():
    rng = np.random.default_rng(2)
    series = np.stack([steps([0, 1, 1]), steps([0, 0, -2]), steps([5, 5, 5])], 1) + rng.normal(0, 0.1, (150, 3))
    found = change_points(series)
    assert np.abs(found.index - [50, 100]).max() <= 2 and found.change.shape == (2, 3)
    np.testing.assert_allclose(found.change, [[1, 0, 0], [0, -2, 0]], atol=0.1)


def test_resolution_hides_what_is_below_it():
    series = steps([0, 0.01, 1])
    assert change_points(series).index.tolist() == [50, 100]
    assert change_points(series, resolution=0.1).index.tolist() == [100]


def test_unit_and_offset_do_not_matter():
    rng = np.random.default_rng(3)
    series = steps([0, 1, 0]) + rng.normal(0, 0.2, 150)
    assert change_points(series).index.tolist() == change_points(1e4 * series - 7).index.tolist()


def test_least_is_the_shortest_segment():
    series = np.r_[np.zeros(50), 10, np.zeros(50)]
    assert change_points(series, resolution=1).index.tolist() == [50, 51]
    assert np.diff([0, *change_points(series, resolution=1, least=5).index, 101]).min() >= 5


# --- transitions


def test_sigmoids_are_transitions():
    rng = np.random.default_rng(4)
    time = np.arange(300)
    for _ in range(20):
        series = 0.5 * sigmoid(time, 80, 3) - 0.3 * sigmoid(time, 180, 4) + rng.normal(0, 0.003, 300)
        up, down = transitions(series, 0.1)
        assert abs(up.fastest - 80) <= 3 and abs(down.fastest - 180) <= 4
        # above half of its fastest slope a logistic covers 0.71 of its height; the fitted slope comes in few pieces
        assert 0.5 < up.change / 0.5 < 0.95 and 0.5 < down.change / -0.3 < 0.95
        assert up.start < 80 < up.stop and down.start < 180 < down.stop


@pytest.mark.parametrize(
    "series",
    [
        np.exp(-np.arange(200) / 30),
        np.linspace(0, 1, 200),
        np.linspace(0, 1, 200) ** 2,
        np.r_[np.linspace(0, 1, 100), np.ones(100)],
        np.full(200, 0.3),
    ],
    ids=["decay", "drift", "accelerating", "drift that ends", "constant"],
)
def test_bends_and_drifts_are_no_transitions(series):
    rng = np.random.default_rng(5)
    assert transitions(series, 0.1) == []
    assert transitions(series + rng.normal(0, 0.002, 200), 0.1) == []


def test_noise_is_no_transition():
    """Plateaus with noise of a tenth of the least change: no false alarm in 300."""
    rng = np.random.default_rng(6)
    assert sum(len(transitions(rng.normal(0.5, 0.01, 200), 0.1)) for _ in range(300)) == 0


def test_a_decay_with_a_drop_has_one_transition():
    time = np.arange(300)
    (drop,) = transitions(np.exp(-time / 20) - 0.2 * sigmoid(time, 200, 3), 0.05)
    assert abs(drop.fastest - 200) <= 2 and drop.change < 0


def test_a_move_that_ends_abruptly_is_fastest_at_its_end():
    time = np.arange(200.0)
    (move,) = transitions(np.where(time < 100, 0.5 * (time / 100) ** 6, 0.5), 0.1)
    assert 92 <= move.fastest <= 100


def test_least_change_counts():
    series = 0.2 * sigmoid(np.arange(200), 100, 3)
    assert len(transitions(series, 0.1)) == 1 and transitions(series, 0.25) == []


# --- coincidence


def test_perfect_coincidence():
    rng = np.random.default_rng(7)
    events = [np.sort(rng.uniform(0, 1000, 3)) for _ in range(60)]
    met = coincidence(events, events, 10, (0, 1000))
    assert (met.share == 1).all() and met.rows.tolist() == list(range(60))
    # three windows of 20 in 1000; overlaps and ends take a little
    assert met.shifted.mean() == pytest.approx(0.06, abs=0.005) and met.paired.mean() == pytest.approx(0.06, abs=0.01)


def test_independent_events_coincide_as_often_as_the_nulls():
    rng = np.random.default_rng(8)
    events, others = ([np.sort(rng.uniform(0, 1000, 4)) for _ in range(400)] for _ in range(2))
    met = coincidence(events, others, 25, (0, 1000))
    for null in (met.shifted, met.paired):
        assert not stats.mean(met.share - null, level=0.999).excludes(0)


def test_paired_knows_when_events_are_common():
    """All events of both kinds are early, independently: the shift null is fooled, the other instance is not."""
    rng = np.random.default_rng(9)
    events, others = ([np.sort(rng.uniform(0, 100, 3)) for _ in range(400)] for _ in range(2))
    met = coincidence(events, others, 10, (0, 1000))
    assert stats.mean(met.share - met.shifted).low > 0.2
    assert not stats.mean(met.share - met.paired, level=0.999).excludes(0)


def test_shares_by_hand():
    met = coincidence([[10, 50], [], [90]], [[12], [51], []], 2, (0, 100))
    assert met.rows.tolist() == [0, 2]
    np.testing.assert_allclose(met.share, [0.5, 0])
    np.testing.assert_allclose(met.shifted, [0.04, 0])
    # the first instance's 10 and 50 against [51]; the last's 90 against [12] and [51]
    np.testing.assert_allclose(met.paired, [0.5, 0])


def test_a_shift_around_the_circle():
    """The null is the average over all shifts of the share, also where windows overlap."""
    events, others, span = np.array([3.0, 40.0]), np.array([10.0, 13.0, 99.0]), 100
    shifts = np.arange(0, span, 0.01)
    moved = (others + shifts[:, None]) % span
    apart = np.abs(events[:, None, None] - moved)
    near = (np.minimum(apart, span - apart) <= 2.5).any(-1)
    met = coincidence([events], [others], 2.5, (0, span))
    assert met.shifted[0] == pytest.approx(near.mean(), abs=1e-3)
    assert np.isnan(met.paired[0])


def test_nothing_to_coincide():
    met = coincidence([[], []], [[1], []], 1, (0, 10))
    assert met.rows.size == met.share.size == met.shifted.size == met.paired.size == 0


# --- around events


def test_around_by_hand():
    values = np.array([[0.0, 1, 2, 3], [10, 20, 30, 40], [5, 5, 5, 5]])
    found = around(values, [[1], [0, 2], []], [-1, 0, 1])
    assert found.rows.tolist() == [0, 1]
    np.testing.assert_allclose(found.own, [[0, 1, 2], [20, 20, 30]])
    np.testing.assert_allclose(found.paired, [[10, 20, 30], [1, 1, 2]])


def test_around_outside_and_alone():
    found = around(np.arange(8.0).reshape(2, 4), [[0], []], [-2, 0])
    assert np.isnan(found.own[0, 0]) and found.own[0, 1] == 0 and np.isnan(found.paired).all()


def test_bad_input_is_refused():
    good = np.arange(10.0)
    for bad in (
        lambda: change_points(np.zeros((2, 3, 4))),
        lambda: change_points([1, 2]),
        lambda: change_points([*good, np.nan]),
        lambda: change_points(good, least=0),
        lambda: change_points(good, resolution=-1),
        lambda: transitions(np.zeros((9, 2)), 1),
        lambda: transitions(good, 0),
        lambda: transitions(good, 1, prominence=1),
        lambda: coincidence([[1]], [], 1, (0, 10)),
        lambda: coincidence([[1]], [[1]], 0, (0, 10)),
        lambda: coincidence([[1]], [[1]], 1, (10, 0)),
        lambda: coincidence([[11]], [[1]], 1, (0, 10)),
        lambda: around(good, [[1]], [0]),
        lambda: around(good[None], [[10]], [0]),
        lambda: around(good[None], [[1], [2]], [0]),
    ):
        with pytest.raises(InputError) as refused:
            bad()
        assert "\n" not in str(refused.value)
