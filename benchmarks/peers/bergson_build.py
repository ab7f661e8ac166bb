"""Run by the Python of an environment that has bergson: `bergson_build.py MODEL DATA.jsonl OUT`.

Builds bergson's index (projection 16, 2,048 tokens a batch) and prints the seconds of its collection loop as JSON;
loading the model and starting the process are not counted.
"""

import json
import shutil
import sys
import time

import torch
from bergson import build as module
from bergson.config.config import DataConfig, IndexConfig, PreprocessConfig


def main(model: str, data: str, out: str) -> None:
    shutil.rmtree(out, ignore_errors=True)
    torch.set_num_threads(2)
    collect, spent = module.collect_gradients, []

    def timed(**arguments: object) -> object:
        start = time.perf_counter()
        result = collect(**arguments)
        spent.append(time.perf_counter() - start)
        return result

    module.collect_gradients = timed
    config = IndexConfig(
        run_path=out,
        model=model,
        precision="fp32",
        projection_dim=16,
        token_batch_size=2048,
        data=DataConfig(dataset=data, prompt_column="text", truncation=True),
    )
    module.build_worker(0, 0, 1, config, PreprocessConfig(), _data(config))
    from importlib.metadata import version

    print(json.dumps({"seconds": spent[0], "version": version("bergson"), "torch": torch.__version__}))


def _data(config: IndexConfig) -> object:
    config.partial_run_path.mkdir(parents=True, exist_ok=True)
    return module.setup_data_pipeline(config)[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
