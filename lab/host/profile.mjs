/**
 * What instruction-profile.c counted, made into tables: which tasks executed the instructions of a
 * request, and where. The plugin knows addresses only; the guest has left the kernel's symbols and
 * the maps of processes beside the counts.
 */

import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { buildPlugin } from './native.mjs';
import { ARCHITECTURES, PROJECT } from './places.mjs';

const PAGE = 4096;
/** Addresses of the kernel have the highest bit, on all architectures. */
const isKernel = (address) => address >= 1n << 63n;

const FUNCTIONS_SHOWN = 40;
/** Functions and parts below this share of a request are not worth a line. */
const LEAST_SHARE = 0.005;

/**
 * What the kernel's own functions are for, as far as their names tell: the first pattern that
 * matches. Functions of modules are told apart by their module.
 */
const SUBJECTS = [
  [
    'copying and clearing',
    new RegExp(
      '^(_*mem(cpy|set|move)(_orig|_erms|_generic)?|clear_page\\w*|copy_page(_regs)?|_*clear_user\\w*|' +
        'rep_(movs|stos)_alternative|copy_user_generic\\w*|__arch_(copy_(to|from)|clear)_user|' +
        '__asm_copy_(to|from)_user\\w*|fallback_scalar_usercopy\\w*|' +
        '__pi_(mem(cpy|set|move)|clear_page|copy_page))$',
    ),
  ],
  ['files and page cache', /^(vfs_|f(d?get|put)|shmem_|filemap_|rw_verify|security_|aa_|apparmor)/],
  ['buffers of requests', /iov_iter|folio|^gup_|_user_pages|page_to_iter|check_object|^xas?_/],
  ['block layer', /^_*(blk|bio|block|disk|submit_bio|sbitmap|wbt|elv|blkdev)_?/],
  ['polling and events', /poll|eventfd|wait_queue|wake_up_common|task_work/],
  ['io_uring', /^_*(do_sys_)?(io_|iou_|tctx_)/],
  ['virtio', /^_*(virtqueue|vring|virtio|detach_buf|more_used)/],
  [
    'scheduling',
    new RegExp(
      'sched|switch|queue_(task|entit)|entit(y|ies)|pick_|task_(fair|idle)|load_avg|vruntime|' +
        'psi_|ttwu|wake_?up|update_(curr|rq|se|cfs)|idle|eevdf|dl_server|cpuacct|hrtick|' +
        'record_times|signal_pending|kthread|load_native|fpregs|fpu',
    ),
  ],
  ['timers and clocks', /timer|ktime|^tick_|clock|timekeeping|jiffies/],
  ['entry and exit', /^(entry_|do_syscall|syscall|__?x64_sys|irqentry|exit_to|error_|asm_|ct_)/],
  ['interrupts', /irq|sysvec|_ipi|IPI|apic|smp_call|gic_|softirq/i],
  ['locks, lists and RCU', /lock|rcu|list|rb_|mutex|sem_?|llist/],
  ['memory', /kmalloc|kfree|kmem_|slab|alloc|mempool|free/],
];

const subjectOf = (name) =>
  SUBJECTS.find(([, pattern]) => pattern.test(name))?.[0] ?? 'kernel, other';

/** The functions of a kernel, from the text of its /proc/kallsyms. */
export class Symbols {
  /** @param {string} text */
  constructor(text) {
    const found = [];
    for (const line of text.split('\n')) {
      const [, address, name, module] =
        /^([0-9a-f]{16}) [tTwW] (\S+)(?:\t\[(\S+)\])?$/.exec(line) ?? [];
      if (address === undefined) continue;
      found.push({ address: BigInt(`0x${address}`), name, module: module ?? 'kernel' });
    }
    this.all = found.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
  }

  /** The function that an address is in. @param {bigint} address */
  at(address) {
    let [low, high] = [0, this.all.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.all[middle].address <= address) low = middle + 1;
      else high = middle;
    }
    return this.all[low - 1] ?? { name: 'unknown', module: 'kernel' };
  }
}

const RUN_TIME_CODE = 'code made at run time';

/** The programs and libraries that a process has mapped, from the text of its /proc/PID/maps. */
export class Maps {
  /** @param {string} text */
  constructor(text) {
    this.all = text
      .split('\n')
      .map((line) => /^([0-9a-f]+)-([0-9a-f]+) ..x\S+ \S+ \S+ \d+\s*(.*)$/.exec(line))
      .filter((match) => match !== null)
      .map(([, from, to, path]) => ({
        from: BigInt(`0x${from}`),
        to: BigInt(`0x${to}`),
        name: path === '' ? RUN_TIME_CODE : path.split('/').at(-1),
      }));
  }

  /** The file that holds the code at an address, if one does. @param {bigint} address */
  at(address) {
    return this.all.find(({ from, to }) => from <= address && address < to)?.name;
  }
}

/**
 * The file of an address. QEMU translates a page of a library once for all processes, and names it
 * by the address in the process that came first.
 * @param {Map<string, Maps>} files by role
 * @param {string} role
 * @param {bigint} address
 */
function fileOf(files, role, address) {
  if (!files.has(role)) return 'programs';
  const all = [files.get(role), ...files.values()];
  return all.map((maps) => maps.at(address)).find((name) => name !== undefined) ?? RUN_TIME_CODE;
}

/** What the plugin wrote. @param {string} text */
export function parseCounts(text) {
  const lines = text.trimEnd().split('\n');
  if (lines.pop() !== 'end') throw new Error('the counts of the profile are not complete');
  const tasks = new Map();
  const blocks = [];
  for (const line of lines) {
    const [kind, first, second, ...rest] = line.split(' ');
    if (kind === 'task') tasks.set(first, { tgid: Number(second), comm: rest.join(' ') });
    else blocks.push({ address: BigInt(`0x${first}`), task: second, count: Number(rest[0]) });
  }
  return { tasks, blocks };
}

/** Who a task is to a reader. */
function roleOf({ tgid, comm }, processes) {
  const role = Object.entries(processes).find(([, pid]) => pid === tgid)?.[0];
  if (role !== undefined) return role;
  if (/^swapper\//.test(comm)) return 'idle task';
  if (/^kworker\//.test(comm)) return 'kernel worker';
  return 'other';
}

const addTo = (sums, name, count) => sums.set(name, (sums.get(name) ?? 0) + count);

/** From the largest to the least, for each request. */
function eachRequest(sums, requests) {
  const sorted = [...sums].sort(([, a], [, b]) => b - a);
  return Object.fromEntries(sorted.map(([name, count]) => [name, count / requests]));
}

/**
 * The instructions of a request: by task, by the kernel's parts, by function, and by the files that
 * programs are in.
 * @param {ReturnType<typeof parseCounts>} counts
 * @param {Symbols} symbols
 * @param {{ requests: number, processes: Record<string, number | null>,
 *   maps: Record<string, string> }} about
 */
export function attribute({ tasks, blocks }, symbols, { requests, processes, maps }) {
  const files = new Map(Object.entries(maps).map(([role, text]) => [role, new Maps(text)]));
  const [byTask, byPart, byFunction, byFile] = [new Map(), new Map(), new Map(), new Map()];
  let total = 0;
  for (const { address, task, count } of blocks) {
    const role = roleOf(tasks.get(task) ?? { tgid: 0, comm: '' }, processes);
    total += count;
    if (isKernel(address)) {
      const { name, module } = symbols.at(address);
      addTo(byTask, `${role}, kernel`, count);
      addTo(byPart, module === 'kernel' ? subjectOf(name) : module, count);
      addTo(byFunction, module === 'kernel' ? name : `${name} [${module}]`, count);
    } else {
      addTo(byTask, `${role}, user`, count);
      addTo(byPart, `user space of ${role}`, count);
      addTo(byFile, `${role}: ${fileOf(files, role, address)}`, count);
    }
  }
  return {
    total: total / requests,
    tasks: eachRequest(byTask, requests),
    parts: eachRequest(byPart, requests),
    functions: eachRequest(byFunction, requests),
    files: eachRequest(byFile, requests),
  };
}

const whole = (value) => (value === undefined ? '–' : `${Math.round(value)}`);

/** A table with a column for each subject; lines that no subject has much of are left out. */
function table(title, profiles, field, most = Number.POSITIVE_INFINITY) {
  const names = new Map();
  for (const { profile } of profiles) {
    for (const [name, value] of Object.entries(profile[field])) {
      if (value < profile.total * LEAST_SHARE) continue;
      names.set(name, Math.max(names.get(name) ?? 0, value));
    }
  }
  const sorted = [...names].sort(([, a], [, b]) => b - a).slice(0, most);
  return [
    `| ${title} | ${profiles.map(({ subject }) => subject).join(' | ')} |`,
    `|---|${profiles.map(() => '---|').join('')}`,
    ...sorted.map(
      ([name]) =>
        `| ${name} | ${profiles.map(({ profile }) => whole(profile[field][name])).join(' | ')} |`,
    ),
    '',
  ];
}

/** The tables of one workload. */
function tables(workload, profiles) {
  const line = (title, value) => `| ${title} | ${profiles.map(value).join(' | ')} |`;
  return [
    `## ${workload}: where the instructions of a request go`,
    '',
    ...table('task', profiles, 'tasks').slice(0, -1),
    line('**sum of all**', ({ profile }) => whole(profile.total)),
    line('the clock says', ({ nsEach }) => whole(nsEach)),
    '',
    ...table('part', profiles, 'parts'),
    ...table('function of the kernel', profiles, 'functions', FUNCTIONS_SHOWN),
    ...table('file of a program', profiles, 'files'),
  ];
}

/** The folder that plugin and guest share. */
const folderOf = (guest) => join(guest, 'profile');

/**
 * Makes ready what the plugin needs, when the job asks for it; returns words for QEMU.
 * @param {import('./module.mjs').Kernel} kernel
 * @param {{ job: string, arguments: readonly string[] }} options
 * @param {string} guest the folder that the guest sees
 */
export function preparePlugin(kernel, { job, arguments: words }, guest) {
  if (job !== 'instructions' || !words.includes('--profile')) return [];
  const folder = folderOf(guest);
  mkdirSync(folder);
  writeFileSync(join(folder, 'control'), Buffer.alloc(PAGE));
  const plugin = buildPlugin(kernel, 'instruction-profile');
  const { secondArgument } = ARCHITECTURES[kernel.arch];
  // A comma ends an argument of QEMU's, and two are one.
  const quoted = folder.replaceAll(',', ',,');
  return ['-plugin', `file=${plugin},folder=${quoted},next=${secondArgument}`];
}

/** The figures that later runs are compared with, when the job was asked to store them. */
export function storeFigures(guest) {
  const figures = join(guest, 'instructions.json');
  if (existsSync(figures)) copyFileSync(figures, join(PROJECT, 'lab/instructions.json'));
}

/** Makes tables of what the guest left behind; returns their text, empty when there is nothing. */
export function readProfiles(guest) {
  const folder = folderOf(guest);
  if (!existsSync(join(folder, 'kallsyms'))) return '';
  const symbols = new Symbols(readFileSync(join(folder, 'kallsyms'), 'utf8'));
  const rows = new Map();
  const numbers = readdirSync(folder).map((name) => /^about-(\d+)\.json$/.exec(name)?.[1]);
  for (const number of numbers.filter((name) => name !== undefined).sort((a, b) => a - b)) {
    const about = JSON.parse(readFileSync(join(folder, `about-${number}.json`), 'utf8'));
    const counts = parseCounts(readFileSync(join(folder, `counts-${number}`), 'utf8'));
    const { workload, subject, nsEach } = about;
    const row = { subject, nsEach, profile: attribute(counts, symbols, about) };
    rows.set(workload, [...(rows.get(workload) ?? []), row]);
  }
  writeFileSync(join(folder, 'profile.json'), `${JSON.stringify([...rows], null, 2)}\n`);
  const text = [...rows].flatMap(([workload, profiles]) => tables(workload, profiles)).join('\n');
  writeFileSync(join(folder, 'profile.md'), text);
  return text;
}
