//! The tour: each stop shows what a client sees, and checks it.

use std::io::{IsTerminal, Write};

use super::Stop;
use super::cluster::{Cluster, output, psql};
use super::servers::Proxy;

/// How to write: colours only on a terminal that wants them.
pub(super) struct Terminal {
    colours: bool,
}

#[derive(Clone, Copy)]
enum Style {
    Title,
    Sql,
    Good,
    Bad,
    Faint,
}

/// What must be in an answer, and what must not.
struct Expect {
    has: &'static [&'static str],
    lacks: &'static [&'static str],
    /// In the tour's words.
    meaning: &'static str,
}

struct Tour<'a> {
    terminal: &'a Terminal,
    proxy: &'a Proxy,
    failed: usize,
    stops: usize,
}

const CUSTOMERS: &str = "SELECT id, name, city FROM customers ORDER BY id";

/// A fingerprint of everything that is not acme's: the tour, which writes as acme, must not change it.
const OTHERS: &str = "SELECT md5(string_agg(r::text, '|' ORDER BY r::text)) FROM (
  SELECT c::text AS r FROM customers c WHERE tenant_id <> 'acme' UNION ALL
  SELECT o::text FROM orders o WHERE tenant_id <> 'acme' UNION ALL
  SELECT i::text FROM order_items i WHERE tenant_id <> 'acme' UNION ALL SELECT p::text FROM products p) s";

/// Walks through all stops; how many checks failed.
pub(super) async fn walk(terminal: &Terminal, cluster: &Cluster, proxy: &Proxy) -> Result<usize, Stop> {
    let before = cluster.behind(OTHERS).await?;
    let mut tour = Tour { terminal, proxy, failed: 0, stops: 0 };
    tour.same_select().await?;
    tour.shared_login().await?;
    tour.writes().await?;
    let after = cluster.behind(OTHERS).await?;
    tour.check(before == after, "looking past Bulkhead: the other tenants' rows are byte for byte what they were");
    tour.injection().await?;
    tour.refusals().await?;
    tour.explain().await?;
    let after = cluster.behind(OTHERS).await?;
    tour.check(before == after, "after everything: still byte for byte what they were");
    Ok(tour.failed)
}

/// How to go on by oneself.
pub(super) fn invite(terminal: &Terminal, proxy: &Proxy) {
    let Proxy { port, admin_port, config, program, .. } = proxy;
    terminal.line(Style::Title, "\nNow you. Passwords are the user names.");
    for (user, note) in [
        ("acme", "a tenant; so are globex and initech"),
        ("acme_support", "acme's support staff: a row rule hides delivered orders"),
        ("web", "a shared login: SET bulkhead.tenant = 'globex' first"),
        ("owner", "unrestricted: DDL and cross-tenant work"),
    ] {
        let command = format!("psql postgres://{user}:{user}@127.0.0.1:{port}/shop");
        terminal.line(Style::Sql, &format!("  {command:<62} # {note}"));
    }
    let program = program.display();
    let config = config.display();
    terminal.line(Style::Sql, &format!("  {program} explain --config {config} --tenant acme --role app \"SELECT ...\""));
    terminal.line(Style::Sql, &format!("  curl http://127.0.0.1:{admin_port}/metrics"));
    terminal.line(Style::Faint, "Ctrl-C stops both servers and removes everything.");
}

impl Tour<'_> {
    async fn same_select(&mut self) -> Result<(), Stop> {
        self.stop("The same SELECT, two tenants", "One table holds all tenants' rows; neither statement names a tenant.");
        self.sql("acme, globex", CUSTOMERS);
        let acme = self.ask("acme", &[CUSTOMERS]).await?;
        let globex = self.ask("globex", &[CUSTOMERS]).await?;
        self.terminal.plain(&side_by_side(&acme, &globex));
        self.expect(
            &acme,
            &Expect { has: &["Maria Santos"], lacks: &["Scorpio", "Lumbergh"], meaning: "acme sees acme's customers only" },
        );
        self.expect(&globex, &Expect { has: &["Scorpio"], lacks: &["Maria", "Lumbergh"], meaning: "globex sees globex's only" });
        Ok(())
    }

    async fn shared_login(&mut self) -> Result<(), Stop> {
        self.stop("One login for several tenants", "The application says for whom it works; until it does, there is no data.");
        let expect = Expect { has: &["42501"], lacks: &["Maria", "Scorpio"], meaning: "no tenant chosen, no data" };
        self.show("web", &[CUSTOMERS], &expect).await?;
        let expect = Expect { has: &["Lumbergh"], lacks: &["Maria", "Scorpio"], meaning: "initech chosen, initech's rows" };
        self.show("web", &["SET bulkhead.tenant = 'initech'", CUSTOMERS], &expect).await
    }

    async fn writes(&mut self) -> Result<(), Stop> {
        self.stop(
            "Writing",
            "Another tenant's rows do not exist: nothing to update, nothing to delete. Forging a tenant is refused.",
        );
        let expect = Expect { has: &["UPDATE 0"], lacks: &[], meaning: "customer 201 is globex's: no row is touched" };
        self.show("acme", &["UPDATE customers SET city = 'Springfield' WHERE id = 201"], &expect).await?;
        let expect = Expect { has: &["DELETE 0"], lacks: &[], meaning: "its orders neither" };
        self.show("acme", &["DELETE FROM orders WHERE customer_id = 201"], &expect).await?;
        let forged = "INSERT INTO customers (tenant_id, id, name, email, city) VALUES ('globex', 299, 'Mole', 'mole@example.com', 'Lisbon')";
        let expect = Expect { has: &["42501"], lacks: &["INSERT 0 1"], meaning: "a row for another tenant is refused" };
        self.show("acme", &[forged], &expect).await?;
        let own = "INSERT INTO customers (id, name, email, city) VALUES (105, 'Nora Lund', 'nora@example.com', 'Oslo') RETURNING tenant_id, id, name";
        let expect = Expect {
            has: &["acme", "Nora Lund", "INSERT 0 1"],
            lacks: &["ERROR"],
            meaning: "one's own row gets its tenant by itself",
        };
        self.show("acme", &[own], &expect).await
    }

    async fn injection(&mut self) -> Result<(), Stop> {
        self.stop(
            "An injection",
            "An application glues text into SQL: \"SELECT id, name FROM customers WHERE city = '\" + input + \"'\". What the input can reach:",
        );
        let all_mine = Expect { has: &["Maria Santos"], lacks: &["Scorpio", "Lumbergh"], meaning: "all customers: acme's own" };
        self.inject("' OR 1=1 --", &all_mine).await?;
        let nothing = Expect { has: &["(0 rows)"], lacks: &["Scorpio"], meaning: "globex's are not there to be united with" };
        self.inject("' UNION SELECT id, name FROM customers WHERE tenant_id = 'globex' --", &nothing).await?;
        let refused = Expect { has: &["ERROR"], lacks: &["SCRAM", "rows)"], meaning: "password hashes: refused" };
        self.inject("' UNION SELECT 1, rolpassword FROM pg_authid --", &refused).await?;
        let refused = Expect {
            has: &["DROP TABLE is not permitted"],
            lacks: &["rows)"],
            meaning: "one statement refused, the whole string refused",
        };
        self.inject("'; DROP TABLE customers --", &refused).await
    }

    async fn refusals(&mut self) -> Result<(), Stop> {
        self.stop("Tables for nobody, tables for reading", "A table that no policy lists is denied, too.");
        let expect = Expect { has: &["42501"], lacks: &["499"], meaning: "the operator's own list: denied" };
        self.show("acme", &["SELECT name, monthly_fee FROM tenants"], &expect).await?;
        let expect = Expect { has: &["42501"], lacks: &["UPDATE"], meaning: "shared products: read, not written" };
        self.show("acme", &["UPDATE products SET price = 0.01"], &expect).await
    }

    async fn explain(&mut self) -> Result<(), Stop> {
        let sql = "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON c.id = o.customer_id WHERE o.status = 'paid'";
        self.stop("Why", "`bulkhead explain` shows the decision and what PostgreSQL is sent.");
        self.sql("bulkhead explain --tenant acme --role app", sql);
        let mut explain = self.proxy.command("explain");
        explain.args(["--tenant", "acme", "--role", "app", sql]);
        let said = output(&mut explain).await?;
        self.terminal.plain(&said.text);
        self.check(said.ok && said.text.contains("tenant_id"), "the tenant's predicate is in the SQL that is sent");
        Ok(())
    }

    async fn inject(&mut self, input: &str, expect: &Expect) -> Result<(), Stop> {
        let sql = format!("SELECT id, name FROM customers WHERE city = '{input}'");
        self.show("acme", &[&sql], expect).await
    }

    /// Runs statements as a user, shows statement and answer, and checks the answer.
    async fn show(&mut self, user: &str, statements: &[&str], expect: &Expect) -> Result<(), Stop> {
        for sql in statements {
            self.sql(user, sql);
        }
        let said = self.ask(user, statements).await?;
        self.terminal.plain(&said);
        self.expect(&said, expect);
        Ok(())
    }

    /// One psql session through Bulkhead; each statement is a message of its own.
    async fn ask(&self, user: &str, statements: &[&str]) -> Result<String, Stop> {
        let mut psql = psql(self.proxy.port, user, user);
        psql.args(["-v", "VERBOSITY=verbose"]); // shows the SQLSTATE
        for sql in statements {
            psql.args(["-c", sql]);
        }
        let said = output(&mut psql).await?;
        // Verbose also tells the line of PostgreSQL's source, which is of no interest here.
        Ok(said.text.lines().filter(|line| !line.starts_with("LOCATION:")).map(|line| format!("{line}\n")).collect())
    }

    fn stop(&mut self, title: &str, text: &str) {
        self.stops += 1;
        self.terminal.line(Style::Title, &format!("\n{}. {title}", self.stops));
        self.terminal.line(Style::Faint, text);
    }

    fn sql(&self, who: &str, sql: &str) {
        self.terminal.line(Style::Sql, &format!("\n{who}=> {sql}"));
    }

    fn expect(&mut self, said: &str, expect: &Expect) {
        let holds = expect.has.iter().all(|text| said.contains(text)) && !expect.lacks.iter().any(|text| said.contains(text));
        self.check(holds, expect.meaning);
    }

    fn check(&mut self, holds: bool, meaning: &str) {
        if holds {
            self.terminal.line(Style::Good, &format!("ok: {meaning}"));
        } else {
            self.failed += 1;
            self.terminal.line(Style::Bad, &format!("NOT AS IT SHOULD BE: {meaning}"));
        }
    }
}

impl Terminal {
    pub(super) fn detect() -> Terminal {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Terminal { colours: std::io::stdout().is_terminal() && !refused && !dumb }
    }

    pub(super) fn progress(&self, text: &str) {
        self.line(Style::Faint, text);
    }

    fn plain(&self, text: &str) {
        put(&format!("{}\n", text.trim_end()));
    }

    fn line(&self, style: Style, text: &str) {
        let code = match style {
            Style::Title => "1",
            Style::Sql => "36",
            Style::Good => "32",
            Style::Bad => "1;31",
            Style::Faint => "2",
        };
        if self.colours { put(&format!("\x1b[{code}m{text}\x1b[0m\n")) } else { put(&format!("{text}\n")) }
    }
}

fn put(text: &str) {
    // A reader that went away (`bulkhead demo | head`) is no reason to panic: the servers must still be stopped.
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// Two texts as two columns.
fn side_by_side(left: &str, right: &str) -> String {
    let left: Vec<&str> = left.trim_end().lines().collect();
    let right: Vec<&str> = right.trim_end().lines().collect();
    let width = left.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let rows = left.len().max(right.len());
    let row = |n: usize| (left.get(n).copied().unwrap_or(""), right.get(n).copied().unwrap_or(""));
    (0..rows).map(row).map(|(l, r)| format!("{l:<width$}  ||  {r}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::side_by_side;

    #[test]
    fn columns_stay_aligned_when_one_side_is_shorter() {
        assert_eq!(side_by_side("é\nlong\n", "x"), "é     ||  x\nlong  ||  \n");
    }
}
