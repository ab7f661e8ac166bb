"""Run by the Python of an environment that has traker or dattri: `trak_mnist.py PEER ARRAYS.safetensors DIM`.

TRAK of one MLP (weights in the file) on 500 training and 50 query images, projected to DIM, on the CPU in float32;
prints seconds of features and scores, without loading, as JSON.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def mlp(arrays: dict[str, torch.Tensor]) -> nn.Module:
    module = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    module.load_state_dict({name.removeprefix("model."): t for name, t in arrays.items() if name.startswith("model.")})
    return module.eval()


def traker(arrays: dict[str, torch.Tensor], dim: int) -> torch.Tensor:
    from trak.projectors import BasicProjector, ProjectionType

    from trak import TRAKer

    module, (train, queries) = mlp(arrays), _sets(arrays)
    size = sum(p.numel() for p in module.parameters())
    projector = BasicProjector(
        size, dim, 0, ProjectionType.rademacher, torch.device("cpu"), block_size=128, dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        job = TRAKer(
            module,
            "image_classification",
            len(train),
            save_dir=folder,
            device="cpu",
            projector=projector,
            proj_dim=dim,
            use_half_precision=False,
            logging_level=50,
        )
        job.load_checkpoint(module.state_dict(), model_id=0)
        for batch in DataLoader(train, 100):
            job.featurize(batch=batch, num_samples=len(batch[0]))
        job.finalize_features()
        job.start_scoring_checkpoint("queries", module.state_dict(), 0, len(queries))
        for batch in DataLoader(queries, 50):
            job.score(batch=batch, num_samples=len(batch[0]))
        return torch.as_tensor(job.finalize_scores("queries"))


def dattri(arrays: dict[str, torch.Tensor], dim: int) -> torch.Tensor:
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    module, (train, queries) = mlp(arrays), _sets(arrays)

    def output(params, pair):
        image, label = pair
        logits = torch.func.functional_call(module, params, image.unsqueeze(0))
        loss = nn.functional.cross_entropy(logits, label.reshape(1))
        probability = torch.exp(-loss)
        return torch.log(probability / (1 - probability))

    def probability(params, pair):
        image, label = pair
        logits = torch.func.functional_call(module, params, image.unsqueeze(0))
        return torch.exp(-nn.functional.cross_entropy(logits, label.reshape(1)))

    task = AttributionTask(model=module, loss_func=output, checkpoints=module.state_dict(), target_func=output)
    job = TRAKAttributor(
        task,
        probability,
        device="cpu",
        projector_kwargs={"proj_dim": dim, "proj_max_batch_size": 32, "proj_seed": 0, "device": "cpu"},
    )
    job.cache(DataLoader(train, 100))
    return job.attribute(DataLoader(queries, 50))


def _sets(arrays: dict[str, torch.Tensor]) -> tuple[TensorDataset, TensorDataset]:
    return TensorDataset(arrays["x"], arrays["y"]), TensorDataset(arrays["xq"], arrays["yq"])


if __name__ == "__main__":
    torch.set_num_threads(2)
    peer, path, dim = sys.argv[1], sys.argv[2], int(sys.argv[3])
    arrays = load_file(path)
    start = time.perf_counter()
    scores = {"traker": traker, "dattri": dattri}[peer](arrays, dim)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "version": version(peer), "scores": scores.flatten().tolist()}))
