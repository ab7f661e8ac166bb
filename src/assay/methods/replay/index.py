"""Replay index: exact replay of a basis of query gradients, kept, so that new queries cost an inner product.

    score(i, q) = -< F_i, D g_q >,      D: orthonormal directions of a sample's gradients [r, params]      (`basis`)
                                        F: the replay of D [n, r]

Ours, after Ilyas & Engstrom 2025 (2504.16430): replay is linear in the gradient that it starts from. Cost: one replay of
r + `HELD_OUT` queries; then one gradient a query. Assumes that new queries' gradients lie in the span of the sample's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import safetensors.torch as safetensors
import torch
from jaxtyping import Float, Float64
from safetensors import SafetensorError
from torch import Tensor

from assay.errors import InputError, MethodError
from assay.examples import Examples
from assay.methods.base import Fitted, option
from assay.methods.replay.basis import captured, correlation, principal, unit
from assay.methods.replay.end import End
from assay.methods.replay.engine import differentiate
from assay.methods.replay.recording import check_recipe, recorded
from assay.methods.replay.replay import Replay
from assay.methods.replay.tape import GIB, Tape
from assay.provenance import Provenance, measured
from assay.ranking import TopK
from assay.results import read_table, write_table
from assay.run_directory import FORMAT, VERSION, corrupt, open_run, write_run
from assay.scores import Scores
from assay.tables import Table
from assay.tasks import Choosable, label_of
from assay.training import Encoded, Recipe

HELD_OUT = 4
"""Queries of the sample that are kept out of the basis and replayed beside it, to tell how good answers are."""
KIND, FILE, STREAM = "replay-index", "features.safetensors", 0x1DE


@dataclass(frozen=True)
class ReplayIndex(Replay):
    """Replays a basis once and answers queries by inner products."""

    name: ClassVar[str] = "replay-index"
    summary: ClassVar[str] = "replay of a basis of query gradients, kept; a new query costs an inner product"
    paper: ClassVar[str] = "ours, after Ilyas & Engstrom 2025 (2504.16430)"

    rank: int = option(32, "directions that are replayed and kept, numbers a training example")
    sample: int = option(128, "training examples that stand for queries, if no sample of queries is given")
    basis: str = option(
        "unit", "principal directions of the sample's gradients, each of length one (unit) or as they are (plain)",
        ("unit", "plain"),
    )  # fmt: skip

    def check(self) -> None:
        """Also a rank and a sample."""
        super().check()
        self.expect(self.rank >= 1, "rank", "at least 1")
        self.expect(self.sample >= 2, "sample", "at least 2")

    def fit(self, model: Any, train: Examples, sample: Examples | None = None) -> "Answering":
        """Train, record and replay a basis; `sample` are examples like the queries that will come.

        Without it, `sample` random training examples stand for them.
        """
        recipe = check_recipe(self.name, model)
        recording = recorded(self, recipe, train)
        with measured(recording.seconds) as cost:
            n, seeds = len(train), np.random.default_rng((recipe.seed, STREAM))
            data = recording.tapes[0].steps.data
            asked = _some(data, seeds.permutation(n)[: self.sample]) if sample is None else recipe.encode(sample)
            parts: list[Part] = []
            agreements: list[float] = []
            for tape, folder in zip(recording.tapes, recording.folders, strict=True):
                part, agreement = self._part(tape, asked, folder)
                parts.append(part)
                agreements += agreement
        provenance = Provenance(
            method=self.name,
            parameters=self.parameters(),
            unit=self.score_unit(),
            inputs={"model": recording.model, "recipe": str(recipe), "train": train.origin},
            model_fingerprint=recording.fingerprint,
            train_fingerprint=train.fingerprint(),
            coverage=1.0,
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*self.score_notes(), *recording.told(asked), *_agreement_note(agreements)),
        )
        return Answering(self, recipe, Table.of(train), tuple(parts), provenance)

    def _part(self, tape: Tape, asked: Encoded, folder: Path | None) -> tuple["Part", Sequence[float]]:
        """The index at one centre, and how its answers for held-out queries correlate with their replay."""
        gradients = tape.end.gradients(asked, self.measurement())
        held = HELD_OUT if len(gradients) >= 4 * HELD_OUT else 0
        used, out = gradients[held:], gradients[:held]
        directions = principal(unit(used) if self.basis == "unit" else used, self.rank)
        rank = len(directions)
        tau = differentiate(tape, torch.cat([directions, out]), self.memory * GIB, folder, self.products).T
        part = Part(tape.end, directions, tau[:, :rank].float().contiguous().to(gradients.device))
        return part, correlation(part.answer(part.coordinates(out)), tau[:, rank:]) if held else ()


def _some(data: Encoded, rows: np.ndarray) -> Encoded:
    """Some of the examples, in their order."""
    chosen = np.sort(rows)
    return Encoded(data.examples.select(chosen), data.task, tuple(data.items[int(row)] for row in chosen))


def _agreement_note(correlations: Sequence[float]) -> tuple[str, ...]:
    if not correlations:
        return ()
    return (
        f"For {HELD_OUT} queries of the sample that the basis has not seen, answers correlate with their exact replay by "
        f"{np.mean(correlations):.2f} on average ({min(correlations):.2f} to {max(correlations):.2f}).",
    )


@dataclass(frozen=True)
class Part:
    """The index at one centre: the model there, the directions, and each one's derivative by each weight."""

    end: End
    directions: Float[Tensor, "r params"] = field(repr=False)
    features: Float[Tensor, "n r"] = field(repr=False)

    def coordinates(self, gradients: Float[Tensor, "q params"]) -> Float[Tensor, "q r"]:
        """`D g` of each query."""
        return gradients @ self.directions.T

    def answer(self, coordinates: Float[Tensor, "q r"]) -> Float64[Tensor, "n q"]:
        """The derivative of each query's measurement by each example's weight, as far as the span reaches."""
        return (self.features.double() @ coordinates.double().T).cpu()


@dataclass(frozen=True)
class Answering(Fitted):
    """A replay index: answers queries, can be saved and loaded. `provenance` is that of its making."""

    method: ReplayIndex
    recipe: Recipe = field(repr=False)
    train: Table = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)
    provenance: Provenance = field(repr=False)

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """Scores for each query, of which `top` keeps the best at both ends."""
        measurement = self.method.measurement()
        with measured(self.provenance.seconds) as cost:
            data = self.recipe.encode(queries)
            found: list[Tensor] = []
            inside: list[Tensor] = []
            for part in self.parts:
                gradients = part.end.gradients(data, measurement)
                coordinates = part.coordinates(gradients)
                found.append(part.answer(coordinates))
                inside.append(captured(gradients, coordinates).cpu())
            share = torch.stack(inside).mean(0)
            losses = np.mean([part.end.losses(data) for part in self.parts], axis=0)
            entries = (self.method.sign() * torch.stack(found).mean(0)).float().numpy()
            kept = entries if top is None else TopK.of_columns(iter(entries.T), top)
        provenance = replace(
            self.provenance,
            inputs={**self.provenance.inputs, "queries": queries.origin},
            query_fingerprint=queries.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=(*self.provenance.notes, *_captured_note(share)),
        )
        return Scores.of(kept, self.train, Table.of(queries, loss=losses, captured=share.numpy()), provenance)

    def save(self, directory: str | Path) -> None:
        """Write the index; the directory is complete when its `run.json` is there. Raises StorageError."""
        tensors: dict[str, Tensor] = {}
        for number, part in enumerate(self.parts):
            own = {"params": part.end.params, "directions": part.directions, "features": part.features}
            tensors |= {f"{number}.{name}": tensor.cpu().contiguous() for name, tensor in own.items()}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "kind": KIND,
            "n_train": self.train.total,
            "centres": len(self.parts),
            "recipe": self.recipe.facts(),
            **self.provenance.entries(),
        }
        writers = {FILE: partial(_write, tensors), "train.parquet": partial(write_table, self.train)}
        write_run(directory, manifest, writers)

    @staticmethod
    def load(directory: str | Path, recipe: Recipe, measure: Choosable | None = None) -> "Answering":
        """The index saved in a directory, with the recipe that it was made by, and its measurement if that is a function.

        Raises InputError or MethodError.
        """
        run = open_run(directory)
        if run.kind != KIND:
            raise InputError(f"{directory} holds a run of kind {run.kind!r}; expected '{KIND}'.")
        known, given = run.manifest.get("recipe", {}), recipe.facts()
        if differ := [name for name, value in given.items() if known.get(name) != value]:
            raise MethodError(
                f"The replay index {directory} was made by another recipe; it differs in: {', '.join(differ)}. Give the "
                "recipe that it was made by."
            )
        path = run.path(FILE)
        try:
            tensors: dict[str, Tensor] = cast(Any, safetensors).load_file(path)
            parts = tuple(_part_of(tensors, number, recipe) for number in range(run.count("centres")))
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise corrupt(path, str(error)) from error
        train = read_table(run, "train.parquet", run.count("n_train"))
        about = run.provenance()
        parameters: dict[str, Any] = dict(about.parameters)
        if measure is not None and label_of(measure) == parameters["measure"]:
            parameters["measure"] = measure
        return Answering(ReplayIndex(**parameters), recipe, train, parts, about)


def _part_of(tensors: dict[str, Tensor], number: int, recipe: Recipe) -> Part:
    module = recipe.initial()
    recipe.task.prepare(module)
    device = next(module.parameters()).device
    names = ("params", "directions", "features")
    own = {name: tensors[f"{number}.{name}"].to(device, copy=True) for name in names}
    return Part(End(module, own["params"]), own["directions"], own["features"])


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        cast(Any, safetensors).save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _captured_note(captured: Float64[Tensor, " q"]) -> tuple[str, ...]:
    if not len(captured):
        return ()
    shares = f"{float(captured.mean()):.0%} on average ({float(captured.min()):.0%} to {float(captured.max()):.0%})"
    return (f"Of the queries' gradients the basis captures {shares}; what it misses is not in the scores.",)
