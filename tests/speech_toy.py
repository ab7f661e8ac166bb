"""Made-up speech: symbols that last a few frames each, every symbol a Gaussian, as a hidden Markov model speaks."""

import numpy as np
import torch
from torch import Tensor, nn

SYMBOLS = "abcd"
WIDTH = 6


class Recordings(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Utterances (frames [time, features], transcript)."""

    def __init__(self, pairs: list[tuple[Tensor, str]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> tuple[Tensor, str]:
        return self.pairs[position]


class Linear(nn.Module):
    """A recogniser that looks at one frame at a time."""

    def __init__(self, hidden: int = 0) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, hidden), nn.Tanh()) if hidden else nn.Identity()
        self.head = nn.Linear(hidden or WIDTH, 1 + len(SYMBOLS))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def spoken(count: int, seed: int) -> list[tuple[Tensor, str]]:
    """Silence, three different symbols of 2 to 5 frames with silence between, silence."""
    rng = np.random.default_rng(seed)
    means = np.vstack([np.zeros(WIDTH), 3 * np.eye(len(SYMBOLS), WIDTH)])
    found: list[tuple[Tensor, str]] = []
    for _ in range(count):
        said = rng.permutation(len(SYMBOLS))[:3]
        states = np.concatenate([[0], *([s + 1] * int(rng.integers(2, 6)) + [0] for s in said)]).astype(int)
        x = means[states] + 0.6 * rng.normal(size=(len(states), WIDTH))
        found.append((torch.tensor(x, dtype=torch.float32), "".join(SYMBOLS[s] for s in said)))
    return found
