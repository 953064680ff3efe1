//! Which functions a tenant may call. Default: no.
//!
//! A function of pg_catalog that is immutable reads nothing but its arguments, so it is allowed unless it is listed as
//! refused. One that is stable or volatile is allowed if it is listed here, each for what it cannot do: read rows, files,
//! other sessions or settings that it is not told to, or run SQL that comes as text.

use crate::catalog::Function;
use crate::sql::analyse::utility::{TENANT_SETTING, is_readable};
use crate::sql::analyse::{Argument, FunctionUse};

/// Stable and volatile functions of pg_catalog that are allowed.
const ALLOWED: &[&str] = &[
    // the clock
    "age",
    "clock_timestamp",
    "date",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "isfinite",
    "make_interval",
    "make_timestamptz",
    "now",
    "overlaps",
    "statement_timestamp",
    "time",
    "timeofday",
    "timestamp",
    "timestamptz",
    "timetz",
    "timezone",
    "transaction_timestamp",
    "generate_series",
    "to_char",
    "to_date",
    "to_timestamp",
    "interval_pl_timestamptz",
    "timestamptz_mi_interval",
    "timestamptz_pl_interval",
    // numbers and money, by the locale's settings
    "money",
    "numeric",
    "to_number",
    // text, arrays, json: stable because output functions may be
    "array_to_json",
    "array_to_string",
    "array_to_tsvector",
    "concat",
    "concat_ws",
    "format",
    "format_type",
    "quote_literal",
    "quote_nullable",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "json_populate_record",
    "json_populate_recordset",
    "json_to_record",
    "json_to_recordset",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "row_to_json",
    "to_json",
    "to_jsonb",
    "string_to_table",
    "text",
    "textanycat",
    "anytextcat",
    "xpath",
    "xpath_exists",
    "xmlexists",
    "xml_is_well_formed",
    "xml_is_well_formed_content",
    "xml_is_well_formed_document",
    "xmlcomment",
    "xmlvalidate",
    "convert_from",
    "convert_to",
    "jsonb_path_exists_tz",
    "jsonb_path_match_tz",
    "jsonb_path_query_array_tz",
    "jsonb_path_query_first_tz",
    "jsonb_path_query_tz",
    "array_agg",
    "string_agg",
    "bpchar",
    "enum_first",
    "enum_last",
    "enum_range",
    "record_out",
    "array_out",
    "num_nulls",
    "num_nonnulls",
    // full text search with the default configuration
    "json_to_tsvector",
    "jsonb_to_tsvector",
    "phraseto_tsquery",
    "plainto_tsquery",
    "to_tsquery",
    "to_tsvector",
    "ts_headline",
    "ts_lexize",
    "websearch_to_tsquery",
    "get_current_ts_config",
    // the transaction's own number, which rows show as xmin
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "txid_current",
    "txid_current_if_assigned",
    // random values
    "gen_random_uuid",
    "random",
    "random_normal",
    "uuidv4",
    "uuidv7",
    // who and where
    "current_database",
    "current_schema",
    "current_schemas",
    "current_user",
    "getpgusername",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "pg_backend_pid",
    "pg_conf_load_time",
    "pg_is_in_recovery",
    "pg_postmaster_start_time",
    "pg_my_temp_schema",
    "pg_trigger_depth",
    "session_user",
    "version",
    "pg_typeof",
    "pg_jit_available",
    "getdatabaseencoding",
    "pg_client_encoding",
    // what drivers, ORMs and psql ask the catalog
    "col_description",
    "has_any_column_privilege",
    "has_column_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_schema_privilege",
    "has_sequence_privilege",
    "has_table_privilege",
    "has_type_privilege",
    "obj_description",
    "pg_char_to_encoding",
    "pg_collation_for",
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_describe_object",
    "pg_encoding_to_char",
    "pg_function_is_visible",
    "pg_get_constraintdef",
    "pg_get_expr",
    "pg_get_function_arg_default",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_indexdef",
    "pg_get_keywords",
    "pg_get_partition_constraintdef",
    "pg_get_partkeydef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef",
    "pg_get_statisticsobjdef_columns",
    "pg_get_triggerdef",
    "pg_get_userbyid",
    "pg_opclass_is_visible",
    "pg_operator_is_visible",
    "pg_opfamily_is_visible",
    "pg_relation_is_publishable",
    "pg_relation_is_updatable",
    "pg_column_is_updatable",
    "pg_statistics_obj_is_visible",
    "pg_table_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
    "pg_type_is_visible",
    "pg_partition_root",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "shobj_description",
    "to_regclass",
    "to_regcollation",
    "to_regnamespace",
    "to_regoper",
    "to_regoperator",
    "to_regproc",
    "to_regprocedure",
    "to_regrole",
    "to_regtype",
    "pg_options_to_table",
    "pg_index_column_has_property",
    "pg_index_has_property",
    "pg_indexam_has_property",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "aclexplode",
    "acldefault",
    "regclass",
    "pg_get_viewdef",
    "pg_get_ruledef",
    "pg_has_role",
    "pg_tablespace_location",
    "oidvectortypes",
    "pg_listening_channels",
    "pg_identify_object",
    // sizes read NULL (see `MASKED`)
    "pg_column_size",
];

/// Functions of pg_catalog whose result is a size of all tenants' rows, or source text: they read NULL.
pub const MASKED: &[&str] = &[
    "pg_database_size",
    "pg_get_function_sqlbody",
    "pg_indexes_size",
    "pg_relation_size",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
];

/// Immutable functions of pg_catalog that are refused all the same.
const REFUSED: &[&str] = &["pg_stat_get_backend_idset", "ts_rewrite"];

/// Extensions whose immutable functions and operators read nothing but their arguments.
const TRUSTED_EXTENSIONS: &[&str] = &[
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "seg",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// What policy says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// Its result is replaced by NULL.
    Masked,
    Refused,
}

/// Judges one use: every candidate must be allowed. `admitted`: functions that `[[allow]]` names for these roles.
pub fn judge(call: &FunctionUse, candidates: &[&Function], admitted: &dyn Fn(&str, &str) -> bool, settings: &[&str]) -> Verdict {
    if candidates.iter().all(|f| f.schema == "pg_catalog" && MASKED.contains(&f.name.as_str())) {
        return Verdict::Masked;
    }
    let is_admitted = |f: &&Function| admitted(&f.schema, &f.name);
    let allowed = candidates.iter().all(|f| is_admitted(f) || is_allowed(f));
    let told = arguments_allowed(call, settings) || call.name == "currval" && candidates.iter().all(is_admitted);
    if allowed && told { Verdict::Allowed } else { Verdict::Refused }
}

/// What helps who may not call it.
pub fn hint(name: &str) -> &'static str {
    if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") {
        return "keys of advisory locks are shared by all tenants: lock a row of the tenant's own (SELECT .. FOR UPDATE)";
    }
    "a policy file can admit it: [[allow]] functions = [..]"
}

/// Whether a function may be called without an `[[allow]]`.
pub(super) fn is_allowed(f: &Function) -> bool {
    let name = f.name.as_str();
    if f.schema == "pg_catalog" {
        let pure = matches!(f.kind, 'a' | 'w') || f.volatility == 'i';
        return f.kind != 'p'
            && !REFUSED.contains(&name)
            && (pure
                || ALLOWED.contains(&name)
                || compares_times(name)
                || is_sequence(name)
                || matches!(name, "current_setting" | "set_config"));
    }
    if f.schema == "information_schema" {
        return f.volatility == 'i';
    }
    let trusted = f.extension.as_deref().is_some_and(|e| TRUSTED_EXTENSIONS.contains(&e));
    trusted
        && (f.volatility == 'i'
            || matches!(name, "gen_random_bytes" | "gen_salt" | "gen_random_uuid" | "uuid_generate_v4" | "uuid_generate_v1"))
}

/// What the comparison operators between dates and times call (`timestamp_lt_timestamptz`): stable for the time zone.
fn compares_times(name: &str) -> bool {
    let is_type = |word: &str| matches!(word, "date" | "timestamp" | "timestamptz");
    let is_comparison = |word: &str| matches!(word, "lt" | "le" | "eq" | "ne" | "ge" | "gt" | "cmp");
    let mut words = name.split('_');
    words.next().is_some_and(is_type)
        && words.next().is_some_and(is_comparison)
        && words.next().is_some_and(is_type)
        && words.next().is_none()
}

/// Functions of sequences: which sequence is judged by its name, and whether its last value is the client's own by the session.
fn is_sequence(name: &str) -> bool {
    matches!(name, "nextval" | "currval" | "lastval")
}

/// Settings that `set_config` may change, until the end of the transaction (analysis makes it so): they change how long a
/// statement takes and nothing else.
const PLANNER_SETTINGS: &[&str] = &["jit", "enable_seqscan", "enable_indexscan", "enable_bitmapscan", "enable_nestloop"];

/// Parameters that must name a readable setting.
pub fn setting_parameters(call: &FunctionUse) -> Option<u16> {
    match (call.name.as_str(), call.arguments.first()) {
        ("current_setting", Some(Argument::Parameter(n))) => Some(*n),
        (_, _) => None,
    }
}

/// Functions whose arguments name what they read. `settings`: those of the application's own that policy admits.
pub(super) fn arguments_allowed(call: &FunctionUse, settings: &[&str]) -> bool {
    let is_own = |name: &str| settings.iter().any(|s| s.eq_ignore_ascii_case(name));
    match call.name.as_str() {
        "current_setting" => match call.arguments.first() {
            Some(Argument::Text(name)) => is_readable(name) || name.eq_ignore_ascii_case(TENANT_SETTING) || is_own(name),
            // Checked when the value is bound.
            Some(Argument::Parameter(_)) => true,
            Some(Argument::Sequence(_) | Argument::Other) | None => false,
        },
        "set_config" => match call.arguments.first() {
            // What comes from a row must not be kept where a later statement reads it.
            Some(Argument::Text(name)) if is_own(name) => {
                matches!(call.arguments.get(1), Some(Argument::Text(_) | Argument::Parameter(_)))
                    || crate::mutant!("names.set-config-keeps-rows")
            }
            Some(Argument::Text(name)) => PLANNER_SETTINGS.contains(&name.as_str()),
            Some(Argument::Parameter(_) | Argument::Sequence(_) | Argument::Other) | None => false,
        },
        "nextval" | "currval" => matches!(call.arguments.first(), Some(Argument::Sequence(_))),
        _ => true, // tidy: not a syntax kind
    }
}

/// Whether an operator of that extension may be used.
pub fn trusts_operator(extension: Option<&str>) -> bool {
    extension.is_some_and(|e| TRUSTED_EXTENSIONS.contains(&e))
}
