"""What is asked of the network: inputs, targets, losses, and what a network that learned nothing would score.

A task turns uniforms into (input, target) by way of a distribution of features, and states for held-out data the
`errors` whose ratio to a `baseline` (the best constant) says how much was recovered. Tasks are frozen and written for
one instance; fields that are floats may differ by instance, and constants that an instance draws once (labels, pairs,
gates) come from `constants`.
"""

from toysup.tasks.base import Task
from toysup.tasks.circuit import Circuit
from toysup.tasks.dictionary import Reconstruction
from toysup.tasks.memory import Memory
from toysup.tasks.regression import AbsoluteValue, And, Identity, Regression, SumOfSquares, XPlusRelu

__all__ = [
    "AbsoluteValue",
    "And",
    "Circuit",
    "Identity",
    "Memory",
    "Reconstruction",
    "Regression",
    "SumOfSquares",
    "Task",
    "XPlusRelu",
]
