"""Permissive labels: the smallest label an output really depends on, and the output made anew from what that label allows.

    drop(L) = max over tokens t of  log p(y_t | x, all documents, y_<t) - log p(y_t | x, documents of at most L, y_<t)
    L is similar if drop(L) <= lambda, and each y_t that is the likeliest token given all documents still is so given those

`y` the output from all documents (or the one given), `x` the question. The second condition is for two tokens that are nearly
equal: a document may decide between them and hardly change the likelihood of either. From the join of all labels the search
goes down through similar labels (`search.py`); of the minimal ones that with the smallest drop is taken, and y' is generated
from its documents alone. y' is what is given out: nothing above its label was in the prompt, so nothing above can flow,
whatever the search did. What the choice of the label itself tells about the documents above it is not hidden.

Paper: Siddiqui et al. 2024, Permissive Information-Flow Analysis for Large Language Models (arXiv 2410.03055, TMLR 2025),
Algorithm 1. Deviations: the worst token decides, not the output's likelihood a token, in which one word that a document decided
weighs less the longer the output is; what the model would choose counts as well; similarity is to all documents, not to the
label above (which would add up a lambda a step); documents keep their order and carry no numbers, so that leaving one out
moves the others and changes nothing else.

Cost: a scoring for each label that is looked at, at worst exponential in the number of distinct labels; scorings are shared by
labels with the same documents, those of one step go in one batch, and beyond `visits` labels the search is greedy.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal, cast

import numpy as np

from assay.act.guard.introspect import ASK, said
from assay.act.guard.lattice import Label, Lattice, parse_lattice
from assay.act.guard.neighbours import Datastore, Neighbours
from assay.act.guard.result import Guarded, Verdict
from assay.act.guard.scorers import PLACE, Kept, Prompt, Scorer, asked_of
from assay.act.guard.search import TooMany, descent, exact, greedy
from assay.errors import DataError, InputError, MethodError, NonFiniteError
from assay.examples import Examples, read
from assay.inference import Likelihood, Local, Server, Session
from assay.methods.inference.prompts import check_texts
from assay.methods.lexical.bm25 import BM25
from assay.models import Model
from assay.progress import progress, say
from assay.provenance import Provenance, measured
from assay.training import model_of

Search = Literal["descent", "exact", "greedy"]
Mode = Literal["prompt", "neighbours"]
LAMBDA = 0.5
UNTOLD = "The server does not tell which tokens are likeliest (top_logprobs), so lambda alone decided."


@dataclass(frozen=True)
class Settings:
    """How labels are found; see `guard`."""

    lam: float = LAMBDA
    search: Search = "descent"
    mode: Mode = "prompt"
    retrieve: int = 8
    tokens: int = 64
    template: str = PLACE + "\n\n"
    visits: int = 512
    introspect: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.lam < float("inf"):
            raise MethodError(f"lambda is {self.lam}; a number of at least 0 was expected (nats).")
        for name, known in (("search", ("descent", "exact", "greedy")), ("mode", ("prompt", "neighbours"))):
            if getattr(self, name) not in known:
                raise MethodError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}.")
        for name in ("retrieve", "tokens", "visits"):
            if getattr(self, name) < 1:
                raise MethodError(f"{name} is {getattr(self, name)}; at least 1 was expected.")
        if PLACE not in self.template:
            raise MethodError(
                f"The template {self.template!r} does not say where the document stands; expected {PLACE} in it."
            )


def guard(
    model: Any,
    documents: Any,
    queries: Any,
    *,
    lattice: str | Lattice = "powerset",
    lam: float = LAMBDA,
    search: Search = "descent",
    mode: Mode = "prompt",
    retrieve: int = 8,
    tokens: int = 64,
    template: str = PLACE + "\n\n",
    visits: int = 512,
    introspect: bool = False,
) -> Guarded:
    """Answer questions from labelled documents, each answer with the smallest label that its documents need.

    Args:
        model: a causal language model from `load`, or a `Server`.
        documents: texts with labels (the field `label`, else `source`), anything that `read` takes.
        queries: questions: `text`, or `prompt`; a `completion` is taken as the output to be labelled.
        lattice: `"powerset"` of sources, an order such as `"public < internal < secret"`, or a JSON file.
        lam: nats that no token of the output may lose; 0.5 is a token with 0.6 of its probability. Besides, a token that is the
            model's likeliest given all documents must stay so (a verdict's note says where a server does not tell).
        search: `"descent"`, `"exact"` (all labels), or `"greedy"` (one way down).
        mode: documents in the prompt, or in the datastore of a nearest-neighbour model (`"neighbours"`, local models only).
        retrieve: documents for each question, the best by BM25.
        tokens: of an output at most.
        template: what a document is in the prompt; `{document}` stands for its text.
        visits: labels that may be looked at for one question; beyond them descent becomes greedy.
        introspect: ask the model as well which documents it used.

    Raises:
        InputError: a label that the lattice does not have, an order that is no lattice, no documents or questions, a server that
            does not answer, prompts that do not fit the context.
    """
    settings = Settings(lam, search, mode, retrieve, tokens, template, visits, introspect)
    order, asked = parse_lattice(lattice), _model(model, mode)
    documents, queries = read(documents), read(queries)
    labels = labels_of(documents, order)
    _check(documents, queries)
    with measured() as cost:
        choices = retrieved(documents, queries, retrieve)
        if isinstance(asked, Server):
            say(f"{len(queries):,} questions, each with at most {visits:,} prompts to score and two answers to write.")
        with Session(asked) if isinstance(asked, Server) else nullcontext() as session:
            work = _Work(asked, session, order, labels, documents, settings)
            rows = progress(range(len(queries)), "guarding", len(queries))
            verdicts = tuple(work.verdict(queries, k, choices[k]) for k in rows)
    about = Provenance(
        method="guard",
        parameters=asdict(settings),
        unit="nats",
        inputs={"model": asked.name, "documents": documents.origin, "queries": queries.origin},
        model_fingerprint=asked.fingerprint(),
        train_fingerprint=documents.fingerprint(),
        query_fingerprint=queries.fingerprint(),
        seconds=cost.seconds,
        peak_memory=cost.peak_memory,
    )
    return Guarded(verdicts, {**asdict(settings), "lattice": str(lattice)}, about)


def labels_of(documents: Examples, lattice: Lattice) -> list[Label]:
    """Each document's label, or where it has none its source. Raises InputError."""
    found: list[Label] = []
    for document in documents:
        given: Any = document.source if document.label is None else document.label
        if given is None:
            raise DataError(
                f"Document {document.id} has no label and no source; give it one (--label-field, --source-field)."
            )
        found.append(lattice.parse(given, f"Document {document.id}"))
    return found


def retrieved(documents: Examples, queries: Examples, most: int) -> list[Kept]:
    """For each query the best documents by BM25, in the documents' order."""
    if len(documents) <= most:
        return [tuple(range(len(documents)))] * len(queries)
    scores = BM25().fit(None, documents).score(queries).array
    return [tuple(sorted(np.argsort(-scores[:, k], kind="stable")[:most].tolist())) for k in range(len(queries))]


@dataclass(frozen=True)
class _Work:
    """Everything that all questions share."""

    model: Model | Server
    session: Session | None
    lattice: Lattice
    labels: list[Label]
    documents: Examples
    settings: Settings

    def verdict(self, queries: Examples, number: int, choice: Kept) -> Verdict:
        """Of one question: `choice` are its documents."""
        query, lattice, ids = queries[number], self.lattice, self.documents.ids
        question = str(query.data.get("prompt", query.data.get("text")))
        texts, labels = tuple(self.documents[k].text for k in choice), [self.labels[k] for k in choice]
        scorer, every = self._scorer(texts, question), tuple(range(len(choice)))
        output = str(query.data.get("completion") or scorer.generate(every, self.settings.tokens))
        top, told = lattice.join(labels), [str(ids[k]) for k in choice]
        if not output.strip():
            label = lattice.show(top)
            return Verdict(
                str(query.id), label, label, False, (label,), tuple(told), tuple(told), "", 0.0, 0.0, 0.0, 0,
                note="The model answers nothing, which has no likelihood to compare; it keeps the label of all documents.",
            )  # fmt: skip
        look = Look(scorer, output, lattice, labels, self.settings)
        minimal, note = look.minimal(top)
        label = look.best(minimal)
        kept = look.documents(label)
        return Verdict(
            query_id=str(query.id),
            label=lattice.show(label),
            conservative=lattice.show(top),
            improved=label != top,
            minimal=tuple(lattice.show(one) for one in minimal),
            documents=tuple(told[k] for k in kept),
            retrieved=tuple(told),
            output=scorer.generate(kept, self.settings.tokens),
            drop=look.drop(label),
            likelihood=look.read(label).mean,
            full=look.full.mean,
            visited=len(look.known),
            introspected=self._introspected(texts, labels, question, output) if self.settings.introspect else None,
            note=" ".join(filter(None, (note, UNTOLD if look.full.first is None else None))) or None,
        )

    def _scorer(self, texts: tuple[str, ...], question: str) -> Scorer:
        if self.settings.mode == "neighbours":
            return Neighbours(cast(Model, self.model), Datastore.of(cast(Model, self.model), texts), question)
        return Prompt(asked_of(self.model, self.session), texts, question, self.settings.template)

    def _introspected(self, texts: tuple[str, ...], labels: Sequence[Label], question: str, output: str) -> str:
        named = said(asked_of(self.model, self.session), texts, question, output, ASK)
        chosen = labels if named is None else [labels[k] for k in named]
        return self.lattice.show(self.lattice.join(chosen))


@dataclass
class Look:
    """The labels of one output: which are similar, each choice of documents scored once."""

    scorer: Scorer
    output: str
    lattice: Lattice
    labels: Sequence[Label]
    settings: Settings
    known: dict[Kept, Likelihood] = field(default_factory=dict[Kept, Likelihood])

    @property
    def full(self) -> Likelihood:
        """Given all documents."""
        return self._read([tuple(range(len(self.labels)))])[0]

    def documents(self, label: Label) -> Kept:
        """Those that the label allows."""
        return tuple(k for k, one in enumerate(self.labels) if self.lattice.at_most(one, label))

    def read(self, label: Label) -> Likelihood:
        """Given what the label allows."""
        return self._read([self.documents(label)])[0]

    def drop(self, label: Label) -> float:
        """Nats that the token loses which loses most."""
        return largest_drop(self.full, self.read(label))

    def similar(self, labels: Sequence[Label]) -> list[bool]:
        """Whether every token stays likely enough, and the model's choice where it was."""
        found, full = self._read([self.documents(label) for label in labels]), self.full
        return [largest_drop(full, some) <= self.settings.lam and stays_first(full, some) for some in found]

    def best(self, labels: Sequence[Label]) -> Label:
        """With the smallest drop; of equals the one with fewest documents, then the first."""
        return min(labels, key=lambda label: (self.drop(label), len(self.documents(label))))

    def minimal(self, top: Label) -> tuple[list[Label], str | None]:
        """The minimal labels, and what there is to tell of the search."""
        most, down = self.settings.visits, partial(greedy, self.lattice, top, self.similar, self.best)
        if self.settings.search == "exact":
            return exact(self.lattice, top, self.similar, most), None
        if self.settings.search == "greedy":
            return down(), None
        try:
            return descent(self.lattice, top, self.similar, most), None
        except TooMany:
            return (
                down(),
                f"More than {most} labels would have been looked at, so one way down was followed, by the smallest drops.",
            )

    def _read(self, choices: Sequence[Kept]) -> list[Likelihood]:
        new = [choice for choice in dict.fromkeys(choices) if choice not in self.known]
        if new:
            found = self.scorer.read(self.output, new)
            if not all(value < np.inf for each in found for value in each.values):  # -inf is a number; NaN is not
                raise NonFiniteError(
                    "The likelihood of an output is not a number; the model's logits overflow. Load it as float32."
                )
            self.known.update(zip(new, found, strict=True))
        return [self.known[choice] for choice in choices]


def stays_first(full: Likelihood, some: Likelihood) -> bool:
    """Whether each token that is the likeliest given all documents is so given some; True where nobody tells."""
    if full.first is None or some.first is None:
        return True
    return all(now or not before for before, now in zip(full.first, some.first, strict=True))


def largest_drop(full: Likelihood, some: Likelihood) -> float:
    """Nats that the token loses which loses most, given some of the documents; a token that never was possible loses none.

    Raises MethodError where the output has other tokens behind other documents.
    """
    if full.count != some.count:
        raise MethodError(
            f"The output has {full.count} tokens behind all documents and {some.count} behind some, so they cannot be compared. "
            "Name the model's tokenizer (--tokenizer), or end the question and begin the output at a space."
        )
    return max(0.0 if before == -np.inf else before - now for before, now in zip(full.values, some.values, strict=True))


def _model(given: Any, mode: str) -> Model | Server:
    model = model_of(given)
    if not isinstance(model, Model | Server):
        raise MethodError(
            f"guard asks a language model, and was given {type(model).__name__}. Give assay.load(path) or assay.Server(url, model)."
        )
    if isinstance(model, Model):
        _ = Local(model).task
    elif mode == "neighbours":
        raise MethodError(
            "A nearest-neighbour model reads hidden states, which a server does not give. Load the model itself."
        )
    return model


def _check(documents: Examples, queries: Examples) -> None:
    for examples, what in ((documents, "document"), (queries, "question")):
        if not len(examples):
            raise InputError(f"{examples.origin} holds no {what}.")
        check_texts(examples)
    for query in queries:
        if not str(query.data.get("prompt", query.data.get("text"))).strip():
            raise InputError(f"Question {query.id} asks nothing; every question needs a text (or a prompt).")
