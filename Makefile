# `make demo` shows it at work, `make test` proves it; both set themselves up.
#
# PYTHON=… chooses an interpreter (3.11 or newer); ARGS=… goes to the program that runs;
# JOBS=… is how many files of tests run side by side.

.DEFAULT_GOAL := help
.PHONY: help demo test test-faults soak explore lint fmt bench screenshots nix-modern setup clean

ARGS ?=
SOAK ?= 600
# More than there are cores, for tests often wait; beyond four they only crowd.
JOBS ?= $(shell n=$$(nproc); echo $$((n < 2 ? 3 : 4)))
PYTHON ?=
export PYTHON

bin := .venv/bin
code := ci tests benchmarks

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## a push becoming a build, live, in a directory of its own (ARGS=--once: then end)
	@scripts/setup demo
	@$(bin)/build-server demo $(ARGS)

test: lint ## everything that is checked, with the system's Nix and with today's
	@scripts/nix-modern || echo "nix-modern: the tests with today's Nix will be skipped" >&2
	@$(bin)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

test-faults: setup ## what takes longer: power loss, full disks, floods, many kills
	@scripts/nix-modern || echo "nix-modern: the tests with today's Nix will be skipped" >&2
	@scripts/user-mode-linux || echo "user-mode-linux: the tests of control groups will be skipped" >&2
	@$(bin)/python -m pytest -n 2 --no-loadscope-reorder -m faults $(ARGS)

soak: setup ## random pushes, kills and faults against a model (SOAK=600: seconds)
	@SOAK_SECONDS=$(SOAK) $(bin)/python -m pytest -m soak -s --timeout=0 $(ARGS)

explore: setup ## the property tests with examples that were never tried
	@$(bin)/python -m pytest -n $(JOBS) -m "hypothesis and not soak" --hypothesis-profile=explore $(ARGS)

lint: setup ## ruff and mypy
	@$(bin)/ruff check $(code)
	@$(bin)/ruff format --check $(code)
	@$(bin)/mypy

fmt: setup ## put the code into its one form
	@$(bin)/ruff check --fix-only $(code)
	@$(bin)/ruff format $(code)

bench: setup ## measure, side by side with the alternatives
	@$(bin)/python -m benchmarks $(ARGS)

screenshots: setup ## pictures of every page, of real builds, into .cache/screenshots
	@$(bin)/python -m tests.browser.screenshots

nix-modern: ## today's Nix into .cache/nix-modern, beside the system's
	@scripts/nix-modern $(ARGS)

setup: ## what the tests need; done by the others when needed
	@scripts/setup test

clean: ## remove everything that make has made
	@[ ! -d .cache ] || chmod -R u+w .cache
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	@find ci tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
