# From a bare python3.11 (or newer): `make repro` runs the DAG, `make test` the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
UV     := $(BIN)/uv
RUN    := PYTHONHASHSEED=0 PATH="$(BIN):$$PATH"
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --no-config

.DEFAULT_GOAL := help
PROFILE ?= local

.PHONY: help env env-dev repro cluster cluster-report pretrain mutate test test-slurm test-crate test-server rehearse lint lint-workflow lock schema ui clean

help:            ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(VENV)/.uv: envs/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pistole needs python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/uv.txt
	touch $@

$(VENV)/.runtime: $(VENV)/.uv envs/runtime.txt pyproject.toml
	$(INSTALL) -r envs/runtime.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --no-config -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime envs/dev.txt
	$(INSTALL) -r envs/dev.txt
	touch $@

env: $(VENV)/.runtime    ## create the environment from the hashed lock
env-dev: $(VENV)/.dev    ## the same with the test tools

repro: env       ## run the whole DAG (dvc repro) and print the table
	$(RUN) dvc repro
	$(RUN) pistole times
	$(RUN) pistole show

cluster: env     ## run what is stale through Snakemake: PROFILE=local, slurm or slurm-gres
	@echo "Profile $(PROFILE): workflow/profiles/$(PROFILE)/config.yaml (docs/cluster.md explains it)."
	@echo "First the parameters are checked here. Then every stage that DVC calls stale becomes a job;"
	@echo "a stage whose inputs turn out unchanged ends at once. Finished stages go into dvc.lock if"
	@echo "their receipts are what is on disk; the rest runs at the next call."
	$(RUN) dvc repro params
	$(RUN) snakemake --profile workflow/profiles/$(PROFILE)

cluster-report: env  ## write snakemake-report.html: figures, parameters and times of the last run
	$(RUN) snakemake --report snakemake-report.html

test: env-dev    ## run the tests
	$(RUN) python -m pytest

test-slurm: env-dev  ## the slurm profiles on a real Slurm of this machine (root, Debian; minutes)
	$(RUN) python -m pytest -m slurm -rs tests/e2e/slurm

test-crate: env-dev .venv-provenance/.done  ## `pistole crate` against the published profiles
	$(RUN) python -m pytest -rs tests/e2e/test_provenance.py tests/e2e/test_travel.py

.venv-provenance/.done: $(VENV)/.uv envs/provenance.txt
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-provenance
	$(UV) pip install --quiet --python .venv-provenance/bin/python --no-deps --require-hashes --no-config -r envs/provenance.txt
	touch $@

rehearse: env-dev  ## every stage once on a ViT-B/32 with random weights (many minutes)
	$(RUN) python -m pytest -m rehearsal -rs tests/e2e/test_rehearsal.py

test-server: env-dev  ## an MLflow server over PostgreSQL, eight stages at once (Debian's postgresql)
	$(RUN) python -m pytest -m server -rs tests/e2e/server

lint: env-dev    ## ruff, pyright on method/, import-linter, schema drift
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) basedpyright
	$(RUN) lint-imports
	$(RUN) pistole schema --check

lint-workflow: env-dev  ## snakemake --lint and snakefmt on workflow/Snakefile
	$(RUN) snakemake --lint
	$(RUN) snakefmt --check workflow/Snakefile

mutate: env-dev  ## mutation testing of method/ (a quarter of an hour); lists the survivors
	$(RUN) OMP_NUM_THREADS=1 mutmut run
	$(RUN) mutmut results

pretrain: env    ## make the embedded base's weights again (half an hour) and record them
	$(RUN) DVC_STAGE=pretrain pistole pretrain
	$(RUN) dvc commit --force pretrain

schema: env      ## regenerate workflow/schemas/params.schema.json
	$(RUN) pistole schema

ui: env          ## open the MLflow store in a browser
	MLFLOW_DISABLE_TELEMETRY=true $(RUN) mlflow ui --backend-store-uri sqlite:///mlflow.db

lock: $(VENV)/.uv    ## resolve envs/*.in again into the hashed locks
	cd envs && for name in uv runtime dev provenance; do $(UV) pip compile $$name.in --override overrides.txt --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --annotation-style line --quiet -o $$name.txt || exit 1; done

clean:           ## remove the environment and caches (artifacts stay)
	rm -rf $(VENV) .venv-provenance mutants .pytest_cache .ruff_cache .hypothesis
