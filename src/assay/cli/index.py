"""`assay index`: features of the training examples on disk, to be asked many times."""

import json
from pathlib import Path
from typing import Any, cast

import rich_click as click

import assay
from assay.cli.options import (
    OUTPUT,
    DataOptions,
    ModelOptions,
    data_options,
    model_options,
    store_option,
    train_options,
)
from assay.cli.parameters import Choice, kinds_of, method_options
from assay.cli.render import page, remark
from assay.explore import format
from assay.index import format as disk
from assay.methods.gradient.base import GradientMethod
from assay.methods.gradient.indexed import Indexed


@click.command()
@model_options
@train_options
@data_options
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="INDEX",
    panel=OUTPUT,
    help="The index's directory.",
)
@store_option
@click.option(
    "--append",
    type=click.Choice(["examples", "checkpoints"]),
    panel=OUTPUT,
    help="Add to a finished index: the examples of --train, or checkpoints behind those that it has.",
)
@method_options(kinds_of(GradientMethod), "gradcos", "gradcos; with --append that of the index")
def index(
    model: ModelOptions,
    train: str,
    limit: int | None,
    data: DataOptions,
    out: Path,
    store: str,
    append: str | None,
    method: Choice,
) -> None:
    """Build an index of training examples; `assay query` asks it.

    A build that was interrupted, by Ctrl-C or a full disk, goes on where it stopped when the same command is given
    again. --compression is factored:16 by default, where the method has no own.
    """
    as_built = append is not None and not method.said
    chosen = None if as_built else cast(GradientMethod, method.method())
    model.check(chosen)
    examples = data.read(train, limit)
    loaded = model.loaded()
    fresh = not out.exists()
    try:
        built = assay.build(
            loaded,
            examples,
            out,
            method=chosen,
            compression=method.given.get("compression"),
            dtype=cast(Any, store),
            append=cast(Any, append),
            origin=model.origin(),
        )
    except BaseException as error:
        kept = _kept(out)
        if fresh and not kept:
            _clear(out)
        if isinstance(error, KeyboardInterrupt):
            raise click.Abort(f"{_told(kept, out)} Give the same command again to continue.") from error
        raise
    _print(built, out)


def _kept(out: Path) -> dict[int, int]:
    """Rows that an unfinished build has on disk, by checkpoint."""
    rows: dict[int, int] = {}
    journal = out / disk.JOURNAL
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        try:
            shard = disk.shard_from(json.loads(line))
        except ValueError:
            break
        if shard is not None:
            rows[shard.checkpoint] = rows.get(shard.checkpoint, 0) + shard.rows
    return rows


def _told(kept: dict[int, int], out: Path) -> str:
    if not kept:
        return "No shard was complete, so nothing is kept."
    if len(kept) == 1:
        return f"{sum(kept.values()):,} examples are kept in {out}."
    each = [f"{rows:,} examples of checkpoint {number + 1}" for number, rows in sorted(kept.items())]
    return f"{', '.join(each)} are kept in {out}."


def _clear(out: Path) -> None:
    """Remove the beginnings of an index that holds nothing yet, and nothing else."""
    for name in (disk.JOURNAL, f"{disk.JOURNAL}.tmp"):
        (out / name).unlink(missing_ok=True)
    for folder in (out / disk.SHARDS, out):
        try:
            folder.rmdir()
        except OSError:
            return


def _print(built: Indexed, out: Path) -> None:
    stored = built.index
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    checkpoints = f", {stored.checkpoints} checkpoints" if stored.checkpoints > 1 else ""
    page().print(
        f"{out}: {len(stored):,} examples{checkpoints}, {stored.dim:,} numbers each ({stored.header['compression']}), "
        f"{stored.dtype}, {format.size(size)}; {format.percent(stored.header['coverage'])} of the parameters"
    )
    remark(f'Ask it: assay query {out} --queries FILE, or --text "..."')
