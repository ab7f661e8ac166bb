"""All benchmarks, and the table in docs/benchmarks.md made of their results.

    python -m benchmarks [--data DIR] [--peer PYTHON] [--kronfluence PYTHON] [--pydvl PYTHON] [--table]

Without `--data` (or $ASSAY_DATA) only the benchmarks that make their own data run; without `--peer` (or $ASSAY_PEER, the
Python of an environment with bergson, traker, dattri and captum), `--kronfluence` and `--pydvl` (likewise; the latter with
cleanlab) the peers are left out and the result says so. `--table` only writes the table.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.common import RESULTS, add_data, parser
from benchmarks.table import write_table


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--peer", default=os.environ.get("ASSAY_PEER"))
    arguments.add_argument("--kronfluence", default=os.environ.get("ASSAY_KRONFLUENCE"))
    arguments.add_argument("--pydvl", default=os.environ.get("ASSAY_PYDVL"))
    arguments.add_argument("--table", action="store_true")
    args = arguments.parse_args()
    if not args.table:
        pydvl = ["--pydvl", args.pydvl] if args.pydvl else []
        jobs = [
            ["benchmarks.scan"],
            ["benchmarks.metrics"],
            ["benchmarks.neighbors", *pydvl],
            ["benchmarks.valuation", "iris", *pydvl],
        ]
        if args.data:
            data = ["--data", str(args.data)]
            peer = lambda flag: [flag, args.peer] if args.peer else []  # noqa: E731
            kronfluence = [args.kronfluence] if args.kronfluence else []
            peers = [f"dattri={args.peer}"] * bool(args.peer) + [f"kronfluence={args.kronfluence}"] * len(kronfluence)
            jobs += [
                ["benchmarks.trak", *data, *peer("--peer")],
                ["benchmarks.indexing", *data, *peer("--bergson")],
                ["benchmarks.indexing", *data, "--growth"],
                ["benchmarks.ekfac", *data, *(["--kronfluence", *kronfluence] if kronfluence else [])],
                ["benchmarks.replay", *data],
                ["benchmarks.dynamics", *data],
                ["benchmarks.icp", *data],
                ["benchmarks.plan", *data],
                ["benchmarks.tracing", *data],
                ["benchmarks.fidelity", *data, "--peers", *peers],
                ["benchmarks.valuation", "adult", *data],
                ["benchmarks.speech", *data],
                ["benchmarks.dda", *data],
            ]
        else:
            print("No --data: the benchmarks on real models and data are left out.", file=sys.stderr)
        jobs.append(["benchmarks.infra"])
        jobs.append(["benchmarks.guard", *(["--data", str(args.data)] if args.data else [])])
        jobs.append(["benchmarks.trees", *(["--data", str(args.data)] if args.data else [])])
        for job in jobs:
            subprocess.run([sys.executable, "-m", *job], check=True)
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    print(f"Wrote {write_table(results, Path(__file__).parent.parent / 'docs' / 'benchmarks.md')}")


if __name__ == "__main__":
    main()
