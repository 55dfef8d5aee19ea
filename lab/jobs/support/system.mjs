/** The guest as a job sees it: its folders, its tasks, its modules. */

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { run } from './programs.mjs';

/** The share with the host: what is written here is kept with the run's results. */
export const RUN = '/lab/run';
/** The checkout, read-only. */
export const PROJECT = '/lab/project';
/** The kernel module, as the host built it for this kernel; not there with --no-module. */
export const MODULE = `${RUN}/virtio_loopback.ko`;
/** x86-64, arm64 or riscv64. */
export const ARCH = process.env.VLO_LAB_ARCH ?? '';
/** The release of the kernel, such as 6.12.1. */
export const KERNEL = process.env.VLO_LAB_KERNEL ?? '';
/** True when the guest's clock counts instructions: a nanosecond is one that was executed. */
export const IS_ICOUNT = process.env.VLO_LAB_ICOUNT === '1';
/** The processor, as QEMU's option -cpu names it, and QEMU's version. */
export const CPU_MODEL = process.env.VLO_LAB_CPU_MODEL ?? '';
export const QEMU = process.env.VLO_LAB_QEMU ?? '';

const STACK_LINES = 6;
/** Who waits for longer than this is stuck, and not only slow. */
const STUCK_MS = 500;

function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // The task has ended.
    return '';
  }
}

const isWaiting = (id) => /^State:\s+D/m.test(read(`/proc/${id}/status`));

/** Tasks that wait in the kernel where no signal reaches them: one line each, with where. */
export function stuckTasks() {
  const waiting = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && isWaiting(name));
  if (waiting.length === 0) return [];
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, STUCK_MS);
  return waiting.filter(isWaiting).map((id) => {
    const status = read(`/proc/${id}/status`);
    const frames = read(`/proc/${id}/stack`).match(/[\w.]+(?=\+0x)/g) ?? [];
    const name = /^Name:\s+(.*)/m.exec(status)?.[1];
    return `stuck: ${name} (${id}) in ${frames.slice(0, STACK_LINES).join(' < ')}`;
  });
}

/** What our module has counted for each device that there is, and what waits in its queues. */
export function moduleCounters() {
  const folder = '/sys/kernel/debug/virtio-loopback';
  if (!existsSync(folder)) return [];
  return readdirSync(folder).map((name) => `${name}: ${read(`${folder}/${name}`)}`);
}

/** Where the threads of a process wait, and which of its eventfds were signalled and not read. */
export function whereabouts(pid) {
  const folder = `/proc/${pid}`;
  if (!existsSync(folder)) return [`${pid}: gone`];
  const threads = readdirSync(`${folder}/task`).map((id) => {
    const name = read(`${folder}/task/${id}/comm`).trim();
    const frames = read(`${folder}/task/${id}/stack`).match(/[\w.]+(?=\+0x)/g) ?? [];
    return `${name} (${id}) in ${frames.slice(0, STACK_LINES).join(' < ') || 'user space'}`;
  });
  const eventfds = readdirSync(`${folder}/fdinfo`).flatMap((fd) => {
    const count = /^eventfd-count:\s+(\w+)/m.exec(read(`${folder}/fdinfo/${fd}`))?.[1];
    return count === undefined || Number.parseInt(count, 16) === 0 ? [] : `eventfd ${fd}: ${count}`;
  });
  return [...threads, ...eventfds];
}

/** Has the kernel write the stacks of all waiting tasks into its log. */
export const dumpBlockedTasks = () => writeFileSync('/proc/sysrq-trigger', 'w');

/** Loads a module of the kernel's, with what it needs. @param {...string} command */
export const modprobe = (...command) => run(['modprobe', ...command]);

/** True while a module is loaded. @param {string} name */
export const isLoaded = (name) => existsSync(`/sys/module/${name.replaceAll('-', '_')}/refcnt`);

/** Loads our module, with the modules that it needs. @param {...string} parameters */
export async function insertModule(...parameters) {
  if (!existsSync(MODULE)) throw new Error('the host built no module');
  const { stdout } = await run(['modinfo', '-F', 'depends', MODULE]);
  for (const name of stdout.trim().split(',')) if (name !== '') await modprobe(name);
  await run(['insmod', MODULE, ...parameters]);
}

/** Removes our module. */
export const removeModule = () => run(['rmmod', 'virtio_loopback']);
