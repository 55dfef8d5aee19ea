/** What a process asks the kernel for itself. */
import { libc } from './libc.js';

const PR_SET_PDEATHSIG = 1;
const PR_SET_IO_FLUSHER = 57;
const SIGNALS = { SIGKILL: 9, SIGTERM: 15 } as const;

/** Has the kernel send this process a signal when the thread that started it ends. */
export function signalAtParentDeath(signal: keyof typeof SIGNALS): void {
  libc.prctl(PR_SET_PDEATHSIG, SIGNALS[signal], 0, 0, 0);
}

/**
 * Tells the kernel that this process serves a disk: when it needs memory, the kernel must not wait
 * for pages that only this process can write back. False where it is not allowed (it takes
 * CAP_SYS_RESOURCE).
 */
export function becomeIoFlusher(): boolean {
  return libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) === 0;
}

/** Lets another thread that waits for this processor run; returns at once when there is none. */
export function yieldProcessor(): void {
  libc.schedYield();
}
