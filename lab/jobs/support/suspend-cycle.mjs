/**
 * Suspends the guest and brings it back: the test levels of /sys/power/pm_test, which turn back
 * after a second, and real cycles. A real one ends when the host presses the power button or, where
 * the guest has none, when the guest's clock rings.
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { note } from './checks.mjs';
import { run } from './programs.mjs';
import { ARCH, modprobe } from './system.mjs';

const POWER = '/sys/power';
const TEST_DELAY = '/sys/module/suspend/parameters/pm_test_delay';
const BUTTON = '/sys/firmware/acpi/interrupts/ff_pwr_btn';
const WAKE_ALARM = '/sys/class/rtc/rtc0/wakealarm';
const TEST_MS = 1000;
/** The time asleep: of the clock, and of the host (lab/host/waker.mjs). */
const SLEEP_MS = 3000;
/** The kernel gives up when a task has not stopped by then. */
const FREEZE_MS = 10_000;
/** A cycle may take that long, besides the sync of file systems before it and the time asleep. */
const CYCLE_MS = 10_000;
const WRITE_MS = 60_000;
/** Each goes a step further than the one before; only a deep state gets to the last two. */
const LEVELS = ['freezer', 'devices', 'platform', 'processors', 'core'];
const LEVELS_IDLE = LEVELS.slice(0, 3);
const HAS_BUTTON = ARCH === 'x86-64';

const read = (name) =>
  existsSync(`${POWER}/${name}`) ? readFileSync(`${POWER}/${name}`, 'utf8').trim() : '';
const isDeep = () => /\bdeep\b/.test(read('mem_sleep'));

/**
 * The cycles that this machine can do, shortest first.
 * @typedef {{ name: string, level: string, state: string, isLast?: boolean }} Cycle `level` is
 *   written to /sys/power/pm_test and `state` to /sys/power/state; `isLast`: no other kind of cycle
 *   may follow
 * @returns {Cycle[]}
 */
export function cycles() {
  const found = [];
  if (read('pm_test') !== '') {
    for (const level of isDeep() ? LEVELS : LEVELS_IDLE) {
      found.push({ name: `pm_test ${level}`, level, state: isDeep() ? 'mem' : 'freeze' });
    }
  }
  if (HAS_BUTTON || existsSync(WAKE_ALARM)) {
    found.push({ name: 'suspend to idle', level: 'none', state: 'freeze' });
    // QEMU's machine does not wake from a suspend to idle afterwards, with our module or without.
    const deep = { name: 'suspend to RAM', level: 'none', state: 'mem', isLast: true };
    if (isDeep()) found.push(deep);
  }
  return found;
}

/** The files of /sys/power that say what the machine can do. */
export const powerFacts = () =>
  Object.fromEntries(['state', 'mem_sleep', 'pm_test', 'disk'].map((name) => [name, read(name)]));

/** Sets time limits, and shows the host by the console when the machine sleeps. */
export async function prepareSuspend() {
  writeFileSync(`${POWER}/pm_freeze_timeout`, `${FREEZE_MS}`);
  if (existsSync(TEST_DELAY)) writeFileSync(TEST_DELAY, `${TEST_MS / 1000}`);
  if (isDeep()) writeFileSync(`${POWER}/mem_sleep`, 'deep');
  if (!HAS_BUTTON) return;
  await modprobe('button');
  writeFileSync(`${POWER}/pm_debug_messages`, '1');
  await run(['dmesg', '-n', '8']);
}

/** Writes a state; the write returns when the machine is back. */
export async function enter(state, level = 'none') {
  const hasTest = read('pm_test') !== '';
  if (hasTest) writeFileSync(`${POWER}/pm_test`, level);
  try {
    const line = `echo ${state} > ${POWER}/state`;
    return await run(['sh', '-c', line], { status: null, timeout: WRITE_MS });
  } finally {
    if (hasTest) writeFileSync(`${POWER}/pm_test`, 'none');
  }
}

/** The kernel's log since a line of ours. */
async function logSince(mark) {
  const { stdout } = await run(['dmesg']);
  return stdout.slice(stdout.lastIndexOf(mark));
}

/** Milliseconds that the kernel took to write all file systems back. */
const syncTime = (log) => Number(/Filesystems sync: ([\d.]+) seconds/.exec(log)?.[1] ?? 0) * 1000;

/**
 * A suspend to RAM is seen in the log: the clock stands still meanwhile, and is then set by one
 * that knows seconds only.
 */
const hasSlept = (log) => /PM: suspend entry \(deep\)[\s\S]*PM: suspend exit/.test(log);

/**
 * Runs one cycle; throws when the kernel did not suspend, or took too long.
 * @param {Cycle} cycle
 * @returns {Promise<number>} seconds that it took, without the sync and the time asleep
 */
export async function suspend({ name, level, state }) {
  const isReal = level === 'none';
  if (isReal) prepareWakeUp();
  const mark = `${name}, ${Date.now()}`;
  note(mark);
  const startedAt = Date.now();
  const { status, stderr } = await enter(state, level);
  const took = Date.now() - startedAt;
  if (isReal) stopClock();
  if (status !== 0) throw new Error(`${stderr.trim()} (after ${(took / 1000).toFixed(1)} s)`);
  const log = await logSince(mark);
  const isDeepSleep = isReal && hasSlept(log);
  const asleep = isReal ? SLEEP_MS : TEST_MS;
  if (took < asleep / 2 && !isDeepSleep) {
    throw new Error(`the machine slept for no more than ${took} ms`);
  }
  const awake = Math.max(0, took - asleep - syncTime(log));
  if (awake > CYCLE_MS) throw new Error(`it took ${(awake / 1000).toFixed(1)} s`);
  return awake / 1000;
}

/**
 * Sets the clock; and the button, which QEMU leaves pressed when it ends a suspend to RAM. Where
 * there is a button, the clock rings only should that fail.
 */
function prepareWakeUp() {
  if (HAS_BUTTON && /\bSTS\b/.test(readFileSync(BUTTON, 'utf8'))) writeFileSync(BUTTON, 'clear\n');
  if (!existsSync(WAKE_ALARM)) return;
  writeFileSync(WAKE_ALARM, '0');
  writeFileSync(WAKE_ALARM, `+${(HAS_BUTTON ? 2 * SLEEP_MS : SLEEP_MS) / 1000}`);
}

/** A clock that rings while the machine suspends keeps it from doing so. */
function stopClock() {
  if (existsSync(WAKE_ALARM)) writeFileSync(WAKE_ALARM, '0');
}
