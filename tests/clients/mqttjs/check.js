// SPDX-License-Identifier: Apache-2.0
// mqtt.js, MQTT 3.1.1 and 5: node check.js HOST PORT
'use strict'
const assert = require('node:assert/strict')
const fs = require('node:fs')
const { Checks, Connection, QUIET_MS, WAIT_MS, sleep, within } = require('./connection')

const SIZES = { empty: 0, '100 B': 100, '1 MiB': 1 << 20 }
const ORDERED = 200

function payload(size) {
  return Buffer.from(Uint8Array.from({ length: size }, (_, i) => i & 255))
}

async function run(version) {
  const five = version === 5
  const label = five ? 'v5' : 'v3.1.1'
  const base = `mqttjs/${label}`
  const checks = new Checks(`mqtt.js ${label}`)
  const check = (what, body) => checks.run(what, body)

  const subscriber = new Connection(version, `${base}-sub`)
  const publisher = new Connection(version, `${base}-pub`)

  await check('connect', async () => {
    for (const connection of [subscriber, publisher]) {
      const connack = await connection.connect()
      assert.equal(connack.sessionPresent, false)
      assert.equal(five ? connack.reasonCode : connack.returnCode, 0)
    }
  })
  if (checks.failed) return checks.failed

  await check('subscribe with + and #', async () => {
    const granted = await subscriber.subscribe({ [`${base}/+/data`]: { qos: 2 }, [`${base}/deep/#`]: { qos: 1 } })
    assert.deepEqual(granted, [2, 1])
    for (const topic of ['deep', 'deep/a', 'other', 'x/y/data', 'deep/a/b/c', 'x/data']) {
      await publisher.publish(`${base}/${topic}`, topic, { qos: 1 })
    }
    const got = (await subscriber.take(4)).sort() // order holds per topic
    assert.deepEqual(got, ['deep', 'deep/a', 'deep/a/b/c', 'x/data'])
    await subscriber.nothingMore()
  })

  // What comes twice is met by the next check; the last of a QoS looks for more.
  for (const qos of [0, 1, 2]) {
    for (const [name, size] of Object.entries(SIZES)) {
      await check(`QoS ${qos}, ${name}`, async () => {
        await publisher.publish(`${base}/q${qos}/data`, payload(size), { qos })
        const packet = await subscriber.next()
        assert.deepEqual([packet.topic, packet.qos, packet.retain], [`${base}/q${qos}/data`, qos, false])
        assert.ok(packet.payload.equals(payload(size)), `${packet.payload.length} other bytes`)
      })
    }
    await check(`QoS ${qos}, ${ORDERED} messages in order, each once`, async () => {
      const numbers = Array.from({ length: ORDERED }, (_, i) => String(i))
      const answers = numbers.map((number) => publisher.publish(`${base}/q${qos}/data`, number, { qos }))
      assert.deepEqual(await subscriber.take(ORDERED), numbers)
      await Promise.all(answers)
      await subscriber.nothingMore()
    })
  }

  await check('QoS 2 published, QoS 0 granted: delivered with QoS 0', async () => {
    assert.deepEqual(await subscriber.subscribe(`${base}/low`, { qos: 0 }), [0])
    await publisher.publish(`${base}/low`, 'x', { qos: 2 })
    assert.equal((await subscriber.next()).qos, 0)
  })

  if (five) {
    await check('properties round trip', async () => {
      // mqtt.js groups pairs of one name: their order is kept within a name, and of names.
      const properties = {
        payloadFormatIndicator: true,
        messageExpiryInterval: 60,
        contentType: 'text/plain; charset=utf-8',
        responseTopic: 'answers/here',
        correlationData: Buffer.from([0, 1, 255]),
        userProperties: { b: ['1', '3', '1'], a: '2', ü: '€' },
      }
      await publisher.publish(`${base}/p/data`, 'grüße', { qos: 1, properties })
      const { messageExpiryInterval, ...got } = (await subscriber.next()).properties
      const { messageExpiryInterval: ignored, ...sent } = properties
      assert.ok(messageExpiryInterval > 0 && messageExpiryInterval <= 60, String(messageExpiryInterval))
      assert.deepEqual({ ...got, userProperties: { ...got.userProperties } }, sent)
      assert.deepEqual(Object.keys(got.userProperties), ['b', 'a', 'ü'])
    })
    await check('subscription identifier', async () => {
      const options = { qos: 1, properties: { subscriptionIdentifier: 268435455 } }
      assert.deepEqual(await subscriber.subscribe(`${base}/id`, options), [1])
      await publisher.publish(`${base}/id`, 'x', { qos: 1 })
      assert.equal((await subscriber.next()).properties.subscriptionIdentifier, 268435455)
    })
    await check('no local', async () => {
      assert.deepEqual(await subscriber.subscribe(`${base}/mine`, { qos: 1, nl: true }), [1])
      await subscriber.publish(`${base}/mine`, 'own', { qos: 1 })
      await publisher.publish(`${base}/mine`, 'other', { qos: 1 })
      assert.deepEqual(await subscriber.take(1), ['other'])
      await subscriber.nothingMore()
    })
    await check('topic alias', async () => {
      const first = { qos: 1, properties: { topicAlias: 1 } }
      await publisher.publish(`${base}/alias/data`, '1', first)
      await publisher.publish('', '2', first)
      const packets = [await subscriber.next(), await subscriber.next()]
      assert.deepEqual(packets.map((p) => [p.topic, p.payload.toString()]),
        [[`${base}/alias/data`, '1'], [`${base}/alias/data`, '2']])
    })
  }

  await check('$share: its members take turns', async () => {
    const share = { [`$share/g/${base}/s`]: { qos: 1 } }
    assert.deepEqual(await subscriber.subscribe({ ...share, [`${base}/t`]: { qos: 1 } }), [1, 1])
    assert.deepEqual(await publisher.subscribe(share), [1])
    for (const body of ['x', 'y', 'z']) await publisher.publish(`${base}/s`, body, { qos: 1 })
    assert.deepEqual(await subscriber.take(2), ['x', 'z'])
    assert.deepEqual(await publisher.take(1), ['y'])
    assert.deepEqual(await publisher.unsubscribe([`$share/g/${base}/s`]), five ? [0] : [])
    await publisher.publish(`${base}/s`, 'mine', { qos: 1 })
    assert.deepEqual(await subscriber.take(1), ['mine'])
  })

  await check('retained, with a wildcard', async () => {
    for (const name of ['1', '2', '3']) await publisher.publish(`${base}/keep/${name}`, name, { qos: 1, retain: true })
    await publisher.publish(`${base}/keep/3`, '', { qos: 1, retain: true })
    assert.deepEqual(await subscriber.subscribe(`${base}/keep/+`, { qos: 1 }), [1])
    const got = [await subscriber.next(), await subscriber.next()]
    assert.deepEqual(got.map((p) => [p.payload.toString(), p.retain]).sort(), [['1', true], ['2', true]])
    await subscriber.nothingMore()
  })

  const kept = { clean: false, ...(five && { properties: { sessionExpiryInterval: 100 } }) }
  await check('a session that goes on: what it missed, in order, each once', async () => {
    const before = new Connection(version, `${base}-kept`, kept)
    assert.equal((await before.connect()).sessionPresent, false)
    assert.deepEqual(await before.subscribe(`${base}/missed/#`, { qos: 2 }), [2])
    await within(before.client.endAsync(), 'end')
    const numbers = Array.from({ length: 30 }, (_, i) => String(i))
    for (const i of numbers) await publisher.publish(`${base}/missed/${i % 2}`, i, { qos: 2 })
    const again = new Connection(version, `${base}-kept`, kept)
    assert.equal((await again.connect()).sessionPresent, true)
    assert.deepEqual(await again.take(30), numbers)
    await again.nothingMore()
    await within(again.client.endAsync(), 'end')
  })

  await check(five ? 'will, after its delay' : 'will', async () => {
    const will = { topic: `${base}/deep/will`, payload: Buffer.from('gone'), qos: 1, retain: false }
    if (five) will.properties = { willDelayInterval: 1, userProperties: { left: 'in a hurry' } }
    const leaving = new Connection(version, `${base}-leaving`, { ...kept, will })
    await leaving.connect()
    leaving.client.stream.destroy()
    const packet = await subscriber.next()
    assert.deepEqual([packet.topic, packet.payload.toString()], [`${base}/deep/will`, 'gone'])
    if (five) assert.deepEqual({ ...packet.properties.userProperties }, { left: 'in a hurry' })
  })

  // Takes from the queue where topics without a route are, as a new group that begins now.
  const worker = async (name, options) => {
    const connection = new Connection(version, `${base}-${name}`, options)
    await connection.connect()
    assert.deepEqual(await connection.subscribe(`$share/js-${version}/$queue/mqtt`, { qos: 1 }), [1])
    return connection
  }
  const handed = []
  const until = async (count) => {
    for (const end = Date.now() + WAIT_MS; handed.length < count && Date.now() < end;) await sleep(10)
    await sleep(QUIET_MS)
    assert.equal(handed.length, count)
  }

  if (five) {
    await check('replay: what was published before, then what comes', async () => {
      for (const body of ['0', '1']) await publisher.publish(`${base}/again`, body, { qos: 1 })
      const options = { qos: 1, properties: { userProperties: { replay: 'earliest' } } }
      assert.deepEqual(await subscriber.subscribe(`${base}/again`, options), [1])
      assert.deepEqual(await subscriber.take(2), ['0', '1'])
      await publisher.publish(`${base}/again`, '2', { qos: 1 })
      assert.deepEqual(await subscriber.take(1), ['2'])
      const wrong = { qos: 1, properties: { userProperties: { replay: 'soon' } } }
      assert.deepEqual(await subscriber.subscribe(`${base}/again`, wrong), [0x83])
    })
    await check('$dead: what a PUBACK rejects', async () => {
      const made = await fetch(`http://${process.argv[2]}:${process.env.HTTP_PORT}/v1/default/queues`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ name: 'js', redrive_policy: 'enable', max_consume_count: 3 }),
      })
      assert.equal(made.status, 201)
      const connection = new Connection(version, `${base}-rejects`, {
        customHandleAcks: (topic, message, packet, done) => done(null, topic === '$queue/js' ? 0x99 : 0),
      })
      await connection.connect()
      assert.deepEqual(await connection.subscribe('$queue/js', { qos: 1 }), [1])
      assert.deepEqual(await connection.subscribe('$queue/js/$dead/mqtt', { qos: 1 }), [1])
      await publisher.publish('$queue/js', 'bad', { qos: 1 })
      const dead = await connection.next() // mqtt.js shows nothing of what it rejects
      assert.deepEqual([dead.topic, dead.payload.toString(), dead.properties.userProperties['dead-letter-reason']],
        ['$queue/js/$dead/mqtt', 'bad', 'rejected'])
      await within(connection.client.endAsync(), 'end')
    })
    await check('$queue: settled by the reason of PUBACK', async () => {
      const connection = await worker('reasons', {
        customHandleAcks: (topic, message, packet, done) => {
          const body = message.toString()
          const { topic: from, 'delivery-count': failures } = packet.properties.userProperties
          handed.push([body, topic, packet.dup, from, failures])
          done(null, body === 'never' ? 0x99 : body === 'again' && !failures ? 0x80 : 0)
        },
      })
      for (const body of ['again', 'never', 'done']) await publisher.publish(`${base}/job`, body, { qos: 1 })
      await until(4)
      const as = (body, failures) => [body, '$queue/mqtt', false, `${base}/job`, failures]
      assert.deepEqual(handed.sort(), [as('again'), as('again', '1'), as('done'), as('never')])
      await within(connection.client.endAsync(), 'end')
    })
  } else {
    await check('$queue: kept and given back by packet identifier', async () => {
      const connection = await worker('identifiers')
      // Until it is done mqtt.js handles nothing else that comes, so what it publishes meanwhile has QoS 0.
      connection.client.handleMessage = async ({ messageId, payload }, done) => {
        handed.push([payload.toString(), Date.now()])
        if (handed.length === 1) {
          await connection.client.publishAsync('$queue/mqtt/$extend', `${messageId} 60000`)
          await connection.client.publishAsync('$queue/mqtt/$nack', `${messageId} 700`)
        }
        done()
      }
      await publisher.publish(`${base}/job`, 'work', { qos: 1 })
      await until(2)
      assert.deepEqual(handed.map(([body]) => body), ['work', 'work'])
      assert.ok(handed[1][1] - handed[0][1] >= 600, 'it came before its time')
      await within(connection.client.endAsync(), 'end')
    })
  }

  await check('another client with its identifier ends it', async () => {
    const older = new Connection(version, `${base}-twice`)
    const newer = new Connection(version, `${base}-twice`)
    await older.connect()
    await newer.connect()
    assert.equal(await within(older.ended, 'end'), five ? 0x8e : undefined)
    await within(newer.client.endAsync(), 'end')
  })

  await check('unsubscribe', async () => {
    const reasons = await subscriber.unsubscribe([`${base}/+/data`, `${base}/never`])
    assert.deepEqual(reasons, five ? [0, 0x11] : [])
    await publisher.publish(`${base}/x/data`, 'x', { qos: 1 })
    await publisher.publish(`${base}/deep/still`, 'y', { qos: 1 })
    assert.deepEqual(await subscriber.take(1), ['y'])
    await subscriber.nothingMore()
  })

  await check('disconnect', async () => {
    for (const connection of [subscriber, publisher]) {
      await within(connection.client.endAsync(), 'end')
      assert.deepEqual(connection.errors, [])
    }
  })

  await check('TLS: 1 MiB there and back', async () => {
    const { MQTTS_PORT: port, CA_FILE: ca } = process.env
    const connection = new Connection(version, `${base}-tls`, { protocol: 'mqtts', port, ca: fs.readFileSync(ca) })
    await connection.connect()
    await connection.subscribe(`${base}/tls`, { qos: 1 })
    await connection.publish(`${base}/tls`, payload(SIZES['1 MiB']), { qos: 1 })
    assert.ok((await connection.next()).payload.equals(payload(SIZES['1 MiB'])))
    await within(connection.client.endAsync(), 'end')
    assert.deepEqual(connection.errors, [])
  })
  return checks.failed
}

async function main() {
  const failed = await run(4) + await run(5)
  process.exit(failed ? 1 : 0)
}

main()
