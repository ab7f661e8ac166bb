"""A booster in NumPy with fixed splits and row weights: one loop a round, nothing shared with the package but its types."""

from dataclasses import replace
from typing import Any

import numpy as np

import assay
from assay.methods.trees.ensemble import Boosting, Ensemble, Read, Source
from assay.methods.trees.leaves import Replay, replay
from assay.methods.trees.losses import CoupledSoftmax, Logistic, Loss, Poisson, Softmax, Squared

LOSSES: dict[str, Loss] = {
    "squared": Squared(), "logistic": Logistic(), "poisson": Poisson(scale=2.0), "softmax": Softmax(scale=2.0),
    "coupled": CoupledSoftmax(), "unit": Logistic(unit=True), "steps": Logistic(),
}  # fmt: skip
ETA, L2, ROUNDS, LEAVES = 0.3, 0.7, 6, 4


def outputs_of(name: str) -> int:
    return 3 if name in ("softmax", "coupled") else 1


def labels(name: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if name == "squared":
        return rng.normal(size=n)
    if name == "poisson":
        return rng.poisson(1.5, n).astype(float)
    return rng.integers(0, 3 if outputs_of(name) == 3 else 2, n).astype(float)


def derivatives(name: str, f: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g [n, C] and the curvature in the leaves [n, C, C], written out by hand."""
    if name == "squared":
        return f - y[:, None], np.ones((len(y), 1, 1))
    if name == "poisson":
        return np.exp(f) - y[:, None], 2 * np.exp(f)[:, :, None]
    if outputs_of(name) == 1:
        p = 1 / (1 + np.exp(-f))
        return p - y[:, None], (np.ones_like(p) if name == "unit" else p * (1 - p))[:, :, None]
    p = np.exp(f) / np.exp(f).sum(1, keepdims=True)
    whole = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    return p - np.eye(3)[y.astype(int)], whole if name == "coupled" else np.stack(
        [np.diag(2 * row * (1 - row)) for row in p]
    )


def loss_of(name: str, f: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n]."""
    if name == "squared":
        return (f[:, 0] - y) ** 2 / 2
    if name == "poisson":
        return np.exp(f[:, 0]) - y * f[:, 0]
    if outputs_of(name) == 1:
        return np.log(1 + np.exp(f[:, 0])) - y * f[:, 0]
    return np.log(np.exp(f).sum(1)) - f[np.arange(len(y)), y.astype(int)]


def boost(name: str, leaves: np.ndarray, y: np.ndarray, weight: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
    """Values [leaves, C] (eta included) of each round, for leaves [n, rounds, C]."""
    f, rounds = np.repeat(start[None], len(y), 0), []
    for r in range(leaves.shape[1]):
        v = np.zeros((LEAVES, len(start)))
        for _ in range(3 if name == "steps" else 1):
            at = f + np.stack([v[leaves[:, r, c], c] for c in range(len(start))], 1)
            g, h = derivatives(name, at, y)
            change = np.zeros_like(v)
            for leaf in range(LEAVES):
                if name == "coupled":
                    rows = leaves[:, r, 0] == leaf
                    G, H = (weight[rows, None] * g[rows]).sum(0), (weight[rows, None, None] * h[rows]).sum(0)
                    change[leaf] = -np.linalg.solve(H + L2 * np.eye(3), G)
                    continue
                for c in range(len(start)):
                    rows = leaves[:, r, c] == leaf
                    G, H = (weight[rows] * g[rows, c]).sum(), (weight[rows] * h[rows, c, c]).sum()
                    change[leaf, c] = -G / (H + L2)
            v = v + change
        rounds.append(ETA * v)
        f = f + ETA * np.stack([v[leaves[:, r, c], c] for c in range(len(start))], 1)
    return rounds


def predict(rounds: list[np.ndarray], leaves: np.ndarray, start: np.ndarray) -> np.ndarray:
    """[n, C]."""
    return start + sum(
        np.stack([v[leaves[:, r, c], c] for c in range(len(start))], 1) for r, v in enumerate(rounds)
    )  # fmt: skip


class Fixed(Source):
    """Rows hold their leaves as features."""

    def __init__(self, rounds: list[np.ndarray], start: np.ndarray) -> None:
        self.rounds, self.start = rounds, start

    def columns(self, X: Any) -> Any:
        return np.asarray(X).astype(int).reshape(len(X), len(self.rounds), -1)

    def leaves(self, prepared: Any) -> Any:
        return prepared

    def output(self, prepared: Any) -> Any:
        return predict(self.rounds, prepared, self.start)


class Toy:
    """A trained toy, its rows and some queries."""

    def __init__(self, name: str, n: int = 40, rounds: int = ROUNDS, seed: int = 0, weighted: bool = True) -> None:
        rng = np.random.default_rng(seed)
        C = outputs_of(name)
        self.name, self.y, self.yq = name, labels(name, n, rng), labels(name, 5, rng)
        self.weight = rng.uniform(0.5, 2, n) if weighted else np.ones(n)
        self.leaves, self.leavesq = (rng.integers(0, LEAVES, (m, rounds, C)) for m in (n, 5))
        if name == "coupled":
            self.leaves[:], self.leavesq[:] = self.leaves[:, :, :1], self.leavesq[:, :, :1]
        self.start = rng.normal(size=C) / 3
        self.rounds = boost(name, self.leaves, self.y, self.weight, self.start)

    def losses(self, weight: np.ndarray) -> np.ndarray:
        """The queries' losses after training with these weights."""
        rounds = boost(self.name, self.leaves, self.y, weight, self.start)
        return loss_of(self.name, predict(rounds, self.leavesq, self.start), self.yq)

    @property
    def ensemble(self) -> Ensemble:
        C = len(self.start)
        return Ensemble(
            library="toy", name="toy", source=Fixed(self.rounds, self.start),
            values=[[v[:, c] for c in range(C)] for v in self.rounds], start=self.start, loss=LOSSES[self.name],
            classes=None, boosting=Boosting(ETA, L2, steps=3 if self.name == "steps" else 1),
        )  # fmt: skip

    def train(self) -> tuple[Any, ...]:
        return self.leaves.reshape(len(self.y), -1), self.y, self.weight

    def queries(self) -> tuple[Any, ...]:
        return self.leavesq.reshape(len(self.yq), -1), self.yq

    def scores(self, method: Any) -> np.ndarray:
        """In float64, [n, queries]."""
        if isinstance(method, str):
            method = assay.methods.find(method)
        ensemble = self.ensemble
        train, queries = (ensemble.read(assay.read(part), "rows") for part in (self.train(), self.queries()))
        scorer, _ = method.prepare(train)
        return scorer(queries)

    def replay(self) -> Replay:
        return replay(self.read(), "toy")

    def read(self) -> Read:
        return self.ensemble.read(assay.read(self.train()), "rows")

    def unscored(self) -> "Toy":
        """The same with row 3 without weight."""
        other = Toy.__new__(Toy)
        vars(other).update(vars(self))
        other.weight = self.weight.copy()
        other.weight[3] = 0
        other.rounds = boost(self.name, self.leaves, self.y, other.weight, self.start)
        return other


def without_values(toy: Toy) -> Ensemble:
    """An ensemble whose leaves are not what the rows give."""
    return replace(toy.ensemble, values=[[leaf * 1.1 for leaf in round_] for round_ in toy.ensemble.values])
