# Everything a person or CI does with this repository; `make help` lists it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export FACES_CACHE ?= $(CURDIR)/.cache
export DVC_NO_ANALYTICS := 1
INSTALL = $(PYTHON) -m ci.install $(if $(TORCH),--torch '$(TORCH)')
BESIDE := .venv/benchmarks/.installed
TRIALS := trial-1 trial-2 trial-3
PIN := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# Not every shell expands the ~ of NAME=~/file
home = case "$$$(1)" in "~/"*) $(1)="$$HOME/$${$(1)\#??}";; esac

.PHONY: help install develop demo repro trials sweep show plots gate comment freshness readme costs test test-slow \
	soak benchmark check requirements clean python git scm
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: python  ## make or mend .venv for the pipeline; TORCH=cpu without an NVIDIA GPU: a third of the size
	@$(INSTALL)

develop: python  ## the same, and what check and test need
	@$(INSTALL) --dev

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: $(PYTHON) does not run, or is older than Python 3.11; run: make PYTHON=python3.12 ..."; exit 1; }

git:  # what compares revisions says in Git's own words why it cannot
	@git rev-parse --verify HEAD > /dev/null

scm: install  # DVC must be told that a folder is no Git repository, as one from a ZIP archive is not
	@if ! test -e .git; then dvc config --local core.no_scm true; \
	elif grep -qs no_scm .dvc/config.local; then dvc config --local --unset core.no_scm; fi

demo: install  ## the whole pipeline on drawn faces: no account, no network, under 3 minutes
	python -m ci.demo .demo

repro: install scm  ## the whole pipeline on the real images; ARCHIVE=kaggle.zip WEIGHTS=file.pth NETWORKS=folder offline
	$(if $(ARCHIVE),@$(call home,ARCHIVE); python -m faces.source.kaggle_dataset "$$ARCHIVE")
	$(if $(WEIGHTS),@$(call home,WEIGHTS); mkdir -p downloads && cp -f "$$WEIGHTS" downloads/weights.pth)
	$(if $(NETWORKS),@$(call home,NETWORKS); mkdir -p downloads && cp -f "$$NETWORKS"/*.onnx downloads)
	@python -m ci.busy
	dvc repro
	@if git rev-parse --quiet --verify HEAD > /dev/null 2>&1; then python -m ci.consistent || true; fi

trials: install git  ## run the paper's three trials as named experiments, in place of earlier ones, and compare them
	@for name in $(TRIALS); do dvc exp remove $$name > /dev/null 2>&1 || true; done
	dvc exp run --queue --name trial-1 -S train.batch_size=32 -S train.learning_rate=0.0001
	dvc exp run --queue --name trial-2 -S train.batch_size=128 -S train.learning_rate=0.001
	dvc exp run --queue --name trial-3 -S train.batch_size=256 -S train.learning_rate=0.001
	dvc exp run --run-all
	@$(MAKE) --no-print-directory show

sweep: install git  ## the search for the improved recipe, on validation images: queued, run, its table in metrics/sweep.md
	python -m faces.sweep queue
	dvc exp run --run-all --jobs $(or $(JOBS),1)
	python -m faces.sweep table > metrics/sweep.md.new && mv metrics/sweep.md.new metrics/sweep.md

show: install git  ## the experiments in 120 columns
	dvc exp show --md --only-changed --drop '.*/|.*\.(py|yaml)$$|data$$|Created|State|Executor|f1|specificity|accuracy_.*|n_.*|epochs|best_epoch|val_.*|improved.*'

plots: install scm  ## every plot on one page, which opens without a network; its address is the last line
	dvc plots show

gate: install git  ## compare metrics with a revision or an experiment: make gate BASE=main
	python -m ci.gate '$(or $(BASE),$(error which revision? make gate BASE=main))' --json .gate/gate.json --markdown .gate/gate.md

comment: install git  ## what a pull request is told: the gate's table and the curves, in .gate; make comment BASE=main
	python -m ci.comment '$(or $(BASE),$(error which revision? make comment BASE=main))' .gate/gate.md .gate

freshness: install git  ## does dvc.lock match the code and the parameters?
	python -m ci.freshness

readme: install  ## put the metrics into the README's table
	python -m ci.readme README.md metrics

costs: install  ## put what a change of each parameter costs into docs/experiments.md
	python -m ci.costs docs/experiments.md

test: develop  ## the test suite, under 5 minutes on 2 cores
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: develop  ## what takes longer: planted mistakes, the README's blocks, faults of the machine
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m slow

soak: develop  ## a hundred kill -9 over the whole pipeline on the sample, about half an hour
	python -m ci.soak .soak --kills 100

benchmark: install $(BESIDE)  ## speed beside torchvision, fastai and timm; IMAGES=data WEIGHTS=weights/resnet34.pth OPTIONS='--epochs 3'
	PYTHONPATH=$(dir $(BESIDE)) python -m benchmarks.training '$(or $(IMAGES),data)' '$(or $(WEIGHTS),weights/resnet34.pth)' $(OPTIONS)

$(BESIDE): benchmarks/requirements.txt | install
	.venv/bin/uv pip install --quiet --target $(dir $@) --no-deps --require-hashes -r $<
	touch $@

check: develop  ## format, lint, types
	ruff format --check .
	ruff check .
	mypy

requirements: install  ## pin what pyproject.toml names; OPTIONS=--upgrade for the newest versions
	$(PIN) $(OPTIONS) pyproject.toml --output-file requirements.txt
	$(PIN) $(OPTIONS) --group dev --constraint requirements.txt \
		$$(sed -nE 's/^([a-z0-9.-]+)==.*/--no-emit-package \1/p' requirements.txt) --output-file requirements-dev.txt
	$(PIN) $(OPTIONS) --group benchmark --no-deps --output-file benchmarks/requirements.txt

clean:  ## remove what can be made again without a download: the demo, the cache, what tools and targets left
	! test -e .demo/.made-by-the-demo || rm -r .demo
	! test -e .soak/original/.made-by-the-demo || rm -r .soak
	rm -rf .cache/arrays .cache/checkpoints .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .gate/gate.json .gate/gate.md .gate/comment.md .gate/curves
	@rmdir .cache .gate 2> /dev/null || true  # unless something else lies there
