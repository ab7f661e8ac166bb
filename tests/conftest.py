"""What every test starts from: no network, seeds, one thread, caches in a temporary folder.

Every annotation of the package, jaxtyping's shapes among them, is checked at each call that a test makes.
"""

import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path

# Read once, when the libraries are imported: so set before any import below.
_caches = tempfile.mkdtemp(prefix="assay-tests-")
atexit.register(shutil.rmtree, _caches, ignore_errors=True)
os.environ |= {
    # Tensors are tiny, and other processors have tests of their own. Processes that tests start inherit it: an index has
    # the same bits only for the same number of threads.
    "OMP_NUM_THREADS": "1",
    "HF_HOME": _caches,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": _caches,
    "TOKENIZERS_PARALLELISM": "false",
}

import beartype.typing  # noqa: E402, F401 - the string below names it
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# In place before the first import of `assay`. An int is a float, as the type checker has it too. `Self` is
# not checked: beartype knows it only when it decorates whole classes, and the hook decorates methods.
install_import_hook(
    "assay",
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True,"
    " hint_overrides=beartype.BeartypeHintOverrides({beartype.typing.Self: object})))",
)

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
