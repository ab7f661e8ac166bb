"""`assay methods`: what there is to choose from."""

from dataclasses import fields
from typing import Any, cast

import rich_click as click
from rich.text import Text

from assay.cli.options import json_option
from assay.cli.parameters import default_of, kind_of
from assay.cli.render import json_line, page, plain_table
from assay.methods import METHODS, Registered, ValueMethod


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List all methods: family, unit, what they compute, the paper, and their hyper-parameters."""
    for kind in METHODS:
        if as_json:
            json_line(described(kind))
        else:
            _print(described(kind))


def described(kind: type[Registered]) -> dict[str, Any]:
    """Everything that the registry knows of a method; JSON values."""
    return {
        "name": kind.name, "family": kind.family, "unit": kind.unit, "summary": kind.summary, "paper": kind.paper,
        "gives": "values" if issubclass(kind, ValueMethod) else "scores",
        "parameters": [
            {
                "name": field.name, "type": kind_of(kind, field).__name__, "default": default_of(field),
                "choices": field.metadata.get("choices"), "help": field.metadata["help"],
            }
            for field in fields(cast(Any, kind))
        ],
    }  # fmt: skip


def _print(method: dict[str, Any]) -> None:
    console = page()
    facts = f"  {method['gives']}, {method['family']}, unit: {method['unit']}"
    console.print(Text.assemble((method["name"], "bold green"), facts))
    console.print(f"  {method['summary']}")
    console.print(f"  Paper: {method['paper']}")
    table = plain_table(show_header=False)
    for parameter in method["parameters"]:
        choices = "" if parameter["choices"] is None else f" ({', '.join(map(str, parameter['choices']))})"
        flag = f"    --{parameter['name'].replace('_', '-')}"
        table.add_row(flag, str(parameter["default"]), f"{parameter['help']}{choices}")
    if method["parameters"]:
        console.print(table)
    console.print()
