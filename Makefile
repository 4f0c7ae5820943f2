# Two commands on a fresh machine: `make demo` and `make test`. Everything lives in .venv; nothing needs root.
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all test-gpu cuda sanitize lint bench clean

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -type f)
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

help:
	@echo "make demo      run the main job on the embedded data set; prints where the page is"
	@echo "make test      the tests, without GPU or browser"
	@echo "make test-all  the slow tests, those in a browser, and make sanitize"
	@echo "make sanitize  the tests of the tensor operations with the CPU kernels under sanitizers; needs g++"
	@echo "make test-gpu  the tests that need an NVIDIA GPU, with the Python and nvcc at hand; installs nothing"
	@echo "make cuda      the CUDA kernels, also where there is no GPU; installs nvcc where there is none"
	@echo "make lint      ruff and mypy"
	@echo "make bench     the benchmarks; see benchmarks/README.md"

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml setup.py constraints.txt $(SOURCES)
	@command -v $(or $(PYTHON),python3) >/dev/null || { printf "missing: Python 3.11 or newer\n\
	  Debian/Ubuntu: sudo apt-get install python3 python3-venv python3-dev\n\
	  macOS:         brew install python@3.12\n" >&2; exit 1; }
	@$(or $(PYTHON),python3) preflight.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python preflight.py --constraints > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/afterimage demo out/demo

test: $(VENV)/ready
	$(TEST) -m "not slow and not browser and not gpu"

# The requirements alone: installing the package with its extras would build the kernels again.
$(VENV)/extras: $(VENV)/ready
	$(BIN)/python preflight.py --requirements browser lint bench > $(VENV)/extras.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -r $(VENV)/extras.txt
	touch $@

test-all: $(VENV)/extras sanitize
	$(TEST) -m "(slow or browser) and not gpu"

# Any report ends the process, and so fails the run. Python keeps memory until it ends: no search for leaks. The tests
# of the pool that fork or have a sanitizer of their own stay out: this one's allocator may lock up in a forked child.
SANITIZERS := -g1 -fsanitize=address,undefined -fno-sanitize-recover=all
PRELOADED = $(shell g++ -print-file-name=libasan.so) $(shell g++ -print-file-name=libstdc++.so)
REPORT := log_path=$(CURDIR)/build/sanitize/report
sanitize: $(VENV)/ready
	rm -rf build/sanitize && mkdir -p build/sanitize/afterimage
	ln -s $(filter-out %.so,$(wildcard $(CURDIR)/pipeline/*)) build/sanitize/afterimage/
	ln -sfn $(CURDIR)/workflows build/sanitize/afterimage/workflows
	CC=gcc CXX=g++ CFLAGS="$(SANITIZERS)" CXXFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" AFTERIMAGE_CUDA=0 \
	  $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitize --build-temp build/sanitize/temp
	grep -q __asan_report build/sanitize/afterimage/_cpu*.so
	LD_PRELOAD="$(PRELOADED)" ASAN_OPTIONS=detect_leaks=0:$(REPORT) UBSAN_OPTIONS=print_stacktrace=1:$(REPORT) \
	  PYTHONPATH=build/sanitize $(TEST) -p no:faulthandler tests/ops -m "not slow and not gpu" \
	  -k "not endures and not races and not forked" || { cat build/sanitize/report.*; exit 1; }

# Where nvcc was found, the kernels are there already.
cuda: $(VENV)/ready
	@$(BIN)/python -c 'import afterimage._cuda' 2>/dev/null || $(MAKE) --no-print-directory $(VENV)/cuda

$(VENV)/cuda: $(VENV)/ready
	command -v nvcc >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c $(VENV)/constraints.txt -e '.[cuda]'
	AFTERIMAGE_CUDA=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	$(BIN)/python -c 'import afterimage._cuda'
	touch $@

# On a machine with a GPU there may be neither network nor .venv: it builds in place, with the Python that has torch.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
test-gpu:
	mkdir -p build/dev && ln -sfn $(CURDIR)/pipeline build/dev/afterimage
	AFTERIMAGE_CUDA=1 $(GPU_PYTHON) setup.py --quiet build_ext --inplace
	PYTHONPATH=build/dev $(GPU_PYTHON) -m pytest -m gpu tests/ops tests/methods

# mypy finds packages by folder: this shows it the two folders as the one package that they are.
lint: $(VENV)/extras
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/afterimage
	ln -s $(CURDIR)/pipeline/* $(CURDIR)/workflows build/types/afterimage/
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p afterimage

bench: $(VENV)/extras
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build out *.egg-info pipeline/*.so .bench
