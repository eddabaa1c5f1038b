"""Reading one linear code h = x W with other decoders than the network's own, so that a gap can be laid at the door of
the dictionary W or of the decoding.

An `Encoding` is W with the distribution of the features: a trained network's own (`measure.encoding_of`) or random unit
rows of the same shape (`Encoding.random`). A decoder is a function (encoding, h) -> x', batched over instances and
samples; adding one is writing one. `decoded` scores it by R^2 on held-out draws, as `r_squared` scores the network.

Decoders, from the least to the most they may use: `linear_probe` (best affine), `affine_relu` (best affine and a ReLU,
what one layer can do), `matching_pursuit` and `l1_homotopy` (sparsity and sign), `bayes_amp` (the whole prior).
"""

from toysup.decoders.bayes import bayes_amp
from toysup.decoders.encoding import Decoder, Encoding, decoded, decoded_count
from toysup.decoders.linear import affine_relu, linear_probe
from toysup.decoders.sparse import l1_homotopy, matching_pursuit

__all__ = [
    "Decoder",
    "Encoding",
    "affine_relu",
    "bayes_amp",
    "decoded",
    "decoded_count",
    "l1_homotopy",
    "linear_probe",
    "matching_pursuit",
]
