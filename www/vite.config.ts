import { defineConfig } from "vite";

// Relative addresses, so that the console works below any path that a host serves it from.
export default defineConfig({ base: "./", build: { target: "es2022", sourcemap: true } });
