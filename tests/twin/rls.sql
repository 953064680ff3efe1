-- The same policies as policies.toml, by PostgreSQL's own row security, for the runs with SUBJECT=rls.
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['customer', 'sale', 'event', 'event_early', 'event_late', 'event_rest', 'remark', 'memo'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO tenant_1 USING (tenant_id = ''1'') WITH CHECK (tenant_id = ''1'')', t);
    EXECUTE format('ALTER TABLE %I ALTER tenant_id SET DEFAULT 1', t);
  END LOOP;
END $$;
CREATE POLICY visible ON memo AS RESTRICTIVE TO tenant_1 USING (visible) WITH CHECK (visible);
REVOKE INSERT, UPDATE, DELETE ON item FROM app;
