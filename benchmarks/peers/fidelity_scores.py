"""Run by the Python of a peer's environment: `fidelity_scores.py PEER FOLDER OUT.safetensors`.

FOLDER holds `data.safetensors` (train.x, train.y, query.x, query.y), `module.safetensors` and `name.txt` (a module of
`fidelity/models.py`), `checkpoint-K.safetensors` along the run. PEER is a function below. Stores [train, query] scores
in which higher is more helpful, and prints seconds and peak memory, without loading, as JSON. Hyper-parameters are the
peer's defaults, but where a comment says otherwise.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fidelity"))
from models import MODULES

RATE = 0.1
REGULARIZATION = 1e-2
"""dattri's default of 0 lets conjugate gradients diverge on a matrix that is not definite; its benchmark uses 1e-2."""
PROJECTION = 512
BATCH = 64
LARGE = 1000
"""Training images a batch for dattri's conjugate gradients, which solve for the queries again at every batch."""


class Work:
    """The module, the data, the checkpoints."""

    def __init__(self, folder: Path) -> None:
        tensors = load_file(folder / "data.safetensors")
        self.train = TensorDataset(tensors["train.x"], tensors["train.y"])
        self.queries = TensorDataset(tensors["query.x"], tensors["query.y"])
        self.name = (folder / "name.txt").read_text()
        self.states = [load_file(path) for path in sorted(folder.glob("checkpoint-*.safetensors"))]
        self.state = load_file(folder / "module.safetensors")

    def module(self) -> nn.Module:
        module = MODULES[self.name]()
        module.load_state_dict(self.state)
        return module.eval()

    @property
    def loaders(self) -> tuple[DataLoader, DataLoader]:
        return DataLoader(self.train, BATCH), DataLoader(self.queries, BATCH)


def _loss(module: nn.Module) -> Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], Tensor]:
    """Mean loss of a batch or of one image, as dattri calls it with both."""

    def loss(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        x, y = pair
        return cross_entropy(torch.func.functional_call(module, params, (x.reshape(-1, x.shape[-1]),)), y.reshape(-1))

    return loss


def _task(work: Work) -> object:
    from dattri.task import AttributionTask

    module = work.module()
    return AttributionTask(loss_func=_loss(module), model=module, checkpoints=module.state_dict())


def _influence(work: Work, make: Callable[[object], object]) -> Tensor:
    train, queries = DataLoader(work.train, LARGE), DataLoader(work.queries, len(work.queries))
    attributor = make(_task(work))
    attributor.cache(train)
    with torch.no_grad():
        return attributor.attribute(train, queries)


def dattri_cg(work: Work) -> Tensor:
    from dattri.algorithm.influence_function import IFAttributorCG

    return _influence(work, lambda task: IFAttributorCG(task, regularization=REGULARIZATION))


def dattri_explicit(work: Work) -> Tensor:
    from dattri.algorithm.influence_function import IFAttributorExplicit

    return _influence(work, lambda task: IFAttributorExplicit(task, regularization=REGULARIZATION))


def dattri_trak(work: Work) -> Tensor:
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    module = work.module()
    loss = _loss(module)

    def margin(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        logp = -loss(params, pair)
        return logp - torch.log1p(-torch.exp(logp))

    def correct(params: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> Tensor:
        return torch.exp(-loss(params, pair))

    task = AttributionTask(loss_func=margin, model=module, checkpoints=module.state_dict(), target_func=margin)
    options = {"device": "cpu", "proj_dim": PROJECTION, "proj_max_batch_size": 32, "proj_seed": 0}
    attributor = TRAKAttributor(task, correct_probability_func=correct, projector_kwargs=options)
    train, queries = work.loaders
    with torch.no_grad():
        attributor.cache(train)
        return attributor.attribute(queries)


def traker(work: Work) -> Tensor:
    from trak.projectors import BasicProjector, ProjectionType

    from trak import TRAKer

    module = work.module()
    size = sum(p.numel() for p in module.parameters())
    projector = BasicProjector(
        size, PROJECTION, 0, ProjectionType.rademacher, torch.device("cpu"), block_size=128, dtype=torch.float32
    )
    train, queries = work.loaders
    with tempfile.TemporaryDirectory() as folder:
        job = TRAKer(
            module, "image_classification", len(work.train), save_dir=folder, device="cpu", projector=projector,
            proj_dim=PROJECTION, use_half_precision=False, logging_level=50,
        )  # fmt: skip
        job.load_checkpoint(module.state_dict(), model_id=0)
        for batch in train:
            job.featurize(batch=batch, num_samples=len(batch[0]))
        job.finalize_features()
        job.start_scoring_checkpoint("queries", module.state_dict(), 0, len(work.queries))
        for batch in queries:
            job.score(batch=batch, num_samples=len(batch[0]))
        return torch.as_tensor(job.finalize_scores("queries"))


def captum_tracin(work: Work) -> Tensor:
    from captum.influence import TracInCP

    module = work.module()

    def load(target: nn.Module, state: dict[str, Tensor]) -> float:
        target.load_state_dict(state)
        return RATE

    job = TracInCP(
        module, work.train, work.states, checkpoints_load_func=load, loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=BATCH, sample_wise_grads_per_batch=False,
    )  # fmt: skip
    return job.influence(work.queries.tensors).T


PEERS = {f.__name__.replace("_", "-"): f for f in (
    dattri_cg, dattri_explicit, dattri_trak, traker, captum_tracin
)}  # fmt: skip
PACKAGES = {"dattri": "dattri", "traker": "traker", "captum": "captum"}


def main(peer: str, folder: Path, out: Path) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    work = Work(folder)
    start = time.perf_counter()
    scores = PEERS[peer](work)
    seconds = time.perf_counter() - start
    save_file({"scores": scores.detach().float().contiguous()}, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    package = PACKAGES[peer.split("-")[0]]
    print(json.dumps({"seconds": seconds, "peak": peak, "version": f"{package} {version(package)}"}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
