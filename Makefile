# Every verb sets itself up: a virtual environment in .venv, torch, the build tools, the package built and installed.
# Needs python3 (with venv), a C++20 compiler and make.
PYTHON ?= python3
# What `pip install` is asked for when .venv is made: TORCH=torch==2.13.0 for a given version.
TORCH ?= torch
OTHER_TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
# Tests at the same time.
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_TOOLS := "cmake>=3.24" ninja "pybind11>=2.12" "setuptools>=77" wheel build
WHEELS ?= $(BUILD_TOOLS) pytest pytest-xdist hypothesis rich scikit-learn matplotlib pyyaml pyarrow pillow tensorboard \
          adversarial-robustness-toolbox multiprocess
# Searches to compare with, and the trainer's. Without their dependencies, which are torch and what this list and WHEELS have.
PEER_WHEELS ?= pytorch-metric-learning flash-kmeans tqdm lightning lightning-utilities torchmetrics fsspec packaging \
               typing-extensions
SOURCES := $(shell find csrc cmake tla_ops -type f -not -name '*.pyc' -not -name '*.so') \
           setup.py CMakeLists.txt pyproject.toml $(wildcard benchmarks/results/*/*.json)
CXX_FILES := $(shell find csrc tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
# A terminal shows progress; a log gets plain lines.
export PYTHONUNBUFFERED = 1

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

.PHONY: demo
demo: $(VENV)/.installed ## train on the embedded digits three ways, attack, print a table, draw a figure
	$(BIN)/tla-ops demo --output demo-output

.PHONY: smoke
smoke: $(VENV)/.installed ## every table and figure of the papers at smoke size, on the embedded digits (AT2L's on TLA_DATA, too), and the report
	rm -rf smoke-output
	$(BIN)/tla-ops reproduce tla at2l --budget smoke --output smoke-output
	test ! -d "$(TLA_DATA)/mnist" || \
	  $(BIN)/tla-ops reproduce at2l --budget smoke --datasets mnist --output smoke-output
	test ! -d "$(TLA_DATA)/cifar10" || ! $(BIN)/python -c "import torchvision" || $(BIN)/tla-ops reproduce \
	  at2l/app-table4 --budget smoke --datasets cifar10-cats-dogs --images 20 --output smoke-output
	$(BIN)/tla-ops report smoke-output

.PHONY: test
test: $(VENV)/.installed ## the test suite, against the installed package
	$(BIN)/pytest -q -n $(JOBS) $(TESTS)

.PHONY: lint
lint: $(VENV)/.installed ## ruff, clang-format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)
	$(BIN)/mypy

.PHONY: format
format: $(VENV)/.installed ## rewrite files in the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

.PHONY: bench
bench: $(VENV)/.installed ## the operators beside their peers; JSON under benchmarks/results, docs/performance.md
	$(PIP) install -q pytorch-metric-learning faiss-cpu
	$(BIN)/python benchmarks/bench_triplet_adv_loss.py
	$(BIN)/python benchmarks/bench_mine_negatives.py --device cpu --seconds 1200
	$(BIN)/python benchmarks/render.py

.PHONY: scaling
scaling: $(VENV)/.installed ## mining's cost on the processor against sizes and threads; docs/scaling.md and its figures
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/render.py

.PHONY: bench-train
bench-train: $(VENV)/.installed ## training steps beside a plain loop and a public trainer's, attacks beside ART's; docs/training.md
	$(BIN)/python benchmarks/bench_train.py
	$(BIN)/python benchmarks/bench_attacks.py
	$(BIN)/python benchmarks/bench_carlini.py
	$(BIN)/python benchmarks/render.py

.PHONY: short-runs
short-runs: $(VENV)/.installed ## minutes of training on MNIST, CIFAR-10, Tiny ImageNet (TLA_DATA=folder); docs/training.md
	$(BIN)/python benchmarks/short_runs.py
	$(BIN)/python benchmarks/render.py

.PHONY: ablation
ablation: $(VENV)/.installed ## AT against TLA, one change at a time, three seeds, hours (TLA_DATA=folder; DATASET=cifar10 in place of MNIST; ONLY=run,run); docs/ablation.md
	$(BIN)/python benchmarks/ablation.py $(if $(DATASET),--dataset $(DATASET)) $(if $(ONLY),--only $(ONLY))
	$(BIN)/python benchmarks/render.py

.PHONY: latency
latency: $(VENV)/.installed ## forward and backward at the papers' sizes, on the GPU if there is one
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/render.py

.PHONY: ptxas
ptxas: $(VENV)/.tools ## registers, spills and stack frames of every CUDA kernel; needs nvcc, no GPU
	@$(BIN)/python tools/check_ptxas.py || { status=$$?; \
	  [ $$status = 2 ] && ! command -v nvcc >/dev/null && echo "skipped: nvcc is not on PATH" && exit 0; exit $$status; }

.PHONY: gpu
gpu: ## all that needs a GPU, with $(PYTHON)'s torch and no network; RESULTS=folder ONLY=step,step COMMIT=name
	@$(PYTHON) tools/gpu.py $(if $(RESULTS),--results "$(RESULTS)") $(if $(ONLY),--only $(ONLY)) \
	  $(if $(COMMIT),--commit $(COMMIT))

.PHONY: gpu-train
gpu-train: ## training on a GPU, likewise: tests, steps timed, short runs on MNIST; DATA=folder RESULTS=folder ONLY=step,step COMMIT=name
	@$(PYTHON) tools/gpu_train.py $(if $(DATA),--data "$(DATA)") $(if $(RESULTS),--results "$(RESULTS)") \
	  $(if $(ONLY),--only $(ONLY)) $(if $(COMMIT),--commit $(COMMIT))

.PHONY: gpu-reproduce
gpu-reproduce: ## tables of the papers on a GPU, likewise; TARGETS=tla/table1 DATASETS=mnist BUDGET=short SEEDS=0,1 (with commas) IMAGES=10000 SLOW_IMAGES=1000 WITHOUT=autoattack METHODS=at,tla SECONDS=520 SET='key=value ...' DATA=folder RESULTS=folder ONLY=step,step COMMIT=name
	@$(PYTHON) tools/gpu_reproduce.py $(if $(TARGETS),--targets "$(TARGETS)") $(if $(DATASETS),--datasets "$(DATASETS)") \
	  $(if $(BUDGET),--budget $(BUDGET)) $(if $(SEEDS),--seeds "$(SEEDS)") \
	  $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(IMAGES),--images $(IMAGES)) $(if $(SLOW_IMAGES),--slow-images $(SLOW_IMAGES)) \
	  $(if $(WITHOUT),--without $(WITHOUT)) $(if $(METHODS),--methods $(METHODS)) $(foreach set,$(SET),--set $(set)) \
	  $(if $(DATA),--data "$(DATA)") $(if $(RESULTS),--results "$(RESULTS)") $(if $(ONLY),--only $(ONLY)) \
	  $(if $(COMMIT),--commit $(COMMIT))

.PHONY: gpu-wheels
gpu-wheels: ## fetch what `make gpu` and `make gpu-train` may lack into wheels/; WHEELS=names, PEER_WHEELS=names, WHEEL_OPTIONS='--python-version 3.12 ...'
	$(PYTHON) -m pip download -q --only-binary=:all: -d wheels $(WHEEL_OPTIONS) $(WHEELS)
	$(PYTHON) -m pip download -q --only-binary=:all: --no-deps -d wheels $(WHEEL_OPTIONS) $(PEER_WHEELS)

.PHONY: test-torch-versions
test-torch-versions: $(VENV)/.installed ## one wheel, built from the sdist, tested under two versions of torch (but for kernel bodies, which see none)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	JOBS="$(JOBS)" TORCH="$(TORCH)" sh tools/test_wheel.sh $(VENV) dist/*.whl
	JOBS="$(JOBS)" TORCH="$(OTHER_TORCH)" sh tools/test_wheel.sh .venv-other-torch dist/*.whl

.PHONY: test-isolated
test-isolated: ## `pip install .` and `python -m build` as they stand; fetches torch once more for each
	rm -rf .venv-isolated dist
	$(PYTHON) -m venv .venv-isolated
	.venv-isolated/bin/pip install -q . build
	cd / && $(CURDIR)/.venv-isolated/bin/tla-ops info
	.venv-isolated/bin/python -m build

.PHONY: clean
clean: ## everything that was built, the virtual environments too
	rm -rf .venv .venv-other-torch .venv-isolated wheels build dist demo-output smoke-output *.egg-info

$(VENV)/.tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "tla_ops needs Python 3.10 or later; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade pip
	$(PIP) install -q "$(TORCH)" $(BUILD_TOOLS)
	touch $@

# build/lib keeps files of an earlier build, which would go into the wheel.
$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	rm -rf build/lib*
	$(PIP) install -q --no-build-isolation ".[dev]"
	touch $@
