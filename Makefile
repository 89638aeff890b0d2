# From a bare python3.11 (or newer): `make repro` runs the DAG, `make test` the tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(abspath $(VENV))/bin
UV     := $(BIN)/uv
RUN    := PYTHONHASHSEED=0 PATH="$(BIN):$$PATH"
INSTALL := $(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --no-config

.DEFAULT_GOAL := help
PROFILE ?= local

.PHONY: help env env-dev doctor docs repro cluster cluster-report pretrain mutate test test-slurm test-crate test-parity test-server rehearse lint lint-workflow lock schema ui clean

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

doctor: env      ## check environment, machine, data, locks, git and store
	$(RUN) pistole doctor

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

# A file's tests stay together: they share a finished project. The slow ones come first.
test: env-dev    ## run the tests, a process per core and four at most
	$(RUN) python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slurm: env-dev  ## the slurm profiles on a real Slurm of this machine (root, Debian; minutes)
	$(RUN) python -m pytest -m slurm -rs tests/e2e/slurm

test-crate: env-dev .venv-provenance/.done  ## `pistole crate` against the published profiles
	$(RUN) python -m pytest -rs tests/e2e/test_provenance.py tests/e2e/test_travel.py

test-parity: env-dev .venv-parity/.done  ## the merging rules against mergekit and peft
	$(RUN) python -m pytest -rs tests/parity/test_merging_parity.py

docs: .venv-docs/.done  ## build the site into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

# Environments of their own, for programs whose pins are not ours.
.venv-%/.done: $(VENV)/.uv envs/%.txt
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-$*
	$(UV) pip install --quiet --python .venv-$*/bin/python --no-deps --require-hashes --no-config -r envs/$*.txt
	touch $@

rehearse: env-dev  ## every stage once on a ViT-B/32 with random weights (twenty minutes of one core)
	$(RUN) python -m pytest -m rehearsal -rs tests/e2e/test_rehearsal.py

test-server: env-dev  ## an MLflow server over PostgreSQL, eight stages at once (Debian's postgresql)
	$(RUN) python -m pytest -m server -rs tests/e2e/server

lint: env-dev    ## ruff, pyright on method/, import-linter, snakefmt, drift of what is generated
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) basedpyright
	$(RUN) lint-imports
	$(RUN) snakefmt --check workflow/Snakefile
	$(RUN) pistole schema --check
	$(RUN) python envs/generate.py --check

lint-workflow: env-dev  ## snakemake --lint on workflow/Snakefile, which asks DVC for the whole DAG
	$(RUN) snakemake --lint

mutate: env-dev  ## mutation testing of method/ (a quarter of an hour); lists the survivors
	$(RUN) OMP_NUM_THREADS=1 mutmut run
	$(RUN) mutmut results

pretrain: env    ## make the embedded base's weights again (half an hour) and record them
	$(RUN) DVC_STAGE=pretrain pistole pretrain
	$(RUN) dvc commit --force pretrain

schema: env      ## write again what is generated: schema, docs/parameters.md, environment files
	$(RUN) pistole schema
	$(RUN) python envs/generate.py

ui: env          ## open the MLflow store in a browser
	MLFLOW_DISABLE_TELEMETRY=true $(RUN) mlflow ui --backend-store-uri sqlite:///mlflow.db

lock: $(VENV)/.uv    ## resolve envs/*.in again into the hashed locks
	cd envs && for name in uv runtime dev provenance parity docs; do $(UV) pip compile $$name.in --override overrides.txt --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --annotation-style line --quiet -o $$name.txt || exit 1; done
	$(PYTHON) envs/generate.py

clean:           ## remove the environment and caches (artifacts stay)
	rm -rf $(VENV) .venv-provenance .venv-parity .venv-docs site mutants .pytest_cache .ruff_cache .hypothesis
