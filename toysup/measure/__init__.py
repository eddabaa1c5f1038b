"""Trained instances -> numbers: pure functions, one value (or one vector over features) for each instance.

A measure takes a `Trained` and returns a tensor (instance,) or (instance, feature), or an `Estimate` of a value and its
sampling error; its name becomes the column. Anything that does so is a measure: there is no registry.
"""

from toysup.measure.geometry import (
    dimensionality,
    dimensions_per_feature,
    directions,
    feature_dimensionality,
    feature_norm,
    interference,
)
from toysup.measure.held_out import Estimate, held_out
from toysup.measure.neurons import (
    Motifs,
    alignment,
    asymmetric_motifs,
    closed_sides,
    drawn,
    effective_features,
    relabelled,
    rotated,
    served,
    slopes,
)
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
    "Motifs",
    "accuracy_recovered",
    "alignment",
    "asymmetric_motifs",
    "closed_sides",
    "dimensionality",
    "dimensions_per_feature",
    "directions",
    "drawn",
    "effective_features",
    "feature_dimensionality",
    "feature_norm",
    "features_offered",
    "held_out",
    "held_out_loss",
    "interference",
    "r_squared",
    "recovered",
    "recovered_at",
    "relabelled",
    "rotated",
    "served",
    "slopes",
]
