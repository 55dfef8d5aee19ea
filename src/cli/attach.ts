/** `vlo attach TYPE`: the adapter alone, for a back end that somebody else runs. */
import { mkdirSync, mkdtempSync, rmdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { attach, TRANSPORT_CHOICES, type TransportChoice } from '../adapter/attach.js';
import { DEVICES } from '../devices/catalog.js';
import { VloError } from '../errors.js';
import { unmountFuse } from '../fuse/index.js';
import { defaultRunDirectory } from '../hal/run-directory.js';
import { becomeIoFlusher, notifyServiceManager } from '../native/index.js';
import { log, waitForSignal } from './output.js';

export interface AttachCommandOptions {
  readonly backend?: string;
  readonly transport: string;
  readonly name?: string;
  readonly runDir?: string;
}

function checkOptions(type: string, { backend, transport, name }: AttachCommandOptions) {
  if (!DEVICES.some((device) => device.name === type)) {
    const types = DEVICES.map((device) => device.name).join(', ');
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

/** @throws VloError as options, back end and transport are */
export async function attachCommand(type: string, options: AttachCommandOptions): Promise<void> {
  const { backend, choice } = checkOptions(type, options);
  const folder = await makeFolder(options.runDir ?? defaultRunDirectory(), type, options.name);
  const interrupted = waitForSignal();
  let fail: (error: VloError) => void = () => {};
  const failed = new Promise<never>((_, reject) => {
    fail = reject;
  });
  failed.catch(() => {});
  becomeIoFlusher();
  try {
    const attachment = await attach(choice as TransportChoice, {
      ...{ name: options.name ?? type, type, socket: backend, folder, log },
      onState: (state, error) => {
        if (state === 'failed' && error !== null) fail(error);
      },
    });
    try {
      const { presentation, note } = attachment;
      log(`${type}: ready${presentation === null ? ` (${note})` : ` at ${presentation}`}`);
      notifyServiceManager('READY=1');
      await Promise.race([interrupted, failed]);
    } finally {
      await attachment.close();
    }
  } finally {
    rmdirSync(folder);
  }
}
