// SPDX-License-Identifier: Apache-2.0
// rhea, AMQP 1.0, over TCP and over npm's WebSocket: node check.js HOST PORT HTTP_PORT. The gateway makes queues on
// demand.
'use strict'
const assert = require('node:assert/strict')
const rhea = require('rhea')
const { WebSocket } = require('ws')

const [host, port, httpPort] = process.argv.slice(2)
const overTcp = { host, port: Number(port) }
const overWebSocket = { connection_details: rhea.websocket_connect(WebSocket)(`ws://${host}:${httpPort}/amqp`, ['amqp'], {}) }
const WAIT_MS = 15000
const ORDERED = 200
let failed = 0
let prefix = ''

function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_MS} ms`)), WAIT_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function check(what, body) {
  const began = Date.now()
  try {
    await body()
    console.log(`ok      rhea: ${prefix}${what} (${((Date.now() - began) / 1000).toFixed(2)} s)`)
  } catch (error) {
    failed++
    console.error(error)
    console.log(`failed  rhea: ${prefix}${what}: ${String(error).slice(0, 200)}`)
  }
}

const once = (emitter, event) => within(new Promise((resolve) => emitter.once(event, resolve)), event)

async function connect(way) {
  const container = rhea.create_container()
  const connection = container.connect({ ...way, username: 'anonymous', reconnect: false })
  await once(connection, 'connection_open')
  return connection
}

async function send(connection, address, ...messages) {
  const sender = connection.open_sender(address)
  await once(sender, 'sendable')
  let settled = 0
  const all = within(new Promise((resolve, reject) => {
    sender.on('accepted', () => { if (++settled === messages.length) resolve() })
    sender.on('rejected', (context) => reject(new Error(String(context.delivery.remote_state.error))))
  }), 'outcome')
  for (const message of messages) sender.send(message)
  await all
  sender.close()
}

// Takes count messages; settle(delivery) says what becomes of each.
async function take(connection, source, count, settle = (delivery) => delivery.accept(), options = {}) {
  const receiver = connection.open_receiver({ source, credit_window: 0, autoaccept: false, ...options })
  const messages = []
  const all = within(new Promise((resolve) => {
    receiver.on('message', (context) => {
      messages.push(context.message)
      settle(context.delivery, context.message)
      if (messages.length === count) resolve()
    })
  }), `${count} messages`)
  receiver.add_credit(count)
  await all
  receiver.close()
  await once(receiver, 'receiver_close')
  return messages
}

async function all(way) {
  const connection = await connect(way)

  await check(`${ORDERED} messages in order, each once`, async () => {
    const numbers = Array.from({ length: ORDERED }, (_, i) => i)
    await send(connection, 'rhea.order', ...numbers.map((body) => ({ body })))
    assert.deepEqual((await take(connection, 'rhea.order', ORDERED)).map((message) => message.body), numbers)
  })

  await check('properties, types and bodies', async () => {
    const sent = {
      message_id: 'id', correlation_id: 'c', subject: 's', reply_to: 'rhea.types', content_type: 'text/plain',
      group_id: 'g', durable: true, priority: 6, ttl: 60000,
      application_properties: { text: 'ä', number: rhea.types.wrap_int(-5), yes: true },
      body: { list: [1, 'two', null], bytes: Buffer.from([0, 255]) },
    }
    await send(connection, 'rhea.types', sent)
    const [got] = await take(connection, 'rhea.types', 1)
    for (const name of ['message_id', 'correlation_id', 'subject', 'reply_to', 'content_type', 'group_id', 'durable',
      'priority', 'body']) assert.deepEqual(got[name], sent[name], name)
    assert.deepEqual(got.application_properties, { text: 'ä', number: -5, yes: true })
    const data = rhea.message.data_section(Buffer.alloc(1 << 20, 'x'))
    await send(connection, 'rhea.types', { body: data })
    assert.equal((await take(connection, 'rhea.types', 1))[0].body.content.length, 1 << 20)
  })

  await check('released, modified and rejected', async () => {
    await send(connection, 'rhea.outcomes', { body: 'x' })
    await take(connection, 'rhea.outcomes', 1, (delivery) => delivery.release())
    await take(connection, 'rhea.outcomes', 1, (delivery) => delivery.modified({ delivery_failed: true }))
    const [again] = await take(connection, 'rhea.outcomes', 1, (delivery) => delivery.reject())
    assert.equal(again.delivery_count, 1)
  })

  await check('a selector', async () => {
    await send(connection, 'rhea.selector', ...['red', 'blue', 'red'].map((color) =>
      ({ body: color, application_properties: { color } })))
    const source = { address: 'rhea.selector', filter: rhea.filter.selector("color = 'blue'") }
    assert.equal((await take(connection, source, 1))[0].body, 'blue')
  })

  await check('a topic with a wildcard', async () => {
    const receiver = connection.open_receiver('/topics/rhea/+')
    await once(receiver, 'receiver_open')
    const message = once(receiver, 'message')
    await send(connection, '/topics/rhea/x', { body: 'news' })
    assert.equal((await message).message.body, 'news')
    receiver.close()
  })

  await check('filters of subject and properties', async () => {
    const { types } = rhea
    const described = (name, value) => types.wrap_described(value, name)
    const filters = {
      words: described('apache.org:legacy-amqp-topic-binding:string', 'order.*.eu'),
      properties: described('amqp:properties-filter', types.wrap_symbolic_map({ subject: '&p:order' })),
      application: described('amqp:application-properties-filter', types.wrap_map({ n: types.wrap_int(1) })),
    }
    const receiver = connection.open_receiver({ source: { address: '/topics/rhea/filtered', filter: filters } })
    await once(receiver, 'receiver_open')
    assert.deepEqual(Object.keys(receiver.source.filter).sort(), ['application', 'properties', 'words'])
    const got = []
    const message = within(new Promise((resolve) => receiver.on('message', (context) => {
      got.push(context.message.body)
      if (context.message.body === 'last') resolve()
    })), 'message')
    await send(connection, '/topics/rhea/filtered',
      { subject: 'order.new.us', body: 'no', application_properties: { n: 1 } },
      { subject: 'order.new.eu', body: 'yes', application_properties: { n: 1 } },
      { subject: 'order.new.eu', body: 'no', application_properties: { n: 2 } },
      { subject: 'order.x.eu', body: 'last', application_properties: { n: 1 } })
    await message
    assert.deepEqual(got, ['yes', 'last'])
    receiver.close()
  })

  await check('a durable subscription outlives its connection', async () => {
    const source = { address: '/topics/rhea/durable', durable: 2, expiry_policy: 'never' }
    const container = rhea.create_container({ id: 'rhea-durable' })
    const open = async () => {
      const own = container.connect({ host, port: Number(port), username: 'anonymous', reconnect: false })
      await once(own, 'connection_open')
      const receiver = own.open_receiver({ name: 'news', source, credit_window: 0, autoaccept: false })
      await once(receiver, 'receiver_open')
      return { own, receiver }
    }
    let { own, receiver } = await open()
    assert.equal(Number(receiver.source.durable), 2)
    await send(connection, '/topics/rhea/durable', { body: 1 }, { body: 2 })
    let message = once(receiver, 'message')
    receiver.add_credit(1)
    const tag = (await message).delivery.tag.toString('hex')
    own.close()
    await once(own, 'connection_close');
    ({ own, receiver } = await open())
    const got = []
    message = within(new Promise((resolve) => receiver.on('message', (context) => {
      got.push([context.message.body, context.delivery.tag.toString('hex') === tag])
      context.delivery.accept()
      if (got.length === 2) resolve()
    })), 'message')
    receiver.add_credit(2)
    await message
    assert.deepEqual(got, [[1, true], [2, false]])
    receiver.close()
    await once(receiver, 'receiver_close')
    own.close()
  })

  await check('a request and its reply through a dynamic node', async () => {
    const replies = connection.open_receiver({ source: { dynamic: true } })
    await once(replies, 'receiver_open')
    const reply = once(replies, 'message')
    await send(connection, 'rhea.requests', { body: '1 + 1', reply_to: replies.source.address })
    const [request] = await take(connection, 'rhea.requests', 1)
    const relay = connection.open_sender({ target: {} })
    await once(relay, 'sendable')
    relay.send({ to: request.reply_to, body: '2' })
    assert.equal((await reply).message.body, '2')
  })

  // More than half of the 2048 transfers that rhea takes before it looks at its window, which it does not within a message.
  await check('512 KiB in frames of 512 bytes', async () => {
    const own = await connect({ ...way, max_frame_size: 512 })
    const body = rhea.message.data_section(Buffer.alloc(1 << 19, 'y'))
    await send(own, 'rhea.pieces', { body }, { body: 'small' })
    const [large, small] = await take(own, 'rhea.pieces', 2)
    assert.ok(body.content.equals(large.body.content))
    assert.equal(small.body, 'small')
    own.close()
    await once(own, 'connection_close')
  })

  await check('a drain ends with what there is', async () => {
    for (const address of ['rhea.drained', '/topics/rhea/drained']) {
      const receiver = connection.open_receiver({ source: address, credit_window: 0, autoaccept: false })
      await once(receiver, 'receiver_open')
      const got = []
      receiver.on('message', (context) => {
        got.push(context.message.body)
        context.delivery.accept()
      })
      for (const bodies of [[1, 2], []]) {
        got.length = 0
        if (bodies.length > 0) await send(connection, address, ...bodies.map((body) => ({ body })))
        const drained = once(receiver, 'receiver_drained')
        receiver.add_credit(10)
        receiver.drain_credit()
        await drained
        assert.deepEqual(got, bodies)
        assert.equal(receiver.credit, 0)
        receiver.drain = false
      }
      receiver.close()
      await once(receiver, 'receiver_close')
    }
  })

  await check('the default outcome, for what is settled without one', async () => {
    const settle = (delivery) => delivery.update(true)
    const outcomes = { accepted: rhea.message.accepted(), rejected: rhea.message.rejected(),
      released: rhea.message.released(), failed: rhea.message.modified({ delivery_failed: true }) }
    for (const [name, outcome] of Object.entries(outcomes)) {
      await send(connection, 'rhea.default', { body: name })
      const source = { address: 'rhea.default', default_outcome: outcome.described() }
      assert.equal((await take(connection, source, 1, settle))[0].body, name)
      if (name === 'released' || name === 'failed') {
        const [again] = await take(connection, 'rhea.default', 1)
        assert.deepEqual([again.body, again.delivery_count || 0], [name, name === 'failed' ? 1 : 0])
      }
    }
    await send(connection, 'rhea.default', { body: 'last' })
    assert.equal((await take(connection, 'rhea.default', 1))[0].body, 'last')
  })

  await check('delay and time of delivery', async () => {
    const began = Date.now()
    await send(connection, 'rhea.delayed',
      { body: 'third', message_annotations: { 'x-opt-delivery-delay': 2000 } },
      { body: 'second', message_annotations: { 'x-opt-delivery-time': rhea.types.wrap_timestamp(began + 1500) } },
      { body: 'first' })
    const got = await take(connection, 'rhea.delayed', 3)
    assert.deepEqual(got.map((message) => message.body), ['first', 'second', 'third'])
    assert.ok(Date.now() - began >= 2000)
  })

  await check('an aborted message in many transfers leaves nothing', async () => {
    const sender = connection.open_sender('rhea.aborted')
    await once(sender, 'sendable')
    for (const pieces of [1, 7, 30]) { // rhea has no call for it: what follows these is one transfer that says so
      const output = sender.session.output
      let sent = 0
      sender.session.output = (transfer, data) => {
        transfer.aborted = sent === pieces
        transfer.more = sent < pieces
        if (sent++ <= pieces) output.call(sender.session, transfer, transfer.aborted ? undefined : data)
        if (sent > pieces + 1) sender.session.outgoing.next_transfer_id--
      }
      sender.send({ body: 'x'.repeat(1 << 20) })
      await new Promise((resolve) => setTimeout(resolve, 50))
      sender.session.output = output
      await send(connection, 'rhea.aborted', { body: `behind ${pieces}` })
      sender.send({ body: `on the same link ${pieces}` })
      await once(sender, 'accepted')
      assert.deepEqual((await take(connection, 'rhea.aborted', 2)).map((message) => message.body),
        [`behind ${pieces}`, `on the same link ${pieces}`])
    }
    sender.close()
  })

  await check('a group in broadcast: each container has its own place, whatever its id', async () => {
    const name = `rhea.broadcast${prefix ? '.ws' : ''}`
    const rest = async (path, body) => {
      const answer = await fetch(`http://${host}:${httpPort}/v1/default/${path}`,
        { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) })
      assert.ok(answer.ok, await answer.text())
    }
    await rest('queues', { name })
    await rest(`queues/${name}/groups`, { groups: [{ name: 'g', mode: 'broadcast' }] })
    const source = `/queues/${name}/groups/g`
    const ids = ['plain', 'ID:host-1:2', 'r\u00e4ksm\u00f6rg\u00e5s/\u4e00', 'with space, $ and #', 'l'.repeat(300), `${'l'.repeat(300)}2`, '..', 'id.plain']
    const links = []
    for (const id of ids) {
      const own = rhea.create_container({ id }).connect({ ...way, username: 'anonymous', reconnect: false })
      await once(own, 'connection_open')
      const receiver = own.open_receiver({ source, credit_window: 0, autoaccept: false })
      await once(receiver, 'receiver_open')
      receiver.close()
      await once(receiver, 'receiver_close')
      links.push(own)
    }
    await send(connection, name, { body: 1 }, { body: 2 })
    for (const wanted of [1, 2]) { // the second time on another connection of that id
      for (const [i, id] of ids.entries()) {
        assert.equal((await take(links[i], source, 1))[0].body, wanted, id)
        links[i].close()
        await once(links[i], 'connection_close')
        if (wanted === 2) continue
        links[i] = rhea.create_container({ id }).connect({ ...way, username: 'anonymous', reconnect: false })
        await once(links[i], 'connection_open')
      }
    }
  })

  await check('an address that leads nowhere', async () => {
    const sender = connection.open_sender('/nowhere/at/all')
    await once(sender, 'sender_error')
    assert.equal(sender.error.condition, 'amqp:not-found')
  })

  await check('close', async () => {
    connection.close()
    await once(connection, 'connection_close')
  })
}

// Where the gateway names another one, its end says so. It is the last check: it ends the gateway.
async function redirected() {
  const connection = await connect(overTcp)
  const closed = once(connection, 'connection_close')
  connection.on('connection_error', () => {})
  process.kill(Number(process.env.GATEWAY_PID), 'SIGTERM')
  await closed
  assert.equal(connection.error.condition, 'amqp:connection:redirect')
  assert.deepEqual(connection.error.info, { hostname: 'other.example.org', 'network-host': 'other.example.org', port: 5673 })
}

async function main() {
  await all(overTcp)
  prefix = 'WebSocket: '
  await all(overWebSocket)
  prefix = ''
  await check('the end of the gateway says where to go', redirected)
  process.exit(failed > 0 ? 1 : 0)
}

main()
