/** What the guest's clock counts. */

/**
 * @typedef {object} Clock
 * @property {readonly string[]} qemu words for QEMU
 * @property {readonly string[]} boot words for the kernel
 */

/** The time of this machine. @type {Clock} */
const TIME = { qemu: ['-accel', 'tcg,thread=multi'], boot: [] };

/**
 * Instructions: each that a processor executes takes one nanosecond, and while all are idle the
 * clock jumps to what they wait for. Whatever else can differ between two runs is pinned: the order
 * in which processors take turns, random numbers, the date, and where programs and kernel lie.
 * @type {Clock}
 */
const INSTRUCTIONS = {
  qemu: [
    ...['-accel', 'tcg,thread=single', '-icount', 'shift=0,sleep=off'],
    ...['-seed', '1', '-rtc', 'base=2026-01-01,clock=vm'],
  ],
  boot: ['nokaslr', 'norandmaps'],
};

/** @param {boolean} icount */
export const clockFor = (icount) => (icount ? INSTRUCTIONS : TIME);
