"""psql: its backslash commands, \\copy, cursors behind FETCH_COUNT, savepoints behind ON_ERROR_ROLLBACK, variables."""

import os
import re
import subprocess
import sys

PSQL = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin") + "/psql"
CANARY, TENANT = os.environ["DRIVER_CANARY"], int(os.environ["DRIVER_TENANT"])
BASE = TENANT * 1000

# Every line is one session. MUST: works through the proxy as it does directly.
MUST = [
    r"\d", r"\d accounts", r"\d+ accounts", r"\d orders", r"\d+ orders", r"\d documents", r"\d events", r"\d+ events",
    r"\d events_2025", r"\d+ events_2026", r"\d products", r"\d account_names", r"\d+ account_names", r"\d accounts_pkey",
    r"\d+ accounts_note_idx", r"\d accounts_id_seq", r"\d ticket_seq", r"\d address", r"\d public.*", r"\d nothing", r"\d acc*",
    r"\d pgbench_accounts", r"\dt", r"\dt+", r"\dt public.*", r"\dt *.accounts", r"\dt acc*", r"\df", r"\df+", r"\df label", r"\df public.*",
    r"\df+ label", r"\df pg_catalog.lower", r"\dfn lab*", r"\df label text *", r"\l", r"\l+", r"\l shop", r"\dn", r"\dn+", r"\dn public", r"\di", r"\di+",
    r"\di accounts*", r"\dv", r"\dv+", r"\ds", r"\ds+", r"\dm", r"\dE", r"\dtvs", r"\dP", r"\dP+", r"\dPi", r"\dPt", r"\dT", r"\dT+", r"\dT order_status",
    r"\dT+ address", r"\dD", r"\dD+", r"\dx", r"\dp", r"\dp accounts", r"\z", r"\do public.*", r"\dO public.*", r"\dC order_status",
    r"\dd", r"\dL", r"\dy", r"\db", r"\da public.*", r"\dc public.*", r"\sv account_names",
    r"\encoding", r"\dF", r"\dS pg_class", r"\d pg_class", r"\dt pg_catalog.pg_cl*",
]
# MAY: about roles, servers, settings and replication, and the source of functions, which may hold data of any tenant; a
# proxy may refuse these.
MAY = [
    r"\sf label", r"\sf+ label",
    r"\du", r"\du+", r"\dg", r"\drds", r"\ddp", r"\des", r"\dew", r"\deu", r"\det", r"\dRp", r"\dRs", r"\dX", r"\dl", r"\dA", r"\dAc", r"\dAf btree",
    r"\dFd", r"\dFp", r"\dFt", r"\dx+", r"\dconfig work_mem", r"\db+", r"\dL+", r"\dC", r"\dfS+ pg_catalog.lower", r"\do+ pg_catalog.=", r"\dO",
]
SCRIPTS = {
    "select": "SELECT id, email, note, home FROM accounts ORDER BY id;",
    "expanded": "\\x\nSELECT * FROM orders ORDER BY id LIMIT 2;",
    "several": "SELECT count(*) FROM accounts\\; SELECT count(*) FROM orders\\; SELECT sum(quantity) FROM orders;",
    "gdesc": "SELECT id, balance AS b, tags[1] FROM accounts JOIN orders USING (id) \\gdesc",
    "gset": f"SELECT email, id FROM accounts WHERE id = {BASE + 3} \\gset got_\n\\echo :got_email :got_id\nSELECT id FROM accounts WHERE email = :'got_email';",
    "gexec": "SELECT 'SELECT count(*) FROM ' || quote_ident(t) FROM (VALUES ('accounts'), ('orders')) v(t) \\gexec",
    "crosstab": "SELECT status, quantity, count(*) FROM orders GROUP BY 1, 2 ORDER BY 1, 2 \\crosstabview",
    "fetch_count": "\\set FETCH_COUNT 7\nSELECT id, email FROM accounts ORDER BY id;",
    "rollback": "\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1/0;\nSELECT count(*) FROM accounts;\nCOMMIT;",
    "autocommit": "\\set AUTOCOMMIT off\nUPDATE accounts SET note = note WHERE id = 1;\nROLLBACK;\nSELECT count(*) FROM accounts;\nCOMMIT;",
    "single": f"BEGIN;\nUPDATE accounts SET balance = balance + 1 WHERE id = {BASE + 1};\nSELECT balance FROM accounts WHERE id = {BASE + 1};\nROLLBACK;\nSELECT balance FROM accounts WHERE id = {BASE + 1};",
    "copy_query": "\\copy (SELECT id, email, note FROM accounts ORDER BY id) TO STDOUT",
    "copy_csv": "\\copy (SELECT * FROM orders ORDER BY id LIMIT 5) TO STDOUT WITH (FORMAT csv, HEADER)",
    "copy_stdout": "COPY (SELECT id, title FROM documents ORDER BY id) TO STDOUT (FORMAT csv, DELIMITER ';');",
    "insert": f"INSERT INTO accounts (id, email, note) VALUES ({BASE + 500}, 'psql@{CANARY}', '{CANARY}') RETURNING id, tenant_id;\nUPDATE accounts SET note = '{CANARY} 2' WHERE id = {BASE + 500};\nDELETE FROM accounts WHERE id = {BASE + 500} RETURNING *;",
    "cursor": "BEGIN;\nDECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id;\nFETCH 3 FROM c;\nFETCH FORWARD 2 FROM c;\nMOVE 5 FROM c;\nFETCH NEXT FROM c;\nCLOSE c;\nCOMMIT;",
    "settings": "SET work_mem = '8MB';\nSHOW work_mem;\nRESET work_mem;\nSET TIME ZONE 'Europe/Vienna';\nSELECT created_at FROM accounts ORDER BY id LIMIT 1;\nSHOW search_path;\nSHOW server_version;\nSET search_path TO public;\nSELECT count(*) FROM accounts;\nSET application_name = 'x';\nSHOW application_name;\nSHOW transaction_isolation;",
    "isolation": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT count(*) FROM accounts;\nEND;\nSTART TRANSACTION;\nSAVEPOINT a;\nROLLBACK TO SAVEPOINT a;\nRELEASE a;\nABORT;",
    "whoami": "SELECT current_user, session_user, current_database(), current_schema(), current_schemas(true);",
    "joins": "SELECT a.email, o.status, count(*), sum(o.quantity) FROM accounts a LEFT JOIN orders o ON o.account_id = a.id GROUP BY a.email, o.status ORDER BY 1, 2;\nWITH big AS (SELECT * FROM accounts WHERE balance > 100) SELECT b.email, p.name FROM big b CROSS JOIN products p ORDER BY 1, 2;\nSELECT email FROM accounts a WHERE EXISTS (SELECT 1 FROM orders o WHERE o.account_id = a.id AND o.status = 'paid') ORDER BY 1;\nSELECT email, (SELECT count(*) FROM orders o WHERE o.account_id = a.id) FROM accounts a ORDER BY 1;\nSELECT id, rank() OVER (PARTITION BY status ORDER BY quantity, id) FROM orders ORDER BY id LIMIT 10;",
    "errors": "SELECT nope FROM accounts;\nSELECT * FROM no_such_table;\nSELEC 1;\nSELECT 1/0;\nINSERT INTO products VALUES (1, 'x', 2);\n\\errverbose",
    "prepare": f"PREPARE byid(bigint) AS SELECT email FROM accounts WHERE id = $1;\nEXECUTE byid({BASE + 2});\nDEALLOCATE byid;\nEXECUTE byid(1);",
    "explain": "EXPLAIN (COSTS OFF) SELECT 1;",
    "watch_free": "SELECT version() ~ '^PostgreSQL 15', pg_catalog.pg_backend_pid() > 0;",
}


def normal(text):
    """Sizes of relations and databases and the source of functions read NULL for tenants; other databases are not shown;
    the server's own position in its source is dropped."""
    text = text.replace("|SELECT a || b|", "||")
    text = re.sub(r"(?m)^(postgres|template[01])\|[^\n]*\n(postgres=CTc/postgres[^\n]*\n)?", "", text)
    if "|ICU Locale|" in text:
        text = re.sub(r"\(\d+ rows?\)", "(rows)", text)
    text = re.sub(r"\|-?\d+ (bytes|kB|MB|GB)(?=\||\n)", "|", text)
    text = re.sub(r"(?m)^LOCATION:.*\n?", "", text)
    return text


def session(script, *flags, label=None):
    env = dict(os.environ)
    if label and (label == "may be refused" or "DRIVER_LABELLED" in env):
        env["PGAPPNAME"] = "driver:" + label
    done = subprocess.run([PSQL, "-X", "-A", *flags], input=script + "\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, env=env)
    return normal(done.stdout)


def main():
    for command in MUST:
        print("==", command)
        print(session(command, label=command), end="")
    for name, script in SCRIPTS.items():
        print("== script", name)
        print(session(script, label="script " + name), end="")
    for script in MAY:
        session(script, label="may be refused")
    print("== -c, -l and -1")
    print(normal(subprocess.run([PSQL, "-X", "-A", "-l", "-d", "shop"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout))
    print(session("SELECT count(*) FROM accounts;", "-1", "-v", "ON_ERROR_STOP=1"))
    for args in (["-c", "SELECT 1; SELECT count(*) FROM accounts"], ["-c", "SELECT 1", "-c", r"\dt accounts"]):
        print(subprocess.run([PSQL, "-X", "-A", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
