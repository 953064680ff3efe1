//! Any text, reviewed for a tenant of the demo shop, by both protocols: plans or a denial, never a panic. The gate itself
//! parses again and checks what it prints.
#![no_main]
use std::sync::{Arc, LazyLock};

use bulkhead::catalog::Catalog;
use bulkhead::config::Level;
use bulkhead::gate::{Context, Gate, Protocol};
use bulkhead::policy::load;
use bulkhead::principal::{Access, Principal, Tenant};

static GATE: LazyLock<Gate> = LazyLock::new(|| {
    let path = std::env::var("BULKHEAD_FUZZ_CATALOG").expect("tests/fuzz/run sets it");
    let snapshot = serde_json::from_str(&std::fs::read_to_string(path).expect("catalog")).expect("catalog");
    let shop = include_str!("../../../policies/shop.toml").to_owned();
    let policies = load::read(vec![("shop.toml".into(), shop)], &["shop".to_owned()]).expect("the shipped policies");
    Gate::new(Level::Strict, Arc::new(Catalog::new(snapshot)), &policies).expect("the shipped policies fit the shop")
});

static ACME: LazyLock<Principal> = LazyLock::new(|| Principal {
    user: "acme".into(),
    database: "shop".into(),
    roles: Arc::from(["support".into()]), // has a row rule
    access: Access::Fixed(Tenant("acme".into())),
    tenant_setting: None,
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for protocol in [Protocol::Simple, Protocol::Extended] {
        let search_path = ["pg_catalog".into(), "public".into()];
        let context = Context { principal: &ACME, search_path: &search_path, protocol, parameter_types: &[] };
        let _ = GATE.review(text, &context);
    }
});
