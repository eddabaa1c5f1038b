"""What |x| costs without superposition: every neuron reads one feature and writes to that feature's output.

Elhage et al. 2022, "Computation in superposition": |x| = ReLU(x) + ReLU(-x) takes two neurons. Features are
independent, active with probability p and then U(-1, 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_interval, check_whole, numbers_in

__all__ = ["absolute_value_errors", "monosemantic_loss"]


def absolute_value_errors(density: float) -> tuple[float, float, float]:
    """Least expected squared error of ReLU(b + what 0, 1 or 2 neurons of a feature's own add) against |x|.

    No neuron: the best constant p / 2, so Var |x| = p/3 - p^2/4. One neuron: on the side that it does not see the
    output is b, on the other b + a |x| with a = 1 - 3b/2 at best; b = (p/4) / (1 - 3p/8) and the error is
    p/6 - p^2 / (16 (1 - 3p/8)). Two: none. The second neuron takes off more than the first at any p.
    """
    check_interval("absolute_value_errors", "density", density, 0, 1, one=True)
    p = float(density)
    return p / 3 - p * p / 4, p / 6 - p * p / (16 * (1 - 3 * p / 8)), 0.0


def monosemantic_loss(importance: ArrayLike, density: float, neurons: int) -> float:
    """The least expected loss sum_i I_i E(y_i - |x_i|)^2 of a network without superposition.

    As the second neuron of a feature gains more than the first, neurons go in pairs to the most important features (and
    an odd one to the next); the others' outputs are constant.
    """
    check_whole("monosemantic_loss", "neurons", neurons, 0)
    weight = numbers_in("monosemantic_loss", "importance", importance)
    if weight.ndim != 1 or not weight.size:
        raise InputError(f"monosemantic_loss: expected one importance per feature, got shape {weight.shape}")
    check_interval("monosemantic_loss", "importance", weight, 0)
    none, one, _ = absolute_value_errors(density)
    left = -np.sort(-weight)[neurons // 2 :]
    return float(none * left.sum() - (none - one) * left[:1].sum() * (neurons % 2))
