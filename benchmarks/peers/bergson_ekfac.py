"""Run by the Python of an environment that has bergson: `bergson_ekfac.py FOLDER OUT FISHER [SCORES.safetensors]`.

The work of `kronfluence_ekfac.py`, language models only, by bergson's own pipeline: gradients of the queries, factors with
corrected eigenvalues, the inverse, scores. Its four steps load the model again each; what it says that they took is
added up, less that loading, which is timed here. SCORES gets one column a query, higher is more helpful.
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
from bergson.data import load_scores_loss_signed
from bergson.hessians.pipeline import hessian_pipeline
from safetensors.torch import load_file, save_file


def texts(folder: Path, part: str) -> str:
    """The tokens of a part as texts again, one JSON object a line."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    tensors = load_file(folder / "data.safetensors")
    path = folder / f"{part}.jsonl"
    whole = tokenizer.backend_tokenizer.decoder is not None  # without one, tokens are joined as they are
    with path.open("w") as file:
        for ids, mask in zip(tensors[f"{part}.input_ids"], tensors[f"{part}.attention_mask"], strict=True):
            kept = ids[mask.bool()]
            text = (
                tokenizer.decode(kept, skip_special_tokens=True)
                if whole
                else "".join(tokenizer.convert_ids_to_tokens(kept))
            )
            file.write(json.dumps({"text": text}) + "\n")
    return str(path)


def main(folder: Path, out: Path, fisher: str, kept: Path | None = None) -> None:
    torch.set_num_threads(2)
    shutil.rmtree(out, ignore_errors=True)
    train, queries = (
        DataConfig(dataset=texts(folder, part), prompt_column="text", truncation=True) for part in ("train", "query")
    )
    longest = json.loads((folder / "model" / "config.json").read_text())["max_position_embeddings"]
    config = IndexConfig(
        run_path=str(out),
        model=str(folder / "model"),
        precision="fp32",
        projection_dim=0,
        token_batch_size=min(256, longest),
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
    if kept is not None:
        scores, _ = load_scores_loss_signed(str(out / "scores"))
        save_file({"scores": -scores.float().contiguous()}, kept)
    print(json.dumps({"seconds": seconds, "version": version("bergson"), "torch": torch.__version__}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], *map(Path, sys.argv[4:]))
