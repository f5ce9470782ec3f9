"""Numbers know neither words nor pictures: hpo.analysis needs no hpo.report."""

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import hpo.analysis
names = [module.name for module in pkgutil.walk_packages(hpo.analysis.__path__, "hpo.analysis.")]
for name in names:
    importlib.import_module(name)
print(len(names))
print(*(name for name in sys.modules if name.startswith(("plotly", "hpo.report", "hpo.server"))))
"""


def test_analysis_loads_no_report() -> None:
    """In a fresh process, where no other test has imported anything."""
    ran = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    count, loaded = ran.stdout.splitlines()
    assert int(count) > 10
    assert loaded == ""
