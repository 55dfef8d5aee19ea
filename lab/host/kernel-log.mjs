/** Finds what is wrong in the log of a guest's kernel. */

/** A line that matches one of these is a fault. */
const FAULTS = [
  /\bWARNING:/,
  /\bBUG:/,
  /\bOops\b/,
  /\bCall Trace:|\bCall trace:/,
  /\bKernel panic\b/,
  /\bkernel BUG at\b/,
  /\bKASAN\b|\bKCSAN\b|\bKFENCE\b|\bUBSAN\b/,
  /\bpossible (circular|irq lock|recursive) |\bpossible deadlock\b/,
  /\binconsistent lock state\b|\bsuspicious RCU usage\b|\bINFO: trying to register non-static key/,
  /\bhung task\b|\bblocked for more than\b|\btask .* blocked\b/,
  /\brcu.*\bstall|\bsoft lockup\b|\bhard LOCKUP\b|\bworkqueue lockup\b/i,
  /\bgeneral protection fault\b|\bsegfault at\b|\btraps: /,
  /\bunable to handle\b|\bUnable to handle\b|\bInternal error:/,
  /\bunregister_netdevice: waiting\b/,
  /\brefcount_t: |\blist_(add|del) corruption\b|\bbad page state\b/i,
  /\bscheduling while atomic\b|\bsleeping function called from invalid context\b/,
  /\bkmemleak: .*\bdisabled\b/,
  /\bOut of memory\b|\bpage allocation failure\b|\binvoked oom-killer\b/,
  /^\S* ?lab: (insmod|mounting) .* failed/,
];

/** And these are not: software emulation does not keep time well. */
const HARMLESS = [
  /\bclocksource: .*(Marking|watchdog|unstable|readout interval|skew)/,
  /\bsched_clock: Marking unstable/,
  /\b(KASAN|KCSAN|KFENCE|UBSAN)\b.*initialized/i,
];

/** How much of what follows a fault belongs to its story. */
const LINES_AFTER = 30;

/** KCSAN's report of a race ends with such a line. */
const REPORT_END = /={40,}$/;
const RACE = /\bBUG: KCSAN: (data-race|assert)/;

/** The kernel has many data races of its own. Ours has our module on one of its two stacks. */
function isOthersRace(lines, at) {
  if (!RACE.test(lines[at])) return false;
  const length = lines.slice(at).findIndex((line) => REPORT_END.test(line));
  const report = lines.slice(at, length === -1 ? undefined : at + length);
  return !report.some((line) => line.includes('[virtio_loopback]'));
}

/** The moment of a line that begins like `[   12.345678] `, in microseconds; -1 without one. */
function momentOf(line) {
  const match = /^\[ *(\d+)\.(\d{6})\]/.exec(line);
  return match === null ? -1 : Number(match[1]) * 1e6 + Number(match[2]);
}

/**
 * The faults in a kernel's log, in order. What stands within the lines after a fault is part of it.
 * @param {string} log
 * @returns {{ line: string, story: string[] }[]}
 */
export function findFaults(log) {
  const lines = log.split(/\r?\n/);
  const faults = [];
  for (let at = 0; at < lines.length; at += 1) {
    const line = lines[at];
    if (!FAULTS.some((pattern) => pattern.test(line))) continue;
    if (HARMLESS.some((pattern) => pattern.test(line))) continue;
    if (isOthersRace(lines, at)) continue;
    faults.push({ line, story: lines.slice(at, at + LINES_AFTER) });
    at += LINES_AFTER - 1;
  }
  return faults;
}

/** An address where a module was that is gone: the one that jobs remove is ours. */
const OURS = /\[virtio_loopback\]|^ +0xffffffff[0-9a-f]{8}$/m;

/**
 * The leaks that our module has to do with, of what kmemleak found. Elsewhere it finds some as
 * well, and errs at times.
 * @param {string} report
 * @returns {{ line: string, story: string[] }[]}
 */
export function findLeaks(report) {
  const leaks = report.split(/^(?=unreferenced object)/m).filter((leak) => OURS.test(leak));
  return leaks.map((leak) => {
    const story = leak.trimEnd().split('\n');
    return { line: `kmemleak: ${story[0]}`, story };
  });
}

/**
 * The whole log from its two halves: the console lacks what was not worth a warning during boot,
 * and the guest's copy lacks what came after the job's end, or is not there.
 * @param {string} console
 * @param {string} copy
 */
export function mergeLogs(console, copy) {
  const copied = copy.split('\n').filter((line) => line !== '');
  const last = momentOf(copied.at(-1) ?? '');
  const later = console.split(/\r?\n/).filter((line) => copy === '' || momentOf(line) > last);
  return [...copied, ...later].join('\n');
}
