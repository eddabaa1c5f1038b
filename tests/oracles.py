"""Slow, plain reference implementations that the tests, and the benchmark, hold toysup against. None imports toysup."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

# ------------------------------------------------------------------------------------------------------------- draws


def philox4x32(counter, key, rounds):
    """Philox4x32 in Python integers, as printed in Salmon et al. 2011, section 3.3."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def uniform(seed, stream, step, sample, feature):
    """One draw from the layout that toysup.random documents, rounded to float32 as it documents."""
    block, within = divmod(sample, 64)
    word, lane = divmod(within, 16)
    counter = (step & 0xFFFFFFFF, 16 * block + lane, step >> 32, feature)
    bits = philox4x32(counter, (seed, stream), 7)[word] >> 1
    return min((np.float32(bits) + np.float32(0.5)) * np.float32(2.0**-31), np.float32(1 - 2.0**-24))


# ------------------------------------------------------------------------------------------------------------- tasks


def reduced_rank_losses(x, y, weight, width=None):
    """Per-sample losses sum_k weight_k (y_k - y'_k)^2 of the best affine map of rank `width` fitted to (x, y).

    Reduced-rank regression: least squares first, then the leading principal directions of the weighted fit.
    """
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fit = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    if width is not None:
        root, centre = np.sqrt(weight), fit.mean(axis=0)
        _, directions = np.linalg.eigh(np.cov((fit - centre) * root, rowvar=False).reshape(y.shape[1], -1))
        kept = directions[:, ::-1][:, :width]
        inverse = np.divide(1, root, out=np.zeros_like(root), where=root > 0)
        fit = (fit - centre) * root @ kept @ kept.T * inverse + centre
    return (weight * (y - fit) ** 2).sum(axis=1)


def cross_entropies(logits, labels):
    """-log softmax(logits)[label] in nats: logits (batch, group, label), labels (batch, group)."""
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    return total - np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


# ------------------------------------------------------------------------------------------------------------ shapes


def budgeted_shapes(budget, tolerance, depths, hidden_ratio, read):
    """All (width, depth, hidden) whose weights are within `tolerance` (<= 1) of the budget, by trying every width.

    hidden_ratio None takes the hidden nearest to the budget, where that lies in [width / 4, 4 width].
    """
    found = []
    for depth in depths:
        for width in range(read or 1, 2 * budget + 1):
            if hidden_ratio is None:
                hidden = max(1, round(budget / live_weights(width, depth, 1, read)))
            else:
                hidden = max(1, round(hidden_ratio * width))
            near = abs(live_weights(width, depth, hidden, read) / budget - 1) <= tolerance
            if near and (hidden_ratio is not None or width <= 4 * hidden <= 16 * width):
                found.append((width, depth, hidden))
    return found


def live_weights(width, depth, hidden, read=None):
    """Weights of the blocks, counted one block at a time: the last block writes only `read` coordinates."""
    total = 0
    for block in range(depth):
        written = read if read is not None and block == depth - 1 else width
        total += width * hidden + hidden * written
    return total


# ------------------------------------------------------------------------------------------------------------ models


def relu(x):
    return np.maximum(x, 0)


def tied_autoencoder(x, W, b, last=relu):
    return last(x @ W @ W.T + b)


def mlp(x, weights, biases, W_out, b_out, last=relu):
    for W, b in zip(weights, biases, strict=True):
        x = relu(x @ W + b)
    return last(x @ W_out + b_out)


def residual_mlp(x, W_E, blocks, unembed):
    """(output, [neurons of each block], [stream before each block and after the last])."""
    stream = x @ W_E
    neurons, streams = [], [stream]
    for W_in, b_in, W_out in blocks:
        hidden = relu(stream @ W_in + b_in)
        stream = stream.copy()
        stream[:, : W_out.shape[1]] += hidden @ W_out
        neurons.append(hidden)
        streams.append(stream)
    return unembed(stream), neurons, streams


# ---------------------------------------------------------------------------------------------------------- training


def einsum_loop(
    n_instances,
    n_features,
    width,
    batch,
    steps,
    density,
    importance=1.0,
    lr=1e-3,
    weight_decay=0.01,
    data=None,
    seed=0,
    start=None,
):
    """The toy model of Elhage et al. 2022 as the field trains it: an instance axis by hand, einsums, torch's AdamW.

    `density` and `importance` are numbers or tensors that broadcast to (instance, batch, feature). `data` maps a step
    to x (instance, batch, feature); by default x is drawn by torch.rand. `start` is (W, b) in place of a draw. The loss
    is averaged within an instance and summed over instances, so that no instance's gradient is rescaled by the others.

    Returns (W, b, losses): (instance, feature, width), (instance, feature) and (instance, step), the loss of each step
    before its update.
    """
    generator = torch.Generator().manual_seed(seed)
    if start is None:  # xavier_normal of one instance's (n_features, width), not of the stacked tensor
        std = math.sqrt(2 / (n_features + width))
        start = (
            std * torch.randn(n_instances, n_features, width, generator=generator),
            torch.zeros(n_instances, n_features),
        )
    W, b = (nn.Parameter(value.clone()) for value in start)
    optimizer = torch.optim.AdamW([W, b], lr=lr, weight_decay=weight_decay)
    shape, zero, losses = (n_instances, batch, n_features), torch.zeros(()), []
    for step in range(steps):
        if data is None:
            active = torch.rand(shape, generator=generator) < density
            x = torch.where(active, torch.rand(shape, generator=generator), zero)
        else:
            x = data(step)
        hidden = torch.einsum("ibf,ifh->ibh", x, W)
        output = torch.relu(torch.einsum("ibh,ifh->ibf", hidden, W) + b[:, None])
        loss = (importance * (x - output) ** 2).sum(-1).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return W.detach(), b.detach(), torch.stack(losses, 1)


def own_loop(
    forward,
    wanted,
    start,
    shape,
    steps,
    density,
    signed=False,
    scale=1.0,
    lr=1e-3,
    weight_decay=0.01,
    data=None,
    seed=0,
):
    """`einsum_loop` for a model of one's own: `forward(x, *parameters)`, with an instance axis, and `wanted(x)`.

    shape: (instance, batch, feature); start: parameters, instance first; scale: of what is drawn. Returns (parameters,
    losses)."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(value.clone()) for value in start]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    zero, losses = torch.zeros(()), []
    for step in range(steps):
        if data is None:
            active, values = (torch.rand(shape, generator=generator) for _ in range(2))
            x = torch.where(active < density, 2 * values - 1 if signed else values, zero)
        else:
            x = data(step)
        x = scale * x
        loss = (wanted(x) - forward(x, *parameters)).square().sum(-1).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return [parameter.detach() for parameter in parameters], torch.stack(losses, 1)


def gelu_autoencoder(x, W, b):
    hidden = torch.einsum("ibf,ifh->ibh", x, W)
    return nn.functional.gelu(torch.einsum("ibh,ifh->ibf", hidden, W) + b[:, None])


def two_layers(x, W3, b3, W1, W2, b1, b2):
    hidden = torch.relu(torch.einsum("ibf,ifh->ibh", x, W1) + b1[:, None])
    hidden = torch.relu(torch.einsum("ibh,ihk->ibk", hidden, W2) + b2[:, None])
    return torch.relu(torch.einsum("ibh,ihf->ibf", hidden, W3) + b3[:, None])


def squares(x, W, b):
    return torch.einsum("ibf,ifh->ibh", x, W).square().sum(-1, keepdim=True) + b[:, None]


def residual_loop(
    n_instances, n_features, shape, batch, steps, density, lr=1e-3, weight_decay=0.01, data=None, seed=0, start=None
):
    """Residual MLPs that learn x + relu(x) through a frozen embedding (Braun et al. 2025), written like `einsum_loop`.

    `shape` is (width, blocks, hidden); the unembedding is the embedding's transpose. `data` maps a step to x in [-1, 1]
    (instance, batch, feature). `start` is (W_E, [W_in of each block], [b_in], [W_out]), each with an instance axis.

    Returns (parameters, losses): three lists as in `start`, and (instance, step).
    """
    generator = torch.Generator().manual_seed(seed)
    if start is None:
        width, blocks, hidden = shape
        draw = lambda *size: torch.randn(n_instances, *size, generator=generator)  # noqa: E731
        start = (
            nn.functional.normalize(draw(n_features, width), dim=-1),
            [draw(width, hidden) / math.sqrt(width) for _ in range(blocks)],
            [torch.zeros(n_instances, hidden) for _ in range(blocks)],
            [draw(hidden, width) / math.sqrt(hidden * blocks) for _ in range(blocks)],
        )
    embedding, *parts = start
    W_in, b_in, W_out = parameters = [[nn.Parameter(value.clone()) for value in part] for part in parts]
    optimizer = torch.optim.AdamW([*W_in, *b_in, *W_out], lr=lr, weight_decay=weight_decay)
    size, zero, losses = (n_instances, batch, n_features), torch.zeros(()), []
    for step in range(steps):
        if data is None:
            active = torch.rand(size, generator=generator) < density
            x = torch.where(active, 2 * torch.rand(size, generator=generator) - 1, zero)
        else:
            x = data(step)
        stream = torch.einsum("ibf,ifd->ibd", x, embedding)
        for block in range(len(W_in)):
            neurons = torch.relu(torch.einsum("ibd,idh->ibh", stream, W_in[block]) + b_in[block][:, None])
            stream = stream + torch.einsum("ibh,ihd->ibd", neurons, W_out[block])
        output = torch.einsum("ibd,ifd->ibf", stream, embedding)
        loss = (x + torch.relu(x) - output).square().sum(-1).mean(-1)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.detach())
    return [[value.detach() for value in part] for part in parameters], torch.stack(losses, 1)
