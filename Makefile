# podwire: everything a user or contributor runs. `make` alone prints this help.
# Variables: LAB=name (default podwire), NODES=1|3|5, PODWIRE_CACHE=/var/cache/podwire

LAB ?= podwire
NODES ?=
export LAB
export NODES
export PODWIRE_CACHE

VENV := .venv/bin
LAB_COMMAND = $(VENV)/python -m lab --name $(LAB)
PYTEST = $(VENV)/pytest

.DEFAULT_GOAL := help
.PHONY: help bootstrap pins

help: ## print this help
	@awk 'BEGIN {FS = ":.*## "; print "Usage: make TARGET [LAB=name] [NODES=3]\n"} \
	  /^## / {printf "\n%s\n", substr($$0, 4)} \
	  /^[a-z0-9.-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

## Lab
bootstrap: ## install Debian packages and .venv (instant when done)
	@lab/bootstrap/bootstrap.sh

pins: bootstrap ## refresh requirements/controller.txt from controller.in
	@lab/bootstrap/pins.sh
