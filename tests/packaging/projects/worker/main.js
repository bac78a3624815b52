// A Worker, as a user would write it: it talks to a broker, or has one for the time of a request.
import { connect, openLocal } from "dunlin";

export default {
  async fetch(request) {
    const broker = new URL(request.url).searchParams.get("broker");
    const client = broker === null ? await openLocal() : await connect(broker, { namespace: "worker" });
    const inbox = client.subscribe("chat/#");
    await inbox.ready;
    await client.publish("chat/room", "hello from workerd");
    const { value: message } = await inbox.next();
    const { value: job } = await client.group("readers").joinQueue("chat/#").next();
    await job.ack();
    await client.close();
    return new Response(job.text() === message.text() ? message.text() : `a member got ${job.text()}`);
  },
};
