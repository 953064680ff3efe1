CREATE TABLE leaky (tenant_id int NOT NULL, id uuid DEFAULT gen_random_uuid(), PRIMARY KEY (tenant_id, id));
CREATE TABLE tidy (tenant_id int NOT NULL, id uuid, name text, PRIMARY KEY (tenant_id, id));
CREATE TABLE item (tenant_id int NOT NULL, id uuid, tidy_id uuid, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, tidy_id) REFERENCES tidy);
