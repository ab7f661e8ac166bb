"""Run by the Python of an environment that has dattri and transformers: `dattri_ekfac.py FOLDER OUT FISHER`.

The work of `kronfluence_ekfac.py`, language models only. dattri's EK-FAC takes the gradients of the loss it is given, so that
labels are drawn beforehand for the `sampled` Fisher (loading and drawing are not counted); factors, then scores.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from dattri.algorithm.influence_function import IFAttributorEKFAC
from dattri.task import AttributionTask
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

BATCH, LARGE = 8, 20
"""Examples a batch in the factors; in the scores, where queries are taken again for every batch of training examples."""


def main(folder: Path, out: Path, fisher: str) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    tensors = load_file(folder / "data.safetensors")
    module = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    names = [name for name, m in module.named_modules() if name.endswith("_proj")]

    def loss(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        ids, labels = (t.reshape(-1, t.shape[-1]) for t in pair)
        logits = torch.func.functional_call(module, params, (), {"input_ids": ids, "use_cache": False}).logits[:, :-1]
        total = cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum")
        return total / len(ids)

    def data(part: str) -> TensorDataset:
        ids, labels = tensors[f"{part}.input_ids"], tensors[f"{part}.labels"].clone()
        if part == "train" and fisher == "sampled":
            with torch.no_grad():
                for k in range(len(ids)):
                    drawn = torch.multinomial(module(ids[k : k + 1]).logits[0, :-1].softmax(-1), 1).squeeze(1)
                    labels[k, 1:] = torch.where(labels[k, 1:] == -100, -100, drawn)
        return TensorDataset(ids, labels)

    true = TensorDataset(tensors["train.input_ids"], tensors["train.labels"])
    task = AttributionTask(loss_func=loss, model=module, checkpoints=module.state_dict())
    attributor = IFAttributorEKFAC(task, module_name=names, damping=1e-2)
    drawn, queries = DataLoader(data("train"), BATCH), DataLoader(data("query"), BATCH)
    start = time.perf_counter()
    attributor.cache(drawn)
    middle = time.perf_counter()
    scores = attributor.attribute(DataLoader(true, LARGE), queries)
    end = time.perf_counter()
    save_file({"scores": scores.detach().float().contiguous()}, out)
    print(json.dumps({
        "seconds": end - start, "factors": middle - start, "scores": end - middle,
        "version": version("dattri"), "torch": torch.__version__,
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
