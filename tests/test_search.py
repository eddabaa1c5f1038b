"""The search for learning rates: it brackets, it leaves out what diverged, and does not depend on where it starts."""

import numpy as np
import pytest
import torch

from toysup.checks import InputError
from toysup.features import SparseUniform
from toysup.models import TiedAutoencoder
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Model, Setting
from toysup.sweep import Grid
from toysup.tasks import Identity


def grid(**optimizer) -> Grid:
    setting = Setting(SparseUniform(4, 0.2), Identity(), Model(TiedAutoencoder, width=2), Adam(**optimizer), 2, 32)
    return Grid(setting, {"seed": SEARCH_SEEDS})


def peaked_at(peak: float, broken_from: float = np.inf):
    """A score that knows its optimum: a parabola in ln lr, NaN where it is said to diverge."""

    def score(trained):
        rate = torch.as_tensor(trained.stack.varying["optimizer.lr"])
        value = 1 - (rate / peak).log().square()
        return torch.where(rate > broken_from, torch.nan, value)

    return score


@pytest.mark.parametrize("rates", [[0.01, 0.02], [0.0025, 0.005, 0.01], [0.04, 0.02, 0.08], [0.02, 0.01, 0.04]])
def test_finds_the_peak_wherever_it_starts(rates):
    found = best_rates({"a": grid()}, rates, score=peaked_at(0.02), extend=4)
    assert found.loc["a", "lr"] == pytest.approx(0.02)
    assert found.loc["a", "bracketed"]
    assert found.loc["a", "score"] == pytest.approx(1, abs=1e-5)


def test_each_grid_gets_its_own_and_says_when_it_did_not_bracket():
    found = best_rates({"a": grid(), "b": grid()}, [0.01, 0.02, 0.04], score=peaked_at(1.0), extend=1)
    assert (found["lr"] == 0.08).all() and not found["bracketed"].any()
    assert found.loc["a"].equals(found.loc["b"])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_where_scores_are_flat_it_takes_the_lowest_rate(sign):
    def flat(trained):
        rate = torch.as_tensor(trained.stack.varying["optimizer.lr"])
        return sign * (2 - torch.where(rate < 0.015, 0.5, 0.0) - 0.001 * (rate / 0.16).log().abs())

    found = best_rates({"a": grid()}, [0.01, 0.02, 0.04, 0.08, 0.16], score=flat, lowest=sign < 0)
    assert found.loc["a", "lr"] == 0.02 and found.loc["a", "bracketed"]
    assert found.loc["a", "next"] == pytest.approx(2 / 1.998, abs=1e-3)
    best = best_rates({"a": grid()}, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32], score=flat, lowest=sign < 0, within=0)
    assert best.loc["a", "lr"] == 0.16


def test_a_rate_that_diverged_is_not_eligible():
    found = best_rates({"a": grid()}, [0.01, 0.02, 0.04], score=peaked_at(0.04, broken_from=0.03))
    assert found.loc["a", "lr"] == 0.02 and found.loc["a", "bracketed"]


def test_lowest_turns_it_round():
    def loss(trained):
        return -peaked_at(0.01)(trained)

    assert best_rates({"a": grid()}, [0.005, 0.01, 0.02], score=loss, lowest=True).loc["a", "lr"] == 0.01


def test_it_finds_a_rate_that_trains_better():
    setting = Setting(SparseUniform(8, 0.05), Identity(), Model(TiedAutoencoder, width=3), steps=200, batch=128)
    found = best_rates({"a": Grid(setting, {"seed": SEARCH_SEEDS})}, [1e-5, 1e-2])
    assert found.loc["a", "lr"] > 1e-5


@pytest.mark.parametrize("rates", [[0.01], [0.01, 0.01], [0.0, 0.1], [0.1, -0.1]])
def test_bad_rates(rates):
    with pytest.raises(InputError, match="best_rates"):
        best_rates({"a": grid()}, rates)


@pytest.mark.parametrize("within", [-0.1, 1.0])
def test_bad_tolerance(within):
    with pytest.raises(InputError, match="within"):
        best_rates({"a": grid()}, [0.01, 0.02], within=within)


def test_refuses_an_axis_over_the_rate_and_a_grid_that_always_diverges():
    with pytest.raises(InputError, match="axis over"):
        best_rates({"a": Grid(grid().setting, {"optimizer.lr": [0.1]})}, [0.01, 0.02])
    with pytest.raises(InputError, match="diverged at every rate"):
        best_rates({"a": grid()}, [0.01, 0.02], score=peaked_at(1.0, broken_from=1e-9))


def test_a_score_of_several_columns_is_refused():
    def several(trained):
        return {"a": torch.zeros(len(trained))}

    with pytest.raises(InputError, match="score must give one value for each instance, several does not"):
        best_rates({"a": grid()}, [0.01, 0.02], score=several)
