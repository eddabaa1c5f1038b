"""Thousands of instances of one shape trained as one: the general path.

A model and a task are written for one instance; torch.func stacks them. Losses are averaged within an instance and
summed across, so each instance's gradient is its own. Data come from `random.uniforms`, keyed by instance and step.
"""

from toysup.ensemble.stack import (
    Stack,
    bound,
    chunks,
    initial_values,
    resolve_device,
    task_constants,
    work,
    worth_compiling,
)
from toysup.ensemble.step import load_compiler, one_thread, step_key
from toysup.ensemble.train import Trained, check_snapshots, train, train_chunk

__all__ = [
    "Stack",
    "Trained",
    "bound",
    "check_snapshots",
    "chunks",
    "initial_values",
    "load_compiler",
    "one_thread",
    "resolve_device",
    "step_key",
    "task_constants",
    "train",
    "train_chunk",
    "work",
    "worth_compiling",
]
