"""What the layers of a network hold jointly and one by one, beside what they held before training, as columns.

Features are read along the network's own readout (`cross_layer.decode` with `own`), for tasks of several inputs without
what is affine in those; facts by one softmax readout (`decode_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toysup.constructions import untrained
from toysup.ensemble import Trained
from toysup.measure.cross_layer import decode, decode_labels
from toysup.measure.layers import inputs
from toysup.measure.participation import ablation_drops, attribution
from toysup.measure.recovery import features_offered
from toysup.sharing import Decoded, by_size, dealt, participation, subsets
from toysup.tasks import And, Identity, Memory

__all__ = ["HOWS", "SIZES", "held_jointly", "jointly_and_alone"]

SIZES = (1, 2, 4, 8, 16)  # of the sets of layers
HOWS = ("attribution", "zero", "mean", "resample")  # ways to tell which blocks take part in a feature


def read(trained: Trained, sets: Sequence[Sequence[int]], draws: int, fitted: bool = False, **where: Any) -> Decoded:
    """Which of the features asked for each set recovers, by the decoder of the task."""
    task = trained.setting.task
    if isinstance(task, Memory):
        return decode_labels(trained, sets, **where)
    beyond, wanted = None if isinstance(task, Identity) else inputs, asked(trained).unsqueeze(1)
    found = decode(trained, sets, beyond=beyond, own=not fitted, batches=draws, scored=2 * draws, **where)
    return found._replace(share=torch.where(wanted, found.share, torch.nan), found=found.found & wanted.unsqueeze(-1))


def asked(trained: Trained) -> Tensor:
    n = trained.setting.task.n_outputs(trained.setting.features)
    return trained.per_instance(lambda setting, _: torch.as_tensor(setting.task.importance).expand(n) > 0)


def held_jointly(
    trained: Trained, draws: int, sizes: Sequence[int] = SIZES, *, fitted: bool = False
) -> dict[str, Tensor]:
    """How many features are offered, and by number of layers joint_k and union_k; of a single layer, of the whole dealt
    at random to k parts."""
    shape = trained.setting.build().shape
    facts = isinstance(trained.setting.task, Memory)
    out = {"load": features_offered(trained) if facts else asked(trained).sum(1).float()}
    if shape.depth == 1:
        for parts in (size for size in sizes if size > 1 and shape.hidden % size == 0):
            found = read(trained, [range(parts)], draws, fitted, parts=dealt(shape.hidden, parts))
            out |= {f"joint_{parts}": found.count()[:, -1], f"union_{parts}": found.union()[:, -1]}
        return out
    found = read(trained, subsets(shape.depth, [size for size in sizes if 1 < size <= shape.depth], 2), draws, fitted)
    curve = by_size(found)
    for place, size in enumerate(curve.sizes):
        out |= {f"joint_{size}": curve.joint[:, place], f"union_{size}": curve.union[:, place]}
    return out | {"best": found.best_part()}


def jointly_and_alone(trained: Trained, draws: int) -> dict[str, Tensor]:
    """`held_jointly`, also before training; what fitted probes read from the embedded input, the final stream and, for
    AND, the neurons; participation ratios of blocks in each feature and their shuffled nulls."""
    setting = trained.setting
    module, n = setting.build(), setting.task.n_outputs(setting.features)
    shape, whole = module.shape, getattr(module, "room", n) == n  # else built by hand, for less than there is room
    ends = (1, shape.depth)
    out = held_jointly(trained, draws, SIZES if whole else ends)
    if shape.depth == 1:
        return out
    before = trained.at(0) if trained.snapshots else untrained(setting, trained.stack.init_seed.tolist())
    more = {"start_": held_jointly(before, draws, ends)}
    if trained.snapshots and isinstance(setting.task, And):
        more |= {"fitted_": held_jointly(trained, 2 * draws, fitted=True)}
        more |= {"fitted_start_": held_jointly(before, 2 * draws, fitted=True)}
    out |= {prefix + name: own for prefix, these in more.items() for name, own in these.items()}
    streams = [range(shape.width), range(shape.depth * shape.width, (shape.depth + 1) * shape.width)]
    alone = read(trained, [], draws, fitted=True, of="stream", parts=streams[: 1 + whole]).count()
    out |= dict(zip(("input", "final"), alone.T, strict=False))
    batches = max(1, draws // 2)
    drops = {
        "zero": ablation_drops(trained, "zero", batches=batches),
        "mean": ablation_drops(trained, "mean", batches=batches),
        "resample": ablation_drops(trained, "resample", batches=batches),
    } if whole else {}  # fmt: skip
    drops |= {"attribution": attribution(trained, batches=draws)[:, 1:]} if whole else {}
    for how, own in drops.items():
        found = participation(own)
        out |= {f"pr_{how}": found.ratio, f"null_{how}": found.null}
    return out
