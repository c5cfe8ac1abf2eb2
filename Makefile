# make quickstart   from a fresh clone to the first verdict
# make test         everything that must hold before a change lands
PYTHON ?= python3.11
BIN := .venv/bin

# Nothing here needs a hub, and nothing may call home.
export HF_HUB_OFFLINE := 1
export HF_DATASETS_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export WANDB_ERROR_REPORTING := false
export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install quickstart test clean
.DELETE_ON_ERROR:

install: .venv/.dev

quickstart: .venv/.run
	WANDB_MODE=$${WANDB_MODE:-offline} $(BIN)/parity run recipes/quickstart.yaml

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	WANDB_MODE=offline $(BIN)/pytest -n 2 -q

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found; set PYTHON to a Python 3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Parity and its dependencies into .venv (minutes; more where torch comes with CUDA)"
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	@touch $@

# The dev extra contains the other installation, so its stamp counts for both.
.venv/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Parity and its dev extra into .venv (minutes; more where torch comes with CUDA)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch .venv/.run $@
