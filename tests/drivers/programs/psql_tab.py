"""psql's tab completion: a real psql on a terminal of its own, lines typed and TAB pressed twice."""

import os
import re
import sys

import pexpect

PSQL = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin") + "/psql"

LINES = [
    "SELECT * FROM ", "SELECT * FROM acc", "SELECT * FROM public.", "SELECT * FROM public.acc", "SELECT * FROM accounts WHERE no", "SELECT * FROM accounts ORDER BY ",
    "SELECT * FROM accounts WHERE email = ", "TABLE acc", "UPDATE acc", "UPDATE accounts SET ", "UPDATE accounts SET no", "INSERT INTO ", "INSERT INTO acc", "INSERT INTO accounts ",
    "INSERT INTO accounts (em", "DELETE FROM ord", "DELETE FROM accounts WHERE ba", "\\d ", "\\d acc", "\\d public.acc", "\\dt ", "\\dt acc", "\\di acc",
    "\\dv ", "\\ds ", "\\dm ", "\\df lab", "\\dn ", "\\dn pub", "\\dT ord", "\\dD pos", "\\dP ", "\\dp acc", "\\z acc", "\\sf lab", "\\sv acc",
    "\\dE ", "\\da ", "\\copy acc", "COPY acc", "EXPLAIN SELECT * FROM acc", "SET work", "SET search_path TO ", "SET TimeZone TO 'Europe/V", "SET DateStyle TO ",
    "SHOW work", "RESET sea", "SET enable_seqscan TO ", "SET default_transaction_isolation TO ", "WITH x AS (SELECT * FROM acc", "SELECT lab",
    "LOCK TABLE acc", "TRUNCATE acc", "ANALYZE acc", "VACUUM acc", "REINDEX TABLE acc", "REINDEX INDEX acc", "CLUSTER acc", "ALTER TABLE acc", "ALTER TABLE accounts DROP COLUMN ",
    "ALTER TABLE accounts DROP CONSTRAINT ", "ALTER TABLE accounts ALTER COLUMN ", "ALTER TABLE accounts RENAME ", "ALTER TABLE events DETACH PARTITION ", "ALTER TABLE events ATTACH PARTITION ",
    "ALTER INDEX acc", "ALTER VIEW acc", "ALTER SEQUENCE tic", "ALTER TYPE ord", "ALTER TYPE order_status RENAME VALUE ", "ALTER DOMAIN pos", "ALTER DOMAIN positive_int DROP CONSTRAINT ",
    "ALTER FUNCTION lab", "ALTER FUNCTION label(", "ALTER SCHEMA ", "CREATE INDEX ON acc", "CREATE INDEX x ON accounts (", "CREATE INDEX x ON accounts USING ",
    "CREATE TABLE x (LIKE acc", "CREATE TABLE x PARTITION OF ", "CREATE TRIGGER t AFTER INSERT ON acc", "CREATE TRIGGER t AFTER INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION ",
    "CREATE POLICY p ON acc", "CREATE VIEW x AS SELECT * FROM acc", "CREATE STATISTICS s ON id FROM acc", "CREATE SCHEMA IF NOT EXISTS ", "CREATE CAST (",
    "DROP TABLE acc", "DROP VIEW acc", "DROP INDEX acc", "DROP SEQUENCE tic", "DROP TYPE ord", "DROP FUNCTION lab", "DROP FUNCTION label(", "DROP DOMAIN pos", "DROP SCHEMA ",
    "DROP TRIGGER ", "DROP TRIGGER t ON ", "DROP POLICY ", "DROP RULE ", "DROP EXTENSION ", "COMMENT ON TABLE acc", "COMMENT ON COLUMN acc", "COMMENT ON CONSTRAINT ",
    "GRANT SELECT ON acc", "GRANT SELECT ON TABLE acc", "GRANT USAGE ON SCHEMA ", "GRANT EXECUTE ON FUNCTION lab", "REVOKE SELECT ON acc", "MERGE INTO acc", "MERGE INTO accounts USING ord",
    "REFRESH MATERIALIZED VIEW ", "IMPORT FOREIGN SCHEMA ", "LISTEN ", "UNLISTEN ", "CALL ", "PREPARE x AS SELECT * FROM acc", "SECURITY LABEL ON TABLE acc",
]
# About roles, servers, other databases, and what a server session has prepared or opened (which is not this client's alone
# behind a pool): the proxy may refuse the query behind these or show less, which shows as other completions.
MAY = [
    "\\l ", "EXECUTE ", "DEALLOCATE ", "FETCH NEXT FROM ", "CLOSE ", "ALTER DATABASE ", "CREATE DATABASE x TEMPLATE ", "DROP DATABASE ",
    "\\du ", "\\dg ", "\\db ", "\\dx ", "\\dL ", "\\dF ", "\\dAc ", "\\drds ", "\\dconfig work", "\\des ", "\\dX ", "\\dy ", "\\c ", "\\encoding UT", "GRANT app TO ", "GRANT SELECT ON accounts TO ", "SET ROLE ", "SET SESSION AUTHORIZATION ",
    "ALTER ROLE ", "ALTER USER ap", "DROP ROLE ", "DROP OWNED BY ", "REASSIGN OWNED BY ", "ALTER TABLE accounts OWNER TO ", "ALTER TABLE accounts SET TABLESPACE ", "CREATE TABLESPACE ", "ALTER SYSTEM SET work", "CREATE EXTENSION ",
    "ALTER EXTENSION ", "ALTER EXTENSION plpgsql UPDATE TO ", "CREATE EXTENSION plpgsql VERSION ", "CREATE SERVER ", "DROP SERVER ", "DROP LANGUAGE ", "DROP ACCESS METHOD ", "DROP EVENT TRIGGER ", "DROP PUBLICATION ", "DROP SUBSCRIPTION ",
    "ALTER PUBLICATION ", "ALTER SUBSCRIPTION ", "CREATE FOREIGN TABLE x (a int) SERVER ", "ALTER TEXT SEARCH CONFIGURATION ", "DROP OPERATOR ", "ALTER DEFAULT PRIVILEGES FOR ROLE ", "CREATE USER MAPPING FOR ",
    "ALTER EVENT TRIGGER ", "ALTER FOREIGN DATA WRAPPER ", "DROP COLLATION ", "DROP CONVERSION ", "DROP TABLESPACE ", "DROP TRANSFORM FOR ", "DROP STATISTICS ", "ALTER TABLE accounts INHERIT ", "ALTER TABLE accounts CLUSTER ON ",
    "ALTER TABLE accounts REPLICA IDENTITY USING INDEX ", "ALTER TABLE accounts VALIDATE CONSTRAINT ", "ALTER TABLE accounts ENABLE TRIGGER ", "ALTER TABLE accounts ENABLE RULE ", "ALTER DATABASE shop SET work", "CREATE PUBLICATION p FOR TABLE acc",
]


def words(text):
    """What was offered, without how readline drew it: that depends on when the answer came."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07|\\\\echo mark\d+", "", text)
    return " ".join(sorted(set(text.split()) - {"shop=>", "\\echo"} - {w for w in text.split() if w.startswith("mark")}))


def complete(lines, name):
    # Of this process alone: several tenants run at once, and half a file would make readline ask before it lists.
    inputrc = os.path.join(os.environ["DRIVER_CACHE"], f"inputrc.{os.getpid()}")
    with open(inputrc, "w") as f:
        f.write("set completion-query-items 0\nset page-completions off\n")
    env = dict(os.environ, TERM="dumb", INPUTRC=inputrc, COLUMNS="200", LINES="500", PGAPPNAME=name, PSQL_HISTORY="/dev/null", PAGER="cat")
    if not name:
        del env["PGAPPNAME"]
    child = pexpect.spawn(PSQL, ["-X", "-q"], env=env, dimensions=(500, 200), encoding="utf8", timeout=20)
    child.delaybeforesend = None
    child.expect("shop=> ")
    seen = []
    for number, line in enumerate(lines):
        child.send(line + "\t\t")
        # The line is given up with Ctrl-A Ctrl-K; what answers next is the mark, so all completions have arrived.
        child.send("\x01\x0b" + f"\\echo mark{number}\r")
        child.expect(rf"\nmark{number}\r?\n")
        seen.append(f"== {line}\n" + words(child.before))
        child.expect("=> ")
    child.send("\\q\r")
    child.expect(pexpect.EOF)
    os.remove(inputrc)
    return seen


def main():
    for text in complete(LINES, ""):
        print(text)
    complete(MAY, "driver:may be refused")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
