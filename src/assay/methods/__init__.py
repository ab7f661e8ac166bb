"""Methods: one file each. This tuple is the only registry; the command line, the docs and the tests iterate it."""

from typing import Any, cast

from assay.errors import MethodError, nearest
from assay.methods.base import Fitted, Method, Registered, ValueMethod
from assay.methods.baseline.random import Random
from assay.methods.closed.data_oob import DataOOB
from assay.methods.closed.linear_influence import LinearInfluence
from assay.methods.dynamics.aum import AUM
from assay.methods.dynamics.confidence_variability import ConfidenceVariability
from assay.methods.dynamics.el2n import EL2N
from assay.methods.dynamics.forgetting import Forgetting
from assay.methods.dynamics.grand import GraNd
from assay.methods.dynamics.loss_variability import LossVariability
from assay.methods.dynamics.pvi import PVI
from assay.methods.dynamics.vog import VoG
from assay.methods.gradient.datainf import DataInf
from assay.methods.gradient.dda import DDA
from assay.methods.gradient.diagonal import Diagonal
from assay.methods.gradient.ekfac import EKFAC
from assay.methods.gradient.ekfac_cg import EKFACCG
from assay.methods.gradient.gradcos import GradCos
from assay.methods.gradient.graddot import GradDot
from assay.methods.gradient.infra import Infra
from assay.methods.gradient.kfac import KFAC
from assay.methods.gradient.less import LESS
from assay.methods.gradient.linfik import LinFiK
from assay.methods.gradient.lissa import LiSSA
from assay.methods.gradient.logra import LoGra
from assay.methods.gradient.path_krylov import PathKrylov
from assay.methods.gradient.self_influence import SelfInfluence
from assay.methods.gradient.source import Source
from assay.methods.gradient.tracin import TracIn
from assay.methods.gradient.trackstar import TrackStar
from assay.methods.gradient.trak import TRAK
from assay.methods.inference.icp import ICP
from assay.methods.lexical.bm25 import BM25
from assay.methods.lexical.embedding import Embedding
from assay.methods.lexical.tfidf import TFIDF
from assay.methods.neighbors.knn_shapley import KNNShapley
from assay.methods.neighbors.lava import LAVA
from assay.methods.replay.index import ReplayIndex
from assay.methods.replay.replay import Replay
from assay.methods.retrain.ame import AME
from assay.methods.retrain.banzhaf import Banzhaf
from assay.methods.retrain.beta_shapley import BetaShapley
from assay.methods.retrain.classwise_shapley import ClasswiseShapley
from assay.methods.retrain.datamodel import Datamodel
from assay.methods.retrain.least_core import LeastCore
from assay.methods.retrain.loo import LeaveOneOut
from assay.methods.retrain.owen import OwenShapley
from assay.methods.retrain.shapley import Shapley
from assay.methods.speech.frames import FrameValues
from assay.methods.student.alinfik import ALinFiK
from assay.methods.trees.boostin import BoostIn
from assay.methods.trees.leaf_influence import LeafInfluence
from assay.methods.trees.leaf_refit import LeafRefit
from assay.methods.trees.tracin_trees import TracInTrees
from assay.methods.trees.tree_loo import TreeLOO
from assay.methods.trees.tree_similarity import TreeSimilarity
from assay.methods.trees.trex import TREX

METHODS: tuple[type[Registered], ...] = (
    GradDot, GradCos, LinFiK, TracIn, TRAK, Diagonal, KFAC, EKFAC, EKFACCG, LiSSA, DataInf, Source, PathKrylov, LoGra, TrackStar,
    LESS, DDA, Infra, SelfInfluence, Replay, ReplayIndex, Shapley, BetaShapley, Banzhaf, LeaveOneOut, LeastCore, OwenShapley,
    ClasswiseShapley, Datamodel, BoostIn, LeafInfluence, LeafRefit, TREX, TracInTrees, TreeSimilarity, TreeLOO,
    AME, KNNShapley, LAVA, DataOOB, LinearInfluence, FrameValues, ALinFiK,
    VoG, EL2N, GraNd, Forgetting, PVI, AUM, LossVariability, ConfidenceVariability,
    ICP,
    BM25, TFIDF, Embedding, Random,
)  # fmt: skip


def find(method: str | Registered, **parameters: Any) -> Registered:
    """A method by name, with hyper-parameters, or as it is. Raises MethodError with the nearest name."""
    if isinstance(method, Registered):
        return method
    if not isinstance(cast(object, method), str):
        raise MethodError(
            f"The method was given as {method!r}; a name such as 'gradcos', or a method such as "
            "assay.methods.GradCos(), was expected."
        )
    for kind in METHODS:
        if kind.name == method:
            try:
                return kind(**parameters)
            except TypeError as error:
                raise MethodError(f"The method '{method}' cannot take {', '.join(parameters)}: {error}.") from error
    raise MethodError(f"There is no method '{method}'. {nearest(method, (kind.name for kind in METHODS))}")


__all__ = [
    "ALinFiK",
    "AME",
    "AUM",
    "ConfidenceVariability",
    "EL2N",
    "Forgetting",
    "GraNd",
    "LossVariability",
    "PVI",
    "VoG",
    "DDA",
    "Infra",
    "DataOOB",
    "FrameValues",
    "KNNShapley",
    "LAVA",
    "LinearInfluence",
    "BM25",
    "EKFAC",
    "KFAC",
    "Banzhaf",
    "BetaShapley",
    "ClasswiseShapley",
    "Datamodel",
    "LeastCore",
    "LeaveOneOut",
    "LESS",
    "METHODS",
    "OwenShapley",
    "Shapley",
    "TFIDF",
    "TRAK",
    "Diagonal",
    "EKFACCG",
    "DataInf",
    "TREX",
    "BoostIn",
    "Embedding",
    "Fitted",
    "GradCos",
    "GradDot",
    "ICP",
    "LiSSA",
    "LeafInfluence",
    "LinFiK",
    "LeafRefit",
    "LoGra",
    "Method",
    "PathKrylov",
    "Random",
    "Registered",
    "Replay",
    "ReplayIndex",
    "SelfInfluence",
    "Source",
    "TracIn",
    "TracInTrees",
    "TreeLOO",
    "TreeSimilarity",
    "TrackStar",
    "ValueMethod",
    "find",
]
