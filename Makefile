# Each target sets itself up in .venv: the first one takes some minutes, later ones start at once.
# Needs Python 3.11 with venv and a C++ compiler; no ROS, no GPU. Nothing outside .venv changes.
#
#   make demo     the whole loop on a simulated robot, from play data to a zero-shot policy
#   make test     the tests, without the slow ones (ARGS=... chooses others)
#   make test-all  the slow ones too: every fault of every robot, measured
#   make check    ruff, mypy and the layering rules
#   make bench    speed of models and nodes; DMO_DIAMOND=<folder> compares with the original
#   make setup    only the environment
#   make clean    remove .venv and build products

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
UNITREE := $(shell sed -n 's/^unitree-sdk2==/&/p' constraints.txt)
ARGS ?=
ifdef ROS_DISTRO  # .venv has a ROS of its own; a sourced one of another Python would leak in
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH
endif

.PHONY: demo test test-all check bench setup clean

demo: $(VENV)/built
	$(VENV)/bin/dmo demo $(ARGS)

test: $(VENV)/built
	$(PY) -m pytest $(ARGS)

test-all: $(VENV)/built
	$(PY) -m pytest -m '' $(ARGS)

check: $(VENV)/built
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q test/test_layering.py

bench: $(VENV)/built
	@for script in bench/*.py; do $(PY) $$script $(ARGS) || exit 1; done

setup: $(VENV)/built

# Libraries: only when their list has changed. The first install finds no ROS and leaves the
# messages out, but brings the ROS wheels; the second (below) builds the messages with them.
$(VENV)/libraries: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "make: constraints.txt is for Python 3.11, and '$(PYTHON)' is not; name one:"; \
	  echo "      make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo 'Setting up $(VENV) (once, some minutes) ...'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo 'make: this Python cannot make environments: apt install python3-venv'; exit 1; }
	$(PIP) install -c constraints.txt setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation '.[train,ros,test]'
	$(PIP) install --no-deps $(UNITREE)  # it would insist on a cyclonedds that 3.11 cannot have
	@touch $@

$(VENV)/built: $(VENV)/libraries CMakeLists.txt package.xml \
               $(wildcard cmake/* msg/*.msg launch/*.py config/*.*)
	@echo 'Building the messages ...'
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) build dmo_ros/msg dmo_ros/*.so *.egg-info
