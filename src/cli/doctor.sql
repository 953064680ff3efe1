SET search_path TO pg_catalog;
WITH me AS (SELECT r.* FROM pg_catalog.pg_roles r WHERE r.rolname = current_user),
  users_own AS (SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
    WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'bulkhead')),
  readable AS (SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relowner, c.reloptions, c.relacl
    FROM pg_catalog.pg_class c JOIN users_own n ON n.oid = c.relnamespace, me
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_catalog.has_schema_privilege(me.oid, n.oid, 'USAGE')
      AND (pg_catalog.has_table_privilege(me.oid, c.oid, 'SELECT') OR pg_catalog.has_any_column_privilege(me.oid, c.oid, 'SELECT')))
SELECT pg_catalog.json_build_object(
  'version', pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
  'strings', pg_catalog.current_setting('standard_conforming_strings'),
  'row_security', pg_catalog.current_setting('row_security'),
  'role', me.rolname,
  'creates', pg_catalog.array_to_json(ARRAY(SELECT 'database ' || current_database() WHERE pg_catalog.has_database_privilege(me.oid, current_database(), 'CREATE')
    UNION ALL SELECT 'schema ' || n.nspname FROM users_own n WHERE pg_catalog.has_schema_privilege(me.oid, n.oid, 'CREATE'))),
  'predefined', pg_catalog.array_to_json(ARRAY(SELECT o.rolname FROM pg_catalog.pg_roles o WHERE o.rolname LIKE 'pg\_%' AND pg_catalog.pg_has_role(me.oid, o.oid, 'MEMBER')
    AND NOT me.rolsuper ORDER BY 1)),
  'roles', pg_catalog.array_to_json(ARRAY(SELECT o.rolname FROM pg_catalog.pg_roles o WHERE o.oid <> me.oid AND pg_catalog.pg_has_role(me.oid, o.oid, 'MEMBER')
    AND NOT me.rolsuper ORDER BY 1)),
  'relations', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('oid', r.oid::pg_catalog.int8, 'name', r.name, 'kind', r.relkind,
      'invoker', COALESCE((SELECT option_value::pg_catalog.bool FROM pg_catalog.pg_options_to_table(r.reloptions) WHERE option_name = 'security_invoker'), false),
      'public', EXISTS (SELECT 1 FROM pg_catalog.aclexplode(r.relacl) a WHERE a.grantee = 0),
      'more', pg_catalog.has_table_privilege(me.oid, r.oid, 'TRUNCATE, REFERENCES, TRIGGER')) ORDER BY r.name), '[]') FROM readable r),
  'definers', pg_catalog.array_to_json(ARRAY(SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p JOIN users_own n ON n.oid = p.pronamespace
    WHERE p.prosecdef AND pg_catalog.has_function_privilege(me.oid, p.oid, 'EXECUTE') AND pg_catalog.has_schema_privilege(me.oid, n.oid, 'USAGE') ORDER BY 1)),
  'leakproof', pg_catalog.array_to_json(ARRAY(SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p JOIN users_own n ON n.oid = p.pronamespace
    WHERE p.proleakproof ORDER BY 1)),
  'extensions', pg_catalog.array_to_json(ARRAY(SELECT e.extname FROM pg_catalog.pg_extension e
    WHERE e.extname IN ('dblink', 'postgres_fdw', 'file_fdw', 'adminpack', 'pg_read_file', 'lo', 'pageinspect', 'pg_walinspect', 'pg_buffercache') ORDER BY 1)),
  'languages', pg_catalog.array_to_json(ARRAY(SELECT l.lanname FROM pg_catalog.pg_language l WHERE NOT l.lanpltrusted AND l.lanname NOT IN ('internal', 'c') ORDER BY 1)),
  'large_objects', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata m
    WHERE pg_catalog.current_setting('lo_compat_privileges')::pg_catalog.bool OR m.lomowner = me.oid
      OR EXISTS (SELECT 1 FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.grantee IN (0, me.oid))),
  'files', pg_catalog.array_to_json(ARRAY(SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text FROM pg_catalog.pg_proc p
    WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname IN ('lo_import', 'lo_export', 'pg_read_file', 'pg_read_binary_file', 'pg_ls_dir')
      AND pg_catalog.has_function_privilege(me.oid, p.oid, 'EXECUTE') ORDER BY 1)))::pg_catalog.text
FROM me
