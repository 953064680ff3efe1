SELECT pg_catalog.json_build_object(
  'roles', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', rolname, 'superuser', rolsuper, 'bypasses', rolbypassrls)) FROM pg_catalog.pg_roles),
  'definer_functions', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
      'name', pg_catalog.format('%s.%s(%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid)), 'owner', o.rolname,
      'roles', (SELECT COALESCE(pg_catalog.json_agg(r.rolname), '[]') FROM pg_catalog.pg_roles r
        WHERE pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE') AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')))
      ORDER BY n.nspname, p.proname, p.oid), '[]')
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
    WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'bulkhead')),
  'relations', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'owner', o.rolname,
      'invoker', COALESCE((SELECT pg_catalog.bool_or(pg_catalog.lower(s.setting) IN ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes'))
        FROM pg_catalog.unnest(c.reloptions) s(setting)), false),
      'reads', (SELECT COALESCE(pg_catalog.json_agg(DISTINCT d.refobjid::pg_catalog.int8), '[]')
        FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = w.oid
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid <> c.oid
        WHERE w.ev_class = c.oid AND c.relkind IN ('v', 'm')),
      'indexes', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', ic.relname,
          'keeps', CASE WHEN i.indisexclusion THEN 'exclusion' WHEN i.indisunique THEN 'unique' ELSE 'nothing' END, 'whole', i.indpred IS NULL,
          'columns', (SELECT pg_catalog.json_agg(COALESCE(a.attname, '') ORDER BY k.ord) FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(attnum, ord)
            LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE k.ord <= i.indnkeyatts),
          'computes', EXISTS (SELECT 1 FROM pg_catalog.unnest(i.indclass::pg_catalog.oid[]) WITH ORDINALITY k(opclass, ord)
            JOIN pg_catalog.pg_opclass oc ON oc.oid = k.opclass JOIN pg_catalog.pg_am m ON m.oid = oc.opcmethod
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum = k.ord
            WHERE (m.amname, oc.opcname) IN (('gist', 'gist_date_ops'), ('gist', 'point_ops'), ('gist', 'box_ops'), ('gist', 'poly_ops'),
                ('gist', 'circle_ops'), ('gist', 'gist__int_ops'), ('brin', 'numeric_minmax_multi_ops'))
              OR m.amname = 'gist' AND oc.opcname IN ('range_ops', 'multirange_ops') AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_range r
                WHERE a.atttypid IN (r.rngtypid, r.rngmultitypid) AND r.rngsubtype IN ('pg_catalog.int4'::pg_catalog.regtype, 'pg_catalog.int8'::pg_catalog.regtype,
                  'pg_catalog.date'::pg_catalog.regtype, 'pg_catalog.timestamp'::pg_catalog.regtype, 'pg_catalog.timestamptz'::pg_catalog.regtype)))) ORDER BY ic.relname), '[]')
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisvalid),
      'foreign_keys', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', k.conname, 'to', k.confrelid::pg_catalog.int8,
          'columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY x.ord) FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY x(attnum, ord)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.attnum),
          'to_columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY x.ord) FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY x(attnum, ord)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.attnum)) ORDER BY k.conname), '[]')
        FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0),
      'triggers', (SELECT COALESCE(pg_catalog.json_agg(t.tgname ORDER BY t.tgname), '[]') FROM pg_catalog.pg_trigger t
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'),
      'rules', (SELECT COALESCE(pg_catalog.json_agg(w.rulename ORDER BY w.rulename), '[]') FROM pg_catalog.pg_rewrite w
        WHERE w.ev_class = c.oid AND w.rulename <> '_RETURN'),
      'counted', (SELECT COALESCE(pg_catalog.json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_catalog.pg_attribute a
        LEFT JOIN pg_catalog.pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND (a.attidentity <> '' OR pg_catalog.pg_get_expr(e.adbin, e.adrelid) LIKE 'nextval(%')))
      ORDER BY n.nspname, c.relname), '[]')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%')
)::pg_catalog.text
