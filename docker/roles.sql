-- Roles of the demo shop; the passwords are those of proxy.toml.
CREATE ROLE shop_owner LOGIN PASSWORD 'shop-owner';
CREATE ROLE shop_app LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD 'shop-app';
CREATE DATABASE shop OWNER shop_owner;
