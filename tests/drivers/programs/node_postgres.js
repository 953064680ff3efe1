// node-postgres: simple and parameterised queries, named prepared statements, cursors, transactions, the pool, types, cancel by timeout.
'use strict'
const path = require('path')
const modules = path.join(process.env.DRIVER_CACHE, 'node', 'node_modules')
const pg = require(path.join(modules, 'pg'))
const Cursor = require(path.join(modules, 'pg-cursor'))

const canary = process.env.DRIVER_CANARY
const tenant = Number(process.env.DRIVER_TENANT)
const base = tenant * 1000
const config = { ssl: false, options: process.env.PGOPTIONS }

function show (title, rows) {
  console.log('==', title)
  for (const row of rows) console.log('  ', JSON.stringify(row))
}

async function queries (client) {
  show('simple', (await client.query('SELECT id, email, balance, note, created_at FROM accounts ORDER BY id')).rows)
  show('parameters', (await client.query('SELECT id, email FROM accounts WHERE email = $1 OR id = ANY($2) ORDER BY id', [`user3@${canary}.test`, [base + 1, base + 2]])).rows)
  for (let i = 1; i < 5; i++) {
    show('named', (await client.query({ name: 'by-id', text: 'SELECT note FROM accounts WHERE id = $1', values: [base + i] })).rows)
  }
  show('array mode', (await client.query({ text: 'SELECT * FROM orders ORDER BY id LIMIT 4', rowMode: 'array' })).rows)
  show('binary', (await client.query({ text: 'SELECT id, note FROM accounts WHERE id = $1', values: [base + 1], binary: true })).rows.map(r => r.note))
  const several = await client.query('SELECT 1 AS one; SELECT count(*) FROM accounts; UPDATE accounts SET balance = balance WHERE id = 0')
  show('several', several.map(r => [r.command, r.rowCount, r.rows]))
  show('documents', (await client.query('SELECT * FROM documents ORDER BY id')).rows)
  const many = []
  for (let i = 0; i < 20; i++) many.push(client.query('SELECT email FROM accounts WHERE id = $1', [base + i]))
  show('queued', (await Promise.all(many)).map(r => r.rows))
  for (const bad of ['SELECT 1/0', 'SELECT nope FROM accounts', 'SELECT * FROM nothing', 'SELEC', "INSERT INTO products VALUES (1, 'a', 1)"]) {
    try { await client.query(bad) } catch (e) { console.log('error', e.code, e.message, e.position) }
  }
}

async function writes (client) {
  for (let i = 0; i < 5; i++) {
    const r = await client.query('INSERT INTO accounts (id, email, note) VALUES ($1, $2, $3) RETURNING id, tenant_id', [base + 500 + i, `node${i}@${canary}`, canary])
    show('insert', r.rows)
  }
  show('named tenant', (await client.query('INSERT INTO accounts (id, tenant_id, email) VALUES ($1, $2, $3) RETURNING tenant_id', [base + 510, tenant, `named@${canary}`])).rows)
  show('upsert', (await client.query('INSERT INTO accounts (id, email) VALUES ($1, $2) ON CONFLICT (tenant_id, email) DO UPDATE SET note = EXCLUDED.email RETURNING note', [base + 599, `node1@${canary}`])).rows)
  show('order', (await client.query('INSERT INTO orders (id, account_id, tags, meta) VALUES ($1, $2, $3, $4) RETURNING *', [base + 500, base + 500, [canary, 'x"y'], { token: canary }])).rows)
  console.log('update', (await client.query('UPDATE accounts SET balance = balance + $1 WHERE id >= $2 AND id < $3', ['1.25', base + 500, base + 503])).rowCount)
  await client.query('BEGIN')
  await client.query('SAVEPOINT s')
  console.log('delete', (await client.query('DELETE FROM orders')).rowCount)
  await client.query('ROLLBACK TO SAVEPOINT s')
  try { await client.query('SELECT 1/0') } catch (e) { console.log('failed', e.code) }
  try { await client.query('SELECT 1') } catch (e) { console.log('aborted', e.code) }
  await client.query('ROLLBACK')
  console.log('clean', (await client.query('DELETE FROM accounts WHERE id >= $1 AND id < $2', [base + 500, base + 600])).rowCount)
}

async function cursors (client) {
  const cursor = client.query(new Cursor('SELECT id, tags FROM orders WHERE id > $1 ORDER BY id', [base]))
  for (;;) {
    const rows = await cursor.read(25)
    if (!rows.length) break
    show('cursor', rows)
  }
  await cursor.close()
  const early = client.query(new Cursor('SELECT id FROM orders ORDER BY id'))
  show('closed early', await early.read(2))
  await early.close()
}

async function pool () {
  const connections = new pg.Pool({ ...config, max: 4 })
  show('pool', (await Promise.all(Array.from({ length: 40 }, (_, i) => connections.query('SELECT note FROM accounts WHERE id = $1', [base + i % 20])))).map(r => r.rows))
  const client = await connections.connect()
  await client.query('SET statement_timeout = 500')
  try {
    await client.query('SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e, orders f')
  } catch (e) { console.log('timeout', e.code) }
  await client.query('RESET statement_timeout')
  client.release()
  await connections.end()
}

async function main () {
  const client = new pg.Client(config)
  await client.connect()
  for (const part of [queries, writes, cursors]) {
    console.log('=====', part.name)
    await part(client)
  }
  await client.end()
  await pool()
}

main().catch(e => { console.error(e); process.exit(1) })
