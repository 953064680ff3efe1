-- Beside schema.sql: a copy of every table, the hashes that show a change, and the way back. Nothing here is granted to the application's role.
CREATE SCHEMA pristine;
CREATE TABLE pristine.accounts AS SELECT * FROM accounts ORDER BY ctid;
CREATE TABLE pristine.orders AS SELECT * FROM orders ORDER BY ctid;
CREATE TABLE pristine.events AS SELECT * FROM events ORDER BY id;
CREATE TABLE pristine.products AS SELECT * FROM products ORDER BY ctid;
CREATE FUNCTION pristine.restore() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  TRUNCATE accounts, orders, events, products;
  INSERT INTO accounts SELECT * FROM pristine.accounts;
  INSERT INTO orders SELECT * FROM pristine.orders;
  INSERT INTO events SELECT * FROM pristine.events;
  INSERT INTO products SELECT * FROM pristine.products;
END $$;
CREATE VIEW pristine.state AS
  WITH every AS (
    SELECT tenant_id, 'a' || accounts::text AS line FROM accounts
    UNION ALL SELECT tenant_id, 'o' || orders::text FROM orders
    UNION ALL SELECT tenant_id, 'e' || events::text FROM events
    UNION ALL SELECT 1, 'p' || products::text FROM products)
  SELECT (SELECT md5(string_agg(line, '|' ORDER BY line)) FROM every WHERE tenant_id = 1) AS own,
    (SELECT md5(string_agg(line, '|' ORDER BY line)) FROM every WHERE tenant_id <> 1) AS foreign_rows,
    md5(concat(
      (SELECT string_agg(concat_ws(' ', oid, relname, relkind, relnamespace, relowner, relrowsecurity, relforcerowsecurity, relhasrules, relhastriggers, relacl), '|' ORDER BY oid)
        FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname LIKE 'pg\_%' OR nspname = 'information_schema')),
      (SELECT string_agg(concat_ws(' ', attrelid, attname, atttypid), '|' ORDER BY attrelid, attnum) FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
        AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)),
      (SELECT string_agg(concat_ws(' ', oid, proname), '|' ORDER BY oid) FROM pg_proc WHERE oid >= 16384),
      (SELECT string_agg(concat_ws(' ', oid, tgname), '|' ORDER BY oid) FROM pg_trigger),
      (SELECT string_agg(concat_ws(' ', objoid, description), '|' ORDER BY objoid) FROM pg_description WHERE objoid >= 16384),
      (SELECT string_agg(concat_ws(' ', oid, rolname, rolsuper), '|' ORDER BY oid) FROM pg_roles),
      (SELECT string_agg(concat_ws(' ', setdatabase, setrole, setconfig), '|' ORDER BY setdatabase, setrole) FROM pg_db_role_setting),
      (SELECT string_agg(concat_ws(' ', oid, defaclacl), '|' ORDER BY oid) FROM pg_default_acl),
      (SELECT count(*) FROM pg_largeobject_metadata))) AS schema;
