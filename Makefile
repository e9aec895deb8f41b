# One environment, .venv, made once and reused; every target sets up what it needs.
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
STAMP := .venv/.installed
# Many containers set it, and each command and each worker of a Ray would compile all of torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all test-slow lint bench gpu lock clean

demo: $(STAMP)
	.venv/bin/wmdd distill digits
	@echo 'source .venv/bin/activate puts the command wmdd on the path of this shell.'

# What needs a minute and a half on two cores: units, numerics, one run through Ray.
test: $(STAMP)
	.venv/bin/python -m pytest -q -m 'not slow and not gpu'

test-all: $(STAMP)
	.venv/bin/python -m pytest -q

# What `make test` leaves out.
test-slow: $(STAMP)
	.venv/bin/python -m pytest -q -m 'slow or gpu'

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Measures every stage on the CPU, against plain loops, in ten minutes: make bench [STEPS=NAME,...] [OUT=DIR].
# FULL=1 DATA=CIFAR10 adds the steps that take longer, an hour in all; TOY=1 rehearses the steps.
bench: $(STAMP)
	$(strip .venv/bin/python -m benchmarks cpu $(OPTIONS))

# Tests and measures the GPU: make gpu DATA=CIFAR10 [TINY=TINY_IMAGENET] [MINUTES=6.5] [OUT=DIR] [WORK=DIR] [STEPS=NAME,...].
# TOY=1 rehearses it on the CPU. If there is no .venv, and Python has all that is needed, no environment is made.
GPU_NEEDS := torch torchvision timm numpy scipy sklearn pyarrow safetensors fsspec click yaml jinja2 matplotlib PIL \
  pydantic ot tenacity rich threadpoolctl psutil filelock pytest
ifneq ($(filter gpu,$(MAKECMDGOALS)),)
ifeq ($(wildcard $(STAMP)),)
GPU_PYTHON := $(shell $(PYTHON) -c 'import sys, importlib.util as u; \
  sys.version_info >= (3, 11) and all(map(u.find_spec, sys.argv[1:])) and print(sys.executable)' $(GPU_NEEDS))
endif
endif
# Many clusters set WORK or DATA for other ends: these count on the command line alone.
on_line = $(if $(findstring command line,$(origin $(1))),$($(1)))
given = $(if $(call on_line,$(1)),--$(2) '$($(1))')
OPTIONS = $(if $(filter-out 0,$(call on_line,FULL)),--full) $(if $(TOY),--toy) $(if $(OUT),--out '$(OUT)') \
  $(call given,DATA,data) $(call given,TINY,tiny) $(call given,MINUTES,minutes) $(call given,WORK,work) \
  $(call given,STEPS,steps)
gpu: $(if $(GPU_PYTHON),,$(STAMP))
	$(strip $(or $(GPU_PYTHON),.venv/bin/python) -m benchmarks gpu $(OPTIONS))

# compat puts this folder on the path. The default, a finder behind the path's own, lets a script that lies beside a
# clone named wmdd import that folder, as a namespace without content.
EDITABLE := --config-settings editable_mode=compat -e .
# The environment is made anew when the pinned packages, the project's metadata or the way of installing change.
$(STAMP): requirements.lock pyproject.toml Makefile
ifdef UV
	test -x .venv/bin/python || uv venv --quiet --python '>=3.11' .venv
	uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock
	uv pip install --quiet --python .venv/bin/python --no-deps $(EDITABLE)
else
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(EDITABLE)
endif
	touch $(STAMP)

# Needs uv. The file holds versions and hashes, no addresses.
lock:
	uv pip compile pyproject.toml --extra jpeg --extra ray --extra tune --extra sftp --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-header --quiet --output-file requirements.lock

# What wmdd distilled stays, and its store with it: rm -r runs removes all results and all that they were made from.
clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
