"""The list of programs, and the policies for the tables that they use."""

import os
from dataclasses import dataclass

import install

HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True)
class Program:
    name: str
    needs: str  # of install.py
    argv: tuple
    setup: bool = False  # has a phase that runs as the migrator, before the tenants
    # own: a user for each tenant; web: one login for all, which names its tenant at startup; choose: the same, which
    # chooses by itself
    login: str = "own"

    def command(self, phase):
        place = {"PYTHON": install.PYTHON, "CACHE": install.CACHE, "HERE": HERE, "JAR": install.JAR,
                 "DEBUG": os.path.join(os.path.dirname(install.CACHE), "debug")}
        return [a.format(**place) for a in self.argv] + ([phase] if self.setup else [])


def python(name, **kw):
    return Program(name, "python", ("{PYTHON}", "{HERE}/" + kw.pop("file", name) + ".py"), **kw)


PROGRAMS = [
    python("psql", file="psql_commands"),
    python("psql-tab", file="psql_tab"),
    python("pgbench", file="pgbench"),
    python("psycopg", file="psycopg3"),
    python("psycopg-web", file="psycopg3", login="web"),
    python("shared-login", file="shared_login", login="choose"),
    python("asyncpg", file="asyncpg_program"),
    python("sqlalchemy", file="sqlalchemy_program", setup=True),
    python("django", file="django_program", setup=True),
    Program("node-postgres", "node", ("node", "{HERE}/node_postgres.js")),
    Program("jdbc", "java", ("java", "-XX:TieredStopAtLevel=1", "-cp", "{JAR}:{CACHE}/java", "Jdbc")),
    Program("tokio-postgres", "rust", ("{DEBUG}/examples/driver_tokio",)),
]

# name: (tenant tables, shared tables, denied tables)
TABLES = {
    "base": (
        "accounts orders documents events events_2025 events_2026 pgbench_accounts pgbench_branches pgbench_tellers pgbench_history",
        "products",
        "secrets",
    ),
    "sqlalchemy": ("sa_customer sa_invoice sa_tag sa_invoice_tag", "", ""),
    "django": ("blog_author blog_post blog_post_tags blog_tag blog_comment", "django_content_type", "django_migrations"),
}


def policy_of(name):
    """A policy file for the tables of a program."""
    text = ""
    for scope, tables in zip(("tenant", "shared", "denied"), TABLES[name]):
        for table in tables.split():
            text += f'[[table]]\nname = "public.{table}"\nscope = "{scope}"\n'
            text += 'tenant_column = "tenant_id"\n\n' if scope == "tenant" else "\n"
    return text
