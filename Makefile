# make app    the explorer on http://127.0.0.1:7860
# make test   lint, types and the tests of the core, one walk through the page: five minutes
# make thorough  make test, then every other test that runs in minutes on a CPU
# make browser  every tab of the page through all it can do, in Chromium (half an hour)
# make slow   the tests that take longer
# make site   the demo's static site that draws in the browser, in the folder site (three minutes)
# make results  all that is made from the shipped checkpoint, in an hour (reckoned); done steps are skipped
# make contests  methods held against each other on it, in an hour (reckoned)
# make pictures  screenshots of the page, and the animation in the README
# make stock  PixArt against the stock pipelines, whose text encoder needs transformers
# make formats  exports in clean environments with stock diffusers, torchao, sdnq (3 GB of disk)
# make processors  every numeric test under each set of instructions that the processor has
# make audit  the pinned versions against the advisories of the package index (needs the network)
# make hosting  the page as a Space hosts it: offline, read-only, 16 GB and 2 threads, ZeroGPU
# make pins   the lowest and the newest versions in two new environments (9 GB of disk each)
#
# Each makes .venv with the versions of constraints.txt first, once.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-input --constraint constraints.txt
CHROMIUM ?= /usr/bin/chromium
PYTEST_ARGS ?=
PROCESSORS_ARGS ?=
RESULTS_ARGS ?=

.PHONY: help app results contests site test thorough rest browser pictures slow stock formats processors hosting pins audit lint format chromium axe clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

app: $(VENV)/.installed-app
	$(PY) app.py

test: $(VENV)/.installed-dev lint chromium axe
	$(PY) -m pytest -n 2 --dist loadfile \
	  -m "not thorough and not slow and not gpu and not journey" $(PYTEST_ARGS)

thorough: test rest

rest: $(VENV)/.installed-dev chromium axe
	$(PY) -m pytest -m "thorough and not slow and not gpu" $(PYTEST_ARGS)
	$(PY) tests/processors.py --two

browser: $(VENV)/.installed-dev chromium axe
	$(PY) -m pytest -m "journey and not slow" $(PYTEST_ARGS)

site: $(VENV)/.installed-dev
	$(PY) -m ditas_core.results --only site --force

results: $(VENV)/.installed-dev chromium
	$(PY) -m ditas_core.results $(RESULTS_ARGS)

contests: $(VENV)/.installed-dev
	$(PY) -m ditas_core.results contests $(RESULTS_ARGS)

pictures: $(VENV)/.installed-dev chromium
	$(PY) -m ditas_core.results --only pictures --force

slow: $(VENV)/.installed-dev
	$(PY) -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

# beside the environment, so that everything else goes on without the library
stock: $(VENV)/stock
	PYTHONPATH=$(VENV)/stock $(PY) -m pytest tests/test_api.py tests/test_pixart.py tests/test_captions.py \
	  -k "stock_pipelines or text_conditioned or whole_pipeline" $(PYTEST_ARGS)

formats: $(VENV)/.installed-dev
	$(PY) -m pytest tests/formats $(PYTEST_ARGS)

processors: $(VENV)/.installed-dev
	$(PY) tests/processors.py $(PROCESSORS_ARGS)

# --strict: a package that cannot be looked up is a failure, not a clean result
audit: $(VENV)-audit/.installed
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	  --requirement constraints.txt

hosting: $(VENV)/.installed-dev
	$(PY) -m pytest tests/hosting -m "not gpu" $(PYTEST_ARGS)

pins: $(VENV)/.installed-dev
	$(PY) tests/hosting/pins.py lowest newest

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m mypy

format: $(VENV)/.installed-dev
	$(PY) -m ruff check --quiet --fix .
	$(PY) -m ruff format --quiet .

clean:
	rm -rf $(VENV) $(VENV)-audit .venv-formats tests/node_modules build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call apt,PACKAGES): install through apt where this user may; false where not
define apt
if [ "$$(id -u)" = 0 ]; then as_root=env; \
elif sudo -n true 2>/dev/null; then as_root="sudo -n env"; else as_root=false; fi; \
command -v apt-get >/dev/null && $$as_root true && \
echo "installing $(1) through apt" && \
$$as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null && \
$$as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null
endef

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"python: expected 3.11 or newer, got {v.major}.{v.minor}")'
	@if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  { $(call apt,python3-venv); } || { echo "python3 -m venv: expected to work, needs the package python3-venv" >&2; exit 1; }; \
	fi
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed-app: $(VENV)/.python requirements.txt constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) --requirement requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-app requirements-dev.txt ditas_core/fidelity/requirements.txt
	@echo "installing the test tools"
	@$(PIP) --requirement requirements-dev.txt --requirement ditas_core/fidelity/requirements.txt
	@touch $@

$(VENV)/stock: $(VENV)/.installed-dev tests/requirements-stock.txt
	@rm -rf $@
	@$(PIP) --no-deps --target $@ --requirement tests/requirements-stock.txt
	@touch $@

# in an environment of its own: its dependencies are not this project's
$(VENV)-audit/.installed: $(VENV)/.python
	@$(PYTHON) -m venv $(VENV)-audit
	@$(VENV)-audit/bin/python -m pip install -qq --disable-pip-version-check --no-input pip-audit
	@touch $@

# what the browser tests hold the page against; npm comes with apt where it is absent
axe: tests/node_modules/axe-core/axe.min.js

tests/node_modules/axe-core/axe.min.js: tests/package.json
	@command -v npm >/dev/null || { $(call apt,npm); } || true
	@if command -v npm >/dev/null; then \
	  npm install --prefix tests --no-package-lock --silent && touch $@; \
	else echo "no npm and none installed: the accessibility tests will fail"; fi

chromium:
	@test -x $(CHROMIUM) || { $(call apt,chromium); } || \
	  echo "no chromium at $(CHROMIUM) and none installed: the browser test will be skipped"
