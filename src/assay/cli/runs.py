"""Saved runs that are evaluated together, with the model and the data that they were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click

from assay import load, read
from assay.api import load_origin
from assay.cli.options import MODEL, Decorator, silence_libraries
from assay.errors import InputError, ModelError
from assay.evaluate.metrics.comparison import by_method
from assay.examples import Examples
from assay.models import Model
from assay.runs import load_run
from assay.scores import Scores

processes_option: Decorator[Any] = click.option(
    "--processes", type=click.IntRange(min=1), default=2, show_default=True, metavar="N", panel=MODEL,
    help="Trainings at a time.",
)  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """Results and where they lie, by method (numbered where one occurs again)."""

    scores: Mapping[str, Scores]
    paths: Mapping[str, Path]

    @classmethod
    def open(cls, places: Sequence[Path]) -> "Runs":
        """Raises InputError for what is no run of scores."""
        found = [load_run(place) for place in places]
        for place, result in zip(places, found, strict=True):
            if not isinstance(result, Scores):
                raise InputError(f"{place} holds values; runs of scores are evaluated here.")
        named = by_method([result for result in found if isinstance(result, Scores)])
        return cls(named, dict(zip(named, places, strict=True)))

    def load(
        self, model: str | None, train: str | None, queries: str | None
    ) -> tuple[Examples, Examples, Model | None]:
        """Training examples, queries and model as the runs note them; what is given goes first.

        Raises InputError if a run does not say, or if what is there is not what was scored.
        """
        examples = self._data("train", "limit", train)
        asked = self._data("queries", "limit_queries", queries)
        for name, result in self.scores.items():
            made = result.provenance
            for what, was, data in (("training examples", made.train_fingerprint, examples),
                                    ("queries", made.query_fingerprint, asked)):  # fmt: skip
                if was is not None and was != data.fingerprint():
                    raise InputError(
                        f"The {what} in {data.origin} are not those that the run {self.paths[name]} scored. Give the same "
                        "files (--train, --queries), or attribute again."
                    )
        return examples, asked, self._model(model)

    def initial(self, place: Path | None, trained: Model | None) -> Model:
        """Where training starts: the directory of the recipe, or else the runs' own model."""
        if place is not None:
            return load(place)
        if trained is None:
            raise InputError('The runs have no model to train; name one with --model, or as "model" in the recipe.')
        return trained

    def _data(self, name: str, limit: str, given: str | None) -> Examples:
        origins = [result.provenance.origin for result in self.scores.values()]
        known = next((origin for origin in origins if origin.get(name)), None)
        if given is None and known is None:
            raise InputError(f"The runs do not say where their {name} lie; name the file with --{name}.")
        columns = dict((known or {}).get("columns", {}))
        named = {("source_column" if key == "source_field" else key.removesuffix("_field")): value
                 for key, value in columns.items()}  # fmt: skip
        return read(given or (known or {})[name], limit=(known or {}).get(limit), **named)

    def _model(self, given: str | None) -> Model | None:
        silence_libraries()
        notes = [(name, result.provenance.origin.get("model")) for name, result in self.scores.items()]
        known = next(((name, origin) for name, origin in notes if origin), None)
        if given is None and known is None:
            if any(result.provenance.model_fingerprint for result in self.scores.values()):
                raise InputError("The runs do not say where their model lies; name its directory with --model.")
            return None
        model = load(given) if given is not None else load_origin((known or ("", {}))[1])
        prints = {result.provenance.model_fingerprint for result in self.scores.values()} - {None}
        if prints and model.fingerprint() not in prints:
            raise ModelError(
                f"The model {model.name} is not the one that the runs were made with: its weights, modules or checkpoints "
                "differ. Give that model with --model, or attribute again."
            )
        return model
