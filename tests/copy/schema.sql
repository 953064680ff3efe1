-- Tables for COPY FROM. On the twin (psql -v solo=1) nobody fills the tenant in: there it has a default.
\if :{?solo} \else \set solo 0 \endif
CREATE TABLE words (a text, b text, tenant_id int NOT NULL);
CREATE TABLE typed (
  id int PRIMARY KEY, tenant_id int NOT NULL, amount numeric(10,2) CHECK (amount >= 0), note varchar(5), day date NOT NULL DEFAULT '2026-01-01',
  twice int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE short_tenants (a text, tenant_id smallint NOT NULL);
CREATE TABLE long_tenants (a text, tenant_id bigint NOT NULL);
CREATE TABLE text_tenants (tenant_id text NOT NULL, a text);
CREATE TABLE parts (a text, day date, tenant_id int NOT NULL) PARTITION BY RANGE (day);
CREATE TABLE parts_2026 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
\if :solo
ALTER TABLE words ALTER tenant_id SET DEFAULT 1;
ALTER TABLE typed ALTER tenant_id SET DEFAULT 1;
ALTER TABLE short_tenants ALTER tenant_id SET DEFAULT 1;
ALTER TABLE long_tenants ALTER tenant_id SET DEFAULT 1;
ALTER TABLE text_tenants ALTER tenant_id SET DEFAULT '1';
ALTER TABLE parts ALTER tenant_id SET DEFAULT 1;
\endif
