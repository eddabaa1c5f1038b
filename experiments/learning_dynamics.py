"""Do features jump between discrete dimensionalities in training, and does the loss drop when they do?

"Superposition and Learning Dynamics" of Elhage et al. 2022. Phenomenon 1, from one model of many equal features that
end in digons: a feature's dimensionality D_i jumps between discrete values, and the loss drops then. Here n = 400,
m = 30 as in their study of uniform geometry (p = 0.4), n = 20, m = 5 (p = 0.3), and n = 5, m = 2 (p = 0.05), which ends
in a pentagon. Phenomenon 2: six features in two correlated sets of three, m = 3, learn in regimes that are visible in
the loss, each one geometric transformation, towards an octahedron of antipodal pairs across the sets.

AdamW, weights kept every 50 steps. The loss is exact for n = 5, else on common draws, in units of one feature's
variance: what it costs to ignore one. Events are sudden moves (`stats.transitions`); where features are correlated a
jump is a change of the cosine between two of a set. Adam moves a weight by about lr a step, so nothing is faster than
1 / lr steps: jumps count from then on, and are together within 0.2 / lr. Two cores: --quick 50 s, default 4 minutes.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from toysup import plots, stats
from toysup.ensemble import Trained
from toysup.features import Correlated, Features, SparseUniform
from toysup.measure import antipode, cosines, feature_dimensionality, loss_through, through
from toysup.measure.dynamics import curves
from toysup.models import TiedAutoencoder
from toysup.setting import Adam, Model, Setting
from toysup.study import Check, Claim, Finding, Run, Study, experiment
from toysup.sweep import Grid
from toysup.tasks import Identity
from toysup.theory import expected_loss

QUESTION = "Do features jump between discrete dimensionalities in training, and does the loss drop when they do?"
LEVELS = {"0": 0.0, "2/5": 2 / 5, "1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4, "1": 1.0}
NEAR, BLUR, BUSIEST = 0.03, 0.15, 3  # six levels would tile what a few features use: blurred values couldn't miss them
JUMP, DROP, TURN = 0.1, 0.02, 0.3  # least change of a dimensionality, of the loss in features, of a cosine
LR, EVERY, SET = 1e-3, 50, 3
WORDS = {"pentagon": "5 features in 2 dimensions", "digons": "20 in 5", "large": "400 in 30",
         "correlated": "6 correlated ones in 3"}  # fmt: skip
RED, BLUE, ORANGE = "#d55e00", "#0173b2", "#f5daa8"
HALF, MORE = (0.5, np.inf), (0, np.inf)
RULES = {
    "jumps_coincide_with_loss_drops": (
        "more than half of the jumps have a drop of the loss nearby, more than twice as many as one of another seed's",
        {"jumps_with_a_drop": HALF, "jumps_with_a_drop_minus_twice_that": MORE}),
    "loss_drops_coincide_with_jumps": (
        "more than half of the drops of the loss have a jump nearby, more than twice as many as one of another seed's",
        {"drops_with_a_jump": HALF, "drops_with_a_jump_minus_twice_that": MORE}),
    "loss_falls_at_jumps": (
        "near jumps the loss falls more than twice as fast as other seeds' do then",
        {"fall_at_jumps_minus_twice_that": MORE}),
    "levels_are_the_papers": (
        "before its seed's last jump a resting feature is mostly within 0.03 of 0, 2/5, 1/2, 2/3, 3/4 or 1, and 1.5 "
        "times as often as the same values blurred by 0.15",
        {"at_papers_levels": HALF, "at_papers_levels_minus_1.5_blurred": MORE}),
    "levels_are_discrete": (
        "the same of the three busiest levels of the other half of the seeds",
        {"at_found_levels": HALF, "at_found_levels_minus_1.5_blurred": MORE}),
}  # fmt: skip


class Cell(NamedTuple):
    case: str
    law: Features
    width: int
    seeds: int
    lr: float = LR


def exact_loss(trained: Trained) -> torch.Tensor:
    """Expected loss by integration, importance 1."""
    W, b = (trained.parameters[name].double().numpy() for name in ("W", "b"))
    return torch.from_numpy(expected_loss(W, b, trained.setting.features.density, np.ones(b.shape[-1])))


def loss_curve(trained: Trained) -> torch.Tensor:
    """(instance, snapshot), in units of one feature's variance; exact where that is cheap."""
    n, p = trained.setting.features.n_features, trained.setting.features.density
    follow = through(exact_loss) if n == 5 else loss_through({2 * SET: 16, 20: 8}.get(n, 4))
    return follow(trained) / (p / 3 - p**2 / 4)


def study(run: Run) -> Study:
    size = run.sizes(dict(steps=10_000, batch=1024, many=1024, some=256, few=8, sets=64, other=512, large=(400, 30)),
                     quick=dict(many=96, some=24, few=2, sets=8, other=32), smoke=dict(steps=3 * EVERY, batch=32,
                     many=4, some=2, sets=2, other=2, large=(40, 3)))  # fmt: skip
    five, (n, m) = SparseUniform(5, 0.05), size.large
    cells = [Cell("pentagon", five, 2, size.many), Cell("digons", SparseUniform(20, 0.3), 5, size.some),
             Cell("large", SparseUniform(n, 0.4), m, size.few),
             Cell("correlated", Correlated(2 * SET, SET, 0.05), 3, size.sets),
             Cell("pentagon_half_lr", five, 2, size.other, LR / 2),
             Cell("pentagon_double_lr", five, 2, size.other, 2 * LR)]  # fmt: skip

    def grid(cell: Cell) -> Grid:
        adam = Adam(lr=cell.lr, weight_decay=0.01)
        setting = Setting(cell.law, Identity(), Model(TiedAutoencoder, width=cell.width), adam, size.steps, size.batch)
        return Grid(setting, {"seed": range(cell.seeds)})

    return Study(
        cells, grid, measures=[through(feature_dimensionality), loss_curve], snapshots=range(0, size.steps + 1, EVERY),
        findings={"followed": Finding(followed, "case", kept=False), "found": Finding(found, "case", "{case}_{column}"),
                  "busiest": Finding(busiest, "case"),
                  "controls": Finding(lambda followed: followed.moves.controls(), "case"),
                  "ends": Finding(ends, "case", "{case}_{column}", {"case": "correlated"})},
        claims=[*(Claim(name, says, "found", regions, combine=None, each=lambda case, name=name:
                        f"{case}_{name}" if case in WORDS else "") for name, (says, regions) in RULES.items()),
                *(Claim(name, f"most runs of correlated features {says}", f"ends.{of}", (0.5, 1), combine=None,
                        each=f"{{case}}_{name}", checks=()) for name, says, of in (
                      ("learns_in_regimes", "have a drop of the loss", "runs_with_a_drop"),
                      ("ends_in_an_octahedron", "end in an octahedron", "octahedra"))),
                Check("rate_does_not_decide", "half and double the learning rate turn no verdict on 5 features around",
                      lambda found: not any({"supported", "rejected"} <= {ruled(found[case], rule) for case in found if
                                            case.startswith("pentagon")} for _, rule in RULES.values()))],
        draw=draw, answer=answer,
    )  # fmt: skip


def ruled(found: dict, rule: dict) -> stats.Verdict:
    return stats.every(*(stats.decide(found[column], region) for column, region in rule.items()))


class Followed(NamedTuple):
    """Dimensionalities (row, snapshot, feature), the moves of what jumps and of the loss in features."""

    D: np.ndarray
    moves: stats.SuddenMoves

    def resting(self) -> list[np.ndarray]:
        """Dimensionalities before the last jump, of each row that has one; without a feature's own jumps if D jumps."""
        at = self.moves.rests()
        if self.D is not self.moves.series:
            at = np.broadcast_to(at.any(-1, keepdims=True), self.D.shape)
        return [self.D[row][at[row]] for row in self.moves.jumps_met.rows]


def followed(case: str, rows: pd.DataFrame, features: pd.DataFrame, networks) -> Followed:
    first, own = rows.iloc[0], features[features["case"] == case]
    snapshots, pace = first["steps"] // EVERY + 1, 1 / first["lr"] / EVERY
    D = curves(own, "feature_dimensionality_through", snapshots)
    series, least = D, JUMP
    if isinstance(first["law"], Correlated):
        one, other = np.triu_indices(2 * SET, 1)
        turning = through(cosines)(networks(rows)).numpy().reshape(len(rows), snapshots, -1)
        series, least = turning[..., one // SET == other // SET], TURN
    begin = round(pace) if first["steps"] > 1 / first["lr"] else 0
    loss = curves(own, "loss_curve", snapshots).astype(np.float64 if case.startswith("pentagon") else np.float32)
    return Followed(D, stats.SuddenMoves(series, loss, least, DROP, begin, 0.2 * pace))


def busiest(followed: Followed) -> dict[str, np.ndarray]:
    rests = followed.resting()
    return {half: stats.busiest_levels(np.concatenate(rests[k::2] or [np.zeros(0)]), BUSIEST, NEAR)
            for k, half in enumerate(("first", "second"))}  # fmt: skip


def found(followed: Followed, busiest: dict) -> dict[str, stats.Interval]:
    """Jumps beside drops, the fall of the loss around jumps, and how near resting features are to levels."""
    D, moves = followed
    rests, papers, halves = followed.resting(), list(LEVELS.values()), list(busiest.values())
    end = [stats.near_levels(last, papers, NEAR, BLUR)[0] for last in D[:, -1]]
    told = moves.numbers(1000, EVERY) | {"at_papers_levels_at_the_end": stats.mean(end)}
    for key, at in {"papers_levels": [papers] * 2, "found_levels": halves[::-1]}.items():
        near = [stats.near_levels(rest, at[k % 2], NEAR, BLUR) if len(at[k % 2]) else (np.nan, np.nan)
                for k, rest in enumerate(rests)]  # fmt: skip
        share, blurred = np.array(near).reshape(-1, 2).T
        parts = {"": share, "_if_blurred": blurred, "_minus_1.5_blurred": share - 1.5 * blurred}
        told |= {f"at_{key}{part}": stats.mean(values, skipna=True) for part, values in parts.items()}
    return told


def ends(followed: Followed, rows: pd.DataFrame, networks) -> dict:
    partner = antipode(networks(rows)).numpy()
    across = ((partner >= 0) & (partner // SET != np.arange(2 * SET) // SET)).all(1)
    drops = [len(row) > 0 for row in followed.moves.drops]
    return {"octahedra": stats.share(across), "runs_with_a_drop": stats.share(drops)}


def answer(found: dict) -> str:
    shares = {words: [found[case][f"jumps_with_{whose}_drop"].value for whose in ("a", "another_seeds")]
              for case, words in WORDS.items()}  # fmt: skip
    told = [f"{own:.0%} of cases for {words} (by chance {other:.0%})" for words, (own, other) in shares.items()
            if np.isfinite([own, other]).all()]  # fmt: skip
    if not told:
        return "No feature was seen to jump to another dimensionality."
    return f"A feature's jump to another dimensionality comes with a drop of the loss in {', '.join(told)}."


def draw(rows: pd.DataFrame, followed: dict) -> plots.Figure:
    """A typical seed's series and loss, the fall of the loss around all seeds' jumps, and where features rest."""
    figure, axes = plots.figure(4, len(WORDS), width=13, height=2.9)
    steps = rows["steps"].iloc[0]
    time = np.arange(0, steps + 1, EVERY)
    for (top, loss, around, rest), (case, words) in zip(axes.T, WORDS.items(), strict=True):
        D, moves = followed[case]
        row, by = moves.typical(), moves.fall_around_jumps(int(4 * moves.tolerance))
        top.plot(time, moves.series[row], linewidth=0.9)
        loss.plot(time, moves.loss[row], color="black", linewidth=1.2)
        late = moves.loss[row, moves.begin // 2 or 1 :]
        top.set(ylim=(-1.05, 1.05) if case == "correlated" else (-0.08, 1.02))
        top.set_title(f"{words}\ntypical one of {len(D)} seeds", fontsize=11)
        loss.set(ylim=(late.min() - 0.12 * np.ptp(late), late.max() + 0.02 * np.ptp(late)), xlabel="step")
        for move in moves.drops[row]:
            plots.zone(loss, move.start * EVERY, move.stop * EVERY, upright=True, color=ORANGE)
        for ax in (top, loss):
            plots.level(ax, moves.begin * EVERY, upright=True)
            ax.set(xlim=(0, steps / 2), xticks=[0, steps / 4, steps / 2])
            for at in moves.jump_times[row]:
                ax.axvline(at * EVERY, ymax=0.07, color=RED, linewidth=1.2)
        lags = (np.arange(by.own.shape[1]) - by.own.shape[1] // 2) * EVERY
        for part, colour, line in ((by.own, BLUE, "-"), (by.paired, "0.45", ":")):
            falls = [stats.mean(values * 1000 / EVERY, skipna=True) for values in part.T]
            plots.curve(around, lags, falls, color=colour, linestyle=line, marker="")
        plots.level(around, 0, upright=True, color=RED)
        around.set(ylim=(0, None), xlabel="steps from a jump")
        on_the_way = np.concatenate([np.zeros(0), *followed[case].resting()])
        for data, colour, kind in ((D[:, -1].ravel(), "0.8", "stepfilled"), (on_the_way, BLUE, "step")):
            if data.size:
                rest.hist(data, np.linspace(0, 1, 51), weights=np.full(data.size, 100 / data.size), color=colour,
                          histtype=kind, linewidth=1.4)  # fmt: skip
        for name, value in LEVELS.items():
            plots.level(rest, value, upright=True)
            rest.text(value, 250 if name in ("1/2", "3/4") else 125, name, fontsize=9, ha="center", color=plots.GREY)
        rest.set(xlabel="dimensionality D", yscale="log", ylim=(0.05, 100), xlim=(-0.02, 1.02))
    labels = ("dimensionality D", "loss, in features", "fall of the loss,\nfeatures / 1000 steps", "share of D, %")
    for ax, label in (*zip(axes[:, 0], labels, strict=True), (axes[0, 3], "cosine inside a set")):
        ax.set_ylabel(label)
    plots.legend(axes[1, 0], {"jump": RED, "sudden drop": ORANGE}, loc="upper right", size=9)
    plots.legend(axes[2, 1], {"own loss": BLUE, "other seeds' loss": "0.45"}, loc="upper right", size=9)
    plots.legend(axes[3, 2], {"before last jump": BLUE, "at the end": "0.8"}, loc="upper right", size=9)
    return figure


if __name__ == "__main__":
    experiment(study)
