#!/bin/sh
# Run once by the image when it makes the cluster: the tables belong to shop_owner.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d shop -c 'SET ROLE shop_owner' -f /shop.sql
