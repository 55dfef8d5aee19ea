/** What the HAL and a device process agree on. */
import type { RunOptions } from '../kit/index.js';

/** What a device process is told of a device. */
export interface DeviceTask {
  readonly name: string;
  readonly type: string;
  readonly options: Record<string, unknown>;
  readonly run: Pick<RunOptions, 'packed' | 'inOrder' | 'pollUs'>;
  /** Descriptor of its listening socket. */
  readonly fd: number;
}

/** Descriptor on which a device process says that it serves. */
export const READY_FD = 3;
/** What it says. */
export const READY_LINE = 'ready\n';

/** The argument of a device process, as JSON. */
export interface DeviceOrder {
  /** The HAL: a device process does not outlive it. */
  readonly parent: number;
  readonly tasks: readonly DeviceTask[];
}
