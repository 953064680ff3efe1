SELECT pg_catalog.json_build_object(
  'server_version', pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
  'database', pg_catalog.current_database(),
  'role', current_user,
  'schemas', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('oid', oid::pg_catalog.int8, 'name', nspname) ORDER BY oid)
    FROM pg_catalog.pg_namespace),
  'relations', (SELECT COALESCE(pg_catalog.json_agg(r.j ORDER BY r.oid), '[]') FROM (
    SELECT c.oid, pg_catalog.json_build_object(
      'oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
      'columns', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object(
          'number', a.attnum, 'name', a.attname, 'type_oid', a.atttypid::pg_catalog.int8, 'typmod', a.atttypmod, 'not_null', a.attnotnull,
          'has_default', a.atthasdef, 'generated', a.attgenerated <> '', 'computed', a.attgenerated = 'v', 'identity', NULLIF(a.attidentity, ''),
          'collation', a.attcollation::pg_catalog.int8) ORDER BY a.attnum), '[]')
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
      'parents', (SELECT COALESCE(pg_catalog.json_agg(i.inhparent::pg_catalog.int8 ORDER BY i.inhseqno), '[]')
        FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
      'is_partition', c.relispartition,
      'unique_keys', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('name', ic.relname, 'primary', i.indisprimary,
          'columns', (SELECT pg_catalog.json_agg(k.attnum ORDER BY k.ord) FROM pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY k(attnum, ord)
            WHERE k.ord <= i.indnkeyatts)) ORDER BY i.indisprimary DESC, ic.relname), '[]')
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL),
      'row_security', c.relrowsecurity) AS j
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%') r),
  'types', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', t.oid::pg_catalog.int8, 'schema', n.nspname, 'name', t.typname, 'kind', t.typtype, 'category', t.typcategory,
      'element', CASE WHEN t.typcategory = 'A' THEN t.typelem::pg_catalog.int8 ELSE 0 END, 'base', t.typbasetype::pg_catalog.int8,
      'relation', t.typrelid::pg_catalog.int8,
      'constrained', t.typnotnull OR EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid)) ORDER BY t.oid)
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp\_%'),
  'functions', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', p.oid::pg_catalog.int8, 'schema', n.nspname, 'name', p.proname, 'kind', p.prokind,
      'arguments', COALESCE((SELECT pg_catalog.json_agg(a.t::pg_catalog.int8 ORDER BY a.ord) FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) WITH ORDINALITY a(t, ord)), '[]'),
      'defaults', p.pronargdefaults, 'variadic', p.provariadic <> 0, 'returns', p.prorettype::pg_catalog.int8, 'returns_set', p.proretset,
      'volatility', p.provolatile, 'strict', p.proisstrict,
      'outputs', COALESCE((SELECT pg_catalog.json_agg(pg_catalog.json_build_array(COALESCE(p.proargnames[o.ord], ''), o.t::pg_catalog.int8) ORDER BY o.ord)
        FROM pg_catalog.unnest(p.proallargtypes) WITH ORDINALITY o(t, ord) WHERE p.proargmodes[o.ord] IN ('o', 'b', 't')), '[]'),
      'extension', (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e' LIMIT 1)) ORDER BY p.oid)
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace),
  'operators', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'oid', o.oid::pg_catalog.int8, 'schema', n.nspname, 'name', o.oprname, 'left', o.oprleft::pg_catalog.int8, 'right', o.oprright::pg_catalog.int8,
      'result', o.oprresult::pg_catalog.int8, 'function', o.oprcode::pg_catalog.oid::pg_catalog.int8,
      'extension', (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_catalog.pg_operator'::pg_catalog.regclass AND d.objid = o.oid AND d.deptype = 'e' LIMIT 1)) ORDER BY o.oid)
    FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace),
  'casts', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('source', castsource::pg_catalog.int8, 'target', casttarget::pg_catalog.int8,
      'function', castfunc::pg_catalog.int8, 'context', castcontext, 'method', castmethod) ORDER BY oid) FROM pg_catalog.pg_cast),
  'collations', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('oid', c.oid::pg_catalog.int8, 'schema', n.nspname, 'name', c.collname,
      'deterministic', c.collisdeterministic) ORDER BY c.oid)
    FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace),
  'ruled', (SELECT COALESCE(pg_catalog.json_agg(DISTINCT w.ev_class::pg_catalog.int8), '[]') FROM pg_catalog.pg_rewrite w WHERE w.ev_type <> '1'),
  'opaque', (SELECT COALESCE(pg_catalog.json_agg(DISTINCT o.oid::pg_catalog.int8), '[]') FROM (
    SELECT t.tgrelid FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal
    UNION ALL SELECT CASE d.classid WHEN 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN (SELECT e.adrelid FROM pg_catalog.pg_attrdef e WHERE e.oid = d.objid)
        WHEN 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN (SELECT k.conrelid FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid)
        WHEN 'pg_catalog.pg_policy'::pg_catalog.regclass THEN (SELECT y.polrelid FROM pg_catalog.pg_policy y WHERE y.oid = d.objid)
        ELSE COALESCE((SELECT i.indrelid FROM pg_catalog.pg_index i WHERE i.indexrelid = d.objid), d.objid) END
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN d.refobjid
        ELSE (SELECT x.oprcode::pg_catalog.oid FROM pg_catalog.pg_operator x WHERE x.oid = d.refobjid) END
      WHERE d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass) AND p.oid >= 16384
        AND d.classid IN ('pg_catalog.pg_attrdef'::pg_catalog.regclass, 'pg_catalog.pg_constraint'::pg_catalog.regclass, 'pg_catalog.pg_policy'::pg_catalog.regclass, 'pg_catalog.pg_class'::pg_catalog.regclass)
        AND (p.provolatile = 'v' OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND x.objid = p.oid AND x.deptype = 'e'))
    UNION ALL SELECT a.attrelid FROM pg_catalog.pg_attribute a WHERE a.atttypid >= 16384 AND a.attnum > 0 AND EXISTS (
      SELECT 1 FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND d.objid = k.oid
      WHERE k.contypid <> 0 AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass) AND d.refobjid >= 16384)
    UNION ALL SELECT a.attrelid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = a.atttypid
      WHERE a.atttypid >= 16384 AND a.attnum > 0 AND d.refclassid IN ('pg_catalog.pg_proc'::pg_catalog.regclass, 'pg_catalog.pg_operator'::pg_catalog.regclass) AND d.refobjid >= 16384
    UNION ALL SELECT i.indrelid FROM pg_catalog.pg_index i, pg_catalog.unnest(i.indclass::pg_catalog.oid[]) c(oid) WHERE c.oid >= 16384
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_opclass'::pg_catalog.regclass AND x.objid = c.oid AND x.deptype = 'e')) o(oid) WHERE o.oid <> 0),
  'own_classes', EXISTS (SELECT 1 FROM pg_catalog.pg_opclass c WHERE c.oid >= 16384
      AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.pg_opclass'::pg_catalog.regclass AND x.objid = c.oid AND x.deptype = 'e')),
  'event_triggers', EXISTS (SELECT 1 FROM pg_catalog.pg_event_trigger t WHERE t.evtenabled <> 'D'),
  'unlogged', (SELECT COALESCE(pg_catalog.json_agg(c.oid::pg_catalog.int8), '[]') FROM pg_catalog.pg_class c WHERE c.relpersistence = 'u' AND c.relkind IN ('r', 'p')),
  'cascades', (SELECT COALESCE(pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(k.confrelid::pg_catalog.int8, k.conrelid::pg_catalog.int8)), '[]')
    FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))),
  'default_isolation', pg_catalog.current_setting('default_transaction_isolation'),
  'virtual_columns', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_array(a.attrelid::pg_catalog.int8, a.attnum)), '[]')
    FROM pg_catalog.pg_attribute a WHERE a.attgenerated = 'v' AND NOT a.attisdropped),
  'sequences', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_object('sequence', u.sequence::pg_catalog.int8,
      'relation', u.relation::pg_catalog.int8, 'column', u.number, 'owned', u.owned, 'fills', u.fills AND NOT t.relhasrules)
      ORDER BY u.sequence, u.relation, u.number), '[]')
    FROM (
      SELECT s.sequence, s.relation, s.number, pg_catalog.bool_or(s.owned) AS owned, pg_catalog.bool_or(s.fills) AS fills FROM (
        SELECT d.objid, d.refobjid, d.refobjsubid, true, d.deptype = 'i' FROM pg_catalog.pg_depend d
          WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
            AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
        UNION ALL SELECT d.refobjid, e.adrelid, e.adnum::pg_catalog.int4, false,
            pg_catalog.pg_get_expr(e.adbin, e.adrelid) ~ '^nextval\(''[^'']+''::regclass\)$'
          FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef e ON e.oid = d.objid
          WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      ) s(sequence, relation, number, owned, fills) GROUP BY s.sequence, s.relation, s.number) u
    JOIN pg_catalog.pg_class t ON t.oid = u.relation JOIN pg_catalog.pg_class q ON q.oid = u.sequence AND q.relkind = 'S'),
  'views', (SELECT COALESCE(pg_catalog.json_agg(pg_catalog.json_build_array(c.oid::pg_catalog.int8,
      -- Until the end of this statement: so every name outside pg_catalog is written with its schema.
      CASE WHEN pg_catalog.set_config('search_path', '', true) = '' THEN pg_catalog.pg_get_viewdef(c.oid) END) ORDER BY c.oid), '[]')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'v' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_temp\_%')
)::pg_catalog.text
