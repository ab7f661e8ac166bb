"""Asking a server many things at once: what is kept first, then so many requests under way, each answer kept as it comes."""

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64

from assay import progress
from assay.errors import ServerError
from assay.inference import answers
from assay.inference.client import Client, Unreachable
from assay.inference.kept import Kept
from assay.inference.likelihood import Likelihood, Request
from assay.inference.server import Server

PROBE = "The quick brown fox jumps over the lazy dog, and the dog sleeps on."
FAREWELL = 0.5
"""Seconds that requests under way are waited for when a session ends."""
Job = tuple[int, Request]
Outcome = tuple[Job, Likelihood | BaseException]


@dataclass(frozen=True)
class Answered:
    """Likelihoods of many requests, in their order: `total` in nats, `count` of tokens, `lead` in characters."""

    total: Float64[np.ndarray, " n"]
    count: Int64[np.ndarray, " n"]
    lead: Int64[np.ndarray, " n"]


def _nothing(steps: float = 1) -> None:
    """Nobody looks."""


class Session:
    """A server that was seen to answer; a context manager. `sent`, `reused`: answers asked for, and kept from before.

    Raises ServerError at the start if the server is down, refuses, or gives no log-probabilities of prompts.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.client = server, Client(server)
        self.form: answers.Form = "echo"
        self.sent = self.reused = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            self.form, probe = self._greet()
            self.kept = Kept(self.server)
            if not self.kept.same_model(probe):
                progress.say(
                    "Another model answers under this name than before, or its server tells more or less; what it had answered "
                    "is asked again."
                )
        except BaseException:
            self.client.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.client.stop()
        last = time.monotonic() + FAREWELL  # a connection that is being made now would not be closed with the others
        for thread in self._threads:
            thread.join(max(0.0, last - time.monotonic()))
        self.client.close()
        self.kept.close()

    def likelihoods(self, requests: Iterable[Request], number: int, label: str | None = None) -> Answered:
        """Of so many requests, which are made as they are needed; with a bar, if it has a label. Raises ServerError,
        StorageError.
        """
        found = Answered(np.zeros(number), np.zeros(number, np.int64), np.zeros(number, np.int64))
        with nullcontext(_nothing) if label is None else progress.task(label, number) as advance:
            for place, answer in self._told(requests):
                found.total[place], found.count[place], found.lead[place] = answer.total, answer.count, answer.lead
                advance()
        return found

    def each(self, requests: Sequence[Request]) -> list[Likelihood]:
        """Token by token, of a few. Raises ServerError, StorageError."""
        found = dict(self._told(requests))
        return [found[place] for place in range(len(requests))]

    def _told(self, requests: Iterable[Request]) -> Iterator[tuple[int, Likelihood]]:
        """Places and answers; of an interrupt with what is kept."""
        try:
            yield from self._answers(requests)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{self.sent + self.reused:,} answers are kept; the same command goes on from them."
            ) from None

    def generate(self, prompt: str, tokens: int) -> str:
        """The likeliest continuation of so many tokens at most."""
        body = {"model": self.server.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return answers.generated(self.client.post("completions", body))

    def _answers(self, requests: Iterable[Request]) -> Iterator[tuple[int, Likelihood]]:
        """Places and answers as they come; requests are made a little ahead of those under way."""
        inbox: SimpleQueue[Job | None] = SimpleQueue()
        outbox: SimpleQueue[Outcome] = SimpleQueue()
        for _ in range(self.server.concurrency):  # daemons: one that waits for a silent server keeps no program alive
            self._threads.append(threading.Thread(target=self._work, args=(inbox, outbox), daemon=True))
            self._threads[-1].start()
        waiting = 0
        try:
            for place, request in enumerate(requests):
                if (known := self.kept.get(request)) is not None:
                    self.reused += 1
                    yield place, known
                    continue
                inbox.put((place, request))
                waiting += 1
                if waiting >= 2 * self.server.concurrency:
                    yield self._next(outbox)
                    waiting -= 1
            for _ in range(waiting):
                yield self._next(outbox)
        except BaseException:
            self.client.stop()
            self._save(outbox)
            raise
        finally:
            for _ in range(self.server.concurrency):
                inbox.put(None)

    def _work(self, inbox: "SimpleQueue[Job | None]", outbox: "SimpleQueue[Outcome]") -> None:
        """One of the threads."""
        while (job := inbox.get()) is not None:
            try:
                outbox.put((job, self._ask(job[1])))
            except BaseException as error:  # told where the answers are read
                outbox.put((job, error))

    def _next(self, outbox: "SimpleQueue[Outcome]") -> tuple[int, Likelihood]:
        (place, request), answer = outbox.get()
        if isinstance(answer, BaseException):
            raise answer
        self.kept.put(request, answer)
        self.sent += 1
        return place, answer

    def _save(self, outbox: "SimpleQueue[Outcome]") -> None:
        """Keep what has come meanwhile; what is under way is given up."""
        with suppress(Empty):
            while True:
                (_, request), answer = outbox.get_nowait()
                if isinstance(answer, Likelihood):
                    with suppress(Exception):  # the first error is the one to tell
                        self.kept.put(request, answer)
                        self.sent += 1

    def _ask(self, request: Request) -> Likelihood:
        answer = self.client.post("completions", answers.body(self.server.model, request.prompt, self.form))
        return answers.likelihood(answer, request, self.form)

    def _greet(self) -> tuple[answers.Form, Likelihood]:
        """The form in which this server tells log-probabilities, and those of a fixed sentence."""
        task = self.server.task
        request = Request(PROBE, len(PROBE))
        if task is not None:
            ids = tuple(task.tokenizer(PROBE, verbose=False)["input_ids"])
            request = Request(ids, (False,) + (True,) * (len(ids) - 1))
        first: ServerError | None = None
        for form in answers.FORMS:
            try:
                answer = self.client.post("completions", answers.body(self.server.model, request.prompt, form))
                found = answers.likelihood(answer, request, form)
            except Unreachable:
                raise
            except ServerError as error:
                first = first or error
                continue
            if task is not None:
                self._check_words(answers.told_text(answer, form))
            return form, found
        raise first or AssertionError("no form was tried")

    def _check_words(self, told: str | None) -> None:
        """The tokens sent must be the probe's to the server as well. Raises ServerError."""
        if told is not None and PROBE.replace(" ", "") not in told.replace(" ", ""):
            raise ServerError(
                f"The tokens of {self.server.tokenizer} are others to the server: it reads the probe as {told[:80]!r}. Name "
                "the tokenizer of the model that the server has (--tokenizer)."
            )
