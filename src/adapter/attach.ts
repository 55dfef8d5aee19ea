/** The adapter: binds a back end to the transport that was asked for, or to the best there is. */
import { VloError } from '../errors.js';
import type { Attachment, AttachOptions, TransportName } from '../transports/attachment.js';
import { DEVICE_TYPES } from '../transports/device-types.js';
import { attachKernel } from '../transports/kernel-attachment.js';
import type { KernelTransport } from '../transports/kernel-port.js';
import { loopbackProblem } from '../transports/loopback/control.js';
import { LOOPBACK } from '../transports/loopback/port.js';
import { attachUser, USER_TYPES } from '../transports/user.js';
import { vduseProblem } from '../transports/vduse/control.js';
import { VDUSE } from '../transports/vduse/open.js';

/** What may be asked for: a transport, or the best that serves the type on this machine. */
export const TRANSPORT_CHOICES = ['auto', 'loopback', 'vduse', 'user'] as const;
export type TransportChoice = (typeof TRANSPORT_CHOICES)[number];

/** Types of devices that some transport can serve. */
export const ATTACHABLE_TYPES: readonly string[] = [...DEVICE_TYPES.keys()];

/** A way to the kernel, and why it cannot be gone now for a type; null when it can. */
interface KernelChoice {
  readonly transport: KernelTransport;
  problem(type: string): VloError | null;
}

/** The best first. */
const KERNEL_TRANSPORTS: readonly KernelChoice[] = [
  { transport: LOOPBACK, problem: () => loopbackProblem() },
  { transport: VDUSE, problem: vduseProblem },
];

/**
 * The transport that is meant.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE when none serves the type on this machine
 */
export function chooseTransport(choice: TransportChoice, type: string): TransportName {
  if (choice !== 'auto') return choice;
  const problems: string[] = [];
  for (const { transport, problem } of KERNEL_TRANSPORTS) {
    const found = problem(type);
    if (found === null) return transport.name;
    problems.push(`${transport.name}: ${found.message}`);
  }
  if (USER_TYPES.includes(type)) return 'user';
  problems.push('user: there is no driver in user space for this type');
  throw new VloError(
    'VLO_TRANSPORT_UNAVAILABLE',
    `nothing here serves a device of type '${type}'; ${problems.join('; ')}`,
  );
}

/**
 * Attaches a back end.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE, with what to do about it; else as the transport does
 */
export async function attach(choice: TransportChoice, options: AttachOptions): Promise<Attachment> {
  const name = chooseTransport(choice, options.type);
  if (name === 'user') return attachUser(options);
  const { transport, problem } = KERNEL_TRANSPORTS.find((known) => known.transport.name === name)!;
  // Said before the back end is asked for anything: it may be the only one that is missing.
  const found = problem(options.type);
  if (found !== null) throw found;
  return attachKernel(transport, options);
}
