/** What the machine is and how busy it is; the CPU time and the memory of one process. */

import { readdirSync, readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { sleep } from './programs.mjs';

/** Above this the ratios are not to be trusted. */
export const LOAD_MAX = 0.5;

/**
 * Ticks of all processors since the machine started.
 * @returns {{ total: number, idle: number, steal: number }}
 */
export function processorTicks() {
  const [line] = readFileSync('/proc/stat', 'utf8').split('\n');
  const ticks = line.trim().split(/\s+/).slice(1, 9).map(Number);
  return { total: ticks.reduce((a, b) => a + b), idle: ticks[3] + ticks[4], steal: ticks[7] };
}

/**
 * Share of all processors that was busy during one second, in percent.
 * @returns {Promise<number>}
 */
export async function busyPercent() {
  const before = processorTicks();
  await sleep(1000);
  const after = processorTicks();
  const total = after.total - before.total;
  return (100 * (total - (after.idle - before.idle))) / Math.max(1, total);
}

/** @param {string} qemu first line of its --version */
export function machineFacts(qemu) {
  const [cpu] = cpus();
  const info = readFileSync('/proc/cpuinfo', 'utf8');
  return {
    cpu: cpu?.model.trim() ?? 'unknown',
    processors: cpus().length,
    virtual: /^flags\s*:.*\bhypervisor\b/m.test(info),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
    qemu,
  };
}

export const loadAverage = () => loadavg()[0];

/**
 * CPU time that a process and its threads have used, in ticks (as `ps` has it) and in µs where the
 * kernel counts that.
 * @param {number} pid
 */
export function cpuTime(pid) {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The name of the program, in brackets, may hold anything; utime is the 12th field after it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  let ns = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      ns += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    } catch {
      // The thread has just ended, or the kernel does not count.
    }
  }
  return { ticks: Number(fields[11]) + Number(fields[12]), us: Math.round(ns / 1000) };
}

/**
 * CPU time used while this waits.
 * @param {number} pid
 * @param {number} ms
 */
export async function cpuTimeDuring(pid, ms) {
  const before = cpuTime(pid);
  await sleep(ms);
  const after = cpuTime(pid);
  return { ticks: after.ticks - before.ticks, us: after.us - before.us };
}

/** @param {number} pid @returns {number} resident memory in MB (10^6 bytes) */
export function residentMegabytes(pid) {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return (Number(match?.[1]) * 1024) / 1e6;
}
