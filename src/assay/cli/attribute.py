"""`assay attribute`: which training examples made the model behave as it does on the queries."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import rich_click as click

import assay
from assay.api import DENSE_PAIRS, TOP
from assay.cli.options import (
    DATA,
    OUTPUT,
    DataOptions,
    ModelOptions,
    absolute,
    check_out,
    count,
    data_options,
    json_option,
    limit_queries,
    model_options,
    out_options,
    top_option,
    train_options,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.cli.render import saved, scores_json, scores_page
from assay.errors import MethodError
from assay.evaluate import one_step_check
from assay.explore import report
from assay.methods import Method
from assay.scores import Scores


@click.command()
@model_options
@train_options
@click.option(
    "--queries", required=True, metavar="FILE", panel=DATA, help="What the model did: examples like the training ones."
)
@limit_queries
@data_options
@click.option(
    "--prefilter",
    metavar="NAME:N",
    panel="Method",
    help="Exact scores only for each query's N best by a cheap method: bm25:N, tfidf:N, embedding:N or factored:RANK:N.",
)
@top_option
@out_options
@click.option(
    "--check",
    type=count,
    metavar="N",
    panel=OUTPUT,
    help="Take a small gradient step on each query's top N, on BM25's and on random examples: which lowers its loss?",
)
@click.option(
    "--tokens",
    type=count,
    metavar="N",
    panel=OUTPUT,
    help="Take apart the scores of each query's top N at both ends: which tokens and layers carry them.",
)
@json_option
@method_options(kinds_of(Method), "gradcos")
def attribute(
    model: ModelOptions,
    train: str,
    limit: int | None,
    queries: str,
    limit_queries: int | None,
    data: DataOptions,
    method: Choice,
    prefilter: str | None,
    top: int,
    out: Path | None,
    with_report: bool,
    check: int | None,
    tokens: int | None,
    as_json: bool,
) -> None:
    """Score every training example for every query.

    MODEL is a directory or hub id; methods that compare words need none. A score above zero: training on the example
    lowered the query's loss.
    """
    chosen = method.method()
    model.check(chosen)
    if check is not None and chosen.family == "trees":
        raise MethodError("--check takes gradient steps, which trees do not have; use --method tree-loo from Python.")
    if check is not None and model.served:
        raise MethodError("--check takes gradient steps of a model, and MODEL is a server; leave it out.")
    if check is not None and not model.given:
        raise MethodError("--check takes gradient steps of a model, and none was given. Name its directory or hub id.")
    check_out(out)
    examples, asked = data.read(train, limit), data.queries(queries, limit_queries)
    loaded = model.asked(chosen)
    most = kept(top, len(examples), len(asked))
    scores = assay.attribute(loaded, examples, asked, chosen, top=most, tokens=tokens, prefilter=prefilter)
    scores = noted(scores, {
        "model": model.origin() if model.given else None, "train": absolute(train), "limit": limit,
        "queries": absolute(queries), "limit_queries": limit_queries, "columns": asdict(data),
    })  # fmt: skip
    if check is not None and loaded is not None:
        scores = scores.with_evidence(one_step=one_step_check(loaded, examples, scores, asked, k=check))
    finish(scores, top, out, with_report, as_json)


def noted(scores: Scores, origin: Mapping[str, Any]) -> Scores:
    """The scores with how their model and data can be read again."""
    return replace(scores, provenance=replace(scores.provenance, origin=dict(origin)))


def kept(top: int, examples: int, queries: int) -> int | None:
    """How many to keep of each end: all of a small result, and never fewer than are shown."""
    return top if top > TOP and examples * queries > DENSE_PAIRS else None


def finish(scores: Scores, top: int, out: Path | None, with_report: bool, as_json: bool) -> None:
    """Save first, then show."""
    facts: dict[str, Any] = {}
    if out is not None:
        scores.save(out)
        page = report(scores, out / "report.html", top=top) if with_report else None
        saved(out, page)
        facts = {"out": out, "report": page}
    if as_json:
        scores_json(scores, top, **facts)
    else:
        scores_page(scores, top)
