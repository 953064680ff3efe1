//! `bulkhead audit values | erase`: values that the audit log tells because a policy wants it.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::audit::{Done, LogArgs, Trouble};
use super::{Common, Outcome, complain_of, say};
use crate::audit::values::{About, LONGEST, ValueKey, ValueKeys};

#[derive(Debug, clap::Args)]
pub(super) struct ValuesArgs {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    keys: KeysArgs,
    /// Those of this tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Those of columns of this class, and of what is within it: pii is for pii.email too
    #[arg(long)]
    class: Option<String>,
    /// Statements with this value: the only way to find one that is told as a pseudonym. As PostgreSQL prints it
    #[arg(long, value_name = "VALUE")]
    equals: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct EraseArgs {
    #[command(flatten)]
    keys: KeysArgs,
    /// Of this tenant
    #[arg(long)]
    tenant: String,
    /// Of columns of this class, and of what is within it; without it, of all
    #[arg(long)]
    class: Option<String>,
}

#[derive(Debug, clap::Args)]
struct KeysArgs {
    /// Directory of the keys; without it, [audit] value_keys of the configuration
    #[arg(long, value_name = "DIRECTORY")]
    keys: Option<PathBuf>,
}

impl KeysArgs {
    fn open(&self, common: &Common) -> Result<ValueKeys, Trouble> {
        let keys = self.find(common)?;
        // Who names another by mistake is not told that there is nothing.
        match keys.directory().is_dir() {
            true => Ok(keys),
            false => Err(Trouble::Other(format!(
                "there is no directory {}: no value was told yet, or its keys are elsewhere",
                keys.directory().display()
            ))),
        }
    }

    fn find(&self, common: &Common) -> Result<ValueKeys, Trouble> {
        if let Some(path) = &self.keys {
            return Ok(ValueKeys::in_directory(path));
        }
        let config = common.load().map_err(|problems| Trouble::Other(problems.render(false)))?;
        let audit = config.audit.ok_or_else(|| Trouble::Other("the configuration has no [audit] path".to_owned()))?;
        Ok(ValueKeys::in_directory(&audit.value_keys))
    }
}

fn unreadable(error: std::io::Error) -> Trouble {
    Trouble::Other(format!("the keys of values: {error}"))
}

/// `pii` is for `pii.email` too.
fn is_within(class: &str, wanted: Option<&String>) -> bool {
    wanted.is_none_or(|wanted| class.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

pub(super) fn values(common: &Common, args: &ValuesArgs) -> Done {
    let reader = args.log.open(common)?;
    let keys = args.keys.open(common)?.all().map_err(unreadable)?;
    let mut found = false;
    let (mut erased, mut more) = (0u64, 0u64);
    reader.records(0, |read| {
        let Ok(record) = serde_json::from_slice::<Value>(read.json) else { return true };
        let text = |name: &str| record[name].as_str().unwrap_or("-");
        let tenant = record["tenant"].as_str();
        more += record["more_values"].as_u64().unwrap_or(0);
        for told in record["values"].as_array().into_iter().flatten() {
            let class = told["class"].as_str().unwrap_or_default();
            if !is_within(class, args.class.as_ref()) || args.tenant.as_deref().is_some_and(|wanted| tenant != Some(wanted)) {
                continue;
            }
            let column = told["column"].as_str().unwrap_or_default();
            let key = keys.iter().find(|key| told["key"] == key.id());
            for value in ["hmac", "sealed"].into_iter().filter_map(|how| told[how].as_array()).flatten() {
                let value = value.as_str().unwrap_or_default();
                let is_pseudonym = told["hmac"].is_array();
                erased += u64::from(key.is_none());
                let Some(shown) = shown(value, is_pseudonym, column, key, args.equals.as_deref()) else { continue };
                found = true;
                let (index, time, user, command) = (read.index, text("time"), text("user"), text("command"));
                // On one line, whatever is in it.
                let shown = shown.escape_debug();
                say(&format!("{index} {time} {user} tenant={} {command} {column} = {shown}\n", tenant.unwrap_or("-")));
            }
        }
        true
    })?;
    if more > 0 {
        complain_of(format!("{more} values more were in statements of more than ten thousand, and are not told"));
    }
    if args.equals.is_some() && erased > 0 {
        complain_of(format!("{erased} values cannot be compared: their keys are erased, or elsewhere"));
    } else if !found {
        complain_of("no values are told of these");
    }
    Ok(if found { Outcome::Fine } else { Outcome::FoundSomethingWrong })
}

/// `None`: it is another value than what is looked for.
fn shown(told: &str, is_pseudonym: bool, column: &str, key: Option<&Arc<ValueKey>>, wanted: Option<&str>) -> Option<String> {
    let Some(key) = key else { return wanted.is_none().then(|| "(its key is erased)".to_owned()) };
    if is_pseudonym {
        return match wanted {
            Some(wanted) => (key.pseudonym(column, wanted.as_bytes()) == told).then(|| wanted.to_owned()),
            None => Some(format!("(pseudonym {told})")),
        };
    }
    match key.open(column, told) {
        // Of a long one its beginning was sealed.
        Some(value) if value.len() == LONGEST => wanted
            .is_none_or(|wanted| wanted.as_bytes().starts_with(&value))
            .then(|| String::from_utf8_lossy(&value).into_owned() + "..."),
        Some(value) => {
            wanted.is_none_or(|wanted| value == wanted.as_bytes()).then(|| String::from_utf8_lossy(&value).into_owned())
        }
        None => wanted.is_none().then(|| "(it is not what was sealed)".to_owned()),
    }
}

pub(super) fn erase(common: &Common, args: &EraseArgs) -> Done {
    let keys = args.keys.open(common)?;
    let is_meant =
        |about: &About| about.tenant.as_deref() == Some(args.tenant.as_str()) && is_within(&about.class, args.class.as_ref());
    let count = keys.erase(is_meant).map_err(unreadable)?;
    if count == 0 {
        say(&format!("There is no such key in {}: nothing was told, or it is erased already.\n", keys.directory().display()));
        return Ok(Outcome::FoundSomethingWrong);
    }
    let keys = if count == 1 { "key is" } else { "keys are" };
    say(&format!(
        "{count} {keys} destroyed: nobody can read, or compare, what was told with them. Copies of them elsewhere are yours to destroy.\n\
         A proxy that runs forgets them within seconds, and records it.\n"
    ));
    Ok(Outcome::Fine)
}
