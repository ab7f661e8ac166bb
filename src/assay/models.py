"""A model with its task: what Assay borrows from the user, or loads from a directory."""

import copy
import fnmatch
import glob
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from assay.errors import ModelError, require
from assay.moments import AdamMoments, moments_file, read_flat, read_moments, split_flat
from assay.tasks import CausalLM, SequenceClassification, Task
from assay.tasks.language import Long


@dataclass(frozen=True)
class Checkpoint:
    """Weights at one moment of training.

    `rate` is the learning rate there (TracIn's weight); `load` returns a module with these weights, of its own;
    `moments` what Adam remembered there, if that is known.
    """

    name: str
    rate: float
    load: Callable[[], nn.Module]
    moments: Callable[[], AdamMoments] | None = None

    @staticmethod
    def of_state(
        name: str,
        rate: float,
        module: nn.Module,
        state: dict[str, Tensor],
        moments: Callable[[], AdamMoments] | None = None,
    ) -> "Checkpoint":
        """A copy of `module` with the tensors of `state` (a `state_dict`)."""

        def load() -> nn.Module:
            twin = copy.deepcopy(module)
            try:
                twin.load_state_dict(state)
            except RuntimeError as error:
                raise ModelError(f"The weights of checkpoint {name} do not fit the model: {error}") from error
            return twin

        return Checkpoint(name, rate, load, moments)


class Model:
    """A module and its task, as Assay sees them.

    Args:
        module: any `torch.nn.Module`; borrowed, never changed.
        task: what its loss is, from `assay.tasks`.
        modules: glob patterns over module names (`"*.mlp.*"`); only their parameters take part. None: all trainable.
        checkpoints: weights along the training run, for methods that use several; empty: the module as it is.
        path: sum of the learning rates of all steps of the run, where plain or momentum SGD trained the model and it is
            known (`assay.Recipe` notes it); how far a gradient of constant size 1 would have gone.

    Raises:
        ModelError: no trainable parameter, or a pattern that matches none.
    """

    def __init__(
        self,
        module: nn.Module,
        task: Task,
        *,
        modules: str | Sequence[str] | None = None,
        checkpoints: Sequence[Checkpoint] = (),
        name: str | None = None,
        path: float | None = None,
    ) -> None:
        self.module, self.task, self.path = module, task, path
        self.patterns = (modules,) if isinstance(modules, str) else tuple(modules or ())
        self.checkpoints = tuple(checkpoints)
        self.name = name or type(module).__name__
        _ = self.parameters, self.size  # raises here, and both look before any weight is frozen

    def __repr__(self) -> str:
        return f"Model({self.name}, task={self.task.name!r}, parameters={self.size:,})"

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that take part, by name; those that training would change and the patterns select."""
        trainable = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ModelError(
                f"{self.name} has no trainable parameter (requires_grad is False on all); attribution needs the "
                "gradient of at least one. Set requires_grad on what training changed."
            )
        chosen = {name: p for name, p in trainable.items() if self._selected(name)}
        if not chosen:
            modules = sorted({name.rpartition(".")[0] for name in trainable})
            raise ModelError(
                f"The module pattern {' or '.join(map(repr, self.patterns))} matches no trainable parameter of "
                f"{self.name}. Its modules are, for example: {', '.join(modules[:6])}."
            )
        return chosen

    @cached_property
    def size(self) -> int:
        """Number of trainable parameters, those that were not selected included."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(iter(self.parameters.values())).device

    def stages(self) -> tuple[Checkpoint, ...]:
        """The checkpoints, or the module as it is with weight 1."""
        return self.checkpoints or (Checkpoint("current", 1.0, lambda: self.module),)

    def at(self, stage: Checkpoint) -> "Model":
        """The same model with the weights of a checkpoint; the same parameters are trainable."""
        module = stage.load()
        if module is self.module:
            return self
        trainable = {name: p.requires_grad for name, p in self.module.named_parameters()}
        for name, p in module.named_parameters():
            p.requires_grad_(trainable.get(name, p.requires_grad))
        return Model(module, self.task, modules=self.patterns, name=self.name, path=self.path)

    def part(self, parameters: Sequence[str]) -> "Model":
        """The same model as it is, of which only the named parameters take part."""
        escaped = [glob.escape(name) for name in parameters]
        return Model(self.module, self.task, modules=escaped, name=self.name, path=self.path)

    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes, dtypes and bits of all weights, and over the patterns and the task."""
        digest = hashlib.sha256(
            json.dumps([self.task.identity(), self.patterns, [c.name for c in self.checkpoints]]).encode()
        )
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _selected(self, parameter: str) -> bool:
        module = parameter.rpartition(".")[0]
        return not self.patterns or any(
            fnmatch.fnmatchcase(module, pattern) or fnmatch.fnmatchcase(parameter, pattern) for pattern in self.patterns
        )


def load(
    path: str | os.PathLike[str],
    *,
    modules: str | Sequence[str] | None = None,
    checkpoints: Sequence[tuple[str | os.PathLike[str], float]] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    max_length: int | None = None,
    long: Long = "cut",
    trust_remote_code: bool = False,
) -> Model:
    """A causal language model or sequence classifier (or a LoRA adapter of one) from a directory or hub id.

    Args:
        path: a directory with `config.json`, weights as safetensors and a tokenizer; or with `adapter_config.json`.
        modules: glob patterns over module names, see `Model`.
        checkpoints: (directory, learning rate) pairs along the training run. A directory may hold what Adam remembered
            as well: the trainer's `optimizer.pt`, or a `step-*.safetensors` of `assay.Recipe`. Such a file alone is
            a checkpoint too.
        dtype: of the weights in memory. By default as stored, but float32 on the CPU, where half precision is slow.
        device: by default the GPU, if there is one.
        max_length: longest example in tokens, by default the model's context.
        long: `"cut"` or `"refuse"` longer examples.

    Raises:
        ModelError: no such directory, no weights, weights that do not fit, no tokenizer, unknown architecture.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = _Source(dtype or (torch.float32 if where.type == "cpu" else None), where, trust_remote_code)
    with _quiet():
        module = source.module(path)
        task = source.task(path, module, max_length, long)
    stages = [source.checkpoint(Path(stage), rate, module) for stage, rate in checkpoints]
    return Model(module, task, modules=modules, checkpoints=stages, name=Path(path).name)


@contextmanager
def _quiet() -> Generator[None]:
    """The model library loads without bars and remarks of its own: what is wrong is raised here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)
"""What the libraries raise for files that are missing, cut short or of another model."""


@dataclass(frozen=True)
class _Source:
    """How to load what a path names; `dtype` None is as stored."""

    dtype: torch.dtype | None
    device: torch.device
    trust: bool

    def module(self, path: Any) -> nn.Module:
        """The module in evaluation mode."""
        folder = _folder(path)
        if (folder / "adapter_config.json").exists():
            return self._adapter(folder)
        import transformers

        options: dict[str, Any] = {"trust_remote_code": self.trust}
        place = folder if folder.exists() else path
        try:
            config = cast(Any, transformers.AutoConfig).from_pretrained(place, **options)
            module, report = _auto_class(config).from_pretrained(
                place,
                config=config,
                dtype=self.dtype or "auto",
                output_loading_info=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                **options,
            )
        except _BROKEN as error:
            raise ModelError(f"The model at {path} cannot be loaded: {_first_line(error)}") from error
        _check_fit(path, [*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])])
        return module.to(self.device).eval()

    def module_quietly(self, path: Any) -> nn.Module:
        """The same, for a checkpoint that is loaded when its turn comes."""
        with _quiet():
            return self.module(path)

    def checkpoint(self, place: Path, rate: float, module: nn.Module) -> Checkpoint:
        """A directory of weights, or a step's file of a training run of `module`; with Adam's memory where it is."""
        if place.is_file():
            return Checkpoint(
                place.stem, rate, partial(_with_step, module, place), partial(read_moments, place, module)
            )
        found = moments_file(place)
        moments = None if found is None else partial(read_moments, found, module)
        return Checkpoint(place.name, rate, partial(self.module_quietly, place), moments)

    def _adapter(self, folder: Path) -> nn.Module:
        """A LoRA adapter on its base model; only the adapter is trainable."""
        peft = require("peft", "lora")
        base = self.module(_base(folder))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Found missing adapter keys")  # random weights in their place
                module = peft.PeftModel.from_pretrained(base, folder, is_trainable=True)
        except (*_BROKEN, UserWarning) as error:
            raise ModelError(f"The adapter at {folder} cannot be loaded: {_first_line(error)}") from error
        return module.to(self.device).eval()

    def task(self, path: Any, module: nn.Module, max_length: int | None, long: Long) -> Task:
        """The task that the model's architecture stands for, with its tokenizer and context."""
        config: Any = module.config
        tokenizer = self._tokenizer(path)
        limits: list[int | None] = [max_length, _context(module), tokenizer.model_max_length]
        length = min((limit for limit in limits if limit and limit < 10**9), default=2048)
        if _auto_class(config).__name__ == "AutoModelForCausalLM":
            return CausalLM(tokenizer, length, long)
        pad: int | None = getattr(config.get_text_config(), "pad_token_id", None)
        return SequenceClassification(tokenizer, length, getattr(config, "label2id", None), long, pad)

    def _tokenizer(self, path: Any) -> Any:
        import transformers

        folder = _folder(path)
        adapter = (folder / "adapter_config.json").exists()
        if adapter and not (folder / "tokenizer.json").exists():
            return self._tokenizer(_base(folder))
        place = folder if folder.exists() else path
        try:
            tokenizer = cast(Any, transformers.AutoTokenizer).from_pretrained(place, trust_remote_code=self.trust)
        except (*_BROKEN, ImportError) as error:
            raise ModelError(f"The tokenizer at {path} cannot be loaded: {_first_line(error)}") from error
        if not tokenizer.is_fast:
            raise ModelError(
                f"The tokenizer at {path} has no tokenizer.json; save it as a fast tokenizer, whose offsets are needed."
            )
        return tokenizer


def _with_step(module: nn.Module, path: Path) -> nn.Module:
    """A copy of the module with the weights of a step's file."""
    tensors, _ = read_flat(path)
    if "params" not in tensors:
        raise ModelError(f"{path} holds no weights (params); a step-*.safetensors of a training run was expected.")
    twin = copy.deepcopy(module)
    params, buffers = split_flat(tensors["params"], module, path), dict(twin.named_buffers())
    with torch.no_grad():
        for name, piece in params.items():
            twin.get_parameter(name).copy_(piece)
        for name, tensor in tensors.items():
            if (own := name.removeprefix("buffer.")) in buffers:
                buffers[own].copy_(tensor)
    return twin


def _context(module: nn.Module) -> int | None:
    """Tokens that the model's positions allow; RoBERTa's count from behind its padding token."""
    config: Any = module.config
    context: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    named = cast(Iterable[tuple[str, nn.Module]], module.named_modules())
    tables = [m for name, m in named if name.endswith("position_embeddings")]
    offsets = [m.padding_idx + 1 for m in tables if isinstance(m, nn.Embedding) and m.padding_idx is not None]
    return context and context - max(offsets, default=0)


def _auto_class(config: Any) -> Any:
    """The auto class that the config's architecture asks for."""
    import transformers

    architecture: str = (getattr(config, "architectures", None) or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    raise ModelError(
        f"The model is a {architecture or 'model of unnamed architecture'}; Assay loads causal language models and "
        "sequence classifiers. Load it yourself and give assay.Model(module, task=...)."
    )


def _folder(path: Any) -> Path:
    """The directory that a path names, which must hold a config and weights; anything else may be a hub id."""
    given, folder = str(path), Path(path).expanduser()
    looks_local = given.startswith((".", "/", "~")) or given.count("/") > 1 or folder.exists()
    if not looks_local or (folder / "adapter_config.json").exists():
        return folder
    if not folder.is_dir():
        raise ModelError(f"There is no model directory {given}; give a directory with config.json and *.safetensors.")
    if not (folder / "config.json").exists():
        raise ModelError(f"{given} has no config.json; give a directory written by save_pretrained.")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{given} has a config.json and no weights (*.safetensors); copy the weights there, or save them with "
            "save_pretrained(safe_serialization=True)."
        )
    return folder


def _base(folder: Path) -> str:
    """The base model that an adapter names."""
    try:
        base = json.loads((folder / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}/adapter_config.json cannot be read: {_first_line(error)}") from error
    if not base:
        raise ModelError(f"{folder}/adapter_config.json names no base_model_name_or_path; write the base model there.")
    return str(base)


def _check_fit(path: Any, broken: Sequence[str]) -> None:
    if broken:
        raise ModelError(
            f"The weights at {path} do not fit its config: {len(broken)} tensors are missing or of another shape "
            f"(for example {broken[0]}). Save the model again with save_pretrained."
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
