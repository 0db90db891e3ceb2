# Every verb works from a bare clone with git, make, python3 >= 3.11 and the package
# registries: uv is installed into .tools/, everything else into .venv from uv.lock.
.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all fault-suite budgets lint generate bench bench-compare bench-time bench-agents bench-archive bench-peers bench-matching fit-matching tune-matching clean

UV  := .tools/bin/uv
RUN := $(UV) run --frozen --no-sync
STAMP := .venv/.synced

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(UV):
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "contex needs python3 >= 3.11"; exit 1; }
	python3 -m venv .tools
	.tools/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

# UV_NO_CONFIG and a Python that is already there: nothing is fetched but packages.
$(STAMP): $(UV) uv.lock pyproject.toml clients/python/pyproject.toml clients/cli/pyproject.toml examples/demo/pyproject.toml
	$(UV) sync --frozen --no-progress --python-preference only-system
	@touch $@

demo: $(STAMP) ## run the whole story on real input: match, deliver, kill -9, resume
	$(RUN) contex demo

serve: $(STAMP) ## start a server on the built-in store, data in ./data
	$(RUN) contex serve

# More processes than cores: half of the time they wait. Compiled modules are kept, for
# hundreds of processes start; and numpy computes in one thread, as it does in a server.
WORKERS ?= $(shell python3 -c 'import os; print(os.cpu_count() + 1)')
PYTEST := PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 $(RUN) pytest -n $(WORKERS) --dist worksteal

test: $(STAMP) ## every kind of test that needs nothing but Python
	$(PYTEST) -m "not toolchain and not thorough"

test-all: $(STAMP) ## also more cases of each kind, and what needs other toolchains
	$(PYTEST) --hypothesis-profile thorough

SEEDS ?= 20
fault-suite: $(STAMP) ## run SEEDS=n random topologies with traffic and faults, for half an hour at most, or SEED=k again
	$(RUN) python -m tests.faults.suite --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

budgets: $(STAMP) ## print what one request of each kind costs, beside what it may
	$(RUN) python -m tests.budgets

lint: $(STAMP) ## ruff, mypy --strict, import layers, buf
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports --no-cache
	$(RUN) buf lint
	$(RUN) buf format --diff --exit-code

STUBS := clients/python
generate: $(STAMP) ## recreate the stubs and the client's values from protos/, and the blocking client
	rm -f $(STUBS)/contex/v1/*_pb2*
	$(RUN) python -m grpc_tools.protoc -I protos --python_out=$(STUBS) --mypy_out=$(STUBS) protos/contex/v1/*.proto
	$(RUN) python -m grpc_tools.protoc -I protos --grpc_python_out=$(STUBS) --mypy_grpc_out=$(STUBS) protos/contex/v1/*_service.proto
	@touch $(STUBS)/contex/v1/__init__.py
	$(RUN) python clients/python/generate.py

bench: $(STAMP) ## measure against raw store and bare gRPC; writes benchmarks/results/
	$(RUN) python -m benchmarks

bench-time: $(STAMP) ## measure state, history and activity of the past, and what recording costs
	$(RUN) python -m benchmarks --only time

bench-agents: $(STAMP) ## measure what agents get: listening, catching up, deciding, taking over, consuming
	$(RUN) python -m benchmarks --only listening inboxes deciders consuming

bench-archive: $(STAMP) ## measure a log longer than memory: the archive, files, what archiving costs
	$(RUN) python -m benchmarks --only archive

bench-peers: $(STAMP) ## measure Contex beside UmaDB and, where there is Go, NATS JetStream; both are installed for it
	$(RUN) python -m benchmarks.peers

BEFORE ?= ../contex-before
bench-compare: $(STAMP) ## measure this checkout beside BEFORE=checkout, in one run
	$(RUN) python -m benchmarks.compare $(BEFORE)

DATA ?= ../shared/data
EMBEDDER ?= minilm
MATCHING = $(RUN) python -m benchmarks.matching
bench-matching: $(STAMP) ## measure matching, each set left out; writes the tables of docs/guide/matching.md
	$(UV) sync --frozen --inexact --no-progress --python-preference only-system --group bench
	$(MATCHING) bench --data $(DATA) --embedder $(EMBEDDER)

fit-matching: $(STAMP) ## fit the weights of matching, for EMBEDDER=minilm or the directory of a model
	$(MATCHING) fit --data $(DATA) --embedder $(EMBEDDER)

tune-matching: $(STAMP) ## tune the built-in model on benchmarks/matching/tuning/sets; then give its digest to minilm.py and fit
	$(UV) run --frozen --isolated --no-progress --python-preference only-system --group tuning python -m benchmarks.matching.tuning

clean: ## remove what the verbs made, but not ./data
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
