/**
 * What a client loads when it is first asked for more than publishing and subscribing. It is one file: with several, what
 * they share with the client would be cut into as many.
 */

export * from "./administration.ts";
export { whole } from "./frames.ts";
export { Attendance } from "./attendance.ts";
export { exportArchive, importArchive } from "./archive.ts";
export * from "./people.ts";
export { request } from "./question.ts";
export { DeviceSession } from "./session.ts";
export { ActivePartitionedMember } from "./partitioned.ts";
export { ActiveQueueMember } from "./queue.ts";
export { transaction } from "./transaction.ts";
