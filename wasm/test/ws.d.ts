/** The parts of `ws` that the test server uses; the package brings no types. */
declare module "ws" {
  interface Socket {
    on(event: "message", listener: (data: Buffer, isBinary: boolean) => void): void;
    on(event: "close", listener: () => void): void;
    send(data: Uint8Array | string): void;
    close(code: number, reason: string): void;
    terminate(): void;
  }
  export class WebSocketServer {
    constructor(options: { host: string; port: number; handleProtocols(offered: Set<string>): string | false });
    on(event: "connection", listener: (socket: Socket, request: { url?: string }) => void): void;
    on(event: "listening", listener: () => void): void;
    address(): unknown;
    close(closed: (value: unknown) => void): void;
  }
}
