"""Many retrainings of one recipe, with weights and a seed each: what each model's loss on the queries is.

Each worker is a Python process of its own with one thread. It is given the recipe and the encoded examples once, through its
standard input, and then one job after the other; when whoever started it ends, however abruptly, the input ends and so
does the worker. Nothing passes through the disk, and scripts need no `if __name__ == "__main__"`. One process trains here.
A model's bits do not depend on the number of processes, which is why one thread is all that a job gets.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

import cloudpickle
import numpy as np
import threadpoolctl
import torch
from jaxtyping import Float, Float64

from assay.errors import AssayError, MethodError
from assay.training.data import Encoded
from assay.training.estimator import Arrays, EstimatorRecipe
from assay.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Job:
    """One retraining: a weight an example, and the seed that replaces the recipe's."""

    weights: Float[np.ndarray, " n"] = field(repr=False)
    seed: int


@dataclass(frozen=True)
class Work:
    """What all jobs share.

    `rebatch`: the examples of weight 0 are taken out before training, so that the others form new batches, as published
    ground truths have it; otherwise they stay in their batches with weight 0, and every other example keeps its step.
    """

    recipe: Recipe | EstimatorRecipe
    train: Encoded | Arrays = field(repr=False)
    queries: Encoded | Arrays = field(repr=False)
    rebatch: bool = False

    def losses(self, job: Job) -> Float64[np.ndarray, " q"]:
        """Train, and measure the loss of each query; of a text the mean over its tokens."""
        recipe = replace(self.recipe, seed=job.seed)
        if isinstance(recipe, Recipe):
            recipe = replace(recipe, checkpoints=1)
        data, weights = self.train, job.weights
        if self.rebatch:
            kept = np.flatnonzero(weights)
            data, weights = data.select(kept), weights[kept]
        losses = recipe.train(data, weights).loss_of(self.queries)
        return np.asarray(losses.double().numpy(), dtype=np.float64)


def retrained(work: Work, jobs: Sequence[Job], processes: int) -> Generator[tuple[Job, Float64[np.ndarray, " q"]]]:
    """Every job with the queries' losses, in the order in which they end.

    Raises what training raises, and MethodError if a worker is killed; what has been yielded before stays true.
    """
    if processes < 1:
        raise MethodError(f"processes is {processes}; at least 1 was expected.")
    if min(processes, len(jobs)) <= 1:
        with one_thread():
            for job in jobs:
                yield job, work.losses(job)
        return
    crew = [_Worker(work_bytes) for work_bytes in [_packed(work)] * min(processes, len(jobs))]
    results: queue.SimpleQueue[tuple[Job, Any]] = queue.SimpleQueue()
    left = deque(jobs)
    try:
        for worker in crew:
            threading.Thread(target=_feed, args=(worker, left, results), daemon=True).start()
        for _ in jobs:
            job, outcome = results.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield job, outcome
    finally:
        left.clear()
        for worker in crew:
            worker.stop()


@contextmanager
def one_thread() -> Generator[None]:
    """One thread for torch and for the libraries below numpy and scikit-learn; afterwards as many as before."""
    threads = torch.get_num_threads()
    with threadpoolctl.threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _packed(work: Work) -> bytes:
    try:
        return cloudpickle.dumps(work)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise MethodError(
            f"The recipe cannot be sent to another process ({error}). Retrain with processes=1, or let make_model make "
            "what cannot be sent (open files, locks, other processes)."
        ) from error


class _Worker:
    """A process that trains what it is told."""

    def __init__(self, work: bytes) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = {**os.environ, **threads, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "assay.training.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._work: bytes | None = work

    def do(self, job: Job) -> Float64[np.ndarray, " q"]:
        """The job's losses; what training raised there is raised here."""
        there, back = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        try:
            if self._work is not None:
                pickle.dump(self._work, there)
                self._work = None
            pickle.dump((job.weights, job.seed), there)
            there.flush()
            outcome = pickle.load(back)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise MethodError(
                f"A training process ended in the middle of its work (exit status {self._process.poll()}); it may have "
                "run out of memory. Use fewer processes; what was retrained before is kept."
            ) from error
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                cast(BinaryIO, pipe).close()
            except BrokenPipeError:  # what was still to be sent has nobody to read it
                continue


def _feed(worker: _Worker, left: "deque[Job]", results: "queue.SimpleQueue[tuple[Job, Any]]") -> None:
    """Give one worker jobs until there are none, or one fails."""
    while left:
        try:
            job = left.popleft()
        except IndexError:
            return
        try:
            results.put((job, worker.do(job)))
        except Exception as error:  # raised again where the results are read
            results.put((job, error))
            return


def serve(given: BinaryIO, answers: BinaryIO) -> None:
    """A worker's life: read the work, then a job and answer, until the input ends."""
    work: Work = pickle.loads(pickle.load(given))
    with one_thread():
        while True:
            try:
                weights, seed = pickle.load(given)
            except EOFError:
                return
            pickle.dump(_outcome(work, Job(weights, seed)), answers)
            answers.flush()


def _outcome(work: Work, job: Job) -> Any:
    """Losses, or the error as one that can be sent."""
    try:
        return work.losses(job)
    except AssayError as error:
        return type(error)(str(error))
    except Exception as error:
        return RuntimeError(f"Retraining failed in a worker process: {type(error).__name__}: {error}")
