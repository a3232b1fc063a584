// SPDX-License-Identifier: Apache-2.0
// node request.mjs ws://127.0.0.1:8080/ws: a service that doubles, and somebody who asks it.
import { Polylog } from "../dist/polylog.js";

const url = process.argv[2];
const server = new Polylog({ url, reconnect: false });
const asked = server.subscribe({ topic: "service/double" });
await asked.ready;
(async () => {
  for await (const message of asked) await message.reply(message.body * 2);
})();

const client = new Polylog({ url, reconnect: false });
await client.connect();
console.log((await client.request({ topic: "service/double" }, 21)).body);
await Promise.all([client.close(), server.close()]);
