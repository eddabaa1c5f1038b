"""References that need no training: compressed sensing, one-step decoding, and the exact toy phase diagram."""

from toysup.theory.compressed_sensing import (
    bayes_amp_ratio,
    elhage_ratio,
    inverse_density,
    l1_ratio,
    l1_weak_threshold,
    welch_coherence,
)
from toysup.theory.monosemantic import absolute_value_errors, monosemantic_loss
from toysup.theory.one_step import OneStep, one_step_r2, one_step_r2_gaussian, one_step_ratio, random_frame
from toysup.theory.phases import ToyOptimum, configuration, expected_loss, toy_optimum

__all__ = [
    "OneStep",
    "ToyOptimum",
    "absolute_value_errors",
    "bayes_amp_ratio",
    "configuration",
    "elhage_ratio",
    "expected_loss",
    "inverse_density",
    "l1_ratio",
    "l1_weak_threshold",
    "monosemantic_loss",
    "one_step_r2",
    "one_step_r2_gaussian",
    "one_step_ratio",
    "random_frame",
    "toy_optimum",
    "welch_coherence",
]
