"""What the search asks: how likely an output is, given some of the documents; and what a model says given them.

Prompt      the documents stand in the prompt, in their order; a local model or a server
Neighbours  a nearest-neighbour language model: they are in a datastore, see `neighbours.py`
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from assay.errors import DataError
from assay.examples import Example
from assay.inference import Likelihood, Local, Request, Server, Session, Tokens
from assay.models import Model
from assay.tasks import CausalLM
from assay.tasks.language import IGNORED

Kept = tuple[int, ...]
"""Positions of the documents that are left in."""
PLACE = "{document}"


class Scorer(ABC):
    """For one question and its documents."""

    @abstractmethod
    def read(self, output: str, kept: Sequence[Kept]) -> list[Likelihood]:
        """Log p(token | documents, tokens before) of each token of the output, in nats, and whether it is the likeliest
        there, for each choice of documents.
        """

    @abstractmethod
    def generate(self, kept: Kept, tokens: int) -> str:
        """The likeliest output of so many tokens at most."""


class Asked(ABC):
    """A model that writes and reads texts: in this process or behind a server."""

    @abstractmethod
    def read(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """The end's tokens behind the start, of each pair (start, end); no start is empty."""

    @abstractmethod
    def generate(self, prompt: str, tokens: int) -> str:
        """The likeliest continuation."""


@dataclass(frozen=True)
class AskedLocal(Asked):
    """A model in this process."""

    model: Model

    def read(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """All pairs in batches."""
        asked = Local(self.model)
        tokens = [encoded(asked.task, start, end) for start, end in pairs]
        return asked.read((), tokens)

    def generate(self, prompt: str, tokens: int) -> str:
        """Greedy."""
        asked = Local.seen(self.model)
        start = asked.task.tokenizer(prompt, verbose=False)["input_ids"]
        return continued(asked.task, start, asked.generate(start, tokens))


@dataclass(frozen=True)
class AskedServer(Asked):
    """A server; several requests at once, answers kept."""

    session: Session

    def read(self, pairs: Sequence[tuple[str, str]]) -> list[Likelihood]:
        """By tokens where the tokenizer is known, else as text."""
        task = self.session.server.task
        if task is None:
            requests = [Request(start + end, len(end)) for start, end in pairs]
        else:
            requests = [Request.of((), encoded(task, start, end)) for start, end in pairs]
        return self.session.each(requests)

    def generate(self, prompt: str, tokens: int) -> str:
        """At temperature 0."""
        return self.session.generate(prompt, tokens)


@dataclass(frozen=True)
class Prompt(Scorer):
    """Documents in the prompt, each as `template` shows it, then the question."""

    asked: Asked
    documents: tuple[str, ...]
    question: str
    template: str

    def read(self, output: str, kept: Sequence[Kept]) -> list[Likelihood]:
        """Each choice is a prompt of its own."""
        return self.asked.read([(self.prompt(choice), output) for choice in kept])

    def generate(self, kept: Kept, tokens: int) -> str:
        """From a prompt that holds these documents and no others."""
        return self.asked.generate(self.prompt(kept), tokens)

    def prompt(self, kept: Kept) -> str:
        """What the model reads."""
        return "".join(self.template.replace(PLACE, self.documents[k]) for k in kept) + self.question


def continued(task: CausalLM, start: Sequence[int], made: Sequence[int]) -> str:
    """The text of tokens behind others, with the space between them, which many tokenizers leave out at a text's start."""
    before = task.tokenizer.decode(start, skip_special_tokens=True)
    whole = task.tokenizer.decode([*start, *made], skip_special_tokens=True)
    return whole[len(before) :] if whole.startswith(before) else task.tokenizer.decode(made, skip_special_tokens=True)


def encoded(task: CausalLM, start: str, end: str) -> Tokens:
    """The tokens of both, the end counted. Raises DataError where they do not fit: a cut prompt would hide documents."""
    whole = copy.copy(task)
    whole.long = "refuse"
    try:
        tensors = whole.encode(Example("the prompt", {"prompt": start, "completion": end})).tensors
    except DataError as error:
        raise DataError(f"{error} Here nothing may be cut: give fewer or shorter documents (retrieve).") from error
    ids, labels = cast(list[int], tensors["input_ids"].tolist()), cast(list[int], tensors["labels"].tolist())
    return Tokens(tuple(ids), tuple(label != IGNORED for label in labels))


def asked_of(model: Model | Server, session: Session | None) -> Asked:
    """The model in this process, or the server's open session."""
    return AskedLocal(model) if isinstance(model, Model) else AskedServer(cast(Session, session))
