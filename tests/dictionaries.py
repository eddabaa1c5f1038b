"""Dictionaries for tests: their settings, and instances whose latents are given by hand."""

import torch

from toysup.ensemble import Stack, Trained, initial_values, task_constants
from toysup.models import (
    L1,
    Embedding,
    SparseAutoencoder,
)
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.tasks import Reconstruction

ROOT2 = 2**0.5


def read(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def setting_of(features, latents, width=None, sparsity=L1(), penalty=0.1, steps=1, batch=64, **own):  # noqa: B008
    width = width or features.n_features
    embedding = Model(Embedding, width=width, orthonormal=width >= features.n_features)
    model = Model(SparseAutoencoder, latents=latents, sparsity=sparsity, **own)
    optimizer = Adam(0.01, beta2=0.99, schedule=Cosine())
    return Setting(features, Reconstruction(embedding, penalty=penalty), model, optimizer, steps, batch)


def by_hand(setting, seeds, decoder, encoder=None, b_enc=0.0):
    """Instances whose dictionaries are given, (latent, feature), in terms of the features' directions."""
    stack = Stack.of(setting, seeds)
    constants = task_constants(stack)
    parameters, _ = initial_values(stack)
    W = constants["weights"].view(len(stack), setting.features.n_features, -1)  # what the embedding draws
    parameters["W_dec"] = (decoder @ W).mT.contiguous()
    parameters["W_enc"] = ((decoder if encoder is None else encoder) @ W).mT.contiguous()
    parameters["b_enc"] = torch.as_tensor(b_enc).expand(parameters["b_enc"].shape).clone()
    history, alive = torch.zeros(len(stack), 1), torch.full((len(stack),), -1)
    return Trained(stack, parameters, {}, constants, history, alive, {}, "")
