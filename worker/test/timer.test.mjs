// Which deadlines are waited for in memory, and which by alarm.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { importTypeScript } from "./clients.mjs";

const { Timer } = await importTypeScript("../ts/timer.ts");

const NOW = 1_000_000;
let alarms;
let rings;
let timer;

beforeEach(async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout", "Date"], now: NOW });
  alarms = [];
  rings = 0;
  const storage = { getAlarm: async () => null, setAlarm: async (at) => void alarms.push(at - NOW) };
  timer = new Timer(storage, () => (rings += 1));
  await timer.open();
});

test("a near deadline rings in memory, with the alarm behind it", (context) => {
  timer.arm(NOW + 500, true);
  context.mock.timers.tick(499);
  assert.equal(rings, 0);
  context.mock.timers.tick(1);
  assert.equal(rings, 1);
  assert.deepEqual(alarms, [10_500]);
});

test("a far deadline is the alarm's alone", (context) => {
  timer.arm(NOW + 10_000, true);
  context.mock.timers.tick(10_000);
  assert.equal(rings, 1);
  const soon = Date.now() + 10_001;
  timer.arm(soon, true);
  assert.deepEqual(alarms, [20_000]);
  timer.alarm();
  timer.arm(soon, true);
  assert.deepEqual(alarms, [20_000, 20_001]);
  context.mock.timers.tick(10_001);
  assert.equal(rings, 2);
  timer.alarm();
  assert.equal(rings, 3);
});

test("what memory alone knows of is waited for in memory, however long, with the alarm behind it", (context) => {
  timer.arm(NOW + 300_000, false);
  assert.equal(timer.isWaiting, true);
  assert.deepEqual(alarms, [310_000]);
  context.mock.timers.tick(299_999);
  assert.equal(rings, 0);
  context.mock.timers.tick(1);
  assert.equal(rings, 1);
});

test("a deadline in years does not ring at once", (context) => {
  timer.arm(NOW + 2 ** 40, false);
  context.mock.timers.tick(1_000);
  assert.equal(rings, 0);
});

test("once memory is not needed any more, a far deadline does not keep it", () => {
  timer.arm(NOW + 30_000, false);
  timer.arm(NOW + 30_000, true);
  assert.equal(timer.isWaiting, false);
  assert.deepEqual(alarms, [40_000, 30_000]);
});

test("the alarm is moved earlier only, and a series of near deadlines shares one", (context) => {
  timer.arm(NOW + 3_600_000, true);
  timer.arm(NOW + 7_200_000, true);
  timer.arm(NOW + 1_800_000, true);
  assert.deepEqual(alarms, [3_600_000, 1_800_000]);
  for (let n = 0; n < 50; n += 1) {
    timer.arm(Date.now() + 100, true);
    context.mock.timers.tick(100);
  }
  assert.equal(rings, 50);
  assert.deepEqual(alarms, [3_600_000, 1_800_000, 10_100]);
});

test("a deadline that is taken back does not ring, nor does one that was moved", (context) => {
  timer.arm(NOW + 100, true);
  timer.arm(undefined, true);
  timer.arm(NOW + 200, true);
  timer.arm(NOW + 300, true);
  context.mock.timers.tick(250);
  assert.equal(rings, 0);
  context.mock.timers.tick(50);
  assert.equal(rings, 1);
});

test("a deadline in the past rings at once", (context) => {
  timer.arm(NOW - 5_000, true);
  context.mock.timers.tick(0);
  assert.equal(rings, 1);
});

test("an alarm of an earlier life counts", async () => {
  const storage = { getAlarm: async () => NOW + 50_000, setAlarm: async (at) => void alarms.push(at - NOW) };
  const woken = new Timer(storage, () => {});
  await woken.open();
  woken.arm(NOW + 3_600_000, true);
  assert.deepEqual(alarms, []);
  woken.alarm();
  woken.arm(NOW + 3_600_000, true);
  assert.deepEqual(alarms, [3_600_000]);
});

test("an alarm that cannot be set is tried again, with everything that is known by then", async (context) => {
  let refusals = 2;
  const storage = {
    getAlarm: async () => null,
    setAlarm: async (at) => {
      alarms.push(at - NOW);
      if ((refusals -= 1) >= 0) throw new Error("not now");
    },
  };
  const stubborn = new Timer(storage, () => stubborn.arm(NOW + 3_600_000, true));
  await stubborn.open();
  stubborn.arm(NOW + 3_600_000, true);
  for (let n = 0; n < 3; n += 1) {
    await settled();
    context.mock.timers.tick(10_000);
  }
  await settled();
  assert.deepEqual(alarms, [3_600_000, 3_600_000, 3_600_000]);
  assert.equal(stubborn.isWaiting, false);
});

test("a refused alarm behind a near deadline does not move that", async (context) => {
  const storage = { getAlarm: async () => null, setAlarm: () => Promise.reject(new Error("not now")) };
  const near = new Timer(storage, () => (rings += 1));
  await near.open();
  near.arm(NOW + 500, true);
  await settled();
  context.mock.timers.tick(500);
  assert.equal(rings, 1);
  assert.equal(near.isWaiting, false);
});

/** Lets every promise that can settle do so. */
async function settled() {
  for (let n = 0; n < 10; n += 1) await undefined;
}
