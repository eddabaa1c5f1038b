"""Decoders of a linear code that know that few features are active, and none below 0."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toysup.checks import check_whole
from toysup.decoders.encoding import Encoding
from toysup.jit import njit

__all__ = ["l1_homotopy", "matching_pursuit"]


def l1_homotopy(encoding: Encoding, h: Tensor) -> Tensor:
    """min sum x' subject to x' W = h, x' >= 0, exactly: the path of min |h - x' W|^2 / 2 + lambda sum x' down to 0.

    x' is linear in lambda between the places where a feature joins or leaves (Osborne, Presnell & Turlach 2000; Donoho
    & Tsaig 2008, IEEE Trans. Inf. Theory 54:4789). A code of few features takes about a step for each; near the
    threshold, where proximal gradient stops short of recovery, it is exact still. In double precision, on the CPU. Of
    two equal rows only one is used; h that no x' >= 0 gives is fitted in the least squares.
    """
    W = encoding.W.double()
    gram, aligned = ((rows @ W.mT).numpy(force=True) for rows in (W, h.double()))
    found = np.zeros_like(aligned)
    for own in zip(gram, aligned, found, strict=True):
        _paths(*own, W.shape[-1])
    return torch.from_numpy(found).to(encoding.W)


@njit(nogil=True, fastmath={"reassoc", "contract"})
def _paths(gram: np.ndarray, aligned: np.ndarray, found: np.ndarray, rank: int) -> None:
    """Follow each sample's path. gram: W W^T (feature, feature); aligned: h W^T (sample, feature); found is filled."""
    n, most = len(gram), min(rank, len(gram))
    inverse = np.zeros((most, most))  # of the Gram matrix of the active features
    active, place = np.zeros(most, np.int64), np.zeros(n, np.int64)
    x, slope, column, shared, pull = np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(most), np.zeros(n)
    for sample in range(len(aligned)):
        left, size, barred = aligned[sample].copy(), 0, -1
        place[:] = -1
        join = np.argmax(left)
        level, first = left[join], left[join]
        for _ in range(20 * most):
            if level <= 1e-12 * first or level <= 0:
                break
            if join >= 0:  # the inverse grows by a row and column (Schur complement)
                rest = gram[join, join]
                for i in range(size):
                    shared[i] = gram[join, active[i]]
                for i in range(size):
                    total = 0.0
                    for j in range(size):
                        total += inverse[i, j] * shared[j]
                    column[i] = total
                    rest -= total * shared[i]
                if rest <= 1e-10 * gram[join, join]:  # it adds no direction
                    place[join] = -2
                else:
                    for i in range(size):
                        for j in range(size):
                            inverse[i, j] += column[i] * column[j] / rest
                        inverse[i, size] = inverse[size, i] = -column[i] / rest
                    inverse[size, size], active[size], place[join], x[size] = 1 / rest, join, size, 0.0
                    size += 1
            pull[:] = 0
            for i in range(size):
                total = 0.0
                for j in range(size):
                    total += inverse[i, j]
                slope[i] = total
                row = gram[active[i]]
                for j in range(n):
                    pull[j] += total * row[j]
            step, join, leave = level, -1, -1
            if size < most:
                for j in range(n):
                    if place[j] == -1 and j != barred and pull[j] < 1:
                        far = max(level - left[j], 0.0) / (1 - pull[j])
                        if far < step:
                            step, join = far, j
            for i in range(size):
                if slope[i] < 0 and -x[i] / slope[i] < step:
                    step, join, leave = -x[i] / slope[i], -1, i
            for i in range(size):
                x[i] += step * slope[i]
            for j in range(n):
                left[j] -= step * pull[j]
            level -= step
            barred = -1
            if leave >= 0:  # the last takes its place, and the inverse loses a row and column
                barred, last = active[leave], size - 1
                place[barred] = -1
                for i in range(size):
                    inverse[i, leave], inverse[i, last] = inverse[i, last], inverse[i, leave]
                for j in range(size):
                    inverse[leave, j], inverse[last, j] = inverse[last, j], inverse[leave, j]
                active[leave], x[leave] = active[last], x[last]
                if leave != last:
                    place[active[leave]] = leave
                for i in range(last):
                    for j in range(last):
                        inverse[i, j] -= inverse[i, last] * inverse[last, j] / inverse[last, last]
                size = last
            elif join < 0:
                break
        for i in range(size):
            found[sample, active[i]] = max(x[i], 0.0)


def matching_pursuit(encoding: Encoding, h: Tensor, *, most: int | None = None, tolerance: float = 1e-4) -> Tensor:
    """Orthogonal matching pursuit, nonnegative: the feature whose direction the residual has most of joins, all
    coefficients are fitted anew, until the residual is `tolerance` of |h| or `most` features have joined.

    Pati, Rezaiifar & Krishnaprasad 1993; Tropp 2004, IEEE Trans. Inf. Theory 50:2231. `most` is the width at most.
    Negative coefficients of the last fit are set to 0.
    """
    W, width = encoding.W, encoding.W.shape[-1]
    most = min(width if most is None else most, W.shape[-2])
    check_whole("matching_pursuit", "most", most)
    norms = W.norm(dim=-1)
    unit = W / norms.clamp(min=1e-12).unsqueeze(-1)
    count, batch = h.shape[:2]
    index = torch.arange(count).view(-1, 1).expand(count, batch)
    basis = h.new_zeros(count, batch, most, width)  # orthonormal rows
    # chosen rows in terms of the basis
    triangle = torch.eye(most, dtype=h.dtype).expand(count, batch, most, most).clone()
    chosen = torch.zeros(count, batch, most, dtype=torch.long)
    taken = (norms < 1e-6).unsqueeze(1).expand(count, batch, -1).clone()
    residual, going = h.clone(), torch.ones(count, batch, dtype=torch.bool)
    for k in range(most):
        score = (residual @ unit.mT).masked_fill(taken, -torch.inf)
        value, pick = score.max(-1)
        going = going & (value > 0) & (residual.norm(dim=-1) > tolerance * h.norm(dim=-1))
        if not bool(going.any()):
            break
        row = unit[index, pick]
        inside = torch.einsum("cbkw,cbw->cbk", basis, row)
        new = row - torch.einsum("cbk,cbkw->cbw", inside, basis)
        again = torch.einsum("cbkw,cbw->cbk", basis, new)  # orthogonalised twice, against rounding
        new = new - torch.einsum("cbk,cbkw->cbw", again, basis)
        length = new.norm(dim=-1)
        going = going & (length > 1e-5)
        new = torch.where(going.unsqueeze(-1), new / length.clamp(min=1e-12).unsqueeze(-1), 0.0)
        basis[:, :, k] = new
        column = inside + again
        column[..., k] = length
        triangle[..., k] = torch.where(going.unsqueeze(-1), column, triangle[..., k])
        chosen[..., k] = pick
        taken = taken.scatter(-1, pick.unsqueeze(-1), going.unsqueeze(-1) | taken.gather(-1, pick.unsqueeze(-1)))
        residual = residual - (residual * new).sum(-1, keepdim=True) * new
    weights = torch.linalg.solve_triangular(triangle, torch.einsum("cbkw,cbw->cbk", basis, h).unsqueeze(-1), upper=True)
    used = basis.abs().sum(-1) > 0
    weights = torch.where(used, weights.squeeze(-1), 0.0).clamp(min=0)
    found = h.new_zeros(count, batch, W.shape[-2]).scatter_add(-1, chosen, weights)
    return found / norms.clamp(min=1e-12).unsqueeze(1)
