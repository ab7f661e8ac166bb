"""The boosting run again, in float64, with its splits fixed: how leaf values follow from rows, weights and predictions.

In each round, from the predictions f before it, with weights s_i, gradients g_i and curvatures h_i of the loss:

    v = -G / (Hs + l2),   G = sum of s g over the leaf,  Hs = sum of s h,   f += eta v      (Friedman 2001; Chen 2016)

Several Newton steps within a leaf repeat the first line at f + v. Arrays are output-first, [C, n, worlds]: a world is
the run with other weights, and everything is computed for many at once. Sums are float64 sums over a leaf's rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Float64, Int, Int32, Int64
from scipy import sparse as scipy_sparse

from assay.errors import ModelError
from assay.methods.trees.ensemble import Boosting, Read
from assay.methods.trees.losses import Array, CoupledSoftmax, Loss

sparse = cast(Any, scipy_sparse)
REPLAY = 1e-3
"""Largest difference allowed between replayed leaf values and the model's, in units of the largest; libraries sum
gradients in float32."""


@dataclass(frozen=True, eq=False)
class Tree:
    """The rows' leaves in one tree."""

    leaf: Int32[np.ndarray, " n"]
    size: int

    def sums(self, rows: Float64[np.ndarray, "n worlds"]) -> Float64[np.ndarray, "leaves worlds"]:
        """Sums over the rows of each leaf."""
        return self.weighted(np.ones(len(self.leaf)), rows)

    def weighted(
        self, weight: Float64[np.ndarray, " n"], rows: Float64[np.ndarray, "n worlds"]
    ) -> Float64[np.ndarray, "leaves worlds"]:
        """Weighted sums over the rows of each leaf: a sparse product, one number a row."""
        n = len(self.leaf)
        if rows.shape[1] == 1:
            return np.bincount(self.leaf, weight * rows[:, 0], self.size)[:, None]
        return sparse.csc_matrix((weight, self.leaf, np.arange(n + 1)), shape=(self.size, n)) @ rows

    def summing(self, weights: Float64[np.ndarray, "k n"]) -> Any:
        """The sparse matrix [k leaves, n] that sums rows over leaves with several weights."""
        k, n = weights.shape
        places = self.leaf[:, None] + self.size * np.arange(k, dtype=np.int32)
        return sparse.csc_matrix(
            (np.ascontiguousarray(weights.T).ravel(), places.ravel(), np.arange(0, k * n + 1, k, dtype=np.int32)),
            shape=(k * self.size, n),
        )


@dataclass(frozen=True, eq=False)
class Step:
    """One Newton step in all leaves of a round, by output: the change of value and the system that it solves.

    `scale[c]` [leaves, worlds] is 1 / (Hs + l2), 0 for a leaf without curvature or with a clipped value; coupled outputs have one `inverse`
    [leaves, worlds, C, C] instead.
    """

    delta: Sequence[Float64[np.ndarray, "_ worlds"]]
    scale: Sequence[Float64[np.ndarray, "_ worlds"]]
    inverse: Float64[np.ndarray, "leaves worlds C C"] | None = None

    def solve(self, sums: Sequence[Float64[np.ndarray, "_ worlds"]]) -> list[Float64[np.ndarray, "_ worlds"]]:
        """(Hs + l2)^-1 of sums over leaves, with this step's system in one world."""
        if self.inverse is None:
            return [scale * part for scale, part in zip(self.scale, sums, strict=True)]
        return list(np.einsum("lcd,dlw->clw", self.inverse[:, 0], np.stack(sums)))

    def solve_rows(
        self, trees: Sequence[Tree], rows: Float64[np.ndarray, "outputs n"]
    ) -> Float64[np.ndarray, "outputs n"]:
        """The same for one vector a row, with the system of its own leaf."""
        if self.inverse is None:
            return np.stack([self.scale[c][tree.leaf, 0] * rows[c] for c, tree in enumerate(trees)])
        return np.einsum("ncd,dn->cn", self.inverse[trees[0].leaf, 0], rows)


def newton(
    loss: Loss,
    f: Float64[np.ndarray, "outputs n worlds"],
    y: Float64[np.ndarray, " n"],
    weight: Float64[np.ndarray, " n"],
    trees: Sequence[Tree],
    l2: Sequence[Float64[np.ndarray, " _"]],
    dropped: Int64[np.ndarray, " worlds"] | None = None,
    clip: float = np.inf,
) -> Step:
    """The step at predictions f, of at most `clip`; in world b the weight of row `dropped[b]` is 0."""
    g, h = loss.both(f, y)
    sums = [_sums(tree, weight, g[c], dropped) for c, tree in enumerate(trees)]
    if isinstance(loss, CoupledSoftmax):
        return _coupled(loss, f, weight, trees[0], l2[0], sums, dropped)
    scale = [_inverted(_sums(tree, weight, h[c], dropped) + l2[c][:, None]) for c, tree in enumerate(trees)]
    delta = [-part * by for part, by in zip(sums, scale, strict=True)]
    free = [np.abs(part) <= clip for part in delta]
    return Step([part.clip(-clip, clip) for part in delta], [by * one for by, one in zip(scale, free, strict=True)])


def _sums(tree: Tree, weight: Array, rows: Array, dropped: Array | None) -> Array:
    found = tree.weighted(weight, rows)
    if dropped is not None:
        worlds = np.arange(len(dropped))
        found[tree.leaf[dropped], worlds] -= weight[dropped] * rows[dropped, worlds]
    return found


def _inverted(total: Array) -> Array:
    """1 / total, and 0 for a leaf without curvature (no rows, or none but the one left out)."""
    return np.divide(1.0, total, out=np.zeros_like(total), where=np.abs(total) > 1e-12)


def _coupled(
    loss: CoupledSoftmax, f: Array, weight: Array, tree: Tree, l2: Array, sums: list[Array], dropped: Array | None
) -> Step:
    outputs, _, worlds = f.shape
    matrix = np.zeros((tree.size, worlds, outputs, outputs))
    for c in range(outputs):
        unit = np.zeros((outputs, 1, 1))
        unit[c] = 1
        column = loss.times(f, unit)
        for d in range(outputs):
            matrix[:, :, d, c] = _sums(tree, weight, column[d], dropped)
    matrix += l2[:, None, None, None] * np.eye(outputs)
    inverse = np.linalg.pinv(matrix, hermitian=True)
    delta = list(-np.einsum("lwcd,dlw->clw", inverse, np.stack(sums)))
    return Step(delta, [], inverse)


# -- the whole run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Replay:
    """The run of the training rows. `steps[r]` are the Newton steps of round r, in one world."""

    read: Read
    start: Float64[np.ndarray, " outputs"]
    eta: float
    l2: Sequence[Sequence[Float64[np.ndarray, " _"]]]
    steps: Sequence[Sequence[Step]]
    clip: float
    error: float

    @property
    def loss(self) -> Loss:
        """The loss that the run lowered."""
        return self.read.ensemble.loss

    @property
    def rounds(self) -> int:
        """How many there are."""
        return len(self.steps)

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to tell."""
        return (
            f"{self.read.ensemble.library}: eta {self.eta:g}; replayed leaf values differ from the model's by at most "
            f"{self.error:.1e} of the largest.",
        )

    def added(self, r: int) -> list[Float64[np.ndarray, " _"]]:
        """What the leaves of a round add to each output: eta v."""
        return [self.eta * np.sum([step.delta[c][:, 0] for step in self.steps[r]], 0) for c in range(len(self.start))]

    def trees(self, r: int, read: Read | None = None) -> list[Tree]:
        """A round's trees with the training rows' leaves, or other rows'."""
        read = read or self.read
        return [Tree(read.leaf(r, c), int(read.ensemble.sizes[r, c])) for c in range(len(self.start))]

    def walk(self, read: Read) -> Iterator[tuple[int, Float64[np.ndarray, "outputs n"]]]:
        """Each round with the rows' predictions before it."""
        f = np.repeat(self.start[:, None], len(read), 1)
        for r in range(self.rounds):
            yield r, f
            f = f + np.stack([part[read.leaf(r, c)] for c, part in enumerate(self.added(r))])

    def final(self, read: Read) -> Float64[np.ndarray, "outputs n"]:
        """The rows' predictions after all rounds."""
        f = np.repeat(self.start[:, None], len(read), 1)
        for r in range(self.rounds):
            f += np.stack([part[read.leaf(r, c)] for c, part in enumerate(self.added(r))])
        return f

    def direct(self, r: int, step: Step, f: Float64[np.ndarray, "outputs n"]) -> Float64[np.ndarray, "outputs n"]:
        """S (g + h v) of each row: how the row pulls on its own leaf in this step."""
        read, loss = self.read, self.loss
        v = np.stack([step.delta[c][tree.leaf, 0] for c, tree in enumerate(self.trees(r))])
        g, h = loss.both(f, read.y)
        return read.weight * (g + (loss.times(f, v) if isinstance(loss, CoupledSoftmax) else h * v))

    def own(self, r: int, f: Float64[np.ndarray, "outputs n"]) -> Float64[np.ndarray, "outputs n"]:
        """dv/dw_i of row i's own leaf, with the predictions f before the round fixed."""
        trees, read = self.trees(r), self.read
        d = np.zeros_like(f)
        for k, step in enumerate(self.steps[r]):
            pull = self.direct(r, step, f)
            if k:  # the step begins at a value that already moved; steps of several outputs are refused
                v = step.delta[0][trees[0].leaf, 0]
                slope = read.weight * self.loss.change(f, read.y, v[None], np.ones_like(f))[0]
                pull = pull + trees[0].sums(slope[:, None])[trees[0].leaf, 0] * d
            d = d - step.solve_rows(trees, pull)
            f = f + np.stack([step.delta[c][tree.leaf, 0] for c, tree in enumerate(trees)])
        return d

    @cached_property
    def offsets(self) -> Int[np.ndarray, "rounds outputs"]:
        """Where each tree's leaves begin among all leaves."""
        sizes = self.read.ensemble.sizes
        return np.concatenate([[0], np.cumsum(sizes.ravel())[:-1]]).reshape(sizes.shape)


def replay(read: Read, method: str) -> Replay:
    """Run the boosting again on its training rows.

    Raises ModelError for a forest, for settings that cannot be replayed, and where the model's leaf values are not those
    that these rows give.
    """
    ensemble = read.ensemble
    boosting = ensemble.boosting
    if boosting is None:
        raise ModelError(
            f"{method} replays gradient boosting, and {ensemble.name} is a forest of independent trees. Choose trex, "
            "tree-similarity or tree-loo."
        )
    if boosting.refused is not None:
        raise ModelError(
            f"{method} replays the training, which the {ensemble.library} setting {boosting.refused} does not allow. "
            "Train without it, or choose trex, tree-similarity or tree-loo."
        )
    start, values = ensemble.start, [[np.asarray(part) for part in round_] for round_ in ensemble.values]
    if boosting.folded:
        start = ensemble.loss.constant(read.y, read.weight, ensemble.outputs)
        values[0] = [part - start[c] for c, part in enumerate(values[0])]
    eta, l2 = _rates(read, boosting, start, values)
    return _run(read, start, values, eta, l2, boosting)


def _run(read: Read, start: Array, values: list[list[Array]], eta: float, l2: float, boosting: Boosting) -> Replay:
    ensemble, worst, all_steps, all_l2 = read.ensemble, 0.0, list[list[Step]](), list[list[Array]]()
    largest = max(float(np.abs(part).max()) for round_ in values for part in round_) or 1.0
    f = np.repeat(start[:, None], len(read), 1)[:, :, None]
    for r, round_ in enumerate(values):
        trees = [Tree(read.leaf(r, c), len(part)) for c, part in enumerate(round_)]
        ridge = [np.full(len(part), l2) for part in round_]
        if ensemble.extra_l2 is not None and any(part.any() for part in ensemble.extra_l2[r]):
            ridge = _enlarged(newton(ensemble.loss, f, read.y, read.weight, trees, ridge), ensemble.extra_l2[r], ridge,
                              [part / eta for part in round_])  # fmt: skip
        made, v = list[Step](), [np.zeros(len(part)) for part in round_]
        for _ in range(boosting.steps):
            at = f + np.stack([part[tree.leaf] for part, tree in zip(v, trees, strict=True)])[:, :, None]
            made.append(newton(ensemble.loss, at, read.y, read.weight, trees, ridge, clip=boosting.clip))
            v = [part + made[-1].delta[c][:, 0] for c, part in enumerate(v)]
        for part, tree, model in zip(v, trees, round_, strict=True):
            reached = np.bincount(tree.leaf, minlength=tree.size) > 0
            worst = max(worst, float(np.abs(eta * part - model)[reached].max(initial=0.0)) / largest)
        f = f + eta * np.stack([part[tree.leaf] for part, tree in zip(v, trees, strict=True)])[:, :, None]
        all_steps.append(made)
        all_l2.append(ridge)
    if not worst <= REPLAY:
        raise ModelError(
            f"The leaf values of this {ensemble.library} model are not those that the training rows give: they differ by "
            f"{worst:.1e} of the largest, and {REPLAY:.0e} was allowed. Give the rows, labels and sample weights that it "
            "was trained on; a model trained with row sampling, L1, monotone constraints, a clipped or smoothed leaf or "
            "its own objective cannot be replayed (trex and tree-similarity take it)."
        )
    return Replay(read, start, eta, all_l2, all_steps, boosting.clip, worst)


def _enlarged(step: Step, extra: Sequence[Array], l2: list[Array], values: list[Array]) -> list[Array]:
    """l2 by leaf: with the extra where the model's value is nearer to the value that it gives."""
    found = list[Array]()
    for delta, scale, more, base, value in zip(step.delta, step.scale, extra, l2, values, strict=True):
        plain = delta[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            enlarged = plain / (1 + np.nan_to_num(more * scale[:, 0], nan=np.inf))
        nearer = np.isinf(more) | ((more > 0) & (np.abs(enlarged - value) < np.abs(plain - value)))
        found.append(np.where(nearer, base + more, base))
    return found


def _rates(read: Read, boosting: Boosting, start: Array, values: list[list[Array]]) -> tuple[float, float]:
    """Learning rate and l2: as the model says, or from m (Hs + l2) = -eta G over all leaves, m the model's values."""
    if boosting.eta is not None and boosting.l2 is not None:
        return boosting.eta, boosting.l2 * (float(read.weight.mean()) if boosting.l2_by_weight else 1.0)
    loss, f, rows, right = read.ensemble.loss, np.repeat(start[:, None], len(read), 1), list[Array](), list[Array]()
    largest = (1 - 1e-5) * max(float(np.abs(part).max()) for round_ in values for part in round_)
    for r, round_ in enumerate(values):
        g, h = loss.gradient(f, read.y) * read.weight, loss.curvature(f, read.y) * read.weight
        for c, m in enumerate(round_):
            G, H = (np.bincount(read.leaf(r, c), part[c], len(m)) for part in (g, h))
            free = np.abs(m) < largest if np.isfinite(boosting.clip) else np.ones(len(m), bool)
            rows.append(np.stack([G, m], 1)[free])
            right.append((-m * H)[free])
        f = f + np.stack([m[read.leaf(r, c)] for c, m in enumerate(round_)])
    eta, l2 = (float(x) for x in np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0])
    return _rounded(eta), max(0.0, _rounded(l2))


def _rounded(x: float) -> float:
    """A number with few digits if it is as near as the leaves can tell."""
    short = round(x, 3)
    return short if abs(short - x) <= 1e-4 * max(abs(x), 0.01) else x
