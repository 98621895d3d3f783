# podwire: everything a user or contributor runs. `make` alone prints this help.

LAB ?= podwire
export LAB
ifdef NODES
export NODES
endif
ifdef FOCUS
export FOCUS
endif
ifdef PODWIRE_CACHE
export PODWIRE_CACHE := $(abspath $(PODWIRE_CACHE))
endif

BIN := .venv/bin
LAB_COMMAND := $(BIN)/python -m lab
PYTEST := $(BIN)/python -m pytest
NODE ?= cp1
# The tests destroy their lab at the end; the default one is somebody's.
E2E_LAB := $(if $(filter podwire,$(LAB)),molecule,$(LAB))

.DEFAULT_GOAL := help
.PHONY: help bootstrap build machines up check conformance status ssh reboot down test lint unit bpf bpf-6.1 integration \
	collection e2e e2e-starwars lint-python lint-types lint-yaml lint-ansible lint-c benchmark benchmark-cni benchmark-path \
	benchmark-services benchmark-policy format pins

help: ## print this help
	@awk 'BEGIN {FS = ":.*## "; \
	    print "Usage: make TARGET [LAB=name] [NODES=3] [PODWIRE_CACHE=/var/cache/podwire]"} \
	  /^## / {printf "\n%s\n", substr($$0, 4)} \
	  /^[a-z0-9.-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

## Lab: a Kubernetes cluster on this machine whose pod network is podwire
up: bootstrap ## from nothing to a checked cluster (goes on where an earlier run stopped)
	@$(LAB_COMMAND) up

check: bootstrap ## send real traffic through the running lab and print what arrived
	@$(LAB_COMMAND) check

conformance: bootstrap ## run upstream's end-to-end specs of services, pod networking and policy against the running lab
	@$(LAB_COMMAND) conformance

status: bootstrap ## show the lab's nodes and their datapath
	@$(LAB_COMMAND) status

ssh: bootstrap ## log in to a node: make ssh NODE=worker1
	@$(LAB_COMMAND) ssh $(NODE)

reboot: bootstrap ## reboot a node: make reboot NODE=worker1
	@$(LAB_COMMAND) reboot $(NODE)

down: bootstrap ## remove every trace of the lab
	@$(LAB_COMMAND) down

## Parts of `make up`
bootstrap: ## install Debian packages and .venv (instant when done)
	@lab/bootstrap/bootstrap.sh

build: bootstrap ## build all artifacts into the cache
	@$(LAB_COMMAND) build

machines: bootstrap ## start the lab's machines without a cluster
	@$(LAB_COMMAND) machines

## Tests
test: lint unit bpf bpf-6.1 integration collection e2e ## everything below, in this order

lint: lint-python lint-types lint-yaml lint-ansible lint-c ## all static checks

lint-python: bootstrap ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-types: bootstrap ## mypy --strict on src/podwire
	$(BIN)/mypy

lint-yaml: bootstrap ## yamllint
	$(BIN)/yamllint --strict .

lint-ansible: bootstrap ## ansible-lint, production profile
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/ansible-lint --offline --profile production --strict

lint-c: bootstrap ## compile the datapath and the CNI plugin with warnings as errors
	$(LAB_COMMAND) build datapath
	clang-format --dry-run --Werror bpf/*.bpf.c bpf/lib/*.h cni/*.c
	gcc -std=gnu11 -O2 -Wall -Wextra -Werror -fsyntax-only cni/*.c

unit: bootstrap ## pure tests
	$(PYTEST) tests/unit

bpf: bootstrap ## packets through the loaded programs, on this machine's kernel (root)
	$(PYTEST) tests/bpf

bpf-6.1: bootstrap ## the same on Debian's 6.1 kernel in qemu, which has no tcx
	$(BIN)/python -m tests.kernels.run --kernel 6.1

integration: bootstrap ## agent, datapath and CNI in network namespaces (root)
	$(PYTEST) tests/integration

collection: bootstrap ## the built collection, installed where there is no checkout
	$(PYTEST) tests/e2e

e2e: bootstrap ## the lab's whole life: create, converge, idempotence, verify, destroy (root)
	LAB=$(E2E_LAB) PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/molecule test --scenario-name default

e2e-starwars: bootstrap ## the Star Wars demo alone, on a lab of its own; e2e has it too (root)
	LAB=$(if $(filter podwire,$(LAB)),starwars,$(LAB)) PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/molecule test --scenario-name starwars

## Benchmarks: they report, and nothing fails because a machine was busy
benchmark: benchmark-cni benchmark-path ## both of the following

benchmark-cni: bootstrap ## CNI ADD, the agent's memory and start (root)
	$(BIN)/python benchmarks/cni_add.py

benchmark-path: bootstrap ## pod to pod beside a minimal program and a bare veth pair (root)
	@# Without a shell between: a signal for make reaches the benchmark, which cleans up.
	env PYTHONPATH=.:src:collections $(BIN)/python -m benchmarks.pod_path

benchmark-services: bootstrap ## up to 10,000 services by podwire and by kube-proxy: build/services.json and .png (root)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/benchmark.txt
	@mkdir -p build
	env PYTHONPATH=.:src:collections $(BIN)/python -m benchmarks.services \
	    --json build/services.json --plot build/services.png

benchmark-policy: bootstrap ## the policy engine, packets, and policies' way to every node of a running lab (root)
	@mkdir -p build
	env PYTHONPATH=.:src:collections $(BIN)/python -m benchmarks.policy --json build/policy.json

## Upkeep
format: bootstrap ## format Python and C
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	clang-format -i bpf/*.bpf.c bpf/lib/*.h cni/*.c

pins: bootstrap ## refresh requirements/controller.txt from controller.in
	@lab/bootstrap/pins.sh
