"""MLflow's settings are there before MLflow is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

IMPORT = """
import importlib, os, sys
class Seen:
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            print(os.environ.get("MLFLOW_DISABLE_TELEMETRY"), os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES"))
            sys.exit()
sys.meta_path.insert(0, Seen())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("room", ["runs", "client", "models", "sending"])
def test_mlflow_finds_its_settings_at_its_import(room):
    """It reads them then, and never again: whichever of the rooms is imported first must have set them."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", IMPORT, f"ganatomy.tracking.{room}"]
    done = subprocess.run(command, capture_output=True, text=True, env=bare)
    assert done.stdout == "true 0\n", done.stderr
