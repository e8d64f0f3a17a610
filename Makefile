PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions of constraints.txt need Python 3.11; on 3.10 pip takes the newest that there are.
NEWER := import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")
INSTALL := $(BIN)/pip install --quiet $(shell $(PYTHON) -c '$(NEWER)')

.PHONY: demo test lint docs fuzz clean

# A stamp remembers a finished set-up; it is repeated only when the requirements change.
$(VENV)/runtime.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[cpu]'
	touch $@

$(VENV)/develop.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[cpu,openvino,export,bench,ray,serve,tensorrt-rtx,tiff,docs,dev]'
	touch $@ $(VENV)/runtime.stamp

# Upscale a shipped photograph and write build/demo/demo.png (needs no PyTorch).
demo: $(VENV)/runtime.stamp
	$(BIN)/flowsr-export demo -o build/demo --force

# Lint, format, types, the site and the tests: what has to pass before a change lands.
test: lint docs
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/develop.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# Mutated pictures, bundles, checkpoints and requests, C++ under sanitizers, and new examples of
# every property of the runtime; `test` has a few, the same ones each time.
fuzz: $(VENV)/develop.stamp
	FLOWSR_RANDOM_TESTS=1 $(BIN)/python -m pytest -q tests/flowsr_runtime
	FLOWSR_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest -q tests/fuzz --ignore=tests/fuzz/test_cpp.py
	FLOWSR_FUZZ_EXAMPLES=2000 $(BIN)/python -m pytest -q tests/fuzz/test_cpp.py

# The site in build/site; a warning, such as a broken link, is an error.
docs: $(VENV)/develop.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
