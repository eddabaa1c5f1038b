"""What is trained: ordinary nn.Modules, each written for one instance, batch first.

A model is built as `Module(n_in, n_out, **own)`: the engine knows the sizes of input and output from the task. Called
with `record=True` it also returns its `Activations`. Any nn.Module with that constructor can be trained. One that
states its initial distribution in `initial()` is drawn for thousands of instances at once; one that doesn't is built
once for each instance under a torch seed of its own, so either way an instance's start never depends on its company.
"""

from toysup.models.base import Activations, normal, unit_rows
from toysup.models.dictionary import L1, BatchTopK, Code, Embedding, JumpReLU, SparseAutoencoder, TopK
from toysup.models.feedforward import MLP, SquaredProjection, TiedAutoencoder, UnrolledDecoder
from toysup.models.residual import ResidualMLP, UntiedAutoencoder

__all__ = [
    "L1",
    "MLP",
    "Activations",
    "BatchTopK",
    "Code",
    "Embedding",
    "JumpReLU",
    "ResidualMLP",
    "SparseAutoencoder",
    "SquaredProjection",
    "TiedAutoencoder",
    "TopK",
    "UnrolledDecoder",
    "UntiedAutoencoder",
    "normal",
    "unit_rows",
]
