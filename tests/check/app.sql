-- What an application sends, as a script for psql.
\set name 'it''s'
SELECT id, note FROM leaky WHERE note = :'name';
SELECT count(*) FROM tidy \gset
BEGIN;
INSERT INTO tidy (id, name) VALUES (gen_random_uuid(), 'a;b');
\copy unlisted FROM STDIN
1
it's no SQL; nor is this
\.
COMMIT;
SELECT * FROM unlisted;
SELECT nope FROM tidy; SELECT neither
FROM tidy;
CREATE TABLE t (a int);
CREATE TABLE u (a int);
SELECT FROM WHERE;
TABLE tidy
