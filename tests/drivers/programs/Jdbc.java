import java.math.BigDecimal;
import java.sql.*;
import java.util.*;

/** JDBC: metadata, prepared and server-prepared statements, fetch size, batches, generated keys, autosave, types. */
public class Jdbc {
    static final String CANARY = System.getenv("DRIVER_CANARY");
    static final int TENANT = Integer.parseInt(System.getenv("DRIVER_TENANT"));
    static final int BASE = TENANT * 1000;
    /** Columns that hold OIDs or other numbers of the server's own. */
    static final Set<String> SKIP = Set.of("SPECIFIC_NAME", "CARDINALITY", "PAGES");

    static Connection connect(String... more) throws SQLException {
        Properties p = new Properties();
        p.put("user", System.getenv("PGUSER"));
        p.put("password", System.getenv("PGPASSWORD"));
        p.put("sslmode", "disable");
        if (System.getenv("PGOPTIONS") != null) p.put("options", System.getenv("PGOPTIONS"));
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return DriverManager.getConnection("jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE"), p);
    }

    static void show(String title, ResultSet rows) throws SQLException {
        System.out.println("== " + title);
        ResultSetMetaData m = rows.getMetaData();
        while (rows.next()) {
            StringBuilder line = new StringBuilder("  ");
            for (int i = 1; i <= m.getColumnCount(); i++) {
                if (SKIP.contains(m.getColumnLabel(i).toUpperCase())) continue;
                line.append(' ').append(m.getColumnLabel(i)).append('=').append(rows.getString(i));
            }
            System.out.println(line);
        }
        rows.close();
    }

    static void metadata(Connection c) throws SQLException {
        DatabaseMetaData m = c.getMetaData();
        System.out.println(m.getDatabaseProductName() + " " + m.getDatabaseMajorVersion() + " " + m.getDriverMajorVersion());
        System.out.println(m.getMaxColumnNameLength() + " " + m.getMaxConnections() + " " + m.getDefaultTransactionIsolation());
        show("getCatalogs", m.getCatalogs());
        show("getSchemas", m.getSchemas());
        show("getSchemas public", m.getSchemas(null, "pub%"));
        show("getTableTypes", m.getTableTypes());
        show("getTables", m.getTables(null, "public", "%", null));
        show("getTables TABLE", m.getTables(null, null, "acc%", new String[] {"TABLE", "VIEW", "PARTITIONED TABLE"}));
        for (String t : List.of("accounts", "orders", "documents", "events", "products", "account_names")) {
            show("getColumns " + t, m.getColumns(null, "public", t, null));
            show("getPrimaryKeys " + t, m.getPrimaryKeys(null, "public", t));
            show("getIndexInfo " + t, m.getIndexInfo(null, "public", t, false, true));
            show("getImportedKeys " + t, m.getImportedKeys(null, "public", t));
            show("getExportedKeys " + t, m.getExportedKeys(null, "public", t));
            show("getBestRowIdentifier " + t, m.getBestRowIdentifier(null, "public", t, DatabaseMetaData.bestRowSession, true));
        }
        show("getCrossReference", m.getCrossReference(null, "public", "accounts", null, "public", "orders"));
        show("getVersionColumns", m.getVersionColumns(null, "public", "accounts"));
        show("getFunctions", m.getFunctions(null, "public", "%"));
        show("getFunctionColumns", m.getFunctionColumns(null, "public", "label", null));
        show("getProcedures", m.getProcedures(null, "public", "%"));
        show("getProcedureColumns", m.getProcedureColumns(null, "public", "%", null));
        show("getUDTs", m.getUDTs(null, "public", "%", null));
        show("getSuperTables", emptyOr(m));
        show("getClientInfoProperties", m.getClientInfoProperties());
        // These name every role of the server (pg_roles), which a proxy may refuse.
        try (Connection other = connect("ApplicationName", "driver:may be refused", "assumeMinServerVersion", "9.4")) {
            other.getMetaData().getTablePrivileges(null, "public", "accounts").close();
            other.getMetaData().getColumnPrivileges(null, "public", "accounts", "note").close();
        } catch (SQLException e) {
            if (!"42501".equals(e.getSQLState())) throw e;
        }
        int types = 0;
        for (ResultSet r = m.getTypeInfo(); r.next(); ) types++;
        System.out.println("types " + (types > 50) + " keywords " + (m.getSQLKeywords().length() > 100));
    }

    static ResultSet emptyOr(DatabaseMetaData m) throws SQLException {
        return m.getTables(null, null, "no_such_table", null);
    }

    static void queries(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            show("simple", s.executeQuery("SELECT id, email, balance, note, home, created_at FROM accounts ORDER BY id"));
            show("documents", s.executeQuery("SELECT * FROM documents ORDER BY id"));
            ResultSetMetaData m = s.executeQuery("SELECT a.id, a.email AS e, o.status, o.quantity + 1 FROM accounts a JOIN orders o ON o.account_id = a.id").getMetaData();
            for (int i = 1; i <= m.getColumnCount(); i++)
                System.out.println("column " + m.getColumnName(i) + " " + m.getColumnLabel(i) + " " + m.getTableName(i) + " " + m.getColumnTypeName(i) + " " + m.isNullable(i) + " " + m.isAutoIncrement(i));
            boolean more = s.execute("SELECT 1; SELECT count(*) FROM accounts; UPDATE accounts SET note = note WHERE id = 0");
            while (more || s.getUpdateCount() != -1) {
                if (more) show("several", s.getResultSet());
                else System.out.println("updated " + s.getUpdateCount());
                more = s.getMoreResults();
            }
        }
        // From the fifth execution on the driver keeps a statement on the server.
        try (PreparedStatement p = c.prepareStatement("SELECT email, balance FROM accounts WHERE id = ?")) {
            System.out.println("parameters " + p.getParameterMetaData().getParameterTypeName(1) + " " + p.getMetaData().getColumnCount());
            for (int i = 1; i < 12; i++) {
                p.setLong(1, BASE + i);
                show("prepared", p.executeQuery());
            }
        }
        try (PreparedStatement p = c.prepareStatement("SELECT id FROM accounts WHERE id = ANY (?) AND note LIKE ? AND created_at > ? ORDER BY id")) {
            p.setArray(1, c.createArrayOf("bigint", new Long[] {BASE + 1L, BASE + 2L}));
            p.setString(2, CANARY + "%");
            p.setTimestamp(3, Timestamp.valueOf("2025-01-01 00:00:00"));
            show("array", p.executeQuery());
        }
        try (PreparedStatement p = c.prepareStatement("SELECT {fn lcase(email)}, {fn concat(note, '!')} FROM accounts WHERE placed(?) = 1".replace("placed(?) = 1", "id = ?"))) {
            p.setInt(1, BASE + 1);
            show("escapes", p.executeQuery());
        }
        try (Statement s = c.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
            ResultSet r = s.executeQuery("SELECT id, email, balance FROM accounts WHERE id <= " + (BASE + 3) + " ORDER BY id");
            r.last();
            System.out.println("scrolled " + r.getRow());
            r.updateBigDecimal("balance", new BigDecimal("33.33"));
            r.updateRow();
            r.refreshRow();
            System.out.println("updated row " + r.getBigDecimal("balance"));
        }
        for (String bad : List.of("SELECT 1/0", "SELECT nope FROM accounts", "SELECT * FROM nothing", "SELEC", "INSERT INTO products VALUES (1, 'a', 1)")) {
            try (Statement s = c.createStatement()) {
                s.execute(bad);
            } catch (SQLException e) {
                System.out.println("error " + e.getSQLState() + " " + e.getMessage());
            }
        }
        System.out.println("valid " + c.isValid(5) + " " + c.getSchema() + " " + c.getTransactionIsolation() + " " + c.isReadOnly());
    }

    static void writes(Connection c) throws SQLException {
        try (PreparedStatement p = c.prepareStatement("INSERT INTO accounts (id, email, note) VALUES (?, ?, ?)")) {
            for (int i = 0; i < 20; i++) {
                p.setLong(1, BASE + 800 + i);
                p.setString(2, "jdbc" + i + "@" + CANARY);
                p.setString(3, CANARY);
                p.addBatch();
            }
            System.out.println("batch " + Arrays.stream(p.executeBatch()).sum());
        }
        try (PreparedStatement p = c.prepareStatement("INSERT INTO accounts (email) VALUES (?)", Statement.RETURN_GENERATED_KEYS)) {
            p.setString(1, "generated@" + CANARY);
            p.executeUpdate();
            ResultSet keys = p.getGeneratedKeys();
            keys.next();
            System.out.println("generated " + (keys.getLong("id") > 0) + " tenant " + keys.getInt("tenant_id"));
        }
        try (PreparedStatement p = c.prepareStatement("INSERT INTO accounts (id, tenant_id, email) VALUES (?, ?, ?)", new String[] {"id", "tenant_id"})) {
            p.setLong(1, BASE + 830);
            p.setInt(2, TENANT);
            p.setString(3, "named@" + CANARY);
            p.executeUpdate();
            show("keys", p.getGeneratedKeys());
        }
        try (PreparedStatement p = c.prepareStatement("UPDATE accounts SET balance = ?, home = ?::address WHERE id = ?")) {
            for (int i = 0; i < 5; i++) {
                p.setBigDecimal(1, new BigDecimal(i + ".50"));
                p.setString(2, "(a,b," + i + ")");
                p.setLong(3, BASE + 800 + i);
                p.addBatch();
            }
            System.out.println("updates " + Arrays.toString(p.executeBatch()));
        }
        try (PreparedStatement p = c.prepareStatement("INSERT INTO orders (id, account_id, status, tags, meta) VALUES (?, ?, ?::order_status, ?, ?::jsonb) RETURNING id, status")) {
            p.setLong(1, BASE + 800);
            p.setLong(2, BASE + 800);
            p.setString(3, "paid");
            p.setArray(4, c.createArrayOf("text", new String[] {CANARY}));
            p.setObject(5, "{\"token\": \"" + CANARY + "\"}", Types.OTHER);
            show("returning", p.executeQuery());
        }
        try (Statement s = c.createStatement()) {
            s.addBatch("UPDATE accounts SET note = note WHERE id = " + (BASE + 800));
            s.addBatch("DELETE FROM orders WHERE id = " + (BASE + 800));
            System.out.println("statements " + Arrays.toString(s.executeBatch()));
        }
    }

    static void transactions(Connection c) throws SQLException {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            Savepoint p = c.setSavepoint("sp");
            System.out.println("deleted " + s.executeUpdate("DELETE FROM orders"));
            c.rollback(p);
            c.releaseSavepoint(p);
            show("after", s.executeQuery("SELECT count(*) FROM orders"));
            c.commit();
            s.setFetchSize(7);
            ResultSet r = s.executeQuery("SELECT id, tags, meta FROM orders ORDER BY id");
            show("fetched", r);
            s.setFetchSize(3);
            s.setMaxRows(10);
            show("at most", s.executeQuery("SELECT id FROM accounts ORDER BY id"));
        }
        c.commit();
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        c.setReadOnly(true);
        try (Statement s = c.createStatement()) {
            show("isolation", s.executeQuery("SHOW transaction_isolation"));
        }
        c.rollback();
        c.setReadOnly(false);
        c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        c.setAutoCommit(true);
        try (Statement s = c.createStatement()) {
            System.out.println("clean " + s.executeUpdate("DELETE FROM accounts WHERE id >= " + (BASE + 800) + " AND id < " + (BASE + 900) + " OR email = 'generated@" + CANARY + "'"));
        }
    }

    static void autosave() throws SQLException {
        try (Connection c = connect("autosave", "always", "reWriteBatchedInserts", "true", "prepareThreshold", "1", "defaultRowFetchSize", "5", "ApplicationName", "jdbc")) {
            c.setAutoCommit(false);
            try (Statement s = c.createStatement()) {
                s.executeUpdate("UPDATE accounts SET note = note WHERE id = " + (BASE + 1));
                try {
                    s.execute("SELECT 1/0");
                } catch (SQLException e) {
                    System.out.println("goes on after " + e.getSQLState());
                }
                show("autosaved", s.executeQuery("SELECT count(*) FROM accounts"));
            }
            try (PreparedStatement p = c.prepareStatement("INSERT INTO accounts (id, email) VALUES (?, ?)")) {
                for (int i = 0; i < 37; i++) {
                    p.setLong(1, BASE + 900 + i);
                    p.setString(2, "re" + i + "@" + CANARY);
                    p.addBatch();
                }
                System.out.println("rewritten " + p.executeBatch().length);
            }
            c.rollback();
        }
        try (Connection c = connect("preferQueryMode", "simple"); PreparedStatement p = c.prepareStatement("SELECT note FROM accounts WHERE id = ?")) {
            p.setLong(1, BASE + 1);
            show("simple mode", p.executeQuery());
        }
        try (Connection c = connect("binaryTransfer", "true", "prepareThreshold", "-1"); PreparedStatement p = c.prepareStatement("SELECT id, balance, created_at, note FROM accounts WHERE balance > ? ORDER BY id")) {
            p.setBigDecimal(1, new BigDecimal("100"));
            show("binary", p.executeQuery());
        }
        try (Connection c = connect(); Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            s.execute("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f");
        } catch (SQLException e) {
            System.out.println("timeout " + e.getSQLState());
        }
    }

    static void copy(Connection c) throws Exception {
        var manager = c.unwrap(org.postgresql.PGConnection.class).getCopyAPI();
        var out = new java.io.StringWriter();
        System.out.println("copied " + manager.copyOut("COPY (SELECT id, email, note FROM accounts ORDER BY id) TO STDOUT WITH (FORMAT csv)", out));
        System.out.print(out);
        c.setAutoCommit(false);
        String rows = (BASE + 840) + "\tcopied@" + CANARY + "\t\\N\n" + (BASE + 841) + "\tcopied too@" + CANARY + "\ta\\tb\n";
        System.out.println("copied in " + manager.copyIn("COPY accounts (id, email, note) FROM STDIN", new java.io.StringReader(rows)));
        try (Statement s = c.createStatement()) {
            show("copied", s.executeQuery("SELECT id, tenant_id, email, note FROM accounts WHERE id >= " + (BASE + 840) + " AND id < " + (BASE + 850) + " ORDER BY id"));
        }
        c.rollback();
        c.setAutoCommit(true);
    }

    public static void main(String[] args) throws Exception {
        try (Connection c = connect()) {
            metadata(c);
            queries(c);
            writes(c);
            transactions(c);
            copy(c);
        }
        autosave();
    }
}
