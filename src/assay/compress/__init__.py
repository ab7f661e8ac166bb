"""Compression of per-example gradients: one compressor per file, and their names on the command line."""

from assay.compress.eigenbasis import Eigenbasis
from assay.compress.factored import Factored
from assay.compress.none import Identity
from assay.compress.sjlt import SJLT
from assay.errors import MethodError, nearest
from assay.gradients.sketch import Compression, Sketch

COMPRESSIONS: dict[str, type[Compression]] = {"none": Identity, "factored": Factored, "sjlt": SJLT, "eigen": Eigenbasis}


def parse(text: str, seed: int = 0) -> Compression:
    """`none`, `factored:RANK`, `sjlt:DIM` or `eigen:RANK`, as a compression with this seed."""
    name, _, size = text.partition(":")
    if name not in COMPRESSIONS:
        raise MethodError(f"There is no compression '{name}'. {nearest(name, COMPRESSIONS)}")
    if size and (name == "none" or not size.isdecimal()):
        raise MethodError(f"The compression '{text}' cannot be read; write none, factored:16, sjlt:2048 or eigen:64.")
    match name:
        case "factored":
            return Factored(seed, int(size)) if size else Factored(seed)
        case "sjlt":
            return SJLT(seed, int(size)) if size else SJLT(seed)
        case "eigen":
            return Eigenbasis(seed=seed, rank=int(size)) if size else Eigenbasis(seed=seed)
        case _:
            return Identity(seed)


__all__ = ["COMPRESSIONS", "SJLT", "Compression", "Eigenbasis", "Factored", "Identity", "Sketch", "parse"]
