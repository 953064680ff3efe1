#!/usr/bin/env python3
"""Writes the catalog of the demo shop, as Bulkhead reads it, to the file that is named: the target `review` needs one."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "benches"))
from servers import Servers  # noqa: E402

with Servers(["direct"], None) as servers:
    superuser = servers.connection("direct") | {"PGUSER": "postgres", "PGDATABASE": "postgres"}
    servers.psql((ROOT / "docker/roles.sql").read_text() + "ALTER ROLE shop_app PASSWORD 'bench';", **superuser)
    shop = superuser | {"PGDATABASE": "shop"}
    servers.psql("SET ROLE shop_owner;\n" + (ROOT / "src/cli/demo/shop.sql").read_text(), **shop)
    Path(sys.argv[1]).write_text(servers.psql((ROOT / "src/catalog.sql").read_text(), **(shop | {"PGUSER": "shop_app"})))
