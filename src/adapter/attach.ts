/** The adapter: binds a back end to the transport that was asked for, or to the best there is. */
import { VloError } from '../errors.js';
import type { Attachment, AttachOptions, TransportName } from '../transports/attachment.js';
import { attachUser } from '../transports/user.js';

/** What may be asked for: a transport, or the best that serves the type on this machine. */
export const TRANSPORT_CHOICES = ['auto', 'loopback', 'vduse', 'user'] as const;
export type TransportChoice = (typeof TRANSPORT_CHOICES)[number];

/** Why a transport is not in this version; those that are, are not listed. */
const MISSING: Partial<Record<TransportName, string>> = {
  loopback: 'the kernel module virtio_loopback is not part of this version yet',
  vduse: 'VDUSE is not part of this version yet',
};

/**
 * Attaches a back end.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE, with what to take instead; else as the transport does
 */
export async function attach(choice: TransportChoice, options: AttachOptions): Promise<Attachment> {
  const name = choice === 'auto' ? 'user' : choice;
  const reason = MISSING[name];
  if (reason !== undefined) {
    throw new VloError('VLO_TRANSPORT_UNAVAILABLE', `${reason}: use the transport 'user'`);
  }
  return attachUser(options);
}
