/**
 * What went wrong. `code` is stable and for programs: the codes of the broker are listed in its protocol, those of the
 * client in {@link ClientErrorCode}. The message is for people and says what, which and what to do.
 */
export class DunlinError extends Error {
  override readonly name = "DunlinError";
  readonly code: string;
  /** When trying again may help, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(code: string, message: string, options: { retryAfterMs?: number | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryAfterMs = options.retryAfterMs;
  }
}

/** An argument or option is not usable. */
export function invalid(message: string, cause?: unknown): DunlinError {
  return new DunlinError("invalid_argument", message, { cause });
}

/** Refuses options that are to be texts and are none. What may be in a name the broker says. */
export function checkTexts(options: Readonly<Record<string, unknown>>): void {
  for (const [option, text] of Object.entries(options)) {
    if (text === "" || (text !== undefined && typeof text !== "string")) throw invalid(`the option ${option} must be text that is not empty`);
  }
}

/** The codes that the client itself gives. */
export type ClientErrorCode =
  /** An argument or option is not usable; nothing was sent. */
  | "invalid_argument"
  /** The payload, or the command with it, is over the broker's bound; nothing was sent. */
  | "too_large"
  /** The connection could not be made. */
  | "connection_failed"
  /** The connection ended before the answer came, so whether the command took effect is not known. */
  | "connection_lost"
  /** Nobody answered a request in time; the broker says so too. */
  | "timeout"
  /** More commands wait for an answer than the client keeps. */
  | "queue_full"
  /** The client was closed. */
  | "closed"
  /** The broker sent something that is not of its protocol. */
  | "malformed_frame"
  /** What this runtime lacks is named in the message. */
  | "unsupported"
  /** Another tab of this site runs a version of dunlin that this one cannot share with. */
  | "unsupported_version"
  /** The database cannot be opened or read, is of a newer version, or was taken away. */
  | "database_unavailable"
  /** The browser gives the site no more storage. */
  | "storage_full"
  /** The WebAssembly of the broker cannot be loaded. */
  | "wasm_unavailable";
