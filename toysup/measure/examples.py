"""What a network made of a finite training set: its examples' hidden vectors, and the loss on them and on unseen data.

Examples that are memorised lie in the hidden space as features do in a network that generalises: in superposition, each
with a share of the dimensions (Henighan et al. 2023, Superposition, Memorization, and Double Descent). Only mean
losses are kept, so that ten thousand features cost little.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, vmap

from toysup.ensemble import Trained, bound, listed, one_thread
from toysup.evidence import SEEN, Estimate, Evidence, away, enough, usual
from toysup.measure.held_out import labelled
from toysup.random import Stream

__all__ = ["hidden_vectors", "seen_loss", "unseen_loss"]

MOST = 2048  # training examples that are looked at, of larger sets the first ones of the first batches
BATCHES, BATCH = 64, 512  # of unseen data; the spread of the batches is the error


def _looked_at(trained: Trained) -> tuple[int, int]:
    """(batches, examples of each) of the training set that are looked at; of endless data those of the first steps."""
    enough = -(-MOST // trained.setting.batch)
    return min(trained.setting.cycle or enough, enough), min(trained.setting.batch, MOST)


def _losses(trained: Trained, stream: Stream, size: int, batches: int) -> Float[Tensor, "instance batch"]:
    """Loss on each of the first batches of a stream."""
    if listed.unfit(trained.stack) is None:
        return listed.losses(trained.stack, trained.parameters, stream, size, batches)

    def one(values, output, target):
        return bound(trained.setting, values).task.loss(output, target)

    def batch(number: int) -> Float[Tensor, " instance"]:
        x, target = trained.batch(number, size, stream)
        return vmap(one)(trained.values, trained.forward(x), target)

    with torch.no_grad(), one_thread():
        return torch.stack([batch(number) for number in range(batches)], 1)


def hidden_vectors(trained: Trained) -> Float[Tensor, "instance example width"]:
    """What the training examples are at the first entry of the stream, of MOST of them where there are more."""
    return trained.once(_hidden_vectors)


def _hidden_vectors(trained: Trained) -> Float[Tensor, "instance example width"]:
    batches, size = _looked_at(trained)
    inputs = (trained.batch(number, size, Stream.TRAIN)[0] for number in range(batches))
    activations = (trained.forward(x, record=True)[1] for x in inputs)
    return torch.cat([found.residual[:, :, 0] for found in activations], 1)


def seen_loss(trained: Trained) -> Float[Tensor, " instance"]:
    """Loss of the trained network on its training set, on MOST examples where there are more, (instance,)."""
    batches, size = _looked_at(trained)
    return _losses(trained, Stream.TRAIN, size, batches).mean(1)


def unseen_loss(trained: Trained) -> Estimate:
    """Held-out loss, (instance,): `held_out_loss` without what that gathers for each feature; its error, too, is NaN
    where too few samples showed anything."""
    found = _losses(trained, Stream.HELD_OUT, BATCH, BATCHES)
    error = found.std(1) / BATCHES**0.5
    doubtful = torch.arange(len(trained))
    if listed.unfit(trained.stack) is None:  # y = x: batches of unlike loss have unlike targets, nobody need look
        doubtful = (away(found, usual(found)).sum(1) < SEEN).nonzero().flatten()
    if len(doubtful) and not labelled(trained):
        part, evidence = trained.take(doubtful.tolist()), Evidence()
        for number in range(BATCHES):
            evidence.add(part.batch(number, BATCH)[1])
        shown = enough(evidence.shown, evidence.samples)
        error[doubtful] = torch.where(shown, error[doubtful], torch.nan)
    return Estimate(found.mean(1), error)
