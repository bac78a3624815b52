import { defineConfig } from "vite";
import type { Plugin } from "vite";

/**
 * Nothing but the page's own files runs or is loaded; sockets may go to any broker that a person names. Messages are
 * hostile, so a string cannot become markup either; the package's policy lets in the script of its own worker. Written into the page, because not every place that serves it sends
 * headers. Vite's development server needs inline scripts, so this is for the built page only.
 */
const POLICY = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self' ws: wss:",
  "base-uri 'none'",
  "form-action 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types dunlin",
].join("; ");

const policy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: POLICY }, injectTo: "head-prepend" },
  ],
};

// Relative addresses, so that the console works below any path that a host serves it from.
export default defineConfig({
  base: "./",
  plugins: [policy],
  build: { target: "es2022", sourcemap: true, modulePreload: { polyfill: false }, assetsInlineLimit: 0 },
});
