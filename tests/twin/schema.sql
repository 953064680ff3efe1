-- The twin oracle's world. Tenant 1 is the caller; psql -v solo=1 leaves the other tenants out, and variant=b gives them other rows.
-- Foreign rows have the caller's own ids and join keys (so that they would join), values on which the caller's expressions raise (a zero
-- divisor, text that is no number, a broken pattern, unfinished XML), and canaries: CANARY in texts, 918273 in numbers.
\if :{?solo} \else \set solo 0 \endif
\if :{?variant} \else \set variant a \endif
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE customer (
  id int NOT NULL, tenant_id int NOT NULL, name varchar(24) NOT NULL, email text, age smallint, balance numeric(14,2), active bool NOT NULL DEFAULT true,
  born date, joined timestamptz DEFAULT '2026-01-01 00:00:00+00', profile jsonb, ref uuid, tags text[], mood mood, score bigint,
  PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, email));
CREATE TABLE sale (
  tenant_id int NOT NULL, id int NOT NULL, customer_id int, qty int NOT NULL DEFAULT 1, price numeric, divisor int, num text, pattern text, doc text,
  note text, at timestamptz, state varchar(8), weights int[],
  PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, customer_id) REFERENCES customer (tenant_id, id));
CREATE TABLE event (
  id bigint NOT NULL, at timestamptz NOT NULL, kind text, payload jsonb, n int, tenant_id bigint NOT NULL, PRIMARY KEY (tenant_id, id, at)) PARTITION BY RANGE (at);
CREATE TABLE event_early PARTITION OF event FOR VALUES FROM ('2026-01-01') TO ('2026-01-20');
CREATE TABLE event_late PARTITION OF event FOR VALUES FROM ('2026-01-20') TO ('2026-03-01');
CREATE TABLE event_rest PARTITION OF event DEFAULT;
CREATE TABLE remark (remark_id int NOT NULL, body text, stars int, customer_id int, tenant_id text NOT NULL, PRIMARY KEY (tenant_id, remark_id));
CREATE TABLE memo (id int NOT NULL, body text, n int, visible bool NOT NULL DEFAULT true, tenant_id int NOT NULL, PRIMARY KEY (tenant_id, id));
CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL, cost numeric(10,2), category text);
-- Their own conditions raise on the rows of others.
CREATE VIEW busy WITH (security_invoker = true) AS SELECT id, customer_id, num::int / divisor AS load, num, divisor, note FROM sale WHERE num::int / divisor > 3;
CREATE VIEW known(id, label, spent) WITH (security_invoker = true) AS
  SELECT c.id, c.name || '!', sum(s.price) FROM customer c LEFT JOIN sale s ON s.customer_id = c.id AND s.num::int > 11 GROUP BY c.tenant_id, c.id;
CREATE VIEW words WITH (security_invoker = true) AS WITH sale AS (SELECT body, stars FROM remark) SELECT body, stars FROM sale UNION ALL SELECT name, id FROM item;
CREATE VIEW busy_known WITH (security_invoker = true) AS SELECT b.id, k.label, 100 / b.divisor AS part FROM busy b LEFT JOIN known k ON k.id = b.customer_id;
CREATE INDEX ON customer (name);
CREATE INDEX ON sale (customer_id);
CREATE INDEX ON sale (num);
CREATE INDEX ON sale (qty, id);
CREATE INDEX ON event (kind);
CREATE INDEX ON remark (stars);

INSERT INTO item SELECT g, 'item ' || g, g * 1.25, CASE WHEN g % 2 = 0 THEN 'even' ELSE 'odd' END FROM generate_series(1, 9) g;
INSERT INTO customer SELECT g, 1, 'name ' || g, CASE WHEN g = 6 THEN NULL ELSE 'u' || g || '@one.example' END, 20 + g, g * 10.50, g % 2 = 0, date '2000-01-01' + g,
  timestamptz '2026-01-01 00:00:00+00' + g * interval '1 hour', jsonb_build_object('k', g), ('00000000-0000-0000-0000-00000000000' || g)::uuid, ARRAY['t' || g % 3, 'u'],
  (ARRAY['sad', 'ok', 'happy'])[1 + g % 3]::mood, NULLIF(g, 3) * 1000 FROM generate_series(1, 6) g;
INSERT INTO sale SELECT 1, g, CASE WHEN g = 12 THEN NULL ELSE 1 + g % 5 END, g % 4, g * 2.25, 1 + g % 3, (10 + g)::text, '^n[' || g % 5 || ']', '<a>' || g || '</a>',
  CASE WHEN g % 5 = 0 THEN NULL ELSE 'n' || g END, timestamptz '2026-01-10 00:00:00+00' + g * interval '1 day', CASE WHEN g % 2 = 0 THEN 'open' ELSE 'done' END, ARRAY[g, g % 3]
  FROM generate_series(1, 12) g;
INSERT INTO event SELECT g, timestamptz '2026-01-15 00:00:00+00' + g * interval '1 day', 'k' || g % 3, jsonb_build_object('k', g % 4), NULLIF(g, 4), 1 FROM generate_series(1, 10) g;
INSERT INTO remark SELECT g, 'r' || g, g % 5, CASE WHEN g % 4 = 0 THEN NULL ELSE 1 + g % 5 END, '1' FROM generate_series(1, 8) g;
INSERT INTO memo SELECT g, 'm' || g, g, true, 1 FROM generate_series(1, 5) g;
\if :solo
ALTER TABLE customer ALTER tenant_id SET DEFAULT 1;
ALTER TABLE sale ALTER tenant_id SET DEFAULT 1;
ALTER TABLE event ALTER tenant_id SET DEFAULT 1;
ALTER TABLE remark ALTER tenant_id SET DEFAULT '1';
ALTER TABLE memo ALTER tenant_id SET DEFAULT 1;
\else
CREATE FUNCTION pg_temp.many() RETURNS int LANGUAGE sql AS $$ SELECT CASE current_setting('twin.variant') WHEN 'b' THEN 9 ELSE 24 END $$;
SELECT set_config('twin.variant', :'variant', false) AS chosen_variant \gset
INSERT INTO customer SELECT g, t, 'CANARY' || t || :'variant' || g, CASE WHEN g < 4 THEN 'u' || g || '@one.example' ELSE 'CANARY' || t || '@' || g END, g, 918273000 + g, g % 3 = 0,
  CASE WHEN g % 4 = 0 THEN 'infinity'::date ELSE date '2000-01-01' + g END, timestamptz '2026-01-01 00:00:00+00' + g * interval '1 hour', jsonb_build_object('k', 'CANARY' || g),
  ('ca0a0000-0000-0000-0000-0000000000' || lpad(g::text, 2, '0'))::uuid, ARRAY['CANARY' || g], (ARRAY['sad', 'ok', 'happy'])[1 + g % 3]::mood, 9182730000000 + g
  FROM generate_series(2, 3) t, generate_series(1, pg_temp.many()) g;
INSERT INTO sale SELECT t, g, 1 + g % 5, CASE WHEN g % 6 = 0 THEN 918273000 + g ELSE g % 4 END, CASE WHEN g % 2 = 0 THEN 918273.25 ELSE g * 2.25 END, CASE WHEN :'variant' = 'a' OR g % 2 = 0 THEN 0 ELSE g END,
  CASE WHEN g % 3 = 0 THEN (10 + g)::text ELSE 'CANARY' || t || 'x' || g END, '[CANARY' || g, '<CANARY' || g, CASE WHEN g % 2 = 0 THEN 'n' || g ELSE 'CANARY n' || g END,
  timestamptz '2026-01-10 00:00:00+00' + g * interval '1 day', CASE WHEN g % 2 = 0 THEN 'open' ELSE 'done' END, ARRAY[918273000 + g, 0] FROM generate_series(2, 3) t, generate_series(1, pg_temp.many()) g;
INSERT INTO event SELECT g, timestamptz '2026-01-15 00:00:00+00' + g * interval '1 day', CASE WHEN g % 2 = 0 THEN 'k' || g % 3 ELSE 'CANARY' || g END, jsonb_build_object('k', 'CANARY' || t), 918273000 + g, t
  FROM generate_series(2, 3) t, generate_series(1, pg_temp.many()) g;
INSERT INTO remark SELECT g, 'CANARY' || t || g, g % 5, 1 + g % 5, t::text FROM generate_series(2, 3) t, generate_series(1, pg_temp.many()) g;
INSERT INTO memo SELECT g, 'CANARY' || t || g, 918273000 + g, true, t FROM generate_series(2, 3) t, generate_series(1, pg_temp.many()) g;
-- The caller's own, but hidden from it by a row rule.
INSERT INTO memo SELECT 50 + g, 'CANARY hidden ' || g, 918273000 + g, false, 1 FROM generate_series(1, pg_temp.many()) g;
\endif
ANALYZE;

-- The way back after a committed write, and the hashes that show one. Nothing here is granted to the application's role.
CREATE SCHEMA pristine;
CREATE TABLE pristine.customer AS SELECT * FROM customer;
CREATE TABLE pristine.sale AS SELECT * FROM sale;
CREATE TABLE pristine.event AS SELECT * FROM event;
CREATE TABLE pristine.remark AS SELECT * FROM remark;
CREATE TABLE pristine.memo AS SELECT * FROM memo;
CREATE TABLE pristine.item AS SELECT * FROM item;
CREATE FUNCTION pristine.differs(name text) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE
  result bool;
BEGIN
  EXECUTE format('SELECT EXISTS ((SELECT t::text FROM public.%1$I t EXCEPT ALL SELECT t::text FROM pristine.%1$I t)
    UNION ALL (SELECT t::text FROM pristine.%1$I t EXCEPT ALL SELECT t::text FROM public.%1$I t))', name) INTO result;
  RETURN result;
END $$;
CREATE FUNCTION pristine.restore() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  IF pristine.differs('customer') OR pristine.differs('sale') THEN
    DELETE FROM sale;
    DELETE FROM customer;
    INSERT INTO customer SELECT * FROM pristine.customer;
    INSERT INTO sale SELECT * FROM pristine.sale;
  END IF;
  FOREACH name IN ARRAY ARRAY['event', 'remark', 'memo', 'item'] LOOP
    IF pristine.differs(name) THEN
      EXECUTE format('DELETE FROM public.%I', name);
      EXECUTE format('INSERT INTO public.%1$I SELECT * FROM pristine.%1$I', name);
    END IF;
  END LOOP;
END $$;
CREATE VIEW pristine.state AS
  WITH every AS (
    SELECT tenant_id::text AS tenant, 'c' || customer::text AS line FROM customer
    UNION ALL SELECT tenant_id::text, 's' || sale::text FROM sale
    UNION ALL SELECT tenant_id::text, 'e' || event::text FROM event
    UNION ALL SELECT tenant_id::text, 'r' || remark::text FROM remark
    UNION ALL SELECT CASE WHEN visible THEN tenant_id::text ELSE 'hidden' END, 'm' || memo::text FROM memo
    UNION ALL SELECT '1', 'i' || item::text FROM item)
  SELECT (SELECT md5(string_agg(line, '|' ORDER BY line)) FROM every WHERE tenant = '1') AS own,
    (SELECT md5(string_agg(line, '|' ORDER BY line)) FROM every WHERE tenant <> '1') AS foreign_rows;
