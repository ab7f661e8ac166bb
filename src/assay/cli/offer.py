"""What `assay value` does with scorers: saving one, and making an offer with one."""

from pathlib import Path

from rich.text import Text

from assay import Values
from assay.act.price import Offer, appraise
from assay.act.price import offer as offers
from assay.cli.options import DataOptions
from assay.cli.render import inline, json_line, page, plain_table, remark, values_page
from assay.errors import InputError
from assay.examples import Examples
from assay.explore import format
from assay.methods.student import scorer_file
from assay.methods.student.scorer import Scorer
from assay.provenance import Provenance, measured


def check_free(export: Path) -> None:
    """Refuse, before anything is computed, to write a scorer over something else. Raises InputError."""
    scorer_file.KIND.check_free(export)


def exported(scorer: Scorer, export: Path) -> dict[str, object]:
    """Save it, and say so; where it is, its checksum and size."""
    checksum = scorer_file.save_scorer(scorer, export)
    size = sum(file.stat().st_size for file in export.iterdir())
    remark(
        f"Scorer saved to {export}: {format.size(size)}, no training text. {scorer.about['held_out']['text']}. A provider values "
        f"data with it: assay value --scorer {export} --on data.jsonl --provider NAME --out offer"
    )
    return {"path": export, "checksum": checksum, "bytes": size}


def offered(
    scorer: Path | None,
    data: DataOptions,
    on: str | None,
    provider: str | None,
    out: Path | None,
    top: int,
    as_json: bool,
) -> None:
    """Value the texts of `on` with a scorer, show the provider what came out, and write the offer."""
    if scorer is None or on is None or provider is None:
        raise InputError(
            "An offer takes --scorer DIR (whose scorer), --on FILE (the data) and --provider NAME (yours); give all three."
        )
    if out is not None:
        offers.KIND.check_free(out)
    read, checksum = scorer_file.load_scorer(scorer)
    examples = data.queries(on)
    with measured() as cost:
        offer = appraise(read, checksum, examples, provider, on)
    if out is not None:
        offer.save(out)
    if as_json:
        json_line({"offer": {"provider": provider, "scorer": checksum, **offer.summary(), "out": out}})
        return
    provenance = Provenance(
        method="alinfik",
        parameters={},
        unit="arbitrary",
        seconds=cost.seconds,
        peak_memory=cost.peak_memory,
        notes=(str(offer.about["scorer"]),),
    )
    values_page(_shown(offer, examples, provenance), top)
    summary_page(offer)
    if out is not None:
        remark(
            f"Offer saved to {out}, without the texts. Hand over this directory; it prices at: assay price {out} --budget 1000"
        )


def _shown(offer: Offer, examples: Examples, provenance: Provenance) -> Values:
    return Values.of(offer.predicted.value, examples, provenance, offer.predicted.stderr)


def summary_page(offer: Offer) -> None:
    """The summary as the owner will see it."""
    found, table, console = offer.summary(), plain_table(show_header=False), page()
    low, high = found["total_interval"]
    for name, told in (
        ("provider", offer.provider),
        ("rows", f"{found['rows']:,}, of which {found['counted']:,} count"),
        ("repeated", f"{found['repeated']:,} rows"),
        ("unlike the sample", format.percent(found["out_of_domain"])),
        ("mean value", f"{found['mean']:+.4g}"),
        ("total value", f"{found['total']:+.4g} ({low:+.4g} to {high:+.4g})"),
        ("helpful", f"{format.percent(found['positive'])} of the counted rows"),
    ):
        table.add_row(Text(name), inline(told, 200))
    console.print(table)
