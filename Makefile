# One command each. The environment in $(VENV) is made once and again when pyproject.toml or constraints.txt change.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
VENV ?= .venv
PYTHON ?= python3
ISAACLAB_PYTHON ?= python3.12
PIP := $(VENV)/bin/python -m pip install --quiet -c constraints.txt
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
LOSSES := drop,delay,duplicate,reorder,freeze,clock_jump,bit_flip
ENDINGS := nan,policy_kill,policy_stop,camera_kill,camera_stop,guard_kill,guard_stop,disconnect,disk_full

.PHONY: help demo test test-slow search test-isaaclab test-mjlab soak format lint types build

help:  ## what can be made
	@grep -E '^[a-z%-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(RUN_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "robokd needs Python 3.11 or newer, got " + sys.version)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch is large)"
	$(PIP) torch
	$(PIP) -e '.[train,mujoco]'
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(PIP) -e '.[train,mujoco,gpu,ros2,sysid,sweep,dev]'
	@touch $@

demo: $(RUN_STAMP)  ## the whole chain on CPU, then where the report is
	@$(VENV)/bin/robokd pipeline task=reach experiment=demo | tee $(VENV)/demo.log
	@$(VENV)/bin/python -c 'import json, sys; print("report:", json.load(open(sys.argv[1]))["report"])' \
		"$$(tail -n 1 $(VENV)/demo.log)"

test: $(DEV_STAMP)  ## what every change must pass; CPU, minutes
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0  # restarts hang, xdist 3.8

test-slow: $(DEV_STAMP)  ## the tests that take minutes each
	$(VENV)/bin/python -m pytest -m slow --timeout=3600

search: $(DEV_STAMP)  ## the property tests with other examples each time
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 --hypothesis-profile=search \
		--timeout=3600 $$(grep -rl "^from hypothesis" tests/unit)

test-isaaclab:  ## Isaac Lab's tasks as ours, in an environment of its own: Python 3.12, 8 GB
	@test -x build/isaaclab/bin/python || $(ISAACLAB_PYTHON) -m venv build/isaaclab
	build/isaaclab/bin/python -m pip install --quiet -e '.[train,isaaclab]' 'pytest>=8'
	OMP_WAIT_POLICY=PASSIVE build/isaaclab/bin/python -m pytest -m '' tests/lab/test_isaaclab.py tests/lab/test_apart.py
	OMP_WAIT_POLICY=PASSIVE build/isaaclab/bin/python -m pytest tests/contracts/test_parts.py -k isaaclab

test-mjlab:  ## mjlab's tasks as ours, in an environment of its own: 7 GB
	@test -x build/mjlab/bin/python || $(PYTHON) -m venv build/mjlab
	build/mjlab/bin/python -m pip install --quiet torch mjlab==1.6.0 hydra-core onnxruntime 'cryptography>=43' mcap \
		'onnx>=1.17' 'gymnasium>=1.0' rich matplotlib 'pytest>=8'
	build/mjlab/bin/python -m pip install --quiet --no-deps -e .
	OMP_WAIT_POLICY=PASSIVE build/mjlab/bin/python -m pytest -m '' tests/lab/test_mjlab.py
	OMP_WAIT_POLICY=PASSIVE build/mjlab/bin/python -m pytest tests/contracts/test_parts.py -k mjlab

soak: $(DEV_STAMP)  ## hours of faults and fuzzing; BUNDLE=… is what is deployed
	@test -n "$(BUNDLE)" || (echo "make soak needs BUNDLE=<a bundle of robokd export>" && exit 2)
	$(VENV)/bin/robokd faults bundle=$(BUNDLE) cases=[$(LOSSES)] messages=1500 out=results/faults_messages.json
	$(VENV)/bin/robokd faults bundle=$(BUNDLE) cases=[$(ENDINGS)] messages=30 processes=30 \
		out=results/faults_processes.json
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m tests.evidence.fuzz 600 results/fuzz.json

evidence-%: $(DEV_STAMP)  ## hours: teacher, students and controls of a task (evidence-lift); goes on where it was
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m tests.evidence.suite $* $(WAYS)
	$(VENV)/bin/robokd report runs=results out=results/table.md

format: $(DEV_STAMP)  ## rewrite by the style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lint: $(DEV_STAMP)  ## complain about style and spelling
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

types: $(DEV_STAMP)  ## check the annotations
	@# pyright cannot read setuptools' package-dir: show it the files as they are installed, and mujoco, which has
	@# no stubs, as a package of anything
	@rm -rf build/types && mkdir -p build/types/mujoco
	@cp -R robokd build/types/ && cp -R tasks sim2real configs build/types/robokd/
	@printf 'from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n' \
		| tee build/types/mujoco/__init__.pyi > build/types/mujoco/batch.pyi
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

build: $(DEV_STAMP)  ## wheel and sdist, each installed and started in an empty environment
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist .
	for made in dist/*.whl dist/*.tar.gz; do \
		rm -rf build/smoke && $(PYTHON) -m venv build/smoke; \
		build/smoke/bin/python -m pip install --quiet -c constraints.txt "$$made"; \
		(cd build && smoke/bin/robokd --version && smoke/bin/robokd deploy --help > smoke/help.txt \
			&& smoke/bin/robokd list robot && smoke/bin/python -c 'import robokd.sim2real.deploy'); \
	done
	rm -rf build/smoke
