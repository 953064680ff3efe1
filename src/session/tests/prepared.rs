//! PREPARE and EXECUTE as SQL: names are the client's, statements are everybody's, tenants nobody else's.

use super::*;

#[test]
fn as_directly() {
    same_as_direct(include_str!("../../../tests/wire/prepared.pt"));
}

#[test]
fn a_name_is_the_clients_and_the_tenant_the_callers() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    let mut b = proxy.connect("two");
    a.run("prepare p as select 'a' || :tenant: || $1");
    assert_eq!(b.fails("execute p('x')"), "26000");
    b.run("prepare p as select 'b' || :tenant: || $1");
    // The same text as that of the other: one statement upstream.
    b.run("prepare q as select 'a' || :tenant: || $1");
    for _ in 0..2 {
        assert_eq!(a.run("execute p('x')"), ["a1x"]);
        assert_eq!(b.run("execute p('y'); execute q('z')"), ["b2y", "a2z"]);
    }
    a.run("deallocate p");
    assert_eq!(a.fails("execute p('x')"), "26000");
    assert_eq!(b.run("execute p('y')"), ["b2y"]);
    b.run("discard all");
    assert_eq!(b.fails("execute q('y')"), "26000");
}

#[test]
fn nobody_is_pinned_and_every_backend_will_do() {
    let proxy = Proxy::start(2);
    let mut a = proxy.connect("one");
    let mut others = [proxy.connect("two"), proxy.connect("two")];
    a.run("prepare p as select pg_backend_pid() || :tenant:");
    let mut seen = std::collections::BTreeSet::new();
    others[0].run("begin");
    others[0].run("select 1");
    seen.extend(a.run("execute p"));
    others[1].run("begin");
    others[1].run("select 1");
    others[0].run("rollback");
    seen.extend(a.run("execute p"));
    assert_eq!(seen.len(), 2, "two backends: {seen:?}");
}

#[test]
fn what_one_tenant_prepared_another_executes_for_itself() {
    let proxy = Proxy::start(1);
    let mut web = proxy.connect("web");
    web.run("prepare early as select :tenant:");
    assert_eq!(web.fails("execute early"), "42501", "no tenant is chosen");
    let execute = |web: &mut Wire| {
        bind(web.out(), "", "kept", &[]);
        frontend::put_execute(web.out(), "", 0);
        sync(web)
    };
    web.run("set bulkhead.tenant = '1'");
    assert_eq!(web.run("execute early"), ["1"]);
    frontend::put_parse(web.out(), "kept", "execute early", &[]);
    assert_eq!(tags(&sync(&mut web)), "1Z");
    assert_eq!(execute(&mut web)[1].body, b"\0\x01\0\0\0\x011");
    web.run("set bulkhead.tenant = '2'");
    assert_eq!(web.run("execute early"), ["2"]);
    assert_eq!(execute(&mut web)[1].body, b"\0\x01\0\0\0\x012", "the tenant's value stands in the text of this one");
    web.run("reset bulkhead.tenant");
    assert_eq!(web.fails("execute early"), "42501");
    assert_eq!(codes(&execute(&mut web)), ["42501"]);
    web.run("begin; select 1");
    assert_eq!(web.fails("execute early"), "42501");
    assert_eq!(web.fails("select 1"), "25P02", "a refusal fails the transaction");
    web.run("rollback");
}

#[test]
fn an_old_review_is_made_again() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    a.run("prepare zero as select 0; prepare p as select ':path:' || $1");
    assert_eq!(a.run("execute p('')"), ["app|public"]);
    a.run("set search_path to other");
    assert_eq!(a.run("execute p('')"), ["other"]);
    frontend::put_parse(a.out(), "e", "execute p('!')", &[]);
    assert_eq!(tags(&sync(&mut a)), "1Z");
    for (path, shown) in [("third", "third!"), ("public", "public!")] {
        a.run(&format!("set search_path to {path}"));
        bind(a.out(), "", "e", &[]);
        frontend::put_execute(a.out(), "", 0);
        assert_eq!(sync(&mut a)[1].body[6..], *shown.as_bytes());
    }
    proxy.gate.epoch.fetch_add(1, Ordering::Relaxed);
    assert_eq!(a.run("execute p('?')"), ["public?"]);
    // The name means another statement by now.
    a.run("deallocate p");
    a.run("prepare p as select 'new' || $1");
    bind(a.out(), "", "e", &[]);
    frontend::put_execute(a.out(), "", 0);
    assert_eq!(sync(&mut a)[1].body[6..], *b"new!");
}

#[test]
fn rows_of_the_proxy_s_own_stay_hidden() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    a.run("prepare h as select 'hidden' || $1");
    assert_eq!(tags(&a.query("execute h('x')")), "CZ");
    frontend::put_parse(a.out(), "", "execute h('x')", &[]);
    frontend::put_describe(a.out(), Target::Statement(""));
    bind(a.out(), "", "", &[]);
    frontend::put_describe(a.out(), Target::Portal(""));
    frontend::put_execute(a.out(), "", 0);
    assert_eq!(tags(&sync(&mut a)), "1tn2nCZ");
}

#[test]
fn a_result_type_that_changed_fails_once() {
    let proxy = Proxy::start(1);
    table(&proxy, "executed_before_and_after");
    let mut a = proxy.connect("one");
    a.run("prepare p as select * from executed_before_and_after");
    a.run("execute p");
    proxy.direct().run("alter table executed_before_and_after add b int");
    assert_eq!(a.fails("execute p"), "0A000");
    a.run("execute p");
}

/// The name that a statement has upstream is no name of the client's.
#[test]
fn what_is_upstream_cannot_be_named() {
    let proxy = Proxy::start(1);
    let mut a = proxy.connect("one");
    a.run("prepare p as select 1");
    a.run("execute p");
    let upstream = a.run("select name from pg_prepared_statements");
    assert!(!upstream.is_empty());
    for name in upstream {
        assert_eq!(a.fails(&format!("execute {name}")), "26000");
        assert_eq!(a.fails(&format!("deallocate {name}")), "26000");
    }
}
