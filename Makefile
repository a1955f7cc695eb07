# Two commands do everything from a fresh clone: make demo, make test.
# Needed beforehand: python3 (3.11 or newer, with venv), a C++20 compiler and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
INSTALL := $(PIP) install --constraint constraints.txt

# Read in place, the Python sources need no new installation; these do.
BUILT_FROM := $(wildcard native/*/*) CMakeLists.txt pyproject.toml constraints.txt

# The tools are in the environment already: no download per build, and the build directory is kept.
EDITABLE := $(INSTALL) --no-build-isolation --editable

.PHONY: help test test-exhaustive test-kills test-lowest test-zoo bench-smoke demo lint fuzz \
    fuzz-sanitize sanitize sanitize-threads docs wheel clean

help:
	@echo "make test      set up, lint, check types, run the tests that reach all code"
	@echo "make demo      set up, train, compress and evaluate on a simulated click log"
	@echo "make test-exhaustive  the other tests: all combinations of settings, and long runs"
	@echo "make test-lowest  the core and PyTorch's part with the oldest dependencies, under PYTHON=python3"
	@echo "make test-kills  compressions killed, out of disk and with read errors at random moments, in minutes"
	@echo "make test-zoo  models of other libraries and TorchRec, which it installs"
	@echo "make fuzz      damaged files and requests for FUZZ_SECONDS=60, from FUZZ_SEED=1"
	@echo "make fuzz-sanitize  20,000 of them under address and undefined-behaviour sanitizers"
	@echo "make bench-smoke  lookups against recorded ratios, in a minute"
	@echo "make lint      ruff and mypy alone"
	@echo "make sanitize  the native core's tests under address and undefined-behaviour sanitizers"
	@echo "make sanitize-threads  those with several threads under the thread sanitizer"
	@echo "make docs      the documents as a site, in build/site; warnings are errors"
	@echo "make wheel     build one, and test it in an environment that has nothing else"
	@echo "make clean     remove the environment and everything built"

# Each worker takes 1 GB, and 11 s of processor time to import all libraries and find all tests. So
# more workers than cores take longer, although tests of servers and clusters often wait.
WORKERS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))

# Without Python's caches, each process that a test starts would compile the package again, and each
# worker all tests.
unexport PYTHONDONTWRITEBYTECODE

PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

# Beside the tests, as mypy has one thread; the lock keeps it from those that run alone.
test: $(VENV)/.dev
	@mkdir -p build
	@flock --shared tests $(MAKE) --no-print-directory lint >build/lint.log 2>&1 & lint=$$!; \
	echo '$(PYTEST) --cases first'; \
	$(PYTEST) --cases first; tested=$$?; \
	wait $$lint; linted=$$?; \
	cat build/lint.log; \
	exit $$((tested || linted))

test-exhaustive: $(VENV)/.dev
	$(PYTEST) --cases rest

# Of each kind; make test has one.
KILLS ?= 20

test-kills: $(VENV)/.dev
	SAEC_KILLS=$(KILLS) $(BIN)/python -m pytest tests/test_resuming.py -k killed
	SAEC_KILLS=$(KILLS) $(BIN)/python -m pytest tests/test_resuming_faults.py \
	    -k "failed or killed or full or two"
	SAEC_KILLS=$(KILLS) $(BIN)/python -m pytest tests/test_patches.py -k kills
	SAEC_PATCHES=20 SAEC_PATCH_SECONDS=3 $(BIN)/python -m pytest tests/serve/test_serve_patches.py \
	    -k fails
	SAEC_KILLS=$$((($(KILLS) + 4) / 4)) $(BIN)/python -m pytest tests/distributed -k "kill or die"

test-zoo: $(VENV)/.zoo
	$(BIN)/python -m pytest tests/zoo tests/test_documents.py -k zoo

# The oldest versions that pyproject.toml allows, in an environment of their own. On PyPI, PyTorch
# of that age brings CUDA, 3 GB: TORCH=2.13.0 takes the version that the other targets use.
TORCH ?= $(shell sed -n 's/^torch==//p' constraints-lowest.txt)
LOWEST = build/lowest/$(notdir $(PYTHON))
LOWEST_INSTALL = $(LOWEST)/bin/python -m pip install --constraint $(LOWEST)/constraints.txt
LOWEST_TESTS ?= tests/golden tests/codecs tests/native/test_native_codes.py \
    $(addprefix tests/test_,artifact.py compress.py lookup.py progress.py table.py tiered.py) \
    $(addprefix tests/torch/test_torch_,copies.py modules.py operator.py replace.py tiered.py)

# What is tested: these sources, or a wheel of them, which need not be built again.
LOWEST_SAEC ?= .

test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-lowest.txt > $(LOWEST)/constraints.txt
	$(LOWEST_INSTALL) torch scikit-build-core nanobind cmake ninja pytest hypothesis
	$(LOWEST_INSTALL) --no-build-isolation --config-settings build-dir=$(LOWEST)/native \
	    '$(or $(wildcard $(LOWEST_SAEC)),$(error there is no $(LOWEST_SAEC)))[progress,torch]'
	$(LOWEST)/bin/python -m pytest --cases first -p no:cacheprovider $(LOWEST_TESTS)

FUZZ_SEED ?= 1
FUZZ_SECONDS ?= 60
FUZZ_CASES ?= 1000000
FUZZ = tests/fuzz/fuzz.py --seed $(FUZZ_SEED)

fuzz: $(VENV)/.dev
	$(BIN)/python $(FUZZ) --seconds $(FUZZ_SECONDS) --cases $(FUZZ_CASES)

bench-smoke: $(VENV)/.dev
	$(BIN)/python benchmarks/smoke.py

demo: $(VENV)/.demo
	$(BIN)/saec demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("saec needs Python 3.11 or newer, not " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

# PyTorch comes first and pinned, before anything that could pull another build of it. Python
# compiles the modules that are imported; pip would compile all, for half a minute.
$(VENV)/.tools: constraints.txt | $(BIN)/pip
	$(INSTALL) --no-compile torch==2.13.0
	$(INSTALL) scikit-build-core nanobind cmake ninja
	@touch $@

$(VENV)/.demo: $(VENV)/.tools $(BUILT_FROM)
	$(EDITABLE) '.[cli,reference,report]' --no-compile
	@touch $@

# All that the demo needs is part of it.
$(VENV)/.dev: $(VENV)/.tools $(BUILT_FROM)
	$(EDITABLE) '.[dev]'
	@touch $@ $(VENV)/.demo

# TorchRec's wheel asks for FBGEMM with CUDA; the one for CPUs is there, and does the same here.
$(VENV)/.zoo: $(VENV)/.dev
	$(EDITABLE) '.[zoo,torchrec]'
	$(INSTALL) --no-deps torchrec==1.8.0
	@touch $@

comma := ,

# A second, instrumented installation, which -S keeps from being hidden by the editable one. The
# C++ library is loaded first, or the sanitizer would not see its exceptions. Python leaks by design.
SANITIZED = build/$@
SANITIZE_TESTS ?= tests/native
PRELOAD = $(shell g++ -print-file-name=$(1)) $(shell g++ -print-file-name=libstdc++.so)
PACKAGES = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
INSTRUMENTED = $(PIP) install --no-build-isolation --no-deps --upgrade --target $(SANITIZED)/site \
    --config-settings build-dir=$(SANITIZED)/cmake \
    --config-settings cmake.build-type=RelWithDebInfo \
    --config-settings cmake.define.SAEC_SANITIZE=$(1) .
SANITIZED_PATH = PYTHONPATH="$(SANITIZED)/site:$(PACKAGES)" PYTHONMALLOC=malloc
# Captured, a report would be lost with the process that it ends.
SANITIZED_CASES = first
SANITIZED_PYTEST = $(BIN)/python -S -m pytest --cases $(SANITIZED_CASES) -p no:cacheprovider \
    --capture=no

sanitize: $(VENV)/.dev
	$(call INSTRUMENTED,address$(comma)undefined)
	LD_PRELOAD="$(call PRELOAD,libasan.so)" $(SANITIZED_PATH) \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(SANITIZED_PYTEST) $(SANITIZE_TESTS)

# The same build as for `sanitize`.
fuzz-sanitize: SANITIZED = build/sanitize
fuzz-sanitize: $(VENV)/.dev
	$(call INSTRUMENTED,address$(comma)undefined)
	LD_PRELOAD="$(call PRELOAD,libasan.so)" $(SANITIZED_PATH) \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	    $(BIN)/python -S $(FUZZ) --sanitized --seconds 7200 --cases 20000

# What uses several threads. The sanitizer wants memory where it is without randomised addresses.
THREADED = $(foreach name,accumulate codes lookup_threads nearest scalar workers,tests/native/test_native_$(name).py)
sanitize-threads: SANITIZED_CASES = all
sanitize-threads: $(VENV)/.dev
	$(call INSTRUMENTED,thread)
	setarch --addr-no-randomize env LD_PRELOAD="$(call PRELOAD,libtsan.so)" $(SANITIZED_PATH) \
	    TSAN_OPTIONS=halt_on_error=1 SAEC_SANITIZE=thread \
	    $(SANITIZED_PYTEST) $(THREADED)

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# From the build directory of the editable installation, which has been compiled the same way.
wheel: $(VENV)/.dev
	rm -rf dist
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	SAEC_WHEEL="$$(echo dist/saec-*.whl)" $(BIN)/python -m pytest tests/wheel

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
