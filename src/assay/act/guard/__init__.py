"""Which documents does an output really need, and so: what may it be told to whom? `assay.guard` is the function."""

from assay.act.guard.calibrate import Drops, calibrate, drops
from assay.act.guard.lattice import NOTHING, Lattice, Order, Powerset, parse_lattice
from assay.act.guard.propagate import LAMBDA, guard
from assay.act.guard.result import Guarded, Verdict

__all__ = [
    "LAMBDA",
    "NOTHING",
    "Drops",
    "Guarded",
    "Lattice",
    "Order",
    "Powerset",
    "Verdict",
    "calibrate",
    "drops",
    "guard",
    "parse_lattice",
]
