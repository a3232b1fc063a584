// SPDX-License-Identifier: Apache-2.0
// A page in Debian's Chromium that uses mqtt.js and rhea over WebSocket and clients/js: node check.js HTTP_PORT CLIENT_DIRECTORY
// MQTT also over TLS: HTTPS_PORT and CA_FILE of the environment. Then npm's ws as the WebSocket of clients/js, and its examples.
'use strict'
const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const { X509Certificate, createHash } = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { pathToFileURL } = require('node:url')
const { chromium } = require('playwright-core')

const [port, library] = process.argv.slice(2)
const { HTTPS_PORT: tlsPort, CA_FILE: certificate } = process.env
const origin = `http://127.0.0.1:${port}`
const tlsOrigin = `https://127.0.0.1:${tlsPort}`
const files = {
  '/page/': '<!doctype html><meta charset="utf-8"><title>test</title><script src="/page/mqtt.js"></script>' +
    '<script src="/page/rhea.js"></script>',
  '/page/mqtt.js': fs.readFileSync(path.join(__dirname, 'node_modules/mqtt/dist/mqtt.min.js')),
  '/page/rhea.js': fs.readFileSync(path.join(__dirname, 'node_modules/rhea/dist/rhea-umd.js')),
  '/page/polylog.js': fs.readFileSync(path.join(library, 'dist/polylog.js')),
  '/page/examples/page.html': fs.readFileSync(path.join(library, 'examples/page.html')),
  '/page/dist/polylog.js': fs.readFileSync(path.join(library, 'dist/polylog.js')),
}
let failed = 0

async function check(what, run) {
  try {
    await run()
    console.log(`ok      browser: ${what}`)
  } catch (error) {
    failed++
    console.log(`failed  browser: ${what}: ${String(error.message).split('\n')[0]}`)
    console.error(error)
  }
}

// In the page: each MQTT version, every QoS, sizes, order. Resolves to the subprotocols that were agreed on.
async function overMqtt(url) {
  const { mqtt } = window
  const protocols = []
  for (const protocolVersion of [3, 4, 5]) {
    const client = await mqtt.connectAsync(url, {
      protocolVersion, protocolId: protocolVersion === 3 ? 'MQIsdp' : 'MQTT', clientId: `page-${protocolVersion}`, reconnectPeriod: 0,
    })
    protocols.push(client.stream.socket.protocol)
    const got = []
    const sent = []
    client.on('message', (topic, payload, packet) => got.push([packet.qos, payload.length, payload.length ? payload[payload.length - 1] : 0]))
    await client.subscribeAsync('page/#', { qos: 2 })
    for (const qos of [0, 1, 2]) {
      for (const size of [0, 100, 1 << 20]) {
        const body = new Uint8Array(size).fill(size & 255 || 7)
        sent.push([qos, size, size ? body[size - 1] : 0])
        await client.publishAsync('page/x', body, { qos })
      }
    }
    for (let i = 0; i < 200; i++) {
      sent.push([1, 1, i])
      client.publish('page/many', new Uint8Array([i]), { qos: 1 })
    }
    for (let i = 0; got.length < sent.length && i < 200; i++) await new Promise((resolve) => setTimeout(resolve, 50))
    for (const qos of [0, 1, 2]) {
      const [a, b] = [got, sent].map((list) => JSON.stringify(list.filter((one) => one[0] === qos)))
      if (a !== b) throw new Error(`version ${protocolVersion}, QoS ${qos}: ${a.slice(0, 200)}`)
    }
    await client.endAsync()
  }
  return protocols
}

// In the page: the client library.
async function overPolylog({ url, origin }) {
  const { Polylog } = await import('/page/polylog.js')
  const client = new Polylog({ url, clientId: 'page' })
  await client.connect()
  const post = (where, body) => fetch(`${origin}/v1.0/default/queues${where}`, {
    method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
  }).then((answer) => answer.json())
  const queue = await post('', { name: 'page' })
  await post(`/${queue.id}/groups`, { groups: [{ name: 'g' }] })
  const count = 500
  const leased = client.subscribe({ queue: 'page', group: 'g', credit: 20 })
  await Promise.all(Array.from({ length: count }, (_, i) => client.publish({ queue: 'page' }, { i }, { labels: ['page'] })))
  for (let i = 0; i < count; i++) {
    const { value } = await leased.next()
    if (value.body.i !== i) throw new Error(`${value.body.i} instead of ${i}`)
    await value.ack()
  }
  await leased.close()
  const bytes = client.subscribe({ topic: 'page/bytes', binary: true })
  await bytes.ready
  await client.publish({ topic: 'page/bytes' }, new Uint8Array([0, 255]))
  const { value } = await bytes.next()
  if (!(value.body instanceof Uint8Array) || value.body[1] !== 255) throw new Error('not bytes')
  await client.close()
}

// In the page: AMQP 1.0. The queue holds what clients/js published.
async function overAmqp(url) {
  const rhea = window.rheaUmd
  const once = (emitter, event) => new Promise((resolve, reject) => {
    emitter.once(event, resolve)
    setTimeout(() => reject(new Error(`no ${event}`)), 15000)
  })
  const connection = rhea.create_container().connect({
    connection_details: rhea.websocket_connect(WebSocket)(url, ['amqp'], {}), username: 'anonymous', reconnect: false,
  })
  await once(connection, 'connection_open')
  const receive = async (address, count) => {
    const receiver = connection.open_receiver({ source: address, credit_window: 50 })
    const bodies = []
    const done = new Promise((resolve, reject) => {
      receiver.on('message', ({ message }) => bodies.push(message.body) === count && resolve(bodies))
      setTimeout(() => reject(new Error(`${bodies.length} messages of ${address}`)), 15000)
    })
    await once(receiver, 'receiver_open')
    return { done, receiver }
  }
  const queue = await receive('/queues/page/groups/rhea', 500)
  const found = (await queue.done).map((body) => JSON.parse(new TextDecoder().decode(body.content ?? body)).i)
  if (found.some((n, i) => n !== i)) throw new Error('out of order')
  const topic = await receive('/topics/page/amqp', 201)
  const sender = connection.open_sender('/topics/page/amqp')
  await once(sender, 'sendable')
  for (let i = 0; i < 200; i++) sender.send({ body: i })
  sender.send({ body: 'x'.repeat(1 << 20) })
  const bodies = await topic.done
  if (bodies.slice(0, 200).some((n, i) => n !== i) || bodies[200].length !== 1 << 20) throw new Error('not what was sent')
  connection.close()
  await once(connection, 'connection_close')
}

// In the page: EventSource goes on where it broke off.
async function overEvents(origin) {
  const source = new EventSource(`${origin}/v1/default/events?queue=page&from=earliest`)
  const found = []
  await new Promise((resolve, reject) => {
    source.onmessage = (event) => {
      found.push(JSON.parse(event.data).body.i)
      if (found.length === 500) resolve()
    }
    setTimeout(() => reject(new Error(`${found.length} events`)), 20000)
  })
  source.close()
  if (found.some((n, i) => n !== i)) throw new Error('out of order')
}

// Chromium trusts this key and no other that its authorities do not vouch for.
function keyOfGateway() {
  const key = new X509Certificate(fs.readFileSync(certificate)).publicKey.export({ type: 'spki', format: 'der' })
  return createHash('sha256').update(key).digest('base64')
}

// The page comes from the gateway's own origin, without the gateway having to serve it.
function servePage(page, from) {
  return page.route(`${from}/page/**`, (route) => {
    const name = new URL(route.request().url()).pathname
    route.fulfill({ body: files[name], contentType: name.endsWith('.js') ? 'text/javascript' : 'text/html' })
  })
}

async function main() {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'polylog-browser-'))
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', `--ignore-certificate-errors-spki-list=${keyOfGateway()}`,
      // A page that playwright supplies has no address, and would be kept from loopback.
      '--disable-features=LocalNetworkAccessChecks'],
  })
  try {
    const page = await context.newPage()
    await servePage(page, tlsOrigin)
    await page.goto(`${tlsOrigin}/page/`)
    const agreed = ['mqttv3.1', 'mqtt', 'mqtt'] // MQTT 3.1, 3.1.1 and 5
    await check('mqtt.js over WebSocket over TLS', async () => {
      assert.deepEqual(await page.evaluate(overMqtt, `wss://127.0.0.1:${tlsPort}/mqtt`), agreed)
    })
    await servePage(page, origin)
    await page.goto(`${origin}/page/`)
    await check('mqtt.js over WebSocket', async () => {
      assert.deepEqual(await page.evaluate(overMqtt, `ws://127.0.0.1:${port}/mqtt`), agreed)
    })
    await check('clients/js in a page', () => page.evaluate(overPolylog, { url: `ws://127.0.0.1:${port}/ws`, origin }))
    await check('rhea over WebSocket', () => page.evaluate(overAmqp, `ws://127.0.0.1:${port}/amqp`))
    await check('Server-Sent Events', () => page.evaluate(overEvents, origin))
    await check('the example page', async () => {
      await page.goto(`${origin}/page/examples/page.html`)
      await page.fill('input', 'hello from Chromium')
      await page.click('button')
      await page.waitForSelector('li:has-text("hello from Chromium")', { timeout: 10000 })
    })
    await check('a page of a foreign origin is refused', async () => {
      const foreign = `http://127.0.0.1:1/page/`
      await page.route(`${foreign}**`, (route) => route.fulfill({ body: files['/page/'], contentType: 'text/html' }))
      await page.goto(foreign)
      const code = await page.evaluate((url) => new Promise((resolve) => {
        const socket = new WebSocket(url, ['polylog.v1'])
        socket.onopen = () => resolve('open')
        socket.onclose = (event) => resolve(event.code)
      }), `ws://127.0.0.1:${port}/ws`)
      assert.equal(code, 1006)
    })
  } finally {
    await context.close()
    fs.rmSync(profile, { recursive: true, force: true })
  }
  const { Polylog } = await import(pathToFileURL(path.join(library, 'dist/polylog.js')))
  await check("npm's ws as the WebSocket", async () => {
    const client = new Polylog({ url: `ws://127.0.0.1:${port}/ws`, WebSocket: require('ws').WebSocket, reconnect: false })
    await client.connect()
    const subscription = client.subscribe({ topic: 'ws/npm' })
    await subscription.ready
    await client.publish({ topic: 'ws/npm' }, 'x'.repeat(100000)) // which goes out compressed
    assert.equal((await subscription.next()).value.body.length, 100000)
    await client.close()
  })
  await check('the examples', async () => {
    const example = (name, ...words) =>
      execFileSync(process.execPath, [path.join(library, 'examples', name), `ws://127.0.0.1:${port}/ws`, ...words], { timeout: 20000 }).toString()
    assert.equal(example('request.mjs'), '42\n')
    assert.match(example('publish.mjs', 'example', 'text'), /queue: 'mqtt'/)
  })
}

main().then(() => process.exit(failed ? 1 : 0), (error) => {
  console.log(`failed  browser: ${error.message}`)
  console.error(error)
  process.exit(1)
})
