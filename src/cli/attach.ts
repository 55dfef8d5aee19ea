/** `vlo attach TYPE`: the adapter alone, for a back end that somebody else runs. */
import { mkdirSync, mkdtempSync, rmdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import {
  ATTACHABLE_TYPES,
  attach,
  chooseTransport,
  TRANSPORT_CHOICES,
  type TransportChoice,
} from '../adapter/attach.js';
import { VloError } from '../errors.js';
import { unmountFuse } from '../fuse/index.js';
import { parseSize } from '../hal/config-values.js';
import { defaultRunDirectory } from '../hal/run-directory.js';
import { becomeIoFlusher, notifyServiceManager } from '../native/index.js';
import {
  type AttachOptions,
  type KernelOptions,
  PORT_MEMORIES,
  type TransportName,
} from '../transports/attachment.js';
import { log, waitForSignal } from './output.js';

export interface AttachCommandOptions {
  readonly backend?: string;
  readonly transport: string;
  readonly name?: string;
  readonly runDir?: string;
  readonly memory?: string;
  readonly poolSize?: string;
  readonly packed?: boolean;
  readonly queueSize?: string;
  readonly takeover?: string;
  readonly stop?: string;
}

/** A whole number in a range. */
function wholeNumber(flag: string, text: string, min: number, max: number): number {
  const value = /^\d{1,9}$/.test(text) ? Number(text) : -1;
  if (value >= min && value <= max) return value;
  throw new VloError(
    'VLO_USAGE',
    `${flag} takes a whole number from ${min} to ${max}, not '${text}'`,
  );
}

/** What goes to a kernel transport. */
function kernelOptions(options: AttachCommandOptions): KernelOptions {
  const { memory, poolSize, packed, queueSize, takeover, stop } = options;
  const known = PORT_MEMORIES.find((name) => name === memory);
  if (memory !== undefined && known === undefined) {
    const memories = PORT_MEMORIES.join(' or ');
    throw new VloError('VLO_USAGE', `--memory takes ${memories}, not '${memory}'`);
  }
  const pool = poolSize === undefined ? null : parseSize(poolSize);
  if (poolSize !== undefined && pool === null) {
    throw new VloError(
      'VLO_USAGE',
      `--pool-size takes bytes or a size as 64MiB, not '${poolSize}'`,
    );
  }
  return {
    ...(known === undefined ? {} : { memory: known }),
    ...(pool === null ? {} : { poolSize: pool }),
    ...(packed === undefined ? {} : { packed }),
    ...(queueSize === undefined
      ? {}
      : { queueSize: wholeNumber('--queue-size', queueSize, 2, 1024) }),
    ...(takeover === undefined
      ? {}
      : { takeoverMs: wholeNumber('--takeover', takeover, 0, 600) * 1000 }),
    ...(stop === undefined ? {} : { stopMs: wholeNumber('--stop', stop, 0, 600) * 1000 }),
  };
}

function checkOptions(type: string, { backend, transport, name }: AttachCommandOptions) {
  if (!ATTACHABLE_TYPES.includes(type)) {
    const types = ATTACHABLE_TYPES.join(', ');
    throw new VloError('VLO_DEVICE_UNKNOWN', `there is no device type '${type}'; types: ${types}`);
  }
  if (backend === undefined) {
    throw new VloError('VLO_USAGE', 'give the socket of the back end with --backend');
  }
  const choice = TRANSPORT_CHOICES.find((known) => known === transport);
  if (choice === undefined) {
    const choices = TRANSPORT_CHOICES.join(', ');
    throw new VloError('VLO_USAGE', `--transport takes one of ${choices}, not '${transport}'`);
  }
  if (name !== undefined && !/^[a-z0-9][a-z0-9_-]{0,31}$/i.test(name)) {
    throw new VloError('VLO_USAGE', `--name takes letters, digits, _ and -, not '${name}'`);
  }
  return { backend, choice };
}

/** Takes the mount of an adapter away that was killed; false when a living one is there. */
async function removeDead(folder: string): Promise<boolean> {
  try {
    statSync(folder);
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOTCONN') return false;
    log(`removing the mount '${folder}', left by a 'vlo attach' that was killed`);
    return unmountFuse(folder, true);
  }
}

/** The folder of the presentation: named, or one that nobody else has. */
async function makeFolder(runDir: string, type: string, name: string | undefined): Promise<string> {
  try {
    mkdirSync(runDir, { recursive: true });
    if (name === undefined) return mkdtempSync(join(runDir, `${type}-`));
    const folder = join(resolve(runDir), name);
    if (!(await removeDead(folder))) mkdirSync(folder);
    return folder;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const hint = code === 'EEXIST' ? 'the name is taken: choose another --name' : 'use --run-dir';
    throw new VloError('VLO_RUN_DIR', `cannot make a folder in '${runDir}' (${code}): ${hint}`);
  }
}

/** A name that no other device has: of those that the kernel has, and of the folders. */
const freeName = (type: string): string => `${type}-${process.pid}`;

/** @throws VloError as options, back end and transport are */
export async function attachCommand(type: string, options: AttachCommandOptions): Promise<void> {
  const { backend, choice } = checkOptions(type, options);
  const kernel = kernelOptions(options);
  const transport = chooseTransport(choice as TransportChoice, type);
  if (transport !== 'user') {
    await attachUntilSignal(transport, {
      ...{ name: options.name ?? freeName(type), type, socket: backend, folder: '', kernel, log },
    });
    return;
  }
  const folder = await makeFolder(options.runDir ?? defaultRunDirectory(), type, options.name);
  try {
    const name = options.name ?? type;
    await attachUntilSignal(transport, { name, type, socket: backend, folder, log });
  } finally {
    rmdirSync(folder);
  }
}

/** Stays with the device until a signal comes, or nothing serves it any more. */
async function attachUntilSignal(transport: TransportName, options: AttachOptions): Promise<void> {
  const interrupted = waitForSignal();
  let fail: (error: VloError) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  becomeIoFlusher();
  const attachment = await attach(transport, {
    ...options,
    onState: (state, error) => {
      if (state === 'failed' && error !== null) fail(error);
    },
  });
  try {
    const { presentation, note } = attachment;
    const where = presentation === null ? ` (${note})` : ` at ${presentation}`;
    log(`${options.type}: ready${where}`);
    notifyServiceManager('READY=1');
    await Promise.race([interrupted, failed]);
  } finally {
    await attachment.close();
  }
}
