"""SQLAlchemy 2 on psycopg 3 and asyncpg: create_all as the migrator, then ORM, reflection, relationships, bulk insert, upsert."""

import asyncio
import os
import sys
from datetime import date, datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import DateTime, FetchedValue, ForeignKey, Numeric, String, Table, func, inspect, select, text
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB, UUID, insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, joinedload, mapped_column, relationship, selectinload, subqueryload

CANARY, TENANT = os.environ["DRIVER_CANARY"], int(os.environ["DRIVER_TENANT"])
BASE = TENANT * 1000
DEFAULT = text("current_setting('solo.tenant', true)::int")


class Base(DeclarativeBase):
    pass


class Customer(Base):
    """Does not name tenant_id when it inserts: the server (directly) or the proxy fills it."""

    __tablename__ = "sa_customer"
    __table_args__ = (sa.UniqueConstraint("tenant_id", "email"), sa.Index("sa_customer_name", "name"))
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(server_default=DEFAULT)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str]
    since: Mapped[datetime | None] = mapped_column(DateTime(timezone=True), server_default=func.now())
    profile: Mapped[dict | None] = mapped_column(JSONB)
    invoices: Mapped[list["Invoice"]] = relationship(back_populates="customer", cascade="all, delete-orphan", order_by="Invoice.number")


tags = Table("sa_invoice_tag", Base.metadata, sa.Column("invoice_id", ForeignKey("sa_invoice.id", ondelete="CASCADE"), primary_key=True),
             sa.Column("tag_id", ForeignKey("sa_tag.id"), primary_key=True), sa.Column("tenant_id", sa.Integer, server_default=DEFAULT, nullable=False))


class Invoice(Base):
    """Names tenant_id: a default in Python."""

    __tablename__ = "sa_invoice"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(default=TENANT)
    customer_id: Mapped[int] = mapped_column(ForeignKey("sa_customer.id"), index=True)
    number: Mapped[str]
    total: Mapped[Decimal] = mapped_column(Numeric(12, 2), default=Decimal(0))
    due: Mapped[date | None]
    state: Mapped[str] = mapped_column(ENUM("open", "paid", name="sa_state"), default="open")
    lines: Mapped[list[str]] = mapped_column(ARRAY(sa.Text), default=list)
    customer: Mapped[Customer] = relationship(back_populates="invoices")
    tags: Mapped[list["Tag"]] = relationship(secondary=tags, order_by="Tag.label")


class Tag(Base):
    __tablename__ = "sa_tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int] = mapped_column(server_default=FetchedValue(), nullable=False)
    label: Mapped[str]


def url(driver):
    e = os.environ
    return sa.URL.create("postgresql+" + driver, e["PGUSER"], e["PGPASSWORD"], e["PGHOST"], int(e["PGPORT"]), e["PGDATABASE"])


def setup():
    engine = sa.create_engine(url("psycopg"))
    Tag.__table__.c.tenant_id.server_default = sa.DefaultClause(DEFAULT)
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)  # the second time it only looks
    print(sorted(inspect(engine).get_table_names()))
    engine.dispose()


def reflection(engine):
    look = inspect(engine)
    print("schemas", look.get_schema_names(), look.default_schema_name)
    print("tables", sorted(look.get_table_names()), look.get_view_names(), sorted(look.get_sequence_names()), look.get_materialized_view_names())
    for table in ("accounts", "orders", "documents", "events", "sa_invoice", "sa_invoice_tag"):
        print("columns", table, [(c["name"], str(c["type"]), c["nullable"], c["default"], c.get("comment")) for c in look.get_columns(table)])
        print("  keys", look.get_pk_constraint(table), look.get_foreign_keys(table), look.get_unique_constraints(table))
        print("  more", look.get_indexes(table), look.get_check_constraints(table), look.get_table_comment(table))
    print("enums", sorted(look.get_enums(), key=str), look.get_domains())
    print("has", look.has_table("accounts"), look.has_table("nothing"), look.has_sequence("ticket_seq"), look.has_index("orders", "orders_account_idx"))
    print("view", look.get_view_definition("account_names"))
    print("options", look.get_table_options("accounts"), look.get_multi_columns().keys() == look.get_multi_pk_constraint().keys())
    metadata = sa.MetaData()
    metadata.reflect(engine, only=["accounts", "orders", "documents"])
    with engine.connect() as conn:
        orders, accounts = metadata.tables["orders"], metadata.tables["accounts"]
        for row in conn.execute(select(accounts.c.email, func.count()).join(orders, orders.c.account_id == accounts.c.id).group_by(accounts.c.email).order_by(accounts.c.email)):
            print("  ", row)
        print("documents", conn.execute(select(metadata.tables["documents"]).order_by("id")).all())


def orm(engine):
    with Session(engine) as session:
        labels = [Tag(label=f"{CANARY} {n}") for n in "abc"]
        for n in range(4):
            session.add(Customer(name=f"{CANARY} {n}", email=f"c{n}@{CANARY}", profile={"token": CANARY, "n": n},
                                 invoices=[Invoice(number=f"{n}-{i}", total=Decimal(i), due=date(2026, 1, 1 + i), lines=[CANARY], tags=labels[: i % 3]) for i in range(5)]))
        session.flush()
        session.commit()
    with Session(engine) as session:
        for load in (joinedload, selectinload, subqueryload):
            found = session.scalars(select(Customer).options(load(Customer.invoices).selectinload(Invoice.tags)).order_by(Customer.name)).unique().all()
            print(load.__name__, [(c.name, c.tenant_id, [(i.number, i.total, i.state, [t.label for t in i.tags]) for i in c.invoices]) for c in found])
            session.expunge_all()
        first = session.scalars(select(Customer).order_by(Customer.name).limit(1)).one()
        print("lazy", [i.number for i in first.invoices], session.get(Customer, first.id) is first)
        first.name = f"{CANARY} renamed"
        first.profile = {"token": CANARY, "new": True}
        first.invoices[0].state = "paid"
        first.invoices.pop()
        session.commit()
        session.refresh(first)
        print("renamed", first.name, first.profile, len(first.invoices))
        big = select(Invoice.customer_id, func.sum(Invoice.total).label("s")).group_by(Invoice.customer_id).having(func.sum(Invoice.total) > 5).subquery()
        print("subquery", session.execute(select(Customer.name, big.c.s).join(big, big.c.customer_id == Customer.id).order_by(Customer.name)).all())
        other = aliased(Customer)
        print("exists", session.scalars(select(Customer.name).where(Customer.invoices.any(Invoice.state == "paid")).order_by(Customer.name)).all())
        print("self join", session.execute(select(Customer.name, other.name).join(other, other.name > Customer.name).order_by(Customer.name, other.name)).all())
        print("window", session.execute(select(Invoice.number, func.row_number().over(partition_by=Invoice.customer_id, order_by=Invoice.number)).order_by(Invoice.number)).all())
        print("cte", session.execute(select(sa.select(Invoice.total).where(Invoice.total > 2).cte("big").c.total).order_by("total")).all())
        print("union", session.execute(sa.union_all(select(Customer.name), select(Tag.label)).order_by("name")).all())
        print("json", session.scalars(select(Customer.profile["token"].astext).order_by(Customer.name)).all(), session.scalar(select(func.count()).where(Customer.profile.contains({"n": 2}))))
        print("case", session.execute(select(sa.case((Invoice.total > 2, "big"), else_="small"), func.count()).group_by(sa.text("1")).order_by(sa.text("1"))).all())
        print("in", session.scalars(select(Customer.name).where(Customer.email.in_([f"c1@{CANARY}", f"c2@{CANARY}"])).order_by(Customer.name).offset(1)).all())
        print("like", session.scalar(select(func.count(Customer.id)).where(Customer.email.ilike("C%"))))
        print("locked", session.scalars(select(Customer.name).order_by(Customer.name).limit(1).with_for_update(skip_locked=True)).all())
        print("bulk update", session.execute(sa.update(Invoice).where(Invoice.total > 3).values(total=Invoice.total * 2)).rowcount)
        print("returning", session.execute(sa.update(Invoice).where(Invoice.number == "1-4").values(state="paid").returning(Invoice.number, Invoice.total)).all())
        with session.begin_nested():
            session.execute(sa.delete(Invoice).where(Invoice.number == "1-3"))
        try:
            with session.begin_nested():
                session.add(Customer(name="twice", email=f"c1@{CANARY}"))
                session.flush()
        except sa.exc.IntegrityError as e:
            print("integrity", e.orig.sqlstate)
        session.commit()
        print("streamed", [r.number for r in session.execute(select(Invoice.number).order_by(Invoice.number).execution_options(stream_results=True, yield_per=4))])
        session.delete(first)
        session.commit()
        print("left", session.scalar(select(func.count()).select_from(Customer)), session.scalar(select(func.count()).select_from(Invoice)))


def core(engine):
    with engine.begin() as conn:
        rows = conn.execute(sa.insert(Customer).returning(Customer.name, Customer.tenant_id, sort_by_parameter_order=True), [{"name": f"{CANARY} bulk {n}", "email": f"bulk{n}@{CANARY}"} for n in range(300)]).all()
        print("insertmanyvalues", len(rows), rows[0], rows[-1], {r.tenant_id for r in rows})
        upsert = insert(Customer).values([{"name": f"{CANARY} upsert", "email": f"bulk{n}@{CANARY}"} for n in range(2)])
        print("upsert", conn.execute(upsert.on_conflict_do_update(index_elements=["tenant_id", "email"], set_={"name": upsert.excluded.name}).returning(Customer.name)).all())
        print("do nothing", conn.execute(insert(Customer).values(name="x", email=f"bulk1@{CANARY}").on_conflict_do_nothing()).rowcount)
        print("executemany", conn.execute(sa.insert(Tag), [{"label": f"{CANARY} many {n}"} for n in range(5)]).rowcount)
        print("from select", conn.execute(sa.insert(Tag).from_select(["label"], select(Customer.name).where(Customer.email == f"bulk5@{CANARY}"))).rowcount)
        print("text", conn.execute(text("SELECT email, balance FROM accounts WHERE id = :id"), {"id": BASE + 1}).all())
        print("delete", conn.execute(sa.delete(Customer).where(Customer.email.like("bulk%"))).rowcount)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        print("autocommit", conn.scalar(select(func.count()).select_from(Tag)))
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        print("serializable", conn.scalar(text("SHOW transaction_isolation")))


async def asynchronous():
    options = {"ssl": False}
    engine = create_async_engine(url("asyncpg"), pool_size=3, connect_args=options, pool_pre_ping=True)

    async def one(n):
        async with AsyncSession(engine) as session:
            return (await session.scalars(select(Customer.name).order_by(Customer.name).offset(n).limit(1))).all()

    print("async", await asyncio.gather(*(one(n) for n in range(12))))
    async with AsyncSession(engine) as session:
        session.add_all([Customer(name=f"{CANARY} async {n}", email=f"async{n}@{CANARY}", invoices=[Invoice(number=f"a{n}", total=1)]) for n in range(3)])
        await session.commit()
        print("joined", [(c.name, len(c.invoices)) for c in (await session.scalars(select(Customer).where(Customer.email.like("async%")).options(selectinload(Customer.invoices)).order_by(Customer.name))).all()])
    async with engine.connect() as conn:
        print("reflected", await conn.run_sync(lambda c: sorted(inspect(c).get_table_names())))
    await engine.dispose()


def main():
    engine = sa.create_engine(url("psycopg"), pool_size=3, pool_pre_ping=True, pool_reset_on_return="rollback")
    for part in (reflection, orm, core):
        print("=====", part.__name__)
        part(engine)
    asyncio.run(asynchronous())
    with engine.begin() as conn:
        print("cleaned", [conn.execute(sa.delete(table)).rowcount for table in reversed(Base.metadata.sorted_tables)])
    engine.dispose()


if __name__ == "__main__":
    setup() if sys.argv[1] == "setup" else main()
