"""sqlmap and the application's driver, installed from PyPI into target/ once, and what sqlmap brings to disguise its statements."""

import ast
import glob
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../drivers"))

from install import CACHE, call, stamped  # noqa: E402

VENV = os.path.join(os.path.dirname(CACHE), "sqlmap")
PIP = ["sqlmap==1.10.10", "psycopg2-binary==2.9.13"]

# Scripts that say nothing to PostgreSQL: what they write is a header of HTTP, or the dialect of another server alone.
OTHERS = ("xforwardedfor", "varnish", "luanginx", "luanginxmore")


class Tools:
    def __init__(self):
        stamped("sqlmap", f"{sys.version}\n{PIP}", install)
        self.python = os.path.join(VENV, "bin/python")
        self.sqlmap = [os.path.join(VENV, "bin/sqlmap")]
        self.scripts = os.path.join(glob.glob(os.path.join(VENV, "lib/python3*/site-packages/sqlmap"))[0], "tamper")

    def tampers(self):
        """The names of the scripts that apply to PostgreSQL."""
        paths = sorted(glob.glob(os.path.join(self.scripts, "*.py")))
        return [name for name, path in ((os.path.basename(p)[:-3], p) for p in paths) if name != "__init__" and applies(name, path)]


def install():
    call(sys.executable, "-m", "venv", VENV)
    call(os.path.join(VENV, "bin/python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PIP)


def applies(name, path):
    """Unless its documentation requires another server. Where it was tested does not matter: an attacker tries."""
    if name in OTHERS:
        return False
    with open(path, encoding="utf8") as f:
        tree = ast.parse(f.read())
    told = next(ast.get_docstring(node) or "" for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "tamper")
    required = re.search(r"Requirement:\n((?:\s+\* .*\n?)+)", told)
    return not required or "PostgreSQL" in required.group(1)
