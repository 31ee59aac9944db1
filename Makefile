# Needs git, make and a python3 (3.10 to 3.13) with venv; everything else goes into virtual environments here.
PYTHON ?= python3
RUN = $(PYTHON) tests/tools/run.py
# pip's own notice about newer versions is noise in a log.
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# pip learned --group in 25.1; the one that comes with Python is often older.
PIP = -m pip install --quiet
NEW_PIP = $(PIP) --upgrade "pip>=25.1"

.PHONY: help demo demo-check dev test lint docs screenshots autobahn bench soak clean

help:
	@echo "make demo        serve the demo on http://127.0.0.1:8000/"
	@echo "make demo-check  start the demo, drive it with a real client, stop it"
	@echo "make test        lint, types, docs, and the whole suite against the built wheel"
	@echo "make lint        format, lint, layers and types"
	@echo "make docs        build the site into docs/_build/html"
	@echo "make screenshots take the pictures of the docs anew (needs Debian's chromium)"
	@echo "make dev         .venv with the work tree and everything the tests import"
	@echo "make autobahn    the Autobahn TestSuite against the server and ASGIToWSGI under gthread (needs a Python 2.7)"
	@echo "make bench       compare with the peers, write benchmarks/results"
	@echo "make soak        seven hosts, each ten minutes under hostile clients (SOAK='gthread --minutes 1')"
	@echo "make clean       remove what the other targets made"

demo: .venv/demo.stamp
	.venv/bin/python -m examples.demo

demo-check: .venv/demo.stamp
	.venv/bin/python -m examples.demo.check

dev: .venv/dev.stamp

.venv/demo.stamp: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python $(NEW_PIP)
	.venv/bin/python $(PIP) --editable . --group demo
	@touch $@

.venv/dev.stamp: .venv/demo.stamp
	.venv/bin/python $(PIP) --group test --group hosts --group lint --group docs
	@touch $@

test:
	$(RUN) lint docs lowest fast hosts

lint:
	$(RUN) lint

docs:
	$(RUN) docs

screenshots: .venv/dev.stamp
	.venv/bin/python tests/tools/screenshots.py

autobahn: .venv/dev.stamp
	.venv/bin/python tests/autobahn/run.py $(or $(AUTOBAHN),bridges asgi-to-wsgi)

# Measured on the newest Python of the machine, so that results of two machines are comparable.
.venv-bench/bench.stamp: pyproject.toml
	"$$($(PYTHON) tests/tools/pythons.py --newest)" -m venv --clear .venv-bench
	.venv-bench/bin/python $(NEW_PIP)
	.venv-bench/bin/python $(PIP) --editable . --group bench
	@touch $@

bench: .venv-bench/bench.stamp
	.venv-bench/bin/python -m benchmarks

soak: .venv-bench/bench.stamp
	.venv-bench/bin/python -m benchmarks.soak $(SOAK)

clean:
	rm -rf .venv .venv-bench .venvs build dist docs/_build *.egg-info .test-results
	rm -rf .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
