# `make demo` and `make test` do their own set-up: nothing but Python 3.11 (or newer) is needed beforehand.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint format venv

demo: .venv/ready
	@.venv/bin/heatv2x demo $(ARGS)

# One process per core, torch with one thread in each (tests/conftest.py); modules stay whole, so that what a module
# builds once is built once. More cores: make test JOBS=8
test: .venv/ready
	@.venv/bin/python -m pytest -n $(JOBS) --dist loadscope $(ARGS)

lint: .venv/ready
	@failed=0; \
	.venv/bin/ruff check . || failed=1; \
	.venv/bin/ruff format --check . || failed=1; \
	.venv/bin/mypy || failed=1; \
	.venv/bin/mypy --strict tools/setup.py || failed=1; \
	exit $$failed

format: .venv/ready
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

venv: .venv/ready
	@echo "setup: .venv is ready"

.venv/ready: pyproject.toml tools/setup.py
	@$(PYTHON) tools/setup.py
