//! tokio-postgres: prepared statements, pipelining, portals, cursors, COPY, transactions, types, cancel. Run by run.py.

use std::env;
use std::fmt::Display;

use futures_util::{StreamExt, TryStreamExt, future, pin_mut};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, IsolationLevel, NoTls, Row, SimpleQueryMessage};

type Done = Result<(), Box<dyn std::error::Error>>;

fn var(name: &str) -> String {
    env::var(name).unwrap_or_default()
}

async fn connect() -> Result<Client, Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(var("PGPORT").parse().unwrap_or(5432))
        .user(var("PGUSER"))
        .password(var("PGPASSWORD"))
        .dbname(var("PGDATABASE"));
    if !var("PGOPTIONS").is_empty() {
        config.options(var("PGOPTIONS"));
    }
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn show<T: Display>(title: &str, rows: impl IntoIterator<Item = T>) {
    println!("== {title}");
    for row in rows {
        println!("   {row}");
    }
}

fn id_and_note(row: &Row) -> String {
    format!("{} {:?}", row.get::<_, i64>(0), row.get::<_, Option<String>>(1))
}

fn failed<T>(what: &str, result: Result<T, Error>) {
    if let Err(error) = result {
        let db = error.as_db_error();
        println!("{what}: {} {}", error.code().map_or("none", |c| c.code()), db.map_or("", |d| d.message()));
    }
}

async fn queries(client: &Client, base: i64, canary: &str) -> Done {
    show("query", client.query("SELECT id, note FROM accounts ORDER BY id", &[]).await?.iter().map(id_and_note));
    let statement = client.prepare("SELECT id, note FROM accounts WHERE id = $1 AND note LIKE $2").await?;
    println!(
        "prepared {:?} {:?}",
        statement.params(),
        statement.columns().iter().map(|c| c.name().to_owned()).collect::<Vec<_>>()
    );
    let pattern = format!("{canary}%");
    let ids: Vec<i64> = (0..20).map(|i| base + i).collect();
    // All of them are sent before the first is answered.
    let all = future::try_join_all(ids.iter().map(|id| {
        let (statement, pattern) = (&statement, &pattern);
        async move { client.query(statement, &[id as &(dyn ToSql + Sync), pattern]).await }
    }))
    .await?;
    show("pipelined", all.iter().flatten().map(id_and_note));
    // A type that the driver does not know: it asks the catalog.
    let enums = client
        .prepare("SELECT status, home FROM orders o JOIN accounts a ON a.id = o.account_id WHERE status = $1 LIMIT 1")
        .await?;
    println!(
        "types {:?} {:?}",
        enums.params()[0].kind(),
        enums.columns().iter().map(|c| c.type_().name().to_owned()).collect::<Vec<_>>()
    );
    let raw = client.query_raw("SELECT id, note FROM accounts WHERE id = ANY($1) ORDER BY id", [&ids]).await?;
    show("streamed", raw.try_collect::<Vec<_>>().await?.iter().map(id_and_note));
    for message in
        client.simple_query("SELECT id, note FROM accounts ORDER BY id LIMIT 2; SELECT count(*) FROM orders; SELECT 1").await?
    {
        match message {
            SimpleQueryMessage::Row(row) => println!("simple {:?}", row.get(0)),
            SimpleQueryMessage::CommandComplete(n) => println!("complete {n}"),
            _ => {}
        }
    }
    println!(
        "typed {:?}",
        client
            .query_typed("SELECT email FROM accounts WHERE id = $1", &[(&(base + 1), tokio_postgres::types::Type::INT8)])
            .await?[0]
            .get::<_, String>(0)
    );
    for bad in ["SELECT 1/0", "SELECT nope FROM accounts", "SELECT * FROM nothing", "SELEC"] {
        failed(bad, client.query(bad, &[]).await);
    }
    Ok(())
}

async fn writes(client: &mut Client, base: i64, canary: &str) -> Done {
    let tenant = (base / 1000) as i32;
    let insert = client.prepare("INSERT INTO accounts (id, email, note) VALUES ($1, $2, $3) RETURNING tenant_id").await?;
    for i in 0..5 {
        let row = client.query_one(&insert, &[&(base + 400 + i), &format!("tokio{i}@{canary}"), &canary]).await?;
        println!("inserted for {}", row.get::<_, i32>(0) == tenant);
    }
    let named = client
        .execute(
            "INSERT INTO accounts (id, tenant_id, email) VALUES ($1, $2, $3)",
            &[&(base + 410), &tenant, &format!("named@{canary}")],
        )
        .await?;
    println!("named {named}");
    let transaction = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    println!(
        "updated {}",
        transaction
            .execute("UPDATE accounts SET note = note WHERE id >= $1 AND id < $2", &[&(base + 400), &(base + 500)])
            .await?
    );
    transaction.commit().await?;
    let mut outer = client.transaction().await?;
    let inner = outer.savepoint("sp").await?;
    println!("deleted {}", inner.execute("DELETE FROM orders", &[]).await?);
    inner.rollback().await?;
    let portal = outer.bind("SELECT id, note FROM accounts ORDER BY id", &[]).await?;
    for _ in 0..3 {
        show("portal", outer.query_portal(&portal, 6).await?.iter().map(id_and_note));
    }
    outer.batch_execute("DECLARE c CURSOR FOR SELECT id, email FROM accounts ORDER BY id").await?;
    show("cursor", outer.query("FETCH 4 FROM c", &[]).await?.iter().map(id_and_note));
    outer.batch_execute("CLOSE c").await?;
    outer.rollback().await?;
    println!(
        "cleaned {}",
        client.execute("DELETE FROM accounts WHERE id >= $1 AND id < $2", &[&(base + 400), &(base + 500)]).await?
    );
    Ok(())
}

async fn copy_and_cancel(client: &Client) -> Done {
    let out = client.copy_out("COPY (SELECT id, email, note FROM accounts ORDER BY id) TO STDOUT").await?;
    pin_mut!(out);
    while let Some(chunk) = out.next().await {
        print!("{}", String::from_utf8_lossy(&chunk?));
    }
    let token = client.cancel_token();
    let long = client.query("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f", &[]);
    pin_mut!(long);
    // Long enough to have been sent; the statement itself would take minutes.
    let timer = tokio::time::sleep(std::time::Duration::from_millis(300));
    tokio::select! {
        _ = &mut long => println!("the long statement ended by itself"),
        () = timer => {
            token.cancel_query(NoTls).await?;
            failed("cancelled", long.await);
        }
    }
    println!("after {}", client.query_one("SELECT count(*) FROM accounts", &[]).await?.get::<_, i64>(0));
    client.batch_execute("SET application_name = 'tokio'").await?;
    // A command that resets the session stands with its like only: the proxy answers it, and one string has one answerer.
    client.batch_execute("RESET ALL; UNLISTEN *; CLOSE ALL; DEALLOCATE ALL; SELECT pg_advisory_unlock_all()").await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Done {
    let (canary, base) = (var("DRIVER_CANARY"), var("DRIVER_TENANT").parse::<i64>()? * 1000);
    let mut client = connect().await?;
    queries(&client, base, &canary).await?;
    writes(&mut client, base, &canary).await?;
    copy_and_cancel(&client).await?;
    let many = future::try_join_all((0..8).map(|_| connect())).await?;
    let counts = future::try_join_all(many.iter().map(|c| c.query_one("SELECT count(*) FROM accounts", &[]))).await?;
    show("connections", counts.iter().map(|r| r.get::<_, i64>(0)));
    Ok(())
}
