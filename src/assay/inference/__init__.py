"""Language models asked for likelihoods and answers, here in the process or behind a server; no gradients."""

from assay.inference.likelihood import Likelihood, Request, Tokens
from assay.inference.local import Local
from assay.inference.server import Server
from assay.inference.session import Session

__all__ = ["Likelihood", "Local", "Request", "Server", "Session", "Tokens"]
