// SPDX-License-Identifier: Apache-2.0
// What mqtt.js, MQTT 3.1.1 and 5, is told at the limits that script/test-clients sets: node limits.js HOST PORT
'use strict'
const assert = require('node:assert/strict')
const { Checks, Connection, WAIT_MS, within } = require('./connection')

const KEEP_ALIVE_S = 4
const PACKET_MAX = 65536

// What a publish was refused with; 0: it was not.
const reason = (answer) => answer.then(() => 0, (error) => error.code)

async function run(version) {
  const five = version === 5
  const label = five ? 'v5' : 'v3.1.1'
  const base = `limits/${label}`
  const checks = new Checks(`mqtt.js ${label}`)
  const check = (what, body) => checks.run(what, body)

  const open = async (name, options) => {
    const connection = new Connection(version, `${base}/${name}`, options)
    await connection.connect()
    return connection
  }
  const close = (connection) => within(connection.client.endAsync(), 'end')

  // A PUBLISH that is refused: 3.1.1 has no other word for it than the end of the connection.
  const refused = async (topic, expected) => {
    for (const qos of [1, 2]) {
      const connection = await open('refused')
      const answer = reason(connection.publish(topic, 'x', { qos }))
      if (five) {
        assert.equal(await answer, expected)
        assert.equal(await reason(connection.publish(`${base}/fine`, 'x', { qos })), 0)
        await close(connection)
      } else {
        assert.equal(await within(connection.ended, 'end'), undefined)
      }
    }
  }

  let idle
  let pinged
  await check('CONNACK says the limits', async () => {
    idle = new Connection(version, `${base}/idle`)
    pinged = new Promise((resolve) => {
      idle.client.on('packetsend', (packet) => packet.cmd === 'pingreq' && resolve(Date.now()))
    })
    const began = Date.now()
    const { properties } = await idle.connect()
    idle.began = began
    if (five) {
      const { serverKeepAlive, receiveMaximum, maximumPacketSize } = properties
      assert.deepEqual({ serverKeepAlive, receiveMaximum, maximumPacketSize },
        { serverKeepAlive: KEEP_ALIVE_S, receiveMaximum: 20, maximumPacketSize: PACKET_MAX })
    }
  })

  await check('subscriptions of one client', async () => {
    const connection = await open('subscriptions')
    const no = five ? 0x97 : 0x80
    const filters = Object.fromEntries(['a', 'b', 'c', 'd'].map((name) => [`${base}/${name}`, { qos: 1 }]))
    assert.deepEqual(await connection.subscribe(filters), [1, 1, 1, no])
    await connection.unsubscribe([`${base}/a`])
    assert.deepEqual(await connection.subscribe(`${base}/d`, { qos: 1 }), [1])
    assert.deepEqual(await connection.subscribe(`${base}/a`, { qos: 1 }), [no])
    await close(connection)
  })

  await check('levels of a filter and of a topic', async () => {
    const connection = await open('levels')
    const filters = { '1/2/3/4': { qos: 1 }, '1/2/3/4/5': { qos: 1 }, '+/+/+/+/#': { qos: 1 } }
    assert.deepEqual(await connection.subscribe(filters), five ? [1, 0x8f, 0x8f] : [1, 0x80, 0x80])
    await close(connection)
    await refused('1/2/3/4/5', 0x90)
  })

  await check('a topic that is not for clients', () => refused('$SYS/broker/version', 0x87))

  await check('what is kept for a session: the newest', async () => {
    const kept = { clean: false, ...(five && { properties: { sessionExpiryInterval: 100 } }) }
    const before = await open('kept', kept)
    assert.deepEqual(await before.subscribe(`${base}/missed`, { qos: 1 }), [1])
    await close(before)
    const writer = await open('writer')
    for (let i = 0; i < 12; i++) await writer.publish(`${base}/missed`, String(i), { qos: 1 })
    await close(writer)
    const again = await open('kept', kept)
    assert.deepEqual(await again.take(5), ['7', '8', '9', '10', '11'])
    await again.nothingMore()
    await close(again)
  })

  await check('publishes of one client', async () => {
    const connection = await open('fast')
    const told = [new Set(), new Set()] // for each QoS
    for (const end = Date.now() + WAIT_MS; Date.now() < end && !told.every((set) => set.has(0x97));) {
      // Half as many as may be unanswered, of each QoS.
      const some = Array.from({ length: 20 }, (_, i) => reason(connection.publish(`${base}/fast`, 'x', { qos: 1 + i % 2 })))
      if (!five) {
        if (await Promise.race([connection.ended.then(() => true), Promise.all(some).then(() => false)])) return
        continue
      }
      (await Promise.all(some)).forEach((code, i) => told[i % 2].add(code))
    }
    assert.ok(five, 'it was not disconnected')
    assert.deepEqual(told.map((set) => [...set].sort()), [[0, 0x97], [0, 0x97]])
    const other = await open('slow')
    assert.equal(await reason(other.publish(`${base}/fast`, 'x', { qos: 1 })), 0)
    await close(other)
    await close(connection)
  })

  await check('a packet that is too large', async () => {
    const connection = await open('large')
    assert.deepEqual(await connection.subscribe(`${base}/large`, { qos: 1 }), [1])
    // The name, its length, an identifier and in MQTT 5 the length of properties; before that four bytes.
    const room = PACKET_MAX - 4 - 2 - `${base}/large`.length - 2 - (five ? 1 : 0)
    await connection.publish(`${base}/large`, Buffer.alloc(room), { qos: 1 })
    assert.equal((await connection.next()).payload.length, room)
    connection.publish(`${base}/large`, Buffer.alloc(room + 1), { qos: 1 }).catch(() => {})
    assert.equal(await within(connection.ended, 'end'), five ? 0x95 : undefined)
  })

  if (five) {
    await check('the keep alive of the server', async () => {
      const after = await within(pinged, 'PINGREQ') - idle.began
      assert.ok(after >= (KEEP_ALIVE_S - 2) * 1000, `${after} ms`)
    })
  }
  await check('who kept to the limits stays', async () => {
    assert.ok(idle.client.connected)
    await close(idle)
    assert.deepEqual(idle.errors, [])
  })
  return checks.failed
}

// Comes last, as it leaves no room for others.
async function connections(version) {
  const five = version === 5
  const checks = new Checks(`mqtt.js ${five ? 'v5' : 'v3.1.1'}`)
  const attempt = () => new Connection(version, '').connect().then(() => 0, (error) => error.code)
  await checks.run('connections in one second', async () => {
    let code = 0
    for (let i = 0; i < 400 && !code; i++) code = await attempt()
    assert.equal(code, five ? 0x9f : 3)
    for (const end = Date.now() + WAIT_MS; code && Date.now() < end;) code = await attempt()
    assert.equal(code, 0)
  })
  return checks.failed
}

async function main() {
  const failed = await run(4) + await run(5) + await connections(4) + await connections(5)
  process.exit(failed ? 1 : 0)
}

main()
