// SPDX-License-Identifier: Apache-2.0
// node publish.mjs ws://127.0.0.1:8080/ws TOPIC TEXT
import { Polylog } from "../dist/polylog.js";

const [url, topic, text] = process.argv.slice(2);
const client = new Polylog({ url, reconnect: false });
await client.connect();
console.log(await client.publish({ topic }, text));
await client.close();
