//! Which relations of pg_catalog and information_schema a tenant may read: those that describe the schema. Statistics, other
//! sessions, other roles, values of settings and definitions that quote data are not among them.

/// What of a catalog relation may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogRule {
    /// Columns that read NULL.
    pub masked: &'static [&'static str],
    /// Masked columns that may not be named at the top of a statement: that asks for nothing else. Deeper down they come with
    /// what drivers ask about indexes and the like, and read NULL.
    pub refused: &'static [&'static str],
    /// The whole relation likewise.
    pub nested_only: bool,
    /// Rows, where not all.
    pub rows: Rows,
}

/// Which rows of a catalog are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Whose column of that name is the current database.
    OwnDatabase(&'static str),
    /// Whose column of that name is the current role.
    OwnRole(&'static str),
}

const PLAIN: CatalogRule = CatalogRule { masked: &[], refused: &[], nested_only: false, rows: Rows::All };

const fn masked(columns: &'static [&'static str]) -> CatalogRule {
    CatalogRule { masked: columns, ..PLAIN }
}

const PLAIN_CATALOGS: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_cast",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_index",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_range",
    "pg_rewrite",
    "pg_seclabel",
    "pg_shdescription",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_tables",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
];

/// The rule for pg_settings where all that the statement sees is one setting that tenants may read.
pub const ONE_SETTING: CatalogRule =
    CatalogRule { masked: &["sourcefile", "sourceline"], refused: &["sourcefile", "sourceline"], ..PLAIN };

/// The rule for a relation of pg_catalog or information_schema; `None`: not for tenants.
pub fn rule(schema: &str, name: &str) -> Option<CatalogRule> {
    match (schema, name) {
        ("pg_catalog", "pg_class") => Some(CatalogRule {
            masked: &["reltuples", "relpages", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid"],
            refused: &["reltuples", "relpages", "relallvisible", "relallfrozen"],
            ..PLAIN
        }),
        ("pg_catalog", "pg_database") => {
            Some(CatalogRule { rows: Rows::OwnDatabase("datname"), ..masked(&["datfrozenxid", "datminmxid"]) })
        }
        ("pg_catalog", "pg_roles") => {
            Some(CatalogRule { nested_only: true, rows: Rows::OwnRole("rolname"), ..masked(&["rolpassword", "rolconfig"]) })
        }
        ("pg_catalog", "pg_settings") => Some(CatalogRule {
            masked: &["setting", "boot_val", "reset_val", "sourcefile", "sourceline", "min_val", "max_val"],
            refused: &["setting", "boot_val", "reset_val", "sourcefile", "sourceline"],
            ..PLAIN
        }),
        ("pg_catalog", "pg_proc") => Some(masked(&["prosrc", "probin", "prosqlbody"])),
        ("pg_catalog", "pg_indexes" | "pg_views" | "pg_matviews" | "pg_rules") => Some(masked(&["definition"])),
        ("pg_catalog", name) => PLAIN_CATALOGS.contains(&name).then_some(PLAIN),
        ("information_schema", "views" | "routines" | "triggers") => {
            Some(masked(&["view_definition", "routine_definition", "action_statement"]))
        }
        ("information_schema", name) => (!name.contains("role") && !name.contains("user")).then_some(PLAIN),
        (_, _) => None,
    }
}
