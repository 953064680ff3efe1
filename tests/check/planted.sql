-- A schema that leaks in every way that `bulkhead check --database` looks for.
CREATE TABLE leaky (id serial PRIMARY KEY, tenant_id int, email text UNIQUE, span int4range, note text, place point, EXCLUDE USING gist (span WITH &&));
CREATE INDEX ON leaky USING gist (place);
CREATE TABLE tidy (tenant_id int NOT NULL, id uuid DEFAULT gen_random_uuid(), name text, PRIMARY KEY (tenant_id, id), UNIQUE (name, tenant_id));
CREATE TABLE item (
    tenant_id int NOT NULL, id uuid, leaky_id int REFERENCES leaky, tidy_id uuid,
    PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, tidy_id) REFERENCES tidy (tenant_id, id)
);
CREATE TABLE unlisted (id int);
CREATE VIEW by_owner AS SELECT name FROM tidy;
CREATE VIEW by_owner_of_a_view AS SELECT name FROM by_owner;
CREATE VIEW by_invoker WITH (security_invoker = on) AS SELECT name FROM tidy;
CREATE VIEW harmless AS SELECT id FROM unlisted;
CREATE MATERIALIZED VIEW kept AS SELECT name FROM tidy;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER stamps BEFORE INSERT ON tidy FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE RULE muted AS ON DELETE TO item DO INSTEAD NOTHING;
CREATE FUNCTION powerful(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
CREATE FUNCTION kept_from_app() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
REVOKE EXECUTE ON FUNCTION kept_from_app() FROM PUBLIC;
ALTER TABLE unlisted OWNER TO app;
ALTER ROLE app BYPASSRLS;
