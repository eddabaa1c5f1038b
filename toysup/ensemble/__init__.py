"""Thousands of instances of one shape trained at once.

The general path takes any model and task: both are written for one instance, and torch.func stacks them. The fused path
trains settings that fit a kernel of `toysup.kernels`, many times as fast, on the same draws. Losses are averaged within
an instance and summed across, so each instance's gradient is its own. Data are keyed by instance and step.
"""

from toysup.ensemble.fused import prepare
from toysup.ensemble.rates import check_schedules
from toysup.ensemble.stack import (
    Stack,
    bound,
    check_training,
    chunks,
    initial_values,
    measured_at_once,
    resolve_device,
    split,
    task_constants,
    whole_seeds,
    work,
    worth_compiling,
)
from toysup.ensemble.step import load_compiler, step_key
from toysup.ensemble.train import (
    Engine,
    Trained,
    check_snapshots,
    code_of,
    concatenated,
    engine_for,
    train,
    train_chunk,
)
from toysup.safely import one_thread, usual_defaults

__all__ = [
    "Engine",
    "Stack",
    "Trained",
    "bound",
    "check_schedules",
    "check_snapshots",
    "check_training",
    "chunks",
    "code_of",
    "concatenated",
    "engine_for",
    "initial_values",
    "load_compiler",
    "measured_at_once",
    "one_thread",
    "prepare",
    "resolve_device",
    "split",
    "step_key",
    "task_constants",
    "train",
    "train_chunk",
    "usual_defaults",
    "whole_seeds",
    "work",
    "worth_compiling",
]
