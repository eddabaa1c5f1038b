"""How features that belong together lie to each other, beside how they lie to the rest (Elhage et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from toysup.checks import InputError, check_whole

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RELATIONS", "group_relations"]

RELATIONS = ("aligned", "acute", "orthogonal", "obtuse", "antipodal")
ANGLES = (30.0, 75.0, 105.0, 150.0)  # degrees between them, as in `toysup.theory.configuration`


def group_relations(
    weights: Float[ArrayLike, "instance feature width"], group_size: int, *, represented: float = 0.25
) -> pd.DataFrame:
    """Angles between represented features of one group, and of different groups: one row for each instance.

    Groups are `group_size` consecutive features; a feature is represented where |W_i|^2 > `represented`.

    Returns:
        Columns `within_<relation>` and `between_<relation>`, for each of RELATIONS the share of pairs whose angle is
        below 30, 75, 105, 150 or 180 degrees (and above the one before); `within_cosine`, `within_size` and likewise
        `between_`: the mean of cos and of |cos|; `identity`: the root mean square entry of W W^T - 1 over represented
        features of one group; `represented`: how many there are. NaN where there is no such pair.

    Raises:
        InputError: weights without three axes, a group size that does not divide the features.
    """
    import pandas as pd  # slow to import

    where, weights = "group_relations", np.asarray(weights, dtype=np.float64)
    if weights.ndim != 3:
        raise InputError(f"{where}: weights must have shape (instance, feature, width), got {weights.shape}")
    n = weights.shape[1]
    check_whole(where, "group_size", group_size)
    if n % group_size:
        raise InputError(f"{where}: group_size must divide the {n} features, got {group_size}")
    gram = weights @ weights.swapaxes(-1, -2)
    squares = np.einsum("ijj->ij", gram)
    on, length = squares > represented, np.sqrt(np.where(squares > 0, squares, 1.0))
    cosine = np.clip(gram / (length[:, :, None] * length[:, None]), -1, 1)
    relation = np.digitize(np.degrees(np.arccos(cosine)), ANGLES)
    group = np.arange(n) // group_size
    same, upper = group[:, None] == group, np.triu(np.ones((n, n), bool), 1)
    both = on[:, :, None] & on[:, None]
    columns: dict[str, np.ndarray] = {}
    for name, pairs in (("within", same & upper), ("between", ~same & upper)):
        pairs = both & pairs
        for number, kind in enumerate(RELATIONS):
            columns[f"{name}_{kind}"] = _mean(relation == number, pairs)
        columns[f"{name}_cosine"] = _mean(cosine, pairs)
        columns[f"{name}_size"] = _mean(np.abs(cosine), pairs)
    columns["identity"] = np.sqrt(_mean(np.square(gram - np.eye(n)), both & same))
    columns["represented"] = on.sum(-1)
    return pd.DataFrame(columns)


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Mean over the last two axes, NaN where nothing counts."""
    count = where.sum((-1, -2))
    return np.where(count > 0, np.where(where, values, 0.0).sum((-1, -2)) / np.maximum(count, 1), np.nan)
