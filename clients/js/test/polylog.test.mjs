// SPDX-License-Identifier: Apache-2.0
// Against a running gateway on an empty store: node --test, with POLYLOG_WS=ws://… and POLYLOG_HTTP=http://… in the environment.
import assert from "node:assert/strict";
import net from "node:net";
import test from "node:test";
import { Polylog, PolylogError } from "../dist/polylog.js";

const url = process.env.POLYLOG_WS;
const api = process.env.POLYLOG_HTTP;

async function makeQueue(name, group, more = {}) {
  const post = async (path, body) => {
    const answer = await fetch(`${api}/v1.0/default/queues${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    assert.equal(answer.status, 201, await answer.clone().text());
    return answer.json();
  };
  const queue = await post("", { name, ...more });
  if (group) await post(`/${queue.id}/groups`, { groups: [{ name: group }] });
}

async function take(subscription, count) {
  const found = [];
  while (found.length < count) found.push((await subscription.next()).value);
  return found;
}

// A relay to the gateway whose connections can be cut.
async function relay() {
  const { hostname, port } = new URL(url);
  const open = new Set();
  const server = net.createServer((left) => {
    const right = net.connect(Number(port), hostname);
    for (const [one, other] of [[left, right], [right, left]]) {
      open.add(one);
      one.pipe(other);
      one.on("error", () => {});
      one.on("close", () => { open.delete(one); other.destroy(); });
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `ws://127.0.0.1:${server.address().port}/ws`,
    cut() { for (const one of open) one.destroy(); },
    close() { server.close(); this.cut(); },
  };
}

const client = new Polylog({ url, clientId: "test" });
test.after(() => client.close());

test("topics: publish, subscribe, every kind of body", async () => {
  await client.connect();
  const subscription = client.subscribe({ topic: "js/+" });
  await subscription.ready;
  const bodies = ["text ü", "", { a: [1, null] }, 17, true, null, new Uint8Array([0, 255, 128])];
  for (const body of bodies) {
    const place = await client.publish({ topic: "js/x" }, body, { properties: [["n", 5], ["n", "6"]], labels: ["red"] });
    assert.equal(place.queue, "mqtt");
    assert.ok(place.offset >= 0);
  }
  const found = await take(subscription, bodies.length);
  assert.deepEqual(found.map((message) => message.body), bodies);
  assert.deepEqual(found[0].properties, [["n", 5], ["n", "6"]]);
  assert.equal(found[0].property("n"), 5);
  assert.equal(found[0].topic, "js/x");
  assert.equal(found[2].text(), '{"a":[1,null]}');
  await subscription.close();
  assert.deepEqual(await subscription.next(), { value: undefined, done: true });
});

test("groups: ack, nack, reject, extend, dead letters", async () => {
  await makeQueue("jobs", "workers", { redrive_policy: "enable", max_consume_count: 2 });
  const subscription = client.subscribe({ queue: "jobs", group: "workers", lease_seconds: 5 });
  for (const body of ["a", "b", "c"]) await client.publish({ queue: "jobs" }, body);
  const [a, b, c] = await take(subscription, 3);
  await a.ack();
  await assert.rejects(a.ack(), (why) => why instanceof PolylogError && why.code === "stale");
  await b.nack();
  const [again] = await take(subscription, 1);
  assert.equal(again.body, "b");
  assert.equal(again.delivery_count, 1);
  await again.extend(30);
  await again.ack();
  await c.reject();
  const dead = client.subscribe({ queue: "jobs", group: "workers", dead: true });
  const [letter] = await take(dead, 1);
  assert.equal(letter.body, "c");
  await letter.ack();
  await dead.close();
  await subscription.close();
});

test("credit: no more waits here than was asked for, and nothing is lost", async () => {
  await makeQueue("many");
  const total = 2000;
  const sent = [];
  for (let i = 0; i < total; i++) sent.push(client.publish({ queue: "many" }, String(i)));
  await Promise.all(sent);
  const subscription = client.subscribe({ queue: "many", from: "earliest", credit: 10 });
  const found = [];
  for await (const message of subscription) {
    found.push(Number(message.body));
    assert.ok(subscription.waiting.length <= 10);
    if (found.length === total) break;
  }
  assert.deepEqual(found, Array.from({ length: total }, (_, i) => i));
  const page = await client.fetch("many", { from: { offset: 5 }, limit: 3 });
  assert.deepEqual(page.records.map((record) => record.body), ["5", "6", "7"]);
  assert.equal(page.next, 8);
});

test("request and reply", async () => {
  const service = client.subscribe({ topic: "service/double" });
  await service.ready;
  (async () => {
    for await (const message of service) await message.reply(message.body * 2);
  })();
  assert.equal((await client.request({ topic: "service/double" }, 21)).body, 42);
  await assert.rejects(client.request({ topic: "service/nobody" }, 1, { timeout_ms: 100 }), { code: "timed_out" });
  await service.close();
});

test("binary subscriptions", async () => {
  const subscription = client.subscribe({ topic: "bytes", binary: true });
  await subscription.ready;
  const bytes = Uint8Array.from({ length: 100000 }, (_, i) => i & 255);
  await client.publish({ topic: "bytes" }, bytes);
  assert.deepEqual((await take(subscription, 1))[0].body, bytes);
  await subscription.close();
});

test("a lost connection: everything goes on, each message once and in order", async () => {
  await makeQueue("stream");
  const line = await relay();
  const states = [];
  const reader = new Polylog({ url: line.url, reconnect: { min_ms: 20, max_ms: 100 } });
  reader.onstate = (state) => states.push(state);
  const queue = reader.subscribe({ queue: "stream", from: "earliest", credit: 7 });
  const topic = reader.subscribe({ topic: "resumed/#", resume: true });
  await Promise.all([queue.ready, topic.ready]);
  const total = 300;
  const publishing = (async () => {
    for (let i = 0; i < total; i++) {
      await reader.publishOnce({ queue: "stream" }, String(i));
      await client.publish({ topic: "resumed/x" }, String(i));
      if (i % 60 === 30) line.cut();
    }
  })();
  const want = Array.from({ length: total }, (_, i) => String(i));
  assert.deepEqual((await take(queue, total)).map((message) => message.body), want);
  assert.deepEqual((await take(topic, total)).map((message) => message.body), want);
  await publishing;
  assert.ok(states.includes("waiting"), states.join());
  await reader.close();
  assert.equal((await queue.next()).done, true);
  line.close();
});

test("a token that comes late is not sent on the connection that has gone", async () => {
  const sockets = [];
  class Socket {
    sent = [];
    constructor() { sockets.push(this); queueMicrotask(() => this.onopen()); }
    send(text) {
      this.sent.push(JSON.parse(text));
      queueMicrotask(() => this.onmessage({ data: JSON.stringify({ op: "ok", id: this.sent.at(-1).id }) }));
    }
    close() { this.onclose({ code: 1000 }); }
  }
  const asked = [];
  const late = new Polylog({
    url: "ws://nowhere/ws", WebSocket: Socket, reconnect: { min_ms: 1, max_ms: 1 },
    token: () => new Promise((resolve) => asked.push(resolve)),
  });
  const connected = late.connect();
  while (asked.length < 1) await new Promise((resolve) => setTimeout(resolve, 1));
  sockets[0].onclose({ code: 1006 });
  while (asked.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
  asked[0]("old");
  await new Promise((resolve) => setTimeout(resolve, 1));
  asked[1]("new");
  await connected;
  assert.deepEqual(sockets.map((socket) => socket.sent.map((frame) => frame.token)), [[], ["new"]]);
  await late.close();
});

test("refusals", async () => {
  await assert.rejects(client.publish({ queue: "nowhere" }, "x"), { code: "not_found", name: "PolylogError" });
  const subscription = client.subscribe({ topic: "a/#/b" });
  await assert.rejects(subscription.ready, { code: "invalid" });
  await assert.rejects(subscription.next(), { code: "invalid" });
  const nobody = new Polylog({ url: "ws://127.0.0.1:1/ws", reconnect: false });
  await assert.rejects(nobody.connect(), { code: "closed" });
  await assert.rejects(nobody.publish({ topic: "a" }, "x"), { code: "closed" });
});
