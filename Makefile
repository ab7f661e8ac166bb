# Two commands to begin with: `make install` and `make demo`. Everything else installs first if it has to.
PYTHON ?= python3
BIN := .venv/bin
# The extras that the repository's own code, tests and benchmarks use today.
EXTRAS := lora,embed,trees,transport,bench,dev

.PHONY: install demo test check format bench clean

install: .venv/.installed

# The stamp is touched last, so an interrupted installation starts again. hatchling comes first, at its pinned version:
# without build isolation the package itself is built by it, not by whatever is newest.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt hatchling editables
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/assay demo

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_docs.py

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/python docs/generate.py

bench: install
	$(BIN)/python -m benchmarks

# The environment stays; delete .venv to start over.
clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks docs examples -name __pycache__ -type d -prune -exec rm -rf {} +
