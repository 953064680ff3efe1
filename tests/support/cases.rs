//! Files of cases (`tests/isolation/*.md`): their blocks, who asks, and what is sent.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bulkhead::catalog::{Catalog, SNAPSHOT_SQL};
use bulkhead::config::Level;
use bulkhead::gate::{Context, Gate, Protocol};
use bulkhead::policy::model::PolicyModel;
use bulkhead::principal::{Access, Principal, Tenant, TenantSet};

use super::cluster::Cluster;
use super::wire::Wire;

/// A piece of a file; all pieces together are the file.
pub enum Block {
    Text(String),
    /// Level and line.
    Heading(usize, String),
    /// Language and lines.
    Code(String, String),
}

pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.split_inclusive('\n');
    let mut plain = String::new();
    while let Some(line) = lines.next() {
        let level = line.chars().take_while(|c| *c == '#').count();
        let fence = line.trim_end().strip_prefix("```");
        if level == 0 && fence.is_none() {
            plain += line;
            continue;
        }
        if !plain.is_empty() {
            blocks.push(Block::Text(std::mem::take(&mut plain)));
        }
        match fence {
            None => blocks.push(Block::Heading(level, line.to_owned())),
            Some(kind) => {
                let body: String = lines.by_ref().take_while(|l| l.trim_end() != "```").collect();
                blocks.push(Block::Code(kind.to_owned(), body));
            }
        }
    }
    if !plain.is_empty() {
        blocks.push(Block::Text(plain));
    }
    blocks
}

/// All `schema` blocks of a file.
pub fn schema(blocks: &[Block]) -> String {
    let code = |b: &Block| match b {
        Block::Code(kind, text) if kind == "schema" => Some(text.clone()),
        Block::Code(_, _) | Block::Text(_) | Block::Heading(_, _) => None,
    };
    blocks.iter().filter_map(code).collect()
}

pub fn is_note(line: &str) -> bool {
    line.starts_with("-- as: ") || line.starts_with("-- error: ")
}

/// `-- as: tenant 7, role support, role audit`; tenant 1 where nothing is said, nobody for `-- as: no tenant`.
pub fn asker(block: &str) -> (Option<String>, Vec<String>) {
    let Some(line) = block.lines().find_map(|l| l.strip_prefix("-- as: ")) else { return (Some("1".to_owned()), Vec::new()) };
    let mut tenant = None;
    let mut roles = Vec::new();
    for item in line.split(',').map(str::trim) {
        match item.split_once(' ') {
            Some(("tenant", value)) => tenant = Some(value.to_owned()),
            Some(("role", value)) => roles.push(value.to_owned()),
            Some(("no", "tenant")) => tenant = None,
            _ => panic!("`-- as: tenant 7, role support`, not {line:?}"),
        }
    }
    (tenant, roles)
}

/// One `sql` block.
pub struct Case {
    pub file: String,
    pub heading: String,
    pub sql: String,
    principal: Principal,
    protocol: Protocol,
    catalog: Arc<Catalog>,
    model: PolicyModel,
}

impl Case {
    /// What would be sent for each statement, or the error.
    pub fn sent(&self) -> Vec<Result<String, String>> {
        let gate = match Gate::new(Level::Strict, self.catalog.clone(), &self.model) {
            Ok(gate) => gate,
            Err(problems) => return vec![Err(format!("{problems:?}"))],
        };
        let context = Context {
            principal: &self.principal,
            search_path: &["public".into()],
            protocol: self.protocol,
            parameter_types: &[],
        };
        gate.explain(&self.sql, &context, None)
            .into_iter()
            .map(|e| e.outcome.map_err(|denial| denial.error.to_string()))
            .collect()
    }
}

/// The cases of one file, in a database of their own.
pub fn cases_of(cluster: &Cluster, name: &str, path: &Path) -> Vec<Case> {
    let blocks = blocks(&fs::read_to_string(path).expect("read a file of cases"));
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("schema.sql");
    fs::write(&file, schema(&blocks)).expect("write the schema");
    cluster.create_database(name, &[&file], &[]);
    let answer = Wire::connect(&cluster.app(name)).expect("a session").query(SNAPSHOT_SQL);
    let snapshot = serde_json::from_str(&answer.scalar().expect("the catalog")).expect("a snapshot");
    let catalog = Arc::new(Catalog::new(snapshot));
    let mut cases: Vec<Case> = Vec::new();
    let mut policies: Vec<(usize, String)> = Vec::new();
    let mut heading = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, text) => {
                policies.retain(|(of, _)| *of < level);
                heading = text.trim().to_owned();
            }
            Block::Code(kind, body) if kind == "toml" => {
                policies.push((heading.chars().take_while(|c| *c == '#').count(), body));
            }
            Block::Code(kind, body) if kind == "sql" => {
                let policy: String = policies.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
                let model = model(name, &policy);
                let (tenant, roles) = asker(&body);
                let sql: String = body.split_inclusive('\n').filter(|l| !is_note(l)).collect();
                let several = pg_query::parse(&sql, 0).is_ok_and(|tree| tree.protobuf.stmts.len() > 1);
                let access = match tenant {
                    Some(tenant) => Access::Fixed(Tenant(tenant.into())),
                    None => Access::Shared { tenants: TenantSet::Any, chosen: None },
                };
                let roles: Vec<Box<str>> = roles.iter().map(|r| r.as_str().into()).collect();
                cases.push(Case {
                    file: path.file_name().expect("a name").to_string_lossy().into_owned(),
                    heading: heading.clone(),
                    sql: sql.trim_end().to_owned(),
                    principal: Principal {
                        user: "case".into(),
                        database: name.into(),
                        roles: roles.into(),
                        access,
                        tenant_setting: None,
                    },
                    protocol: if several { Protocol::Simple } else { Protocol::Extended },
                    catalog: catalog.clone(),
                    model,
                });
            }
            Block::Code(_, _) | Block::Text(_) => {}
        }
    }
    cases
}

fn model(database: &str, policy: &str) -> PolicyModel {
    let directory = tempfile::tempdir().expect("temporary directory");
    fs::write(directory.path().join("policy.toml"), policy).expect("write the policies");
    let all = bulkhead::policy::load::load(directory.path(), &[database.into()]).unwrap_or_else(|e| panic!("{e}"));
    all.of_database(database)
}
