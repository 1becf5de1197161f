# What a contributor and CI run. `make demo` and `make test` need nothing done beforehand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# two files of tests at a time: half of the time is waiting, for Slurm, mails and the clock
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
# the packages of npm that draw dashboards and know their schema
VIEWER := grafana/preview/node_modules/.installed
# Helm 3 and the Prometheus Operator's schemas, for the chart's tests
CHART  := helm/tools/node_modules/.installed

.PHONY: help demo test quick lint format golden docs alerts generate screenshots bench bench-alerts bench-dashboards bench-scale short-jobs siege fuzz system deb audit release image clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

$(VIEWER): grafana/preview/package-lock.json
	@if command -v npm >/dev/null; then cd grafana/preview && npm ci --silent && touch node_modules/.installed; \
	  else echo "left out for want of node and npm: the dashboards against Grafana's schema, and pictures" >&2; fi

$(CHART): helm/tools/package-lock.json
	@if command -v npm >/dev/null; then cd helm/tools && npm ci --silent && touch node_modules/.installed; \
	  else echo "left out for want of node and npm: the Helm chart" >&2; fi

system:          ## Debian packages of the tests (as root; otherwise says what is missing)
	@tests/system.sh

demo: $(STAMP)   ## a simulated cluster with mails, dashboards and a week of history: http://127.0.0.1:3000/
	@tests/system.sh prometheus promtool prometheus-alertmanager node npm || true
	@exec $(BIN)/jobwatt demo --cache=.cache/demo $(DEMO)

test: $(STAMP) system $(VIEWER) $(CHART) lint  ## everything; with CI=true a test left out is a failure
	@tests/gpu.sh
	@PYTHON=$(PYTHON) tests/codecarbon.sh
	$(PYTEST) -q -m "$$(tests/gpu.sh --marker)"

quick: $(STAMP)  ## what runs in under two minutes
	$(PYTEST) -q -m "not slow and not slurm and not uml and not gpu"

lint: $(STAMP)   ## ruff and mypy
	$(BIN)/ruff check exporter tests grafana/src helm packaging
	$(BIN)/ruff format --check exporter tests grafana/src helm packaging
	$(BIN)/mypy
	$(BIN)/mypy --config-file=pyproject.toml helm/generate.py
	cd grafana/src && ../../$(BIN)/mypy --config-file=../../pyproject.toml *.py dashboards/*.py

format: $(STAMP) ## let ruff write the code's form
	$(BIN)/ruff check --fix exporter tests grafana/src helm packaging
	$(BIN)/ruff format exporter tests grafana/src helm packaging

golden: $(STAMP) ## write tests/golden anew; read the difference
	cd tests && ../$(BIN)/python goldens.py

docs: $(STAMP)   ## write the generated tables of README.md and docs/ anew
	$(BIN)/python tests/docs.py

alerts: $(STAMP) ## write what alerts/site.toml renders to into alerts/
	out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && $(BIN)/jobwatt alerts render --site alerts/site.toml --out "$$out" >/dev/null && \
	  cp "$$out"/rules/site.yaml alerts/rules/ && cp "$$out"/alertmanager/* alerts/alertmanager/

generate: $(STAMP) ## write grafana/dashboards anew from grafana/src, and the Helm chart's copies
	$(BIN)/python grafana/src/generate.py
	$(BIN)/python helm/generate.py

screenshots: $(STAMP) system $(VIEWER)  ## pictures of the demo's dashboards and of a mail into grafana/screenshots
	$(BIN)/python grafana/src/screenshots.py

bench-dashboards: $(STAMP) system  ## what each panel costs on 30 days of 1000 nodes
	$(BIN)/python tests/bench/dashboardcost.py

bench: $(STAMP)  ## what jobwatt costs, beside the floor
	$(BIN)/python tests/bench/bench.py

bench-alerts: $(STAMP) system  ## mails to users on labelled traces: precision and recall; what the rules cost
	$(BIN)/python tests/bench/alertbench.py
	$(BIN)/python tests/bench/rulecost.py

siege: $(STAMP) system  ## slow, idle, endless and malformed clients of a daemon: what each costs it, as a table
	$(BIN)/python tests/bench/siege.py

bench-scale: $(STAMP) system  ## what a cluster of 12, 100 and 1000 nodes costs Prometheus, and a year a ledger
	$(BIN)/python tests/bench/scale.py

short-jobs: $(STAMP) system  ## 200 short jobs on a real Slurm: the share of their energy that is booked
	cd tests && ../$(BIN)/python shortjobs.py

fuzz: $(STAMP)   ## hostile inputs to every parser, FUZZ_INPUTS= in all, FUZZ_SECONDS= each at a time (docs/fuzzing.md)
	@$(BIN)/pip install --quiet --group fuzz
	@cd tests && ../$(BIN)/python -m fuzz.run

deb:             ## the Debian package of this tree, into dist/ (needs debhelper, python3-venv)
	packaging/build-deb.sh dist

audit: $(STAMP)  ## known vulnerabilities of what is carried and of what is installed; AUDIT="-s osv" asks OSV
	PYTHON=$(BIN)/python packaging/audit.sh $(AUDIT)

release: $(STAMP) ## wheel, sdist, Debian package, chart, bill of materials and their sums, into dist/VERSION
	$(BIN)/python packaging/release.py $(RELEASE)

image: $(STAMP) system $(CHART)  ## the container image built by buildah and run as the chart runs it
	$(PYTEST) -q tests/test_image.py

clean:           ## the venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
