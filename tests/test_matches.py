"""Which unit of a dictionary stands for a target: as numpy has the correlations, over the same samples."""

import numpy as np
import torch

from toysup.constructions import untrained
from toysup.features import SparseUniform
from toysup.measure.matches import best_matches
from toysup.models import L1, Embedding, SparseAutoencoder
from toysup.setting import Model, Setting
from toysup.tasks import Reconstruction


def test_best_matches_are_the_largest_squared_correlations():
    task = Reconstruction(Model(Embedding, width=4, orthonormal=True), penalty=0.01)
    model = Model(SparseAutoencoder, latents=6, sparsity=L1(), layers=1)
    trained = untrained(Setting(SparseUniform(4, 0.2), task, model), [3, 5])
    directions = trained.per_instance(lambda setting, constants: setting.task.directions(setting.features, constants))
    h = torch.cat([trained.batch(number)[0] for number in range(2)], 1)
    with torch.no_grad():
        units = {"latent": trained.forward(h).latents, "neuron": h}
    found = best_matches(trained, lambda setting, x: x, batches=2)
    for instance in range(2):
        x = h[instance] @ directions[instance].mT  # orthonormal: the features themselves
        for name, own in units.items():
            with np.errstate(invalid="ignore"):  # a latent that is never on stands for nothing
                r = np.nan_to_num(np.corrcoef(x.T, own[instance].T)[:4, 4:], nan=0.0)
            assert np.allclose(found[name][instance], (r.clip(min=0) ** 2).max(1), atol=1e-4)
    assert found["latent"].max() > 0.5 and (found["chance"] < 0.05).all()  # a control, and the null
    assert torch.allclose(found["layers_written"], torch.ones(2, 4, dtype=found["layers_written"].dtype))
