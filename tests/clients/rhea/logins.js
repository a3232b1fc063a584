// SPDX-License-Identifier: Apache-2.0
// How rhea comes in over TLS: node logins.js HOST, with the user of POLYLOG_USER and POLYLOG_PASSWORD, AMQPS_PORT,
// CA_FILE, and CLIENT_CERT and CLIENT_KEY (of CN=device7).
'use strict'
const assert = require('node:assert/strict')
const fs = require('node:fs')
const rhea = require('rhea')

const { POLYLOG_USER, POLYLOG_PASSWORD, AMQPS_PORT, CA_FILE, CLIENT_CERT, CLIENT_KEY } = process.env
const WAIT_MS = 15000
const over = { host: process.argv[2], port: Number(AMQPS_PORT), transport: 'tls', ca: [fs.readFileSync(CA_FILE)], reconnect: false }
const shown = { cert: fs.readFileSync(CLIENT_CERT), key: fs.readFileSync(CLIENT_KEY) }
let failed = 0

async function check(what, body) {
  const began = Date.now()
  try {
    await body()
    console.log(`ok      rhea: ${what} (${((Date.now() - began) / 1000).toFixed(2)} s)`)
  } catch (error) {
    failed++
    console.error(error)
    console.log(`failed  rhea: ${what}: ${String(error).slice(0, 200)}`)
  }
}

// What comes first of these events.
function first(emitter, ...events) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`none of ${events} within ${WAIT_MS} ms`)), WAIT_MS)
    for (const event of events) emitter.once(event, (context) => { clearTimeout(late); resolve([event, context]) })
  })
}

// A message goes to a queue and comes back.
async function works(who) {
  const connection = rhea.create_container().connect({ ...over, ...who })
  try {
    const [event, context] = await first(connection, 'connection_open', 'connection_error', 'disconnected')
    assert.equal(event, 'connection_open', String(context.error))
    const sender = connection.open_sender('rhea.logins')
    await first(sender, 'sendable')
    sender.send({ body: 'x'.repeat(1 << 20) })
    await first(sender, 'accepted')
    const [, got] = await first(connection.open_receiver('rhea.logins'), 'message')
    assert.equal(got.message.body, 'x'.repeat(1 << 20))
  } finally {
    connection.close()
  }
}

// In SASL's words, or, where rhea knows no mechanism for it, by the end before that.
async function refused(who, wanted) {
  const connection = rhea.create_container().connect({ ...over, ...who })
  const [event, context] = await first(connection, 'connection_open', 'connection_error', 'disconnected')
  if (event === 'connection_open') connection.close()
  assert.equal(event, wanted)
  if (wanted === 'connection_error') assert.equal(context.error.condition, 'amqp:unauthorized-access')
}

async function main() {
  await check('PLAIN over TLS, 1 MiB', () => works({ username: POLYLOG_USER, password: POLYLOG_PASSWORD }))
  await check('PLAIN: a wrong password', () => refused({ username: POLYLOG_USER, password: 'wrong' }, 'connection_error'))
  await check('EXTERNAL: the certificate is the user', () => works({ ...shown, enable_sasl_external: true }))
  await check('EXTERNAL without a certificate', () => refused({ enable_sasl_external: true }, 'disconnected'))
  process.exit(failed > 0 ? 1 : 0)
}

main()
