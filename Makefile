# One command each. The environment in $(VENV) is made once and again when pyproject.toml or constraints.txt change.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
VENV ?= .venv
PYTHON ?= python3
PIP := $(VENV)/bin/python -m pip install --quiet -c constraints.txt
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
LOSSES := drop,delay,duplicate,reorder,freeze,clock_jump,bit_flip
ENDINGS := nan,policy_kill,policy_stop,camera_kill,camera_stop,guard_kill,guard_stop,disconnect,disk_full

.PHONY: help demo test test-slow soak format lint types build

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

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
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: $(DEV_STAMP)  ## the tests that take minutes each
	$(VENV)/bin/python -m pytest -m slow

soak: $(DEV_STAMP)  ## hours of faults and fuzzing; BUNDLE=… is what is deployed
	@test -n "$(BUNDLE)" || (echo "make soak needs BUNDLE=<a bundle of robokd export>" && exit 2)
	$(VENV)/bin/robokd faults bundle=$(BUNDLE) cases=[$(LOSSES)] messages=1500 out=results/faults_messages.json
	$(VENV)/bin/robokd faults bundle=$(BUNDLE) cases=[$(ENDINGS)] messages=30 processes=30 \
		out=results/faults_processes.json
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m tests.evidence.fuzz 600 results/fuzz.json

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
