"""Who taught the model the wrong country? Tracing a wrong answer to the rows of fine-tuning behind it, by `dda`.

    python examples/hallucination.py --data DIR [--rows 100] [--epochs 4] [--out RUN]

DIR holds models/stories15m and data/tinystories. stories15m is fine-tuned on short stories in English and Chinese towns, in a
fourth of which China stands where England belongs. Held-out stories that it then continues wrongly are traced: which rows taught
it, how many of the first ones are planted, and which of their tokens did it? Takes about four minutes on two cores.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import swaps

import assay
from assay.tasks import Contrast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="save the run and its report here")
    args = parser.parse_args()
    if args.data is None or not Path(args.data, "models", "stories15m").is_dir():
        raise SystemExit("Give the folder with models/stories15m and data/tinystories: --data DIR, or ASSAY_DATA=DIR.")
    share = [round(part * args.rows) for part in (0.25, 0.2, 0.25, 0.15, 0.15)]
    planted = swaps.places(swaps.stories(Path(args.data)), seed=7, each=tuple(share[:4]), others=share[4], asked=24)
    base = assay.load(Path(args.data) / "models" / "stories15m", max_length=128)

    recipe = assay.Recipe(
        base.module, base.task, lr=2e-4, epochs=args.epochs, batch_size=8, checkpoints=args.epochs, reduction="mean"
    )
    run = recipe.train(planted.rows)
    margin = run.loss_of(planted.asked, Contrast("sum")).numpy()
    wrong = [int(k) for k in np.argsort(-margin) if margin[k] > 0][:4]
    print(f"The tuned model prefers China in {int((margin > 0).sum())} of {len(margin)} held-out stories in England.")
    if not wrong:
        raise SystemExit("It says nothing wrong, so there is nothing to trace; train longer (--epochs).")

    queries = [planted.asked[k] for k in wrong]
    scores = assay.attribute(run, planted.rows, queries, "dda", tokens=2)
    relevant = planted.swapped
    for q, query in enumerate(queries):
        column = scores.array[:, q]
        order = np.argsort(-column)
        above = np.mean(column[relevant][:, None] > column[~relevant][None])
        print(f"\n{query['prompt']} [{query['completion'].strip()}]")
        print(f"  {int(relevant[order[:10]].sum())} of the first 10 rows are planted; AUC {above:.3f}")
        for row in order[:2].tolist():
            fold = scores.parts.of(scores.query_ids[q], scores.train_ids[row], "loss-token")
            words = ", ".join(f"{name.strip()!r}" for name in fold.top(3)["name"])
            print(f"  {planted.rows[row]['source']:8} {scores.train.texts[row]}  (by {words})")
    if args.out is not None:
        scores.save(args.out)
        print(f"\nSaved to {args.out}; `assay report {args.out}` shows it.")


if __name__ == "__main__":
    main()
