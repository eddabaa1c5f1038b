"""Boolean functions that take several steps to compute."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from toysup.checks import InputError, check_whole
from toysup.features import BitGroups, Features
from toysup.tasks.base import Constants
from toysup.tasks.regression import Regression

# a gate of two bits is ALPHA (a + b) + BETA a b; so is its chance, of two independent chances
KINDS = ("and", "or", "xor")
ALPHA, BETA = (0.0, 1.0, 1.0), (1.0, -1.0, -2.0)


@dataclass(frozen=True)
class Circuit(Regression):
    """y_c = the output of circuit c: a complete binary tree of `depth` q levels of random gates (AND, OR, XOR) over the
    2^q bits of its own group of features, all gates drawn once by the instance.

    Features are BitGroups of size 2^q: circuit c is active with probability p, and its bits are then -1 or 1 evenly
    (false or true); all its gates are 0 where it is inactive, as they are where all its bits are false. So outputs are
    sparse over circuits and not within an active one.

    With P the chance that a gate is 1 in an active circuit, E y = E y^2 = p P. Children of a gate are independent, so P
    goes up the tree by P = alpha (P_a + P_b) + beta P_a P_b, and the share s_i = E[gate x_i | active] that is linear in
    bit i by s_i = (alpha + beta P_b) s_i^a, from 1/2 at the bit itself (the Fourier coefficients of degree 1; O'Donnell
    2014, Analysis of Boolean Functions, section 2.2). "linear" is exact: the best affine map takes off p sum_i s_i^2.
    A gate whose s are all 0 is `pure`: no affine map of the input says anything about it, so that whoever reads it
    linearly reads something computed.
    """

    depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        # 2^depth features make a circuit, and a draw's number of its feature has 32 bits
        object.__setattr__(self, "depth", check_whole("Circuit", "depth", self.depth, at_most=31))

    def check(self, features: Features) -> None:
        wanted = f"BitGroups, signed, of group_size 2^depth = {2**self.depth}"
        if not isinstance(features, BitGroups):
            raise InputError(f"Circuit: features must be {wanted}, got {type(features).__name__}")
        if features.group_size != 2**self.depth or not features.signed or features.anti:
            raise InputError(f"Circuit: features must be {wanted}, got {features}")
        super().check(features)

    def n_outputs(self, features: BitGroups) -> int:
        return features.n_features // features.group_size

    @property
    def gates_per_circuit(self) -> int:
        """2^q - 1, of which 2^(q - j) at depth j."""
        return 2**self.depth - 1

    def constant_uniforms(self, features: Features) -> int:
        return self.n_outputs(features) * self.gates_per_circuit

    def constants(self, features: Features, uniforms: Tensor) -> Constants:
        kinds = (uniforms * len(KINDS)).long().clamp(max=len(KINDS) - 1)
        return {"kinds": kinds.unflatten(0, (-1, self.gates_per_circuit))}  # circuit gate

    def _up(self, bits: Tensor, constants: Constants) -> list[Tensor]:
        """Values, or chances, of all levels from those of the bits, (..., circuit, 2^q): the bits first."""
        levels, done = [bits], 0
        for size in (2 ** (self.depth - j) for j in range(1, self.depth + 1)):
            kinds = constants["kinds"][..., done : done + size]
            alpha, beta = (torch.tensor(table, dtype=bits.dtype, device=bits.device)[kinds] for table in (ALPHA, BETA))
            a, b = levels[-1][..., ::2], levels[-1][..., 1::2]
            levels.append(alpha * (a + b) + beta * a * b)
            done += size
        return levels

    def gates(self, x: Float[Tensor, "batch bit"], constants: Constants) -> Float[Tensor, "batch circuit gate"]:
        """What every gate of every circuit says, 0 or 1: those at depth 1 first, from left to right, the root last."""
        bits = (x > 0).to(x.dtype).unflatten(-1, (-1, 2**self.depth))
        return torch.cat(self._up(bits, constants)[1:], -1)

    def expected(self, constants: Constants) -> tuple[Float[Tensor, "circuit gate"], Float[Tensor, "circuit gate bit"]]:
        """(P, s) of every gate in an active circuit: its chance to be 1, and its covariance with each bit -1 or 1."""
        n = 2**self.depth
        half = torch.full((*constants["kinds"].shape[:-1], n), 0.5, device=constants["kinds"].device)
        chances = self._up(half, constants)
        slopes, found, done = torch.eye(n, device=half.device).expand(*half.shape, n) / 2, [], 0
        for below in chances[:-1]:
            kinds = constants["kinds"][..., done : done + below.shape[-1] // 2]
            alpha, beta = (torch.tensor(table, device=half.device)[kinds] for table in (ALPHA, BETA))
            a, b = below[..., ::2], below[..., 1::2]
            with_a, with_b = (alpha + beta * b).unsqueeze(-1), (alpha + beta * a).unsqueeze(-1)
            slopes = with_a * slopes[..., ::2, :] + with_b * slopes[..., 1::2, :]
            found.append(slopes)
            done += kinds.shape[-1]
        return torch.cat(chances[1:], -1), torch.cat(found, -2)

    def pure(self, constants: Constants) -> Tensor:
        """(circuit, gate): whether no affine map of the input predicts the gate better than a constant does."""
        return (self.expected(constants)[1] == 0).all(-1)  # products of halves: exact

    def target(self, x: Tensor, constants: Constants) -> Tensor:
        return self.gates(x, constants)[..., -1]

    def target_moments(self, features: BitGroups, constants: Constants) -> tuple[Tensor, Tensor, Tensor]:
        chances, slopes = self.expected(constants)
        mean = features.activity * chances[..., -1]
        return mean, mean, features.activity * slopes[..., -1, :].square().sum(-1)
