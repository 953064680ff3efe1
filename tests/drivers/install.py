"""Installs the drivers into target/drivers, once: a stamp with the pinned versions makes later runs start at once."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CACHE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "drivers")
PYTHON = os.path.join(CACHE, "venv/bin/python")
JAR = "/usr/share/java/postgresql.jar"

PIP = ["psycopg[binary]==3.3.9", "asyncpg==0.32.0", "SQLAlchemy[asyncio]==2.1.9", "Django==5.2.19", "pexpect==4.9.0"]
NPM = ["pg@8.23.1", "pg-cursor@2.22.0"]


def stamped(name, text, work):
    """Runs `work` unless it has run before with the same `text`."""
    path = os.path.join(CACHE, name + ".stamp")
    if os.path.exists(path) and open(path).read() == text:
        return
    os.makedirs(CACHE, exist_ok=True)
    work()
    with open(path, "w") as f:
        f.write(text)


def call(*args, **kw):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if done.returncode != 0:
        sys.exit(f"{' '.join(args)} failed:\n{done.stdout}")


def python():
    call(sys.executable, "-m", "venv", os.path.join(CACHE, "venv"))
    call(PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PIP)


def node():
    folder = os.path.join(CACHE, "node")
    os.makedirs(folder, exist_ok=True)
    call("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *NPM, cwd=folder)


def java():
    if not os.path.exists(JAR):
        sys.exit(f"{JAR} is missing: apt-get install libpostgresql-jdbc-java default-jdk-headless")
    os.makedirs(os.path.join(CACHE, "java"), exist_ok=True)
    call("javac", "-cp", JAR, "-d", os.path.join(CACHE, "java"), os.path.join(HERE, "programs/Jdbc.java"))


def rust():
    call("cargo", "build", "--quiet", "--example", "driver_tokio", cwd=ROOT)


def install(needs):
    """`needs`: of python, node, java, rust. The interpreter of psql's and pgbench's drivers is python's."""
    if needs & {"python"}:
        stamped("python", f"{sys.version}\n{PIP}", python)
    if "node" in needs:
        stamped("node", str(NPM), node)
    if "java" in needs:
        stamped("java", open(os.path.join(HERE, "programs/Jdbc.java")).read(), java)
    if "rust" in needs:
        rust()
