MERGE INTO account a USING item i ON a.id = i.id WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN MATCHED THEN UPDATE SET email = i.name

MERGE INTO account a USING (VALUES (1), (9)) v(k) ON a.id = v.k WHEN NOT MATCHED BY SOURCE THEN DELETE

MERGE INTO account a USING (VALUES (1), (9)) v(k) ON a.id = v.k WHEN NOT MATCHED BY SOURCE THEN UPDATE SET balance = 0 WHEN NOT MATCHED THEN INSERT (id, email) VALUES (v.k, 'new') WHEN MATCHED THEN DELETE RETURNING merge_action(), a.*, v.k

MERGE INTO account a USING (VALUES (1), (9)) v(k) ON a.id = v.k WHEN NOT MATCHED BY SOURCE AND 100 / a.balance > 2 THEN DELETE

MERGE INTO account a USING (VALUES (1), (9)) v(k) ON a.id = v.k WHEN NOT MATCHED BY SOURCE AND (a.email || 'x')::xml IS NOT NULL AND 'x' ~ a.email THEN DELETE

MERGE INTO account a USING (VALUES (1), (9)) v(k) ON a.id = v.k AND 100 / a.balance > 2 WHEN NOT MATCHED BY SOURCE THEN DO NOTHING WHEN MATCHED THEN DELETE

MERGE INTO account a USING part p ON a.id = p.id AND 100 / p.amount > 15 WHEN NOT MATCHED THEN INSERT (id, email) VALUES (p.id + 50, p.note) WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING *

MERGE INTO account a USING part p ON a.id = p.id AND a.balance > (SELECT max(amount) FROM part) WHEN NOT MATCHED BY SOURCE AND EXISTS (SELECT 1 FROM part x WHERE 7 / (a.balance + x.amount) >= 0) THEN DELETE

MERGE INTO account a USING part p ON a.id = p.id WHEN NOT MATCHED BY SOURCE AND a.id = 3 THEN DELETE WHEN NOT MATCHED BY SOURCE THEN UPDATE SET balance = 1 RETURNING a.id

MERGE INTO part p USING account a ON a.id = p.id WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN MATCHED THEN UPDATE SET note = a.email, amount = p.amount + a.balance RETURNING merge_action() AS action, p.id

WITH m AS (MERGE INTO account a USING item i ON a.id = i.id WHEN MATCHED THEN UPDATE SET email = i.name WHEN NOT MATCHED THEN INSERT (id, email) VALUES (i.id + 20, i.name) RETURNING merge_action() AS what, a.id) SELECT what, count(*) FROM m GROUP BY what

MERGE INTO account a USING item i ON a.id = i.id WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED BY SOURCE THEN DO NOTHING

MERGE INTO account a USING item i ON a.id = i.id WHEN NOT MATCHED BY SOURCE AND i.id = 1 THEN DELETE

-- refused: 42501
MERGE INTO account a USING item i ON a.id = i.id WHEN NOT MATCHED THEN INSERT (id, tenant_id) VALUES (i.id + 60, 2)

-- refused: 42501
MERGE INTO account a USING item i ON a.id = i.id WHEN MATCHED THEN UPDATE SET tenant_id = 2

-- refused: 42501
MERGE INTO account a USING (VALUES (1)) v(k) ON a.id = v.k WHEN NOT MATCHED BY SOURCE THEN UPDATE SET tenant_id = 2

UPDATE account SET balance = balance + 1 WHERE id < 3 RETURNING old.balance, new.balance, old.*, *

UPDATE account SET email = 'x' WHERE id = 2 RETURNING WITH (OLD AS o, NEW AS n) o.email AS was, n.email, account.email

UPDATE account new SET email = 'y' WHERE id = 2 RETURNING old.email, new.email

UPDATE account SET email = old.email WHERE id = 2 RETURNING new.email

UPDATE account SET balance = 0 RETURNING old, (SELECT count(*) FROM part p WHERE p.amount / old.balance >= 0) AS n, (new).balance

DELETE FROM account WHERE id = 1 RETURNING old.email, new.email

INSERT INTO account (id, email) VALUES (70, 'n'), (1, 'z') ON CONFLICT (id) DO UPDATE SET email = excluded.email || account.email RETURNING old.email, new.email, new.tenant_id

MERGE INTO account a USING item i ON a.id = i.id WHEN MATCHED THEN UPDATE SET email = i.name WHEN NOT MATCHED THEN INSERT (id, email) VALUES (i.id + 20, i.name) RETURNING merge_action(), old.email, new.email, i.id

WITH u AS (UPDATE part SET amount = 7 WHERE id = 3 RETURNING old.amount AS was, new.amount AS is_now) SELECT * FROM u WHERE 7 / was > 0

UPDATE account SET email = 'x' RETURNING WITH (OLD AS account) account.email

UPDATE account SET email = 'x' RETURNING old.nosuch

-- refused: 42501
INSERT INTO account (id, email) VALUES (101, 'z') ON CONFLICT (id) DO UPDATE SET email = excluded.email RETURNING old.email

SELECT p.id, j.* FROM part p, JSON_TABLE(p.attributes, '$.l[*]' COLUMNS (o FOR ORDINALITY, n int PATH '$', e bool EXISTS PATH '$.x')) AS j WHERE 5 / j.n >= 0 ORDER BY 1, 2

SELECT j.a, k, b FROM part p LEFT JOIN JSON_TABLE(p.attributes, '$' PASSING p.id AS x COLUMNS (NESTED PATH '$.l[*]' COLUMNS (b int PATH '$'), k int PATH '$.k' DEFAULT 7 ON EMPTY)) AS j(k, b) ON true, LATERAL (SELECT j.k + j.b AS a) AS q WHERE k = 3

SELECT q.a, k, b FROM part p LEFT JOIN JSON_TABLE(p.attributes, '$' PASSING p.id AS x COLUMNS (NESTED PATH '$.l[*]' COLUMNS (b int PATH '$'), k int PATH '$.k' DEFAULT 7 ON EMPTY)) AS j ON true, LATERAL (SELECT j.k + j.b AS a) AS q WHERE k = 3

SELECT * FROM JSON_TABLE((SELECT jsonb_agg(attributes) FROM part), '$[*]' AS root COLUMNS (k int PATH '$.k' ERROR ON ERROR, l jsonb PATH '$.l' WITH WRAPPER) ERROR ON ERROR)

SELECT count(*) FROM account a WHERE EXISTS (SELECT 1 FROM part p, JSON_TABLE(p.attributes, '$.l[*]' COLUMNS (n int PATH '$' ERROR ON ERROR)) j WHERE j.n = a.id AND 7 / (a.balance + p.amount) >= 0)

SELECT id FROM ratio WHERE share > 30

SELECT id, share FROM ratio WHERE share IS NOT NULL ORDER BY share

SELECT r.*, p.id FROM ratio r JOIN part p ON p.id = r.share

SELECT id FROM ratio r WHERE to_jsonb(r) IS NULL

SELECT s.share FROM (SELECT id, share FROM ratio) s WHERE s.share IS NOT NULL

SELECT count(*) FROM ratio a JOIN ratio b USING (share) WHERE a.id < b.id

SELECT id FROM part p WHERE EXISTS (SELECT 1 FROM ratio r WHERE r.share IS NULL OR r.share = p.id)

INSERT INTO ratio (id, base) VALUES (50, 5) RETURNING share

UPDATE ratio SET base = base + 1 WHERE id = 2

-- refused: 0A000
UPDATE ratio SET base = 1 WHERE share IS NOT NULL

-- refused: 0A000
DELETE FROM ratio WHERE id = 1 RETURNING *

UPDATE card SET note = 'x' WHERE id = 1 RETURNING old.number, new.number, old.note, new.note, number

UPDATE card SET note = note || 'x' RETURNING WITH (OLD AS before) before.number || note AS shown, before.number LIKE '%own%'

DELETE FROM card WHERE id = 2 RETURNING old.*, new.*

DELETE FROM card WHERE id = 2 RETURNING to_json(old), to_json(new), old IS NULL, new IS NULL, (old).number

INSERT INTO card (id, note) VALUES (70, 'n'), (1, 'z') ON CONFLICT (id) DO UPDATE SET note = excluded.note RETURNING old.number, new.number, to_json(old)

MERGE INTO card c USING item i ON c.id = i.id WHEN MATCHED THEN UPDATE SET note = i.name WHEN NOT MATCHED THEN INSERT (id, note) VALUES (i.id + 20, i.name) RETURNING merge_action(), old.number, new.number, to_json(old) IS NULL

WITH u AS (DELETE FROM card WHERE id < 3 RETURNING old.number AS number) SELECT number, count(*) FROM u GROUP BY number

COPY (MERGE INTO account a USING item i ON a.id = i.id WHEN MATCHED THEN UPDATE SET email = i.name WHEN NOT MATCHED THEN INSERT (id, email) VALUES (i.id + 20, i.name) RETURNING merge_action(), a.*) TO STDOUT

COPY (MERGE INTO card c USING item i ON c.id = i.id WHEN MATCHED THEN DELETE RETURNING c.number, old.number, new.number) TO STDOUT WITH (FORMAT csv)

-- refused: 0A000
COPY (MERGE INTO account a USING item i ON a.id = i.id WHEN MATCHED THEN DELETE) TO STDOUT

SELECT id, note IS JSON, attributes::text IS JSON OBJECT WITH UNIQUE KEYS, attributes->'l' IS NOT JSON ARRAY FROM part ORDER BY id

SELECT id FROM part WHERE JSON_VALUE(attributes, '$.k' RETURNING int ERROR ON ERROR) > 2 ORDER BY id

SELECT id, JSON_QUERY(attributes, '$.l' WITH WRAPPER) AS q, JSON_EXISTS(attributes, '$.l[*] ? (@ > $x)' PASSING id AS x), JSON_VALUE(attributes, '$.none' RETURNING int DEFAULT -1 ON EMPTY) FROM part ORDER BY id

SELECT json_value(note, '$' ERROR ON ERROR) FROM part WHERE id = 1

SELECT a.id FROM account a JOIN part p ON JSON_VALUE(p.attributes, '$.k' RETURNING int ERROR ON ERROR) = a.id AND p.note IS NOT JSON ORDER BY 1

SELECT JSON_EXISTS((SELECT jsonb_agg(attributes) FROM part), 'strict $[*].nosuch' ERROR ON ERROR)

SELECT JSON_VALUE((SELECT jsonb_agg(p.attributes ORDER BY p.id) FROM part p), '$[0].k' RETURNING int) AS k, count(*) FROM account GROUP BY 1

UPDATE part SET note = JSON_VALUE(attributes, '$.k' ERROR ON ERROR) WHERE JSON_VALUE(attributes, '$.k' RETURNING int ERROR ON ERROR) = 3 RETURNING id, note

-- The planner tries a condition with the values in pg_statistic, from 17 on through a CTE as well.
WITH c AS MATERIALIZED (SELECT id, email FROM account) SELECT id FROM c WHERE email LIKE 'C%\'

SELECT id FROM (SELECT id, email FROM account LIMIT 3) s WHERE email LIKE 'C%\'
