"""Which recordings help a recogniser of spoken digits, and which hurt? Values of utterances on the Free Spoken Digit Dataset.

    python examples/speech.py --data DIR [--out RUN] [--epochs 25]

DIR holds fsdd/*.wav, named {digit}_{speaker}_{take}.wav. A small convolutional network learns to spell the digits (CTC on
log mel spectrograms), takes 0-2 are the validation data, and each training utterance is valued for them: which are the
lowest, and what is each speaker worth? Takes about two minutes on two cores.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.io import wavfile
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

import assay

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = sorted(set("".join(WORDS)))
RATE, WINDOW, HOP, BANDS = 8000, 200, 80, 40
STRIDE = 2


class Utterances(torch.utils.data.Dataset):
    """(log mel frames [time, bands], transcript) by position; `files` names them."""

    def __init__(self, waves: list[np.ndarray], transcripts: list[str], files: list[str]) -> None:
        self.waves, self.transcripts, self.files = waves, transcripts, files
        self._frames = [log_mel(wave) for wave in waves]

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, position: int) -> tuple[Tensor, str]:
        return self._frames[position], self.transcripts[position]

    @property
    def speakers(self) -> list[str]:
        return [name.split("_")[1] for name in self.files]


def log_mel(wave: np.ndarray) -> Tensor:
    """Log mel spectrogram without its mean, 100 frames a second; at least 24 frames, so that every word can be spelled."""
    filters = mel_filter_bank(129, BANDS, 50.0, RATE / 2, RATE)
    wave = np.pad(wave, (0, max(0, 24 * HOP - len(wave))))
    window = window_function(WINDOW, "hann")
    mel = spectrogram(wave, window, WINDOW, HOP, fft_length=256, power=2.0, mel_filters=filters, log_mel="log",
                      mel_floor=1e-6)  # fmt: skip
    return torch.tensor((mel - mel.mean()).T / 4, dtype=torch.float32)


class Recogniser(nn.Module):
    """Three convolutions over time, the second halving the rate, and a linear layer; silence behind the end stays silent."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        steps = ((BANDS, width, 1), (width, width, STRIDE), (width, width, 1))
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 5, stride, padding=2) for a, b, stride in steps)
        self.head = nn.Linear(width, 1 + len(LETTERS))

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = torch.relu(layer(x))
            frames = (frames + layer.stride[0] - 1) // layer.stride[0]
            inside = torch.arange(x.shape[2], device=x.device)[None, :] < frames[:, None]
            x = x * inside[:, None, :]
        return self.head(x.transpose(1, 2))


def read(folder: Path) -> tuple[Utterances, Utterances]:
    """Training and validation utterances (takes 0-2)."""
    paths = sorted(folder.glob("*.wav"))
    if not paths:
        raise SystemExit(f"There are no recordings *.wav in {folder}; give the folder that holds fsdd/: --data DIR.")
    parts: list[tuple[list[np.ndarray], list[str], list[str]]] = [([], [], []), ([], [], [])]
    for path in paths:
        digit, _, take = path.stem.split("_")
        wave = wavfile.read(path)[1].astype(np.float64) / 2**15
        for kept, value in zip(parts[int(take) < 3], (wave, WORDS[int(digit)], path.stem), strict=True):
            kept.append(value)
    return Utterances(*parts[0]), Utterances(*parts[1])


def recipe(epochs: int, seed: int = 0) -> assay.Recipe:
    """How the recogniser is trained."""
    return assay.Recipe(Recogniser, assay.tasks.CTC(LETTERS, STRIDE), optimizer="adam", lr=2e-3, epochs=epochs,
                        batch_size=16, seed=seed, schedule="linear", clip=5.0)  # fmt: skip


def word_error_rate(model: assay.Model, data: Utterances) -> float:
    """Share of utterances that are not spelled right."""
    task = model.task
    items = [task.encode(example) for example in assay.read(data)]
    wrong = 0
    for start in range(0, len(items), 32):
        batch = task.collate(items[start : start + 32])
        found = task.transcribe(model.module, batch)
        wrong += sum(a != b for a, b in zip(found, data.transcripts[start : start + 32], strict=True))
    return wrong / len(items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    parser.add_argument("--out", type=Path, help="save the values as a run")
    parser.add_argument("--epochs", type=int, default=25)
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder that holds fsdd/: --data DIR, or ASSAY_DATA=DIR")
    folder = args.data / "fsdd"
    train, valid = read(folder if folder.is_dir() else args.data / "data" / "fsdd")
    model = recipe(args.epochs).train(train).model
    print(
        f"{len(train)} training utterances; word error rate on {len(valid)} others: {word_error_rate(model, valid):.3f}"
    )
    values = assay.value(model, train, valid, "frames")
    print("\n".join(values.provenance.notes))
    frame = pd.DataFrame({"utterance": train.files, "speaker": train.speakers, **values.raw})
    print("\nLowest by the mean of their frames:")
    print(frame.sort_values("mean").head(10).to_string(index=False, float_format="%.4g"))
    print("\nSpeakers (sums are additive):")
    print(frame.groupby("speaker")[["sum", "frames"]].sum().to_string(float_format="%.4g"))
    if args.out is not None:
        values.save(args.out)
        print(f"\nSaved to {args.out}; assay report {args.out}")


if __name__ == "__main__":
    main()
