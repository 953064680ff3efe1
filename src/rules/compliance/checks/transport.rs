//! **transport**: clients must use TLS, and servers are verified, or on this machine
//!
//! TLS 1.2 or newer. `sslmode=verify-full` (or a unix socket, or the loopback address) to each server.

use super::none_of;
use crate::rules::compliance::{ClientTls, Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule = Rule {
    name: "transport",
    kind: Kind::Enforced,
    says: "clients must use TLS, and servers are verified, or on this machine",
    evidence: &["tls"],
    period_days: 30,
    look,
};

fn look(_: &Control, facts: &Facts, _: &Evidence) -> Finding {
    match facts.client_tls {
        ClientTls::Off => Finding::Fails("TLS is not offered to clients".to_owned()),
        ClientTls::Offered => Finding::Fails("clients may do without TLS ([server] tls_required)".to_owned()),
        ClientTls::Required => {
            let unverified = facts.unverified_servers.iter().map(String::as_str);
            none_of(unverified, "clients must use TLS, servers are verified or on this machine", "the server is not verified, of")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::checks::tests::{fails, holds};

    #[test]
    fn what_it_finds() {
        let facts = |client_tls, servers: &[&str]| Facts {
            client_tls,
            unverified_servers: servers.iter().map(|name| (*name).to_owned()).collect(),
            ..Facts::default()
        };
        holds(&RULE, &[], &facts(ClientTls::Required, &[]));
        fails(&RULE, &[], &facts(ClientTls::Required, &["shop"]), "shop");
        fails(&RULE, &[], &facts(ClientTls::Offered, &[]), "tls_required");
        fails(&RULE, &[], &facts(ClientTls::Off, &[]), "not offered");
    }
}
