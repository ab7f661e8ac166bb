"""Values of utterances on spoken digits: are corrupted recordings found, and does removing the lowest help the recogniser?

    python -m benchmarks.speech --data DIR [--epochs 25] [--share 0.1] [--seeds 3] [--removed 0.1 0.2 0.3]

DIR holds fsdd/*.wav (or data/fsdd/*.wav). In a tenth of the training utterances either noise is added (as loud as the speech) or
the transcript is another word. The recogniser (examples/speech.py) is trained on what results, the method `frames` values
every utterance for clean validation utterances, and the AUC says how well low values find the corrupted ones. Then the
recogniser is trained again without the lowest, and without as many at random: word error rates on the validation utterances'
other half, which no value has seen. Writes `benchmarks/results/speech.json`.
"""

import importlib.util
import json
import statistics
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.common import add_data, parser, save


def example() -> ModuleType:
    """examples/speech.py, which is a script."""
    path = Path(__file__).resolve().parent.parent / "examples" / "speech.py"
    spec = importlib.util.spec_from_file_location("example_speech", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def corrupted(speech: ModuleType, train: Any, how: str, share: float, seed: int) -> tuple[Any, np.ndarray]:
    """The same utterances, a share of them with noise or another word, and which."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(train)) < round(share * len(train))
    waves, words = list(train.waves), list(train.transcripts)
    for i in np.flatnonzero(wrong):
        if how == "noise":
            loud = float(np.sqrt(np.square(waves[i]).mean()))
            waves[i] = waves[i] + loud * rng.normal(size=len(waves[i]))
        else:
            words[i] = str(rng.choice([word for word in speech.WORDS if word != words[i]]))
    return speech.Utterances(waves, words, train.files), wrong


def halves(speech: ModuleType, data: Any) -> tuple[Any, Any]:
    """Every other validation utterance."""
    lists = (data.waves, data.transcripts, data.files)
    return speech.Utterances(*(part[::2] for part in lists)), speech.Utterances(*(part[1::2] for part in lists))


def once(speech: ModuleType, train: Any, valid: Any, how: str, args: Any, seed: int) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    import assay

    data, wrong = corrupted(speech, train, how, args.share, seed)
    asked, tested = halves(speech, valid)
    recipe = speech.recipe(args.epochs, seed)
    model = recipe.train(data).model
    values = assay.value(model, data, asked, "frames")
    found: dict[str, Any] = {
        "auc": {name: float(roc_auc_score(wrong, -values.raw[name])) for name in ("sum", "mean", "alignment")},
        "notes": values.provenance.notes,
        "word_error_rate": speech.word_error_rate(model, tested),
        "removal": {},
    }
    order = np.argsort(values.raw["mean"], kind="stable")
    chance = np.random.default_rng(1000 + seed).permutation(len(data))
    for share in args.removed:
        count, rates = round(share * len(data)), {}
        for name, rows in (("lowest", order), ("random", chance)):
            weights = torch.ones(len(data))
            weights[rows[:count].copy()] = 0.0
            rates[name] = speech.word_error_rate(recipe.train(data, weights).model, tested)
        found["removal"][str(share)] = rates
    return found


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--epochs", type=int, default=25)
    arguments.add_argument("--share", type=float, default=0.1)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--removed", type=float, nargs="*", default=[0.1, 0.2, 0.3])
    args = arguments.parse_args()
    if args.data is None:
        arguments.error("name the folder that holds fsdd/*.wav: --data DIR, or ASSAY_DATA=DIR")
    folder, speech = Path(args.data), example()
    train, valid = speech.read(folder / "fsdd" if (folder / "fsdd").is_dir() else folder / "data" / "fsdd")
    result: dict[str, Any] = {}
    for how in ("noise", "transcript"):
        runs = []
        for seed in range(args.seeds):
            runs.append(once(speech, train, valid, how, args, seed))
            print(how, seed, json.dumps({**runs[-1]["auc"], **runs[-1]["removal"]}), file=sys.stderr, flush=True)
        auc = {name: statistics.fmean(run["auc"][name] for run in runs) for name in ("sum", "mean", "alignment")}
        removal = {
            share: {
                name: statistics.fmean(run["removal"][share][name] for run in runs) for name in ("lowest", "random")
            }
            for share in map(str, args.removed)
        }
        rate = statistics.fmean(run["word_error_rate"] for run in runs)
        result[how] = {"auc": auc, "word_error_rate": rate, "removal": removal, "runs": runs}
    command = f"python -m benchmarks.speech --data DIR --epochs {args.epochs} --share {args.share} --seeds {args.seeds}"
    command += f" --removed {' '.join(map(str, args.removed))}"
    save("speech", command, result)


if __name__ == "__main__":
    main()
