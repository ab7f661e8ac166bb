"""A causal language model in this process: log-likelihoods behind a context whose keys and values are kept.

A context c and continuations q_1 .. q_n:  log p(q_k | c) for all k costs one forward pass of c and one of each q_k, not
n passes of c q_k. The keys and values of c's tokens but the last are computed once and repeated for a batch of
continuations, each of which begins with c's last token, whose hidden state predicts its first. Continuations are padded
on the right, behind everything that is counted, so that a causal model's numbers do not depend on the padding.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from assay.errors import DataError, MethodError
from assay.gradients.features import pack
from assay.inference.likelihood import Likelihood, Tokens
from assay.models import Model
from assay.tasks import CausalLM, Loss
from assay.tasks.base import evaluating, precise
from assay.tasks.head import find_head, is_causal

POSITIONS, EXAMPLES = 8192, 256
"""Positions in a batch with those of the context repeated, and continuations in it, at most."""
AGREEMENT = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference, in nats a token, between answers with kept keys and values and whole ones, by dtype of the weights."""
ROUGH = 0.1
"""The same in half precision."""


@dataclass(frozen=True)
class Local:
    """A model that is asked; `reuse`: keep the keys and values of a context."""

    model: Model
    reuse: bool = True

    @property
    def task(self) -> CausalLM:
        """Its task. Raises MethodError for a model of another kind."""
        if not isinstance(self.model.task, CausalLM):
            raise MethodError(
                f"Texts are put into a prompt, and {self.model.name} has the task '{self.model.task.name}'; a causal "
                "language model was expected."
            )
        return self.model.task

    @staticmethod
    def seen(model: Model) -> "Local":
        """A model whose cache was tried on a few tokens."""
        return Local(model).checked((1, 0, 1), Tokens((0, 1), (True, True)))

    def checked(self, context: Sequence[int], continuation: Tokens) -> "Local":
        """The same, without reuse where this model's cache does not give its own numbers (or it has none)."""
        whole, count = Local(self.model, False), max(1, continuation.count)
        limit = count * AGREEMENT.get(next(self.model.module.parameters()).dtype, ROUGH)
        expected = whole.likelihoods(context, [continuation])[0]
        try:
            found = self.likelihoods(context, [continuation])[0]
        except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, IndexError):
            return whole
        return self if abs(found - expected) <= limit else whole

    def likelihoods(self, context: Sequence[int], continuations: Sequence[Tokens]) -> Float64[np.ndarray, " n"]:
        """The totals of `read`, in float64."""
        return np.array([each.total for each in self.read(context, continuations)])

    def read(self, context: Sequence[int], continuations: Sequence[Tokens]) -> list[Likelihood]:
        """Log p(token | context, tokens before) of each continuation's counted tokens, in nats, of float32 at least, and
        whether it is the likeliest there.

        Without a context a continuation's first token has none and is left out.
        """
        found = [Likelihood(())] * len(continuations)
        kept, seam = (context[:-1], context[-1:]) if self.reuse else ((), context)
        sequences = [
            Tokens((*seam, *each.ids), (False,) * len(seam) + each.counted) for each in continuations
        ]  # the seam predicts a continuation's first token
        with evaluating(self.model.module), torch.no_grad():
            cache = self._cache(kept)
            lengths = [len(each) + len(kept) for each in sequences]
            for group in pack(lengths, POSITIONS, EXAMPLES):
                chosen = [sequences[k] for k in group]
                for k, row in zip(group, self._rows(chosen, _repeated(cache, len(chosen)), len(kept)), strict=True):
                    found[k] = row
        return found

    def generate(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """The likeliest next tokens, one by one, up to the end-of-text token or so many.

        Raises DataError where they do not fit the context.
        """
        if len(prompt) + tokens > self.task.max_length:
            raise DataError(
                f"A prompt of {len(prompt)} tokens and {tokens} to generate were asked for, and the context holds "
                f"{self.task.max_length}. Give fewer or shorter documents, or generate less."
            )
        module, end = self.model.module, self.task.tokenizer.eos_token_id
        made: list[int] = []
        with evaluating(module), torch.no_grad():
            step, cache = list(prompt), None
            while len(made) < tokens:
                ids = torch.tensor([step], device=self.model.device)
                output = module(
                    input_ids=ids, use_cache=self.reuse, **({} if cache is None else {"past_key_values": cache})
                )
                token = int(output.logits[0, -1].argmax())
                if token == end:
                    break
                made.append(token)
                cache = getattr(output, "past_key_values", None) if self.reuse else None
                step = [token] if cache is not None else [*prompt, *made]
        return made

    def _cache(self, ids: Sequence[int]) -> Any:
        """Keys and values of these tokens; None for none."""
        if not ids:
            return None
        head = find_head(self.model.module)
        part = self.model.module if head is None else head.backbone
        tokens = torch.tensor([list(ids)], device=self.model.device)
        return part(input_ids=tokens, use_cache=True).past_key_values

    def _rows(self, sequences: Sequence[Tokens], cache: Any, before: int) -> list[Likelihood]:
        """Of a batch; `before`: the cache's positions."""
        longest, device = max(map(len, sequences)), self.model.device
        ids = torch.full((len(sequences), longest), self.task.pad, device=device)
        counted = torch.zeros(ids.shape, dtype=torch.bool, device=device)
        for row, each in enumerate(sequences):
            ids[row, : len(each)] = torch.tensor(each.ids, device=device)
            counted[row, : len(each)] = torch.tensor(each.counted, device=device)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": cache is not None}
        if cache is not None:
            inputs["past_key_values"] = cache
        if not is_causal(self.model.module):
            lengths = torch.tensor([before + len(each) for each in sequences], device=device)
            inputs["attention_mask"] = (torch.arange(before + longest, device=device) < lengths[:, None]).long()
        logs, first = self._judged(inputs, ids, counted)
        ends = counted[:, 1:].sum(1).cumsum(0)[:-1].cpu().numpy()
        rows = zip(np.split(logs.double().cpu().numpy(), ends), np.split(first.cpu().numpy(), ends), strict=True)
        return [Likelihood.of(*row) for row in rows]

    def _judged(
        self, inputs: dict[str, Any], ids: Int[Tensor, "batch time"], counted: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Log p of each counted token and whether it is the likeliest, in order of rows and positions."""
        predicted, target = counted[:, 1:], ids[:, 1:][counted[:, 1:]]
        head = find_head(self.model.module)
        if head is None:
            return _judge(self.model.module(**inputs).logits[:, :-1][predicted], target)
        hidden: Tensor = head.backbone(**inputs).last_hidden_state[:, :-1][predicted]
        parts = [slice(start, start + head.chunk) for start in range(0, max(1, len(hidden)), head.chunk)]
        logs, first = zip(*(_judge(head.linear(hidden[part]), target[part]) for part in parts), strict=True)
        return torch.cat(logs), torch.cat(first)


def _judge(logits: Float[Tensor, "n c"], target: Int[Tensor, " n"]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Log p of each target, and whether nothing is likelier."""
    logits = precise(logits)
    first = logits.gather(1, target[:, None]).squeeze(1) >= logits.amax(1)
    return -Loss().of_logits(logits, target), first


def _repeated(cache: Any, times: int) -> Any:
    """A copy for so many continuations; whatever the layers keep (all keys, a window, a state)."""
    if cache is None:
        return None
    twin = copy.deepcopy(cache)
    twin.batch_repeat_interleave(times)
    return twin
