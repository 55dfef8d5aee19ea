/** What a `hal.yaml` says, once it is read: plain data, checked, with absolute paths. */
import type { TransportChoice } from '../adapter/attach.js';
import type { RunOptions } from '../kit/index.js';
import type { KernelOptions } from '../transports/attachment.js';
import type { Position } from './config-problems.js';

/** Restarts of a device process: more than `limit` deaths within `withinMs` and it is given up. */
export interface RestartLimit {
  readonly limit: number;
  readonly withinMs: number;
}

/** What stands behind a device. */
export type DeviceSource =
  | {
      /** A device of this package. */
      readonly kind: 'own';
      /** For `parseOptions`: keys in camel case, `image` has become `blkFile`, no defaults. */
      readonly options: Record<string, unknown>;
      readonly run: Pick<RunOptions, 'packed' | 'inOrder' | 'pollUs'>;
    }
  | {
      /** A back end that someone else runs. */
      readonly kind: 'backend';
      readonly socket: string;
    }
  | {
      /** A third-party back end that we run; `{socket}` stands for the path of its socket. */
      readonly kind: 'command';
      readonly command: readonly string[];
    };

/** The file or block device that holds a disk. */
export interface ImageConfig {
  readonly path: string;
  /** Bytes that a new image gets; null when the file has to be there. */
  readonly size: number | null;
  readonly readOnly: boolean;
  /** Where the path stands in the file of devices. */
  readonly position: Position;
  /** Where the size stands; that of the path if there is none. */
  readonly sizePosition: Position;
}

export interface DeviceConfig {
  readonly name: string;
  readonly type: string;
  /** How a driver is to meet it. */
  readonly transport: TransportChoice;
  /** What a kernel transport is told. */
  readonly kernel: KernelOptions;
  /** Devices of ours with the same group are served by one process. */
  readonly group: string | null;
  readonly source: DeviceSource;
  readonly image: ImageConfig | null;
  /** Of a group it is the same for all its devices. */
  readonly restart: RestartLimit;
  /** Where the name stands. */
  readonly position: Position;
}

export interface HalConfig {
  /** The file as it was named; messages begin with it. */
  readonly file: string;
  readonly devices: readonly DeviceConfig[];
}
