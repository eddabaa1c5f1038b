"""How directions lie to each other: pure functions of weights W (instance, feature, width), thousands at once.

`measure.directions` has the W of trained networks.
"""

from toysup.geometry.blocks import block_sizes
from toysup.geometry.dimensions import dimensionality, irregularity, typical_dimensionality
from toysup.geometry.groups import RELATIONS, group_relations
from toysup.geometry.shapes import REPRESENTED, arrangements, clusters, polytopes, random_directions

__all__ = [
    "RELATIONS",
    "REPRESENTED",
    "arrangements",
    "block_sizes",
    "clusters",
    "dimensionality",
    "group_relations",
    "irregularity",
    "polytopes",
    "random_directions",
    "typical_dimensionality",
]
