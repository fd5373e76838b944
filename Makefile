PYTHON ?= python3
VENV := .venv
VENV_OPENAI2 := .venv-openai2
VENV_FRAMEWORKS := .venv-frameworks
VENV_VLLM := .venv-vllm
ADAPTERS := langchain llama-index mcp openai-agents pydantic-ai
BIN := $(VENV)/bin

.PHONY: help demo test test-frameworks test-vllm bench-client bench-adapters vllm-demo vllm-effect vllm lint types imports docs docs-contract unit openai2 install format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install  ## Compare four agent programs with hints and without, on a simulated fleet
	$(BIN)/llmd-agents demo --quick

test: lint types imports docs openai2 unit  ## Run every check and every test

install: $(VENV)/installed  ## Make the virtual environment

$(VENV)/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.txt -e '.[dev]'
	@touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy
	cd integrations/vllm && ../../$(BIN)/mypy

imports: install
	$(BIN)/lint-imports --no-cache

docs: install  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-contract: install  ## Write the pages of the documentation that are made from the contract's code
	$(BIN)/python -m llmd_agents.hints.document docs

unit: install
	$(BIN)/pytest -n 2 --dist loadscope

# The client promises to work with both major versions of the openai package.
openai2: $(VENV_OPENAI2)/installed
	$(VENV_OPENAI2)/bin/pytest -q -n 2 --dist loadscope tests/client tests/testing tests/stack/test_openai_sdk.py

$(VENV_OPENAI2)/installed: pyproject.toml requirements.txt requirements-openai2.txt
	$(PYTHON) -m venv $(VENV_OPENAI2)
	sed '/^openai==/d' requirements.txt > $(VENV_OPENAI2)/constraints.txt
	$(VENV_OPENAI2)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(VENV_OPENAI2)/constraints.txt -r requirements-openai2.txt -e '.[router]' \
		pytest pytest-timeout pytest-xdist hypothesis
	@touch $@

bench-client: install  ## Measure what the client costs a call, as JSON
	@$(BIN)/python -m tests.benchmarks.bench_client

test-frameworks: $(VENV_FRAMEWORKS)/installed  ## Run each agent framework with its adapter
	@set -e; for adapter in $(ADAPTERS); do echo "integrations/$$adapter"; cd integrations/$$adapter; \
		../../$(VENV_FRAMEWORKS)/bin/python -m mypy --cache-dir ../../.mypy_cache/frameworks; \
		../../$(VENV_FRAMEWORKS)/bin/python -m pytest -q -n 2 --dist loadscope; cd ../..; done

bench-adapters: $(VENV_FRAMEWORKS)/installed  ## Measure what each adapter costs a call, as JSON
	@set -e; for adapter in $(ADAPTERS); do cd integrations/$$adapter; \
		../../$(VENV_FRAMEWORKS)/bin/python -m tests.bench_overhead; cd ../..; done

# The pins are complete: LlamaIndex's class for OpenAI asks for an openai before 3, and works with 3.
$(VENV_FRAMEWORKS)/installed: pyproject.toml requirements-frameworks.txt $(ADAPTERS:%=integrations/%/pyproject.toml)
	$(PYTHON) -m venv $(VENV_FRAMEWORKS)
	$(VENV_FRAMEWORKS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-r requirements-frameworks.txt -e . $(ADAPTERS:%=-e integrations/%)
	@touch $@

test-vllm: $(VENV_VLLM)/installed  ## Run real vLLM engines on the CPU with what we add to them
	@if [ -s $< ]; then cat $<; else cd integrations/vllm && ../../$(VENV_VLLM)/bin/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder; fi

vllm-demo: vllm  ## Compare two agent programs on real vLLM engines (takes 2.5 GB), with hints and without
	@PYTHONPATH=integrations/vllm $(VENV_VLLM)/bin/python -m harness.demo

vllm-effect: vllm  ## Measure what hints change on real vLLM engines: ARGS="--results FILE [--quick]"
	@PYTHONPATH=integrations/vllm $(VENV_VLLM)/bin/python -m harness.effect $(ARGS)

# For people: what takes long is said first, and to go on without vLLM would make no sense.
vllm:
	@test -e $(VENV_VLLM)/installed || echo "Installing vLLM's CPU build into $(VENV_VLLM): 2.5 GB, some minutes"
	@$(MAKE) --no-print-directory --silent $(VENV_VLLM)/installed
	@if [ -s $(VENV_VLLM)/installed ]; then \
		echo "This needs vLLM's CPU build, and pip finds no CPU build of PyTorch for it here:"; \
		echo "name an index that has it (integrations/vllm/README.md, Develop)."; exit 1; fi

# The pins are complete: without --no-deps pip would also fetch parts of vLLM that only run on GPUs. Where there is
# no PyTorch for the CPU, the file says so and is too old to keep the next run from looking again.
$(VENV_VLLM)/installed: pyproject.toml integrations/vllm/pyproject.toml requirements-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python integrations/vllm/harness/torch_for_cpu.py requirements-vllm.txt > $(VENV_VLLM)/skipped
	@if [ -s $(VENV_VLLM)/skipped ]; then mv $(VENV_VLLM)/skipped $@; touch -t 197001020000 $@; else set -ex; \
		$(VENV_VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
			-r requirements-vllm.txt -e . -e integrations/vllm; \
		$(VENV_VLLM)/bin/python integrations/vllm/harness/vllm_distribution.py; \
		mv $(VENV_VLLM)/skipped $@; touch $@; fi

format: install  ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## Remove everything that make has made
	rm -rf $(VENV) $(VENV_OPENAI2) $(VENV_FRAMEWORKS) $(VENV_VLLM) site .mypy_cache .ruff_cache .pytest_cache .hypothesis
