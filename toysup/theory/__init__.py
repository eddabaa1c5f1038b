"""References that need no training: compressed sensing, one-step decoding, and the exact toy phase diagram."""

from toysup.theory.compressed_sensing import (
    bayes_amp_ratio,
    elhage_ratio,
    inverse_density,
    l1_ratio,
    l1_weak_threshold,
    welch_coherence,
)
from toysup.theory.one_step import OneStep, one_step_r2, one_step_r2_gaussian, one_step_ratio, random_frame
from toysup.theory.phases import ToyOptimum, configuration, expected_loss, toy_optimum
from toysup.theory.polytopes import PolytopeFit, best_polytope, fit_polytope

__all__ = [
    "OneStep",
    "PolytopeFit",
    "ToyOptimum",
    "bayes_amp_ratio",
    "best_polytope",
    "configuration",
    "elhage_ratio",
    "expected_loss",
    "fit_polytope",
    "inverse_density",
    "l1_ratio",
    "l1_weak_threshold",
    "one_step_r2",
    "one_step_r2_gaussian",
    "one_step_ratio",
    "random_frame",
    "toy_optimum",
    "welch_coherence",
]
