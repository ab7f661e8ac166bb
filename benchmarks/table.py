"""docs/benchmarks.md from the result files."""

from pathlib import Path
from typing import Any

HEAD = """# Benchmarks

Written by `python -m benchmarks --table` from the files in `benchmarks/results/`. Machines are shared and noisy: read ratios, not
seconds. Every contender of a table ran in the same run, in turn, in a process of its own, on two threads; figures are medians.
"""


def write_table(results: dict[str, dict[str, Any]], path: Path) -> Path:
    """Write the page; a benchmark without a result file is left out."""
    parts = [HEAD] + [write(results[name]) for name, write in SECTIONS.items() if name in results]
    path.write_text("\n".join(parts))
    if "fidelity" in results:
        plot_fidelity(results["fidelity"], path.with_name("fidelity.svg"))
    return path


def _rows(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _made(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"`{result['command']}`, {machine['cpu']} ({machine['capability']}), torch {machine['torch']}.\n"


def indexing(result: dict[str, Any]) -> str:
    """Index building."""
    seconds, peaks = result["median_seconds"], result["peak_bytes"]
    rows = [
        [
            name,
            f"{s:.1f}",
            f"{s / seconds['plain frozen']:.2f}",
            f"{s / seconds['bergson']:.2f}" if "bergson" in seconds else "",
            f"{peaks[name] / 2**20:.0f}" if name in peaks else "",
        ]
        for name, s in seconds.items()
    ]
    table = _rows(["", "seconds", "of plain frozen", "of bergson", "peak MiB"], rows)
    return (
        f"## Building an index ({result['rows']} TinyStories, stories15m, rank 16 x 16)\n\n{_made(result)}\n{table}\n"
        "`plain frozen`: forward and backward without weight gradients by the model library. `assay` covers every parameter, the "
        "tied embedding and head included; `assay linear` the 42 layers that bergson covers. Aims: at most 1.0 of plain frozen, "
        "at most 0.65 of bergson, at most 1.5 of the plain pass's memory.\n"
    )


def growth(result: dict[str, Any]) -> str:
    """Growth with the number of examples and tokens."""
    rows = [
        [
            size,
            f"{run['tokens']:,}",
            f"{run['seconds']:.1f}",
            f"{1e6 * run['seconds'] / run['tokens']:.0f}",
            f"{run['peak'] / 2**20:.0f}",
        ]
        for size, run in result["sizes"].items()
    ]
    table = _rows(["examples x tokens at most", "tokens", "seconds", "microseconds a token", "peak MiB"], rows)
    return f"## Growth\n\n{_made(result)}\n{table}\nOne run each; linear time is a constant last but one column.\n"


def scan(result: dict[str, Any]) -> str:
    """The scan."""
    seconds = result["median_seconds"]
    table = _rows(
        ["", "seconds", "peak MiB"],
        [
            ["assay (int8, from disk)", f"{seconds['assay']:.2f}", f"{result['assay_peak_bytes'] / 2**20:.0f}"],
            [
                "faiss IndexFlatIP (float32, in memory)",
                f"{seconds['faiss']:.2f}",
                f"{result['faiss_peak_bytes'] / 2**20:.0f}",
            ],
        ],
    )
    return (
        f"## Exact top {result['k']} of {result['rows']:,} x {result['dim']:,} features, {result['queries']} queries\n\n{_made(result)}\n"
        f"{table}\nRatio {result['ratio']:.2f} (aim: at most 0.5), with a cold file cache {result['cold_cache_seconds']:.2f} s. "
        f"Against faiss on the same int8 features the same rows: {result['same_rows_as_faiss_on_the_int8_features']:.4f}; recall of int8 "
        f"against float32: {result['recall_of_int8_against_float32']:.4f} (aim: 0.95).\n"
    )


def trak(result: dict[str, Any]) -> str:
    """TRAK against its peers."""
    seconds = result["median_seconds"]
    fastest = min((s for name, s in seconds.items() if not name.startswith("assay")), default=float("nan"))
    table = _rows(
        ["", "seconds", "of the faster peer"], [[name, f"{s:.2f}", f"{s / fastest:.3f}"] for name, s in seconds.items()]
    )
    agree = _rows(
        ["pair", "Spearman of scores"], [[pair, f"{value:.2f}"] for pair, value in result["spearman"].items()]
    )
    return (
        f"## TRAK on the CPU (109k parameters, 500 x 50 MNIST images, 512 dimensions)\n\n{_made(result)}\n{table}\n"
        "Aim: at most 0.2 of the faster peer. `sjlt` sketches whole gradients to 512 numbers, as the peers project them; `factored` "
        f"projects both sides of each layer to 13.\n\n{agree}\n"
        "With fewer training examples (500) than dimensions (512) the Gram matrix is singular: the scores of any two random "
        "projections hardly agree, for any implementation. Use fewer dimensions than a quarter of the examples.\n"
    )


def fidelity(result: dict[str, Any]) -> str:
    """Linear datamodeling scores of every method, and what each cost."""
    parts = [
        f"## Fidelity\n\n{_made(result)}\n"
        "Linear datamodeling score: mean over queries of the Spearman correlation, over random halves of the training data, "
        "between sums of scores and the losses of models retrained on them; with a 95% interval over queries and subsets. The "
        "retrainings are deterministic, so that the ceiling is 1. `removed=0.5` linearises at the mean of the halves. Seconds contain the "
        "training of the model that a method of ours looks at, and not that of a peer. Hyper-parameters other than defaults stand "
        "behind the name; they were chosen on other images and texts (`--split tune`). [What was learnt](fidelity.md).\n\n"
        "![fidelity against cost](fidelity.svg)\n"
    ]
    for name, setting in result["settings"].items():
        rows = [
            [
                f"`{text}`",
                f"{row['lds']:.3f}",
                f"{row['low']:.3f} to {row['high']:.3f}",
                str(row["queries"]),
                f"{row['seconds']:.1f}",
                f"{row['peak'] / 2**20:.0f}" if "peak" in row else "",
            ]
            for text, row in sorted(setting["rows"].items(), key=lambda item: -item[1]["lds"])
        ]
        failed = "".join(f"\n`{text}` failed: {why}\n" for text, why in setting["failed"].items())
        head = f"### {name}: {setting['train']} training examples, {setting['subsets']} retrainings\n"
        parts.append(f"{head}\n{_rows(['', 'LDS', '95% interval', 'queries', 'seconds', 'peak MiB'], rows)}{failed}")
    return "\n".join(parts)


def plot_fidelity(result: dict[str, Any], path: Path) -> None:
    """Fidelity against seconds, a panel a setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = result["settings"]
    height = -(-len(settings) // 2)
    figure, axes = pyplot.subplots(height, 2, figsize=(14, 5 * height), squeeze=False, layout="constrained")
    for axis, (name, setting) in zip(axes.flat, settings.items(), strict=False):
        for text, row in setting["rows"].items():
            marker = "s" if "version" in row else "o"
            error = [[max(row["lds"] - row["low"], 0)], [max(row["high"] - row["lds"], 0)]]
            axis.errorbar(row["seconds"], row["lds"], yerr=error, fmt=marker, markersize=4, linewidth=0.8)
            axis.annotate(
                text.replace(":", "\n").replace(",segments", "\nsegments"),
                (row["seconds"], row["lds"]),
                (3, 3),
                textcoords="offset points",
                fontsize=6,
            )
        axis.set(xscale="log", xlabel="seconds", title=name, ylim=(-0.1, 1.02))
        axis.set_xlim(right=3 * max(row["seconds"] for row in setting["rows"].values()))
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set_ylabel("linear datamodeling score (squares: peers)")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def ekfac(result: dict[str, Any]) -> str:
    """EK-FAC against kronfluence."""
    parts = result["median_seconds"]
    peer = parts["seconds"].get("kronfluence")
    rows = [
        [
            name,
            f"{seconds:.1f}",
            f"{parts['factors'][name]:.1f}" if name in parts["factors"] else "",
            f"{parts['scores'][name]:.1f}" if name in parts["scores"] else "",
            f"{seconds / parts['seconds']['plain']:.2f}",
            f"{seconds / peer:.2f}" if peer else "",
        ]
        for name, seconds in parts["seconds"].items()
    ]
    table = _rows(["", "seconds", "factors", "scores", "of plain", "of kronfluence"], rows)
    many = parts["scores"]["64 queries"] / parts["scores"]["one query"]
    agree = "".join(
        f" On the {name}: {found['mean']:.4f} (least of a query {found['least']:.4f})."
        for name, found in result.get("agreement", {}).items()
    )
    return (
        f"## EK-FAC: factors and scores (stories15m, 100 TinyStories, 8 queries, 42 projections)\n\n{_made(result)}\n{table}\n"
        f"`plain`: the model library's forward and backward pass, once. Aims: at most 0.4 of kronfluence, towards three plain "
        f"passes; 64 queries at most 1.5 times one query in the scan: {many:.2f}. Spearman correlation of the scores with "
        f"kronfluence's (aim 0.98):{agree}\n"
    )


def replay(result: dict[str, Any]) -> str:
    """What replay costs in training runs."""
    rows = [
        [setting, what, f"{seconds:.1f}", f"{seconds / found['median_seconds']['training']:.1f}",
         f"{found['peak_bytes'][what] / 2**20:.0f}"]
        for setting, found in result["settings"].items()
        for what, seconds in found["median_seconds"].items()
    ]  # fmt: skip
    table = _rows(["setting", "", "seconds", "training runs", "peak MiB"], rows)
    each = ", ".join(f"{name} {found['each of 50 in training runs']:.2f}" for name, found in result["settings"].items())
    return (
        f"## Replay\n\n{_made(result)}\n{table}\nThe run itself is recorded in each. Aims: one query at most 6 training runs; 50 queries "
        f"together at most 1.2 each: {each}.\n"
    )


def trees(result: dict[str, Any]) -> str:
    """Trees: time, label noise, and BoostIn against leave-one-out."""
    seconds = _rows(["", "seconds"], [[name, f"{value:.2f}"] for name, value in result["median_seconds"].items()])
    ratios = "; ".join(f"{name} {value:.3f}" for name, value in result["ratios"].items())
    parts = [
        f"## Trees (100 trees; BoostIn with 10,000 rows, the others with 1,000; 100 queries)\n\n{_made(result)}\n{seconds}\n"
        f"Ratios: {ratios}. Aims: BoostIn at most 0.3 of tree_influence, LeafInfluence and LeafRefit at most 0.05, and "
        "LeafInfluence at most 1 of CatBoost's AllPoints.\n"
    ]
    if "label_noise_auc" in result:
        noise: dict[str, dict[str, float]] = result["label_noise_auc"]
        names = list(next(iter(noise.values())))
        rows = [[name, *(f"{found[name]:.3f}" if name in found else "" for found in noise.values())] for name in names]
        parts.append(
            f"ROC AUC of finding 10% flipped labels of adult:\n\n{_rows(['', *(f'{n} rows' for n in noise)], rows)}\n"
            "Aim: 0.98 for the best at 1,000 rows.\n"
        )
    if "claim" in result:
        rows = [
            [name, str(c["rows"]), f"{c['boostin']:.2f}", f"{c['leave-one-out']:.0f}", f"{c['ratio']:.0f}"]
            for name, c in result["claim"].items()
        ]
        parts.append(
            "BoostIn (fit and 100 queries) against leave-one-out (one refit times the rows), seconds:\n\n"
            + _rows(["", "rows", "BoostIn", "leave-one-out", "ratio"], rows)
        )
    return "\n".join(parts)


def metrics(result: dict[str, Any]) -> str:
    """Metrics against dattri's and quanda's."""
    found = result["found"]
    bare = found["assay, number only"]
    rows = [
        [
            metric,
            *(f"{found[who][metric]['seconds']:.4f}" if metric in found.get(who, {}) else "" for who in found),
            *(
                f"{found[who][metric]['seconds'] / bare.get(metric, whole)['seconds']:.0f}x"
                if metric in found.get(who, {})
                else ""
                for who in ("dattri", "quanda")
            ),
        ]
        for metric, whole in found["assay"].items()
    ]
    table = _rows(["metric", *(f"{who}, s" for who in found), "dattri / assay", "quanda / assay"], rows)
    return (
        f"## Metrics ({result['rows']:,} training examples, 50 queries, 100 subsets)\n\n{_made(result)}\n{table}\n"
        "`assay` is what a user calls, intervals and paired differences included; the ratios compare numbers without intervals, as the peers "
        "have none (`tracing` and `cardinality` with them). Aim: 20x. All numbers agree to 1e-4. A defect to know of: quanda adds 1e-4 times "
        "the row's number to each value before it ranks mislabelled rows, which at this size reorders values of the size of one; the "
        "values were scaled to be compared at all.\n"
    )


SECTIONS = {
    "fidelity": fidelity, "ekfac": ekfac, "replay": replay, "indexing": indexing, "growth": growth, "scan": scan, "trak": trak,
    "trees": trees, "metrics": metrics,
}  # fmt: skip
