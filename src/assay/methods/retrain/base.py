"""What all methods have in common that train again: utility, players, workers, cache, and the result."""

from abc import abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from assay.errors import DataError
from assay.examples import Examples
from assay.methods.base import ValueMethod, option
from assay.methods.retrain.cache import Cache
from assay.methods.retrain.estimate import Estimate
from assay.methods.retrain.game import Game
from assay.methods.retrain.groups import Players, players_of
from assay.methods.retrain.pool import Counts, Runner
from assay.methods.retrain.scoring import Scorer, Scoring, name_of
from assay.methods.retrain.utilities import utility_of
from assay.progress import say
from assay.provenance import Provenance, measured
from assay.values import Values


@dataclass(frozen=True)
class Session:
    """One call of `value`: what was given, and what it has cost so far."""

    method: "Retraining"
    model: Any
    train: Examples
    on: Examples | None
    players: Players
    counts: Counts = field(default_factory=Counts)
    told: list[str] = field(default_factory=list[str])

    @contextmanager
    def runner(self, seed: int = 0, scoring: Scoring | None = None) -> Generator[Runner]:
        """Evaluates coalitions; `seed` is added to that of the model."""
        chosen = self.method.scoring if scoring is None else scoring
        utility = utility_of(self.model, self.train, self.on, chosen, seed)
        cache = Cache(self.method.cache, utility.fingerprint()) if self.method.cache else Cache(None, "")
        if cache.found:
            say(f"{cache.found:,} utilities found in the cache.")
        with Runner(Game(utility, self.players.member), cache, self.method.processes) as runner:
            yield runner
            for name in ("looked_at", "known", "failed"):
                setattr(self.counts, name, getattr(self.counts, name) + getattr(runner.counts, name))
            self.told[:] = utility.notes


@dataclass(frozen=True)
class Retraining(ValueMethod):
    """A method whose values come from the utilities of subsets."""

    family: ClassVar[str] = "retrain"
    unit: ClassVar[str] = "arbitrary"

    scoring: str | Scorer = option(  # noqa: RUF009 - a field
        "auto", "what a model is worth: any scikit-learn scorer's name; auto is accuracy for classifiers, the negated "
        "mean squared error for regressors, and the negated loss for a recipe"
    )  # fmt: skip
    by: str | tuple[str, ...] = option("example", "what gets a value: example, source, label or cluster:K")
    processes: int = option(1, "processes that train; 0 is one a core")
    cache: str | None = option(None, "a directory that keeps every utility, from which a run that was killed goes on")
    seed: int = option(0, "of the samples, and of estimators that draw random numbers")

    def check(self) -> None:
        """Numbers out of range."""
        self.expect(self.processes >= 0, "processes", "0 or more")
        self.expect(self.seed >= 0, "seed", "0 or more")

    def parameters(self) -> dict[str, Any]:
        """Every hyper-parameter as a JSON value; functions by their names."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {name: str(value) for name, value in shown.items() if hasattr(value, "__or__") and callable(value)}
        named = {"scoring": self.scoring if isinstance(self.scoring, str) else name_of(self.scoring)}
        return {name: _shown(value) for name, value in {**shown, **plain, **named}.items()}

    @abstractmethod
    def estimate(self, session: Session) -> Estimate:
        """The players' values."""

    def value(self, model: Any, train: Examples, on: Examples | None = None) -> Values:
        """Values of the training examples, or of their groups, for the examples `on`.

        Raises MethodError for a model that cannot be trained again, or without `on`; DataError for data without targets.
        """
        with measured() as cost:
            if len(train) < 2:
                raise DataError(f"{train.origin} holds {len(train)} example; at least two were expected.")
            players = players_of(self.by, train, self.seed)
            session = Session(self, model, train, on, players)
            found = self.estimate(session)
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.unit,
            inputs={"estimator": _called(model), "train": train.origin} | ({} if on is None else {"on": on.origin}),
            train_fingerprint=train.fingerprint(),
            query_fingerprint=None if on is None else on.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*found.notes, *session.told, *_cost(session.counts)),
        )
        raw: dict[str, np.ndarray] = {}
        if found.variance is not None:
            raw["variance"] = np.where(np.isfinite(found.variance), found.variance, np.nan)
        if found.counts is not None:
            raw["samples"] = found.counts
        stderr = found.stderr
        return Values.of(found.values, players.table, provenance, stderr, raw)


def _shown(value: Any) -> Any:
    return cast(Any, value) if value is None or isinstance(value, bool | int | float | str | tuple) else str(value)


def _called(model: Any) -> str:
    """What the model is called."""
    return model if isinstance(model, str) else type(getattr(model, "estimator", model)).__name__


def _cost(counts: Counts) -> tuple[str, ...]:
    told = [f"{counts.looked_at:,} utilities, of which {counts.known:,} out of the cache."]
    if counts.failed:
        told.append(f"{counts.failed:,} small subsets could not be fitted and are worth what their prior is worth.")
    return tuple(told)
