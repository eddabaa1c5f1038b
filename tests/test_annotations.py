"""The shapes stated in annotations are the shapes that come (jaxtyping with beartype), and a wrong one is noticed."""

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from toysup.geometry import dimensionality
from toysup.random import uniforms


def test_stated_shapes_hold():
    checked = jaxtyped(typechecker=beartype)(uniforms)
    assert checked(np.arange(3), 0, 5, 2).shape == (3, 5, 2)
    assert jaxtyped(typechecker=beartype)(dimensionality)(torch.eye(4, 3)).shape == (4,)


def test_a_wrong_shape_is_noticed():
    with pytest.raises(TypeCheckError):
        jaxtyped(typechecker=beartype)(dimensionality)(torch.ones(3))
