"""Functions computed: closed cases, of networks built by hand."""

import pytest
import torch
from torch import nn

from toysup.checks import InputError
from toysup.ensemble import Stack, Trained, task_constants
from toysup.features import SparseBoolean, SparseUniform
from toysup.measure.functions import computed, power_losses, ranked
from toysup.setting import Model, Setting
from toysup.tasks import AbsoluteValue, And, Identity, XPlusRelu


class Some(nn.Module):
    """|x_i| for the first `known` features and `other` for the rest; x is added `line` times."""

    def __init__(self, n_in, n_out, *, known, other, line=0.0):
        super().__init__()
        self.known, self.other, self.line = known, other, line
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        rest = torch.full_like(x[..., self.known :], self.other)
        return torch.cat([x[..., : self.known].abs(), rest], dim=-1) + self.line * x


class Sum(nn.Module):
    """Every output is the sum of all features."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.n_out, self.unused = n_out, nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.sum(-1, keepdim=True).expand(*x.shape[:-1], self.n_out)


def built(features, task, model, **arguments):
    setting = Setting(features, task, Model(model, **arguments), steps=1000, batch=512)
    stack = Stack.of(setting, (0, 1))
    parameters = {"unused": torch.zeros(2, 1)}
    return Trained(stack, parameters, {}, task_constants(stack), torch.zeros(2, 1), torch.full((2,), -1), {}, "")


SIGNED = SparseUniform(6, 0.05, signed=True)


@pytest.mark.parametrize("known", [0, 4, 6])
def test_what_is_exact_counts_in_full_and_the_best_line_not_at_all(known):
    """The best line of |x| is its mean p / 2; a readout of it computes nothing, by squares or by rank."""
    trained = built(SIGNED, AbsoluteValue(), Some, known=known, other=0.025)
    assert computed(trained).tolist() == pytest.approx([known, known], abs=1e-6)
    assert ranked(0.95)(trained).tolist() == [known, known]


def test_outputs_without_importance_do_not_count():
    trained = built(SIGNED, AbsoluteValue([1.0, 0, 1, 0, 0, 1]), Some, known=4, other=0.0)
    assert computed(trained).tolist() == pytest.approx([2, 2], abs=1e-6) and ranked(0.95)(trained).tolist() == [2, 2]


def test_x_plus_relu_is_known_but_for_half_of_the_modulus():
    """x + relu(x) = 1.5 x + |x| / 2: a network of 1.5 x leaves |x| / 2, the best line that without its mean."""
    trained = built(SIGNED, XPlusRelu(), Some, known=0, other=0.0, line=1.5)
    found, p = power_losses(trained), 0.05
    assert found["squares"].tolist() == pytest.approx([p / 12] * 2, rel=0.15)  # 300 of each feature: 6% each
    assert found["fourth_powers"].tolist() == pytest.approx([p / 80] * 2, rel=0.15)
    assert computed(trained).tolist() == [0, 0]


def test_a_sum_ranks_every_and_but_computes_none():
    trained = built(SparseBoolean(4, 0.2), And(n_pairs=6), Sum)
    assert ranked(0.9)(trained).tolist() == [6, 6] and computed(trained).tolist() == [0, 0]
    assert ranked(0.9999)(trained).tolist() == [0, 0]  # others that are on stand above it, too


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(InputError, match="Identity"):
        computed(built(SIGNED, Identity(), Some, known=0, other=0.0))
    with pytest.raises(InputError, match="threshold"):
        ranked(0.2)
