"""The loss of |x| without superposition against numerical optima and against every assignment of neurons."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize

from toysup.checks import InputError
from toysup.theory import absolute_value_errors, monosemantic_loss


@pytest.mark.parametrize("p", [1.0, 0.7, 0.1, 0.01])
def test_errors_are_the_numerical_optimum(p):
    def error(theta, neurons):
        b, a = theta

        def lost(x):
            return (max(b + a * max(x, 0) * neurons, 0) - abs(x)) ** 2

        return (1 - p) * max(b, 0) ** 2 + p / 2 * (quad(lost, -1, 0)[0] + quad(lost, 0, 1)[0])

    none, one, two = absolute_value_errors(p)
    for neurons, expected in ((0, none), (1, one)):
        found = minimize(
            error, [0.1, 0.5], args=(neurons,), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10}
        )
        assert found.fun == pytest.approx(expected, rel=1e-4)
    assert none - one < one - two == one  # the second neuron gains more


@pytest.mark.parametrize("p", [1.0, 0.3, 0.02])
@pytest.mark.parametrize("neurons", [0, 1, 4, 5, 8, 11])
def test_no_assignment_of_neurons_is_better(p, neurons):
    importance = np.array([0.3, 1.0, 0.9, 0.05])
    errors = absolute_value_errors(p)
    ways = [w for w in itertools.product(range(3), repeat=4) if sum(w) <= neurons]
    best = min(sum(i * errors[k] for i, k in zip(importance, way, strict=True)) for way in ways)
    assert monosemantic_loss(importance, p, neurons) == pytest.approx(best, abs=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="density must lie in"):
        absolute_value_errors(1.5)
    with pytest.raises(InputError, match="one importance per feature"):
        monosemantic_loss(1.0, 0.5, 4)
    with pytest.raises(InputError, match="neurons must be a whole number"):
        monosemantic_loss([1.0], 0.5, -1)
