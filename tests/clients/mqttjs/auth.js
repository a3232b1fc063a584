// SPDX-License-Identifier: Apache-2.0
// Enhanced authentication with mqtt.js, as the user of POLYLOG_USER and POLYLOG_PASSWORD: node auth.js HOST PORT
'use strict'
const assert = require('node:assert/strict')
const crypto = require('node:crypto')
const { once } = require('node:events')
const mqtt = require('mqtt')

const [host, port] = process.argv.slice(2)
const { POLYLOG_USER: user, POLYLOG_PASSWORD: password } = process.env
const METHOD = 'SCRAM-SHA-256'
const WAIT_MS = 15000
let failed = 0

const hmac = (key, text) => crypto.createHmac('sha256', key).update(text).digest()

// A client's side of one exchange (RFC 5802) without channel binding.
class Scram {
  constructor(secret) {
    this.secret = secret
    this.nonce = crypto.randomBytes(18).toString('base64')
    this.first = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${this.nonce}`
  }

  begin() {
    return Buffer.from(`n,,${this.first}`)
  }

  // The answer to the server's challenge.
  prove(challenge) {
    const fields = Object.fromEntries(challenge.toString().split(',').map((part) => [part[0], part.slice(2)]))
    assert.ok(fields.r.startsWith(this.nonce) && fields.r !== this.nonce, String(challenge))
    const salted = crypto.pbkdf2Sync(this.secret, Buffer.from(fields.s, 'base64'), Number(fields.i), 32, 'sha256')
    const last = `c=biws,r=${fields.r}`
    const exchange = `${this.first},${challenge},${last}`
    const key = hmac(salted, 'Client Key')
    const signature = hmac(crypto.createHash('sha256').update(key).digest(), exchange)
    this.expected = `v=${hmac(hmac(salted, 'Server Key'), exchange).toString('base64')}`
    return Buffer.from(`${last},p=${key.map((octet, i) => octet ^ signature[i]).toString('base64')}`)
  }
}

const auth = (reasonCode, authenticationData) => ({
  cmd: 'auth', reasonCode, properties: { authenticationMethod: METHOD, authenticationData },
})

// A client; authenticated() is called with each AUTH that says success. The library has no call to begin an exchange
// on an open connection: _sendPacket, which it uses itself, does.
class Connection {
  constructor(authenticationMethod, secret) {
    this.scram = new Scram(secret)
    this.client = mqtt.connect({
      host, port, protocolVersion: 5, clientId: 'mqttjs-auth', reconnectPeriod: 0, manualConnect: true,
      properties: { authenticationMethod, authenticationData: this.scram.begin() },
    })
    this.client.handleAuth = (packet, done) => {
      if (packet.reasonCode === 0) {
        this.authenticated(packet)
        return done()
      }
      return done(null, auth(0x18, this.scram.prove(packet.properties.authenticationData)))
    }
  }

  // The CONNACK; what refuses is thrown.
  async connect() {
    const accepted = once(this.client, 'connect', { signal: AbortSignal.timeout(WAIT_MS) })
    this.client.connect()
    return (await accepted)[0]
  }

  again(secret) {
    this.scram = new Scram(secret)
    const proved = new Promise((resolve) => { this.authenticated = resolve })
    this.client._sendPacket(auth(0x19, this.scram.begin()))
    return proved
  }
}

async function check(what, run) {
  const began = Date.now()
  try {
    await run()
    console.log(`ok      mqtt.js v5: ${what} (${((Date.now() - began) / 1000).toFixed(2)} s)`)
  } catch (error) {
    failed++
    console.error(error)
    console.log(`failed  mqtt.js v5: ${what}: ${String(error.message).split('\n').join(' ').slice(0, 200)}`)
  }
}

async function main() {
  await check('SCRAM-SHA-256: connect, and the gateway proves itself', async () => {
    const connection = new Connection(METHOD, password)
    const { properties } = await connection.connect()
    assert.equal(properties.authenticationMethod, METHOD)
    assert.equal(properties.authenticationData.toString(), connection.scram.expected)
    await connection.client.endAsync()
  })
  await check('SCRAM-SHA-256: a wrong password', () => assert.rejects(new Connection(METHOD, 'wrong').connect(), { code: 0x86 }))
  await check('an unknown method', () => assert.rejects(new Connection('SCRAM-SHA-1', password).connect(), { code: 0x8c }))
  await check('SCRAM-SHA-256 again, twice, while messages flow; then with a wrong password', async () => {
    const connection = new Connection(METHOD, password)
    await connection.connect()
    const { client } = connection
    const bodies = []
    client.on('message', (topic, body) => bodies.push(body.toString()))
    await client.subscribeAsync('auth/mqttjs', { qos: 1 })
    for (const body of ['0', '1']) {
      const proved = connection.again(password)
      await client.publishAsync('auth/mqttjs', body, { qos: 1 })
      assert.equal((await proved).properties.authenticationData.toString(), connection.scram.expected)
    }
    await client.publishAsync('auth/mqttjs', 'last', { qos: 1 })
    assert.deepEqual(bodies.slice(0, 2), ['0', '1'])
    const sentAway = once(client, 'disconnect', { signal: AbortSignal.timeout(WAIT_MS) })
    connection.again('another one')
    assert.equal((await sentAway)[0].reasonCode, 0x87)
  })
  process.exit(failed ? 1 : 0)
}

setTimeout(() => {
  console.log('failed  mqtt.js v5: out of time')
  process.exit(1)
}, 4 * WAIT_MS).unref()
main()
