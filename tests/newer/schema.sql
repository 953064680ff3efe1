\if :{?solo}
\else
\set solo 0
\endif
CREATE TABLE account (id int PRIMARY KEY, tenant_id int NOT NULL, email text, balance int);
CREATE TABLE part (id int, tenant_id int NOT NULL, note text, amount int, attributes jsonb, PRIMARY KEY (tenant_id, id));
CREATE TABLE ratio (id int PRIMARY KEY, tenant_id int NOT NULL, base int, share int GENERATED ALWAYS AS (100 / base) VIRTUAL);
CREATE TABLE card (id int PRIMARY KEY, tenant_id int NOT NULL, number text, note text);
CREATE TABLE item (id int PRIMARY KEY, name text);
INSERT INTO item SELECT g, 'item ' || g FROM generate_series(1, 6) g;
INSERT INTO account SELECT g, 1, 'own ' || g, g * 10 FROM generate_series(1, 5) g;
INSERT INTO part SELECT g, 1, 'own ' || g, g, jsonb_build_object('k', g, 'l', jsonb_build_array(g, g + 1)) FROM generate_series(1, 8) g;
INSERT INTO card SELECT g, 1, 'CANARY own ' || g, 'note ' || g FROM generate_series(1, 4) g;
INSERT INTO ratio SELECT g, 1, g FROM generate_series(1, 4) g;
\if :solo
ALTER TABLE card ALTER tenant_id SET DEFAULT 1;
UPDATE card SET number = '***';
ALTER TABLE ratio ALTER tenant_id SET DEFAULT 1;
ALTER TABLE account ALTER tenant_id SET DEFAULT 1;
ALTER TABLE part ALTER tenant_id SET DEFAULT 1;
\else
INSERT INTO ratio SELECT 100 + g, 2, 0 FROM generate_series(1, 20) g;
INSERT INTO card SELECT 100 + g, 2, 'CANARY ' || g, 'CANARY' FROM generate_series(1, 9) g;
INSERT INTO account SELECT 100 + g, 2 + g % 2, 'CANARY ' || g, 0 FROM generate_series(1, 20) g;
INSERT INTO part SELECT g, 2 + g % 2, 'CANARY ' || g, 0, jsonb_build_object('k', 'CANARY') FROM generate_series(1, 20) g;
\endif
CREATE SCHEMA pristine;
CREATE TABLE pristine.account AS TABLE account;
CREATE TABLE pristine.card AS TABLE card;
CREATE TABLE pristine.part AS TABLE part;
CREATE TABLE pristine.ratio AS SELECT id, tenant_id, base FROM ratio;
ANALYZE;
