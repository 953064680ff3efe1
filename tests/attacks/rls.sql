-- The same policies as policies.toml, by PostgreSQL's own row security, for the runs with SUBJECT=rls.
DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['accounts', 'orders', 'events', 'events_2026_01', 'events_2026_02'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY tenant ON %I TO tenant_1 USING (tenant_id = 1) WITH CHECK (tenant_id = 1)', t);
    EXECUTE format('ALTER TABLE %I ALTER tenant_id SET DEFAULT 1', t);
  END LOOP;
END $$;
REVOKE INSERT, UPDATE, DELETE ON products FROM app;
