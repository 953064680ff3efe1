//! Files of cases (`tests/isolation/*.md`): their blocks, and who asks.

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
