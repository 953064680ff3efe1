-- Views that policies list, and what they read.
CREATE TABLE tidy (tenant_id int NOT NULL, id uuid DEFAULT gen_random_uuid(), name text, PRIMARY KEY (tenant_id, id));
CREATE TABLE unlisted (id int);
CREATE VIEW good AS SELECT name FROM tidy;
CREATE VIEW on_good AS SELECT name FROM good;
CREATE VIEW on_unlisted AS SELECT t.name, u.id FROM tidy t, unlisted u;
CREATE VIEW middle AS SELECT name FROM tidy;
CREATE VIEW on_view AS SELECT name FROM middle;
CREATE VIEW waits AS SELECT pg_sleep(1)::text AS s FROM tidy;
