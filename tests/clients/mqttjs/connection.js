// SPDX-License-Identifier: Apache-2.0
// What the programs with mqtt.js share: a client whose packets can be waited for, and one line per check.
'use strict'
const assert = require('node:assert/strict')
const mqtt = require('mqtt')

const [host, port] = process.argv.slice(2)
const WAIT_MS = 15000
// Long enough for a message that must not come to come.
const QUIET_MS = 300

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${WAIT_MS} ms`)), WAIT_MS)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

// One client whose messages can be waited for.
class Connection {
  constructor(protocolVersion, clientId, options) {
    this.received = []
    this.waiting = []
    this.errors = []
    this.client = mqtt.connect({
      host, port: Number(port), protocolVersion, clientId, clean: true, reconnectPeriod: 0, manualConnect: true,
      ...options,
    })
    this.client.on('error', (error) => this.errors.push(error))
    // The reason of the gateway's DISCONNECT; nothing when it closed without a word.
    this.ended = new Promise((resolve) => {
      this.client.on('disconnect', (packet) => resolve(packet.reasonCode))
      this.client.on('close', () => setImmediate(resolve))
    })
    this.client.on('message', (topic, body, packet) => {
      const taker = this.waiting.shift()
      if (taker) taker(packet)
      else this.received.push(packet)
    })
  }

  connect() {
    return within(new Promise((resolve, reject) => {
      this.client.once('connect', resolve)
      this.client.once('error', reject)
      this.client.connect()
    }), 'CONNACK')
  }

  // The packet of SUBACK, refused or not.
  subscribe(filters, options) {
    return within(new Promise((resolve, reject) => {
      this.client.subscribe(filters, options, (error, granted, packet) => {
        if (packet) resolve(packet.granted)
        else reject(error)
      })
    }), 'SUBACK')
  }

  unsubscribe(filters) {
    return within(new Promise((resolve, reject) => {
      this.client.unsubscribe(filters, (error, packet) => error ? reject(error) : resolve(packet.granted || []))
    }), 'UNSUBACK')
  }

  publish(topic, body, options) {
    return within(this.client.publishAsync(topic, body, options), 'answer to PUBLISH')
  }

  next() {
    if (this.received.length) return Promise.resolve(this.received.shift())
    return within(new Promise((resolve) => this.waiting.push(resolve)), 'message')
  }

  async take(count) {
    const packets = []
    while (packets.length < count) packets.push(await this.next())
    return packets.map((packet) => packet.payload.toString())
  }

  async nothingMore() {
    await sleep(QUIET_MS)
    assert.deepEqual(this.received.map((packet) => packet.topic), [], 'a message too many')
  }
}

// Runs bodies one after the other; failed counts those that have thrown.
class Checks {
  constructor(client) {
    this.client = client
    this.failed = 0
  }

  async run(what, body) {
    const began = Date.now()
    try {
      await body()
      console.log(`ok      ${this.client}: ${what} (${((Date.now() - began) / 1000).toFixed(2)} s)`)
    } catch (error) {
      this.failed++
      console.error(error)
      console.log(`failed  ${this.client}: ${what}: ${String(error.message).split('\n').join(' ').slice(0, 200)}`)
    }
  }
}

module.exports = { Checks, Connection, QUIET_MS, WAIT_MS, sleep, within }
