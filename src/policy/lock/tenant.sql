
DECLARE
  token pg_catalog.text := pg_catalog.current_setting('bulkhead.token', true);
  tenant pg_catalog.text := pg_catalog.substr(token, 65);
  pads bulkhead.lock_key;
BEGIN
  IF tenant IS NULL OR tenant OPERATOR(pg_catalog.=) '' THEN
    RETURN NULL;
  END IF;
  SELECT * INTO pads FROM bulkhead.lock_key;
  IF pg_catalog.left(token, 64) OPERATOR(pg_catalog.=) pg_catalog.encode(pg_catalog.sha256(pads.outer_pad OPERATOR(pg_catalog.||)
      pg_catalog.sha256(pads.inner_pad OPERATOR(pg_catalog.||) pg_catalog.convert_to(pg_catalog.concat_ws('/',
        pg_catalog.pg_backend_pid(), pg_catalog.inet_client_addr(), pg_catalog.inet_client_port(),
        EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()), tenant), 'UTF8'))), 'hex') THEN
    RETURN tenant;
  END IF;
  RETURN NULL;
END
