/** Tells a service manager how this process does (sd_notify). */
import { VloError } from '../errors.js';
import { sendDatagram } from './unix-socket.js';

/** Sends a state, such as `READY=1`, to who asked for it in NOTIFY_SOCKET; to nobody if none did. */
export function notifyServiceManager(state: string): void {
  const path = process.env.NOTIFY_SOCKET;
  if (path === undefined || path === '') return;
  try {
    sendDatagram(path, state);
  } catch (error) {
    // A manager that went away, or an address that no socket can have, is no reason to stop.
    if (!(error instanceof VloError)) throw error;
  }
}
