import numpy as np
import pytest

from toysup import stats
from toysup.checks import InputError

OPTIONS = {"bandwidth": 0.004, "smooth": 0.04, "tolerance": 0.0125}


def networks(draw, groups=30, size=60, seed=0):
    """`groups` networks of `size` values each, drawn by draw(rng, size)."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([draw(rng, size) for _ in range(groups)])
    return values, np.repeat(np.arange(groups), size)


def spiky(rng, size):
    """A fifth each at 0.4 and 1, the rest even."""
    kind = rng.random(size)
    values = np.where(kind < 0.2, 0.4 + 0.004 * rng.standard_normal(size), rng.random(size))
    return np.where(kind > 0.8, 1 - 0.004 * np.abs(rng.standard_normal(size)), values)


def test_peaks_are_found_where_they_were_put_also_at_an_end():
    found = stats.peaks(*networks(spiky), **OPTIONS)
    stands = found.table[found.table["stands_out"]]
    assert sorted(stands["location"].round(2)) == [0.4, 1.0]
    for x in (0.4, 1.0):
        assert stats.decide(found.contrast(x), (1, np.inf)) == "supported"
        assert stats.decide(found.location(x), (x - 0.005, x + 0.005)) == "supported"
    for x in (0.2, 0.6, 0.8):
        assert stats.decide(found.contrast(x), (1, np.inf)) == "rejected"


def test_the_density_integrates_to_one_and_peaks_at_the_height_of_its_kernel():
    found = stats.peaks([0.5] * 8, np.arange(8), **OPTIONS, resamples=20)
    width = found.grid[1] - found.grid[0]
    assert found.density.sum() * width == pytest.approx(1) and found.smooth.sum() * width == pytest.approx(1)
    assert found.density.max() == pytest.approx(8 * found.one_value, rel=0.01)  # bins of a tenth of the kernel
    assert len(found.table) == 1 and found.table["found"][0] == 1


def test_a_smooth_density_has_peaks_that_stand_out_no_oftener_than_allowed():
    """Beta(2, 3) has one broad mode at 1/3. The null is as strict as 1% a place; 20 places by 10 samples."""
    wrong = []
    for seed in range(10):
        values, group = networks(lambda rng, size: rng.beta(2, 3, size), seed=seed)
        found = stats.peaks(values, group, **OPTIONS, resamples=100, seed=seed)
        wrong += [stats.decide(found.contrast(x), (1, np.inf)) == "supported" for x in np.linspace(0.05, 0.95, 20)]
    assert np.mean(wrong) <= 0.03  # the interval's low end must pass the bar too: fewer than 1% are expected


def test_values_that_move_together_are_counted_as_one():
    """Ten clumps of 50 equal values are ten draws of a smooth density, not a density of ten peaks."""
    rng = np.random.default_rng(0)
    clumps = rng.uniform(0.2, 0.8, (20, 10))
    values, group = np.repeat(clumps.ravel(), 50), np.repeat(np.arange(20), 500)
    alone = stats.peaks(values, group, **OPTIONS, resamples=100)
    together = stats.peaks(values, group, unit=np.tile(np.repeat(np.arange(10), 50), 20), **OPTIONS, resamples=100)
    assert (alone.table["chance"] < 0.02).sum() > 10 * (together.table["chance"] < 0.02).sum()


def test_one_network_makes_no_peak_for_all():
    """A peak that a single network of many makes is not found in the resamples that lack it."""
    values, group = networks(lambda rng, size: rng.random(size))
    values[group == 0] = 0.7
    found = stats.peaks(values, group, **OPTIONS, resamples=200)
    row = found.table.iloc[0]
    assert abs(row["location"] - 0.7) < 0.002 and not found.table["stands_out"].any()
    assert stats.decide(found.contrast(0.7), (1, np.inf)) == "undecided"


def test_where_there_is_no_peak_there_is_no_location():
    found = stats.peaks(*networks(lambda rng, size: 0.5 + 0.01 * rng.standard_normal(size)), **OPTIONS, resamples=20)
    assert np.isnan(found.location(0.9).value) and found.contrast(0.9) == stats.Interval(0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [0.1, 1.2]}, r"values must lie in \[0, 1\]"),
        ({"group": [0, 0]}, "at least 2 groups"),
        ({"group": [0]}, "a group and a unit for each of 2"),
        ({"unit": [0]}, "a group and a unit for each of 2"),
        ({"smooth": 0.005}, r"smooth must lie in \[0.008"),
        ({"tolerance": 0.0}, "tolerance must lie in"),
        ({"bandwidth": 0.4}, "bandwidth must lie in"),
        ({"resamples": 0}, "resamples must be a whole number"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        stats.peaks(**({"values": [0.1, 0.2], "group": [0, 1], **OPTIONS} | change))
