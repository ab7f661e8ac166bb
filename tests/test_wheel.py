"""The wheel that users install carries everything the package reads at run time."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; its standard output, or a failure with everything it said."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    root = Path(__file__).resolve().parent.parent
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, root, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_file_of_the_package(wheel: Path, repository: Path) -> None:
    source = repository / "src"
    package = {p.relative_to(source).as_posix() for p in (source / "assay").rglob("*") if p.is_file()}
    wanted = {name for name in package if "__pycache__" not in name}
    assert {"assay/py.typed", "assay/__init__.py"} <= wanted
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    assert wanted <= held, f"not in the wheel: {sorted(wanted - held)}"
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in held)


def test_installed_wheel_imports_and_finds_its_templates(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", "--target", target]
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=tmp_path)
    # -I keeps the checkout out; what follows must come from the wheel.
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "import json, assay\n"
        "from importlib.metadata import entry_points\n"
        "from importlib.resources import files\n"
        "templates = files('assay') / 'explore' / 'templates'\n"
        "print(json.dumps({\n"
        "    'file': assay.__file__,\n"
        "    'typed': (files('assay') / 'py.typed').is_file(),\n"
        "    'templates': sorted(t.name for t in templates.iterdir() if t.read_text('utf-8')),\n"
        "    'command': [e.value for e in entry_points(group='console_scripts', name='assay')][:1],\n"
        "}))\n"
    )
    found = json.loads(run(sys.executable, "-I", "-c", code, cwd=tmp_path))
    assert Path(found["file"]).is_relative_to(target)
    assert found["typed"]
    assert any(name.endswith(".html") for name in found["templates"]), found["templates"]
    assert any(name.endswith(".css") for name in found["templates"]), found["templates"]
    assert found["command"] == ["assay.cli:main"]
