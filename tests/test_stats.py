"""Laws, closed forms and coverage of the statistics. Every draw has a fixed seed, so no test can fail by chance."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from toysup import stats
from toysup.checks import InputError
from toysup.stats import Interval

LOADS = np.array([0.25, 0.5, 1, 2, 3, 4])
finite = st.floats(-1e6, 1e6)
verdicts = st.sampled_from(["supported", "rejected", "undecided"])


def covered(intervals, truth):
    """The share of intervals that hold the truth."""
    return np.mean([not interval.excludes(truth) for interval in intervals])


def counts(matrix):
    """A tidy table of a (seed, load) matrix."""
    seeds, loads = np.indices(matrix.shape)
    return pd.DataFrame({"seed": seeds.ravel(), "load": LOADS[loads.ravel()], "recovered": matrix.ravel()})


# --- verdicts


@given(st.tuples(finite, finite).map(sorted), st.tuples(finite, finite).map(sorted))
def test_decide_has_three_outcomes(ends, region):
    (low, high), (left, right) = ends, region
    verdict = stats.decide(Interval(low, low, high), inside=(left, right))
    inside, outside = left <= low and high <= right, high < left or low > right
    assert verdict == ("supported" if inside else "rejected" if outside else "undecided")


@given(st.tuples(finite, finite).map(sorted), finite, st.floats(0, 10))
def test_a_wider_interval_never_turns_one_verdict_into_its_opposite(ends, x, more):
    low, high = ends
    narrow = stats.decide(Interval(low, low, high), inside=abs(x))
    wide = stats.decide(Interval(low, low - more, high + more), inside=abs(x))
    assert wide in (narrow, "undecided")


def test_decide_never_judges_what_is_not_known():
    assert stats.decide(stats.UNDEFINED, inside=(0, 1)) == "undecided"
    assert stats.decide(Interval(0.5, -np.inf, np.inf), inside=(0, 1)) == "undecided"
    assert stats.decide(Interval(2, 1.5, np.inf), inside=(1, np.inf)) == "supported"
    with pytest.raises(InputError, match="low <= high"):
        stats.decide(Interval(0, 0, 0), inside=(1, 0))


@given(st.lists(verdicts, min_size=1), st.lists(verdicts, min_size=1))
def test_every_is_a_three_valued_and(first, second):
    together = stats.every(*first, *second)
    assert together == stats.every(stats.every(*first), stats.every(*second)) == stats.every(*second, *first)
    assert (together == "supported") == all(v == "supported" for v in first + second)
    assert (together == "rejected") == any(v == "rejected" for v in first + second)


# --- intervals


def test_mean_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=7)
    found = stats.mean(x)
    expected = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)  # the same formula: rounding only
    assert stats.mean([3.0]) == Interval(3, -np.inf, np.inf)
    assert stats.mean([3.0, 3.0]) == Interval(3, 3, 3)
    shares = [0.98, 1.0, 0.9, 1.0]
    plain, cut = stats.mean(shares), stats.mean(shares, bounds=(0, 1))
    assert plain.high > 1 and cut == Interval(plain.value, plain.low, 1) and stats.mean([1.0], bounds=(0, 1)).low == 0
    assert stats.mean([np.nan, 1, 2], skipna=True) == stats.mean([1, 2])
    assert np.isnan(stats.mean([np.nan], skipna=True).value)
    with pytest.raises(InputError, match="samples must lie in bounds"):
        stats.mean([1.1], bounds=(0, 1))


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]], [1.0, np.nan]])
def test_samples_are_one_finite_number_per_seed(bad):
    for function in (stats.mean, lambda x: stats.ratio(x, [1.0]), lambda x: stats.tost(x, 0.01)):
        with pytest.raises(InputError) as error:
            function(bad)
        assert "\n" not in str(error.value)


@given(st.integers(0, 50), st.integers(0, 50))
def test_share_is_wilsons_closed_form(a, b):
    found, n, z = stats.share(a, a + b), a + b, scipy_stats.norm.ppf(0.975)
    if not n:
        assert math.isnan(found.value) and (found.low, found.high) == (0, 1)
        return
    p = a / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    ends = (np.array([-half, half]) + p + z**2 / (2 * n)) / (1 + z**2 / n)
    np.testing.assert_allclose([found.low, found.high], ends, atol=1e-12)  # the same formula: rounding only
    assert 0 <= found.low <= found.value + 1e-12 and found.value <= found.high + 1e-12 <= 1 + 1e-9


def test_share_refuses_more_successes_than_trials():
    with pytest.raises(InputError, match="at most trials = 3, got 4"):
        stats.share(4, 3)


def test_a_share_of_flags():
    assert stats.share(np.array([True, False, True])) == stats.share([1, 0, 1]) == stats.share(2, 3)
    with pytest.raises(InputError, match="a flag for each trial"):
        stats.share([0.5, 1])


def test_mean_share_is_share_for_yes_and_no_and_wider_between():
    assert stats.mean_share([1, 1, 0, 1, 0, 0, 0, 0]) == stats.share(3, 8)
    ones = stats.mean_share(np.ones(64))
    assert ones.value == ones.high == 1 and 0.9 < ones.low < 0.95  # not [1, 1]
    found = stats.mean_share([0.5, 0.25])
    assert (found.value, found.low, found.high) == (0.375, stats.share(0, 2).low, stats.share(1, 2).high)
    with pytest.raises(InputError, match="must lie in"):
        stats.mean_share([0.5, 1.5])


def test_mean_share_covers_at_least_as_often_as_it_says():
    rng = np.random.default_rng(3)
    found = [stats.mean_share(rng.beta(0.3, 0.1, size=30)) for _ in range(1000)]
    assert covered(found, 0.75) > 0.95 - 0.028  # 4 standard errors of a share of .95 in 1000 are .028


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_ratio_covers_the_true_ratio(paired, noise):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(1000):
        shared = rng.normal(size=8) if paired else 0
        b = 10 * (1 + noise * (rng.normal(size=8) + shared) / 2)
        found.append(stats.ratio(5 * (1 + noise * (rng.normal(size=8) + shared) / 2), b, paired=paired))
    assert abs(covered(found, 0.5) - 0.95) < 0.03  # 4 standard errors of a share of .95 in 1000 are .028


def test_pairing_narrows_the_ratio_of_samples_that_move_together():
    rng = np.random.default_rng(0)
    b = rng.uniform(5, 15, 8)
    a = 2 * b * (1 + 0.01 * rng.normal(size=8))
    paired, apart = stats.ratio(a, b, paired=True), stats.ratio(a, b)
    assert paired.value == apart.value
    assert paired.high - paired.low < 0.2 * (apart.high - apart.low)


@given(st.lists(st.floats(0.1, 100), min_size=2, max_size=6), st.lists(st.floats(0.1, 100), min_size=2, max_size=6))
def test_ratio_and_its_inverse_say_the_same(a, b):
    there, back = stats.ratio(a, b), stats.ratio(b, a)
    expected = [1 / back.value, 1 / back.high, 1 / back.low]
    np.testing.assert_allclose([there.value, there.low, there.high], expected, rtol=1e-6)  # rounding through exp and t


def test_ratio_at_its_limits():
    assert stats.ratio([2, 2], [1, 1]) == stats.ratio([2, 2], [1, 1], paired=True) == Interval(2, 2, 2)
    assert stats.ratio([0, 0], [1, 2]) == Interval(0, 0, 0)
    assert stats.ratio([3], [2, 2]) == Interval(1.5, -np.inf, np.inf)
    assert math.isnan(stats.ratio([1, 2], [0, 0]).value)
    with pytest.raises(InputError, match="one length, got 2 and 3"):
        stats.ratio([1, 2], [1, 2, 3], paired=True)
    with pytest.raises(InputError, match="same index"):
        stats.ratio(pd.Series([1, 2], index=[0, 1]), pd.Series([1, 2], index=[1, 2]), paired=True)
    with pytest.raises(InputError, match=r"must lie in \[0, inf\], got -1"):
        stats.ratio([1, -1], [1, 2])


# --- bootstrap


def test_bootstrap_covers_the_mean_of_few_samples():
    rng = np.random.default_rng(2)
    found = [stats.bootstrap(np.mean, rng.normal(1, 1, 6), resamples=300) for _ in range(300)]
    assert covered(found, 1) > 0.89  # nominal .95 less 4 standard errors (.0126) = .90; .86 at BCa's own level


def test_bootstrap_follows_the_function_and_the_seed():
    x = np.random.default_rng(0).exponential(size=(12, 3))  # rows stay whole: here one row holds three numbers
    found = stats.bootstrap(lambda rows: np.median(rows.sum(1)), x, resamples=200)
    doubled = stats.bootstrap(lambda rows: 2 * np.median(rows.sum(1)), x, resamples=200)
    assert found.low < found.value < found.high
    np.testing.assert_allclose(list(doubled.asdict().values()), [2 * v for v in found.asdict().values()])
    assert found == stats.bootstrap(lambda rows: np.median(rows.sum(1)), x, resamples=200)


def test_bootstrap_keeps_pairs_together():
    b = np.arange(1.0, 11)
    paired = stats.bootstrap(lambda x, y: x.mean() / y.mean(), 2 * b, b, paired=True, resamples=200)
    apart = stats.bootstrap(lambda x, y: x.mean() / y.mean(), 2 * b, b, resamples=200)
    np.testing.assert_allclose([paired.low, paired.high], 2)
    assert apart.high - apart.low > 1
    with pytest.raises(InputError, match="of one length"):
        stats.bootstrap(np.mean, b, b[:3], paired=True)


def test_bootstrap_falls_back_quietly_where_bca_is_undefined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stats.bootstrap(np.mean, np.ones(5), resamples=50) == Interval(1, 1, 1)
        assert stats.bootstrap(np.mean, [4.0]) == Interval(4, -np.inf, np.inf)
        assert math.isnan(stats.bootstrap(np.mean, [1.0, np.nan]).value)
        held = stats.bootstrap(np.max, np.arange(9.0), resamples=200)  # BCa is known to fail for extremes
    assert held.low <= held.value <= held.high == 8


# --- capacity


def test_capacity_is_the_exact_supremum_without_noise():
    curve = np.array([5, 10, 18, 20, 19, 17.0])
    found = stats.capacity(counts(np.tile(curve, (4, 1))))
    assert (found["recovered"] == 20).all() and (found["held_out"] == 20).all() and (found["load"] == 2).all()


def test_capacity_takes_little_of_the_bias_of_a_maximum_and_held_out_none():
    """On pure noise every load is worth 20. In standard errors of the mean of 8 seeds, x 1.27 = E max of 6 normals."""
    rng = np.random.default_rng(3)
    draws = 20 + rng.normal(size=(400, 8, 6))
    found = [stats.capacity(counts(matrix)) for matrix in draws]
    bias = {name: np.mean([f[name].mean() for f in found]) - 20 for name in ("recovered", "held_out")}
    naive = draws.max(2).mean() - 20
    error = 4 * np.sqrt(
        2 / 8 / 400
    )  # 4 standard errors of the mean of 400; selection at most doubles a variance of 1/8
    assert abs(naive - 1.267) < error  # the positive control: the bias is there to be found
    assert abs(bias["held_out"]) < error
    assert abs(bias["recovered"] - 1.267 / np.sqrt(8)) < error


def test_capacity_gives_ratios_that_cover_though_one_shape_is_noisier():
    rng = np.random.default_rng(4)
    curve = 1 - np.exp(-1.2 * LOADS)
    own, common = [], []
    for _ in range(200):
        a, b = (top * (curve + sd * rng.normal(size=(8, 6))) for top, sd in ((20, 0.02), (10, 0.08)))
        own.append(stats.ratio(b.max(1), a.max(1)))
        common.append(stats.ratio(stats.capacity(counts(b)).recovered, stats.capacity(counts(a)).recovered))
    assert covered(common, 0.5) > 0.88  # nominal .95 less 4 standard errors (.015), as for any sound interval
    assert covered(own, 0.5) < 0.75  # the positive control: own maxima favour the noisier shape


def test_capacities_are_those_of_each_shape():
    shapes = {8: counts(np.tile([5, 9, 7.0, 6, 5, 4], (3, 1))), 16: counts(np.arange(18.0).reshape(3, 6))}
    table = pd.concat([own.assign(width=width) for width, own in shapes.items()])
    for column in ("recovered", "load", "held_out"):
        found = stats.capacities(table, "width", column)
        assert list(found) == [8, 16]
        for width, own in shapes.items():
            np.testing.assert_array_equal(found[width], stats.capacity(own)[column])
    with pytest.raises(InputError, match="no column 'depth'"):
        stats.capacities(table, "depth")


def test_capacity_skips_what_diverged_and_names_what_is_wrong():
    matrix = np.array([[1, 5, 9], [1, np.nan, 8], [2, 6, np.nan]])
    found = stats.capacity(counts(matrix))
    assert found["recovered"].tolist() == [9, 8, 6] and found["load"].tolist() == [1, 1, 0.5]
    assert stats.capacity(counts(matrix[:1]))["held_out"].tolist() == [9]
    with pytest.raises(InputError, match=r"one row per \(seed, load\)"):
        stats.capacity(pd.concat([counts(matrix)] * 2))
    with pytest.raises(InputError, match=r"seeds \[1\]"):
        stats.capacity(counts(np.array([[1.0], [np.nan]])))
    with pytest.raises(InputError, match="no column 'F'"):
        stats.capacity(counts(matrix), recovered="F")


# --- equivalence


def test_tost_finds_identical_losses_equivalent_and_shifted_ones_not():
    noise = 1e-3 * np.random.default_rng(0).normal(size=8)
    assert stats.tost(np.zeros(8), 0.01)[0]
    assert stats.tost(noise, 0.01)[0]
    for shift in (0.02, -0.02):
        equivalent, interval = stats.tost(noise + shift, 0.01)
        assert not equivalent
        assert stats.decide(interval, math.log1p(0.01)) == "rejected"
    assert stats.tost([0.0], 0.01)[0] is False  # one seed proves nothing


@given(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=10), st.floats(0.001, 0.2))
def test_tost_is_two_one_sided_t_tests_and_its_verdict(x, margin):
    equivalent, interval = stats.tost(x, margin)
    bound = math.log1p(margin)
    assert equivalent == (stats.decide(interval, bound) == "supported")
    spread = np.std(x, ddof=1) / math.sqrt(len(x))
    gap = bound - abs(np.mean(x)) - scipy_stats.t.ppf(0.95, len(x) - 1) * spread  # > 0: the harder test rejects
    if abs(gap) > 1e-9:
        assert equivalent == (gap > 0)


def test_tost_errs_at_most_at_its_level_on_the_edge_of_the_margin():
    rng = np.random.default_rng(5)
    draws = math.log1p(0.03) + 0.01 * rng.normal(size=(2000, 8))
    wrong = np.mean([stats.tost(x, 0.03)[0] for x in draws])
    assert abs(wrong - 0.05) < 0.02  # exact level .05 there; 4 standard errors of the share are .0195


# --- quantiles


def test_quantile_covers_as_it_says():
    rng = np.random.default_rng(0)
    found = [stats.quantile(rng.exponential(size=200), 0.9) for _ in range(1000)]
    assert 0.94 < covered(found, -math.log(0.1)) < 0.985  # order statistics are discrete: never below 95% in truth
    assert np.mean([one.value for one in found]) == pytest.approx(-math.log(0.1), rel=0.02)


def test_quantile_of_too_few_has_no_upper_end():
    assert stats.quantile([1.0, 2.0, 3.0], 0.95).high == math.inf
    with pytest.raises(InputError, match="q must lie in"):
        stats.quantile([1.0, 2.0], 1.0)


# -------------------------------------------------------------------------------------------------------- transitions


def test_a_clean_switch_lies_half_way_between_its_neighbours():
    x = np.array([0.0, 1, 2, 4, 8])
    for k in range(1, 5):
        assert stats.threshold(x, np.arange(5) >= k) == (x[k - 1] + x[k]) / 2
    assert stats.threshold(x, np.ones(5)) == 0 and stats.threshold(x, np.zeros(5)) == 8


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_no_place_has_fewer_points_on_the_wrong_side(above):
    x, above = np.arange(len(above), dtype=float), np.array(above)

    def wrong(at):
        return np.sum(above & (x < at)) + np.sum(~above & (x > at))

    assert wrong(stats.threshold(x, above)) <= min(wrong(at) for at in np.arange(-0.5, len(x)))


def test_a_threshold_is_found_through_noise():
    """A tenth of the points flipped: the threshold stays near the truth, and is half the axis off for pure noise."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 200)
    found = [stats.threshold(x, (x > 0.3) ^ (rng.random(200) < 0.1)) for _ in range(50)]
    assert np.mean(found) == pytest.approx(0.3, abs=0.02)
    assert np.std([stats.threshold(x, rng.random(200) < 0.5) for _ in range(50)]) > 0.2


@pytest.mark.parametrize(
    ("x", "above", "message"),
    [
        ([0, 1], [True], "threshold: expected x and above of one length >= 1, got (2,) and (1,)"),
        ([], [], "threshold: expected x and above of one length >= 1, got (0,) and (0,)"),
        ([1, 0], [True, False], "threshold: x must be finite and ascending"),
        ([0, np.nan], [True, False], "threshold: x must be finite and ascending"),
    ],
)
def test_a_threshold_needs_an_axis(x, above, message):
    with pytest.raises(InputError) as caught:
        stats.threshold(x, above)
    assert str(caught.value) == message


@pytest.mark.parametrize("slope", [-2.0, 0.5])
def test_curves_cross_where_their_medians_do(slope):
    """Exact on ln(first / second) = slope (x - 0.3), whatever the second; a far seed moves nothing, nor does NaN."""
    x = np.linspace(0, 0.6, 41)
    second = 1 + np.sin(9 * x) ** 2
    first = second * np.exp(slope * (x - 0.3))
    seeds = np.stack([first, first, 100 * first])
    seeds[0, ::2] = np.nan
    seeds[2, ::2] = first[::2]
    assert stats.crossing(seeds, second, x) == pytest.approx((0.3, slope), rel=1e-9)
    assert stats.crossing(second, seeds, x) == pytest.approx((0.3, -slope), rel=1e-9)
    assert np.isnan(stats.crossing(2 * second, second, x)).all()  # they never come near


def test_an_increasing_function_takes_an_interval_end_by_end():
    assert Interval(0, -np.inf, 2).transformed(np.exp) == Interval(1, 0, np.exp(2))
    assert stats.UNDEFINED.transformed(np.exp) is stats.UNDEFINED


def test_something_holds_up_to_where_it_is_no_longer_supported():
    yes, no, maybe = "supported", "rejected", "undecided"
    assert stats.holds_up_to({4.0: no, 1.0: yes, 2.0: maybe, 8.0: yes}) == Interval(2.0, 1.0, 4.0)
    nowhere = stats.holds_up_to({1.0: maybe, 2.0: no})
    assert (nowhere.low, nowhere.high) == (0, 2) and np.isnan(nowhere.value)
    everywhere = stats.holds_up_to({1.0: yes, 2.0: yes})
    assert (everywhere.low, everywhere.high) == (2, np.inf) and np.isnan(everywhere.value)
    with pytest.raises(InputError, match="holds_up_to: x"):
        stats.holds_up_to({0.0: yes})


def test_a_quotient_of_independent_intervals_adds_their_errors_in_logarithms():
    one, other = Interval(6, 6 * math.exp(-0.3), 6 * math.exp(0.6)), Interval(2, 2 * math.exp(-0.8), 2 * math.exp(0.4))
    found = stats.quotient(one, other)
    ends = [3, 3 * math.exp(-0.5), 3 * math.exp(1.0)]  # 3-4-5 triangles
    np.testing.assert_allclose([found.value, found.low, found.high], ends, rtol=1e-12)
    assert stats.quotient(one, Interval(2, 2, 2)).low == pytest.approx(one.low / 2)
    assert stats.quotient(Interval(6, 0, np.inf), other) == Interval(3, 0, np.inf)
    assert np.isnan(stats.quotient(stats.UNDEFINED, other).value)
    with pytest.raises(InputError, match="numerator must be positive"):
        stats.quotient(Interval(1, -1, 3), other)
