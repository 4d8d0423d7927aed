# `make` alone lists what there is. Everything runs from a fresh clone; what is built lives in IML4E_CACHE, what runs in IML4E_STATE.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export IML4E_STATE ?= /var/lib/iml4e
# The cluster made here, unless KUBECONFIG names another.
export PATH := $(IML4E_STATE)/bin:$(PATH)
ifneq ($(wildcard $(IML4E_STATE)/admin.conf),)
export KUBECONFIG ?= $(IML4E_STATE)/admin.conf
endif
PIPELINE ?= wine

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ The platform
.PHONY: up down status doctor images demo
up: ## From nothing to a running platform and a live prediction (IML4E_RUNTIME=own: in the runtime image)
	@scripts/up
down: ## Remove the cluster of this machine; the cache stays
	@scripts/down
status: ## What runs, and where
	@scripts/status
doctor: ## Check this machine; each finding comes with its cure
	@scripts/doctor
images: ## Build the images only
	@scripts/images build
demo: ## Run a reference pipeline to a live prediction (PIPELINE=wine|digits, ENGINE=local|kfp)
	@scripts/demo $(PIPELINE) $(if $(ENGINE),--engine $(ENGINE))

##@ The harness
.PHONY: setup lint render unit e2e load bench test lock
setup: ## Python environment of the harness, as .venv
	@scripts/setup
lint: setup ## Style of Python, YAML, shell, prose; generated files are up to date
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/yamllint --strict .
	@.venv/bin/shellcheck .ci/run images/argo/unpack charts/iml4e/charts/*/files/*.sh
	@.venv/bin/codespell
	@scripts/crds --check
render: setup ## The chart without a cluster
	@.venv/bin/pytest -q -n 2 tests/render
unit: setup ## Our own Python
	@.venv/bin/pytest -q tests/unit
e2e: setup up ## The platform up if it is not, both pipelines, all cluster tests
	@KUBECONFIG=$${KUBECONFIG:-$(IML4E_STATE)/admin.conf} .venv/bin/pytest -q tests/e2e
bench: setup ## Measure the model server beside others, into docs/measured.md
	@scripts/bench
load: setup ## Ten seconds of load on the served models
	@.venv/bin/locust -f load/ --headless --users 16 --run-time 10s
test: lint ## Everything: lint, platform, render, unit, e2e
	@$(MAKE) up
	@$(MAKE) render
	@$(MAKE) unit
	@$(MAKE) e2e
lock: ## Pin the Python packages of images and harness anew
	@scripts/setup --lock
