/** Runs one guest in QEMU, from its start to its end. */

import { spawn, spawnSync } from 'node:child_process';
import { createWriteStream, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Disks } from './disks.mjs';
import { ARCHITECTURES, part } from './places.mjs';
import { Waker } from './waker.mjs';

/** What the guest sees of the host; lab/initramfs-init mounts them by their tags. */
const sharesFor = ({ kernel, run, packages }) => [
  { tag: 'root', path: part(`root-${kernel.arch}`, 'tree'), mode: 'ro' },
  { tag: 'modules', path: kernel.modules, mode: 'ro' },
  { tag: 'project', path: join(run, 'project'), mode: 'ro' },
  { tag: 'packages', path: packages, mode: 'ro' },
  { tag: 'run', path: join(run, 'guest'), mode: 'rw' },
];

/** Folders of the host, which the guest mounts over 9p. */
const share = ({ tag, path, mode }) => [
  '-fsdev',
  `local,id=${tag},path=${path},security_model=none,multidevs=remap` +
    (mode === 'ro' ? ',readonly=on' : ''),
  '-device',
  `virtio-9p-pci,fsdev=${tag},mount_tag=${tag}`,
];

/**
 * Words that start a program of the part `qemu`, with the loader and the libraries of its tree: it
 * runs without a chroot, and so sees all paths.
 */
function program(name) {
  const tree = part('qemu', 'tree');
  const loader = join(tree, 'usr/lib64/ld-linux-x86-64.so.2');
  const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
  return [loader, '--library-path', libraries, join(tree, 'usr/bin', name)];
}

/** QEMU's version, such as 10.0.2 (Debian 1:10.0.2+ds-1). @param {string} arch */
export function qemuVersion(arch) {
  const [loader, ...words] = program(ARCHITECTURES[arch].qemu[0]);
  const { stdout } = spawnSync(loader, [...words, '--version'], { encoding: 'utf8' });
  return /version (.+)/.exec(stdout)?.[1] ?? 'unknown';
}

/**
 * QEMU's command line. The guest has no disk, network or other virtio device of QEMU's that one
 * could take for ours: only shared folders, two serial ports, and what the job has on the host.
 */
function commandLine(options) {
  const { kernel, run, memory, cpus, machine, clock, model, plugins, shares, disks, waker } =
    options;
  const { qemu, console } = ARCHITECTURES[kernel.arch];
  const tree = part('qemu', 'tree');
  const kernelArguments = [
    `console=${console}`,
    'loglevel=5',
    'log_buf_len=8M',
    'printk.devkmsg=on',
    'panic=-1',
    'oops=panic',
    'mitigations=off',
    ...clock.boot,
    // On a busy machine the emulated timer may look dead, and the kernel would not start; or the
    // clock looks wrong, and another one is taken that is slow to read.
    ...(kernel.arch === 'x86-64' ? ['no_timer_check', 'tsc=nowatchdog'] : []),
    // The console's log tells where a suspend came to.
    ...(disks === null ? [] : ['lab_root=disks', 'no_console_suspend']),
  ];
  return [
    // QEMU ends with this process, however that ends.
    ...['setpriv', '--pdeathsig', 'KILL'],
    ...program(qemu[0]),
    ...qemu.slice(1),
    ...['-L', join(tree, 'usr/share/qemu'), '-L', join(tree, 'usr/share/seabios')],
    ...['-cpu', model, '-smp', `${cpus}`, '-m', `${memory}`, ...clock.qemu, ...plugins],
    ...['-nodefaults', '-display', 'none', '-no-reboot'],
    ...['-kernel', kernel.image, '-initrd', disks?.initramfs ?? kernel.initramfs],
    ...['-append', kernelArguments.join(' ')],
    ...['-chardev', `file,id=console,path=${join(run, 'console.log')}`],
    ...['-serial', 'chardev:console'],
    ...['-chardev', 'stdio,id=job,signal=off', '-device', 'pci-serial,chardev=job'],
    ...(disks === null ? shares.flatMap(share) : [...disks.arguments(), ...waker.arguments()]),
    ...machine.arguments(memory),
  ];
}

/** How the terminal is set, to set it back: QEMU changes it. Empty when there is none. */
function terminalState() {
  const { stdout } = spawnSync('stty', ['-g'], { stdio: ['inherit', 'pipe', 'ignore'] });
  return stdout.toString().trim();
}

/** The guest's output goes to this process's output and to a file. */
function copyOutput(child, run) {
  const file = createWriteStream(join(run, 'output.log'));
  child.stdout.on('data', (data) => {
    process.stdout.write(data);
    file.write(data);
  });
  child.stdout.on('end', () => file.end());
}

const SIGNALS = ['SIGHUP', 'SIGINT', 'SIGTERM'];

/**
 * Starts the guest and waits for its end.
 * @param {{ kernel: import('./module.mjs').Kernel, run: string, packages: string, memory: number,
 *   cpus: number, timeout: number, interactive: boolean, machine: import('./machine.mjs').Machine,
 *   clock: import('./clock.mjs').Clock, model: string, plugins: readonly string[],
 *   disks: boolean }} options
 *   `timeout` in seconds, 0: none; `model` of the processor; `plugins`: words for QEMU;
 *   `disks`: instead of shared folders
 * @returns {Promise<string | null>} why it ended too early, or null
 */
export async function runGuest(options) {
  const shares = sharesFor(options);
  if (!options.disks) return runQemu(commandLine({ ...options, shares, disks: null }), options);
  const disks = new Disks(options.run, options.kernel, shares);
  const waker = new Waker(join(options.run, 'console.log'));
  try {
    return await runQemu(commandLine({ ...options, shares, disks, waker }), options);
  } finally {
    waker.end();
    disks.end();
  }
}

async function runQemu(command, options) {
  const state = options.interactive ? terminalState() : '';
  const stdio = options.interactive ? 'inherit' : ['pipe', 'pipe', 'inherit'];
  const child = spawn(command[0], command.slice(1), { stdio });
  if (!options.interactive) copyOutput(child, options.run);
  let reason = null;
  const end = (why) => {
    reason ??= why;
    child.kill('SIGKILL');
  };
  const stop = (signal) => end(`stopped by ${signal}`);
  for (const signal of SIGNALS) process.on(signal, stop);
  const limit = `the guest did not end within ${options.timeout} s and was killed`;
  const timer = options.timeout > 0 && setTimeout(() => end(limit), options.timeout * 1000);
  const status = await new Promise((done) => {
    child.on('error', (error) => done(error.message));
    child.on('close', (code, signal) => done(code ?? signal));
  });
  clearTimeout(timer);
  for (const signal of SIGNALS) process.off(signal, stop);
  if (state !== '') spawnSync('stty', [state], { stdio: ['inherit', 'ignore', 'ignore'] });
  if (reason === null && status !== 0) reason = `QEMU ended with ${status}`;
  return reason;
}

/** A file that the guest may not have come to write. @param {string} path */
export function readIfThere(path) {
  return statSync(path, { throwIfNoEntry: false }) === undefined ? '' : readFileSync(path, 'utf8');
}
