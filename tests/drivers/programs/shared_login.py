"""One login for all tenants that chooses with SET bulkhead.tenant, SET LOCAL, set_config and the startup options.

Directly these are settings like any other; what only the proxy must refuse is asked on connections of their own.
"""

import os

import psycopg

CANARY, TENANT, PROXY = os.environ["DRIVER_CANARY"], os.environ["DRIVER_TENANT"], os.environ["DRIVER_MODE"] == "proxy"
NOTES = "SELECT note FROM accounts ORDER BY id LIMIT 3"


def show(title, rows):
    print("==", title, [tuple(r) for r in rows])


def chosen():
    with psycopg.connect(autocommit=True) as conn:
        conn.execute(f"SET bulkhead.tenant = '{TENANT}'")
        show("set", conn.execute(NOTES))
        conn.execute("UPDATE accounts SET balance = balance")
        show("inserted", conn.execute("INSERT INTO accounts (id, email) VALUES (%s, %s) RETURNING tenant_id", (int(TENANT) * 1000 + 300, f"login@{CANARY}")))
        conn.execute("DELETE FROM accounts WHERE email = %s", (f"login@{CANARY}",))
        conn.execute(f"SET bulkhead.tenant TO '{TENANT}'")
        show("set again", conn.execute(NOTES))
    with psycopg.connect(autocommit=True) as conn:
        with conn.transaction():
            conn.execute(f"SET LOCAL bulkhead.tenant = '{TENANT}'")
            show("local", conn.execute(NOTES))
    with psycopg.connect(autocommit=True) as conn:
        show("set_config", conn.execute("SELECT set_config('bulkhead.tenant', %s, %s)", (TENANT, False)))
        show("configured", conn.execute(NOTES))
    with psycopg.connect(autocommit=True) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT set_config('bulkhead.tenant', %s, true)", (TENANT,))
        show("in a transaction", conn.execute(NOTES))
        conn.execute("COMMIT")
    with psycopg.connect(autocommit=True, options=f"-c bulkhead.tenant={TENANT}") as conn:
        show("startup", conn.execute(NOTES))


def expect(code, conn, statement):
    try:
        rows = conn.execute(statement)
        rows = rows.fetchall() if rows.description else rows.statusmessage
    except psycopg.Error as e:
        if e.sqlstate != code:
            raise SystemExit(f"{statement}: {e.sqlstate} {e} instead of {code}")
        return
    raise SystemExit(f"{statement}: {rows} instead of {code}")


def refused():
    """Only the proxy can refuse these."""
    with psycopg.connect(autocommit=True, application_name="driver:may be refused") as conn:
        expect("42501", conn, NOTES)
        expect("28000", conn, "SET bulkhead.tenant = '4'")
        expect("42501", conn, NOTES)
        conn.execute(f"SET bulkhead.tenant = '{TENANT}'")
        conn.execute(NOTES)
        conn.execute("RESET ALL")
        expect("42501", conn, NOTES)
        conn.execute(f"SET bulkhead.tenant = '{TENANT}'")
        conn.execute("DISCARD ALL")
        expect("42501", conn, NOTES)
        conn.execute("BEGIN")
        conn.execute(f"SET LOCAL bulkhead.tenant = '{TENANT}'")
        conn.execute("COMMIT")
        expect("42501", conn, NOTES)
    try:
        psycopg.connect(options="-c bulkhead.tenant=4", application_name="driver:may be refused").close()
    except psycopg.OperationalError:
        return
    raise SystemExit("a tenant that the login may not have was accepted at startup")


if __name__ == "__main__":
    chosen()
    if PROXY:
        refused()
