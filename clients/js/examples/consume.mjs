// SPDX-License-Identifier: Apache-2.0
// node consume.mjs ws://127.0.0.1:8080/ws QUEUE GROUP: works on a queue, whatever happens to the connection.
import { Polylog } from "../dist/polylog.js";

const [url, queue, group] = process.argv.slice(2);
const client = new Polylog({ url });
client.onstate = (state, why) => console.error(state, why?.message ?? "");
for await (const message of client.subscribe({ queue, group, credit: 20 })) {
  try {
    console.log(message.offset, message.text());
    await message.ack();
  } catch (why) {
    console.error("not settled:", why.message); // it comes again
  }
}
