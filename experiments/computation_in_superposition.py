"""Do networks compute more functions than they have neurons, and do neurons or parameters set how many?

**A bound.** Outputs read H neurons linearly. Let r be what the targets ask beyond what they get without neurons. Then
no weights bring E |r - readout|^2 below the sum of all but the H largest eigenvalues of E r r^T (the optimum of PCA).
Where the r_k are uncorrelated and of one size this says: counted by squared error, at most one function a neuron.

**Published losses.** Braun et al. 2025 (attribution-based parameter decomposition) train residual MLPs on
y = x + relu(x): 100 features (102 for 3 blocks), p = .01, U[-1, 1], frozen unit rows W in 1000 dimensions, read by W^T,
no biases, 50, 2 x 25 and 3 x 17 neurons, AdamW (3e-3, decay .01), quarter cosine, batch 2048, 1000 steps, 10,000 for 3
blocks. Losses 6.96e-4, 6.90e-4, 6.58e-4 against 8.33e-4 for the naive network: one function a neuron, x for the rest.
Bhagat et al. 2026 hold that the gain is no computation: the stream carries x W W^T, and neurons correct that mixture.
Then r = x (1 - W W^T) + relu(x) has unequal eigenvalues, and the bound is .69 of naive; in the control `unmixed` (x in
place of x W W^T) r = relu(x) and it is .996. Rules, ratios with 95% intervals over seeds, for each depth:
`published_losses` within 5%; `beats_naive` below 1; `gain_vanishes_without_mixing` unmixed above .98 of naive;
`never_below_the_bound` all trained on squares at .99 of their bounds or more (else there is a bug). 4th powers of the
error prefer small errors on all functions to none on some. Naive they are (n - H) / n p / 10; but a neuron *shared* by
two functions, each with half its output, costs as much as naive by squares and an eighth of p / 10 by 4th powers.
`fourth_powers_beat_naive`, `fourth_powers_beat_sharing`: unmixed, 1 block, trained and judged by 4th powers, is below
either; `but_not_by_squares`: judged by squares it is above naive.

**Capacity.** |x|, x + relu(x) (p = .01) and AND of random pairs of 16 booleans (p = .2, outputs read only what blocks
wrote), width d, H neurons in 1, 2 or 4 blocks; embeddings `frozen` (random, W_U = W_E^T, for AND its own rows),
`trained`, or trained on 4th powers (`fourth`). Two counts, never compared: by squares, sum_k max(0, 1 - E e_k^2 / E
line_k^2), line_k the best affine function of x, at most min(d, H) by the bound (the naive network attains it); by AUC,
outputs that rank active above inactive at > .95. For |x| any line has AUC .5, but sharing a neuron is free while the
others are off: k functions pass while (1 - p)^(k-1) > .9, 11 a neuron. For AND x_i + x_j ranks perfectly, so the null
is a linear readout without neurons. Capacity: sup over functions offered, up to 8 times min(d, H) for |x| (frozen: 4
times, raised from 2 after the first default run).
Rules: `*_more_than_neurons`, `*_more_than_sharing` (AUC) some cell exceeds H, or 11 min(d, H) (level corrected for the
number of cells); `and_*_ranks_more_than_linear` in every cell of 8 dimensions (16 hold all 16 features) the share
ranked, of the most offered, exceeds the linear readout's. F = C d^a' H^b over cells of 1 block; with h = d, H = d L,
that is d^a L^b, a = a' + b (THEORY 3): neurons (1, 1), parameters (2, 1), width (1, 0), decided as in
THEORY 9 (AICc by 10 and the interval of a - 2b). Rates are searched for every cell, by functions computed (by loss for
4th powers). Controls: half the steps; |x| at p = .05 (16 neurons); `offers_suffice`, the share of cells in which the
largest offer adds less than 5%; `highest_over_bound`, of any network; AICc of F = C min(d, H) beside the laws.

Written before the default run, after pilots of two seeds at d = H = 16: at p = .05 counts of |x| by AUC were those by
squares, so p = .01 was taken for the cells, and .05 for a control; AND at p = .1 was hardly learned. After a first
default run: rates of frozen embeddings (all but AND) are searched at n = min(d, H), as at twice that x + relu(x) was
not computed at any rate; the bound is checked network by network (`within_bound`, by intervals up to 1.01, was
undecided where seeds differ); AUC of AND is held against the linear readout only, as it grew with every offer and is no
capacity; min(d, H) joined the AICc table, for the bound says that it, no power law, is the law by squares. AND is still
short of training (half the steps hold .63 of it, frozen): what it says of shapes is undecided whatever the verdicts.

Two cores: --quick about a minute, default about 11 (6 of capacities, 5 of published networks).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from torch import Tensor

from toysup import plots, report, stats
from toysup.ensemble import Trained, one_thread
from toysup.features import SparseBoolean, SparseUniform
from toysup.models import ResidualMLP
from toysup.ranking import rank
from toysup.search import SEARCH_SEEDS, best_rates
from toysup.setting import Adam, Cosine, Model, QuarterCosine, Setting
from toysup.shapes import Shape
from toysup.sweep import Grid, Results, sweep
from toysup.tasks import AbsoluteValue, And, XPlusRelu

QUESTION = "Do networks compute more functions than they have neurons, and do neurons or parameters set how many?"
PUBLISHED = {1: 6.96e-4, 2: 6.90e-4, 3: 6.58e-4}
HIDDEN, OFFERED, STEPS = {1: 50, 2: 25, 3: 17}, {1: 100, 2: 100, 3: 102}, {1: 1000, 2: 1000, 3: 10_000}
NAIVE = {2: 1 / 2 * 0.01 / 6, 4: 1 / 2 * 0.01 / 10}  # half the functions, p E relu(x)^q of an active feature
SHARED = 1 / 4  # of NAIVE[4]: twice as many functions, an eighth of each
RARE, DENSER, BOOLEAN = 0.01, 0.05, 0.2
AUC, PASS = 0.95, 1 + int(np.log(0.9) / np.log(1 - RARE))  # functions that may share a neuron
LAWS = ("neurons", "parameters", "width")
GUIDE = """Squared error counts a function by the share
of it that a line misses and the network gets.
AUC > .95 asks only that the output ranks
x on above x off: neurons can be shared.
4th powers punish one large error more
than many small ones."""
TITLES = {"absolute_value": "|x|", "x_plus_relu": "x+relu", "and": "AND"}


class Unbiased(ResidualMLP):
    """The published residual MLP; unmixed, each output gets x_i in place of (x W_E W_E^T)_i."""

    def __init__(self, n_in: int, n_out: int, *, shape: Shape, mixed: bool = True) -> None:
        super().__init__(n_in, n_out, shape=shape, hidden_bias=False)
        self.mixed = mixed

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        output = super().forward(x)
        return output if self.mixed else output + x - x @ (self.W_E @ self.W_E.T)


class Written(ResidualMLP):
    """A residual MLP whose outputs read what the blocks wrote to the stream, and not the embedded input."""

    def forward(self, x: Tensor, record: bool = False) -> Tensor:
        return super().forward(x) - x @ self.W_E @ self._unembed.T


def line(trained: Trained, x: Tensor) -> Tensor:
    """The best affine function of x for each output, (instance, batch, out)."""
    task, p = trained.setting.task, trained.setting.features.density
    if isinstance(task, And):
        pair = (trained.constants[name][:, None].expand(-1, x.shape[1], -1) for name in ("first", "second"))
        return p * sum(x.gather(-1, index) for index in pair) - p * p
    return 1.5 * x + p / 4 if isinstance(task, XPlusRelu) else torch.full_like(x, p / 2)


def errors(trained: Trained) -> tuple[Tensor, Tensor, Tensor]:
    """Held-out means of error^2 and error^4 of the network and of error^2 of the line, (instance, out)."""
    return trained.once(_errors)


def _errors(trained: Trained) -> tuple[Tensor, Tensor, Tensor]:
    setting = trained.setting
    rate = setting.features.density ** (2 if isinstance(setting.task, And) else 1)
    batches = round(np.clip(300 / rate / 1024, 4, max(4, setting.steps * setting.batch / 4096)))  # 300 active
    found = [torch.zeros(1)] * 3
    with torch.no_grad(), one_thread():
        for number in range(batches):
            x, target = trained.batch(number)
            own = (trained.forward(x) - target).square()
            parts = own, own.square(), (line(trained, x) - target).square()
            found = [total + part.mean(1) / batches for total, part in zip(found, parts, strict=True)]
    return tuple(found)


def wanted(trained: Trained) -> Tensor:
    """Which outputs the loss counts, (instance, out): AND offers some of its pairs, the rest have no importance."""
    outputs = trained.setting.task.n_outputs(trained.setting.features)
    return trained.per_instance(lambda setting, _: torch.as_tensor(setting.task.importance).expand(outputs)) > 0


def offered(trained: Trained) -> Tensor:
    """Functions asked for, (instance,)."""
    return wanted(trained).sum(-1)


def loss(trained: Trained) -> Tensor:
    """Mean squared error, averaged over outputs, (instance,)."""
    return errors(trained)[0].mean(-1)


def loss_4(trained: Trained) -> Tensor:
    """The same of 4th powers."""
    return errors(trained)[1].mean(-1)


def bound(trained: Trained) -> Tensor:
    """The lowest mean squared error that any readout of H neurons has beside the fixed part, (instance,)."""
    rows, p, shape = trained.buffers["W_E"].double(), RARE, trained.setting.build().shape
    one = torch.eye(rows.shape[1], dtype=torch.float64)
    off = one - rows @ rows.mT if trained.setting.model.arguments["mixed"] else 0 * rows @ rows.mT
    second = p / 3 * off @ off + p / 6 * (2 * off + one) + p * p / 16 * (1 - one)  # of x (1 - W W^T) + relu(x)
    with one_thread():
        return torch.linalg.eigvalsh(second)[:, : -shape.neurons].sum(-1) / len(one)


def computed(trained: Trained) -> Tensor:
    """Functions computed: the share of the best line's squared error taken off, summed over outputs, (instance,)."""
    network, _, best = errors(trained)
    return (torch.where(best > 0, 1 - network / best, 0.0).clamp(min=0) * wanted(trained)).sum(-1)


def ranked(trained: Trained) -> Tensor:
    """Functions whose output is larger where the target is on than where it is off with AUC > .95, (instance,)."""
    counts = []
    with torch.no_grad(), one_thread():
        for one, asked_for in enumerate(wanted(trained)):
            single = trained.take([one])
            x, target = single.batch(0, 16384)
            found = rank(single.forward(x)[0].mT.contiguous(), (target[0] > 0).mT.contiguous())
            counts.append(((found.auc > AUC) & asked_for).sum().float())
    return torch.stack(counts)


def seeds(run: report.Run) -> range:
    return range(run.pick(default=8, quick=3, smoke=2))


def published(run: report.Run) -> dict[str, Grid]:
    """kind_blocks_power_steps -> the published networks and their controls."""
    share, batch = run.pick(default=1, quick=0.3, smoke=0.003), run.pick(default=2048, quick=512, smoke=32)
    width, depths = run.pick(default=1000, quick=300, smoke=110), run.pick(default=tuple(HIDDEN), quick=(1,))
    wanted = [("mixed", b, 2, STEPS[b]) for b in depths] + [("unmixed", b, 2, 1000) for b in depths]
    wanted += [("mixed", 1, 4, 1000), ("unmixed", 1, 4, 1000)]
    wanted += run.pick(default=[("mixed", 1, 2, 500), ("mixed", 3, 2, 1000)], quick=[])
    grids = {}
    for kind, blocks, power, steps in wanted:
        model = Model(Unbiased, shape=Shape(width, blocks, HIDDEN[blocks]), mixed=kind == "mixed")
        optimizer = Adam(3e-3, weight_decay=0.01, schedule=QuarterCosine())
        features, task = SparseUniform(OFFERED[blocks], RARE, signed=True), XPlusRelu(exponent=float(power))
        setting = Setting(features, task, model, optimizer, round(steps * share), batch)
        grids[f"{kind}_{blocks}_{power}_{steps}"] = Grid(setting, {"seed": seeds(run)})
    return grids


def keys(run: report.Run) -> dict[str, tuple[str, str]]:
    """Name -> task, and "frozen" or "trained" embeddings, or "fourth": trained ones and 4th powers of the error."""
    pairs = [("absolute_value", "frozen"), ("absolute_value", "trained"), ("absolute_value", "fourth")]
    pairs += run.pick(default=[("x_plus_relu", "frozen"), ("x_plus_relu", "trained")], smoke=[])
    pairs += run.pick(default=[("and", "frozen"), ("and", "trained")], smoke=[("and", "frozen")])
    return {f"{task}_{variant}": (task, variant) for task, variant in pairs}


def base(run: report.Run, task: str, variant: str) -> Setting:
    """One task's setting; shape, functions offered and rate come from axes."""
    steps, batch = run.pick(default=1500, quick=400, smoke=4), run.pick(default=512, smoke=64)
    optimizer, shape = Adam(beta2=0.99, schedule=Cosine()), Shape(8, 1)
    embedding = "frozen" if variant == "frozen" else "trained"
    if task == "and":
        features, pairs = SparseBoolean(run.pick(default=16, smoke=12), BOOLEAN), run.pick(default=64, smoke=16)
        model = Model(Written, shape=shape, embedding=embedding, unembedding=embedding)
        return Setting(features, And(n_pairs=pairs), model, optimizer, steps, batch // 2)
    unembedding = "tied" if embedding == "frozen" else "trained"
    model = Model(ResidualMLP, shape=shape, embedding=embedding, unembedding=unembedding)
    kind = (AbsoluteValue if task == "absolute_value" else XPlusRelu)(exponent=4.0 if variant == "fourth" else 2.0)
    return Setting(SparseUniform(8, RARE, signed=True), kind, model, optimizer, steps, batch)


def asked(run: report.Run, task: str, number: int) -> tuple[str, Any]:
    """The axis of the number of functions offered, and its value: AND learns the first of its pairs."""
    pairs = base(run, "and", "frozen").task.n_pairs
    if task == "and":
        return "task.importance", (1.0,) * number + (0.0,) * (pairs - number)
    return "features.n_features", number


def cells(run: report.Run, task: str, variant: str) -> list[Shape]:
    """Widths and numbers of neurons in one block; where both are equal, in 2 and 4 blocks too. The general path that
    trains AND takes smaller ones, and with trained embeddings only those with as many neurons as dimensions."""
    widths = neurons = run.pick(default=[8, 16, 32], quick=[8, 16], smoke=[4])
    if task == "and":
        widths, neurons = run.pick(default=([8, 16], [4, 8, 16]), quick=([8], [8]), smoke=([4], [4]))
    deep = run.pick(default=[2, 4], quick=[])
    return [Shape(d, blocks, h // blocks) for d in widths for h in neurons
            if d == h or not (task == "and" and variant == "trained")
            for blocks in ([1, *deep] if d == h > 8 and f"{task}_{variant}" != "and_trained" else [1])]  # fmt: skip


def offers(run: report.Run, key: str, shape: Shape) -> list[int]:
    """Functions offered to one shape, in units of what the naive network computes."""
    wide = (1, 2, 4, 8)
    loads = {"absolute_value_frozen": (0.5, 1, 2, 4), "absolute_value_trained": wide, "absolute_value_fourth": wide}
    loads = loads.get(key, (0.5, 1, 2))
    return [round(min(shape.width, shape.neurons) * load) for load in run.pick(default=loads, smoke=loads[:2])]


def capacity_grids(run: report.Run, rates: pd.Series) -> dict[str, Grid]:
    """Task and embedding -> every shape at its own rate, all offers, all seeds; one at half the steps, and denser."""
    grids = {}
    for key, (task, variant) in keys(run).items():
        setting = base(run, task, variant)
        paths = ("model.shape", "optimizer.lr", asked(run, task, 1)[0])
        chosen = [(shape, rates[f"{key}_{shape}"], asked(run, task, n)[1])
                  for shape in cells(run, task, variant) for n in offers(run, key, shape)]  # fmt: skip
        grids[key] = Grid(setting, {paths: chosen, "seed": seeds(run)})
        size = run.pick(default=16, quick=8, smoke=4)
        middle = [one for one in chosen if one[0] == Shape(size, 1)]
        grids[f"{key}_half"] = Grid(setting, {paths: middle, "steps": [setting.steps // 2], "seed": seeds(run)})
        if task == "absolute_value":
            grids[f"{key}_denser"] = Grid(setting, {paths: middle, "features.density": [DENSER], "seed": seeds(run)})
    return grids


def search(run: report.Run, options: dict[str, Any]) -> pd.DataFrame:
    """Each cell's learning rate, at twice the functions that the naive network computes: by what it is trained on."""
    found = []
    for score, fourth in ((computed, False), (loss_4, True)):
        grids = {}
        for key, (task, variant) in keys(run).items():
            for shape in cells(run, task, variant) if (variant == "fourth") == fourth else ():
                load = 1 if key in ("absolute_value_frozen", "x_plus_relu_frozen") else 2
                path, number = asked(run, task, load * min(shape.width, shape.neurons))
                axes = {("model.shape", path): [(shape, number)], "seed": SEARCH_SEEDS}
                grids[f"{key}_{shape}"] = Grid(base(run, task, variant), axes)
        rates = run.pick(default=[0.01, 0.02, 0.04], quick=[0.01, 0.03])
        found.append(
            best_rates(grids, rates, score=score, lowest=fourth, extend=run.pick(default=2, quick=0), **options)
        )
    return pd.concat(found)


def linear_readouts(run: report.Run, options: dict[str, Any]) -> pd.DataFrame:
    """AND without neurons: a trained linear readout of a frozen or trained embedding, at its own rate."""
    grids = {}
    for variant in [variant for task, variant in keys(run).values() if task == "and"]:
        model = Model(ResidualMLP, shape=Shape(8, 0), embedding=variant, unembedding="trained")
        for width in sorted({shape.width for shape in cells(run, "and", variant)}):
            path, number = asked(run, "and", 2 * width)
            axes = {("model.shape", path): [(Shape(width, 0), number)], "seed": SEARCH_SEEDS}
            grids[f"{variant}_{width}"] = Grid(replace(base(run, "and", variant), model=model), axes)
    rates = best_rates(grids, [0.01, 0.03], score=loss, lowest=True, extend=run.pick(default=2, quick=0), **options)
    own = {f"linear_{name}": replace(grid, axes={**grid.axes, "optimizer.lr": [rates["lr"][name]], "seed": seeds(run)})
           for name, grid in grids.items()}  # fmt: skip
    tables = [answer.table.assign(variant=name.split("_")[1], share=answer.table["ranked"] / answer.table["offered"])
              for name, answer in sweep(own, [ranked, offered], **options).items()]  # fmt: skip
    return pd.concat(tables)


def capacities(table: pd.DataFrame, count: str) -> pd.DataFrame:
    """Each cell's and seed's count at the cell's best offer, and whether the largest offer adds less than 5%."""
    table = table.assign(neurons=table["hidden"] * table["depth"])
    rows = []
    for (width, neurons, blocks), cell in table.groupby(["width", "neurons", "depth"]):
        held = stats.capacity(cell, load="offered", recovered=count).reset_index()
        *smaller, largest = cell.groupby("offered")[count].mean()
        enough = 1.05 * max(smaller) >= largest
        rows.append(held.assign(enough=enough, width=width, neurons=neurons, blocks=blocks))
    return pd.concat(rows, ignore_index=True).assign(bound=lambda held: held[["width", "neurons"]].min(axis=1))


def laws(held: pd.DataFrame) -> tuple[stats.ExponentFit, dict[str, float]]:
    """Exponents over the cells of one block (with h = d, H = d L, so that H / d stands for L); and by how much each
    law's AICc is above the lowest, with F = C min(d, H) among them, which is no power law."""
    one = held[held["blocks"] == 1]
    table = one.assign(depth=one["neurons"] / one["width"], budget=2 * one["width"] * one["neurons"])
    fit = stats.fit_exponents(table, hold_out=1.5)
    cells = one.groupby(["width", "neurons"]).mean(numeric_only=True)
    off, n = np.log(cells["recovered"] / cells["bound"]), len(cells)
    aicc = {**fit.laws["aicc"], "min(d, H)": n * np.log(off.var(ddof=0)) + 4 + 12 / (n - 3)}  # 2 numbers fitted
    return fit, {name: value - min(aicc.values()) for name, value in aicc.items()}


def over(held: pd.DataFrame, unit: Any) -> list[stats.Interval]:
    """Each cell's count in units of a column, at a level corrected for the number of cells."""
    groups = dict(iter((held["recovered"] / unit).groupby([held["width"], held["neurons"], held["blocks"]])))
    return [stats.mean(own, 1 - 0.05 / len(groups)) for own in groups.values()]


def main(run: report.Run) -> None:
    options: dict[str, Any] = {"results": run.results, "device": run.device, "workers": run.workers}
    rates = search(run, options)
    answers: dict[str, Results] = {}
    for task, count in (("absolute_value", [ranked]), ("x_plus_relu", []), ("and", [ranked])):
        own = {name: grid for name, grid in capacity_grids(run, rates["lr"]).items() if name.startswith(task)}
        answers |= sweep(own, [offered, computed, *count], **options) if own else {}
    linear = linear_readouts(run, options)
    row = sweep(published(run), [loss, loss_4, bound], **options)

    statistics, verdict, controls = published_claims(row)
    for name in ("offers_suffice", "half_the_steps", "highest_over_bound", "aicc_above_the_lowest", "denser"):
        controls[name] = {}
    controls["learning_rates"] = rates.to_dict("index")
    held = {}
    for key, (task, _) in keys(run).items():
        table, half = answers[key].table, answers[f"{key}_half"].table
        for by, count in [("squares", "computed")] + [("auc", "ranked")] * (task == "absolute_value"):
            name = f"{key}_by_{by}"
            held[name] = own = capacities(table, count)
            one_block = own[own["blocks"] == 1].groupby(["width", "neurons"])["recovered"].mean()
            if len(one_block) > 5 and one_block.min() > 0:  # there is a logarithm
                fit, controls["aicc_above_the_lowest"][name] = laws(own)
                statistics |= {f"{name}_a": fit.a, f"{name}_b": fit.b, f"{name}_a_minus_2b": fit.a_minus_2b}
                verdict |= {f"{name}_{law}": fit.decided()[law] for law in LAWS}
            if own["blocks"].max() > 1:
                square = own[(own["width"] == own["neurons"]) & (own["width"] > 8)]
                sums = square.groupby(["blocks", "seed"])["recovered"].sum()
                statistics[f"{name}_4_blocks_over_1"] = stats.ratio(sums[4], sums[1], paired=True)
            sums = own.groupby("seed")[["recovered", "bound"]].sum()
            statistics[f"{name}_over_naive"] = stats.mean(sums["recovered"] / sums["bound"])
            if by == "squares":
                controls["highest_over_bound"][key] = float((own["recovered"] / own["bound"]).max())
            for than, unit in (("neurons", own["neurons"]), ("sharing", PASS * own["bound"])) if by == "auc" else ():
                found = [stats.decide(one, (1, np.inf)) for one in over(own, unit)]
                verdict[f"{key}_more_than_{than}"] = stats.some(*found)
            controls["offers_suffice"][name] = float(own["enough"].mean())
            both = own.merge(capacities(half, count), on=["width", "neurons", "blocks", "seed"])
            controls["half_the_steps"][name] = stats.ratio(both["recovered_y"], both["recovered_x"], paired=True)
            if task == "absolute_value":
                controls["denser"][name] = stats.mean(capacities(answers[f"{key}_denser"].table, count)["recovered"])
        if task == "and":
            ratios = against_linear(table, linear[linear["variant"] == key.partition("_")[2]])
            controls[f"{key}_ranked_over_linear"] = {str(cell): ratio for cell, ratio in ratios.items()}
            narrow = [stats.decide(one, (1, np.inf)) for (width, *_), one in ratios.items() if width < 16]
            verdict[f"{key}_ranks_more_than_linear"] = stats.every(*narrow)
    everything = {**row, **answers}
    figure = draw(statistics, controls, held, answers)
    report.write(run, figure, statistics=statistics, verdict=verdict, controls=controls,
                 engine=", ".join(sorted({e for answer in everything.values() for e in answer.table["engine"]})),
                 instances=sum(len(answer.table) for answer in everything.values()),
                 steps=max(answer.grid.setting.steps for answer in everything.values()),
                 seconds=sum(answer.seconds for answer in everything.values()))  # fmt: skip


def against_linear(table: pd.DataFrame, linear: pd.DataFrame) -> dict[tuple, stats.Interval]:
    """(width, neurons, blocks) -> the share of the most ANDs offered that it ranks, over a linear readout's."""
    table = table.assign(share=table["ranked"] / table["offered"], neurons=table["hidden"] * table["depth"])
    found = {}
    for cell, own in table.groupby(["width", "neurons", "depth"]):
        most = own[own["offered"] == own["offered"].max()]
        found[cell] = stats.ratio(most["share"], linear.loc[linear["width"] == cell[0], "share"])
    return found


def published_claims(row: dict[str, Results]) -> tuple[dict, dict, dict]:
    """(statistics, verdicts, controls) of the published row: losses over published, naive and lowest possible ones."""
    statistics: dict[str, stats.Interval] = {}
    controls: dict[str, Any] = {"other_lengths_over_naive": {}, "bound_over_naive": {}}
    bounds = []
    for name, answer in row.items():
        kind, blocks, power, steps = name.split("_")
        table, b = answer.table, int(blocks)
        if power == "2":
            bounds.append(stats.mean(table["loss"] / table["bound"]))
        if int(steps) != (STEPS[b] if kind == "mixed" else 1000):
            controls["other_lengths_over_naive"][name] = stats.mean(table["loss"] / NAIVE[2])
            continue
        for judge, column in ((2, "loss"), (4, "loss_4")):
            statistics[f"{kind}_{b}_trained_{power}_judged_{judge}_over_naive"] = stats.mean(
                table[column] / NAIVE[judge]
            )
        if power == "2":
            controls["bound_over_naive"][f"{kind}_{b}"] = stats.mean(table["bound"] / NAIVE[2])
        if kind == "mixed" and power == "2":
            statistics[f"loss_{b}"] = stats.mean(table["loss"])
            statistics[f"loss_{b}_over_published"] = stats.mean(table["loss"] / PUBLISHED[b])
            gain = (NAIVE[2] - table["loss"]) / (NAIVE[2] - table["bound"])
            statistics[f"gain_{b}_of_what_neurons_can_correct"] = stats.mean(gain)

    def depths(form: str, region: tuple[float, float]) -> stats.Verdict:
        names = [form.format(b) for b in HIDDEN]
        return stats.every(*(stats.decide(statistics[name], region) for name in names if name in statistics))

    fourth = statistics["unmixed_1_trained_4_judged_4_over_naive"]
    verdict = {
        "published_losses": depths("loss_{}_over_published", (0.95, 1.05)),
        "beats_naive": depths("mixed_{}_trained_2_judged_2_over_naive", (0, 1)),
        "gain_vanishes_without_mixing": depths("unmixed_{}_trained_2_judged_2_over_naive", (0.98, np.inf)),
        "never_below_the_bound": stats.every(*(stats.decide(one, (0.99, np.inf)) for one in bounds)),
        "fourth_powers_beat_naive": stats.decide(fourth, (0, 1)),
        "fourth_powers_beat_sharing": stats.decide(fourth, (0, SHARED)),
        "but_not_by_squares": stats.decide(statistics["unmixed_1_trained_4_judged_2_over_naive"], (1, np.inf)),
    }
    return statistics, verdict, controls


def draw(statistics: dict, controls: dict, held: dict[str, pd.DataFrame], answers: dict[str, Results]) -> plots.Figure:
    """Above: published losses, 4th powers, functions against functions asked for. Below: capacities."""
    figure, axes = plots.figure(2, 4, width=16, height=4.4)
    widths = plots.category_colours(sorted({width for table in held.values() for width in table["width"]}))
    draw_published(axes[0, 0], statistics, controls["bound_over_naive"])
    draw_fourth(axes[0, 1], statistics)
    draw_offered(axes[0, 2], answers)
    draw_shares(axes[0, 3], held, widths)
    draw_capacity(axes[1, 0], held, {"trained": "-", "frozen": ":"}, "squares", "neurons", widths)
    draw_capacity(axes[1, 1], held, {"trained": "-", "fourth": "--"}, "auc", "neurons", widths)
    draw_capacity(axes[1, 2], held, {"trained": "-", "fourth": "--"}, "auc", "parameters", widths)
    styles = (("-", "embeddings trained"), (":", "embeddings frozen"), ("--", "trained on 4th powers of the error"))
    marks = [*(Line2D([], [], color=colour, marker="o", label=f"width {width}") for width, colour in widths.items()),
             *(Line2D([], [], color="black", linestyle=style, label=label) for style, label in styles)]  # fmt: skip
    axes[1, 3].axis("off")
    axes[1, 3].legend(handles=marks, loc="upper left", fontsize=11, title="capacity panels", alignment="left")
    axes[1, 3].text(0.03, 0.34, GUIDE, fontsize=10.5, va="top", transform=axes[1, 3].transAxes)
    mixed, unmixed = (statistics[f"{kind}_1_trained_2_judged_2_over_naive"].value for kind in ("mixed", "unmixed"))
    top = max(statistics[f"absolute_value_{variant}_by_squares_over_naive"].value for variant in ("frozen", "trained"))
    first = f"By squared error |x| reaches {top:.0%} of one function a neuron or dimension, which no weights can exceed"
    second = f"the published loss, {mixed - 1:+.0%} from the naive one, is {unmixed - 1:+.0%} with a noiseless stream"
    fourth = statistics["unmixed_1_trained_4_judged_4_over_naive"].value / SHARED
    figure.suptitle(f"{first};\n{second}; by 4th powers it is {fourth:.2f} of what shared neurons reach", fontsize=15)
    return figure


def points(ax: Any, x: Any, found: list[stats.Interval], **look: Any) -> None:
    """Intervals as error bars; infinite ends are not drawn."""
    ends = np.array([[one.value, one.value - one.low, one.high - one.value] for one in found])
    ax.errorbar(x, ends[:, 0], np.where(np.isfinite(ends[:, 1:]), ends[:, 1:], 0).T, capsize=3, fmt="o", **look)


def level(ax: Any, at: float, text: str, colour: Any = plots.GREY, up: float = 3) -> None:
    """A dotted level, named at its left end, `up` points above or below it."""
    ax.axhline(at, color=colour, linestyle=":", zorder=1)
    place, side = ("axes fraction", "data"), "bottom" if up > 0 else "top"
    ax.annotate(text, (0.01, at), (0, up), xycoords=place, textcoords="offset points", fontsize=9, va=side)


def draw_published(ax: Any, statistics: dict, bounds: dict) -> None:
    """Losses of the published networks over the naive one's, by blocks."""
    for kind, colour in plots.category_colours(["mixed", "unmixed"]).items():
        label = "trained as published" if kind == "mixed" else "control: x itself instead of x W W$^T$"
        form = f"{kind}_{{}}_trained_2_judged_2_over_naive"
        known = [b for b in HIDDEN if form.format(b) in statistics]
        points(ax, known, [statistics[form.format(b)] for b in known], color=colour, label=label)
        for b in known:
            ax.plot([b - 0.25, b + 0.25], [bounds[f"{kind}_{b}"].value] * 2, color=colour, linestyle="--")
    ax.plot([], [], color=plots.GREY, linestyle="--", label="the lowest any weights could reach")
    ax.plot(list(HIDDEN), [PUBLISHED[b] / NAIVE[2] for b in HIDDEN], "k_", markersize=22, label="published losses")
    level(ax, 1, "naive: one function a neuron, x for the rest", up=8)
    ax.set(xlabel="residual blocks (50 neurons in all)", ylabel="squared error / naive network's")
    ax.set(xticks=list(HIDDEN), xlim=(0.4, 3.6), ylim=(0.6, 1.4))
    ax.set_title("x + relu(x), 100 functions,\n50 neurons, trained on squares", fontsize=12)
    ax.legend(fontsize=9, loc="upper left")


def draw_fourth(ax: Any, statistics: dict) -> None:
    """The control network trained on either power, judged by either."""
    colours = plots.category_colours(["judged by squares", "judged by 4th powers"])
    for (label, colour), judge in zip(colours.items(), (2, 4), strict=True):
        found = [statistics[f"unmixed_1_trained_{trained}_judged_{judge}_over_naive"] for trained in (2, 4)]
        points(ax, [0, 1], found, color=colour, markersize=7, label=label)
    level(ax, 1, "naive")
    level(ax, SHARED, "two functions share\neach neuron (4th powers)", colours["judged by 4th powers"], -3)
    ax.set(yscale="log", ylim=(0.015, 8), xlim=(-0.6, 1.5), ylabel="error / naive network's")
    ax.set_xticks([0, 1], ["trained on\nsquares", "trained on\n4th powers"])
    ax.set_yticks([0.03, 0.1, 0.3, 1, 3], ["0.03", "0.1", "0.3", "1", "3"])
    ax.minorticks_off()
    ax.set_title("The control network of 1 block,\nby either power of the error", fontsize=12)
    ax.legend(fontsize=9, loc="upper left")


def draw_offered(ax: Any, answers: dict[str, Results]) -> None:
    """|x|: functions computed against functions asked for, by both counts, at one shape."""
    colours = plots.category_colours(["counted by squared error", "counted by AUC > .95"])
    for variant, style in (("trained", "-"), ("fourth", "--")):
        table = answers[f"absolute_value_{variant}"].table
        sizes = sorted(table["width"].unique())
        size = sizes[len(sizes) // 2]
        own = table[(table["width"] == size) & (table["hidden"] == size) & (table["depth"] == 1)]
        for (label, colour), count in zip(colours.items(), ("computed", "ranked"), strict=True):
            means = own.groupby("offered")[count].mean()
            ax.plot(means.index, means, style, color=colour, marker="o", label=label if style == "-" else None)
    asked_for = sorted(own["offered"].unique())
    ax.plot(asked_for[:2], asked_for[:2], color=plots.GREY, linewidth=1, zorder=1)
    ax.plot([], [], "k--", label="trained on 4th powers")
    ax.axhline(size, color=plots.GREY, linestyle=":", zorder=1)
    ax.text(asked_for[-1], size * 1.03, f"{size} neurons", fontsize=9, ha="right")
    ax.set_xscale("log", base=2)
    ax.set_xticks(asked_for, [str(n) for n in asked_for])
    ax.set(xlabel="functions asked for (grey: all of them)", ylabel="functions computed", ylim=(0, 3.4 * size))
    ax.set_title(f"|x| in {size} neurons, {size} dimensions:\nwhat is asked for, what is computed", fontsize=12)
    ax.legend(fontsize=9, loc="upper right")


def draw_shares(ax: Any, held: dict[str, pd.DataFrame], widths: dict) -> None:
    """Each task's and cell's capacity by squares over its bound."""
    names = [name for name in held if name.endswith("squares")]
    tasks = [name.removesuffix("_by_squares").rsplit("_", 1) for name in names]
    for at, name in enumerate(names):
        for place, ((width, _, blocks), own) in enumerate(held[name].groupby(["width", "neurons", "blocks"])):
            share = (own["recovered"] / own["bound"]).mean()
            ax.plot(at + 0.05 * place - 0.3, share, marker="o" if blocks == 1 else "x", color=widths[width])
    level(ax, 1, "bound: min(width, neurons)")
    ax.set_xticks(range(len(names)), [f"{TITLES[task]}\n{variant}" for task, variant in tasks], fontsize=9)
    ax.set(ylabel="functions at the best offer / bound", ylim=(0, 1.12))
    ax.set_title("All tasks and shapes by squared error\n(crosses: 2 or 4 blocks)", fontsize=12)


def draw_capacity(ax: Any, held: dict, variants: dict[str, str], by: str, x: str, widths: dict) -> None:
    """Capacity for |x| against neurons or parameters, a line for each width and variant, one block."""
    seen: set[float] = set()
    for variant, style in variants.items():
        table = held[f"absolute_value_{variant}_by_{by}"].query("blocks == 1")
        table = table.assign(parameters=2 * table["width"] * table["neurons"])
        seen |= set(table[x])
        for width, own in table.groupby("width"):
            means = own.groupby(x)["recovered"].mean().clip(lower=0.1)
            ax.plot(means.index, means, linestyle=style, marker="o", markersize=5, color=widths[width])
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ends = np.array([min(seen), max(seen)])
    for times in ([1, PASS] if by == "auc" else [1]) if x == "neurons" else []:
        ax.plot(ends, times * ends, ":", color=plots.GREY, zorder=1)
    said = "grey: one a neuron" + f"; {PASS} sharing each neuron" * (by == "auc")
    ax.text(0.03, 0.99, said if x == "neurons" else "", fontsize=9, va="top", transform=ax.transAxes)
    ax.set_xticks(sorted(seen), [f"{value:g}" for value in sorted(seen)])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(xlabel="neurons" if x == "neurons" else "parameters of the block, 2 x width x neurons")
    ax.set_ylabel("functions at the best offer")
    counted = "squared error" if by == "squares" else "AUC > .95"
    ax.set_title(f"|x| counted by {counted},\nagainst {x}", fontsize=12)


if __name__ == "__main__":
    report.experiment(main)
