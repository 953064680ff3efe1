"""psycopg 3: simple and prepared statements, pipelines, server-side cursors, COPY, transactions, types, cancel, asyncio."""

import asyncio
import os
import threading
import uuid
from datetime import date
from decimal import Decimal

import psycopg
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Jsonb
from psycopg.types.multirange import MultirangeInfo
from psycopg.types.range import Range, RangeInfo

CANARY, TENANT = os.environ["DRIVER_CANARY"], int(os.environ["DRIVER_TENANT"])
BASE = TENANT * 1000


def show(title, rows):
    print("==", title)
    for row in rows:
        print("  ", row)


def plain(conn):
    show("all accounts", conn.execute("SELECT id, email, balance, note, created_at FROM accounts ORDER BY id").fetchall())
    show("parameters", conn.execute("SELECT id FROM accounts WHERE email = %s OR id = ANY(%s) ORDER BY 1", (f"user3@{CANARY}.test", [BASE + 1, BASE + 2])))
    show("binary", conn.cursor(binary=True).execute("SELECT id, balance, note, tenant_id FROM accounts WHERE balance > %b ORDER BY id", (Decimal("50"),)))
    for n in range(12):
        # From the sixth on psycopg prepares it.
        show("prepared by count", conn.execute("SELECT email FROM accounts WHERE id = %s", (BASE + n,)))
    show("prepared", conn.execute("SELECT count(*) FROM orders WHERE status = %s", ("paid",), prepare=True))
    show("dict rows", conn.cursor(row_factory=dict_row).execute("SELECT * FROM documents ORDER BY id"))
    show("client cursor", psycopg.ClientCursor(conn).execute("SELECT id FROM accounts WHERE note LIKE %s ORDER BY id", (f"{CANARY} note 1%",)))
    show("several", psycopg.ClientCursor(conn).execute("SELECT 1; SELECT count(*) FROM accounts"))
    show("composed", conn.execute(sql.SQL("SELECT {} FROM {} ORDER BY 1 LIMIT 3").format(sql.Identifier("note"), sql.Identifier("public", "accounts"))))
    show("raw $1", psycopg.RawCursor(conn).execute("SELECT note FROM accounts WHERE id = $1", [BASE + 4]))
    show("stream", conn.cursor().stream("SELECT id FROM orders ORDER BY id"))
    conn.rollback()


def writes(conn):
    with conn.cursor() as cur:
        cur.executemany("INSERT INTO accounts (id, email, note) VALUES (%s, %s, %s)", [(BASE + 700 + i, f"pg{i}@{CANARY}", CANARY) for i in range(5)])
        print("inserted", cur.rowcount)
        cur.executemany("INSERT INTO accounts (id, email) VALUES (%s, %s) RETURNING id, tenant_id", [(BASE + 710 + i, f"ret{i}@{CANARY}") for i in range(3)], returning=True)
        while True:
            print("returning", cur.fetchone())
            if not cur.nextset():
                break
        cur.execute("INSERT INTO accounts (id, tenant_id, email) VALUES (%s, %s, %s) RETURNING tenant_id", (BASE + 720, TENANT, f"named@{CANARY}"))
        print("named", cur.fetchall())
        cur.execute("INSERT INTO accounts (email) VALUES (%s) RETURNING id > 0", (f"generated@{CANARY}",))
        print("generated", cur.fetchall())
        cur.execute("INSERT INTO accounts (id, email, note) VALUES (%s, %s, %s) ON CONFLICT (tenant_id, email) DO UPDATE SET note = EXCLUDED.note || ' again' RETURNING id, note",
                    (BASE + 799, f"pg0@{CANARY}", CANARY))
        print("upsert", cur.fetchall())
        cur.execute("INSERT INTO accounts (id, email) VALUES (%s, %s) ON CONFLICT DO NOTHING", (BASE + 700, f"pg0@{CANARY}"))
        print("do nothing", cur.rowcount)
        cur.execute("UPDATE accounts SET balance = balance + %s, home = %s::address WHERE id >= %s AND id < %s RETURNING id, balance", (Decimal("1.50"), "(a,b,c)", BASE + 700, BASE + 703))
        print("updated", cur.fetchall())
        cur.execute("INSERT INTO orders (id, account_id, status, tags, meta) VALUES (%s, %s, %s, %s, %s) RETURNING *", (BASE + 700, BASE + 700, "paid", [CANARY, "x"], Jsonb({"token": CANARY})))
        print("order", cur.fetchall())
        cur.execute("INSERT INTO documents (id, title, body, valid, nums) VALUES (%s, %s, %s, %s, %s) RETURNING *",
                    (uuid.UUID(int=TENANT), CANARY, b"\x00\xff\\'" + CANARY.encode(), Range(date(2026, 1, 1), date(2026, 2, 1)), [1, None, 3]))
        print("document", cur.fetchall())
        cur.execute("INSERT INTO orders (id, account_id) SELECT id + 10000, id FROM accounts WHERE id >= %s AND id < %s", (BASE + 700, BASE + 705))
        print("insert select", cur.rowcount)
        cur.execute("DELETE FROM orders USING accounts a WHERE a.id = orders.account_id AND a.id >= %s AND a.id < %s", (BASE + 700, BASE + 800))
        print("delete using", cur.rowcount)
        cur.execute("UPDATE orders SET meta = jsonb_set(meta, '{seen}', 'true') FROM accounts a WHERE a.id = orders.account_id AND a.id = %s RETURNING orders.id, meta", (BASE + 2,))
        print("update from", sorted(cur.fetchall()))
    conn.commit()
    with conn.transaction(force_rollback=True):
        print("delete all", conn.execute("DELETE FROM orders").rowcount, conn.execute("SELECT count(*) FROM orders").fetchone())
    print("after", conn.execute("SELECT count(*) FROM orders").fetchone())
    conn.execute("DELETE FROM documents WHERE title = %s", (CANARY,))
    print("cleaned", conn.execute("DELETE FROM accounts WHERE id >= %s AND id < %s OR email = %s", (BASE + 700, BASE + 800, f"generated@{CANARY}")).rowcount)
    conn.commit()


def transactions(conn):
    with conn.transaction():
        conn.execute("UPDATE accounts SET note = %s WHERE id = %s", (CANARY + " tx", BASE + 5))
        try:
            with conn.transaction():
                conn.execute("UPDATE accounts SET note = %s WHERE id = %s", (CANARY + " lost", BASE + 5))
                raise ValueError
        except ValueError:
            pass
        show("savepoint", conn.execute("SELECT note FROM accounts WHERE id = %s", (BASE + 5,)))
    try:
        with conn.transaction():
            conn.execute("SELECT 1/0")
    except psycopg.Error as e:
        print("error", e.sqlstate, str(e).splitlines()[0])
    for bad in ("SELECT nope FROM accounts", "SELECT * FROM nothing", "SELEC", f"INSERT INTO accounts (id, email) VALUES ({BASE + 1}, 'again@{CANARY}')",
                f"INSERT INTO accounts (id, email) VALUES ({BASE + 801}, 'user1@{CANARY}.test')", f"INSERT INTO orders (account_id, quantity) VALUES ({BASE + 1}, 5000)", "INSERT INTO products VALUES (1, 'a', 1)", "SELECT * FROM accounts WHERE id = 'x'"):
        try:
            conn.execute(bad)
        except psycopg.Error as e:
            print("error", e.sqlstate, e.diag.message_primary)
        conn.rollback()
    for level in (psycopg.IsolationLevel.SERIALIZABLE, psycopg.IsolationLevel.REPEATABLE_READ, None):
        conn.isolation_level = level
        show(f"isolation {level}", conn.execute("SHOW transaction_isolation"))
        conn.rollback()
    conn.read_only = True
    try:
        conn.execute("UPDATE accounts SET note = note")
    except psycopg.Error as e:
        print("read only", e.sqlstate)
    conn.rollback()
    conn.read_only = None
    conn.autocommit = True
    print("autocommit", conn.execute("UPDATE accounts SET note = %s WHERE id = %s", (f"{CANARY} note 5", BASE + 5)).rowcount, conn.info.transaction_status.name)
    conn.autocommit = False
    show("for update", conn.execute("SELECT id FROM accounts WHERE id = %s FOR UPDATE", (BASE + 1,)))
    conn.rollback()


def pipelines(conn):
    with conn.pipeline() as p:
        cursors = [conn.execute("SELECT note FROM accounts WHERE id = %s", (BASE + i,)) for i in range(1, 8)]
        p.sync()
        cursors.append(conn.execute("SELECT count(*) FROM orders"))
    for c in cursors:
        show("pipelined", c)
    conn.commit()
    try:
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.execute("SELECT 1/0")
            conn.execute("SELECT 2")
    except psycopg.Error as e:
        print("pipeline error", e.sqlstate)
    conn.rollback()
    with conn.pipeline(), conn.transaction():
        conn.execute("UPDATE accounts SET balance = balance WHERE id = %s", (BASE + 1,))
        conn.execute("SELECT 1")
    with conn.pipeline(), conn.cursor() as cur:
        cur.executemany("UPDATE accounts SET balance = balance WHERE id = %s", [(BASE + i,) for i in range(1, 10)])
    conn.commit()


def cursors(conn):
    with conn.cursor(name="serverside") as cur:
        cur.execute("SELECT id, note FROM accounts WHERE id > %s ORDER BY id", (BASE,))
        show("named", cur.fetchmany(3))
        show("named rest", cur.fetchall())
    with conn.cursor(name="scrolling", scrollable=True) as cur:
        cur.itersize = 5
        cur.execute("SELECT id FROM orders ORDER BY id")
        show("scroll one", [cur.fetchone()])
        cur.scroll(10)
        show("scrolled", cur.fetchmany(2))
        cur.scroll(0, mode="absolute")
        show("absolute", [cur.fetchone()])
        show("iterated", list(cur)[:3])
    conn.commit()
    with conn.cursor(name="held", withhold=True) as cur:
        cur.execute("SELECT id FROM accounts ORDER BY id")
        conn.commit()
        show("with hold", cur.fetchmany(2))
    conn.commit()


def copies(conn):
    with conn.cursor().copy("COPY (SELECT id, email, note FROM accounts ORDER BY id) TO STDOUT") as copy:
        show("copy rows", copy.rows())
    with conn.cursor().copy("COPY (SELECT id, title FROM documents ORDER BY id) TO STDOUT (FORMAT BINARY)") as copy:
        copy.set_types(["uuid", "varchar"])
        show("copy binary", copy.rows())
    with conn.cursor().copy("COPY (SELECT * FROM orders WHERE status = %s ORDER BY id) TO STDOUT (FORMAT csv, HEADER true)", ("paid",)) as copy:
        print("copy csv", b"".join(copy).decode())
    conn.rollback()
    with conn.cursor() as cur:
        with cur.copy("COPY accounts (id, email, note) FROM STDIN") as copy:
            for i in range(50):
                copy.write_row((BASE + 740 + i, f"copy{i}@{CANARY}", None if i % 7 == 0 else f"{CANARY}\t\\{i}\n"))
        print("copied in", cur.rowcount, cur.statusmessage)
        with cur.copy("COPY accounts (email, tenant_id, id) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text", "int4", "int8"])
            copy.write_row((f"binary@{CANARY}", TENANT, BASE + 795))
        with cur.copy("COPY accounts (id, email, note) FROM STDIN WITH (FORMAT csv, HEADER true)") as copy:
            copy.write(f'id,email,note\n{BASE + 796},csv@{CANARY},"{CANARY}, ""x""\n"\n')
        show("copied", cur.execute("SELECT id, tenant_id, email, note FROM accounts WHERE id >= %s AND id < %s ORDER BY id", (BASE + 740, BASE + 800)))
    conn.rollback()
    try:
        with conn.cursor().copy("COPY accounts (id, email) FROM STDIN") as copy:
            copy.write(f"{BASE + 740}\tgood@{CANARY}\nx\tbad@{CANARY}\n")
    except psycopg.Error as e:
        print("copy error", e.sqlstate, e.diag.message_primary, e.diag.context)
    conn.rollback()


def types(conn):
    for name in ("order_status", "address", "positive_int", "public.accounts", "text", "no_such_type"):
        print("type", name, bool(TypeInfo.fetch(conn, name)))
    info = EnumInfo.fetch(conn, "order_status")
    register_enum(info, conn)
    print("enum", info.labels)
    info = CompositeInfo.fetch(conn, "address")
    register_composite(info, conn)
    print("composite", info.field_names)
    print("row type", CompositeInfo.fetch(conn, "accounts").field_names)
    print("range", RangeInfo.fetch(conn, "daterange").subtype_oid, MultirangeInfo.fetch(conn, "datemultirange").range_oid)
    show("registered", conn.execute("SELECT status, home FROM orders JOIN accounts a ON a.id = account_id ORDER BY orders.id LIMIT 3"))

    class Named:
        def __init__(self, id, note):
            self.id, self.note = id, note

        def __repr__(self):
            return f"Named({self.id}, {self.note})"

    show("class rows", conn.cursor(row_factory=class_row(Named)).execute("SELECT id, note FROM accounts ORDER BY id LIMIT 2"))
    print("info", conn.info.server_version // 10000, conn.info.encoding, conn.info.parameter_status("standard_conforming_strings"), conn.info.parameter_status("integer_datetimes"))
    conn.rollback()


def cancel(conn):
    """The statement is sent, and only then cancelled: a second thread waits until its connection is busy."""
    timer = threading.Timer(0.3, conn.cancel_safe)
    timer.start()
    try:
        conn.execute("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f")
    except psycopg.errors.QueryCanceled as e:
        print("cancelled", e.sqlstate)
    timer.join()
    conn.rollback()
    show("after cancel", conn.execute("SELECT count(*) FROM accounts"))
    conn.rollback()


async def asynchronous():
    async with await psycopg.AsyncConnection.connect() as conn:
        async with conn.transaction():
            cur = await conn.execute("SELECT id, note FROM accounts ORDER BY id LIMIT 4")
            show("async", await cur.fetchall())
    many = await asyncio.gather(*(psycopg.AsyncConnection.connect(autocommit=True) for _ in range(6)))
    for _ in range(5):
        await asyncio.gather(*(c.execute("SELECT count(*) FROM accounts WHERE note LIKE %s", (CANARY + "%",)) for c in many))
    for c in many:
        await c.close()


def main():
    with psycopg.connect() as conn:
        for part in (plain, writes, transactions, pipelines, cursors, copies, types, cancel):
            print("=====", part.__name__)
            part(conn)
    asyncio.run(asynchronous())


if __name__ == "__main__":
    main()
