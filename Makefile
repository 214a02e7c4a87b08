# `make demo` and `make test` are all one needs, as root on Debian 12: both set the machine up first (scripts/setup.sh).
# ARGS is passed on: make demo ARGS="--json out.json", make test ARGS="tests/wire -x".

.PHONY: demo test test-all conformance fuzz mutants lint pins clean

demo:
	@scripts/setup.sh run && exec .venv/bin/anchord demo $(ARGS)

test:
	@scripts/setup.sh test
	@scripts/test.sh $(ARGS)

# make test, and after it what takes long.
test-all: test
	@.venv/bin/pytest -m long

# Runs every test that claims a row of docs/conformance.md and renews the page; fails when something there was not shown.
conformance:
	@scripts/setup.sh test
	@.venv/bin/python tests/conformance.py $(ARGS)

# Inputs that nobody should send, by the million: make fuzz ARGS="--count 5000000 --seed 1 --jobs 2"
fuzz:
	@scripts/setup.sh test
	@.venv/bin/python tests/fuzz/fuzz_run.py $(ARGS)

# Is the program noticed when it is wrong? Faults in a copy of it, one at a time: make mutants ARGS="--jobs 2"
mutants:
	@scripts/setup.sh test
	@.venv/bin/python tests/mutants/mutant_run.py $(ARGS)

lint:
	@scripts/setup.sh test
	@.venv/bin/ruff check .
	@.venv/bin/mypy

# Pins every requirement anew, with the hashes of all its files. Names no index: pip's own configuration decides.
PIN = .venv/bin/pip-compile --quiet --upgrade --generate-hashes --build-deps-for editable --allow-unsafe \
	--strip-extras --no-header --no-config --no-emit-index-url --no-emit-find-links --no-emit-trusted-host
pins:
	@.venv/bin/pip install --quiet pip-tools
	@$(PIN) --output-file requirements.txt pyproject.toml
	@$(PIN) --extra dev --constraint requirements.txt --output-file requirements-dev.txt pyproject.toml

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find src tests -name __pycache__ -prune -exec rm -rf {} +
