"""Trained instances -> numbers: pure functions, one value (or one vector over features) for each instance.

A measure takes a `Trained` and returns a tensor (instance,) or (instance, feature), or an `Estimate` of a value and its
sampling error; its name becomes the column. Anything that does so is a measure: there is no registry.
"""

from toysup.measure.adversarial import (
    attack_radius,
    ball_maximum,
    vulnerability,
)
from toysup.measure.blocks import (
    block_sizes,
)
from toysup.measure.cross_layer import (
    decode,
    decode_labels,
    own_weights,
)
from toysup.measure.decoders import (
    Encoding,
    affine_relu,
    bayes_amp,
    decoded,
    decoded_count,
    l1_homotopy,
    linear_probe,
    matching_pursuit,
)
from toysup.measure.dynamics import (
    antipode,
    cosines,
    curves,
    loss_through,
    through,
)
from toysup.measure.examples import (
    hidden_vectors,
    irregularity,
    seen_loss,
    typical_dimensionality,
    unseen_loss,
)
from toysup.measure.excess import (
    BySize,
    Decoded,
    by_size,
    dealt,
    gamma,
    subsets,
)
from toysup.measure.geometry import (
    arrangements,
    clusters,
    dimensionality,
    dimensions_per_feature,
    directions,
    feature_dimensionality,
    feature_norm,
    interference,
    polytopes,
)
from toysup.measure.groups import (
    RELATIONS,
    group_relations,
)
from toysup.measure.held_out import (
    Estimate,
    held_out,
)
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
from toysup.measure.participation import (
    Participation,
    ablated,
    ablation_drops,
    attribution,
    contributions,
    participation,
    participation_ratio,
    readout,
)
from toysup.measure.purity import (
    Purity,
    purity,
)
from toysup.measure.ranking import (
    Ranking,
    auc,
    rank,
    separated,
)
from toysup.measure.recovery import (
    accuracy_recovered,
    features_offered,
    held_out_loss,
    positive_sum,
    r_squared,
    recovered,
    recovered_at,
)

__all__ = [
    "RELATIONS",
    "BySize",
    "Decoded",
    "Encoding",
    "Estimate",
    "Motifs",
    "Participation",
    "Purity",
    "Ranking",
    "ablated",
    "ablation_drops",
    "accuracy_recovered",
    "affine_relu",
    "alignment",
    "antipode",
    "arrangements",
    "asymmetric_motifs",
    "attack_radius",
    "attribution",
    "auc",
    "ball_maximum",
    "bayes_amp",
    "block_sizes",
    "by_size",
    "closed_sides",
    "clusters",
    "contributions",
    "cosines",
    "curves",
    "dealt",
    "decode",
    "decode_labels",
    "decoded",
    "decoded_count",
    "dimensionality",
    "dimensions_per_feature",
    "directions",
    "drawn",
    "effective_features",
    "feature_dimensionality",
    "feature_norm",
    "features_offered",
    "gamma",
    "group_relations",
    "held_out",
    "held_out_loss",
    "hidden_vectors",
    "interference",
    "irregularity",
    "l1_homotopy",
    "linear_probe",
    "loss_through",
    "matching_pursuit",
    "own_weights",
    "participation",
    "participation_ratio",
    "polytopes",
    "positive_sum",
    "purity",
    "r_squared",
    "rank",
    "readout",
    "recovered",
    "recovered_at",
    "relabelled",
    "rotated",
    "seen_loss",
    "separated",
    "served",
    "slopes",
    "subsets",
    "through",
    "typical_dimensionality",
    "unseen_loss",
    "vulnerability",
]
