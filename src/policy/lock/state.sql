SET search_path TO pg_catalog;
SELECT pg_catalog.json_build_object(
  'role', r.rolname, 'superuser', r.rolsuper, 'bypasses', r.rolbypassrls,
  'member_of', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', o.rolname, 'powerful', o.rolsuper OR o.rolbypassrls OR o.rolcreaterole) ORDER BY o.rolname), '[]')
    FROM pg_catalog.pg_roles o WHERE o.oid <> r.oid AND NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, o.oid, 'MEMBER')),
  'function', (SELECT pg_catalog.json_build_object('source', p.prosrc, 'language', l.lanname, 'definer', p.prosecdef, 'volatility', p.provolatile,
      'returns', p.prorettype::pg_catalog.regtype::pg_catalog.text, 'configured', p.proconfig IS NOT NULL,
      'owned', pg_catalog.pg_has_role(r.oid, p.proowner, 'MEMBER'), 'executable', pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE'))
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
    WHERE n.nspname = 'bulkhead' AND p.proname = 'tenant' AND p.pronargs = 0),
  'schema', (SELECT pg_catalog.json_build_object('owned', pg_catalog.pg_has_role(r.oid, n.nspowner, 'MEMBER'), 'usable', pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE'),
      'writable', pg_catalog.has_schema_privilege(r.oid, n.oid, 'CREATE')) FROM pg_catalog.pg_namespace n WHERE n.nspname = 'bulkhead'),
  'key', (SELECT pg_catalog.json_build_object('owned', pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER'),
      'open', pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
        OR pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'bulkhead' AND c.relname = 'lock_key'),
  'relations', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', c.oid::pg_catalog.int8, 'owner', o.rolname, 'owned', pg_catalog.pg_has_role(r.oid, c.relowner, 'MEMBER'),
      'enabled', c.relrowsecurity, 'forced', c.relforcerowsecurity,
      'policies', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', p.polname, 'permissive', p.polpermissive, 'command', p.polcmd,
          'public', p.polroles = '{0}', 'using', pg_catalog.pg_get_expr(p.polqual, p.polrelid), 'check', pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
          'applies', p.polroles = '{0}' OR EXISTS (SELECT 1 FROM pg_catalog.unnest(p.polroles) m(oid) WHERE m.oid <> 0 AND pg_catalog.pg_has_role(r.oid, m.oid, 'MEMBER'))) ORDER BY p.polname), '[]')
        FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)) ORDER BY c.oid), '[]')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    WHERE c.relkind IN ('r', 'p') AND c.oid >= 16384))::pg_catalog.text
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
