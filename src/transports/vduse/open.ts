/** Makes a VDUSE device, or takes over the one of that name whose adapter has died. */
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, VloError } from '../../errors.js';
import { Watch } from '../../native/index.js';
import { F } from '../../virtio/index.js';
import type { KernelPort, KernelTransport, PortSpec } from '../kernel-port.js';
import { VduseControl, vduseProblem } from './control.js';
import { deviceNode, VduseFile } from './device.js';
import { busDriver, isOnBus, virtioStatus, writeSetting } from './node.js';
import { removeDevice, VdusePort } from './port.js';
import { DeviceRecord } from './record.js';
import { startVdpa } from './vdpa.js';

/** How long, and how often, a device is waited for whose adapter is just dying, in ms. */
const BUSY_MS_MAX = 3000;
const BUSY_PAUSE_MS = 50;
/** How long a driver may be silent that is in the middle of its work with the device, in ms. */
const SILENCE_MS = 500;

/**
 * The least time in ms that the kernel waits for an answer, and gives the device up after it. Back
 * ends are asked for some of them, and a dead adapter's successor answers what it left. Requests of
 * the rings themselves wait for any time: VDUSE knows no limit for them.
 */
const ANSWER_MS_MIN = 15_000;

const NAME_MAX = 31;
const POOL_SIZE_MIN = 2 ** 20;
const POOL_SIZE_MAX = 2 ** 30;
const QUEUE_SIZE_MAX = 32768;

/**
 * Features that VDUSE refuses, by the type's name: those with which a driver writes config space,
 * and those that need the control queue of a network device.
 */
const REFUSED: Readonly<Record<string, bigint>> = {
  blk: 1n << 11n,
  net: (1n << 17n) | (1n << 18n) | (1n << 19n) | (1n << 20n) | (1n << 21n) | (1n << 22n),
};

/** VDUSE takes a page for its pool when the first buffer needs it. */
const POOL_SIZE = 64 * 2 ** 20;

export const VDUSE: KernelTransport = { name: 'vduse', poolSize: POOL_SIZE, open: openVduse };

/** See {@link KernelTransport.open}. */
async function openVduse(spec: PortSpec): Promise<KernelPort> {
  checkSpec(spec);
  const problem = vduseProblem(spec.type);
  if (problem !== null) throw problem;
  const file = await openExisting(spec.name);
  if (file !== null) {
    const port = await takeOver(file, spec);
    if (port !== null) return port;
  }
  return create(spec);
}

/** What VDUSE would refuse without a word. @throws VloError VLO_OPTION_INVALID */
function checkSpec({ name, memory, queueSizes, poolSize }: PortSpec): void {
  const refuse = (problem: string): VloError => new VloError('VLO_OPTION_INVALID', problem);
  if (memory !== 'bounce') {
    throw refuse("VDUSE copies all buffers: use the memory 'bounce', or the transport 'loopback'");
  }
  const isFile = name === 'control' || name.includes('/') || name.startsWith('.');
  if (isFile || Buffer.byteLength(name) > NAME_MAX) {
    throw refuse(`VDUSE takes no device of the name '${name}': choose another --name`);
  }
  if (queueSizes.some((size) => size < 2 || size > QUEUE_SIZE_MAX || (size & (size - 1)) !== 0)) {
    throw refuse(
      `a queue has 2 to ${QUEUE_SIZE_MAX} entries, a power of two; not ${queueSizes[0]}`,
    );
  }
  if (poolSize < POOL_SIZE_MIN || poolSize > POOL_SIZE_MAX || poolSize % 65536 !== 0) {
    throw refuse(`a pool has 1 MiB to 1 GiB, in steps of 64 KiB; not ${poolSize} bytes`);
  }
}

/** Opens the device of that name; null when there is none. @throws VloError VLO_DEVICE_IN_USE */
async function openExisting(name: string): Promise<VduseFile | null> {
  const end = Date.now() + BUSY_MS_MAX;
  for (;;) {
    try {
      return VduseFile.open(name);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO') return null;
      if (code !== 'EBUSY') throw new SystemError('open', code ?? 'EIO', deviceNode(name));
    }
    if (Date.now() > end) {
      const message = `a living adapter has the device '${name}': end it, or choose another name`;
      throw new VloError('VLO_DEVICE_IN_USE', message);
    }
    await sleep(BUSY_PAUSE_MS);
  }
}

/**
 * Goes on with a device; null when there was nothing to go on with, and it is no more.
 * @throws VloError VLO_DEVICE_MISMATCH for the device of another program
 */
async function takeOver(file: VduseFile, spec: PortSpec): Promise<KernelPort | null> {
  const { name, type, log } = spec;
  const record = DeviceRecord.load(name);
  // Without a driver it is nobody's: its maker died in the middle.
  if (record === null && isOnBus(name)) {
    file.close();
    const problem = 'was made by another program, or before the folder of records was lost';
    throw new VloError(
      'VLO_DEVICE_MISMATCH',
      `VDUSE's device '${name}' ${problem}: remove it ('vdpa dev del ${name}'), or choose another name`,
    );
  }
  if (
    record !== null &&
    !file.isBroken() &&
    (virtioStatus(name) !== null || (await hasMessage(file, SILENCE_MS)))
  ) {
    try {
      return new VdusePort({ name, type, file, record, adding: null, log });
    } catch (error) {
      file.close();
      throw error;
    }
  }
  log(`no driver has the device '${name}', whose adapter had died: it is made anew`);
  await discard(name, file, log);
  record?.remove();
  return null;
}

/** Waits until the kernel asks something; false when it does not in that time. */
function hasMessage(file: VduseFile, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    const watch = new Watch(file.fd.number, () => done(true));
    const late = setTimeout(() => done(false), ms);
    const done = (isThere: boolean): void => {
      clearTimeout(late);
      watch.close();
      resolve(isThere);
    };
  });
}

/** Removes a device that no driver works with. */
async function discard(name: string, file: VduseFile, log: PortSpec['log']): Promise<void> {
  const watch = new Watch(file.fd.number, () => {
    const message = file.next();
    if (message !== null) file.answer(message, true);
    // One that the kernel gave up asks nothing, and is readable for ever.
    else watch.pause();
  });
  const closeFile = (): void => {
    watch.close();
    file.close();
  };
  try {
    await removeDevice(name, closeFile, log);
  } finally {
    closeFile();
  }
}

async function create(spec: PortSpec): Promise<KernelPort> {
  const { name, type, deviceId, queueSizes, config, poolSize, takeoverMs, log } = spec;
  const features = spec.features & ~(REFUSED[type] ?? 0n);
  const control = VduseControl.open();
  try {
    const queueCount = queueSizes.length;
    const offered = features | F.ACCESS_PLATFORM;
    control.create({ name, deviceId, features: offered, queueCount, config });
  } catch (error) {
    throw createProblem(error, spec);
  } finally {
    control.close();
  }
  const file = VduseFile.open(name);
  let record: DeviceRecord | null = null;
  try {
    for (const [index, size] of queueSizes.entries()) file.setupQueue(index, size);
    writeSetting(name, 'bounce_size', poolSize);
    const answerMs = Math.max(ANSWER_MS_MIN, takeoverMs);
    writeSetting(name, 'msg_timeout', Math.ceil(answerMs / 1000));
    record = DeviceRecord.create(name, { deviceId, features, queueSizes, config });
    const { adding } = await add(file, name, log);
    return new VdusePort({ name, type, file, record, adding, log });
  } catch (error) {
    await discard(name, file, log);
    record?.remove();
    throw error;
  }
}

function createProblem(error: unknown, { type, name }: PortSpec): unknown {
  if (!(error instanceof SystemError)) return error;
  const { errno } = error;
  if (errno === 'EEXIST') {
    const message = `there is a VDUSE device '${name}' that is just going: try again`;
    return new VloError('VLO_DEVICE_IN_USE', message);
  }
  if (errno !== 'EINVAL' && errno !== 'EPERM') return error;
  const why =
    errno === 'EPERM'
      ? `VDUSE devices of type '${type}' need the capability CAP_NET_ADMIN`
      : `VDUSE refuses a device of type '${type}' with these features and queues`;
  return new VloError('VLO_TRANSPORT_UNAVAILABLE', `${why}: use the transport 'loopback'`);
}

/**
 * Puts the device on the bus, as far as can be without answering its driver: until that asks for
 * the first time, or no driver is there to ask.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE
 */
async function add(
  file: VduseFile,
  name: string,
  log: PortSpec['log'],
): Promise<{ adding: Promise<unknown> }> {
  const added = startVdpa('add', name).then((errno) => {
    // EEXIST: the process that a dead adapter had started for it was faster.
    if (errno !== null && errno !== 'EEXIST') throw addProblem(errno, name);
  });
  let watch!: Watch;
  const asked = new Promise<void>((resolve) => {
    watch = new Watch(file.fd.number, resolve);
  });
  try {
    await Promise.race([asked, added]);
  } finally {
    watch.close();
  }
  const driver = busDriver(name);
  if (driver !== null && driver !== 'virtio_vdpa') {
    const why = `the driver ${driver} took the device '${name}': virtio_vdpa is to have it`;
    throw new VloError('VLO_TRANSPORT_UNAVAILABLE', `${why}; unload ${driver}`);
  }
  // Whatever comes of it now, the driver tells.
  return { adding: added.catch((error: Error) => log(error.message)) };
}

function addProblem(errno: string, name: string): VloError {
  const why =
    errno === 'EPERM'
      ? 'the capability CAP_NET_ADMIN is needed'
      : errno === 'ENOENT'
        ? "the kernel module vdpa is not there: 'modprobe -a vduse virtio_vdpa' as root loads it"
        : `the kernel refused it (${errno})`;
  const what = `the device '${name}' cannot be put on the vDPA bus`;
  return new VloError('VLO_TRANSPORT_UNAVAILABLE', `${what}: ${why}`);
}
