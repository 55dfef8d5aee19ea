/** can-utils and CAN interfaces, for jobs. */

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { run, start, waitFor } from './programs.mjs';

/** Time in ms until a program that was started listens on its socket. */
export const HEARD_AFTER = 500;
const HEAR_MS = 20_000;
const SETTLE_MS = 500;

const FD_MTU = 72;

/**
 * Makes an interface that carries classic and FD frames. By itself it would be one for CAN XL as
 * well, which cansend takes for one without FD.
 */
export const addBus = (name) =>
  run(['ip', 'link', 'add', name, 'mtu', `${FD_MTU}`, 'type', 'vcan']);

/** Sets an interface up or down. */
export const link = (name, state) => run(['ip', 'link', 'set', name, state]);

/** A counter of an interface. */
export const statistic = (name, counter) =>
  Number(readFileSync(`/sys/class/net/${name}/statistics/${counter}`, 'utf8'));

/** Sends a frame. */
export const send = (name, frame) => run(['cansend', name, frame]);

/** Listens; `frames` resolves with the next `count` frames in the notation of cansend. */
export async function heard(name, count, words = [name]) {
  const program = start(['candump', '-L', '-n', `${count}`, '-T', `${HEAR_MS}`, ...words]);
  await sleep(HEARD_AFTER);
  const frames = program.ended.then(() => {
    const lines = program.stdout.trim().split('\n');
    // (1700000000.000000) can0 123#0102 R
    const found = lines.map((line) => /^\(\S+\) \S+ (\S+)/.exec(line)?.[1]).filter(Boolean);
    if (found.length === count) return found;
    throw new Error(`${found.length} of ${count} frames: ${found} ${program.stderr}`);
  });
  // Whoever waits for it hears of a failure, and nobody else has to.
  frames.catch(() => {});
  return { program, frames };
}

/** Waits until nothing more comes in. */
async function settle(name) {
  let before = -1;
  for (let now = statistic(name, 'rx_packets'); now !== before; ) {
    before = now;
    await sleep(SETTLE_MS);
    now = statistic(name, 'rx_packets');
  }
}

/**
 * Sends `count` numbered frames with cangen, waiting where the queue is full, and counts on the
 * other side: frames that are missing, and any that is not in order.
 */
export async function measure(from, to, count, words) {
  const before = statistic(to, 'rx_packets');
  const sentBefore = statistic(from, 'tx_packets');
  const listener = start(['candump', '-L', '-r', '8388608', `${to}`]);
  await sleep(HEARD_AFTER);
  const pace = words.length > 0 ? words : ['-g', '0', '-p', '100'];
  const startedAt = performance.now();
  await run(['cangen', from, ...pace, '-n', `${count}`, '-I', '123', '-L', '8', '-D', 'i']);
  const sent = () => statistic(from, 'tx_packets') - sentBefore;
  await waitFor(() => sent() >= count, `${count} frames sent`).catch(() => {});
  const seconds = (performance.now() - startedAt) / 1000;
  await settle(to);
  await listener.stop('SIGINT');
  const numbers = [...listener.stdout.matchAll(/ 123#([0-9A-F]{16})/g)].map(([, hex]) =>
    Buffer.from(hex, 'hex').readBigUInt64LE(),
  );
  for (const [index, number] of numbers.entries()) {
    if (index > 0 && number <= numbers[index - 1]) throw new Error(`frame ${index} out of order`);
  }
  const received = from === to ? numbers.length : statistic(to, 'rx_packets') - before;
  const text = `candump saw ${numbers.length} of ${received}`;
  if (numbers.length !== received) throw new Error(text);
  return { sent: sent(), received, rate: Math.round(count / seconds) };
}
