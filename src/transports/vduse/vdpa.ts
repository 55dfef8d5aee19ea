/**
 * The vDPA bus: puts a VDUSE device on it, which has its driver probe it, and takes it off again.
 * What `vdpa dev add name NAME mgmtdev vduse` and `vdpa dev del NAME` do, without that program.
 *
 * The kernel does all of it within the call, and the driver's probe waits for answers of the device
 * and even for disk reads. So a process of its own makes the call: this one has to answer
 * meanwhile; and were it killed while a thread of it waits in the kernel for such a read, the file
 * of the device would stay open, and no successor could ever serve that read.
 */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { VloError } from '../../errors.js';
import {
  ERRNO,
  errnoName,
  type Fd,
  NativeBuffer,
  openGenericNetlink,
  readInto,
  writeFrom,
} from '../../native/index.js';
import { decodeAnswer, encodeFamilyRequest, encodeRequest } from './netlink.js';

const PROGRAM = fileURLToPath(new URL('./vdpa-main.js', import.meta.url));

// linux/vdpa.h
const FAMILY = 'vdpa';
const VERSION = 1;
const MGMTDEV_DEV_NAME = 2;
const DEV_NAME = 4;
const COMMAND = { add: 3, del: 4 } as const;
export type VdpaAction = keyof typeof COMMAND;
/** The management device of VDUSE. */
const MANAGEMENT_DEVICE = 'vduse';

const REPLY_SIZE = 16384;

/** The request that an action is. */
export function encodeVdpaRequest(family: number, action: VdpaAction, name: string): Uint8Array {
  const device = { type: DEV_NAME, text: name };
  const management = { type: MGMTDEV_DEV_NAME, text: MANAGEMENT_DEVICE };
  const attributes = action === 'add' ? [management, device] : [device];
  return encodeRequest(family, { command: COMMAND[action], version: VERSION }, attributes);
}

/** Sends a message and reads until it is acknowledged. Returns the errno's name, or null. */
function exchange(
  socket: Fd,
  buffer: NativeBuffer,
  message: Uint8Array,
): { errno: string | null; family: number } {
  buffer.bytes.set(message);
  const sent = writeFrom(socket.number, buffer.address, message.length);
  if (sent < 0) return { errno: errnoName(-sent), family: 0 };
  let family = 0;
  for (;;) {
    const size = readInto(socket.number, buffer.address, REPLY_SIZE);
    if (size === -ERRNO.EINTR!) continue;
    if (size < 0) return { errno: errnoName(-size), family };
    const answer = decodeAnswer(buffer.bytes.subarray(0, size));
    family = answer.family ?? family;
    if (answer.result === null) continue;
    return { errno: answer.result === 0 ? null : errnoName(-answer.result), family };
  }
}

/** Does it in this thread. Returns the name of the errno with which it failed, or null. */
export function runVdpa(action: VdpaAction, name: string): string | null {
  const socket = openGenericNetlink();
  const buffer = new NativeBuffer(REPLY_SIZE);
  try {
    const { errno, family } = exchange(socket, buffer, encodeFamilyRequest(FAMILY));
    if (errno !== null) return errno;
    return exchange(socket, buffer, encodeVdpaRequest(family, action, name)).errno;
  } finally {
    socket.close();
    buffer.free();
  }
}

/**
 * Does it in a process of its own, which outlives this one. Returns the name of the errno with
 * which it failed, or null.
 * @throws VloError VLO_SYSTEM when there is no such process
 */
export function startVdpa(action: VdpaAction, name: string): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PROGRAM, action, name], {
      stdio: ['ignore', 'pipe', 'pipe'],
      // Ctrl-C in the middle would leave the driver with half of a device.
      detached: true,
    });
    let output = '';
    let complaint = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaint += text;
    });
    child.once('error', (error) => reject(failure(action, error.message)));
    child.once('close', (code) => {
      if (code === 0) resolve(output.trim() === '' ? null : output.trim());
      else reject(failure(action, complaint.trim() || `status ${code}`));
    });
  });
}

const failure = (action: VdpaAction, why: string): VloError =>
  new VloError('VLO_SYSTEM', `the program for 'vdpa dev ${action}' failed: ${why}`);
