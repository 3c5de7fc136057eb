# Every target sets up what it needs, and redoes only what a change requires.
# Needs Python 3.10 or later, a C compiler and make; PYTHON=python3.12 selects another Python,
# ARGS="..." is passed to the demo, to pytest, to tests/mutants.py (--seed, --count) or to
# benchmarks/run.py (without the scaling curves, which only a plain `make bench` draws).
PYTHON ?= python3
ARGS ?=
PIP_INSTALL = -m pip --disable-pip-version-check install --quiet
BUILD_REQUIRES = $(shell sed -n '/^requires = /s/[^"]*\("[^"]*"\)[^"]*/ \1/gp' pyproject.toml)
OLDEST_NUMPY = $(shell sed -n 's/^dependencies = \["numpy>=\(.*\)"\]/\1/p' pyproject.toml)
CORE = $(wildcard minigrad/*.py $(foreach e,py pyx pxd pxi h,minigrad/_core/*.$e minigrad/_core/*/*.$e))
PY = .venv/bin/python
# With PyTorch, if `make test-peers` has installed it.
TORTURE = $(if $(wildcard .venv-peers/has-peers),.venv-peers/has-peers .venv-peers/compiled,.venv/has-test .venv/compiled)
# Not in the stubs: names that Cython and scikit-learn add to modules and classes, computed lists, and the names of other
# libraries that Tensor and Module refuse.
NO_STUB = .*\.__(pyx_capi|test|reduce_cython|setstate_cython|pyx_vtable)__|minigrad\.estimators\..*\.set_\w+_request|minigrad(\.data|\.linalg|\.nn(\..*)?|\.optim)?\.__all__
REFUSED = 'from minigrad.spellings import rows; print(*{f".*[.](Tensor|Module)[.]{row.name}" for row in rows()}, sep="\n")'

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two targets would install into one .venv at a time
.SECONDARY: # stamps are not intermediate files

.PHONY: help demo exercise lab test test-peers test-array-api test-opinfo test-oldest test-mpi test-aarch64 torture mutants lint docs docs-check bench profile sdist wheel clean
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/has-examples .venv/compiled ## train a BatchNorm net on handwritten digits
	@$(PY) examples/train_digits.py $(ARGS)

exercise: .venv/has-examples .venv/compiled ## judge your answer to the exercise of a lesson: make exercise N=3
	@$(PY) -m examples.exercises $(N)

lab: .venv/has-examples .venv/compiled ## put the claims about BatchNorm to the test, see examples/batchnorm_lab
	@$(PY) -m examples.batchnorm_lab $(ARGS)

test: .venv/has-test .venv/compiled ## run the test suite
	@$(PY) -m pytest $(ARGS)

test-peers: .venv-peers/has-peers .venv-peers/compiled ## run the suite with PyTorch, including the comparisons
	@.venv-peers/bin/python -m pytest $(ARGS)

test-array-api: .venv/has-test .venv/compiled ## run the public test suite of the array API standard
	@$(PY) tests/array_api_suite.py $(ARGS)

test-opinfo: .venv-peers/has-peers .venv-peers/compiled ## run PyTorch's own samples of its operations
	@.venv-peers/bin/python tests/opinfo.py $(ARGS)

test-oldest: .venv-oldest/has-numpy .venv/has-test .venv/compiled ## run the suite on the oldest supported NumPy
	@PYTHONPATH=. .venv-oldest/bin/python -m pytest $(ARGS)

mutants: .venv/has-test .venv/compiled ## plant 100 random mutants and print those that survive the tests
	@$(PY) tests/mutants.py $(ARGS)

test-mpi: .venv/has-test .venv/compiled ## train on several processes of this machine
	@$(PY) -m pytest tests/test_distributed.py $(ARGS)

test-aarch64: ## run the C test of the kernels for aarch64 under qemu
	@command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null \
		|| { echo 'minigrad: `apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user`' >&2; exit 1; }
	@mkdir -p build
	@aarch64-linux-gnu-gcc -O3 -fno-math-errno -fno-trapping-math -static -pthread -Iminigrad/_core/fast \
		tests/kernels.c -lm -o build/kernels-aarch64
	@qemu-aarch64 build/kernels-aarch64

torture: $(TORTURE) ## run half an hour of tests too long for the suite, see RELIABILITY.md
	@$(dir $(firstword $(TORTURE)))bin/python tests/torture $(ARGS)

lint: .venv/has-dev .venv/compiled ## check style and types, and the stubs against the compiled core
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@PATH="$$PWD/.venv/bin:$$PATH" cython-lint $(filter %.pyx %.pxd,$(CORE))
	@$(PY) -m mypy
	@{ echo '$(NO_STUB)'; $(PY) -c $(REFUSED); } | $(PY) -m mypy.stubtest minigrad --ignore-disjoint-bases \
		--mypy-config-file pyproject.toml --allowlist /dev/stdin --ignore-unused-allowlist

docs: .venv-docs/has-docs .venv-docs/compiled ## build the site into build/docs/html, see docs/
	@.venv-docs/bin/python -m sphinx -W --keep-going -n -q -j auto -d build/docs/doctrees docs build/docs/html
	@echo 'minigrad: open build/docs/html/index.html'

docs-check: docs ## look at each page of the site in Chromium, screenshots in build/docs/screens
	@.venv-docs/bin/python docs/check_site.py build/docs/html build/docs/screens

bench: .venv-peers/has-peers .venv-peers/compiled ## compare the speed with PyTorch, JAX and NumPy
	@.venv-peers/bin/python -c 'import torch' || { echo 'minigrad: no PyTorch to compare with' >&2; exit 1; }
	@.venv-peers/bin/python benchmarks/run.py $(ARGS)
	@$(if $(ARGS),,.venv-peers/bin/python benchmarks/scaling.py)

profile: .venv/has-test .venv/compiled ## show where the time of a training step goes, by primitive
	@OPENBLAS_NUM_THREADS=1 $(PY) benchmarks/profile_step.py $(ARGS)

sdist: .venv/has-dev ## build the source distribution into dist/
	@$(PY) -m build --no-isolation --sdist

wheel: .venv/has-dev ## build the source distribution, and from it the wheel, into dist/
	@$(PY) -m build --no-isolation

clean: ## delete everything that make has built
	rm -rf .venv .venv-docs .venv-peers .venv-oldest build docs/generated dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find minigrad/_core -name '*.so' -delete -o -name '*.pyi' -delete
	rm -rf minigrad/_core/generated minigrad/_core/elementwise.py # which former versions made
	find minigrad tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# The stamps in each virtual environment: its build requirements, an editable install with an
# extra, and the compiled core. The editable install also compiles; after a change of only the core
# the third rule compiles, in a second and without pip.
%/ready: pyproject.toml
	@$(check)
	@echo 'minigrad: creating the virtual environment $(@D), with the requirements of a build'
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) $(BUILD_REQUIRES)
	@touch $@

define install
@echo 'minigrad: compiling the core and installing the extra "$(patsubst has-%,%,$(@F))" into $(@D); this takes a minute or two'
@$(@D)/bin/python $(PIP_INSTALL) --no-build-isolation --editable '.[$(patsubst has-%,%,$(@F))]'
@touch $@
endef

.venv/has-%: .venv/ready setup.py
	$(install)

.venv-peers/has-%: .venv-peers/ready setup.py
	$(install)

.venv-docs/has-%: .venv-docs/ready setup.py
	$(install)

# Only what the suite needs; the other environment compiles the core.
.venv-oldest/has-numpy: pyproject.toml
	@$(check)
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) numpy==$(OLDEST_NUMPY) pytest hypothesis
	@touch $@

%/compiled: %/ready $(CORE) setup.py
	@echo 'minigrad: compiling what has changed in the core'
	@$(@D)/bin/python setup.py --quiet build_ext --inplace
	@touch $@

define check
fail() { echo "minigrad: $$1" >&2; exit 1; }; \
command -v $(PYTHON) >/dev/null || fail '$(PYTHON) not found; `make PYTHON=...` names another Python'; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail '$(PYTHON) is too old; Python 3.10 or later is needed (make PYTHON=...)'; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || fail '$(PYTHON) cannot make virtual environments; `apt install python3-venv`'; \
command -v $${CC:-cc} >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || \
fail 'no C compiler found; `apt install build-essential python3-dev` or `xcode-select --install`'
endef
