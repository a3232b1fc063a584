/** A header that is not a standard field: name and value; values that are bytes come as {base64}. */
export type Property = [string, unknown];
export type Body = string | Uint8Array | object | number | boolean | null;
/** Where a message goes: to a topic, or to a queue by name. */
export type Target = {
    topic: string;
} | {
    queue: string;
};
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
export type From = "earliest" | "latest" | {
    offset: number;
} | {
    time: number;
} | {
    position: string;
};
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
    from: "earliest" | {
        offset: number;
    } | {
        time: number;
    };
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
    reconnect?: false | {
        min_ms?: number;
        max_ms?: number;
    };
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
export declare class PolylogError extends Error {
    readonly code: string;
    readonly retry: boolean;
    constructor(code: string, text: string, retry?: boolean);
}
/** A message that came. Its fields are those of docs/websocket.md. */
export declare class Message {
    readonly body: any;
    readonly receipt?: string;
    readonly sub?: string;
    readonly queue?: string;
    readonly partition?: number;
    readonly offset?: number;
    readonly topic?: string;
    readonly time: number;
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
    constructor(client: Polylog, fields: Frame, bytes?: Uint8Array);
    /** The body as text. */
    text(): string;
    /** First property of that name. */
    property(name: string): unknown;
    /** Done: it never comes again. */
    ack(): Promise<void>;
    /** It failed: again, now or after a delay; too many failures make a dead letter. */
    nack(delay_ms?: number): Promise<void>;
    /** Never again: a dead letter where the queue keeps them. */
    reject(): Promise<void>;
    /** More time: so many seconds from now. */
    extend(seconds: number): Promise<void>;
    /** Answers a request. */
    reply(body: Body, fields?: Fields): Promise<Published>;
    private settle;
}
/** Messages of one subscription, in order: for await (const message of subscription). */
export declare class Subscription implements AsyncIterable<Message> {
    private readonly client;
    readonly name: string;
    private readonly options;
    private waiting;
    private takers;
    private taken;
    private ended;
    private position;
    private begun;
    private readonly credit;
    /** Resolves when the gateway has confirmed it. */
    readonly ready: Promise<void>;
    /** @internal */
    constructor(client: Polylog, name: string, options: SubscribeOptions);
    /** @internal Also after each new connection. */
    begin(first?: boolean): Promise<void>;
    /** @internal */
    deliver(message: Message): void;
    /** @internal */
    end(why: Error | "closed"): void;
    private took;
    /** The next message; done when the subscription is closed. Rejects when the gateway ended it. */
    next(): Promise<IteratorResult<Message>>;
    return(): Promise<IteratorResult<Message>>;
    [Symbol.asyncIterator](): AsyncIterator<Message>;
    /** Nothing comes any more; what is leased and not settled goes to others. */
    close(): Promise<void>;
}
export declare class Polylog {
    private readonly options;
    private socket;
    private pending;
    private subscriptions;
    private nextId;
    private nextName;
    private publishing;
    private room;
    private partial;
    private attempts;
    private retry;
    private opening;
    private opened;
    private failed;
    private closing;
    private current;
    /** Told of each change of state, and why a connection was lost. */
    onstate: ((state: State, why?: Error) => void) | undefined;
    constructor(options: Options);
    get state(): State;
    private become;
    /** Resolves when the gateway has let us in; rejects when it refuses, or cannot be reached and reconnect is false. */
    connect(): Promise<void>;
    private expectOpen;
    private attempt;
    private login;
    /** The connection is gone: what waited for an answer will not get it. */
    private lost;
    private finish;
    /** Waits a little for answers that are under way, and says goodbye; what is left is rejected. */
    close(): Promise<void>;
    private receive;
    private deliver;
    /** @internal Sends a frame and waits for its answer. */
    ask(frame: Frame, socket?: WebSocketLike | undefined, body?: Uint8Array, wait_ms?: number): Promise<Frame>;
    /** @internal Without an answer; nothing when there is no connection. */
    tell(frame: Frame): void;
    /** @internal */
    start(begin: () => Promise<void>): Promise<void>;
    /** @internal */
    leave(subscription: Subscription): Promise<void>;
    private static message;
    /** Resolves when the message is stored. Waits while too much is under way, here or in the socket. */
    publish(target: Target, body: Body, fields?: Fields): Promise<Published>;
    /** Publishes again after a lost connection until it is stored, once: the gateway knows it by its dedup_id. */
    publishOnce(target: Target, body: Body, fields?: Fields): Promise<Published>;
    /** Messages come from now on, also after a new connection. */
    subscribe(options: SubscribeOptions): Subscription;
    /** Publishes with a reply address and resolves with the reply. */
    request(target: Target, body: Body, fields?: Fields & {
        timeout_ms?: number;
    }): Promise<Message>;
    /** One page of a partition; leases nothing. */
    fetch(queue: string, options: FetchOptions): Promise<Page>;
    ping(): Promise<void>;
}
export {};
