-- The demo shop: three tenants share every table. Keys carry the tenant, so that two tenants may use the same id and
-- no unique key reaches across tenants (README, "What rewriting cannot close").
CREATE TABLE tenants (id text PRIMARY KEY, name text NOT NULL, plan text NOT NULL, monthly_fee numeric(8,2) NOT NULL);
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric(8,2) NOT NULL);
CREATE TABLE customers (
  tenant_id text NOT NULL REFERENCES tenants, id int NOT NULL, name text NOT NULL, email text NOT NULL, city text NOT NULL,
  PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, email));
CREATE TABLE orders (
  tenant_id text NOT NULL, id int NOT NULL, customer_id int NOT NULL, placed_on date NOT NULL,
  status text NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'paid', 'shipped', 'delivered')),
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, customer_id) REFERENCES customers);
CREATE TABLE order_items (
  tenant_id text NOT NULL, order_id int NOT NULL, line int NOT NULL, product_id int NOT NULL REFERENCES products,
  quantity int NOT NULL CHECK (quantity > 0), price numeric(8,2) NOT NULL,
  PRIMARY KEY (tenant_id, order_id, line), FOREIGN KEY (tenant_id, order_id) REFERENCES orders ON DELETE CASCADE);
CREATE INDEX ON orders (tenant_id, customer_id);

INSERT INTO tenants VALUES
  ('acme', 'Acme Hardware', 'pro', 99), ('globex', 'Globex Corporation', 'enterprise', 499), ('initech', 'Initech', 'starter', 19);
INSERT INTO products VALUES
  (1, 'Cordless drill', 129.00), (2, 'Hammer', 18.50), (3, 'Box of screws', 6.90), (4, 'Work lamp', 39.00),
  (5, 'Step ladder', 84.00), (6, 'Safety goggles', 12.40), (7, 'Tape measure', 9.80), (8, 'Red stapler', 21.00);
INSERT INTO customers VALUES
  ('acme', 101, 'Maria Santos', 'maria.santos@example.com', 'Lisbon'),
  ('acme', 102, 'Jonas Weber', 'jonas.weber@example.com', 'Hamburg'),
  ('acme', 103, 'Aisha Khan', 'aisha.khan@example.com', 'Leeds'),
  ('acme', 104, 'Tom O''Brien', 'tom.obrien@example.com', 'Cork'),
  ('globex', 201, 'Hank Scorpio', 'hank@globex.example', 'Cypress Creek'),
  ('globex', 202, 'Elena Petrova', 'elena.petrova@globex.example', 'Sofia'),
  ('globex', 203, 'Kenji Mori', 'kenji.mori@globex.example', 'Osaka'),
  ('initech', 301, 'Bill Lumbergh', 'bill.lumbergh@initech.example', 'Austin'),
  ('initech', 302, 'Milton Waddams', 'milton.waddams@initech.example', 'Austin');
-- Two to four orders for each customer, one to three lines each; the same data every time.
INSERT INTO orders
  SELECT c.tenant_id, c.id * 10 + n, c.id, date '2026-01-05' + (c.id * 7 + n * 19) % 120,
         (ARRAY['delivered', 'delivered', 'shipped', 'paid', 'new'])[1 + (c.id + n * 2) % 5]
  FROM customers c, generate_series(1, 4) n WHERE n <= 2 + c.id % 3;
INSERT INTO order_items
  SELECT o.tenant_id, o.id, n, p.id, 1 + (o.id + n) % 4, p.price
  FROM orders o, generate_series(1, 3) n, products p WHERE n <= 1 + o.id % 3 AND p.id = 1 + (o.id * 3 + n * 5) % 8;

-- What Bulkhead logs in as for tenants: it owns nothing. Bulkhead sees to whose rows; grants say which tables at all.
GRANT SELECT, INSERT, UPDATE, DELETE ON customers, orders, order_items TO shop_app;
GRANT SELECT ON products TO shop_app;
ANALYZE tenants, products, customers, orders, order_items;
