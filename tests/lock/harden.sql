-- Row security for tenants, under Bulkhead (`bulkhead harden`). It holds a key: treat it as a secret.
BEGIN;
SET LOCAL client_min_messages TO warning;
CREATE SCHEMA IF NOT EXISTS bulkhead;
GRANT USAGE ON SCHEMA bulkhead TO PUBLIC;
-- The key of the tokens that say which tenant a connection speaks for; nobody but its owner reads it.
CREATE TABLE IF NOT EXISTS bulkhead.lock_key (one boolean PRIMARY KEY DEFAULT true CHECK (one), inner_pad bytea NOT NULL, outer_pad bytea NOT NULL);
REVOKE ALL ON bulkhead.lock_key FROM PUBLIC;
INSERT INTO bulkhead.lock_key (inner_pad, outer_pad) VALUES ('\x3d7698078c6d0bb12035978ce1c03083d4635ca98ce23cdd782e315641a4f7aa3636363636363636363636363636363636363636363636363636363636363636', '\x571cf26de60761db4a5ffde68baa5ae9be0936c3e68856b712445b3c2bce9dc05c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c5c')
  ON CONFLICT (one) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad;
-- What was so before, for --revert.
CREATE TABLE IF NOT EXISTS bulkhead.hardened (relation regclass PRIMARY KEY, had_enabled boolean NOT NULL, had_forced boolean NOT NULL);
-- The tenant of a valid token, or NULL.
CREATE OR REPLACE FUNCTION bulkhead.tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED AS $bulkhead$
DECLARE
  token pg_catalog.text := pg_catalog.current_setting('bulkhead.token', true);
  tenant pg_catalog.text := pg_catalog.substr(token, 65);
  pads bulkhead.lock_key;
BEGIN
  IF tenant IS NULL OR tenant OPERATOR(pg_catalog.=) '' THEN
    RETURN NULL;
  END IF;
  SELECT * INTO pads FROM bulkhead.lock_key;
  IF pg_catalog.left(token, 64) OPERATOR(pg_catalog.=) pg_catalog.encode(pg_catalog.sha256(pads.outer_pad OPERATOR(pg_catalog.||)
      pg_catalog.sha256(pads.inner_pad OPERATOR(pg_catalog.||) pg_catalog.convert_to(pg_catalog.concat_ws('/',
        pg_catalog.pg_backend_pid(), pg_catalog.inet_client_addr(), pg_catalog.inet_client_port(),
        EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()), tenant), 'UTF8'))), 'hex') THEN
    RETURN tenant;
  END IF;
  RETURN NULL;
END
$bulkhead$;
GRANT EXECUTE ON FUNCTION bulkhead.tenant() TO PUBLIC;

-- "public"."No tes"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."No tes"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."No tes" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."No tes";
CREATE POLICY bulkhead_tenant ON "public"."No tes" USING ("Te nant" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()))
  WITH CHECK ("Te nant" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."No tes";
CREATE POLICY bulkhead_operator ON "public"."No tes" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));

-- "public"."accounts"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."accounts"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."accounts" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."accounts";
CREATE POLICY bulkhead_tenant ON "public"."accounts" USING ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer))
  WITH CHECK ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."accounts";
CREATE POLICY bulkhead_operator ON "public"."accounts" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));

-- "public"."events"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."events"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."events" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."events";
CREATE POLICY bulkhead_tenant ON "public"."events" USING ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer))
  WITH CHECK ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."events";
CREATE POLICY bulkhead_operator ON "public"."events" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));

-- "public"."events_2026_01"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."events_2026_01"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."events_2026_01" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."events_2026_01";
CREATE POLICY bulkhead_tenant ON "public"."events_2026_01" USING ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer))
  WITH CHECK ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."events_2026_01";
CREATE POLICY bulkhead_operator ON "public"."events_2026_01" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));

-- "public"."events_2026_02"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."events_2026_02"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."events_2026_02" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."events_2026_02";
CREATE POLICY bulkhead_tenant ON "public"."events_2026_02" USING ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer))
  WITH CHECK ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."events_2026_02";
CREATE POLICY bulkhead_operator ON "public"."events_2026_02" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));

-- "public"."orders"
INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE oid = '"public"."orders"'::pg_catalog.regclass ON CONFLICT DO NOTHING;
ALTER TABLE "public"."orders" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS bulkhead_tenant ON "public"."orders";
CREATE POLICY bulkhead_tenant ON "public"."orders" USING ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer))
  WITH CHECK ("tenant_id" OPERATOR(pg_catalog.=) (SELECT bulkhead.tenant()::integer));
DROP POLICY IF EXISTS bulkhead_operator ON "public"."orders";
CREATE POLICY bulkhead_operator ON "public"."orders" TO "owner" USING ((SELECT pg_catalog.pg_has_role(session_user, 'owner', 'USAGE')));
COMMIT;
