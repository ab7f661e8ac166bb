"""The public verbs: attribute, value, build, open. Each takes what the user has and returns a result type."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from assay.compress import Factored, Identity
from assay.errors import InputError, MethodError
from assay.examples import read
from assay.grain import Parts
from assay.index.build import append_checkpoints, append_rows, build_index, check_measurement, model_facts, refuse_other
from assay.index.format import Dtype
from assay.index.reader import StoredIndex, open_index
from assay.methods import Fitted, Method, Registered, ValueMethod, find
from assay.methods.gradient.base import GradientMethod, with_checkpoints, without_checkpoints
from assay.methods.gradient.indexed import Indexed, check_model
from assay.methods.gradient.parts import folds_of, take_apart
from assay.methods.two_stage import parse_prefilter, two_stage
from assay.models import Model, load
from assay.scores import Scores
from assay.training import Recipe
from assay.values import Values

CURRENT = "current"
"""Name of the only checkpoint of a model that has none."""
DENSE_PAIRS = 2**27
"""Pairs of example and query above which scores are kept as the best at both ends (512 MiB of float32)."""
TOP = 100
"""How many are kept of each end then."""
MOST_PAIRS = 10_000
"""Scores taken apart at once."""


def attribute(
    model: Any,
    train: Any,
    queries: Any,
    method: str | Registered = "gradcos",
    *,
    top: int | None = None,
    tokens: int | None = None,
    prefilter: str | None = None,
) -> Scores:
    """Scores of every training example for every query; higher = more helpful.

    Args:
        model: from `load`, a `Model`, a `Run` or a `Recipe` (which is trained first), or what the method takes (lexical
            methods take None).
        train, queries: anything that `read` takes.
        method: a name, or a method with its hyper-parameters.
        top: keep only so many at both ends of each query. By default everything is kept, up to 2^27 pairs of example
            and query; beyond, the best and worst 100.
        tokens: take apart the scores of so many pairs at both ends of each query, by token and module (`scores.parts`);
            gradient methods without compression.
        prefilter: `bm25:N`, `tfidf:N`, `embedding:N` or `factored:RANK:N`: a cheap method finds the N best of each query,
            and only those and a random slice get exact scores; the recall on the slice is in the notes.

    Raises:
        InputError: of one kind or another, see `assay.errors`.
    """
    chosen = _attribution(method)
    cheap = None if prefilter is None else parse_prefilter(prefilter)
    train, queries = read(train), read(queries)
    fitted = chosen.fit(model, train)
    by = None if tokens is None else folds_of(fitted)
    kept = _kept(len(train), len(queries), top)
    scores = fitted.score(queries, kept) if cheap is None else two_stage(fitted, cheap, model, train, queries, top)
    if tokens is None or by is None:
        return scores
    return scores.with_parts(take_apart(fitted, train, queries, scores.pairs(tokens), by))


def parts(
    model: Any,
    train: Any,
    queries: Any,
    method: str | Registered = "gradcos",
    *,
    by: str | Sequence[str] = "loss-token",
    of: Scores | None = None,
    top: int = 3,
) -> Parts:
    """Scores taken apart: which tokens, sentences, modules, layers carry them. Each fold sums to the pair's score.

    Args:
        model: as in `attribute`; or a fitted method (`method.fit(model, train)`), whose curvature is then used.
        train, queries: anything that `read` takes.
        method: a gradient method without compression; not read if a fitted one is given.
        by: one or more of `"loss-token"`, `"position"`, `"query-token"`, `"sentence"`, `"module"`, `"layer"`.
        of: scores of these examples and queries, of which the `top` at both ends of each query are taken apart; by default
            every pair, at most 10,000 of them.

    Raises:
        MethodError: the method compares compressed features, or the task has no such parts. InputError: other examples.
    """
    train, queries = read(train), read(queries)
    folds = (by,) if isinstance(by, str) else tuple(by)
    fitted = model if isinstance(model, Fitted) else _attribution(method).fit(model, train)
    if of is None:
        pairs = [(i, q) for q in range(len(queries)) for i in range(len(train))]
        if len(pairs) > MOST_PAIRS:
            raise InputError(
                f"Parts of {len(pairs):,} scores were asked for; at most {MOST_PAIRS:,} were expected. Give the scores "
                "(of=scores) to take apart the top of each query only."
            )
    else:
        if list(of.query_ids) != list(queries.ids) or of.train.total != len(train):
            raise InputError("The scores given as of= are of other examples or queries; give those that they are of.")
        pairs = of.pairs(top)
    return take_apart(fitted, train, queries, pairs, folds)


def value(model: Any, train: Any, on: Any = None, method: str | Registered = "self-influence") -> Values:
    """What each training example is worth: by a value method, or the mean of an attribution's scores for `on`.

    Raises MethodError if an attribution method is given no `on`.
    """
    chosen = find(method)
    train = read(train)
    valid = None if on is None else read(on)
    if isinstance(chosen, ValueMethod):
        return chosen.value(model, train, valid)
    if not isinstance(chosen, Method) or valid is None:
        raise MethodError(
            f"The method '{chosen.name}' values examples for others: give on= (--on), the examples that should be "
            "predicted well; or use self-influence."
        )
    return chosen.fit(model, train).value(valid)


def build(
    model: Any,
    train: Any,
    path: str | os.PathLike[str],
    *,
    method: str | GradientMethod | None = None,
    compression: str | None = None,
    dtype: Dtype = "float32",
    append: Literal["examples", "checkpoints"] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Indexed:
    """Build an index of the training examples' features, to be asked many times.

    A build that was interrupted resumes when it is called again in the same way; one that is complete is opened.

    Args:
        model: its checkpoints are stored if the method uses them. Or a `Run`, or a `Recipe`, which is trained first.
        train: anything that `read` takes.
        path: a new directory, or that of the interrupted build.
        method: whose features are stored; any method of the same measurement can be asked later. By default gradcos;
            when appending, that of the index.
        compression: `factored:RANK` (16 by default) or `sjlt:DIM`; by default the method's own, if it has one.
        dtype: float32, bfloat16 or int8; appending keeps that of the index.
        append: add `"examples"`, or the model's further `"checkpoints"`, to a finished index.
        origin: how to load the model again, noted in the index (the command line does).

    Raises:
        IndexMismatch: another index is there. DataError, NonFiniteError, StorageError.
    """
    appended = method is None and append is not None
    chosen = _as_built(open_index(path)) if appended else _gradient(method or "gradcos")
    if compression is not None or isinstance(chosen.compressor(), Identity):
        chosen = replace(chosen, compression=compression or str(Factored()))
    examples = read(train)
    model = chosen.staged(model.train(examples) if isinstance(model, Recipe) else model)
    settings = {
        name: value for name, value in chosen.parameters().items() if name not in ("compression", "seed", "measure")
    }
    noted = {**(origin or {}), "train": examples.origin, "method": chosen.name, "parameters": settings}
    add = {"examples": append_rows, "checkpoints": append_checkpoints, None: build_index}[append]
    return Indexed(add(model, examples, path, chosen.contents(dtype, noted)), model, chosen)


class Opened:
    """An index on disk and the model it was built with; made by `assay.open`."""

    def __init__(self, index: StoredIndex, model: Model) -> None:
        self.index, self.model = index, model

    def __len__(self) -> int:
        return len(self.index)

    def attribute(self, queries: Any, method: str | GradientMethod | None = None, *, top: int | None = None) -> Scores:
        """Scores of the indexed examples for these queries, by the method it was built for or another one.

        Raises MethodError or InputError if the index holds other gradients than the method needs.
        """
        chosen = _as_built(self.index, method)
        chosen.check_model(self.model)
        check_measurement(self.index, chosen.train_measurement(), chosen.name)
        check_model(self.index, self.model, chosen)
        queries = read(queries)
        return Indexed(self.index, self.model, chosen).score(queries, _kept(len(self.index), len(queries), top))


def open(path: str | os.PathLike[str], model: Model | None = None) -> Opened:
    """Open an index. Its model is loaded from where the index says, unless it is given.

    Raises IndexMismatch if the model is another one, CorruptIndex for a damaged index.
    """
    index = open_index(path)
    if model is None:
        origin = index.header["origin"]
        if "model" not in origin:
            raise InputError(
                f"The index '{path}' was built from Python with a model that it does not know how to load. Give it: "
                "assay.open(path, model)."
            )
        model = load_origin(origin)
    names = [stage["name"] for stage in index.header["checkpoints"]]
    if names == [CURRENT]:
        model = without_checkpoints(model)
    elif names == [stage.name for stage in model.checkpoints[-1:]]:
        model = with_checkpoints(model, model.checkpoints[-1:])
    refuse_other(index, model_facts(model))
    return Opened(index, model)


def load_origin(origin: Mapping[str, Any]) -> Model:
    """The model as the command line loaded it when the index was built."""
    return load(
        origin["model"],
        modules=origin.get("modules") or None,
        max_length=origin.get("max_length"),
        long=origin.get("long") or "cut",
        dtype=getattr(torch, origin["dtype"]) if origin.get("dtype") else None,
        checkpoints=[(path, rate) for path, rate in origin.get("checkpoints", [])],
    )


def _attribution(method: str | Registered) -> Method:
    chosen = find(method)
    if not isinstance(chosen, Method):
        raise MethodError(f"'{chosen.name}' gives values, not scores for queries. Use assay.value (assay value).")
    return chosen


def _gradient(method: str | Registered) -> GradientMethod:
    chosen = find(method)
    if not isinstance(chosen, GradientMethod):
        raise MethodError(f"'{chosen.name}' has no gradients to index; use assay.attribute, or a gradient method.")
    return chosen


def _as_built(index: StoredIndex, method: str | GradientMethod | None = None) -> GradientMethod:
    """The method as it was when the index was built, or another one, with the compression of the index.

    A method by name takes the loss of training examples that the index holds.
    """
    header, origin = index.header, index.header["origin"]
    name = origin.get("method", "gradcos")
    if isinstance(method, GradientMethod):
        chosen = method
    elif method in (None, name):
        chosen = _gradient(find(name, **origin.get("parameters", {})))
    else:
        chosen = replace(_gradient(method or name), train_loss=header["measurement"]["reduction"])
    return replace(chosen, compression=header["compression"], seed=header["seed"])


def _kept(rows: int, queries: int, top: int | None) -> int | None:
    """`top`, or what is kept by default."""
    if top is not None and top < 1:
        raise MethodError(f"top is {top}; at least 1 was expected.")
    return top if top is not None or rows * queries <= DENSE_PAIRS else TOP
