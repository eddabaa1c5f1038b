"""References that need no training: compressed sensing, one-step decoding, exact toy optima, capacity allocation."""

from toysup.theory.bounds import (
    ba_indyk_price_woodruff,
    counting_ratio,
    matched_filter_auc,
    matched_filter_measurements,
    pca_r2,
    welch_coherence,
)
from toysup.theory.capacity import (
    REGIONS,
    Allocation,
    capacity_loss,
    capacity_optimum,
    capacity_regions,
)
from toysup.theory.compressed_sensing import (
    bayes_amp_r2,
    bayes_amp_ratio,
    elhage_ratio,
    inverse_density,
    l1_ratio,
    l1_weak_threshold,
)
from toysup.theory.dictionaries import (
    PairDictionary,
    mcc_floor,
    mmcs_floor,
    pair_dictionaries,
)
from toysup.theory.face_counting import (
    l1_strong_threshold,
    l1_threshold_by_faces,
)
from toysup.theory.monosemantic import (
    absolute_value_errors,
    monosemantic_loss,
)
from toysup.theory.one_step import (
    OneStep,
    one_step_r2,
    one_step_r2_gaussian,
    one_step_ratio,
    random_frame,
)
from toysup.theory.phases import (
    ToyOptimum,
    configuration,
    expected_loss,
    toy_branch,
    toy_optimum,
)
from toysup.theory.polytopes import (
    PolytopeFit,
    best_polytope,
    fit_polytope,
)
from toysup.theory.principal import (
    principal_loss,
    principal_share,
)

__all__ = [
    "REGIONS",
    "Allocation",
    "OneStep",
    "PairDictionary",
    "PolytopeFit",
    "ToyOptimum",
    "absolute_value_errors",
    "ba_indyk_price_woodruff",
    "bayes_amp_r2",
    "bayes_amp_ratio",
    "best_polytope",
    "capacity_loss",
    "capacity_optimum",
    "capacity_regions",
    "configuration",
    "counting_ratio",
    "elhage_ratio",
    "expected_loss",
    "fit_polytope",
    "inverse_density",
    "l1_ratio",
    "l1_strong_threshold",
    "l1_threshold_by_faces",
    "l1_weak_threshold",
    "matched_filter_auc",
    "matched_filter_measurements",
    "mcc_floor",
    "mmcs_floor",
    "monosemantic_loss",
    "one_step_r2",
    "one_step_r2_gaussian",
    "one_step_ratio",
    "pair_dictionaries",
    "pca_r2",
    "principal_loss",
    "principal_share",
    "random_frame",
    "toy_branch",
    "toy_optimum",
    "welch_coherence",
]
