"""In-context probing: does an example in the prompt make a query's answer likelier?

    l_0(q) = log p(y_q | x_q),    l_i(q) = log p(y_q | lead-in, z_i, x_q)
    score(i, q) = l_i(q) - l_0(q),    value_i = share of the queries with l_i(q) > l_0(q)

`z_i` a training example, `(x_q, y_q)` a query's prompt and completion (of a plain text all tokens but the first are `y`).
The model's weights are not changed and no gradient is taken, so a server that tells the log-probabilities of a prompt will
do. A score estimates what putting the example in the prompt does, which for linear attention is one gradient step on it
(von Oswald et al. 2022, 2212.07677), and elsewhere is related to it by experiment only.

Paper: Jiao, Gao, Raghunathan and Xiong, On the Feasibility of In-Context Probing for Data Attribution, 2024
(arXiv 2407.12259): the value is their equation for the one-shot against the zero-shot likelihood over 100 task samples.
Deviations: `l` is the mean over the answer's tokens (its sign, hence the value, is the same as the sum's); the lead-in is a
parameter; scores of pairs are kept, not only the count.

Cost: a forward pass of each example and, behind its kept keys and values, of each query: N (T_z + Q T_q) tokens instead of
N Q (T_z + T_q). A server gets (N + 1) Q requests and keeps what it likes. Memory: one batch of queries beside the cache.
Assumes that the model learns in context at all; a small or untrained one only copies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64

from assay import progress
from assay.errors import DataError, MethodError, NonFiniteError
from assay.examples import Examples
from assay.inference import Local, Request, Server, Session
from assay.methods.base import Fitted, Method, option
from assay.methods.inference.prompts import TextPrompts, TokenPrompts, check_texts, split_template
from assay.models import Model
from assay.provenance import Provenance, measured
from assay.ranking import TopK
from assay.scores import Scores
from assay.training import model_of
from assay.values import Values


@dataclass(frozen=True)
class ICP(Method):
    """Put the example in the prompt: how much likelier does the answer become?"""

    name: ClassVar[str] = "icp"
    family: ClassVar[str] = "inference"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "what the example in the prompt does to the answer's likelihood; a local model or a server"
    paper: ClassVar[str] = "Jiao et al. 2024 (2407.12259)"

    template: str = option(
        "{example}\n\n", "what is put in front of a query; {example} stands for the training example"
    )
    query_loss: str = option("mean", "a query's log-likelihood over its tokens", ("mean", "sum"))

    def check(self) -> None:
        """The template must say once where the example stands."""
        split_template(self.template)

    def fit(self, model: Any, train: Examples) -> "Probing":
        """Record the pool; a local model or a server is asked when there are queries."""
        asked = model_of(model)
        if not isinstance(asked, Model | Server):
            raise MethodError(
                f"icp asks a language model, and was given {type(asked).__name__}. Give assay.load(path), or "
                "assay.Server(url, model)."
            )
        if isinstance(asked, Model):
            Local(asked).task.check(train)
        elif asked.task is None:
            check_texts(train)
        else:
            asked.task.check(train)
        return Probing(self, asked, train)


@dataclass(frozen=True)
class Probing(Fitted):
    """A model or server, and the examples that are put in its prompts."""

    method: ICP
    model: Model | Server
    train: Examples

    def score(self, queries: Examples, top: int | None = None) -> Scores:
        """l_i - l_0 of every pair, nats (a token, or in sum)."""
        gains, provenance = self.gains(queries)
        array = gains.astype(np.float32)
        return Scores.of(array if top is None else TopK.of_columns(iter(array.T), top), self.train, queries, provenance)

    def value(self, on: Examples) -> Values:
        """The share of the queries whose answer the example makes likelier; the mean gain stands beside it (`gain`)."""
        gains, provenance = self.gains(on)
        return Values.of((gains > 0).mean(1), self.train, provenance, raw={"gain": gains.mean(1)})

    def gains(self, queries: Examples) -> tuple[Float64[np.ndarray, "n_train n_query"], Provenance]:
        """l_i - l_0 in float64, and how they came about. Raises ServerError, DataError, NonFiniteError."""
        if not len(queries):
            raise DataError(f"{queries.origin} holds no query; in-context probing needs answers to look at.")
        with measured() as cost:
            asked = _local if isinstance(self.model, Model) else _served
            gains, notes = asked(self.model, self.method, self.train, queries)
        self._check_finite(gains)
        return gains, Provenance(
            method=self.method.name,
            parameters=self.method.parameters(),
            unit=self.method.unit,
            inputs={"model": self.model.name, "train": self.train.origin, "queries": queries.origin},
            model_fingerprint=self.model.fingerprint(),
            train_fingerprint=self.train.fingerprint(),
            query_fingerprint=queries.fingerprint(),
            seconds=cost.seconds,
            peak_memory=cost.peak_memory,
            notes=notes,
        )

    def _check_finite(self, gains: Float64[np.ndarray, "n_train n_query"]) -> None:
        wrong = np.flatnonzero(~np.isfinite(gains).all(1))
        if len(wrong):
            raise NonFiniteError(
                f"With example {self.train.ids[int(wrong[0])]} in the prompt a log-likelihood is not finite. Load the model as "
                "float32, or leave the example out."
            )


def _local(
    model: Any, method: ICP, train: Examples, queries: Examples
) -> tuple[Float64[np.ndarray, "n_train n_query"], tuple[str, ...]]:
    """One example after the other, each in front of all queries."""
    asked = Local(model)
    prompts = TokenPrompts.of(asked.task, method.template, queries)
    counts = np.array([tokens.count for tokens in prompts.alone]) if method.query_loss == "mean" else 1.0
    alone = asked.likelihoods((), prompts.alone)
    gains, cut = np.zeros((len(train), len(queries))), 0
    longest = max(prompts.continued, key=len)
    for row, example in enumerate(progress.progress(train, "probing", len(train))):
        context, short = prompts.context(example)
        asked = asked.checked(context, longest) if row == 0 else asked
        gains[row] = (asked.likelihoods(context, prompts.continued) - alone) / counts
        cut += short
    notes = _cut_notes(cut, prompts)
    if not asked.reuse:
        notes = (*notes, "The model's cache does not give its own numbers, so every prompt was computed whole.")
    return gains, notes


def _served(
    server: Any, method: ICP, train: Examples, queries: Examples
) -> tuple[Float64[np.ndarray, "n_train n_query"], tuple[str, ...]]:
    """All pairs as requests."""
    with Session(server) as session:
        progress.say(expected(server, method, train, queries))
        tokens = server.task is not None
        total, count, notes = (_by_tokens if tokens else _by_text)(session, method, train, queries)
        asked = (
            f"{session.sent + session.reused:,} answers of {server.name}, {session.reused:,} of them kept from before."
        )
    alone, behind = total[:1], total[1:]
    if method.query_loss == "mean":
        alone, behind = alone / count[:1], behind / count[1:]
    return behind - alone, (*notes, asked)


Told = tuple[Float64[np.ndarray, "n n_query"], np.ndarray, tuple[str, ...]]
"""Sums of log-probabilities and how many, the queries alone first, then behind each example; and notes."""


def _by_tokens(session: Session, method: ICP, train: Examples, queries: Examples) -> Told:
    prompts = TokenPrompts.of(session.server.task, method.template, queries)  # type: ignore[arg-type]
    cut = 0

    def requests() -> Iterator[Request]:
        nonlocal cut
        yield from (Request.of((), tokens) for tokens in prompts.alone)
        for example in train:
            context, short = prompts.context(example)
            cut += short
            yield from (Request.of(context, tokens) for tokens in prompts.continued)

    shape = len(train) + 1, len(queries)
    found = session.likelihoods(requests(), shape[0] * shape[1], "probing")
    return found.total.reshape(shape), found.count.reshape(shape), _cut_notes(cut, prompts)


def _by_text(session: Session, method: ICP, train: Examples, queries: Examples) -> Told:
    """The queries first: their first tokens may have no log-probability, and are then not counted behind examples."""
    prompts, n = TextPrompts.of(method.template, queries), len(queries)
    first = (Request(given + counted, len(counted)) for given, counted in prompts.queries)
    alone = session.likelihoods(first, n, "queries alone")
    counted = [len(text) - int(lead) for (_, text), lead in zip(prompts.queries, alone.lead, strict=True)]

    def requests() -> Iterator[Request]:
        for example in train:
            context = prompts.context(example)
            for (given, text), letters in zip(prompts.queries, counted, strict=True):
                yield Request(context + given + text, letters)

    found = session.likelihoods(requests(), len(train) * n, "probing")
    total, count = np.concatenate([alone.total, found.total]), np.concatenate([alone.count, found.count])
    return total.reshape(-1, n), count.reshape(-1, n), ()


def _cut_notes(cut: int, prompts: TokenPrompts) -> tuple[str, ...]:
    room = f"{prompts.short.max_length} tokens that the longest query leaves"
    told = [f"{cut} examples were longer than the {room} and were cut."] if cut else []
    return (*told, *([f"{prompts.cut} queries were longer than the context and were cut."] if prompts.cut else []))


SAMPLE = 64
LETTERS = 4.0
"""Characters a token, where nobody knows better."""


def expected(server: Server, method: ICP, train: Examples, queries: Examples) -> str:
    """What a server will be asked, in words."""
    requests, tokens = demand(server, train, queries)
    pace = (
        "" if server.rate is None else f", {server.rate:g} a minute, so {requests / server.rate:,.0f} minutes at least"
    )
    return f"{requests:,} requests with about {tokens:,.0f} tokens of prompts, {server.concurrency} at once{pace}."


def demand(server: Server, train: Examples, queries: Examples) -> tuple[int, float]:
    """Requests, and the tokens of their prompts: by a sample of the lengths."""

    def length(examples: Examples) -> float:
        step = max(1, len(examples) // SAMPLE)
        some = [examples[k] for k in range(0, len(examples), step)]
        task = server.task
        sizes = [len(one.text) / LETTERS if task is None else task.encode(one).length for one in some]
        return sum(sizes) / len(sizes)

    n, q = len(train), len(queries)
    return (n + 1) * q, q * (length(queries) + n * (length(train) + length(queries)))
