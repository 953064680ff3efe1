"""The shop that is attacked: one PostgreSQL, three tenants, and two ways to it, through Bulkhead and directly.

Every row carries a canary that no other row has, and that says whose the row is. An attacker that is tenant 1 may come by its own;
any other that turns up in what it was sent or has put together is a leak.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime, timedelta, timezone

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../drivers"))

from cluster import BIN, CONF, HBA, Server, as_postgres, quiet  # noqa: E402
from places import PLACES  # noqa: E402
from run import Proxy  # noqa: E402

BINARY = os.path.abspath(os.environ.get("BULKHEAD_BIN", os.path.join(HERE, "../../target/debug/bulkhead")))
ROWS = 12  # of each tenant in each table
OWNER = 0  # the number in canaries of what is nobody's: the operator's secrets

# kanari, the number of the tenant, x, the number of the row. Short, for whoever is blind reads it letter by letter; tampering may
# change its case. It is in columns that the application never shows, so that who has one has got in. The addresses of others are on
# its pages as soon as somebody adds OR 1=1.
EXTRACTED = re.compile(rb"kanari[023]x(?:\d{3})?", re.I)  # a part of one is a leak as well
FOREIGN = re.compile(rb"kanari[023]x(?:\d{3})?|@tenant[23]", re.I)
OWN = re.compile(rb"kanari1x\d{3}", re.I)
LONGEST = 11
COUNT_OF_OTHERS = 2 * ROWS  # rows in payouts

SCHEMA = """
CREATE TABLE customers (tenant_id int NOT NULL, id int NOT NULL, name text NOT NULL, email text NOT NULL, card text NOT NULL, note text,
  PRIMARY KEY (tenant_id, id));
CREATE TABLE payouts (tenant_id int NOT NULL, id int NOT NULL, iban text NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE reviews (tenant_id int NOT NULL, id bigint GENERATED ALWAYS AS IDENTITY, body text NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2) NOT NULL);
CREATE TABLE secrets (id int PRIMARY KEY, word text NOT NULL);
INSERT INTO products VALUES (1, 'anvil', 10.00), (2, 'rocket', 99.50), (3, 'magnet', 5.25);
-- Also of secrets, which Bulkhead alone is to keep: directly they must be found.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app;
"""

# Not TRUNCATE, which writes a new row of pg_class: who reads the catalog would see in its order how often that was done.
ROWS_OF_ALL = f"""
SET lock_timeout = '30s';
DELETE FROM customers; DELETE FROM payouts; DELETE FROM reviews; DELETE FROM secrets;
VACUUM customers, payouts, reviews, secrets;
SELECT setval(pg_get_serial_sequence('reviews', 'id'), 1, false);
INSERT INTO customers SELECT t, i, 'customer ' || i, 'c' || i || '@tenant' || t || '.test', 'kanari' || t || 'x' || 100 + i, 'n/a'
  FROM generate_series(1, 3) t, generate_series(1, {ROWS}) i;
INSERT INTO payouts SELECT t, i, 'kanari' || t || 'x' || 300 + i FROM generate_series(1, 3) t, generate_series(1, {ROWS}) i;
INSERT INTO reviews (tenant_id, body) SELECT t, 'kanari' || t || 'x' || 500 + i FROM generate_series(1, 3) t, generate_series(1, {ROWS}) i;
INSERT INTO secrets SELECT i, 'kanari{OWNER}x' || 700 + i FROM generate_series(1, {ROWS}) i;
"""

NOBODY_ELSE = "".join(f"DELETE FROM {t} WHERE tenant_id <> 1;" for t in ("customers", "payouts", "reviews")) + "DELETE FROM secrets;"

# What an attacker might have changed without ever reading it.
FOREIGN_DIGEST = "SELECT md5(string_agg(r, '/' ORDER BY r)) FROM (" + " UNION ALL ".join(
    f"SELECT '{t}' || x::text FROM {t} x WHERE tenant_id <> 1" for t in ("customers", "payouts", "reviews")
) + " UNION ALL SELECT x::text FROM secrets x UNION ALL SELECT x::text FROM products x) AS f(r);"

POLICY = "".join(f'[[table]]\nname = "public.{t}"\nscope = "tenant"\ntenant_column = "tenant_id"\n\n' for t in ("customers", "payouts", "reviews"))
POLICY += '[[table]]\nname = "public.products"\nscope = "shared"\n\n[[table]]\nname = "public.secrets"\nscope = "denied"\n'

# Some of sqlmap's questions take as long as they can: that is how it tells true from false.
TIMEOUT = "20s"

# What an attacker may send who knows the list and keeps to it: values, and nothing but values.
MIMICS = ("%", "_%", "", "' OR 1=1 --", "customer%", "x'; DROP TABLE customers; --", "\\", "0", "-1", "99999999", "customer 3' UNION SELECT 1")

PATIENCE = 30  # seconds for the audit log to have all that was recorded: a busy disk takes longer than its interval


class Shop:
    """PostgreSQL with the shop three times: `shop` behind Bulkhead, `direct`, so that what the control destroys is its own, and `alone`,
    where others have no rows (replay.py)."""

    def __init__(self, logins):
        self.logins = logins

    def __enter__(self):
        self.root = tempfile.mkdtemp(prefix="bulkhead-sqlmap-")
        os.chmod(self.root, 0o755)
        if os.getuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
        self.server, self.proxy = Server(self.root, "data"), None
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        quiet([f"{BIN}/initdb", "-D", self.server.data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
              cwd=self.root, **as_postgres())
        for name, text in (("postgresql.conf", CONF), ("pg_hba.conf", HBA)):
            with open(os.path.join(self.server.data, name), "a" if name == "postgresql.conf" else "w") as f:
                f.write(text)
        self.server.start()
        self.server.sql("CREATE ROLE shop_owner LOGIN PASSWORD 'ownersecret'; CREATE ROLE app LOGIN PASSWORD 'secret'; "
                        f"ALTER ROLE app SET statement_timeout = '{TIMEOUT}';", database="postgres")
        for name in ("shop", "direct"):
            self.server.sql(f"CREATE DATABASE {name} OWNER shop_owner", database="postgres")
            self.server.sql(SCHEMA + ROWS_OF_ALL, user="shop_owner", database=name)
        self.server.sql("CREATE DATABASE alone TEMPLATE shop OWNER shop_owner", database="postgres")
        self.digest = self.server.sql(FOREIGN_DIGEST)
        self.proxy = ShopProxy(self.root, self.server, self.logins)
        self.proxy.start(BINARY)

    def __exit__(self, *_):
        if self.proxy:
            self.proxy.stop()
        self.server.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def learn(self):
        """Holds the application to what it says: complaints where that refuses what it says itself, or where somebody who knows the list,
        and keeps to it, comes by rows of others."""
        honest = [statement.format(value) for _, value, statement in PLACES.values()]
        self.say(honest)
        since = datetime.now(timezone.utc) - timedelta(minutes=5)
        deadline = time.monotonic() + PATIENCE
        while sum(r["event"] == "session_end" for r in self.proxy.records(f"web{self.logins}", since)) < len(honest):
            if time.monotonic() > deadline:
                return ["the log does not have what the application has said"]
        listed = self.proxy.learned()
        self.proxy.write_policy("learned", listed)
        deadline = time.monotonic() + PATIENCE
        while not self.say(["SELECT 1 AS nobody, 2 AS says, 3 AS this"])[0][0]:
            if time.monotonic() > deadline:
                return ["the list of statements did not come into force"]
            time.sleep(0.2)
        complaints = [f"a false denial: {sql}: {told}" for sql, (refused, told) in zip(honest, self.say(honest)) if refused]
        mimicked = [statement.format(value.replace("'", "''") if "'{" in statement or "%{" in statement else value)
                    for _, _, statement in PLACES.values() for value in MIMICS if "'" in statement or value.lstrip("-").isdigit()]
        answers = self.say(mimicked)
        others = sum(len(canaries(FOREIGN, told.encode())) for _, told in answers)
        own = sum(len(canaries(OWN, told.encode())) for _, told in answers)
        print(f"who knows the list of {listed.count('    ' + chr(34))} statements: {len(mimicked)} statements of it with other values, "
              f"{sum(refused for refused, _ in answers)} refused, canaries of others {others}, own {own}", flush=True)
        return complaints + ([f"LEAK: by statements of the list: {others} canaries of others"] if others else [])

    def say(self, statements):
        """[(refused, what was answered)], as the application, by its own name."""
        env = {"PGPASSWORD": "pw-web", "PGAPPNAME": "shop", "PATH": os.environ["PATH"]}
        told = []
        for sql in statements:
            command = [f"{BIN}/psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", str(self.proxy.port), "-U", f"web{self.logins}", "-d", "shop", "-c", sql]
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            told.append(("permission denied for this statement" in done.stdout, done.stdout))
        return told

    def sides(self, number):
        """Both ways, for an attack: Bulkhead counts by login what fails, and the last attack's is not this one's."""
        ways = [("bulkhead", "shop", f"web{number}", "pw-web", self.proxy.port), ("direct", "direct", "app", "secret", self.server.port)]
        return [Side(self, name, database, user, f"postgres://{user}:{password}@127.0.0.1:{port}/%s?sslmode=disable")
                for name, database, user, password, port in ways]


class ShopProxy(Proxy):
    """The proxy of tests/drivers with the policy of this shop, its second database, and so many logins of the tenant."""

    def __init__(self, root, server, logins):
        super().__init__(root, server)
        self.logins = logins

    def write_config(self):
        super().write_config()
        with open(self.dir + "/proxy.toml", "a") as f:
            for number in range(self.logins + 1):  # one for who learns
                f.write(f'\n[[user]]\nname = "web{number}"\npassword = "pw-web"\ntenant = "1"\nroles = ["app"]\n')
            f.write(f'\n[[database]]\nname = "alone"\nupstream = "postgres://app:secret@127.0.0.1:{self.shared.port}/alone?sslmode=disable"\n')
        self.write_policy("shop", POLICY)

    def learned(self):
        """A policy that lists what the application has said, and refuses the rest, whatever name it comes by."""
        listed = subprocess.run([self.binary, "learn", "--application", "shop"], cwd=self.dir, stdout=subprocess.PIPE, text=True, check=True).stdout
        return listed.replace('names = ["shop"]', 'roles = ["app"]') + '[[threat]]\nrule = "unknown-statement"\nmode = "enforce"\n'

    def denials(self):
        """How many statements were refused so far, by reason."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {reason: int(count) for reason, count in re.findall(r'^bulkhead_denials_total\{reason="(\w+)"\} (\d+)', text, re.M)}

    def records(self, user, since):
        """What the audit log tells of a login from that time (datetime) on, in order, as soon as its sessions have ended there."""
        export = [self.binary, "audit", "export", "--format", "raw", "--log", "audit", "--since", since.strftime("%Y-%m-%dT%H:%M:%S")]
        deadline = time.monotonic() + PATIENCE
        while True:
            text = subprocess.run(export, cwd=self.dir, stdout=subprocess.PIPE, text=True, check=True).stdout
            records = [record for record in map(json.loads, text.splitlines()) if record.get("user") == user]
            begun, ended = (sum(record["event"] == event for record in records) for event in ("session", "session_end"))
            if 0 < begun == ended or time.monotonic() > deadline:
                return records
            time.sleep(0.2)

    def complaints(self):
        """What its log tells of that should not happen, whatever an attacker sends."""
        with open(self.dir + "/log", errors="replace") as f:
            return [line.strip() for line in f if re.search(r"panick| ERROR |disagree|broke the protocol|unexpected message", line)]


class Side:
    """One way to the shop: `url` is all that the application knows of it; `alone` leads the same way to where others have no rows."""

    def __init__(self, shop, name, database, user, url):
        self.shop, self.name, self.database, self.user = shop, name, database, user
        self.url, self.alone = url % database, url % "alone"

    def restore(self):
        """The rows as they were, so that runs do not depend on each other."""
        self.shop.server.sql(ROWS_OF_ALL, user="shop_owner", database=self.database)

    def leave_alone(self):
        """The database without others, as the shop is now."""
        self.shop.server.sql(ROWS_OF_ALL + NOBODY_ELSE, user="shop_owner", database="alone")

    def has_changed(self):
        """Whether rows of others are not what they were."""
        return self.shop.server.sql(FOREIGN_DIGEST, database=self.database) != self.shop.digest

    def denials(self):
        return self.shop.proxy.denials() if self.name == "bulkhead" else {}

    def records(self, since):
        return self.shop.proxy.records(self.user, since) if self.name == "bulkhead" else []


def canaries(pattern, data):
    """The canaries in some bytes: FOREIGN, whole or in part, or OWN."""
    return {found.decode().lower() for found in pattern.findall(data)}
