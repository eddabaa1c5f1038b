"""What the world looks like: sparse-feature distributions, each a pure function of uniforms in (0, 1), ends excluded.

One mechanism serves all of them. A uniform u decides whether a feature is active (u < p), and u / p, which is again
uniform on (0, 1) where the feature is active, decides its magnitude. A distribution says where features are active, a
`Magnitude` says what their values are, and the moments follow from the two.

Float fields (density, exponent, ...) may vary by instance: the engine puts tensors of shape () or (n_features,) in
their place, under vmap and compile. Fields that are int, str or bool fix sizes and kinds, and a stack shares them.

To add independent features with another activity, subclass `Independent`; with another dependence, `Sparse`; with
magnitudes that depend on what is active, `Features`. To add a magnitude, add a line to `MAGNITUDES`. What no
fused kernel is proved to know (another magnitude, a `transform` of one's own) is trained by the general path.
"""

from toysup.features.base import MAGNITUDES, Features, Independent, Magnitude, Sparse
from toysup.features.dependent import BitGroups, Correlated, ExactlyK, Hierarchy, OnePerGroup
from toysup.features.independent import GaussianCopula, PowerLaw, SparseBoolean, SparseNormal, SparseUniform
from toysup.features.normalised import UnitLength

__all__ = [
    "MAGNITUDES",
    "BitGroups",
    "Correlated",
    "ExactlyK",
    "Features",
    "GaussianCopula",
    "Hierarchy",
    "Independent",
    "Magnitude",
    "OnePerGroup",
    "PowerLaw",
    "Sparse",
    "SparseBoolean",
    "SparseNormal",
    "SparseUniform",
    "UnitLength",
]
