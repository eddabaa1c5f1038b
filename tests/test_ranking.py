"""Ranking: AUC against scipy, its error against simulation, closed cases, and what must be refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, task_constants
from toysup.features import OnePerGroup, SparseBoolean, SparseUniform
from toysup.measure.ranking import auc, separated
from toysup.models import ResidualMLP
from toysup.ranking import rank
from toysup.setting import Model, Setting
from toysup.shapes import Shape
from toysup.tasks import And, Memory


class Sum(nn.Module):
    """Every output is the number of active features, times a sign."""

    def __init__(self, n_in, n_out, *, sign=1.0):
        super().__init__()
        self.n_out, self.sign = n_out, sign
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return (self.sign * x.sum(-1, keepdim=True)).expand(*x.shape[:-1], self.n_out)


def untrained(setting, seeds=(0, 1)):
    stack = Stack.of(setting, seeds)
    parameters = {name: torch.stack([p.detach()] * len(seeds)) for name, p in setting.build().named_parameters()}
    return Trained(stack, parameters, {}, task_constants(stack), torch.zeros(len(seeds), 1),
                   torch.full((len(seeds),), -1), {}, "")  # fmt: skip


def oracle(scores, on):
    ones, zeros = scores[on], scores[~on]
    return stats.mannwhitneyu(ones, zeros).statistic / (len(ones) * len(zeros))


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.sampled_from([2, 5, 1000]))
def test_auc_is_mann_whitney_with_ties(seed, samples, values):
    rng = np.random.default_rng(seed)
    scores, on = rng.integers(values, size=(3, samples)).astype(np.float32), rng.random((3, samples)) < 0.4
    on[:, 0], on[:, 1] = True, False
    found = rank(torch.from_numpy(scores), torch.from_numpy(on)).auc.numpy()
    assert found == pytest.approx([oracle(s, o) for s, o in zip(scores, on, strict=True)], abs=1e-6)


def test_error_is_delong():
    """The definition, pair by pair: placements are means of the kernel 1[s+ > s-] + 1[s+ = s-] / 2."""
    rng = np.random.default_rng(0)
    scores, on = rng.integers(8, size=60).astype(np.float32), rng.random(60) < 0.3
    ones, zeros = scores[on][:, None], scores[~on][None]
    kernel = (ones > zeros) + (ones == zeros) / 2
    variance = kernel.mean(1).var(ddof=1) / len(kernel) + kernel.mean(0).var(ddof=1) / kernel.shape[1]
    found = rank(torch.from_numpy(scores)[None], torch.from_numpy(on)[None])
    assert found.auc[0] == pytest.approx(kernel.mean()) and found.error[0] == pytest.approx(variance**0.5, rel=1e-5)


def test_error_is_the_spread_over_samples():
    """Normal scores a unit apart: AUC = Phi(1 / sqrt 2) within 4 errors, and the error is the spread of 2,000 draws."""
    generator = torch.Generator().manual_seed(0)
    on = (torch.arange(300) < 60).expand(2000, 300)
    found = rank(torch.randn(2000, 300, generator=generator) + on, on)
    assert found.auc.mean() == pytest.approx(stats.norm.cdf(0.5**0.5), abs=4 * float(found.auc.std()) / 2000**0.5)
    assert float(found.error.mean()) == pytest.approx(float(found.auc.std()), rel=0.06)  # 4 errors of a std of 2,000


def test_a_missing_class_is_nan():
    scores = torch.tensor([[0.0, 1.0, 2.0]] * 3)
    assert rank(scores, torch.zeros(3, 3, dtype=torch.bool)).auc.isnan().all()
    found = rank(scores, torch.tensor([[True] * 3, [False] * 3, [False, False, True]]))
    assert found.auc[:2].isnan().all() and found.auc[2] == 1 and found.error[2].isnan()  # one member has no spread


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_auc_of_a_counting_network(sign):
    """Output = +-(number on); for a pair the rest is Binomial(n - 2, p), so AUC has a closed form; 1/2 if constant."""
    n, p = 6, 0.2
    setting = Setting(SparseBoolean(n, p), And(n_pairs=4), Model(Sum, sign=sign), steps=1, batch=64)
    rest = stats.binom(n - 2, p).pmf(np.arange(n - 1))
    pair = np.array([(1 - p) ** 2, 2 * p * (1 - p)]) / (1 - p * p)  # 0 or 1 of the pair on, where they are not both
    ones, zeros = np.convolve([0, 0, 1], rest), np.convolve(pair, rest)
    zeros = np.pad(zeros, (0, len(ones) - len(zeros)))
    expected = {1.0: (ones * (zeros.cumsum() - zeros / 2)).sum(), 0.0: 0.5}
    expected[-1.0] = 1 - expected[1.0]
    found = auc(untrained(setting))
    assert found.value.shape == (2, 4)
    assert ((found.value - expected[sign]).abs() <= 4.5 * found.error + 1e-6).all()
    counts = separated(0.6)(untrained(setting))
    assert separated(0.6).__name__ == "separated_60" and counts.tolist() == [4.0 * (sign > 0)] * 2


def test_an_instance_is_measured_as_if_alone():
    setting = Setting(SparseBoolean(6, 0.2), And(n_pairs=4), Model(Sum), steps=1, batch=64)
    both, alone = auc(untrained(setting, (3, 5))), auc(untrained(setting, (5,)))
    assert torch.equal(both.value[1:], alone.value) and torch.equal(both.error[1:], alone.error)


def test_what_is_refused():
    uniform = Setting(SparseUniform(6, 0.2), And(n_pairs=4), Model(Sum), steps=1, batch=64)
    with pytest.raises(InputError, match="targets 0 or 1"):
        auc(untrained(uniform))
    shape = Shape(8, 1)
    facts = Setting(OnePerGroup(8, 1), Memory(4), Model(ResidualMLP, shape=shape, unembedding="coordinates"), steps=1)
    with pytest.raises(InputError, match="regression"):
        auc(untrained(facts))
    with pytest.raises(InputError, match="threshold"):
        separated(0.3)
