"""Imports point one way, and importing the package stays light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A module imports only what stands before it here, or its own package. The root module, which names the
# public surface, imports anything; only the command line imports the root.
FLOW = """
errors progress jsonable examples provenance run_directory ranking tables results grain scores values runs
tasks moments models training gradients compress curvature folds index dynamics inference methods runtime evaluate act api sklearn explore
demo cli
"""
ORDER = FLOW.split()
ROOT = "the root module"
MAY_IMPORT_ROOT = {"cli"}
LAZY = ("datasets", "matplotlib", "peft", "scipy.stats", "sentence_transformers", "sklearn")

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "assay"


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and top-level part of every import of `assay`, in a module of `package` (["assay", ...])."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = base + (node.module.split(".") if node.module else [])
            targets = [[*stem, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            if target[0] == "assay":
                yield node.lineno, target[1] if len(target) > 1 and target[1] in ORDER else ROOT


def violations(source: str, path: Path) -> list[str]:
    """What breaks the order in one file; `path` is relative to the package."""
    part = path.parts[0].removesuffix(".py")
    if part in {"__init__", "__main__"}:
        return []
    if part not in ORDER:
        return [f"{path}: '{part}' has no place in ORDER; add it where the flow has it"]
    found = []
    for line, target in sorted(set(imported(ast.parse(source), ["assay", *path.parent.parts]))):
        known = target != ROOT
        if not (ORDER.index(target) <= ORDER.index(part) if known else part in MAY_IMPORT_ROOT):
            found.append(f"{path}:{line}: {part} imports {target}")
    return found


def test_imports_point_one_way() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    found = [v for file in files for v in violations(file.read_text("utf-8"), file.relative_to(PACKAGE))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tasks/base.py", "from assay.index import open"),
        ("tasks/base.py", "from ..index.reader import scan"),
        ("tasks/base.py", "from .. import index"),
        ("errors.py", "from .examples import read"),
        ("methods/base.py", "def late():\n    import assay.cli"),
        ("index/scan.py", "if TYPE_CHECKING:\n    from assay.methods import Method"),
        ("methods/base.py", "from assay import attribute"),
        ("methods/base.py", "import assay"),
        ("newcomer.py", ""),
    ],
)
def test_the_check_sees_a_wrong_import(path: str, source: str) -> None:
    assert len(violations(source, Path(path))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("methods/gradient/trak.py", "from ...index import open\nfrom ..base import Method\nimport torch"),
        ("methods/gradient/trak.py", "from assay import index, scores"),
        ("cli/attribute.py", "import assay\nfrom assay import attribute"),
        ("__init__.py", "from assay.cli import main"),
    ],
)
def test_the_check_lets_a_right_import_pass(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []


def test_importing_assay_is_light() -> None:
    code = f"import json, sys, assay; print(json.dumps([m for m in {LAZY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
