"""Where the application has its holes; apart from app.py, so that who only wants the list needs no driver of PostgreSQL."""

OWN = "FROM customers WHERE tenant_id = 1"

# Place -> (parameter, a value that an honest client sends, statement).
PLACES = {
    "number": ("id", "3", f"SELECT id, name, email {OWN} AND id = {{}}"),
    "quoted": ("name", "customer 3", f"SELECT id, name, email {OWN} AND name = '{{}}'"),
    "like": ("q", "customer", f"SELECT id, name, email {OWN} AND name LIKE '%{{}}%' ORDER BY id"),
    "order": ("by", "id", f"SELECT id, name, email {OWN} ORDER BY {{}}"),
    "limit": ("n", "5", f"SELECT id, name, email {OWN} ORDER BY id LIMIT {{}}"),
    "insert": ("text", "fine shop", "INSERT INTO reviews (tenant_id, body) VALUES (1, '{}') RETURNING body"),
    "update": ("note", "call back", "UPDATE customers SET note = '{}' WHERE tenant_id = 1 AND id = 3 RETURNING id, note"),
    "column": ("show", "name", f"SELECT id, {{}} {OWN} ORDER BY id"),
    "json": ("name", "customer 3", f"SELECT id, name, email {OWN} AND name = '{{}}'"),
}

MODES = ("shown", "hidden")
