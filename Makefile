# `make` alone lists the targets. Every target runs from a fresh clone. IML4E_CACHE: built programs and images; IML4E_STATE: the cluster.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export IML4E_STATE ?= /var/lib/iml4e
export IML4E_NODES := $(or $(NODES),$(IML4E_NODES))
# The cluster of this machine, unless KUBECONFIG names another.
export PATH := $(IML4E_STATE)/bin:$(PATH)
ifneq ($(wildcard $(IML4E_STATE)/admin.conf),)
export KUBECONFIG ?= $(IML4E_STATE)/admin.conf
endif
# No compiled files in the folders of the chart, whose programs bench and tests run.
export PYTHONDONTWRITEBYTECODE := 1
PIPELINE ?= wine

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ The platform
.PHONY: up down purge status doctor images sbom demo
up: ## Install the platform, on a new cluster of this machine where none answers, and get a prediction (NODES=3: so many nodes; IML4E_RUNTIME=own: runtime image; IML4E_NOTEBOOKS=on: notebooks)
	@scripts/up
down: ## Remove the cluster of this machine; the cache stays
	@scripts/down
purge: ## Remove the release with its data, passwords, namespace and CRDs, after a question (YES=iml4e: without)
	@scripts/purge $(if $(YES),--yes $(YES))
status: ## Show processes and pods of this machine's cluster
	@scripts/status
doctor: ## Check this machine; each finding with its remedy
	@scripts/doctor
images: ## Build the images without starting a cluster
	@scripts/images build
sbom: ## Write a bill of materials of each built image into reports/sbom (CycloneDX), and their licences into docs/licences.md
	@scripts/images sbom
demo: ## Run a reference pipeline, deploy its model, get a prediction (PIPELINE=wine|digits, ENGINE=local|kfp)
	@scripts/demo $(PIPELINE) $(if $(ENGINE),--engine $(ENGINE))

##@ The harness
.PHONY: setup lint render contract mutate arms unit e2e load availability bench test lock scan docs
setup: ## Install the Python environment of the harness, as .venv
	@scripts/setup
lint: setup ## Check style of Python, YAML, shell and prose, and that generated files are up to date
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/yamllint --strict .
	@.venv/bin/shellcheck .ci/run ci/setup images/argo/unpack charts/iml4e/files/*.sh charts/iml4e/charts/*/files/*.sh
	@.venv/bin/codespell
	@scripts/chart --check
	@scripts/dashboards --check
	@scripts/crds --check
	@scripts/trace --check
render: setup ## Test the chart without a cluster
	@.venv/bin/pytest -q -n 2 --junitxml reports/junit/render.xml tests/render
contract: setup ## Write tests/render/data/contract.yaml anew: what containers are told and asked, what accounts may
	@cd tests && ../.venv/bin/python -m support.contract
mutate: setup ## Break the chart's templates in a hundred ways: the render tests must catch 95 (SEED=1 MINUTES=8: stop then, go on next time)
	@scripts/mutate $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))
arms: setup ## Tell which arms of the chart's templates no render test reaches
	@scripts/arms
unit: setup ## Test the Python code without a cluster
	@.venv/bin/pytest -q -n 2 --dist loadfile --junitxml reports/junit/unit.xml tests/unit
e2e: setup up ## Test the running platform; install or upgrade the platform first
	@ci/setup > /dev/null || echo 'The tests of GitLab pipelines are skipped.'
	@KUBECONFIG=$${KUBECONFIG:-$(IML4E_STATE)/admin.conf} .venv/bin/pytest -q -n 2 --dist loadscope --junitxml reports/junit/e2e.xml tests/e2e
bench: setup ## Compare the model server with others; writes docs/measured-model-server.md
	@scripts/bench
load: setup ## Put load on every service; report in reports/load (SHAPE=steady|ramp|spike|soak USERS=16 TIME=60s)
	@.venv/bin/locust -f load/ --headless --shape $(or $(SHAPE),steady) --users $(or $(USERS),16) --run-time $(or $(TIME),$(if $(filter soak,$(SHAPE)),10m,60s)) --report reports/load
availability: setup ## Measure what clients lose while parts restart, fail and change; writes docs/availability.md (QUICK=1: ten minutes)
	@scripts/availability $(if $(QUICK),--quick,--page docs/availability.md)
test: lint ## Run everything: lint, up, render, unit, e2e
	@$(MAKE) up
	@$(MAKE) render
	@$(MAKE) unit
	@$(MAKE) e2e
scan: setup ## Scan the rendered chart with checkov; every finding is explained in tests/exceptions.yaml
	@scripts/scan
docs: ## Build the documentation as a site into build/docs/site; a broken link is an error
	@scripts/docs
lock: ## Update the pinned Python packages of images and harness
	@scripts/setup --lock
