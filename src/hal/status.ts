/** What a HAL tells of itself: `vlo status --json`, and `status.json` in the run directory. */
import type { TransportName } from '../transports/attachment.js';
import type { ProcessIdentity } from './process-identity.js';

/** How a device does. */
export type DeviceState =
  /** Its process or its back end is not there yet. */
  | 'starting'
  /** It serves. */
  | 'ready'
  /** Its back end is away; requests wait. */
  | 'waiting'
  /** It was given up; requests fail. `vlo restart NAME` tries again. */
  | 'failed';

export interface DeviceStatus {
  readonly name: string;
  readonly type: string;
  /** How the driver meets the back end; null until it does. */
  readonly transport: TransportName | null;
  readonly backEnd: {
    /** `own`: a process of this package; `command`: a third party's that we run; `backend`: one
     * that somebody else runs. */
    readonly kind: 'own' | 'backend' | 'command';
    readonly socket: string;
    readonly process: ProcessIdentity | null;
    /** Devices with the same group share a process. */
    readonly group: string | null;
  };
  /** What applications open; null where nothing is shown. */
  readonly presentation: string | null;
  readonly state: DeviceState;
  /** Why it failed, or why less is shown; null when all is well. */
  readonly note: string | null;
  readonly queues: number;
  readonly requests: number;
  readonly errors: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Starts of its process after the first. */
  readonly restarts: number;
  /** Milliseconds since the device was first ready. */
  readonly uptimeMs: number;
}

export interface HalStatus {
  /** Version of this format. */
  readonly format: 1;
  readonly pid: number;
  readonly runDirectory: string;
  /** The file of devices. */
  readonly config: string;
  readonly devices: readonly DeviceStatus[];
}

const HEAD = [
  'NAME',
  'TYPE',
  'STATE',
  'TRANSPORT',
  'BACK END',
  'QUEUES',
  'REQUESTS',
  'ERRORS',
  'RESTARTS',
  'UPTIME',
  'PRESENTATION',
];
/** Columns of numbers, written to the right. */
const RIGHT = new Set([5, 6, 7, 8, 9]);

/** A time as people say it: `45s`, `3m10s`, `2h05m`, `4d03h`. */
export function formatDuration(ms: number): string {
  const s = Math.floor(ms / 1000);
  const two = (value: number): string => String(value).padStart(2, '0');
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86_400)}d${two(Math.floor(s / 3600) % 24)}h`;
}

function backEndText({ backEnd }: DeviceStatus): string {
  const { kind, process, group, socket } = backEnd;
  if (kind === 'backend') return socket;
  const name = group === null ? kind : `group ${group}`;
  return process === null ? name : `${name} (pid ${process.pid})`;
}

/** The table of `vlo status`. */
export function formatStatus(status: HalStatus): string {
  const rows = status.devices.map((device) => [
    device.name,
    device.type,
    device.state,
    device.transport ?? '-',
    backEndText(device),
    ...[device.queues, device.requests, device.errors, device.restarts].map(String),
    formatDuration(device.uptimeMs),
    device.presentation ?? '-',
  ]);
  const widths = HEAD.map((title, i) =>
    Math.max(...[HEAD, ...rows].map((row) => row[i]!.length), title.length),
  );
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => (RIGHT.has(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd();
  const notes = status.devices.flatMap(({ name, note }) =>
    note === null ? [] : [`${name}: ${note}`],
  );
  return [line(HEAD), ...rows.map(line), ...notes].join('\n');
}
