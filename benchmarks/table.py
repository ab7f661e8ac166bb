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
    if "dynamics" in results:
        plot_dynamics(results["dynamics"], path.with_name("dynamics.svg"))
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


def seconds_of(row: dict[str, Any]) -> float:
    """Of the processor where they were counted: one thread, so that they are those of a clock on a machine of its own."""
    return row.get("cpu", row["seconds"])


def fidelity(result: dict[str, Any]) -> str:
    """Linear datamodeling scores of every method, and what each cost."""
    parts = [
        f"## Fidelity\n\n{_made(result)}\n"
        "Linear datamodeling score: mean over queries of the Spearman correlation, over random halves of the training data, "
        "between sums of scores and the losses of models retrained on them; with a 95% interval over queries and subsets. The "
        "retrainings are deterministic, so that the ceiling is 1. `removed=0.5` linearises at the mean of the halves. Seconds are those of one "
        "thread, of the processor where they were counted apart; they contain the "
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
                f"{seconds_of(row):.1f}",
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
            axis.errorbar(seconds_of(row), row["lds"], yerr=error, fmt=marker, markersize=4, linewidth=0.8)
            axis.annotate(
                text.replace(":", "\n").replace(",segments", "\nsegments"),
                (seconds_of(row), row["lds"]),
                (3, 3),
                textcoords="offset points",
                fontsize=6,
            )
        axis.set(xscale="log", xlabel="seconds", title=name, ylim=(-0.1, 1.02))
        axis.set_xlim(right=3 * max(seconds_of(row) for row in setting["rows"].values()))
        axis.axhline(0, color="grey", linewidth=0.5)
        axis.set_ylabel("linear datamodeling score (squares: peers)")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def ekfac(result: dict[str, Any]) -> str:
    """EK-FAC against its peers."""
    speed = result["speed"]
    parts = speed["median_seconds"]
    seconds, peaks = parts["seconds"], parts["peak"]
    peer = seconds.get("kronfluence")
    rows = [
        [
            name,
            f"{each:.1f}",
            *(f"{parts[part][name]:.1f}" if name in parts[part] else "" for part in ("factors", "scores", "scan")),
            f"{peaks[name] / 2**20:.0f}" if name in peaks else "",
            f"{each / seconds['plain']:.2f}",
            f"{each / peer:.2f}" if peer else "",
        ]
        for name, each in seconds.items()
    ]
    table = _rows(["", "seconds", "factors", "scores", "scan", "peak MiB", "of plain", "of kronfluence"], rows)
    many = parts["scan"]["64 queries"] / parts["scan"]["one query"]
    agree = [
        [setting, what, f"{each['mean']:.4f}", f"{each['least']:.4f}"]
        for setting, found in result.get("agreement", {}).items()
        for what, each in found.items()
    ]
    compared = _rows(["setting", "labels of the Fisher matrix", "mean", "least of a query"], agree)
    return (
        f"## EK-FAC: factors and scores (stories15m, 100 TinyStories, 8 queries, 42 projections)\n\n{_made(result)}\n{table}\n"
        "`plain`: the model library's forward and backward pass, once, weight gradients included. `scan`: the pass of the scores over the "
        "training examples; the rest of `scores` is the queries' own gradients and solves. Aims: at most 0.4 of kronfluence, towards three "
        f"plain passes; 64 queries at most 1.5 times one query in the scan: {many:.2f}. dattri 0.3.0's EK-FAC refuses inputs with a "
        "sequence axis, so it cannot do this work.\n\n"
        "Spearman correlation of our scores with kronfluence's, per query (aim 0.98). With drawn labels each of the two draws its own, so "
        f"that the last row of a setting, ours against ours with another seed, is what draws alone leave.\n\n{compared}\n"
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
    each = ", ".join(
        f"{name} {found['each of 50 queries in training runs']:.2f} exactly and "
        f"{found['each of 50 queries, gauss-newton in training runs']:.2f} with the Gauss-Newton matrix"
        for name, found in result["settings"].items()
    )
    return (
        f"## Replay\n\n{_made(result)}\n{table}\nThe run itself is recorded in each. Aims: one query at most 6 training runs; 50 queries "
        f"together at most 1.2 each: {each}.\n"
    )


def trees(result: dict[str, Any]) -> str:
    """Trees: time, label noise, and BoostIn against leave-one-out."""
    sections = {
        "time": _tree_time, "leaf-influence": _tree_time, "leaf-refit": _tree_time, "noise": _tree_noise, "claim": _tree_claim,
    }  # fmt: skip
    parts = result["parts"]
    made = {name: _made({**parts[name], "machine": result["machine"]}) for name in sections if name in parts}
    head = (
        "## Trees\n\n100 trees; BoostIn with 10,000 rows, LeafInfluence and LeafRefit with 1,000; 100 queries. LightGBM's models, of the "
        "same rows, for us and for tree_influence; CatBoost's where it says so, the same model for both.\n"
    )
    return "\n".join([head, *(f"{made[name]}\n{sections[name](parts[name])}" for name in made)])


def _tree_time(part: dict[str, Any]) -> str:
    seconds, cpu, runs = part["median_seconds"], part.get("median_cpu", {}), part["runs"]
    rows = [
        [name, f"{value:.2f}", f"{cpu[name]:.2f}" if name in cpu else "", str(len(runs[name])),
         f"{max(run['peak'] for run in runs[name]) / 2**20:.0f}"]
        for name, value in seconds.items()
    ]  # fmt: skip
    told = list[str]()
    for pair, value in part["ratios"].items():
        ours, theirs = pair.split(" / ")
        processor = (
            f" ({cpu[ours] / cpu[theirs]:.4f} of its processor seconds)" if ours in cpu and theirs in cpu else ""
        )
        aim = "1" if "CatBoost" in pair else "0.3" if pair.startswith("boostin") else "0.05"
        told.append(f"`{ours}` takes {value:.4f} of {theirs}{processor}; aim: at most {aim}.")
    table = _rows(["", "seconds", "processor seconds", "runs", "peak MiB"], rows)
    rows_told = f"{part['rows']:,} rows.\n\n" if "rows" in part else ""
    note = f"\n{part['note']}\n" if "note" in part else ""
    return f"{rows_told}{table}\n{' '.join(told)}\n{note}"


def _tree_noise(part: dict[str, Any]) -> str:
    sets: dict[str, dict[str, float]] = part["auc"]
    names = [name for name in next(iter(sets.values())) if not name.startswith("seconds of ")]
    rows = [
        [name, *(f"{found[name]:.3f}" if name in found else "" for found in sets.values())] for name in names
    ]  # fmt: skip
    best = {
        where: max((value, name) for name, value in found.items() if name != "bound" and not name.startswith("seconds"))
        for where, found in sets.items()
    }
    told = "; ".join(f"{where} rows: {name} {value:.3f}" for where, (value, name) in best.items())
    return (
        "ROC AUC of finding 10% flipped labels, CatBoost with 100 trees, mean of three seeds. `bound`: a model of "
        "10,000 other rows with true labels (for what is made, the true probability) ranks the rows; more is not to be expected.\n\n"
        f"{_rows(['', *(f'{where} rows' for where in sets)], rows)}\nBest: {told}. Aim at 1,000 rows: 0.98.\n"
    )


def _tree_claim(part: dict[str, Any]) -> str:
    rows = [
        [name, f"{c['rows']:,}", f"{c['boostin']:.2f}", f"{c['leave-one-out']:,.0f}", f"{c['ratio']:,.0f}",
         f"{c['ratio of processor seconds']:,.0f}", f"{c['agreement']:.2f}", f"{c['agreement of means']:.2f}"]
        for name, c in part["sets"].items()
    ]  # fmt: skip
    refits = max(c["refits"] for c in part["sets"].values())
    head = [
        "",
        "rows",
        "BoostIn",
        "leave-one-out",
        "ratio",
        "of processor seconds",
        "rank agreement, by query",
        "of means",
    ]
    return (
        "BoostIn (fit, and scores of all rows for 100 queries) against leave-one-out with LightGBM, seconds. Leave-one-out is extrapolated: "
        f"{refits} refits without a row were timed and compared, half of those rows drawn at random and half among BoostIn's largest 5%.\n\n"
        f"{_rows(head, rows)}\nThe ratio grows with the rows, since BoostIn costs about as much as one refit. Refits let splits move, and a moved "
        "split changes queries that share no leaf with the row: what no method with fixed splits can follow.\n"
    )


def neighbors(result: dict[str, Any]) -> str:
    """KNN-Shapley against its peers."""
    rows = [
        [
            name,
            peer,
            f"{seconds:.2f}",
            f"{found['peak_bytes'][peer] / 1e9:.2f}",
            f"{found['auc_of_wrong_labels'][peer]:.3f}",
            f"{found['ratio']:.3f}" if peer == "assay" and "ratio" in found else "",
        ]
        for name, found in result["settings"].items()
        for peer, seconds in found["seconds"].items()
    ]
    table = _rows(["setting", "", "seconds", "peak GB", "AUC of wrong labels", "of the peer"], rows)
    return (
        f"## KNN-Shapley\n\n{_made(result)}\n{table}\n"
        "Aims: at most 0.05 of pyDVL for queries; at most 0.2 of cleanlab and under 0.5 GB for data valued on themselves (its default "
        "distance, cosine). Ours are exact values of all rows; cleanlab looks at the K nearest alone and counts the others as 0, which "
        "is less work with a small K, and finds fewer wrong labels.\n"
    )


def iris(result: dict[str, Any]) -> str:
    """Permutation Shapley against pyDVL."""
    seconds = result["median_seconds"]
    rows = [
        [name, f"{s:.2f}", f"{s / peer:.3f}" if (peer := seconds.get(f"pydvl,{name.rpartition(',')[2]}")) else ""]
        for name, s in seconds.items()
    ]
    return (
        f"## Permutation Shapley on iris (90 rows, logistic regression, {result['updates']} orders)\n\n{_made(result)}\n"
        f"{_rows(['', 'seconds', 'of pyDVL'], rows)}\n`plain`: every fit is scikit-learn's; else each starts from the last. Aims: at "
        "most 0.1 of pyDVL, and two processes faster than one.\n"
    )


def mislabelled(result: dict[str, Any]) -> str:
    """Flipped labels of adult."""
    spread = lambda row, name: "" if row[f"{name}_stderr"] is None else f" ± {2 * row[f'{name}_stderr']:.3f}"  # noqa: E731
    rows = [
        [
            f"`{row['method']}`",
            f"{row['f1']:.3f}{spread(row, 'f1')}",
            "" if row["published_f1"] is None else f"{row['published_f1']:.3f}",
            f"{row['auc']:.3f}{spread(row, 'auc')}",
            f"{row['seconds']:.1f}",
        ]
        for row in sorted(result["methods"].values(), key=lambda row: -row["f1"])
    ]
    return (
        f"## Mislabelled rows of adult ({result['rows']:,} rows, {result['flips']:.0%} flipped, logistic regression)\n\n{_made(result)}\n"
        f"{_rows(['', 'F1 by k-means', 'published', 'AUC', 'seconds'], rows)}\nMeans over the seeds, with twice the standard error; "
        "parameters were chosen on other seeds. Published: OpenDataVal's figures. Aims: each at least that, the best at least 0.65.\n"
    )


def speech(result: dict[str, Any]) -> str:
    """Corrupted utterances: found, and removed."""
    kinds = {"noise": "noise added", "transcript": "transcripts swapped"}
    auc = [[kinds[how], *(f"{value:.3f}" for value in result[how]["auc"].values())] for how in kinds]
    removal = [
        [kinds[how], f"{float(share):.0%}", f"{found['lowest']:.3f}", f"{found['random']:.3f}", f"{result[how]['word_error_rate']:.3f}"]
        for how in kinds
        for share, found in result[how]["removal"].items()
    ]  # fmt: skip
    names = list(result["noise"]["auc"])
    return (
        f"## Speech: corrupted utterances of spoken digits\n\n{_made(result)}\nAUC of finding the tenth of the utterances that was "
        f"corrupted, by the sum or mean of frame values, and by the score of the alignment:\n\n{_rows(['', *names], auc)}\n"
        "Aim: 0.85. Word error rate on utterances that no value has seen, trained without the lowest or without random ones:\n\n"
        f"{_rows(['', 'removed', 'lowest', 'random', 'none removed'], removal)}"
    )


def _mean(values: list[float], scale: float = 1.0) -> str:
    """Mean with half of a 95% interval over the seeds (Student)."""
    from scipy.stats import t

    n = len(values)
    mean = sum(values) / n
    spread = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5 if n > 1 else float("nan")
    return f"{scale * mean:.{3 if scale == 1 else 1}f} ± {scale * t.ppf(0.975, max(n - 1, 1)) * spread / n**0.5:.{3 if scale == 1 else 1}f}"


def dynamics(result: dict[str, Any]) -> str:
    """Training dynamics: pruning and wrong labels."""
    seeds, kept = result["runs"]["text"], result["kept"]
    full = [100 * seed["pruning"]["full"]["full"][0] for seed in seeds]
    header = ["score", "selector", *(f"{share:.0%} kept" for share in kept)]
    rows = [
        [
            "random",
            "",
            *(_mean([seed["pruning"]["random"]["random"][k] for seed in seeds], 100) for k in range(len(kept))),
        ]
    ]
    better = 0
    cells = 0
    for name, arms in seeds[0]["pruning"].items():
        if name in ("random", "full"):
            continue
        for arm in arms:
            line = [f"`{name}`", arm]
            for k in range(len(kept)):
                gap = [s["pruning"][name][arm][k] - s["pruning"]["random"]["random"][k] for s in seeds]
                text = _mean(gap, 100)
                value, half = (float(part) for part in text.split(" ± "))
                better += value > half
                cells += 1
                line.append(f"**{value:+.1f}** ± {half}" if value > half else f"{value:+.1f} ± {half}")
            rows.append(line)
    found = {f"SST-2, {share:.0%} flipped": [s["mislabelled"] for s in seeds] for share in result["flips"]}
    images = result["runs"].get("images", [])
    names = list(seeds[0]["mislabelled"])
    names += [name for name in (images[0]["mislabelled"] if images else {}) if name not in names]
    wrong = []
    for name in names:
        line = [f"`{name}`"]
        for group in (seeds, images):
            for k in range(len(result["flips"])):
                known = [s["mislabelled"][name][k] for s in group if name in s["mislabelled"]]
                line.append(_mean(known) if known else "")
        wrong.append(line)
    heads = [*found, *(f"MNIST, {share:.0%} flipped" for share in result["flips"])]
    seconds = [s["seconds"] for s in seeds]
    n = seeds[0]["rows"]
    plain, recorded = (1e3 * sum(s[key] for s in seconds) / len(seconds) / n for key in ("plain", "recorded"))
    published = result["published"]
    return (
        f"## Training dynamics (SST-2, {n:,} sentences, a bag of embeddings; {len(seeds)} seeds)\n\n{_made(result)}\n"
        f"Test accuracy with all rows {_mean(full)}%. The line to beat, and behind it the difference to it in points, paired by seed, with a "
        "95% interval; bold where the interval lies above 0. `hard`, `softmax` and `linear` drop the easy end, `hardest` the hard end. Nothing "
        f"was tuned.\n\n{_rows(header, rows)}\n{better} of {cells} cells are better than random by that interval; 2.5% would be by chance. "
        f"Published (SNLI, BERT-small): {published['vog, 55% kept']} ± {published['vog, standard deviation']} with 55% kept by VoG, "
        f"{published['full']} in full.\n\n![accuracy against share kept](dynamics.svg)\n\n"
        f"### Wrong labels\n\nArea under the curve, mean over seeds with a 95% interval.\n\n{_rows(['score', *heads], wrong)}\n"
        f"Cost of recording everything (batches, gradient norms after each of 5 epochs, input gradients at 10 looks): {recorded:.2f} ms of a "
        f"processor an example for the whole run, of which training is {plain:.2f} ms.\n"
    )


def plot_dynamics(result: dict[str, Any], path: Path) -> None:
    """Accuracy against share kept, a panel a selector."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seeds, kept = result["runs"]["text"], [1.0, *result["kept"]]

    def mean(name: str, arm: str) -> list[float]:
        rows = [[seed["pruning"]["full"]["full"][0], *seed["pruning"][name][arm]] for seed in seeds]
        return [100 * sum(row[k] for row in rows) / len(rows) for k in range(len(kept))]

    arms = [
        arm
        for name, arm in ((n, a) for n, found in seeds[0]["pruning"].items() for a in found)
        if name not in ("random", "full")
    ]
    arms = list(dict.fromkeys(arms))
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 9), sharey=True, layout="constrained")
    for axis, arm in zip(axes.flat, arms, strict=False):
        for name in seeds[0]["pruning"]:
            if name not in ("random", "full"):
                axis.plot([100 * share for share in kept], mean(name, arm), marker=".", linewidth=1, label=name)
        line = mean("random", "random")
        low, high = (
            [100 * pick(s["pruning"]["random"]["random"][k] for s in seeds) for k in range(len(kept) - 1)]
            for pick in (min, max)
        )
        axis.plot([100 * share for share in kept], line, color="black", linewidth=2, label="random")
        axis.fill_between([100 * share for share in kept[1:]], low, high, color="grey", alpha=0.3)
        axis.set(title=arm, xlabel="% kept", ylabel="test accuracy, %")
        axis.invert_xaxis()
    axes.flat[0].legend(fontsize=7)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def dda(result: dict[str, Any]) -> str:
    """Tracing planted entity swaps."""
    run = result["runs"][0]
    scans = [[s for name, s in run["seconds"].items() if name[:5] == "epoch"][1:] for run in result["runs"]]
    seconds = [sum(some) / run["rows"] for some, run in zip(scans, result["runs"], strict=True)]

    def table(rows: list[dict[str, Any]]) -> str:
        return _rows(
            ["", "AUC", "95% interval", "by seed", "dda is above it by"],
            [
                [
                    f"`{row['method']}`", f"{row['auc']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}",
                    ", ".join(f"{value:.2f}" for value in row["by_seed"]),
                    f"{row['dda_above']:+.3f} ({row['above_low']:+.3f} to {row['above_high']:+.3f})",
                ]
                for row in sorted(rows, key=lambda row: -row["auc"])
            ],
        )  # fmt: skip

    betas = {beta: sum(run["curve"][beta] for run in result["runs"]) / len(result["runs"]) for beta in run["curve"]}
    curve = _rows(["beta", *betas], [["AUC", *(f"{value:.3f}" for value in betas.values())]])
    return (
        f"## Tracing planted entity swaps (stories15m, {run['rows']} rows, {run['swapped']} swapped)\n\n{_made(result)}\n"
        f"{table(result['rows'])}\nMean over {sum(len(run['auc']['dda']) for run in result['runs'] if 'bm25' in run['auc'])} wrong answers. "
        f"Aim: at least 0.93, above TracIn, TRAK, EK-FAC and BM25. `dda` takes {sum(seconds) / max(len(seconds), 1):.2f} s an example "
        f"for all queries of a seed, one scan an epoch, on one thread of a machine with other work.\n\n### Without its parts, over {len(result['runs'])} seeds\n\n{table(result['ablation'])}\n{curve}\n"
        "[What was learnt](methods/dda.md).\n"
    )


def infra(result: dict[str, Any]) -> str:
    """The difficulty flip."""
    rows = [
        [
            row["mixture"], row["measure"], f"{row['mean']:.3f}",
            "" if row["mixture"] == "as it is" else f"{row['above']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
        ]
        for row in result["rows"]
    ]  # fmt: skip
    chosen = "; ".join(f"seed {run['seed']}: {', '.join(run['flipped']) or 'none'}" for run in result["runs"])
    each = [run["seconds"] / run["examples"] for run in result["runs"]]
    return (
        f"## The difficulty flip (graded arithmetic and brackets, {len(result['runs'])} seeds)\n\n{_made(result)}\n"
        f"{_rows(['mixture', '', 'mean', 'above as it is, 95% interval over seeds'], rows)}\nInfluence flipped: {chosen}. Infra takes "
        f"{1000 * sum(each) / len(each):.1f} ms an example here. [What was learnt](reasoning.md#the-difficulty-flip).\n"
    )


def linfik(result: dict[str, Any]) -> str:
    """Scorers of LinFiK, and selections by them; what was not measured is left out."""
    known = _rows(
        ["target", "sample", "taught", "Spearman", "within a domain", "told by the scorer", "90% intervals hold"],
        [
            [
                *name.split(", "),
                f"{c['spearman']:.3f} ± {c['sd']:.3f}",
                f"{c['within']:.2f}",
                f"{c['told']:.2f}",
                f"{c['coverage']:.0%}",
            ]
            for name, c in result["known"].items()
        ],
    )
    out = _rows(
        ["domain left out of the sample", "ROC AUC of novelty", "told of it", "told of the rest"],
        [
            [name, f"{c['auc']:.3f}", f"{c['told of it']:.0%}", f"{c['of the rest']:.0%}"]
            for name, c in result["domain"].items()
        ],
    )
    parts = [
        f"## LinFiK and ALinFiK (stories15m, {result['pool']['rows']} rows of {', '.join(result['pool']['domains'])})\n\n"
        f"{_made(result)}\nA scorer on rows it was not fitted to, mean and standard deviation over samples (aim 0.8):\n\n{known}",
        out,
    ]
    if "clock" in result:
        clock = result["clock"]
        parts.append(
            f"Processor time a row on one thread: LinFiK {1e3 * clock['linfik']:.0f} ms, the scorer {1e3 * clock['scorer']:.2f} ms, "
            f"{clock['linfik'] / clock['scorer']:.0f} times less (aim 20).\n"
        )
    if "poisoned" in result:
        parts.append(_poisoned(result["poisoned"]))
    if "selection" in result:
        parts.append(_chosen(result["selection"], result["settings"]))
    if "other orders" in result:
        again = [
            f"{name}: {', '.join(f'{by} {fall:+.3f}' for by, fall in c.items())}"
            for name, c in result["other orders"].items()
        ]
        parts.append(f"The same selections trained on in another order, mean fall over seeds: {'; '.join(again)}.\n")
    return "\n".join(parts)


def _poisoned(found: dict[str, Any]) -> str:
    ways = list(dict.fromkeys(by for plant in found.values() for by, auc in plant.items() if isinstance(auc, dict)))
    rows = [
        [
            c["what"],
            str(len(c["seeds"])),
            *(f"{c[by]['mean']:.3f} ({c[by]['least']:.3f})" if by in c else "" for by in ways),
        ]
        for c in found.values()
    ]
    return (
        "Poisoned rows, by the plain product (20 of 200; of the other rows as many have the trigger and an ordinary answer, running text apart) by value "
        "for targets that behave so on other text, ROC AUC, mean and least over seeds; scorers of 60 and 120 rows on the rows "
        f"they were not fitted to (aim 0.95):\n\n{_rows(['planted', 'seeds', *ways], rows)}"
    )


def _chosen(selection: dict[str, Any], settings: dict[str, Any]) -> str:
    rows = [
        [f"{target} ({found['seeds']} seeds)", by, _error(c["fall"], c["stderr"]), f"{c['of linfik']:.2f}" if found["linfik"]["fall"] > 0 else "",
         _error(c["alinfik beyond"], c["alinfik beyond stderr"])]
        for target, found in selection.items()
        for by, c in found.items()
        if isinstance(c, dict)
    ]  # fmt: skip
    table = _rows(["target", "chosen by", "fall of the loss", "of LinFiK's", "ALinFiK's beyond it"], rows)
    return (
        f"Fine-tuning on {settings['share']:.0%} of {settings['candidates']} rows (AdamW, one pass), chosen for the targets; the scorer was "
        f"fitted to {settings['sample']} other rows. Fall of the mean loss of held-out rows of the target's domain, nats, with standard "
        f"errors over seeds (aim: 0.9 of LinFiK's, beyond the others):\n\n{table}"
    )


def _error(mean: float, error: float | None) -> str:
    return f"{mean:+.3f}" if error is None else f"{mean:+.3f} ± {error:.3f}"


def icp(result: dict[str, Any]) -> str:
    """In-context probing."""
    ranks = [
        [pair, f"{row['spearman']:.2f}", f"{row['within_domains']:.2f}"] for pair, row in result["agreement"].items()
    ]
    each, share = result["cpu_seconds_an_example"], result["plays_among_chosen"]
    taught = [
        [
            name,
            f"{sum(losses) / len(losses):.3f}",
            f"{min(losses):.3f} to {max(losses):.3f}",
            f"{share[name]:.0%}" if name in share else "",
            f"{1000 * each[name]:.0f}" if name in each else "",
        ]
        for name, losses in result["losses"].items()
    ]
    header = [
        "fine-tuned on the best fifth by",
        "held-out loss",
        "over the seeds",
        "plays among them",
        "CPU ms an example",
    ]
    return (
        f"## In-context probing (stories15m, {result['pool']} examples of five domains, {result['queries']} tasks)\n\n"
        f"{_made(result)}\n{_rows(['ranks of', 'Spearman', 'within domains, mean'], ranks)}\n{_rows(header, taught)}\n"
        f"Whole prompts cost {1000 * result['whole_prompts_cpu_seconds_an_example']:.0f} ms an example; values and whole prompts' differ "
        f"by {result['kept_against_whole']:.1g} nats at most. Published, on other data and a larger model: Spearman .73 with an "
        "influence score. `graddot` is the mean over the tasks (LinFiK's plain product); `ekfac` takes the MLPs of the last two layers.\n"
    )


def guard(result: dict[str, Any]) -> str:
    """Permissive labels."""
    rows: list[list[str]] = []
    for name in ("reader", "stories15m"):
        if name in result:
            row = result[name]
            cases = int(row["cases"])
            rows.append([
                name, str(cases), f"{int(row['improved'])} of {int(row['could'])}", str(int(row["exact"])), str(int(row["false"])),
                str(int(row["another"])),
                f"{row['visited'] / max(1, cases):.0f}", f"{row['lambda']:.2g}", f"{1000 * row['cpu_seconds_a_case']:.0f}",
            ])  # fmt: skip
            if "introspection" in row:
                asked = row["introspection"]
                rows.append(
                    [
                        f"{name}, by its word",
                        str(cases),
                        f"{asked['improved']} of {int(row['could'])}",
                        "",
                        str(asked["false"]),
                        "",
                        "",
                        "",
                        "",
                    ]
                )
    header = [
        "model",
        "cases",
        "labels improved, of those that can",
        "exactly minimal",
        "needed document left out",
        "another answer",
        "scorings a case",
        "lambda",
        "CPU ms a case",
    ]
    return (
        f"## Permissive labels\n\n{_made(result)}\n{_rows(header, rows)}\n"
        "Six documents (four for stories15m), one of which the answer needs (or two, or none); sets of sources and a chain of four. `reader` has no weights and "
        "expects what followed its last two tokens before. Lambda is calibrated on cases of its own. Another answer: it does not begin with the planted word. Aims: 85% of the labels improve, no "
        "needed document left out in 1,000.\n"
    )


def plan(result: dict[str, Any]) -> str:
    """Predictions against what was measured."""
    cells: list[list[str]] = []
    outside: list[str] = []
    for setting, methods in result["settings"].items():
        for name, run in methods.items():
            time, memory = run["predicted"] / run["seconds"], run["predicted_peak"] / run["peak"]
            cells.append(
                [setting, name, f"{run['seconds']:.2f}", f"{time:.2f}", f"{run['peak'] / 2**20:.0f}", f"{memory:.2f}"]
            )
            if not (1 / 1.5 <= time <= 1.5 and 1 / 1.25 <= memory <= 1.25):
                outside.append(f"{name} on {setting}")
    table = _rows(["setting", "method", "seconds", "predicted / real", "peak MiB", "predicted / real"], cells)
    told = f"Outside: {', '.join(outside)}." if outside else "None is outside."
    return (
        f"## What `assay.plan` predicts\n\n{_made(result)}\n{table}\nEach in a process of its own, one thread, one run. Aims: "
        f"seconds within a factor of 1.5, memory within 1.25. {told}\n"
    )


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
        "have none. Aim: 20x, reached where the peer loops; quanda's cardinality is one call of topk, and ours costs a copy more. Ours of "
        "`mislabelled` is three numbers (AUC, average precision, precision at k), theirs the first. All numbers agree to 1e-4. A defect to know of: quanda adds 1e-4 times "
        "the row's number to each value before it ranks mislabelled rows, which at this size reorders values of the size of one; the "
        "values were scaled to be compared at all.\n"
    )


def tracing(result: dict[str, Any]) -> str:
    """Facts and a poison, by method and metric."""
    parts = [
        "## Tracing facts and a poison (stories15m, fine-tuned)\n\n"
        f"{_made(result)}\nEvery method with its defaults; nothing was tuned. Means with 95% intervals over queries, by seed.\n"
    ]
    for task, seeds in result["tasks"].items():
        first = next(iter(seeds.values()))
        metrics = list(first["metrics"])
        head = ["", *(f"{metric}, seed {seed}" for seed in seeds for metric in metrics), "seconds"]
        rows = [
            [
                f"`{method}`",
                *(
                    "{mean:.3f} ({low:.2f} to {high:.2f})".format(**found["metrics"][metric][method])
                    for found in seeds.values()
                    for metric in metrics
                ),
                f"{first['seconds'][method]:.0f}",
            ]
            for method in sorted(first["seconds"], key=lambda name: -first["metrics"][metrics[0]][name]["mean"])
        ]
        parts.append(f"### {task}: {first['rows']} rows, {first['queries']} queries\n\n{_rows(head, rows)}")
    return "\n".join(parts)


SECTIONS = {
    "fidelity": fidelity, "ekfac": ekfac, "replay": replay, "indexing": indexing, "growth": growth, "scan": scan, "trak": trak,
    "trees": trees, "neighbors": neighbors, "iris": iris, "mislabelled": mislabelled, "speech": speech, "dynamics": dynamics,
    "dda": dda, "infra": infra,
    "linfik": linfik,
    "icp": icp, "guard": guard,
    "plan": plan,
    "metrics": metrics, "tracing": tracing,
}  # fmt: skip
