"""Who gets how much of the width? Feature capacities against importance and kurtosis, beside the exact optimum.

Scherlis et al. 2022, "Polysemanticity and Capacity in Neural Networks": y = sum_i v_i x_i^2 is predicted through m <
n dimensions by y' = |W^T x|^2 + b. They predict that the most important features get a dimension each (capacity C_i =
(W_i.W_i)^2 / sum_j (W_i.W_j)^2 = 1), less important ones share, the least are ignored (0), with more sharing the
higher the features' kurtosis k; that sum C_i <= m; and that embeddings are block-semi-orthogonal. Their training
settings could not be consulted. The optimum and its boundaries are derived in `toysup.theory.capacity`: dedicated
where v_i >= A, ignored where v_i <= 2 A / (k - 1), nothing shared for k <= 3.

Trained: Adam at .01 with a cosine schedule, 512 samples a step, features 0 or +-1 (k = 1 / density). (a) Two features
in one dimension over k and v_2 / v_1; (b) 6, 12 and 20 features in 3, 4 and 5 dimensions, v_i = .8^i, at seven k;
beside them the ReLU autoencoder of Elhage et al. 2022 at density 1 / k. C <= .05 counts as ignored and C >= .95 as
dedicated, in trained networks and in the optimum alike.

Rules, on 95% intervals. (a) As theory: in over 90% of cells the best of 4 seeds has the optimum's regions, and the
95th percentile of its capacity error is below .05. No sharing up to k = 3: it happens in under 5% of networks there
(and in over 90% where the optimum shares). (b) For each size, k > 3, every seed for itself: mean capacity error below
.02; regions right for over 90% of features; regions ordered by importance in over 90% of networks; the optimum
reached (excess below 1% of the best constant's loss) by over 90%. sum C_i <= m holds for any matrix, so that verdict
tests arithmetic (to 1e-5 m); sum C_i = m holds only where W is block-semi-orthogonal, and must to 1% in over 90% of
networks. Only kurtosis matters: with uniform and normal magnitudes of equal k the capacity error is below .02 too.
Blocks depend on the model: at some k > 3 the quadratic model's largest block has at least one feature more than the
ReLU model's, corrected for the number of k. Controls: regions shuffled among cells; random weights; half and twice
the steps; a third of the rate.

(a) is trained for 3,000 steps: in a first run of 1,500 the fourth start, of |W|^2 = 6.3, had not come down to the
optimum everywhere, and 5.9% of networks up to k = 3 still seemed to share.

Two cores: --quick half a minute, default (15,888 networks) 4.5 minutes beside other work, 3.8 of processor time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import torch

from toysup import plots, report, stats
from toysup.features import SparseBoolean, SparseNormal, SparseUniform
from toysup.geometry import block_sizes, dimensionality
from toysup.models import SquaredProjection, TiedAutoencoder
from toysup.setting import Adam, Cosine, Model, Setting
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import Identity, SumOfSquares
from toysup.theory import REGIONS, capacity_loss, capacity_optimum, capacity_regions, expected_loss

QUESTION = "Who gets how much of the width: do capacities follow importance and kurtosis as the optimum says?"
KURTOSIS = np.array([2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 40.0])
SIZES = ((12, 4), (6, 3), (20, 5))
TOLERANCE = 0.05  # of a capacity, to call a feature ignored or dedicated
LAWS = {"uniform": (SparseUniform, 9 / 5), "normal": (SparseNormal, 3.0)}  # kurtosis times density
PACES = {"half_the_steps": (0.5, 1.0), "twice_the_steps": (2.0, 1.0), "a_third_of_the_rate": (1.0, 1 / 3)}


class Family:
    """Networks at every (kurtosis, importances, seed): the grid that trains them and, once trained, what they became.

    Arrays lead with those three axes. `at` are importances (choice, n); for the ReLU model kurtosis means 1 / density.
    """

    def __init__(
        self, run: report.Run, at: np.ndarray, m: int, kurtosis: np.ndarray = KURTOSIS, *, seeds: int,
        relu: bool = False, law: Any = None, scale: float = 1.0, pace: tuple[float, float] = (1.0, 1.0),
    ) -> None:  # fmt: skip
        self.m, self.n, self.v, self.k = m, at.shape[1], at[:, None], kurtosis[:, None, None]
        steps = run.pick(default=3000 if self.n == 2 or relu else 2000, quick=1000, smoke=10)
        setting = Setting(
            SparseUniform(self.n, 0.1) if relu else (law or SparseBoolean)(self.n, 0.1, signed=True),
            Identity() if relu else SumOfSquares(),
            Model(TiedAutoencoder if relu else SquaredProjection, width=m),
            Adam(lr=0.01 * pace[1], schedule=Cosine()),
            steps=int(steps * pace[0]),
            batch=run.pick(default=512, quick=256, smoke=32),
        )
        axes = {"features.density": scale / kurtosis, "task.importance": dict(enumerate(at)), "seed": range(seeds)}
        self.relu, self.grid = relu, Grid(setting, axes)

    def read(self, answer: Results) -> None:
        """Capacities C (..., n); for the quadratic model also the optimum's, regions, and the excess loss."""
        lead = (len(self.k), len(self.v), -1)
        W = answer.parameters("W").astype(float).reshape(*lead, self.n, self.m)
        self.C, self.largest_block = dimensionality(torch.from_numpy(W)).numpy(), block_sizes(W).max(-1)
        self.regions = capacity_regions(self.C, TOLERANCE)
        if self.relu:
            if self.n == 2:  # exact; its cost grows fourfold with each feature
                b = answer.parameters("b").reshape(*lead, self.n)
                self.excess = expected_loss(W, b, 1 / self.k, self.v)
            return
        self.optimum = capacity_optimum(self.m, self.v, self.k)
        self.error = np.abs(self.C - self.optimum.capacity).mean(-1)
        told = capacity_regions(self.optimum.capacity, TOLERANCE)
        self.right, self.sharing = self.regions == told, (told == 1).any(-1) & (self.regions >= 0).any(-1)
        loss = capacity_loss(W, answer.parameters("b").reshape(lead), self.v, self.k)
        self.excess = (loss - self.optimum.loss) / ((self.k - 1) * (self.v**2).sum(-1))  # over the best constant's

    def of_best(self, values: np.ndarray) -> np.ndarray:
        """The values (kurtosis, importances, seed) of the seed of least loss."""
        return np.take_along_axis(values, self.excess.argmin(-1)[..., None], 2)[..., 0]


def families(run: report.Run) -> dict[str, Family]:
    cells, coarse = run.pick(default=40, quick=16, smoke=4), run.pick(default=12, quick=4, smoke=3)
    seeds, decay = run.pick(default=40, quick=6, smoke=2), {n: 0.8 ** np.arange(n)[None] for n, _ in SIZES}
    axis, few = np.geomspace(1.25, 40, cells), np.geomspace(1.25, 40, coarse)
    found = {
        "two": Family(run, pairs(cells), 1, axis, seeds=4),
        "relu_two": Family(run, pairs(cells), 1, axis, seeds=4, relu=True),
        "relu": Family(run, decay[12], 4, seeds=seeds, relu=True),
    }
    for n, m in run.pick(default=SIZES, quick=SIZES[:1]):
        found[f"n{n}_m{m}"] = Family(run, decay[n], m, seeds=seeds)
    for name, (law, scale) in LAWS.items():
        found[name] = Family(run, decay[12], 4, KURTOSIS[[2, 4, 6]], seeds=seeds, law=law, scale=scale)
    for name, pace in PACES.items():
        found[name] = Family(run, pairs(coarse), 1, few, seeds=4, pace=pace)
    return found


def pairs(cells: int) -> np.ndarray:
    """Importances (choice, 2) whose ratio v_2 / v_1 goes from .1 to 10; the larger is 1."""
    ratio = np.geomspace(0.1, 10, cells)
    return np.stack([np.ones(cells), ratio], -1) / np.maximum(1, ratio)[:, None]


def share(true: np.ndarray) -> stats.Interval:
    return stats.share(int(true.sum()), true.size)


def agreement(family: Family) -> stats.Interval:
    """Share of cells whose best seed has every region right."""
    return share(family.of_best(family.right.all(-1)))


def main(run: report.Run) -> None:
    trained = families(run)
    grids = {name: family.grid for name, family in trained.items()}
    answers = sweep(grids, [], results=run.results, device=run.device, workers=run.workers)
    for name, family in trained.items():
        family.read(answers[name])
    statistics, verdict, controls = two_features(trained)
    for part, own in zip((statistics, verdict, controls), many_features(trained), strict=True):
        part |= own
    over = max(float((f.C.sum(-1) / f.m - 1).max()) for f in trained.values())
    beaten = min(float(f.excess.min()) for f in trained.values() if not f.relu)
    statistics["largest_sum_over_width"] = stats.Interval(1 + over, 1 + over, 1 + over)
    verdict["sum_at_most_width"] = "supported" if over < 1e-5 else "rejected"
    verdict["optimum_never_beaten"] = "supported" if beaten > -1e-6 else "rejected"  # what float32 weights resolve
    controls["optimum"] = {"lowest_excess": beaten}
    engine = ", ".join(sorted({e for answer in answers.values() for e in answer.table["engine"]}))
    report.write(run, draw(trained, statistics), statistics=statistics, verdict=verdict, controls=controls,
                 engine=engine, instances=sum(map(len, grids.values())),
                 steps=max(grid.setting.steps for grid in grids.values()),
                 seconds=sum(answer.seconds for answer in answers.values()))  # fmt: skip


def two_features(trained: dict[str, Family]) -> tuple[dict, dict, dict]:
    """(a): the phase diagram of two features in one dimension."""
    two = trained["two"]
    shared, low = (two.regions == 1).any(-1), (two.k <= 3)[:, 0, 0]
    statistics = {
        "two_agreement": agreement(two),
        "two_error_95th_percentile": stats.quantile(two.of_best(two.error).ravel(), 0.95),
        "two_sharing_up_to_kurtosis_3": share(shared[low]),
        "two_sharing_where_theory_shares": share(shared[two.sharing]),
        "two_seeds_at_optimum_up_to_kurtosis_3": share(two.excess[low] < 0.01),
        "two_seeds_at_optimum_above_3": share(two.excess[~low] < 0.01),
    }
    verdict = {
        "two_regions_as_theory": stats.decide(statistics["two_agreement"], (0.9, 1)),
        "two_capacities_as_theory": stats.decide(statistics["two_error_95th_percentile"], (-np.inf, 0.05)),
        "no_sharing_up_to_kurtosis_3": stats.every(
            stats.decide(statistics["two_sharing_up_to_kurtosis_3"], (0, 0.05)),
            stats.decide(statistics["two_sharing_where_theory_shares"], (0.9, 1)),
        ),
    }
    mine = np.stack([two.of_best(two.regions[..., i]) for i in range(2)], -1).reshape(-1, 2)
    told = capacity_regions(two.optimum.capacity, TOLERANCE).reshape(-1, 2)
    shuffled = np.random.default_rng(0).permutation(mine)
    controls = {"two": {"agreement_if_shuffled": share((shuffled == told).all(-1))}}
    controls["two"]["sharing_up_to_3_by_seed"] = shared[low].mean((0, 1))
    for name in PACES:
        other = trained[name]
        few = (other.regions[(other.k <= 3)[:, 0, 0]] == 1).any(-1)
        controls[name] = {"agreement": agreement(other), "sharing_up_to_kurtosis_3": share(few)}
    relu = trained["relu_two"].C[..., 1]
    kinds = {"ignored": relu <= TOLERANCE, "half": abs(relu - 0.5) < 0.1, "dedicated": relu >= 1 - TOLERANCE}
    controls["relu_two_capacities"] = {name: share(true) for name, true in kinds.items()}
    return statistics, verdict, controls


def many_features(trained: dict[str, Family]) -> tuple[dict, dict, dict]:
    """(b): profiles over importance, every seed for itself."""
    statistics, verdict, controls = {}, {}, {}
    for name, family in trained.items():
        if family.n == 2 or family.relu:
            continue
        high = (family.k > 3)[:, 0, 0]
        error = stats.mean(family.error[high].mean((0, 1)))
        if name in LAWS:
            statistics[f"n12_m4_{name}_capacity_error"] = error
            verdict[f"only_kurtosis_matters_{name}"] = stats.decide(error, (-np.inf, 0.02))
            continue
        found = {
            "capacity_error": error,
            "regions_right": stats.mean(family.right[high].mean((0, 1, 3))),
            "ordered_by_importance": share((np.diff(family.regions[high]) <= 0).all(-1)),
            "seeds_at_optimum_above_3": share(family.excess[high] < 0.01),
            "seeds_at_optimum_up_to_kurtosis_3": share(family.excess[~high] < 0.01),
            "width_filled": share(family.C.sum(-1) > 0.99 * family.m),
        }
        statistics |= {f"{name}_{key}": value for key, value in found.items()}
        verdict[f"{name}_capacities_as_theory"] = stats.decide(error, (-np.inf, 0.02))
        rules = {"regions_right": "regions_as_theory", "ordered_by_importance": "ordered_by_importance",
                 "seeds_at_optimum_above_3": "optimum_reached", "width_filled": "block_semi_orthogonal"}  # fmt: skip
        verdict |= {f"{name}_{rule}": stats.decide(found[key], (0.9, np.inf)) for key, rule in rules.items()}
        start = torch.from_numpy(np.random.default_rng(0).normal(size=(2000, family.n, family.m)))
        top = np.arange(family.n) < family.m  # what k <= 3 would give
        controls[name] = {
            "width_filled_by_random_weights": stats.mean(dimensionality(start).sum(-1).numpy() / family.m),
            "capacity_error_if_kurtosis_did_not_matter": stats.mean(abs(family.C[high] - top).mean((0, 1, 3))),
            "features_in_each_region": {
                word: float((family.regions[high] == i).mean()) * family.n for i, word in enumerate(REGIONS)
            },
        }
    quadratic, relu = trained["n12_m4"], trained["relu"]
    high = np.flatnonzero(KURTOSIS > 3)
    more = {
        KURTOSIS[i]: stats.mean((quadratic.largest_block - relu.largest_block)[i, 0], level=1 - 0.05 / len(high))
        for i in high
    }
    verdict["blocks_depend_on_the_model"] = stats.some(*[stats.decide(one, (1, np.inf)) for one in more.values()])
    statistics |= {f"largest_block_more_than_relu_at_{k:g}": one for k, one in more.items()}
    controls["relu"] = {
        "width_filled": share(relu.C.sum(-1) > 0.99 * relu.m),
        "ordered_by_importance": share((np.diff(relu.regions[high]) <= 0).all(-1)),
    }
    return statistics, verdict, controls


def draw(trained: dict[str, Family], statistics: dict) -> plots.Figure:
    """Above, two features in one dimension: trained, optimum, ReLU. Below, many: profile, ramp, blocks."""
    figure, axes = plots.figure(2, 3, width=13, height=4.2)
    two, relu = trained["two"], trained["relu_two"]
    ratio = two.v[:, 0, 1] / two.v[:, 0, 0]
    maps = {
        "quadratic model, best of 4 seeds": two.of_best(two.C[..., 1]),
        "its exact optimum": two.optimum.capacity[:, :, 0, 1],
        "ReLU autoencoder, best of 4 seeds": relu.of_best(relu.C[..., 1]),
    }
    curve = np.geomspace(3, two.k.max(), 200)
    for ax, (title, values) in zip(axes[0], maps.items(), strict=True):
        at = np.meshgrid(two.k.ravel(), ratio, indexing="ij")
        table = pd.DataFrame({"k": at[0].ravel(), "ratio": at[1].ravel(), "capacity of feature 2": values.ravel()})
        plots.phase_map(ax, table, "k", "ratio", table.columns[-1], cmap="cividis", vmin=0, vmax=1)
        if ax is not axes[0, 2]:  # one colour bar for all three
            ax.collections[0].colorbar.remove()
        ax.set(title=title, xlabel="kurtosis k = 1 / density", ylabel="importance ratio $v_2$ / $v_1$")
        ax.set_xticks([2, 3, 5, 10, 20, 40], ["2", "3", "5", "10", "20", "40"], minor=False)
        ax.minorticks_off()
        ax.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    for ax in axes[0, :2]:
        for edge in (2 / (curve - 1), (curve - 1) / 2):
            ax.plot(curve, edge, color="white", linewidth=2)
        ax.set(ylim=(ratio[0], ratio[-1]))
        for x, y, word, ink in (
            (15, 1, "both share", "white"),
            (2, 5, "2 alone", "black"),
            (2, 0.2, "1 alone", "white"),
        ):
            ax.text(x, y, word, color=ink, ha="center", va="center", fontsize=11)
    axes[0, 2].set(xlabel="1 / density", ylabel="importance ratio $I_2$ / $I_1$")
    many = trained["n12_m4"]
    shown = [k for k in KURTOSIS if k >= 3]
    colours = dict(zip(shown, sns.color_palette("viridis", len(shown)), strict=True))
    for i, k in enumerate(KURTOSIS):
        if k not in (3, 4, 10, 40):
            continue
        C, rank = many.C[i, 0], 1 + np.arange(many.n)
        low, middle, high = np.quantile(C, [0.05, 0.5, 0.95], axis=0)
        axes[1, 0].plot(rank, many.optimum.capacity[i, 0, 0], color=colours[k], linewidth=1.5)
        axes[1, 0].errorbar(rank, middle, [middle - low, high - middle], color=colours[k], fmt="o", markersize=5,
                            linewidth=1, label=f"k = {k:g}")  # fmt: skip
    axes[1, 0].set(title=f"n = {many.n}, m = {many.m}: dots trained, lines optimum", ylabel="capacity $C_i$",
                   xlabel="feature i, importance $v_i = 0.8^{i - 1}$")  # fmt: skip
    axes[1, 0].legend()
    axes[1, 0].set_xticks(range(1, many.n + 1, 2))
    sizes = [trained[name] for name in (f"n{n}_m{m}" for n, m in SIZES) if name in trained]
    for k in shown[1:]:
        relative = np.linspace(0, 1.5, 301)
        axes[1, 1].plot(relative, np.clip(((k - 1) * relative - 2) / (k - 3), 0, 1), color=colours[k], linewidth=1.5)
        for family, marker in zip(sizes, "osD", strict=False):
            i = int(np.flatnonzero(k == KURTOSIS)[0])
            x = family.v[0, 0] / family.optimum.price[i, 0, 0]
            axes[1, 1].plot(x, family.C[i, 0].mean(0), marker, color=colours[k], markersize=4,
                            label=f"k = {k:g}" if marker == "o" else None)  # fmt: skip
    axes[1, 1].set(title="all sizes: dots trained, lines optimum", xlim=(0, 1.5), ylabel="capacity $C_i$",
                   xlabel="importance over the price of a dimension, $v_i$ / A")  # fmt: skip
    axes[1, 1].legend(loc="lower right")
    rows = [
        pd.DataFrame({"model": name, "k": k, "largest": family.largest_block[i, 0]})
        for name, family in (("quadratic", many), ("ReLU autoencoder", trained["relu"]))
        for i, k in enumerate(KURTOSIS)
    ]
    models = plots.category_colours(["quadratic", "ReLU autoencoder"])
    plots.band(axes[1, 2], pd.concat(rows), "k", "largest", "model", colours=models, log=True)
    random = block_sizes(np.random.default_rng(0).normal(size=(500, many.n, many.m))).max(-1).mean()
    plots.null(axes[1, 2], KURTOSIS, random, "random weights")
    axes[1, 2].set(title=f"n = {many.n}, m = {many.m}: the largest block", xlabel="kurtosis k, or 1 / density",
                   ylabel="features bound by overlap", ylim=(0, 1.15 * many.n))  # fmt: skip
    axes[1, 2].legend(loc="upper left", bbox_to_anchor=(0, 0.8))
    told = f"Capacities as theory says: regions right in {statistics['two_agreement'].value:.1%} of cells"
    told += f", error {statistics['n12_m4_capacity_error'].value:.3f} at n = 12; "
    told += f"their sum reaches m in {statistics['n12_m4_width_filled'].value:.0%} of networks"
    figure.suptitle(told, fontsize=13)
    return figure


if __name__ == "__main__":
    report.experiment(main)
