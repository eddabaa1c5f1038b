"""Capacity laws, equivalence over shapes, suprema. Every draw has a fixed seed, so no test can fail by chance."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toysup import stats
from toysup.checks import InputError

LAWS = {"neurons": (1, 1), "width": (1, 0), "parameters": (2, 1), "width squared": (2, 0)}
SHAPES = [(d, depth, r) for d in (8, 16, 32) for depth in (1, 2, 8) for r in (1,)]


def covered(intervals, truth):
    """The share of intervals that hold the truth."""
    return np.mean([not interval.excludes(truth) for interval in intervals])


def power_law(a, b, misfit=0.0, noise=0.0, rng=None, shapes=SHAPES, instances=4, e=0.0, log=0.0):
    """F = 3 d^a L^b r^e (ln N)^log over cells, with an error per cell and one per instance."""
    rng = rng or np.random.default_rng(0)
    rows = []
    for d, depth, r in shapes:
        budget = 2 * d * d * depth * r
        cell = math.log(3) + a * math.log(d) + b * math.log(depth) + e * math.log(r) + log * math.log(math.log(budget))
        cell += misfit * rng.normal()
        rows += [(d, depth, math.log(r), budget, math.exp(cell + noise * rng.normal())) for _ in range(instances)]
    return pd.DataFrame(rows, columns=["width", "depth", "ln_ratio", "budget", "recovered"])


# --- exponents


def test_exponent_is_that_of_each_seeds_power_law():
    x, powers = np.array([2.0, 3, 7]), np.array([0.5, 1.5, 2.5])
    counts = pd.DataFrame(4 * x ** powers[:, None], columns=x)
    own = stats.mean(powers)
    for found in (stats.exponent(counts), stats.exponent(counts.set_axis(list("abc"), axis=1), x)):
        np.testing.assert_allclose(list(found.asdict().values()), [own.value, own.low, own.high], rtol=1e-9)
    assert np.isnan(stats.exponent(counts.mask(counts < 6, 0)).value) and np.isnan(stats.exponent(counts[[2.0]]).value)
    with pytest.raises(InputError, match="each of 3 columns"):
        stats.exponent(counts, x[:2])
    np.testing.assert_allclose(stats.slopes(counts), powers, rtol=1e-9)
    assert np.isnan(stats.slopes(counts[[2.0]])).tolist() == [True] * 3


def test_misfit_is_the_largest_residual_of_the_mean_power_law():
    law = pd.DataFrame([[1.0, 2, 4], [1, 2, 4]], columns=[1, 2, 4])
    assert stats.misfit(law) == pytest.approx(0, abs=1e-12)
    bent = law * [1, np.exp(0.3), 1]  # residuals of a bump of .3 amid three even places: .2 there, -.1 beside it
    assert stats.misfit(bent) == pytest.approx(0.2) and np.isnan(stats.misfit(0 * law))


@pytest.mark.parametrize(("law", "exponents"), LAWS.items())
def test_a_power_law_is_found_exactly_and_named(law, exponents):
    a, b = exponents
    fit = stats.fit_exponents(power_law(a, b), resamples=200)
    for interval, truth in ((fit.a, a), (fit.b, b), (fit.a_minus_2b, a - 2 * b)):
        np.testing.assert_allclose(list(interval.asdict().values()), truth, atol=1e-9)  # rounding of the solve
    assert fit.nearest == law and all(fit.beats(law, other) for other in LAWS if other != law)
    assert fit.laws.loc[law, "delta"] == 0 and fit.laws.loc[law, "scale"] < 1e-9
    assert abs(fit.laws.loc[law, "held_out"]) < 1e-9 and abs(fit.laws.loc["free", "held_out"]) < 1e-9
    assert fit.laws.drop(index=[law, "free"])["held_out"].min() > 0.1  # the others extrapolate by a factor or more


def test_intervals_cover_the_truth_and_verdicts_tell_the_laws_apart():
    rng = np.random.default_rng(6)
    found = [stats.fit_exponents(power_law(2, 1, 0.1, 0.02, rng), resamples=300) for _ in range(150)]
    for name, truth in (("a", 2), ("b", 1), ("a_minus_2b", 0)):
        assert covered([getattr(f, name) for f in found], truth) > 0.88  # .95 less 4 standard errors (.018)
    verdicts = pd.DataFrame([f.decided() for f in found])
    assert (verdicts["parameters"] == "rejected").mean() < 0.03  # the free fit must win by 10 as well
    assert not (verdicts[["neurons", "width", "width squared"]] == "supported").any(axis=None)
    sharp = stats.fit_exponents(power_law(2, 1, 0.02, 0.02, rng)).decided()
    others = {sharp[law] for law in LAWS if law != "parameters"}
    assert sharp["parameters"] == "supported" and others == {"rejected"}


def test_between_two_laws_nothing_is_supported():
    fit = stats.fit_exponents(power_law(1.7, 0.6, 0.02, 0.02, np.random.default_rng(3)))  # a - 2b = .5
    assert set(fit.decided().values()) == {"rejected"} and fit.beats("free", "parameters")
    loose = stats.fit_exponents(power_law(1.7, 0.6, 0.8, 0.02, np.random.default_rng(3)))
    assert set(loose.decided().values()) == {"undecided"} and loose.nearest


def test_aicc_is_that_of_normal_residuals():
    table = power_law(2, 1, 0.3, 0, np.random.default_rng(1), instances=1)
    laws = stats.fit_exponents(table, resamples=10).laws
    y = np.log(table["recovered"]) - 2 * np.log(table["width"]) - np.log(table["depth"])
    n, k, variance = len(y), 2, np.var(y)
    likelihood = -n / 2 * (math.log(2 * math.pi * variance) + 1)
    expected = 2 * k - 2 * likelihood + 2 * k * (k + 1) / (n - k - 1) - n * (math.log(2 * math.pi) + 1)
    assert laws.loc["parameters", "aicc"] == pytest.approx(expected)
    assert laws.loc["parameters", "scale"] == pytest.approx(np.std(y, ddof=1))
    assert laws["fitted"].to_dict() == {**dict.fromkeys(laws.index, 2), "free": 4}


def test_a_logarithm_of_the_budget_is_told_from_none():
    shapes = [(2**i, 2**j, 1) for i in range(2, 10) for j in range(4)]
    fit = stats.fit_exponents(power_law(2, 1, 0.01, 0, shapes=shapes, log=-1), resamples=100)
    assert fit.nearest == "parameters / log" and fit.laws.loc["parameters", "delta"] > 10
    assert not fit.beats("parameters / log", "parameters")  # they agree on a - 2b, which the rule asks about


def test_a_further_regressor_has_its_exponent():
    shapes = [(d, depth, r) for d, depth, _ in SHAPES for r in (0.5, 2)]
    table = power_law(1, 0, 0.02, 0.02, np.random.default_rng(2), shapes=shapes, e=0.7)
    fit = stats.fit_exponents(table, others=["ln_ratio"])
    assert not fit.others["ln_ratio"].excludes(0.7) and fit.others["ln_ratio"].within(0.6, 0.8)
    assert fit.decided()["width"] == "supported" and not fit.a.excludes(1)
    assert fit.laws["fitted"].to_dict() == {**dict.fromkeys(fit.laws.index, 3), "free": 5}


def test_the_largest_budgets_are_predicted_from_the_rest():
    table = power_law(2, 1)
    table["recovered"] *= np.where(table["budget"] == table["budget"].max(), math.exp(0.25), 1)  # it breaks the law
    fit = stats.fit_exponents(table, resamples=10)
    assert fit.laws.loc[["parameters", "free"], "held_out"].to_numpy() == pytest.approx(0.25)
    assert fit.laws.loc[["parameters", "free"], "held_out_bias"].to_numpy() == pytest.approx(0.25)
    assert set(fit.held_out["budget"]) == {table["budget"].max()} and len(fit.held_out) == len(fit.laws)
    more = stats.fit_exponents(table, resamples=10, hold_out=4.5).held_out
    assert set(more["budget"]) == {b for b in table["budget"] if b > table["budget"].max() / 4.5}
    np.testing.assert_allclose(more["error"], more["measured"] - more["predicted"], atol=1e-12)


def test_a_fit_says_when_it_cannot_know():
    few = stats.fit_exponents(power_law(2, 1, shapes=[(d, depth, 1) for d in (8, 16) for depth in (1, 2)]))
    assert abs(few.a.value - 2) < 1e-9 and few.a.low == -np.inf and few.a.high == np.inf
    assert set(few.decided().values()) == {"undecided"}
    line = pd.DataFrame({"width": [8, 16, 32], "depth": [16, 4, 1], "budget": 2048, "recovered": [1.0, 2, 3]})
    with pytest.raises(InputError, match="off one line"):  # a single budget: d^2 L is the same in every cell
        stats.fit_exponents(line)
    nothing = power_law(2, 1).assign(recovered=lambda t: t["recovered"].where(t["width"] > 8, 0))
    fit = stats.fit_exponents(nothing)
    assert math.isnan(fit.a.value) and set(fit.decided().values()) == {"undecided"} and fit.nearest == ""
    for change, words in (
        ({"count": "F"}, "no column 'F'"),
        ({"others": ["p"]}, "no column 'p'"),
        ({"hold_out": 1.0}, r"hold_out must lie in \(1"),
    ):
        with pytest.raises(InputError, match=words):
            stats.fit_exponents(power_law(2, 1), **change)
    for column in ("width", "depth", "budget"):
        with pytest.raises(InputError, match=f"{column} must lie in"):
            stats.fit_exponents(power_law(2, 1).assign(**{column: 0}))
    with pytest.raises(InputError, match="off one line"):  # a regressor that is the same everywhere tells nothing
        stats.fit_exponents(power_law(2, 1), others=["ln_ratio"])
    with pytest.raises(InputError, match="no law 'depth'"):
        fit.beats("depth", "width")


# --- equivalence


def losses(means, noise, rng, seeds=8):
    """One row per (shape, seed): what a seed's data do to all shapes alike cancels in pairs."""
    shared = 0.3 * rng.normal(size=seeds)
    rows = [(16 * (i + 1), 4, s, math.exp(m + shared[s] + noise * rng.normal())) for i, m in enumerate(means)
            for s in range(seeds)]  # fmt: skip
    return pd.DataFrame(rows, columns=["width", "depth", "seed", "loss"])


def test_shapes_are_equivalent_or_not_or_unknown():
    rng = np.random.default_rng(0)
    same = stats.equivalence(losses([0, 0.01, -0.01, 0], 0.002, rng), 0.03)
    assert same.verdict == "supported" and len(same.pairs) == 6 and set(same.pairs["verdict"]) == {"supported"}
    assert same.widest.within(0.015, 0.025)  # .01 - (-.01)
    assert stats.equivalence(losses([0, 0, 0.1], 0.002, rng), 0.03).verdict == "rejected"
    assert stats.equivalence(losses([0, 0, 0.03], 0.02, rng), 0.03).verdict == "undecided"
    assert stats.equivalence(losses([0, 0], 0, rng, seeds=1), 0.03).verdict == "undecided"  # one seed is never enough
    spread = stats.equivalence(losses([-0.02, 0, 0.02], 0.001, rng), 0.03)
    assert spread.verdict == "rejected" and spread.widest.value == pytest.approx(0.04, abs=0.003)  # each within of 0


def test_two_shapes_are_tost():
    table = losses([0, 0.02], 0.01, np.random.default_rng(4))
    first, second = (np.log(rows["loss"].to_numpy()) for _, rows in table.groupby("width"))
    whether, interval = stats.tost(second - first, 0.03)
    found = stats.equivalence(table, 0.03)
    assert (found.verdict == "supported") == whether
    assert found.pairs.loc[0, ["value", "low", "high"]].tolist() == pytest.approx(list(interval.asdict().values()))


def test_equivalence_errs_at_most_at_its_level_either_way():
    rng = np.random.default_rng(5)
    edge = math.log1p(0.03)
    found = [stats.equivalence(losses([0, edge, edge, edge], 0.004, rng), 0.03).verdict for _ in range(400)]
    assert found.count("supported") / 400 < 0.05 + 0.045  # 4 standard errors; the shapes share one that is at the edge
    assert found.count("rejected") / 400 < 0.05 + 0.045  # three pairs at the edge, each tested at .05 / 6


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)), st.floats(0.1, 10))
def test_equivalence_knows_neither_order_nor_unit(order, unit):
    table = losses([0, 0.01, 0.05], 0.01, np.random.default_rng(7))
    other = table.assign(width=[16 * (order[w // 16 - 1] + 1) for w in table["width"]], loss=unit * table["loss"])
    ours, theirs = stats.equivalence(table, 0.03), stats.equivalence(other, 0.03)
    assert ours.verdict == theirs.verdict and ours.widest.value == pytest.approx(theirs.widest.value)


def test_equivalence_refuses_what_it_cannot_pair():
    table = losses([0, 0, 0], 0.01, np.random.default_rng(0))
    for wrong, words in (
        (table.drop(index=0), r"shape \(16, 4\) lacks some of the 8 seeds"),
        (pd.concat([table, table]), "one row per"),
        (table[table["width"] == 16], "at least two shapes"),
        (table.assign(loss=0.0), "loss must lie in"),
        (table.drop(columns="seed"), "no column 'seed'"),
    ):
        with pytest.raises(InputError, match=words):
            stats.equivalence(wrong, 0.03)
    with pytest.raises(InputError, match="within must lie in"):
        stats.equivalence(table, 0.0)


# --- supremum

CURVES = {
    "flat": np.ones(6),
    "peak": np.array([0.3, 0.6, 0.9, 1, 0.85, 0.6]),
    "saturating": np.array([0.3, 0.6, 0.85, 0.95, 0.99, 1]),
    "broad": np.array([0.9, 0.96, 0.99, 1, 0.99, 0.96]),
}


def counts(matrix):
    """A tidy table of a (seed, load) matrix."""
    seeds, loads = np.indices(matrix.shape)
    return pd.DataFrame({"seed": seeds.ravel(), "load": loads.ravel() + 1.0, "recovered": matrix.ravel()})


@pytest.mark.parametrize("noise", [0.02, 0.15])
@pytest.mark.parametrize("name", CURVES)
def test_the_supremum_is_covered_where_each_seeds_own_maximum_is_not(name, noise):
    rng = np.random.default_rng(8)
    draws = [CURVES[name] * (1 + noise * rng.normal(size=(8, 6))) for _ in range(300)]
    found = [stats.supremum(counts(draw)) for draw in draws]
    assert covered(found, 1) > 0.95 - 0.05  # 4 standard errors of a share of 300
    assert np.mean([one.value for one in found]) < 1 + 4 * noise / math.sqrt(8 * 300)  # never pushed up
    if name == "flat":
        assert covered([stats.mean(draw.max(1)) for draw in draws], 1) < 0.2
        assert np.mean([stats.capacity(counts(draw))["recovered"].mean() for draw in draws]) > 1 + 0.3 * noise


def test_one_clear_peak_gives_what_capacity_gives():
    table = counts(np.array([1, 5, 2]) * (1 + 0.01 * np.random.default_rng(0).normal(size=(8, 3))))
    plain, found = stats.mean(stats.capacity(table)["recovered"]), stats.supremum(table)
    assert list(found.asdict().values()) == pytest.approx(list(plain.asdict().values()))


def test_seeds_that_diverged_take_another_load():
    matrix = np.array([1, 5, 4]) * (1 + 0.01 * np.random.default_rng(0).normal(size=(8, 3)))
    matrix[3, 1] = np.nan
    assert stats.supremum(counts(matrix)).value == pytest.approx((7 * 5 + 4) / 8, rel=0.01)
    one = stats.supremum(counts(matrix[:1]))
    assert one.value == matrix[0, 1] and one.low == -np.inf and one.high == np.inf
    matrix[3] = np.nan
    with pytest.raises(InputError, match=r"no finite recovered at any load for seeds \[3\]"):
        stats.supremum(counts(matrix))
    with pytest.raises(InputError, match="one row per"):
        stats.supremum(pd.concat([counts(matrix[:2]), counts(matrix[:2])]))
