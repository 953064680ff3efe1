#!/usr/bin/env python3
"""The source of the installed PostgreSQL: prints its directory, below target/regress, where Debian's source package is fetched once.

Needs apt-get and a network the first time. Nothing of the system's configuration is changed.
"""

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent / "drivers"))

from cluster import BIN, quiet  # noqa: E402


class CannotRun(Exception):
    """Something is missing; the text says what."""


def fetch():
    """The source tree of the installed version, from Debian's source package."""
    version = re.search(r"\d+\.\d+", subprocess.run([f"{BIN}/postgres", "--version"], capture_output=True, text=True).stdout)[0]
    package = f"postgresql-{version.split('.')[0]}"
    home = ROOT / "target/regress"
    tree = home / f"{package}.{version.split('.')[1]}"
    if (tree / "src/test/regress/parallel_schedule").exists():
        return tree
    for part in ("parts", "lists/partial", "cache"):
        (home / part).mkdir(parents=True, exist_ok=True)
    binary = "\n".join(Path(p).read_text() for p in glob.glob("/etc/apt/sources.list.d/*.sources")) + "\n"
    stanzas = [s for s in re.split(r"\n\s*\n", binary) if "debian.org" in s]
    lines = [line for p in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")] if os.path.exists(p)
             for line in Path(p).read_text().splitlines() if line.startswith("deb ") and "debian.org" in line]
    (home / "parts/source.sources").write_text("\n\n".join(re.sub(r"(?m)^Types:.*", "Types: deb-src", s) for s in stanzas) + "\n")
    (home / "parts/source.list").write_text("".join(re.sub("^deb ", "deb-src ", line) + "\n" for line in lines))
    apt = ["apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={home}/parts", "-o",
           f"Dir::State::Lists={home}/lists", "-o", f"Dir::Cache={home}/cache"]
    subprocess.run([*apt, "update"], cwd=home, check=False)
    listed = subprocess.run([apt[0].replace("get", "cache"), *apt[2:], "showsrc", package], capture_output=True, text=True, cwd=home).stdout
    match = re.search(rf"(?m)^Version: ({re.escape(version)}\S*)", listed)
    if not match:
        raise CannotRun(f"no source package of {package} {version}; name a tree with --source")
    # The patches of Debian are not needed: only the tarball of upstream, which apt-get fetches first.
    subprocess.run([*apt, "source", "--download-only", f"{package}={match[1]}"], cwd=home, check=False)
    tarball = home / f"{package}_{version}.orig.tar.bz2"
    if not tarball.exists():
        raise CannotRun(f"apt-get did not fetch {tarball.name}; name a tree with --source")
    quiet(["tar", "xjf", str(tarball), "-C", str(home)])
    return tree


if __name__ == "__main__":
    try:
        print(fetch())
    except CannotRun as error:
        sys.exit(f"regress: {error}")
