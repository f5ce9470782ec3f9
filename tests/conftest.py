"""What all tests share: signals and threads as a worker would find them, and databases where hpo has its own."""

import importlib.util
import os
import signal

# Started in a shell's background, pytest and all that it starts would ignore Ctrl-C, and under nohup a terminal's end.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# One thread for each process that a test starts: of several, all would wait for the one without a core.
os.environ["OMP_NUM_THREADS"] = "1"

# A machine with a GPU may have torch and pytest alone: tests/training/test_cuda.py needs no more.
pytest_plugins = ["tests.support.databases"] if importlib.util.find_spec("sqlalchemy") else []
