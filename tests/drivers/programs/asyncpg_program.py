"""asyncpg: prepared statements, its introspection of types, cursors, executemany, transactions, the pool and its reset."""

import asyncio
import datetime
import decimal
import io
import os
import uuid

import asyncpg

CANARY, TENANT = os.environ["DRIVER_CANARY"], int(os.environ["DRIVER_TENANT"])
BASE = TENANT * 1000


def show(title, rows):
    print("==", title)
    for row in rows:
        print("  ", tuple(row) if isinstance(row, asyncpg.Record) else row)


async def queries(conn):
    show("fetch", await conn.fetch("SELECT id, email, balance, note, created_at FROM accounts ORDER BY id"))
    show("everything", await conn.fetch("SELECT * FROM orders ORDER BY id LIMIT 5"))
    # address and order_status are unknown to asyncpg: it asks the catalog for them.
    show("introspected", await conn.fetch("SELECT home, status FROM accounts a JOIN orders o ON o.account_id = a.id WHERE o.status = $1 ORDER BY o.id LIMIT 3", "paid"))
    show("documents", await conn.fetch("SELECT * FROM documents WHERE id = ANY($1::uuid[]) OR flag ORDER BY id", [uuid.UUID(int=1)]))
    print("row", tuple(await conn.fetchrow("SELECT note, $2::text FROM accounts WHERE id = $1", BASE + 1, "x")))
    print("value", await conn.fetchval("SELECT count(*) FROM orders WHERE placed_on > $1", datetime.date(2026, 1, 15)))
    statement = await conn.prepare("SELECT id, note FROM accounts WHERE balance > $1 ORDER BY id")
    print("prepared", [(a.name, a.type.name) for a in statement.get_attributes()], [p.name for p in statement.get_parameters()], statement.get_statusmsg())
    show("prepared", await statement.fetch(decimal.Decimal(100)))
    show("limit", await statement.fetch(decimal.Decimal(100)))
    print("script", await conn.execute("SELECT 1; SELECT count(*) FROM accounts;"))
    print("settings", conn.get_settings().server_encoding, conn.get_server_version().major)
    print("type", (await conn.fetchrow("SELECT $1::order_status", "new"))[0])
    for bad in ("SELECT 1/0", "SELECT nope FROM accounts", "SELECT * FROM nothing", "SELEC"):
        try:
            await conn.fetch(bad)
        except asyncpg.PostgresError as e:
            print("error", e.sqlstate, e.args[0])


async def writes(conn):
    await conn.executemany("INSERT INTO accounts (id, email, note) VALUES ($1, $2, $3)", [(BASE + 600 + i, f"async{i}@{CANARY}", CANARY) for i in range(20)])
    show("inserted", await conn.fetch("SELECT id, tenant_id, email FROM accounts WHERE id >= $1 AND id < $2 ORDER BY id", BASE + 600, BASE + 700))
    show("insert many returning", await conn.fetchmany("INSERT INTO accounts (id, email) VALUES ($1, $2) RETURNING id, tenant_id", [(BASE + 640 + i, f"many{i}@{CANARY}") for i in range(3)]))
    print("named", await conn.fetchrow("INSERT INTO accounts (id, tenant_id, email) VALUES ($1, $2, $3) RETURNING tenant_id", BASE + 650, TENANT, f"named@{CANARY}"))
    print("update", await conn.execute("UPDATE accounts SET balance = balance * $1 WHERE id >= $2 AND id < $3", decimal.Decimal("1.5"), BASE + 600, BASE + 610))
    print("upsert", await conn.fetchval("INSERT INTO accounts (id, email) VALUES ($1, $2) ON CONFLICT (tenant_id, email) DO UPDATE SET balance = accounts.balance + 1 RETURNING id", BASE + 699, f"async1@{CANARY}"))
    print("nothing", await conn.execute("INSERT INTO accounts (id, email) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", BASE + 600, f"other@{CANARY}"))
    print("order", await conn.fetchrow("INSERT INTO orders (id, account_id, status, tags, meta) VALUES ($1, $2, $3, $4, $5) RETURNING *", BASE + 600, BASE + 600, "new", [CANARY], '{"a": 1}'))
    transaction = conn.transaction()
    await transaction.start()
    print("delete", await conn.execute("DELETE FROM orders"))
    await transaction.rollback()
    async with conn.transaction():
        try:
            async with conn.transaction():
                await conn.execute("DELETE FROM orders WHERE id = $1", BASE + 600)
                raise KeyError
        except KeyError:
            pass
        print("kept", await conn.fetchval("SELECT count(*) FROM orders WHERE id = $1", BASE + 600))
    async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
        print("serializable", await conn.fetchval("SHOW transaction_isolation"))
    print("clean", await conn.execute("DELETE FROM accounts WHERE id >= $1 AND id < $2", BASE + 600, BASE + 700))


async def cursors(conn):
    async with conn.transaction():
        rows = [tuple(r) async for r in conn.cursor("SELECT id FROM orders WHERE id > $1 ORDER BY id", BASE, prefetch=7)]
        show("iterated", rows)
        cursor = await conn.cursor("SELECT id, note FROM accounts ORDER BY id")
        show("fetched", await cursor.fetch(3))
        print("skipped", await cursor.forward(4))
        show("after", await cursor.fetch(2))


async def copy(conn):
    received = bytearray()

    async def sink(data):
        received.extend(data)

    records = [(BASE + 660 + i, f"record{i}@{CANARY}", None if i % 3 else CANARY) for i in range(20)]
    print("records", await conn.copy_records_to_table("accounts", records=records, columns=["id", "email", "note"]))
    csv = io.BytesIO(f"{BASE + 680};csv@{CANARY};'a;''b'\n".encode())
    print("to table", await conn.copy_to_table("accounts", source=csv, columns=["id", "email", "note"], format="csv", delimiter=";", quote="'"))
    show("copied", await conn.fetch("SELECT id, tenant_id, email, note FROM accounts WHERE id >= $1 AND id < $2 ORDER BY id", BASE + 660, BASE + 700))
    print("clean", await conn.execute("DELETE FROM accounts WHERE id >= $1 AND id < $2", BASE + 660, BASE + 700))
    print("copy", await conn.copy_from_query("SELECT id, email, note FROM accounts WHERE id > $1 ORDER BY id", BASE, output=sink, format="csv", header=True))
    print(received.decode())


async def pool(options):
    async with asyncpg.create_pool(min_size=2, max_size=5, **options) as connections:
        async def work(i):
            async with connections.acquire() as conn:
                async with conn.transaction():
                    await conn.execute("SET LOCAL work_mem = '8MB'")
                    return await conn.fetchval("SELECT note FROM accounts WHERE id = $1", BASE + 1 + i % 20)

        show("pool", await asyncio.gather(*(work(i) for i in range(60))))
        print("pool value", await connections.fetchval("SELECT count(*) FROM accounts"))
        async with connections.acquire() as conn:
            await conn.execute("SET work_mem = '16MB'")
        async with connections.acquire() as conn:
            print("reset", await conn.fetchval("SHOW work_mem"))
            await conn.reset()
            try:
                await conn.fetch("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f", timeout=0.5)
            except asyncio.TimeoutError:
                print("timed out")
            print("after", await conn.fetchval("SELECT count(*) FROM accounts"))


async def main():
    options = {"ssl": False}
    if os.environ.get("PGOPTIONS"):
        options["server_settings"] = {"options": os.environ["PGOPTIONS"]}
    conn = await asyncpg.connect(**options)
    for part in (queries, writes, cursors, copy):
        print("=====", part.__name__)
        await part(conn)
    await conn.set_type_codec("jsonb", encoder=lambda v: v, decoder=lambda v: "decoded " + v, schema="pg_catalog")
    show("codec", await conn.fetch("SELECT meta FROM orders ORDER BY id LIMIT 2"))
    await conn.reload_schema_state()
    show("reloaded", await conn.fetch("SELECT home FROM accounts ORDER BY id LIMIT 1"))
    await conn.close()
    await pool(options)


if __name__ == "__main__":
    asyncio.run(main())
