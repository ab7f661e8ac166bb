"""Options that several commands share; each group of them arrives at the command as one object."""

import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import rich_click as click
import torch

from assay import load, read
from assay.errors import DataError, InputError, MethodError, ModelError
from assay.examples import Examples
from assay.inference import Server
from assay.inference.server import PREFIX
from assay.methods import METHODS, Registered
from assay.methods.gradient.base import GradientMethod
from assay.methods.trees.load import SUFFIXES
from assay.models import Model

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Command], Command]
DTYPES = ("float32", "bfloat16", "float16", "float64")
DEBUG = click.Option(
    ["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error (also ASSAY_DEBUG=1)."
)
"""Every command takes it."""
TRAINS = ("retrain", "closed")
"""Families whose methods train a model of their own, which is named with --model."""
NO_MODEL = ("lexical", "baseline", "neighbors", *TRAINS)
"""Families whose methods need no trained model."""


def collected(name: str, kind: type[Any], options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Add options to a command, which receives their values as one argument `name` of the dataclass `kind`."""

    def decorate(command: Any) -> Any:
        @functools.wraps(command)
        def collecting(**given: Any) -> Any:
            mine = {field.name: given.pop(field.name) for field in fields(kind)}
            return command(**{name: kind(**mine)}, **given)

        return stacked(options)(collecting)

    return decorate


def stacked(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Several decorators, the first outermost."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# -- the model ---------------------------------------------------------------------------------------------------------


class CheckpointType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic since click 8.4
    """`DIR=RATE`: a directory of weights, or a training run's step, and the learning rate there."""

    name = "DIR=RATE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """The directory (or `step-*.safetensors`), which must exist, and the rate, a positive number."""
        place, _, rate = str(value).rpartition("=")
        try:
            number = float(rate)
        except ValueError:
            number = math.nan
        if not place or not (0 < number < math.inf):
            self.fail(f"{value!r} is not DIR=RATE, for example step-1000=3e-4.", param, ctx)
        step = Path(place).is_file() and Path(place).match("step-*.safetensors")
        if not Path(place).is_dir() and not step:
            self.fail(f"there is no checkpoint directory '{place}'.", param, ctx)
        return place, number


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded."""

    model: str | None
    modules: tuple[str, ...] = ()
    checkpoint: tuple[tuple[str, float], ...] = ()
    max_length: int | None = None
    long: str = "cut"
    dtype: str | None = None
    device: str | None = None
    tokenizer: str | None = None
    concurrency: int | None = None
    rate: float | None = None
    timeout: float | None = None
    answers: Path | None = None

    @property
    def served(self) -> bool:
        """Whether a server was named."""
        return self.model is not None and self.model.startswith(PREFIX)

    @property
    def given(self) -> bool:
        """Whether a model was named."""
        return self.model not in (None, "none")

    def check(self, method: Registered | None) -> None:
        """Refuse, before anything is read, what cannot go together. Raises MethodError or InputError."""
        if not self.given:
            if method is not None and method.family not in NO_MODEL:
                raise MethodError(
                    f"The method '{method.name}' needs a model, and none was given. Name its directory or hub id "
                    "behind the command (MODEL), or choose a method that needs none, such as bm25."
                )
            if self.modules or self.checkpoint or self.max_length or self.dtype or self.device:
                raise InputError("Options for the model were given, but no MODEL; name it, or leave them out.")
        self._check_server(method)
        trees = method is not None and method.family == "trees"
        if trees and (self.modules or self.checkpoint or self.max_length or self.dtype or self.device):
            raise InputError("Options for a neural model were given, and MODEL is a tree ensemble; leave them out.")
        if method is not None and not trees and is_tree_file(self.model) and method.family not in NO_MODEL:
            names = ", ".join(kind.name for kind in METHODS if kind.family == "trees")
            raise MethodError(
                f"'{self.model}' is a file, such as tree ensembles are stored in, and the method '{method.name}' takes a "
                f"directory or hub id. Name a method for trees with --method: {names}."
            )
        unused = isinstance(method, GradientMethod) and not _takes_checkpoints(type(method))
        if method is not None and self.checkpoint and unused:
            using = [kind.name for kind in METHODS if _takes_checkpoints(kind)]
            raise MethodError(
                f"The method '{method.name}' takes the model as it is, and --checkpoint was given. Leave it out, or "
                f"choose a method that uses checkpoints: {', '.join(using)}."
            )

    def _check_server(self, method: Registered | None) -> None:
        """Options of a server and options of a model in this process exclude each other, and most methods need the latter."""
        about = {
            "tokenizer": self.tokenizer,
            "concurrency": self.concurrency,
            "rate": self.rate,
            "timeout": self.timeout,
        }
        named = [f"--{name}" for name, value in (about | {"answers": self.answers}).items() if value is not None]
        if named and not self.served:
            raise InputError(
                f"{named[0]} is for a server, and MODEL is none; name it as {PREFIX}http://HOST:PORT/v1#MODEL."
            )
        if not self.served:
            return
        if self.modules or self.checkpoint or self.dtype or self.device:
            raise InputError("Options for a model in this process were given, and MODEL is a server; leave them out.")
        if method is not None and method.family not in (*NO_MODEL, "inference"):
            names = ", ".join(kind.name for kind in METHODS if kind.family == "inference")
            raise MethodError(
                f"The method '{method.name}' needs the model itself, and MODEL is a server, which only tells likelihoods. "
                f"Methods that ask a server: {names}."
            )

    def server(self) -> Server:
        """The server. Raises InputError."""
        given = {"concurrency": self.concurrency, "rate": self.rate, "timeout": self.timeout, "answers": self.answers}
        options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return Server.parse(
            cast(str, self.model),
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            long=cast(Any, self.long),
            **options,
        )

    def load(self) -> Model | None:
        """The model, or None if none was named. Raises ModelError."""
        if not self.given:
            return None
        if self.served:
            raise ModelError(
                f"'{self.model}' is a server, and the model itself is needed here: its directory or hub id."
            )
        silence_libraries()
        return load(
            cast(str, self.model),
            modules=self.modules or None,
            checkpoints=self.checkpoint,
            dtype=None if self.dtype is None else getattr(torch, self.dtype),
            device=_usable(self.device),
            max_length=self.max_length,
            long=cast(Any, self.long),
        )

    def asked(self, method: Registered) -> Any:
        """What the method is given: a model, a server, the file of a tree ensemble, or None."""
        if self.served:
            return self.server() if method.family == "inference" else None
        return self.model if method.family == "trees" else self.load()

    def loaded(self) -> Model:
        """The model, which must have been named."""
        model = self.load()
        if model is None:
            raise InputError("No model was given; name its directory or hub id behind the command (MODEL).")
        return model

    def origin(self) -> dict[str, Any]:
        """What an index notes to load the model again."""
        return {
            "model": absolute(cast(str, self.model)), "modules": list(self.modules), "max_length": self.max_length,
            "long": self.long, "dtype": self.dtype,
            "checkpoints": [[absolute(place), rate] for place, rate in self.checkpoint],
        }  # fmt: skip


def is_tree_file(model: str | None) -> bool:
    """Whether it names a file that may hold a tree ensemble."""
    return model is not None and Path(model).suffix.lower() in SUFFIXES and Path(model).is_file()


def _takes_checkpoints(kind: type[Registered]) -> bool:
    return issubclass(kind, GradientMethod) and (kind.every_checkpoint or kind.last_checkpoint)


def absolute(place: str) -> str:
    """A path that holds from anywhere; a hub id as it is."""
    path = Path(place).expanduser()
    return os.path.abspath(path) if path.exists() else place


def _usable(device: str | None) -> str | None:
    """The device, seen to work."""
    if device is not None:
        try:
            torch.empty(1, device=device).sum().item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"The device '{device}' cannot be used: {reason} Give cpu, or leave it out.") from error
    return device


def silence_libraries() -> None:
    """No bars and remarks of the model library and its hub: what is wrong is raised by us."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    hub.set_verbosity_error()
    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")


MODEL, SERVER = "Model", "A server as MODEL"
model_options: Decorator[Any] = collected(
    "model",
    ModelOptions,
    [
        click.argument("model", required=False, metavar="[MODEL]"),
        click.option(
            "--modules",
            multiple=True,
            metavar="PATTERN",
            panel=MODEL,
            help="Only these modules' parameters take part, such as '*.mlp.*'; may be repeated.",
        ),
        click.option(
            "--checkpoint",
            multiple=True,
            type=CheckpointType(),
            panel=MODEL,
            help="A directory of weights from the training run (with the trainer's optimizer.pt for methods that take Adam's "
            "moments), or a step-*.safetensors of assay.Recipe; and the learning rate there. In order; may be repeated.",
        ),
        click.option(
            "--max-length",
            type=click.IntRange(min=2),
            metavar="N",
            panel=MODEL,
            help="Longest example in tokens; by default the model's context.",
        ),
        click.option(
            "--long",
            type=click.Choice(["cut", "refuse"]),
            default="cut",
            show_default=True,
            panel=MODEL,
            help="What happens to a longer example: it is cut and counted, or an error.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            panel=MODEL,
            help="Of the weights in memory; by default as stored, on the CPU float32.",
        ),
        click.option(
            "--device", metavar="DEVICE", panel=MODEL, help="cpu, cuda, cuda:1, mps; by default the GPU, if any."
        ),
        click.option(
            "--tokenizer",
            metavar="DIR",
            panel=SERVER,
            help="The tokenizer of the server's model: prompts are then sent as tokens. A key is read from ASSAY_API_KEY.",
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(min=1),
            metavar="N",
            panel=SERVER,
            help="Requests at once; by default 8.",
        ),
        click.option("--rate", type=float, metavar="N", panel=SERVER, help="Requests a minute at most."),
        click.option(
            "--timeout",
            type=float,
            metavar="SECONDS",
            panel=SERVER,
            help="Until an answer must have come; by default 60.",
        ),
        click.option(
            "--answers",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            panel=SERVER,
            help="Where answers are kept, so that a run that ended early goes on; by default the user's cache.",
        ),
    ],
)
"""MODEL and how it is loaded; `model` is a `ModelOptions`."""


# -- the data ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataOptions:
    """How rows become examples."""

    text_field: str | None
    prompt_field: str | None
    completion_field: str | None
    messages_field: str | None
    contrast_field: str | None
    source_field: str | None
    label_field: str | None
    weight_field: str | None
    id_field: str | None

    def read(self, source: Any, limit: int | None = None) -> Examples:
        """The first `limit` examples of a file (all, if None). Raises DataError."""
        return read(source, limit=limit, **self.columns())

    def columns(self) -> dict[str, Any]:
        """The columns' names as `read` takes them."""
        fields = {name.removesuffix("_field"): value for name, value in vars(self).items()}
        return {"source_column": fields.pop("source"), **fields}

    def queries(self, source: Any, limit: int | None = None) -> Examples:
        """The same for queries, which need no weights."""
        try:
            return self.read(source, limit)
        except DataError:
            if self.weight_field is None:
                raise
            return replace(self, weight_field=None).read(source, limit)


DATA = "Data"
data_options: Decorator[Any] = collected(
    "data",
    DataOptions,
    [
        click.option(
            *([f"--{name}-field", f"--{name}"] if name in ("label", "weight") else [f"--{name}-field"]),
            f"{name}_field",
            metavar="NAME",
            panel=DATA,
            help=f"The column of each example's {name}, in all files; by default '{name}'."
            if name != "weight"
            else "The column of a table's row weights; queries need none.",
        )
        for name in ("text", "prompt", "completion", "messages", "contrast", "source", "label", "weight", "id")
    ],
)
"""Names of columns; `data` is a `DataOptions`."""

count = click.IntRange(min=1)


def _train(required: bool) -> Decorator[Any]:
    return stacked(
        [
            click.option(
                "--train",
                required=required,
                metavar="FILE",
                panel=DATA,
                help="Training examples: JSON lines, JSON, CSV, TSV, Parquet, text, .npz, or a saved dataset's folder.",
            ),
            click.option("--limit", type=count, metavar="N", panel=DATA, help="Use the first N training examples."),
        ]
    )


train_options: Decorator[Any] = _train(True)
first_or_train_options: Decorator[Any] = _train(False)
"""For a command whose first argument may be the training data."""
limit_queries: Decorator[Any] = click.option(
    "--limit-queries", type=count, metavar="N", panel=DATA, help="Use the first N queries."
)


# -- the output --------------------------------------------------------------------------------------------------------

OUTPUT = "Output"
top_option: Decorator[Any] = click.option(
    "--top", type=count, default=10, show_default=True, metavar="K", panel=OUTPUT, help="Examples shown at both ends."
)
store_option: Decorator[Any] = click.option(
    "--store",
    type=click.Choice(["float32", "bfloat16", "int8"]),
    default="float32",
    show_default=True,
    panel=OUTPUT,
    help="How an index stores features.",
)
json_option: Decorator[Any] = click.option(
    "--json", "as_json", is_flag=True, panel=OUTPUT, help="JSON lines on standard output, and nothing else there."
)
out_options: Decorator[Any] = stacked(
    [
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="RUN",
            panel=OUTPUT,
            help="Save the run in this directory; an earlier run there is replaced.",
        ),
        click.option(
            "--report/--no-report",
            "with_report",
            default=True,
            panel=OUTPUT,
            help="With --out: write RUN/report.html as well (the default).",
        ),
    ]
)


def check_out(out: Path | None) -> None:
    """Refuse to write a run over what is not a run. Raises InputError."""
    if out is None or not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"'{out}' is a file; a run is a directory. Give another name to --out.")
    if any(out.iterdir()) and not (out / "run.json").exists():
        raise InputError(f"The directory '{out}' is not empty and holds no run. Give another name to --out.")
