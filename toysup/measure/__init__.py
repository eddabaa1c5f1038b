"""Trained instances -> numbers: pure functions, one value (or one vector over features) for each instance.

A measure takes a `Trained` and returns a tensor (instance,) or (instance, feature), or an `Estimate` of a value and its
sampling error; its name becomes the column. Anything that does so is a measure: there is no registry.
"""

from toysup.measure.dynamics import antipode, cosines, curves, loss_through, through
from toysup.measure.geometry import (
    dimensionality,
    dimensions_per_feature,
    directions,
    feature_dimensionality,
    feature_norm,
    interference,
)
from toysup.measure.held_out import Estimate, held_out
from toysup.measure.recovery import (
    accuracy_recovered,
    features_offered,
    held_out_loss,
    r_squared,
    recovered,
    recovered_at,
)

__all__ = [
    "Estimate",
    "accuracy_recovered",
    "antipode",
    "cosines",
    "curves",
    "dimensionality",
    "dimensions_per_feature",
    "directions",
    "feature_dimensionality",
    "feature_norm",
    "features_offered",
    "held_out",
    "held_out_loss",
    "interference",
    "loss_through",
    "r_squared",
    "recovered",
    "recovered_at",
    "through",
]
