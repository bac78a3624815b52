import { PROTOCOL_VERSION } from "dunlin";

const app = document.querySelector("#app");
if (app !== null) app.textContent = `dunlin speaks protocol version ${PROTOCOL_VERSION}`;
