"""Run by the Python of an environment that has kronfluence: `kronfluence_ekfac.py FOLDER OUT.safetensors FISHER`.

FOLDER holds `data.safetensors` (train.* and query.* tensors, padded) and either `model/` (a causal language model) or
`module.safetensors` with
`name.txt` (a module of `fidelity/models.py`). FISHER is `sampled` or `empirical`; the damping is a tenth of the mean
eigenvalue of each layer. Fits EK-FAC factors, computes pairwise scores, stores them, and
prints the seconds of both as JSON; loading is not counted.
"""

import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fidelity"))
from models import MODULES

BATCH = 8


class Rows(Dataset):
    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return {name: tensor[k] for name, tensor in self.tensors.items()}


class Language(Task):
    """Next-token prediction on the projections of a causal language model."""

    def __init__(self, modules: list[str]) -> None:
        super().__init__()
        self.modules = modules

    def _losses(self, batch: dict, model: nn.Module, sample: bool) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
        labels = batch["labels"][:, 1:]
        if sample:
            with torch.no_grad():
                drawn = torch.multinomial(logits.detach().flatten(0, 1).softmax(-1), 1).reshape(labels.shape)
                labels = torch.where(labels == -100, labels, drawn)
        each = cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
        return each, labels != -100

    def compute_train_loss(self, batch: dict, model: nn.Module, sample: bool = False) -> torch.Tensor:
        return self._losses(batch, model, sample)[0].sum()

    def compute_measurement(self, batch: dict, model: nn.Module) -> torch.Tensor:
        each, predicted = self._losses(batch, model, False)
        return (each.sum(1) / predicted.sum(1)).sum()

    def get_influence_tracked_modules(self) -> list[str]:
        return self.modules

    def get_attention_mask(self, batch: dict) -> torch.Tensor:
        return batch["attention_mask"]


class Classes(Task):
    """Classification."""

    def compute_train_loss(self, batch: dict, model: nn.Module, sample: bool = False) -> torch.Tensor:
        logits = model(batch["x"])
        y = torch.multinomial(logits.detach().softmax(-1), 1).squeeze(1) if sample else batch["y"]
        return cross_entropy(logits, y, reduction="sum")

    def compute_measurement(self, batch: dict, model: nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)


def loaded(folder: Path) -> tuple[nn.Module, Task, int]:
    if (folder / "model").exists():
        import transformers

        model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
        names = [name for name, module in model.named_modules() if name.endswith("_proj")]
        return model, Language(names), BATCH
    name = (folder / "name.txt").read_text()
    model = MODULES[name]()
    model.load_state_dict(load_file(folder / "module.safetensors"))
    return model, Classes(), 256


def main(folder: Path, out: Path, fisher: str) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    tensors = load_file(folder / "data.safetensors")
    train, queries = (
        Rows({name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")})
        for part in ("train", "query")
    )
    module, task, batch = loaded(folder)
    prepared = prepare_model(module.eval(), task)
    scratch = folder / "kronfluence"
    shutil.rmtree(scratch, ignore_errors=True)
    analyzer = Analyzer("peer", prepared, task, cpu=True, output_dir=str(scratch), disable_tqdm=True)
    start = time.perf_counter()
    analyzer.fit_all_factors(
        "ekfac", train, per_device_batch_size=batch,
        factor_args=FactorArguments(
            strategy="ekfac", has_shared_parameters=False, use_empirical_fisher=fisher == "empirical"
        ),
    )  # fmt: skip
    middle = time.perf_counter()
    analyzer.compute_pairwise_scores(
        "scores", factors_name="ekfac", query_dataset=queries, train_dataset=train, score_args=ScoreArguments(damping_factor=None),
        per_device_query_batch_size=min(batch, len(queries)), per_device_train_batch_size=batch,
    )  # fmt: skip
    end = time.perf_counter()
    scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    save_file({"scores": scores.T.float().contiguous()}, out)
    print(json.dumps({
        "seconds": end - start, "factors": middle - start, "scores": end - middle,
        "version": version("kronfluence"), "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
