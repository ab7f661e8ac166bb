"""The command line: one command per file; each parses, calls one public function and renders."""

from assay.cli.main import main

__all__ = ["main"]
