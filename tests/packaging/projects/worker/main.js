// A Worker, as a user would write it: a broker for the time of one request.
import { openLocal } from "dunlin";

export default {
  async fetch() {
    const client = await openLocal();
    const inbox = client.subscribe("chat/#");
    await inbox.ready;
    await client.publish("chat/room", "hello from workerd");
    const { value: message } = await inbox.next();
    await client.close();
    return new Response(message.text());
  },
};
