# Everything a person or CI does with this repository; `make help` lists it.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export FACES_CACHE ?= $(CURDIR)/.cache
export DVC_NO_ANALYTICS := 1
READY := .venv/.installed
BESIDE := .venv/benchmarks/.installed

.PHONY: help install demo repro trials sweep show gate freshness readme test test-slow soak benchmark check clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(READY)  ## make .venv with the pinned, hashed requirements
$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) does not run, or is older than Python 3.11; run: make PYTHON=python3.12 ..."; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --require-hashes --no-deps -r <(grep -A 1000 '^uv==' requirements.txt | sed '1n; /^[a-z]/,$$d')
	.venv/bin/uv pip install --quiet --compile-bytecode --require-hashes -r requirements.txt
	touch $@

demo: $(READY)  ## the whole pipeline on drawn faces: no account, no network, under 3 minutes
	python -m ci.demo .demo

repro: $(READY)  ## the whole pipeline on the real images; ARCHIVE=kaggle.zip WEIGHTS=file.pth if Kaggle is out of reach
	$(if $(ARCHIVE),python -m faces.source.kaggle_dataset '$(ARCHIVE)')
	$(if $(WEIGHTS),install -D -m 644 '$(WEIGHTS)' downloads/weights.pth)
	dvc repro

trials: $(READY)  ## queue the paper's three trials as named experiments, run them, compare them
	dvc exp run --queue --name trial-1 -S train.batch_size=32 -S train.learning_rate=0.0001
	dvc exp run --queue --name trial-2 -S train.batch_size=128 -S train.learning_rate=0.001
	dvc exp run --queue --name trial-3 -S train.batch_size=256 -S train.learning_rate=0.001
	dvc exp run --run-all
	$(MAKE) --no-print-directory show

sweep: $(READY)  ## the search for the improved recipe, on validation images: queued, run, its table in metrics/sweep.md
	python -m faces.sweep queue
	dvc exp run --run-all --jobs $(or $(JOBS),1)
	python -m faces.sweep table > metrics/sweep.md

show: $(READY)  ## the experiments in 120 columns
	dvc exp show --md --only-changed --drop '.*/|.*\.(py|yaml)$$|data$$|Created|State|Executor|recall|specificity|f1|n$$|epochs|val_.*'

gate: $(READY)  ## compare metrics with a Git revision: make gate BASE=main
	python -m ci.gate '$(or $(BASE),$(error which revision? make gate BASE=main))' --json .gate/gate.json --markdown .gate/gate.md

freshness: $(READY)  ## does dvc.lock match the code and the parameters?
	python -m ci.freshness

readme: $(READY)  ## put the metrics into the README's table
	python -m ci.readme README.md metrics

test: $(READY)  ## the test suite, under 5 minutes on 2 cores
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m 'not slow'

test-slow: $(READY)  ## what takes longer: planted mistakes, the README's blocks, faults of the machine
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -m slow

soak: $(READY)  ## a hundred kill -9 over the whole pipeline on the sample, about half an hour
	python -m ci.soak .soak --kills 100

benchmark: $(READY) $(BESIDE)  ## speed beside torchvision, fastai and timm; IMAGES=data WEIGHTS=weights/resnet34.pth OPTIONS='--epochs 3'
	PYTHONPATH=$(dir $(BESIDE)) python -m benchmarks.training '$(or $(IMAGES),data)' '$(or $(WEIGHTS),weights/resnet34.pth)' $(OPTIONS)

$(BESIDE): benchmarks/requirements.txt $(READY)
	.venv/bin/uv pip install --quiet --target $(dir $@) --no-deps --require-hashes -r $<
	touch $@

check: $(READY)  ## format, lint, types
	ruff format --check .
	ruff check .
	mypy

clean:  ## remove what can be made again without a download
	rm -rf .demo .soak .cache .gate .pytest_cache .mypy_cache .ruff_cache .hypothesis
