"""Do networks compute more functions than they have neurons, and do neurons or parameters set how many?

**Published losses.** Braun et al. 2025 (attribution-based parameter decomposition, APD) train residual MLPs on
y = x + relu(x): 100 features (102 for 3 blocks), p = .01, U[-1, 1], frozen unit rows W_E in 1000 dimensions,
W_U = W_E^T, no biases, 50, 2 x 25 and 3 x 17 neurons, AdamW (3e-3, weight decay .01), quarter cosine, 2048 samples a
step; losses 6.96e-4, 6.90e-4, 6.58e-4 against 8.33e-4 for the naive network, which computes as many functions as it has
neurons and passes x on for the rest. Their code takes 1000 steps for 1 and 2 blocks and 10,000 for 3; here 1000 for
all (--full: 10,000 for 3). Bhagat et al. 2026 hold that the gain is no computation: the stream passes on x W_E W_E^T,
not x, and neurons correct that mixture. Control `unmixed`: the same networks with x in place of x W_E W_E^T at the
output, which is the same as labels x W_E W_E^T + relu(x). All are trained on 2nd and on 4th powers of the error too,
and judged by both; by 4th powers the naive loss is (n - neurons) / n * p / 10.
Rules, ratios with 95% intervals over seeds: `published_losses` within 5% for each depth; `beats_naive` below 1 for each
depth, mixed, by squares; `gain_vanishes_without_mixing` unmixed loss above .98 of naive for each depth (the mixed gain
is about .17); `gain_survives_by_fourth_powers` unmixed networks trained on 4th powers lie below naive by 4th powers for
each depth, and `but_not_by_squares` above it by squares.

**Capacity.** |x|, x + relu(x) (p = .05) and AND of random pairs of booleans (p = .1, 32 features), embeddings frozen
(random; W_U = W_E^T, for AND its own random rows) or both trained; width d, H neurons in all, in 1, 2 or 4 blocks.
A function counts by the share of its squared error that the best line in x leaves and the network takes off,
sum_k max(0, 1 - E e_k^2 / E line_k^2): 0 for every linear network, 1 for each function that the naive network computes,
at most H. AND is counted by AUC > .95 as well, by itself, since a line ranks too: its null is the best linear readout
of the frozen embedding. Outputs of AND read only what blocks wrote. Capacity is the supremum over the functions
offered. F = C d^a' H^b is fitted over cells of 1 block; with h = d that is d^a L^b, a = a' + b (THEORY 3). Neurons-only
says (a, b) = (1, 1), parameters (2, 1), one layer's width (1, 0); each is supported if both intervals lie within 1/2 of
it, rejected if one lies outside. `more_than_neurons`: F > H in some cell (level corrected for the number of cells).
Learning rates are searched for each task, embedding and depth. Controls: half the steps; the best offer is not the
largest (`offers_suffice`).

Two cores: --quick about a minute, default about 7 minutes, --full about 20 (estimated).
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from scipy import optimize
from torch import Tensor

from toysup import plots, report, stats
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseBoolean, SparseUniform
from toysup.measure.ranking import auc
from toysup.models import ResidualMLP
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, QuarterCosine, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, sweep
from toysup.tasks import AbsoluteValue, And, XPlusRelu

QUESTION = "Do networks compute more functions than they have neurons, and do neurons or parameters set how many?"
PUBLISHED = {1: 6.96e-4, 2: 6.90e-4, 3: 6.58e-4}
HIDDEN, OFFERED = {1: 50, 2: 25, 3: 17}, {1: 100, 2: 100, 3: 102}
RARE, BOOLEAN = 0.01, 0.1
MOMENT = {2: 1 / 6, 4: 1 / 10}  # E relu(x)^q of an active feature
LAWS = ("neurons", "parameters", "width")
SAMPLES = 500  # with a function's features on, of those it is judged by
AUC = 0.95
TITLES = {"absolute_value": "|x|", "x_plus_relu": "x + relu(x)", "and": "AND, by squares"}
STYLES = {  # variant -> line, marker, legend
    "frozen": (":", "^", "embeddings frozen"),
    "trained": ("-", "o", "trained"),
    "fourth": ("--", "s", "trained, all by 4th powers"),
}


class Unbiased(ResidualMLP):
    """APD's residual MLP; unmixed, each output gets x_i in place of (x W_E W_E^T)_i."""

    def __init__(self, n_in: int, n_out: int, *, shape: Shape, mixed: bool = True) -> None:
        super().__init__(n_in, n_out, shape=shape)
        self.mixed = mixed
        del self.b_in
        self.b_in = [0.0] * shape.depth

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        output = super().forward(x)
        return output if self.mixed else output + x - x @ (self.W_E @ self.W_E.T)


class Written(ResidualMLP):
    """A residual MLP whose outputs read what the blocks wrote to the stream, and not the embedded input."""

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        return super().forward(x) - x @ self.W_E @ self._unembed.T


def line(trained: Trained, x: Tensor, power: int) -> Tensor:
    """The affine function of x that is best by a power of the error, for each output (instance, batch, out)."""
    task, p = trained.setting.task, trained.setting.features.density
    if isinstance(task, And):  # by squares; by 4th powers it is not asked
        pair = (trained.constants[name][:, None].expand(-1, x.shape[1], -1) for name in ("first", "second"))
        return p * sum(x.gather(-1, index) for index in pair) - p * p
    level = p / 2 if power == 2 else fourth_level(p)
    return 1.5 * x + level / 2 if isinstance(task, XPlusRelu) else torch.full_like(x, level)


def fourth_level(p: float) -> float:
    """The constant nearest to |x| by 4th powers: p E (u - c)^3 = (1 - p) c^3, u uniform on [0, 1]. x + relu(x) is 1.5 x
    and half of |x|; by symmetry no other slope is better."""
    return optimize.brentq(lambda c: p * ((1 - c) ** 4 - c**4) / 4 - (1 - p) * c**3, 0, 1)


def errors(trained: Trained) -> dict[int, tuple[Tensor, Tensor]]:
    """Power q -> held-out means of |error|^q of the network and of the line that is best by it, (instance, out)."""
    if "errors" not in trained.kept:
        setting = trained.setting
        rate = setting.features.density ** (2 if isinstance(setting.task, And) else 1)
        batches = round(np.clip(SAMPLES / rate / 1024, 4, max(4, setting.steps * setting.batch / 4096)))
        found = {2: [0.0, 0.0], 4: [0.0, 0.0]}
        with torch.no_grad(), one_thread():
            for number in range(batches):
                x, target = trained.batch(number)
                output = trained.forward(x)
                for power, sums in found.items():
                    for k, guess in enumerate((output, line(trained, x, power))):
                        square = (guess - target).square()
                        sums[k] += (square if power == 2 else square * square).mean(1) / batches
        trained.kept["errors"] = {power: tuple(sums) for power, sums in found.items()}
    return trained.kept["errors"]


def wanted(trained: Trained) -> Tensor:
    """Which outputs the loss counts, (instance, out): AND offers some of its pairs, the rest have no importance."""
    outputs = trained.setting.task.n_outputs(trained.setting.features)
    importance = trained.per_instance(lambda setting, _: torch.as_tensor(setting.task.importance).expand(outputs))
    return importance > 0


def offered(trained: Trained) -> Tensor:
    """Functions asked for, (instance,)."""
    return wanted(trained).sum(-1)


def loss(trained: Trained) -> Tensor:
    """Mean squared error, averaged over outputs, (instance,)."""
    return errors(trained)[2][0].mean(-1)


def loss_4(trained: Trained) -> Tensor:
    """The same of 4th powers."""
    return errors(trained)[4][0].mean(-1)


def computed(trained: Trained, power: int = 2) -> Tensor:
    """Functions computed: the share of the best line's squared error taken off, summed over outputs, (instance,)."""
    network, best = errors(trained)[power]
    return (torch.where(best > 0, 1 - network / best, 0.0).clamp(min=0) * wanted(trained)).sum(-1)


def computed_4(trained: Trained) -> Tensor:
    """The same by 4th powers."""
    return computed(trained, 4)


def ranked(trained: Trained) -> Tensor:
    """Functions whose output ranks 1 above 0 with AUC > .95, (instance,)."""
    return ((auc(trained).value > AUC) & wanted(trained)).sum(-1).float()


def seeds(run: report.Run) -> range:
    return range(run.pick(default=8, quick=3, smoke=2))


def published(run: report.Run) -> dict[str, Grid]:
    """Name -> networks of the published row and their controls, one of each at half or twice the steps."""
    steps, batch = run.pick(default=1000, quick=300, smoke=3), run.pick(default=2048, quick=512, smoke=32)
    width = run.pick(default=1000, quick=300, smoke=110)
    grids = {}
    depths = run.pick(default=tuple(HIDDEN), quick=(1,))
    for power, mixed in itertools.product((2, 4), (True, False)):
        for blocks in depths:
            model = Model(Unbiased, shape=Shape(width, blocks, HIDDEN[blocks]), mixed=mixed)
            optimizer = Adam(3e-3, weight_decay=0.01, schedule=QuarterCosine())
            features, task = SparseUniform(OFFERED[blocks], RARE, signed=True), XPlusRelu(exponent=float(power))
            longer = run.pick(default=1, full=10) if blocks == 3 else 1
            setting = Setting(features, task, model, optimizer, steps * longer, batch)
            name = f"{'mixed' if mixed else 'unmixed'}_{blocks}_power{power}"
            grids[name] = Grid(setting, {"seed": seeds(run)})
            if blocks == 1 and power == 2 and run.mode not in ("smoke", "quick"):
                other = steps // 2 if mixed else 2 * steps  # would less do, and would more bring the gain back?
                grids[f"{name}_{other}"] = Grid(setting, {"steps": [other], "seed": seeds(run)})
    return grids


def base(run: report.Run, task: str, variant: str) -> Setting:
    """One task's setting; sizes come from axes."""
    steps, batch = run.pick(default=1000, quick=300, smoke=4), run.pick(default=512, smoke=64)
    optimizer, shape = Adam(beta2=0.99, schedule=Cosine()), Shape(8, 1)
    embedding = "frozen" if variant == "frozen" else "trained"
    if task == "and":
        features, pairs = SparseBoolean(run.pick(default=32, smoke=12), BOOLEAN), run.pick(default=48, smoke=16)
        model = Model(Written, shape=shape, embedding=embedding, unembedding=embedding)
        return Setting(features, And(n_pairs=pairs), model, optimizer, steps, batch // 2)
    unembedding = "tied" if embedding == "frozen" else "trained"
    model = Model(ResidualMLP, shape=shape, embedding=embedding, unembedding=unembedding)
    kind = (AbsoluteValue if task == "absolute_value" else XPlusRelu)(exponent=4.0 if variant == "fourth" else 2.0)
    return Setting(SparseUniform(8, RARE, signed=True), kind, model, optimizer, steps, batch)


def asked(run: report.Run, task: str, number: int) -> tuple[str, Any]:
    """The axis of the number of functions offered, and its value: AND learns the first of its pairs."""
    pairs = base(run, "and", "frozen").task.n_pairs
    return ("task.importance", (1.0,) * number + (0.0,) * (pairs - number)) if task == "and" else (
        "features.n_features", number)  # fmt: skip


def cells(run: report.Run, task: str, variant: str) -> list[Shape]:
    """Widths and numbers of neurons in one block; where both are equal, in 4 blocks too. The general path that trains
    AND takes smaller ones, and with trained embeddings only the square ones in one block."""
    widths = neurons = run.pick(default=[8, 16, 32], quick=[8, 16], smoke=[4, 8], full=[16, 32, 64])
    if task == "and":
        widths, neurons = (
            run.pick(default=[8, 16], smoke=[4, 8]),
            run.pick(default=[4, 8, 16], quick=[8, 16], smoke=[8]),
        )
    few = task == "and" and variant == "trained"
    deep = run.pick(default=[4], smoke=[])
    return [Shape(d, blocks, h // blocks) for d in widths for h in neurons if d == h or not few
            for blocks in ([1, *deep] if d == h and not few else [1])]  # fmt: skip


def offers(run: report.Run, task: str, variant: str, shape: Shape) -> list[int]:
    """Functions offered to one shape: multiples of what the naive network computes, the lesser of width and neurons. By
    4th powers far more are computed, of x + relu(x) up to the width, in which the linear part must be carried."""
    least, shares = min(shape.width, shape.neurons), (0.5, 1, 2)
    if variant == "fourth" and task == "absolute_value":
        shares = (2, 8, 24)
    elif variant == "fourth":
        least = shape.width
    return [round(least * share) for share in run.pick(default=shares, smoke=shares[:2])]


def capacity_grids(run: report.Run, rates: pd.Series) -> dict[str, Grid]:
    """Task and embedding -> every shape at its depth's own rate, all offers, all seeds; and one at half the steps."""
    grids = {}
    for key, (task, variant) in keys(run).items():
        setting = base(run, task, variant)
        paths = ("model.shape", "optimizer.lr", asked(run, task, 1)[0])
        chosen = [(shape, rates[f"{key}_{shape.depth}"], asked(run, task, n)[1])
                  for shape in cells(run, task, variant) for n in offers(run, task, variant, shape)]  # fmt: skip
        grids[key] = Grid(setting, {paths: chosen, "seed": seeds(run)})
        middle = [one for one in chosen if one[0].width == one[0].neurons == middling(run, task)]
        half = {paths: middle, "steps": [setting.steps // 2], "seed": seeds(run)}
        grids[f"{key}_half"] = Grid(setting, half)
    return grids


def rate_grids(run: report.Run) -> dict[str, Grid]:
    """What learning rates are searched on: each task, embedding and depth at the middle size, as many offered."""
    grids = {}
    for key, (task, variant) in keys(run).items():
        size = middling(run, task)
        path, number = asked(run, task, size)
        for blocks in sorted({shape.depth for shape in cells(run, task, variant)}):
            axes = {("model.shape", path): [(Shape(size, blocks, size // blocks), number)], "seed": SEARCH_SEEDS}
            grids[f"{key}_{blocks}"] = Grid(base(run, task, variant), axes)
    return grids


def middling(run: report.Run, task: str) -> int:
    """Width and neurons at which learning rates are searched and training is halved."""
    return run.pick(default=16, smoke=8)


def keys(run: report.Run) -> dict[str, tuple[str, str]]:
    """Name -> task, and "frozen" or "trained" embeddings, or "fourth": trained ones and 4th powers of the error."""
    tasks = run.pick(default=("absolute_value", "x_plus_relu", "and"), smoke=("absolute_value", "and"))
    variants = run.pick(default=("frozen", "trained", "fourth"), smoke=("frozen",))
    return {f"{task}_{variant}": (task, variant) for task, variant in itertools.product(tasks, variants)
            if (task, variant) != ("and", "fourth")}  # fmt: skip


def capacities(table: pd.DataFrame, count: str) -> pd.DataFrame:
    """Each cell's and seed's count at the cell's best offer, and whether that is less than the largest."""
    table = table.assign(neurons=table["hidden"] * table["depth"])
    rows = []
    for (width, neurons, blocks), cell in table.groupby(["width", "neurons", "depth"]):
        held = stats.capacity(cell, load="offered", recovered=count).reset_index()
        inside = held["load"] < cell["offered"].max()
        sizes = {"width": width, "neurons": neurons, "blocks": blocks}
        rows.append(held.assign(inside=inside, **sizes))
    return pd.concat(rows, ignore_index=True)


def laws(held: pd.DataFrame) -> stats.ExponentFit:
    """Exponents over the cells of one block: with h = d, H = d L, so that H / d stands for L."""
    one = held[held["blocks"] == 1]
    table = one.assign(depth=one["neurons"] / one["width"], budget=2 * one["width"] * one["neurons"])
    return stats.fit_exponents(table, hold_out=1.5)


def more_blocks(held: pd.DataFrame) -> stats.Interval:
    """Capacity in most blocks over that in one, at the same widths and neurons: ratio of sums over cells, by seed."""
    most = held["blocks"].max()
    square = held[held["width"] == held["neurons"]].groupby(["blocks", "seed"])["recovered"].sum()
    return stats.ratio(square[most], square[1], paired=True)


def exceeds(groups: dict, bound: Any) -> stats.Verdict:
    """Whether some cell computes more functions than bound(width, neurons)."""
    level = 1 - 0.05 / len(groups)
    over = [
        stats.mean(cell["recovered"] / bound(width, neurons), level) for (width, neurons, _), cell in groups.items()
    ]
    return stats.some(*(stats.decide(interval, (1, np.inf)) for interval in over))


def main(run: report.Run) -> None:
    options: dict[str, Any] = {"results": run.results, "device": run.device, "workers": run.workers}
    rates = pd.concat([
        best_rates({k: grid for k, grid in rate_grids(run).items() if ("fourth" in k) == (score is computed_4)},
                   [0.01, 0.03], score=score, extend=run.pick(default=3, smoke=0), **options)
        for score in run.pick(default=(computed, computed_4), smoke=(computed,))
    ])  # fmt: skip
    row = sweep(published(run), [loss, loss_4, computed_4], **options)
    grids, answers = capacity_grids(run, rates["lr"]), {}
    for task in dict.fromkeys(task for task, _ in keys(run).values()):
        own = {name: grid for name, grid in grids.items() if name.startswith(task)}
        answers |= sweep(own, [offered, computed, *([ranked] if task == "and" else [computed_4])], **options)
    ranks = linear_ranks(run, options)

    statistics, verdict, controls = published_claims(row)
    controls |= {
        "learning_rates": rates.to_dict("index"),
        "offers_suffice": {},
        "half_the_steps": {},
        "capacity": {},
        "aicc_above_the_lowest": {},
    }
    held = {}
    for key, (task, variant) in keys(run).items():
        counts = {key: "computed_4" if variant == "fourth" else "computed"}
        for name, count in (counts | ({f"{key}_by_auc": "ranked"} if task == "and" else {})).items():
            held[name] = own = capacities(answers[key].table, count)
            groups = dict(iter(own.groupby(["width", "neurons", "blocks"])))
            if len(own[["width", "neurons"]].drop_duplicates()) > 2:  # else they lie on one line
                fit = laws(own)
                statistics |= {f"{name}_a": fit.a, f"{name}_b": fit.b, f"{name}_a_minus_2b": fit.a_minus_2b}
                verdict |= {f"{name}_{law}": fit.decided()[law] for law in LAWS}
                controls["aicc_above_the_lowest"][name] = fit.laws["delta"].to_dict()
            if own["blocks"].max() > 1:
                statistics[f"{name}_4_blocks_over_1"] = more_blocks(own)
            verdict[f"{name}_more_than_neurons"] = exceeds(groups, lambda width, neurons: neurons)
            verdict[f"{name}_more_than_naive"] = exceeds(groups, min)
            over = (
                own["recovered"].groupby(own["seed"]).sum()
                / np.minimum(own["width"], own["neurons"]).groupby(own["seed"]).sum()
            )
            statistics[f"{name}_over_naive"] = stats.mean(over)
            controls["offers_suffice"][name] = float(
                own.groupby(["width", "neurons", "blocks"])["inside"].first().mean()
            )
            both = own.merge(capacities(answers[f"{key}_half"].table, count), on=["width", "neurons", "blocks", "seed"])
            controls["half_the_steps"][name] = stats.ratio(both["recovered_y"], both["recovered_x"], paired=True)
            controls["capacity"][name] = {f"width {width}, {neurons} neurons in {blocks}": stats.mean(cell["recovered"])
                                          for (width, neurons, blocks), cell in groups.items()}  # fmt: skip
    controls["linear_readout_by_auc"] = {f"width {width}": count for width, count in ranks.items()}
    everything = {**row, **answers}
    pairs = [(answer.table, answer.grid) for answer in everything.values()]
    report.write(run, draw(statistics, held, ranks), statistics=statistics, verdict=verdict, controls=controls,
                 engine=", ".join(sorted({e for answer in everything.values() for e in answer.table["engine"]})),
                 instances=sum(len(answer.table) for answer in everything.values()),
                 steps=max(int(t["steps"].max()) if "steps" in t else grid.setting.steps for t, grid in pairs),
                 seconds=sum(answer.seconds for answer in everything.values()))  # fmt: skip


def linear_ranks(run: report.Run, options: dict[str, Any]) -> dict[int, stats.Interval]:
    """Width -> ANDs that the best linear readout of the frozen embedding ranks, at its best offer: without neurons."""
    setting = base(run, "and", "frozen")
    model = Model(ResidualMLP, shape=Shape(8, 0), unembedding="trained")
    linear = replace(setting, model=model, optimizer=replace(setting.optimizer, lr=0.03))
    path, number = asked(run, "and", setting.task.n_pairs)
    widths = sorted({shape.width for shape in cells(run, "and", "frozen")})
    grid = Grid(linear, {"model.shape": [Shape(width, 0) for width in widths], path: [number], "seed": seeds(run)})
    table = sweep({"linear": grid}, [ranked], **options)["linear"].table
    return {width: stats.mean(rows["ranked"]) for width, rows in table.groupby("width")}


def published_claims(row: dict) -> tuple[dict, dict, dict]:
    """(statistics, verdicts, controls) of the published row: losses over published ones and over the naive ones."""
    statistics, verdict = {}, {}
    controls: dict[str, Any] = {"other_lengths_over_naive": {}}
    for name, answer in row.items():
        kind, blocks, power, *steps = name.split("_")
        share = 1 - HIDDEN[int(blocks)] * int(blocks) / OFFERED[int(blocks)]
        for judge, column in ((2, "loss"), (4, "loss_4")):
            over = answer.table[column] / (share * RARE * MOMENT[judge])
            if steps:
                controls["other_lengths_over_naive"][f"{kind}_{steps[0]}_steps_judged_{judge}"] = stats.mean(over)
            else:
                statistics[f"{kind}_{blocks}_trained_{power[-1]}_judged_{judge}_over_naive"] = stats.mean(over)
        if not steps:
            if power == "power4":
                statistics[f"{kind}_{blocks}_functions_by_fourth_powers"] = stats.mean(answer.table["computed_4"])
            if kind == "mixed" and power == "power2":
                statistics[f"loss_{blocks}"] = stats.mean(answer.table["loss"])
                statistics[f"loss_{blocks}_over_published"] = stats.mean(answer.table["loss"] / PUBLISHED[int(blocks)])

    def all_depths(form: str, region: tuple[float, float]) -> stats.Verdict:
        names = [form.format(blocks) for blocks in HIDDEN]
        return stats.every(*(stats.decide(statistics[name], region) for name in names if name in statistics))

    verdict["published_losses"] = all_depths("loss_{}_over_published", (0.95, 1.05))
    verdict["beats_naive"] = all_depths("mixed_{}_trained_2_judged_2_over_naive", (0, 1))
    verdict["gain_vanishes_without_mixing"] = all_depths("unmixed_{}_trained_2_judged_2_over_naive", (0.98, np.inf))
    verdict["gain_survives_by_fourth_powers"] = all_depths("unmixed_{}_trained_4_judged_4_over_naive", (0, 1))
    verdict["but_not_by_squares"] = all_depths("unmixed_{}_trained_4_judged_2_over_naive", (1, np.inf))
    verdict["more_functions_than_neurons_by_fourth_powers"] = all_depths(
        "unmixed_{}_functions_by_fourth_powers", (max(HIDDEN[b] * b for b in HIDDEN), np.inf)
    )
    return statistics, verdict, controls


def draw(statistics: dict, held: dict[str, pd.DataFrame], ranks: dict) -> plots.Figure:
    """Above the published row, by squares and by 4th powers, and AND by AUC; below capacities against neurons and
    against parameters."""
    figure, axes = plots.figure(3, 3, width=13, height=3.9)
    draw_published(axes[0], statistics)
    widths = plots.category_colours(sorted({width for table in held.values() for width in table["width"]}))
    names = {key.rpartition("_")[0] for key in held if "auc" not in key}
    for column, task in enumerate(task for task in TITLES if task in names):
        for ax, x in ((axes[1, column], "neurons"), (axes[2, column], "parameters")):
            draw_capacity(ax, {key.rpartition("_")[2]: own for key, own in held.items()
                               if key.startswith(task) and "auc" not in key}, x, widths)  # fmt: skip
            lines = [f"{variant}: a = {statistics[f'{task}_{variant}_a'].value:.2f}, b = "
                     f"{statistics[f'{task}_{variant}_b'].value:.2f}"
                     for variant in STYLES if f"{task}_{variant}_a" in statistics]  # fmt: skip
            ax.set_title(f"{TITLES[task]}, $F = C\\,d^a L^b$\n" + "\n".join(lines) if x == "neurons" else TITLES[task],
                         fontsize=11)  # fmt: skip
    draw_capacity(axes[0, 2], {variant: held[f"and_{variant}_by_auc"] for variant in STYLES
                               if f"and_{variant}_by_auc" in held}, "neurons", widths)  # fmt: skip
    for width, count in ranks.items():
        axes[0, 2].axhline(count.value, color=widths[width], linewidth=1, linestyle=(0, (1, 3)))
    axes[0, 2].set_title("AND, by AUC > .95\n(dotted levels: linear readout)", fontsize=11)
    marks = [*(Line2D([], [], color=colour, label=f"width {width}") for width, colour in widths.items()),
             *(Line2D([], [], color="black", linestyle=style, marker=mark, label=label)
               for style, mark, label in STYLES.values()),
             Line2D([], [], color="black", linestyle="none", marker="x", label="4 blocks, else 1"),
             Line2D([], [], color=plots.GREY, linestyle=":", label="naive: one function a neuron")]  # fmt: skip
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=10)
    figure.suptitle(takeaway(statistics))
    return figure


def draw_published(axes: Any, statistics: dict) -> None:
    """Losses over the naive ones: by squares over the number of blocks, and of one block by either power."""
    colours, squares, powers = plots.category_colours(["mixed", "unmixed"]), axes[0], axes[1]
    naive = {b: (1 - HIDDEN[b] * b / OFFERED[b]) * RARE * MOMENT[2] for b in HIDDEN}
    for ax in (squares, powers):
        ax.axhline(1, color=plots.GREY, linestyle=":", zorder=1)
        ax.set_ylabel("loss / naive loss")
    squares.plot(list(HIDDEN), [PUBLISHED[b] / naive[b] for b in HIDDEN], "k_", markersize=24, label="published")
    labels = {"mixed": "stream carries x W W^T", "unmixed": "control: carries x"}
    for kind, colour in colours.items():
        form = f"{kind}_{{}}_trained_2_judged_2_over_naive"
        found = {b: statistics[form.format(b)] for b in HIDDEN if form.format(b) in statistics}
        values = np.array([[i.value, i.value - i.low, i.high - i.value] for i in found.values()])
        squares.errorbar(
            list(found), values[:, 0], values[:, 1:].T, color=colour, fmt="o", capsize=3, label=labels[kind]
        )
        for at, (trained, judge) in enumerate(itertools.product((2, 4), (2, 4))):
            own = statistics[f"{kind}_1_trained_{trained}_judged_{judge}_over_naive"]
            powers.errorbar(
                at, own.value, [[own.value - own.low], [own.high - own.value]], color=colour, fmt="o", capsize=3
            )
    squares.set(xlabel="blocks (50 neurons in all)", xticks=list(HIDDEN), xlim=(0.6, 3.4))
    squares.set_title("Published: x + relu(x), by squares", fontsize=11)
    squares.legend(fontsize=9)
    powers.set_xticks(range(4), ["2nd\n2nd", "2nd\n4th", "4th\n2nd", "4th\n4th"])
    powers.set(xlabel="power trained on, power judged by", yscale="log")
    functions = statistics["unmixed_1_functions_by_fourth_powers"].value
    powers.set_title(f"... and by 4th powers: {functions:.0f} functions\nin 50 neurons, control", fontsize=11)


def draw_capacity(ax: Any, variants: dict[str, pd.DataFrame], x: str, widths: dict) -> None:
    """Capacities against neurons or parameters, a line for each width and variant; crosses are 4 blocks."""
    for variant, table in variants.items():
        table = table.assign(parameters=2 * table["width"] * table["neurons"])
        style, mark, _ = STYLES[variant]
        means = table.groupby(["width", "blocks", x])["recovered"].mean().clip(lower=0.3)
        for (width, blocks), own in means.groupby(level=[0, 1]):
            at, values = own.index.get_level_values(x), own.to_numpy()
            if blocks == 1:
                ax.plot(at, values, linestyle=style, marker=mark, color=widths[width], markersize=5)
            else:
                ax.plot(at, values, "x", color=widths[width], markersize=9, markeredgewidth=1.5)
    if x == "neurons":
        sizes = sorted({n for table in variants.values() for n in table["neurons"]})
        ax.plot(sizes, sizes, ":", color=plots.GREY)
    ticks = sorted({round(n) for table in variants.values() for n in (
        table["neurons"] if x == "neurons" else 2 * table["width"] * table["neurons"])})  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=x if x == "neurons" else "parameters 2 d H", ylabel="functions at best")
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    ticks = [value for value in (0.3, 1, 3, 10, 30, 100, 300, 1000) if low <= value <= high]
    ax.set_yticks(ticks, [f"{value:g}" for value in ticks])


def takeaway(statistics: dict) -> str:
    """The figure's title, from its numbers."""
    mixed, unmixed = (statistics[f"{kind}_1_trained_2_judged_2_over_naive"].value for kind in ("mixed", "unmixed"))
    return (
        f"By squares the published gain of {1 - mixed:.0%} over one function a neuron "
        f"is {1 - unmixed:.0%} without the mixing matrix"
    )


if __name__ == "__main__":
    report.experiment(main)
