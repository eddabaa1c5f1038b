"""Trained instances -> numbers: pure functions, one value (or one vector over features) for each instance.

A measure takes a `Trained` and returns a tensor (instance,) or (instance, feature), or an `Estimate` of a value and its
sampling error; its name becomes the column. One computation that tells several things returns a mapping from columns to
such, all of one kind. Anything that does so is a measure: there is no registry.

No evidence is not success: what held-out data show too little of (`toysup.evidence`) is NaN and in no count, and
`unseen`, or `unknown` of any measure, is the share of it.

Here are the measures that a sweep is handed, and what a new one is made of; whatever else a family has is in its
module: `dictionary`, `layers`, `lifetimes`, `cross_layer`, `participation`, `purity`, `universality`, `dynamics`. What
is known of arrays alone has rooms of its own: `toysup.geometry`, `neurons`, `probes`, `sharing`, `similarity`,
`ranking`, `decoders`, `attacks`.
"""

from toysup.evidence import Estimate
from toysup.measure.adversarial import attack_radius, vulnerability
from toysup.measure.dictionary import (
    composite_latents,
    dead_latents,
    feature_f1,
    feature_precision,
    feature_recall,
    mcc,
    mcc_above_chance,
    mean_l0,
    mean_l1,
    mmcs,
    mmcs_above_chance,
    reconstruction_error,
    shrinkage,
    split_latents,
)
from toysup.measure.dynamics import antipode, cosines, loss_through, through
from toysup.measure.encoding import encoding_of
from toysup.measure.examples import seen_loss, unseen_loss
from toysup.measure.geometry import (
    dimensions_per_feature,
    directions,
    feature_dimensionality,
    feature_norm,
    interference,
    packing,
)
from toysup.measure.held_out import held_out, unknown, unseen
from toysup.measure.ranking import auc, separated
from toysup.measure.recovery import (
    accuracy_recovered,
    features_offered,
    held_out_loss,
    r_squared,
    recovered,
    recovered_at,
    trivial_losses,
    untrained,
)
from toysup.measure.universality import fact_bits

__all__ = [
    "Estimate",
    "accuracy_recovered",
    "antipode",
    "attack_radius",
    "auc",
    "composite_latents",
    "cosines",
    "dead_latents",
    "dimensions_per_feature",
    "directions",
    "encoding_of",
    "fact_bits",
    "feature_dimensionality",
    "feature_f1",
    "feature_norm",
    "feature_precision",
    "feature_recall",
    "features_offered",
    "held_out",
    "held_out_loss",
    "interference",
    "loss_through",
    "mcc",
    "mcc_above_chance",
    "mean_l0",
    "mean_l1",
    "mmcs",
    "mmcs_above_chance",
    "packing",
    "r_squared",
    "reconstruction_error",
    "recovered",
    "recovered_at",
    "seen_loss",
    "separated",
    "shrinkage",
    "split_latents",
    "through",
    "trivial_losses",
    "unknown",
    "unseen",
    "unseen_loss",
    "untrained",
    "vulnerability",
]
