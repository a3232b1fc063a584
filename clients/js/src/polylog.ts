// SPDX-License-Identifier: Apache-2.0
// Client of the Polylog gateway: the WebSocket subprotocol polylog.v1 (docs/websocket.md) in one file
// without dependencies, for browsers and Node. Promises for what is answered, async iteration for what comes.

/** A header that is not a standard field: name and value; values that are bytes come as {base64}. */
export type Property = [string, unknown];

export type Body = string | Uint8Array | object | number | boolean | null;

/** Where a message goes: to a topic, or to a queue by name. */
export type Target = { topic: string } | { queue: string };

/** Fields of a message beside its body; names as in docs/websocket.md. */
export interface Fields {
  key?: string;
  content_type?: string;
  content_encoding?: string;
  message_id?: string;
  correlation_id?: string;
  reply_to?: string;
  subject?: string;
  group_id?: string;
  group_sequence?: number;
  priority?: number;
  expires_at?: number;
  expiry_ms?: number;
  labels?: string[];
  retain?: boolean;
  delay_ms?: number;
  dedup_id?: string;
  traceparent?: string;
  tracestate?: string;
  properties?: Property[];
}

/** Where a published message lies; delayed: what cancels it. */
export interface Published {
  queue: string;
  partition: number;
  offset?: number | null;
  delayed?: string;
}

export type From = "earliest" | "latest" | { offset: number } | { time: number } | { position: string };

export interface SubscribeOptions {
  topic?: string;
  queue?: string;
  /** Of the queue: messages are leased, and settled by ack, nack and reject. */
  group?: string;
  /** Messages that may wait here before they are taken; 100. The gateway sends no more. */
  credit?: number;
  from?: From;
  /** Topics: go on after a lost connection where it broke off (stored messages only). */
  resume?: boolean;
  partition?: number;
  labels?: string[];
  labels_all?: boolean;
  selector?: string;
  lease_seconds?: number;
  no_local?: boolean;
  /** Topics: false: not the retained messages of before. */
  retained?: boolean;
  dead?: boolean;
  /** Bodies come as bytes, without base64. */
  binary?: boolean;
}

export interface FetchOptions {
  from: "earliest" | { offset: number } | { time: number };
  partition?: number;
  limit?: number;
  labels?: string[];
  selector?: string;
}

export interface Page {
  records: Message[];
  next: number;
  start: number;
  end: number;
}

export interface Options {
  /** ws://host:8080/ws or wss://… */
  url: string;
  user?: string;
  password?: string;
  /** Instead of user and password, of POST /v1/{project}/tokens; a function is asked before each attempt. */
  token?: string | (() => string | Promise<string>);
  clientId?: string;
  /** Wait this long before the first new attempt, doubling up to max; false: a lost connection is the end. */
  reconnect?: false | { min_ms?: number; max_ms?: number };
  /** Publishes under way at most: further ones wait; 1000. */
  maxPending?: number;
  /** Until an answer must have come; 30000. */
  timeout_ms?: number;
  /** A WebSocket class to use instead of the built-in one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocketLike;
}

export type State = "connecting" | "open" | "waiting" | "closed";

/** What this file needs of a WebSocket. */
export interface WebSocketLike {
  binaryType: string;
  readonly bufferedAmount: number;
  onopen: ((event: any) => void) | null;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string | Uint8Array): void;
  close(code?: number, reason?: string): void;
}

type Frame = Record<string, any>;

/** A refusal: code as in docs/websocket.md; retry: trying again later can help. */
export class PolylogError extends Error {
  constructor(readonly code: string, text: string, readonly retry = false) {
    super(text);
    this.name = "PolylogError";
  }
}

const PROTOCOL = "polylog.v1";
const BUFFERED_MAX = 4 * 1024 * 1024;
const CREDIT = 100;

function fromBase64(text: string): Uint8Array {
  const plain = atob(text);
  const bytes = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) bytes[i] = plain.charCodeAt(i);
  return bytes;
}

/** A message that came. Its fields are those of docs/websocket.md. */
export class Message {
  readonly body: any;
  readonly receipt?: string;
  readonly sub?: string;
  readonly queue?: string;
  readonly partition?: number;
  readonly offset?: number;
  readonly topic?: string;
  readonly time!: number;
  readonly id?: string;
  readonly key?: string;
  readonly content_type?: string;
  readonly correlation_id?: string;
  readonly reply_to?: string;
  readonly labels?: string[];
  readonly properties?: Property[];
  readonly delivery_count?: number;
  readonly publisher?: string;
  readonly retain?: boolean;
  /** It was there before the subscription, as the retained message of its topic. */
  readonly retained?: boolean;
  [field: string]: any;

  /** @internal */
  constructor(client: Polylog, fields: Frame, bytes?: Uint8Array) {
    Object.assign(this, fields);
    if (bytes !== undefined) this.body = bytes;
    else if (fields.body_encoding === "base64") this.body = fromBase64(fields.body);
    Object.defineProperty(this, "client", { value: client, enumerable: false });
  }

  /** The body as text. */
  text(): string {
    if (this.body instanceof Uint8Array) return new TextDecoder().decode(this.body);
    return typeof this.body === "string" ? this.body : JSON.stringify(this.body);
  }

  /** First property of that name. */
  property(name: string): unknown {
    return this.properties?.find((pair) => pair[0] === name)?.[1];
  }

  /** Done: it never comes again. */
  ack(): Promise<void> {
    return this.settle("ack", {});
  }
  /** It failed: again, now or after a delay; too many failures make a dead letter. */
  nack(delay_ms = 0): Promise<void> {
    return this.settle("nack", { delay_ms });
  }
  /** Never again: a dead letter where the queue keeps them. */
  reject(): Promise<void> {
    return this.settle("reject", {});
  }
  /** More time: so many seconds from now. */
  extend(seconds: number): Promise<void> {
    return this.settle("extend", { seconds });
  }
  /** Answers a request. */
  reply(body: Body, fields: Fields = {}): Promise<Published> {
    if (this.reply_to === undefined) return Promise.reject(new PolylogError("invalid", "no reply is asked for"));
    return this.client.publish({ topic: this.reply_to }, body, { ...fields, correlation_id: this.correlation_id });
  }

  private async settle(op: string, more: Frame): Promise<void> {
    if (this.receipt === undefined) throw new PolylogError("invalid", "the message is not leased");
    await this.client.ask({ op, receipt: this.receipt, ...more });
  }
}

/** Messages of one subscription, in order: for await (const message of subscription). */
export class Subscription implements AsyncIterable<Message> {
  private waiting: Message[] = [];
  private takers: { resolve: (result: IteratorResult<Message>) => void; reject: (why: Error) => void }[] = [];
  private taken = 0;
  private ended: Error | "closed" | undefined;
  private position: string | undefined;
  private begun = false;
  private readonly credit: number;
  /** Resolves when the gateway has confirmed it. */
  readonly ready: Promise<void>;

  /** @internal */
  constructor(private readonly client: Polylog, readonly name: string, private readonly options: SubscribeOptions) {
    this.credit = options.credit ?? CREDIT;
    this.ready = client.start(() => this.begin(true));
    this.ready.catch((why) => this.end(why));
  }

  /** @internal Also after each new connection. */
  async begin(first = false): Promise<void> {
    if (this.ended !== undefined || (!first && !this.begun)) return;
    this.begun = true;
    const { resume, ...asked } = this.options;
    const frame: Frame = { op: "subscribe", sub: this.name, ...asked, credit: Math.max(this.credit - this.waiting.length, 0) };
    const followed = asked.group === undefined && (asked.from !== undefined || asked.queue !== undefined || resume === true);
    if (followed) {
      frame.positions = true;
      frame.from = this.position !== undefined ? { position: this.position } : asked.from ?? "latest";
    }
    this.taken = 0;
    const answer = await this.client.ask(frame);
    if (this.position === undefined && answer.position !== undefined) this.position = answer.position;
  }

  /** @internal */
  deliver(message: Message): void {
    if (this.ended !== undefined) return;
    if (message.position !== undefined) this.position = message.position;
    const taker = this.takers.shift();
    if (taker === undefined) {
      this.waiting.push(message);
      return;
    }
    this.took();
    taker.resolve({ value: message, done: false });
  }

  /** @internal */
  end(why: Error | "closed"): void {
    if (this.ended !== undefined) return;
    this.ended = why;
    for (const taker of this.takers.splice(0)) {
      if (why === "closed") taker.resolve({ value: undefined, done: true });
      else taker.reject(why);
    }
  }

  private took(): void {
    if (++this.taken * 2 < this.credit) return;
    const credit = this.taken;
    this.taken = 0;
    this.client.tell({ op: "credit", sub: this.name, credit });
  }

  /** The next message; done when the subscription is closed. Rejects when the gateway ended it. */
  next(): Promise<IteratorResult<Message>> {
    const message = this.waiting.shift();
    if (message !== undefined) {
      this.took();
      return Promise.resolve({ value: message, done: false });
    }
    if (this.ended === "closed") return Promise.resolve({ value: undefined, done: true });
    if (this.ended !== undefined) return Promise.reject(this.ended);
    return new Promise((resolve, reject) => this.takers.push({ resolve, reject }));
  }

  async return(): Promise<IteratorResult<Message>> {
    await this.close();
    return { value: undefined, done: true };
  }

  [Symbol.asyncIterator](): AsyncIterator<Message> {
    return this;
  }

  /** Nothing comes any more; what is leased and not settled goes to others. */
  async close(): Promise<void> {
    const first = this.ended === undefined;
    this.end("closed");
    this.waiting = [];
    if (first) await this.client.leave(this);
  }
}

interface Pending {
  resolve: (answer: Frame) => void;
  reject: (why: Error) => void;
  timer: ReturnType<typeof setTimeout>;
}

export class Polylog {
  private socket: WebSocketLike | undefined;
  private pending = new Map<number, Pending>();
  private subscriptions = new Map<string, Subscription>();
  private nextId = 1;
  private nextName = 1;
  private publishing = 0;
  private room: (() => void)[] = [];
  private partial: Frame | undefined;
  private attempts = 0;
  private retry: ReturnType<typeof setTimeout> | undefined;
  private opening: Promise<void> | undefined;
  private opened: (() => void) | undefined;
  private failed: ((why: Error) => void) | undefined;
  private closing = false;
  private current: State = "closed";
  /** Told of each change of state, and why a connection was lost. */
  onstate: ((state: State, why?: Error) => void) | undefined;

  constructor(private readonly options: Options) {}

  get state(): State {
    return this.current;
  }

  private become(state: State, why?: Error): void {
    this.current = state;
    this.onstate?.(state, why);
  }

  /** Resolves when the gateway has let us in; rejects when it refuses, or cannot be reached and reconnect is false. */
  connect(): Promise<void> {
    if (this.opening === undefined) {
      this.closing = false;
      this.expectOpen();
      void this.attempt();
    }
    return this.opening!;
  }

  private expectOpen(): void {
    this.opening = new Promise((resolve, reject) => {
      this.opened = resolve;
      this.failed = reject;
    });
    this.opening.catch(() => undefined);
  }

  private async attempt(): Promise<void> {
    this.become("connecting");
    try {
      const Socket = this.options.WebSocket ?? (globalThis as any).WebSocket ?? (await nodeSocket());
      if (this.closing) return;
      const socket: WebSocketLike = new Socket(this.options.url, [PROTOCOL]);
      this.socket = socket;
      socket.binaryType = "arraybuffer";
      socket.onopen = () => void this.login(socket);
      socket.onmessage = (event) => this.receive(socket, event.data);
      socket.onerror = () => undefined;
      socket.onclose = (event) => this.lost(socket, new PolylogError("closed", `the connection ended (${event?.code ?? 1006})`, true));
    } catch (why) {
      this.lost(this.socket, why as Error);
    }
  }

  private async login(socket: WebSocketLike): Promise<void> {
    try {
      const { user, password, clientId } = this.options;
      const token = typeof this.options.token === "function" ? await this.options.token() : this.options.token;
      if (socket !== this.socket) return; // it ended meanwhile: another attempt is under way
      await this.ask({ op: "connect", user, password, token, client_id: clientId }, socket);
    } catch (why) {
      if ((why as PolylogError).code === "unauthenticated") this.finish(why as Error);
      socket.close(); // else another attempt follows
      return;
    }
    this.attempts = 0;
    this.become("open");
    for (const subscription of this.subscriptions.values())
      subscription.begin().catch((why) => {
        if (why.code !== "closed") {
          this.subscriptions.delete(subscription.name);
          subscription.end(why);
        }
      });
    this.opened?.();
  }

  /** The connection is gone: what waited for an answer will not get it. */
  private lost(socket: WebSocketLike | undefined, why: Error): void {
    if (socket !== this.socket || this.current === "closed") return;
    this.socket = undefined;
    this.partial = undefined;
    for (const [id, one] of this.pending) {
      clearTimeout(one.timer);
      this.pending.delete(id);
      one.reject(why);
    }
    const reconnect = this.options.reconnect;
    if (this.closing || reconnect === false) {
      this.finish(why);
      return;
    }
    const max = reconnect?.max_ms ?? 30000;
    const wait = Math.min((reconnect?.min_ms ?? 200) * 2 ** this.attempts++, max);
    if (this.current === "open") this.expectOpen();
    this.become("waiting", why);
    this.retry = setTimeout(() => void this.attempt(), wait * (0.5 + Math.random() / 2));
  }

  private finish(why: Error): void {
    this.failed?.(why);
    this.opening = undefined;
    for (const subscription of this.subscriptions.values()) subscription.end(this.closing ? "closed" : why);
    this.subscriptions.clear();
    this.become("closed", why);
  }

  /** Waits a little for answers that are under way, and says goodbye; what is left is rejected. */
  async close(): Promise<void> {
    this.closing = true;
    clearTimeout(this.retry);
    for (const subscription of this.subscriptions.values()) subscription.end("closed");
    for (let waited = 0; this.current === "open" && this.pending.size > 0 && waited < 2000; waited += 10)
      await new Promise((resolve) => setTimeout(resolve, 10));
    const socket = this.socket;
    if (socket !== undefined) socket.close(1000);
    this.lost(socket, new PolylogError("closed", "closed"));
    if (this.current !== "closed") this.finish(new PolylogError("closed", "closed"));
  }

  /* ---- frames */

  private receive(socket: WebSocketLike, data: string | ArrayBuffer | Uint8Array): void {
    if (socket !== this.socket) return;
    if (typeof data !== "string") {
      const frame = this.partial;
      this.partial = undefined;
      if (frame !== undefined) this.deliver(frame, data instanceof Uint8Array ? data : new Uint8Array(data));
      return;
    }
    const frame: Frame = JSON.parse(data);
    if (frame.op === "deliver") {
      if (frame.body_frame === true) this.partial = frame;
      else this.deliver(frame);
    } else if (frame.op === "closing") {
      if (frame.sub !== undefined) {
        const subscription = this.subscriptions.get(frame.sub);
        this.subscriptions.delete(frame.sub);
        subscription?.end(new PolylogError(frame.code, frame.text));
      }
    } else if (frame.op === "ok" || frame.op === "error") {
      const one = this.pending.get(frame.id);
      if (one === undefined) return;
      this.pending.delete(frame.id);
      clearTimeout(one.timer);
      if (frame.op === "ok") one.resolve(frame);
      else one.reject(new PolylogError(frame.code, frame.text, frame.retry === true));
    }
  }

  private deliver(frame: Frame, bytes?: Uint8Array): void {
    this.subscriptions.get(frame.sub)?.deliver(new Message(this, frame, bytes));
  }

  /** @internal Sends a frame and waits for its answer. */
  ask(frame: Frame, socket = this.current === "open" ? this.socket : undefined, body?: Uint8Array, wait_ms = 0): Promise<Frame> {
    if (socket === undefined) return Promise.reject(new PolylogError("closed", "there is no connection", true));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.pending.delete(id);
        reject(new PolylogError("timed_out", "no answer came", true));
      }, (this.options.timeout_ms ?? 30000) + wait_ms);
      this.pending.set(id, { resolve, reject, timer });
      socket.send(JSON.stringify({ ...frame, id }));
      if (body !== undefined) socket.send(body);
    });
  }

  /** @internal Without an answer; nothing when there is no connection. */
  tell(frame: Frame): void {
    if (this.current === "open") this.socket?.send(JSON.stringify(frame));
  }

  /** @internal */
  async start(begin: () => Promise<void>): Promise<void> {
    while (this.current !== "open") await this.connect();
    await begin();
  }

  /** @internal */
  async leave(subscription: Subscription): Promise<void> {
    if (this.subscriptions.get(subscription.name) !== subscription) return;
    this.subscriptions.delete(subscription.name);
    if (this.current === "open") await this.ask({ op: "unsubscribe", sub: subscription.name }).catch(() => undefined);
  }

  /* ---- what people do */

  private static message(target: Target, body: Body, fields: Frame): [Frame, Uint8Array | undefined] {
    if (body instanceof Uint8Array) return [{ ...target, ...fields, body_frame: true }, body];
    return [{ ...target, ...fields, body }, undefined];
  }

  /** Resolves when the message is stored. Waits while too much is under way, here or in the socket. */
  async publish(target: Target, body: Body, fields: Fields = {}): Promise<Published> {
    const max = this.options.maxPending ?? 1000;
    while (this.publishing >= max || (this.socket?.bufferedAmount ?? 0) > BUFFERED_MAX) {
      if (this.publishing >= max) await new Promise<void>((resolve) => this.room.push(resolve));
      else await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.publishing++;
    try {
      const [frame, bytes] = Polylog.message(target, body, { op: "publish", ...fields });
      const { op, id, ...place } = await this.ask(frame, this.current === "open" ? this.socket : undefined, bytes);
      return place as Published;
    } finally {
      this.publishing--;
      this.room.shift()?.();
    }
  }

  /** Publishes again after a lost connection until it is stored, once: the gateway knows it by its dedup_id. */
  async publishOnce(target: Target, body: Body, fields: Fields = {}): Promise<Published> {
    const dedup_id = fields.dedup_id ?? randomId();
    for (;;) {
      try {
        await this.connect();
        return await this.publish(target, body, { ...fields, dedup_id });
      } catch (why) {
        const error = why as PolylogError;
        if (this.closing || !(error.code === "closed" || error.retry)) throw why;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  /** Messages come from now on, also after a new connection. */
  subscribe(options: SubscribeOptions): Subscription {
    const name = `s${this.nextName++}`;
    const subscription = new Subscription(this, name, options);
    this.subscriptions.set(name, subscription);
    return subscription;
  }

  /** Publishes with a reply address and resolves with the reply. */
  async request(target: Target, body: Body, fields: Fields & { timeout_ms?: number } = {}): Promise<Message> {
    const [frame, bytes] = Polylog.message(target, body, { op: "request", ...fields });
    const { op, id, ...reply } = await this.ask(frame, this.current === "open" ? this.socket : undefined, bytes, fields.timeout_ms ?? 30000);
    const message: Frame = reply;
    return new Message(this, message);
  }

  /** One page of a partition; leases nothing. */
  async fetch(queue: string, options: FetchOptions): Promise<Page> {
    const { records, next, start, end } = await this.ask({ op: "fetch", queue, ...options });
    return { records: records.map((record: Frame) => new Message(this, record)), next, start, end };
  }

  async ping(): Promise<void> {
    await this.ask({ op: "ping" });
  }
}

function randomId(): string {
  let text = "";
  for (let i = 0; i < 4; i++) text += Math.floor(Math.random() * 0x100000000).toString(16).padStart(8, "0");
  return text;
}

/* ---- WebSocket of Node versions that have none (before 22): what this file needs, on node:http. */

let loaded: Promise<new (url: string, protocols: string[]) => WebSocketLike> | undefined;

function nodeSocket(): Promise<new (url: string, protocols: string[]) => WebSocketLike> {
  loaded ??= (async () => {
    const names = ["node:http", "node:https", "node:crypto"];
    const [http, https, crypto]: any[] = await Promise.all(names.map((name) => import(name)));

    return class NodeSocket implements WebSocketLike {
      binaryType = "arraybuffer";
      onopen: ((event: any) => void) | null = null;
      onmessage: ((event: any) => void) | null = null;
      onclose: ((event: any) => void) | null = null;
      onerror: ((event: any) => void) | null = null;
      private stream: any;
      private request: any;
      private input: any;
      private parts: any[] = [];
      private kind = 0;
      private over = false;
      private code = 1006;

      constructor(url: string, protocols: string[]) {
        const secure = url.startsWith("wss:");
        this.request = (secure ? https : http).request(url.replace(/^ws/, "http"), {
          headers: {
            Connection: "Upgrade",
            Upgrade: "websocket",
            "Sec-WebSocket-Key": crypto.randomBytes(16).toString("base64"),
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": protocols.join(", "),
          },
        });
        this.request.on("upgrade", (_response: any, stream: any, head: any) => {
          this.stream = stream;
          this.input = head;
          stream.setNoDelay(true);
          stream.on("data", (data: any) => this.take(data));
          stream.on("close", () => this.end());
          stream.on("error", () => this.end());
          this.onopen?.({});
          this.take(undefined);
        });
        this.request.on("response", () => this.request.destroy());
        this.request.on("error", () => this.end());
        this.request.on("close", () => this.stream === undefined && this.end());
        this.request.end();
      }

      get bufferedAmount(): number {
        return this.stream?.writableLength ?? 0;
      }

      private end(): void {
        if (this.over) return;
        this.over = true;
        this.stream?.destroy();
        this.onclose?.({ code: this.code });
      }

      private take(data: any): void {
        const B = (globalThis as any).Buffer;
        if (data !== undefined) this.input = this.input.length > 0 ? B.concat([this.input, data]) : data;
        while (this.input.length >= 2 && !this.over) {
          let size = this.input[1] & 127;
          let at = 2;
          if (size === 126) (size = this.input.length >= 4 ? this.input.readUInt16BE(2) : Infinity), (at = 4);
          else if (size === 127) (size = this.input.length >= 10 ? Number(this.input.readBigUInt64BE(2)) : Infinity), (at = 10);
          if (this.input.length < at + size) return;
          const first = this.input[0];
          const payload = this.input.subarray(at, at + size);
          this.input = this.input.subarray(at + size);
          this.frame(first & 15, (first & 128) !== 0, payload);
        }
      }

      private frame(kind: number, last: boolean, payload: any): void {
        if (kind === 9) this.write(10, payload);
        else if (kind === 8) {
          this.code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
          this.write(8, payload.subarray(0, 2));
          this.stream.end();
        } else if (kind < 3) {
          if (kind !== 0) this.kind = kind;
          this.parts.push(payload);
          if (!last) return;
          const whole = (globalThis as any).Buffer.concat(this.parts.splice(0));
          this.onmessage?.({ data: this.kind === 1 ? whole.toString() : new Uint8Array(whole) });
        }
      }

      private write(kind: number, payload: any): void {
        const B = (globalThis as any).Buffer;
        if (this.over || this.stream === undefined || this.stream.destroyed || this.stream.writableEnded) return;
        const size = payload.length;
        const head = B.alloc(size < 126 ? 6 : size < 65536 ? 8 : 14);
        head[0] = 128 | kind;
        if (size < 126) head[1] = 128 | size;
        else if (size < 65536) (head[1] = 254), head.writeUInt16BE(size, 2);
        else (head[1] = 255), head.writeBigUInt64BE(BigInt(size), 2);
        const mask = crypto.randomBytes(4);
        mask.copy(head, head.length - 4);
        const body = B.from(payload);
        for (let i = 0; i < size; i++) body[i] ^= mask[i & 3];
        this.stream.write(B.concat([head, body]));
      }

      send(data: string | Uint8Array): void {
        const B = (globalThis as any).Buffer;
        if (typeof data === "string") this.write(1, B.from(data));
        else this.write(2, data);
      }

      close(code = 1000): void {
        if (this.stream === undefined) {
          this.request.destroy();
          return;
        }
        const payload = (globalThis as any).Buffer.alloc(2);
        payload.writeUInt16BE(code, 0);
        this.write(8, payload);
        this.stream.end();
      }
    };
  })();
  return loaded;
}
