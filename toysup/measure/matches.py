"""Does any single unit of a dictionary stand for a target? Squared correlations over held-out samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, vmap

from toysup.ensemble import Trained, bound, one_thread
from toysup.measure.held_out import BATCH
from toysup.random import Stream, uniforms
from toysup.setting import Setting

__all__ = ["best_matches"]


def best_matches(
    trained: Trained, targets: Callable[[Setting, Tensor], Tensor], *, batches: int = 32
) -> dict[str, Tensor]:
    """For each target the unit of a dictionary that has the largest squared correlation with it; negative ones count 0.

    Args:
        trained: of `Reconstruction`, by models that return a `Code`.
        targets: (one instance's setting, the features' values (batch, feature)) -> (batch, target).
        batches: of 1,024 held-out samples.

    Returns:
        (instance, target) each: `latent`, the best latent's squared correlation; `neuron`, that of the best unit read;
        `chance`, that of the best latent in another sample; `layers_written`, over how many layers the best latent
        writes: the participation ratio (sum_l n_l)^2 / sum_l n_l^2 of its decoder norms n_l.
    """

    def sample(values, constants, draws):
        here = bound(trained.setting, values)
        h, _ = here.task.batch(here.features, constants, draws)
        return h, targets(here, here.features.transform(draws))

    sums: dict[str, list] = {name: [0.0] * 5 for name in ("latent", "neuron", "chance")}
    with torch.no_grad(), one_thread():
        for number in range(batches):
            draws = uniforms(trained.stack.data_seed, number, BATCH, trained.setting.features.n_uniforms,
                             stream=Stream.HELD_OUT)  # fmt: skip
            h, y = vmap(sample)(trained.values, trained.constants, draws)
            code = trained.forward(h)
            for name, z in zip(sums, (code.latents, h, code.latents.roll(1, 1)), strict=True):
                parts = [z.sum(1), z.square().sum(1), y.sum(1), y.square().sum(1), y.mT @ z]
                sums[name] = [a + b.double() for a, b in zip(sums[name], parts, strict=True)]
    found = {name: _squared(batches * BATCH, *own) for name, own in sums.items()}
    norms = code.decoder.unflatten(1, (len(trained.setting.task.layers), -1)).norm(dim=2)  # instance layer latent
    ratio = norms.sum(1).square() / norms.square().sum(1).clamp(min=1e-12)
    layers = ratio.gather(1, found["latent"].argmax(2))
    return {name: own.amax(2) for name, own in found.items()} | {"layers_written": layers}


def _squared(n: int, z: Tensor, zz: Tensor, y: Tensor, yy: Tensor, yz: Tensor) -> Tensor:
    """(instance, target, unit), from sums over n samples."""
    spread = (zz / n - (z / n) ** 2).unsqueeze(1) * (yy / n - (y / n) ** 2).unsqueeze(2)
    joint = yz / n - (y / n).unsqueeze(2) * (z / n).unsqueeze(1)
    return torch.where(spread > 1e-12, joint.clamp(min=0).square() / spread.clamp(min=1e-12), 0.0)
