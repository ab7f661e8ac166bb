"""A nearest-neighbour language model whose datastore can be masked by document.

    p(y_t | x_t) = (1 - s) p_LM(y_t | x_t) + s sum over the k nearest entries j of softmax(-d_j / T) 1[v_j = y_t]

An entry is the hidden state before a token of a document (the document alone, no question) and that token `v_j`; `d_j` is
the squared distance of hidden states, as a multiple of the datastore's mean squared distance from its mean. The model itself
reads only the question and the output, so that masking the entries of some documents (one retrieval; the distances stay) is
leaving these documents out entirely.

Paper: Khandelwal et al. 2020 (1911.00172); masked by label: Siddiqui et al. 2024 (2410.03055), section on the k-NN model.
Cost: one pass over the documents, one over question and output; then a masked top-k for each label.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from assay.act.guard.scorers import Kept, Scorer, continued, encoded
from assay.errors import DataError
from assay.inference import Likelihood, Local
from assay.models import Model
from assay.tasks.base import evaluating
from assay.tasks.head import find_head

NEIGHBOURS, SHARE, TEMPERATURE = 16, 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Datastore:
    """Entries of several documents: hidden states, the token behind each, and whose they are."""

    keys: Float[Tensor, "m width"]
    values: Int[Tensor, " m"]
    owner: Int[Tensor, " m"]

    @cached_property
    def spread(self) -> float:
        """The mean squared distance from the mean."""
        return float((self.keys - self.keys.mean(0)).square().sum(1).mean().clamp_min(1e-30))

    @staticmethod
    def of(model: Model, documents: Sequence[str]) -> "Datastore":
        """One pass over each document."""
        found: list[tuple[Tensor, Tensor, int]] = []
        longest = Local(model).task.max_length
        for k, text in enumerate(documents):
            ids = _ids(model, text)
            if len(ids) > longest:
                raise DataError(f"Document {k + 1} has {len(ids)} tokens; the context holds {longest}. Split it.")
            if len(ids) > 1:
                found.append((_hidden(model, ids)[:-1], torch.tensor(ids[1:], device=model.device), k))
        if not found:
            raise DataError("The documents have no token with another before it, so the datastore would be empty.")
        owners = [torch.full((len(values),), k, device=model.device) for _, values, k in found]
        return Datastore(torch.cat([k for k, _, _ in found]), torch.cat([v for _, v, _ in found]), torch.cat(owners))

    def mask(self, kept: Kept) -> Bool[Tensor, " m"]:
        """The entries of these documents."""
        return torch.isin(self.owner, torch.tensor(kept, dtype=torch.long, device=self.owner.device))

    def distances(self, states: Float[Tensor, "n width"]) -> Float64[Tensor, "n m"]:
        """Squared, in units of the spread."""
        return torch.cdist(states.double(), self.keys.double()).square() / self.spread

    def vote(
        self, distances: Float64[Tensor, "n m"], allowed: Bool[Tensor, " m"]
    ) -> tuple[Float64[Tensor, "n k"], Int[Tensor, "n k"]]:
        """Weights that add up to 1, and the tokens that they are for; of the allowed entries only."""
        count = min(NEIGHBOURS, int(allowed.sum()))
        near, place = distances[:, allowed].topk(count, largest=False)
        return (-near / TEMPERATURE).softmax(1), self.values[allowed][place]


@dataclass(frozen=True, eq=False)
class Neighbours(Scorer):
    """For one question."""

    model: Model
    store: Datastore
    question: str

    def read(self, output: str, kept: Sequence[Kept]) -> list[Likelihood]:
        """The model is run once; each choice of documents is a mask."""
        tokens = encoded(Local(self.model).task, self.question, output)
        states = _hidden(self.model, tokens.ids)
        counted = torch.tensor(tokens.counted[1:], device=states.device)
        target = torch.tensor(tokens.ids[1:], device=states.device)[counted]
        own = _logp(self.model, states[:-1][counted]).exp()
        distances = self.store.distances(states[:-1][counted])
        return [_read(self._mixed(own, distances, choice), target) for choice in kept]

    def generate(self, kept: Kept, tokens: int) -> str:
        """The likeliest token of the mixture, one by one."""
        task = Local(self.model).task
        ids = _ids(self.model, self.question)
        start = len(ids)
        if start + tokens > task.max_length:
            raise DataError(
                f"A question of {start} tokens and {tokens} to generate exceed the context of {task.max_length}."
            )
        while len(ids) - start < tokens:
            state = _hidden(self.model, ids)[-1:]
            token = int(self._mixed(_logp(self.model, state).exp(), self.store.distances(state), kept).argmax())
            if token == task.tokenizer.eos_token_id:
                break
            ids.append(token)
        return continued(task, ids[:start], ids[start:])

    def _mixed(
        self, own: Float64[Tensor, "n c"], distances: Float64[Tensor, "n m"], kept: Kept
    ) -> Float64[Tensor, "n c"]:
        """The probability of each token, from the model's own."""
        allowed = self.store.mask(kept)
        if not allowed.any():
            return own  # nothing to retrieve: the model alone
        weights, values = self.store.vote(distances, allowed)
        return ((1 - SHARE) * own).scatter_add_(1, values, SHARE * weights)


def _read(p: Float64[Tensor, "n c"], target: Int[Tensor, " n"]) -> Likelihood:
    """Of each target."""
    chosen = p.gather(1, target[:, None]).squeeze(1)
    return Likelihood.of(chosen.log().cpu().numpy(), (chosen >= p.amax(1)).cpu().numpy())


def _ids(model: Model, text: str) -> list[int]:
    return list(Local(model).task.tokenizer(text, verbose=False)["input_ids"])


def _hidden(model: Model, ids: Sequence[int]) -> Float[Tensor, "n width"]:
    """Last hidden states."""
    tokens = torch.tensor([list(ids)], device=model.device)
    head, module = find_head(model.module), cast(Any, model.module)
    with evaluating(model.module), torch.no_grad():
        if head is not None:
            return head.backbone(input_ids=tokens, use_cache=False).last_hidden_state[0]
        return module(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states[-1][0]


def _logp(model: Model, states: Float[Tensor, "n width"]) -> Float64[Tensor, "n c"]:
    """The model's own log-probabilities after these states."""
    head = find_head(model.module)
    output: Any = head.linear if head is not None else cast(Any, model.module).get_output_embeddings()
    with torch.no_grad():
        return output(states).double().log_softmax(1)
