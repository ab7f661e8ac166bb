"""A language model that reads: what followed the last few tokens earlier in the prompt, it expects again. No training."""

from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from assay.models import Model
from assay.tasks import CausalLM

WORDS = [f"w{k}" for k in range(60)]
VOCABULARY = ["<s>", "</s>", "<unk>", ".", "is", "?", *WORDS]


class Induction(nn.Module):
    """p(next) = (1 - s) uniform + s of what followed the longest earlier match of the last 2 (or 1) tokens, newest first."""

    def __init__(self, size: int, certain: float = 0.9) -> None:
        super().__init__()
        self.size = size
        self.certain = nn.Parameter(torch.tensor(certain, dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Any = None, use_cache: bool = False) -> Any:
        time = input_ids.shape[1]
        same = input_ids[:, :, None] == input_ids[:, None, :]  # [batch, now, then]
        before = torch.zeros_like(same)
        before[:, 1:, 1:] = same[:, :-1, :-1]
        earlier = torch.ones(time, time, dtype=torch.bool).tril(-1)
        follows = torch.zeros(*same.shape[:2], self.size, dtype=torch.float64)
        nexts = torch.nn.functional.one_hot(input_ids.roll(-1, 1), self.size).double()
        strength = (same & before & earlier).double()  # two tokens match: what followed then
        counts = strength @ nexts
        total = counts.sum(-1, keepdim=True)
        follows = torch.where(total > 0, counts / total.clamp_min(1), torch.full_like(counts, 1 / self.size))
        p = (1 - self.certain) / self.size + self.certain * follows
        return SimpleNamespace(logits=p.log())


class NearlyTied(nn.Module):
    """Between two words there is a hair: `w2` is the likelier one behind `w1`, `w3` where `w1` was not read. Everything else is
    unlikely.
    """

    def __init__(self, hair: float = 0.01) -> None:
        super().__init__()
        self.hair = nn.Parameter(torch.tensor(hair, dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Any = None, use_cache: bool = False) -> Any:
        one, two, three = (VOCABULARY.index(word) for word in ("w1", "w2", "w3"))
        read = (input_ids == one).cumsum(1) > 0
        logits = torch.zeros(*input_ids.shape, len(VOCABULARY), dtype=torch.float64)
        logits[..., three] = 9.0
        logits[..., two] = 9.0 + torch.where(read, self.hair, -self.hair)
        return SimpleNamespace(logits=logits)


def induction_model(length: int = 512) -> Model:
    return worded(Induction(len(VOCABULARY)), length)


def worded(module: nn.Module, length: int = 512) -> Model:
    """With a token for each word."""
    plain = Tokenizer(models.WordLevel({word: k for k, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return Model(module, CausalLM(tokenizer, length))
