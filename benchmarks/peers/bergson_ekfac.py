"""Run by the Python of an environment that has bergson: `bergson_ekfac.py FOLDER OUT FISHER`.

The work of `kronfluence_ekfac.py`, language models only, by bergson's own pipeline: gradients of the queries, factors with
corrected eigenvalues, the inverse, scores. Its four steps load the model again each; what it says that they took is
added up, less that loading, which is timed here.
"""

import json
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from bergson.config.config import (
    DataConfig,
    HessianConfig,
    HessianPipelineConfig,
    IndexConfig,
    PreprocessConfig,
    QuerySetConfig,
    ScoreConfig,
)
from bergson.hessians.pipeline import hessian_pipeline
from safetensors.torch import load_file


def texts(folder: Path, part: str) -> str:
    """The tokens of a part as texts again, one JSON object a line."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    tensors = load_file(folder / "data.safetensors")
    path = folder / f"{part}.jsonl"
    with path.open("w") as file:
        for ids, mask in zip(tensors[f"{part}.input_ids"], tensors[f"{part}.attention_mask"], strict=True):
            file.write(json.dumps({"text": tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)}) + "\n")
    return str(path)


def main(folder: Path, out: Path, fisher: str) -> None:
    torch.set_num_threads(2)
    shutil.rmtree(out, ignore_errors=True)
    train, queries = (
        DataConfig(dataset=texts(folder, part), prompt_column="text", truncation=True) for part in ("train", "query")
    )
    config = IndexConfig(
        run_path=str(out),
        model=str(folder / "model"),
        precision="fp32",
        projection_dim=0,
        token_batch_size=256,
        data=train,
        filter_modules="lm_head",
    )
    start = time.perf_counter()
    hessian_pipeline(
        config,
        HessianConfig("kfac", ev_correction=True, use_dataset_labels=fisher == "empirical"),
        ScoreConfig(),
        PreprocessConfig(),
        HessianPipelineConfig(query=QuerySetConfig.from_data(queries)),
    )
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "version": version("bergson"), "torch": torch.__version__}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
