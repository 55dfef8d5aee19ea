/** What the checks of `vlo doctor` see of a machine: the real one here, a made-up one in tests. */
import { execFile } from 'node:child_process';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { availableParallelism, endianness, release } from 'node:os';
import { delimiter, join } from 'node:path';

/** Longest wait for a program that is asked for its version, in milliseconds. */
const RUN_LIMIT_MS = 1000;
/** Folders of programs for the administrator, which a user's PATH often lacks. */
const ADMINISTRATOR_FOLDERS = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/** How a foreign program ended. */
export interface ProgramRun {
  /** Exit status; null when it could not be started or did not end in time. */
  readonly status: number | null;
  readonly output: string;
}

/** A machine to look at. No function changes it, and none throws. */
export interface Machine {
  /** As Node names it: `x64`, `arm64`, `riscv64`. */
  readonly architecture: string;
  readonly isLittleEndian: boolean;
  /** Release of the kernel, as `uname -r` prints it. */
  readonly kernelRelease: string;
  readonly nodeVersion: string;
  readonly userId: number;
  readonly processorCount: number;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Text of a file; null when it cannot be read. */
  readText(path: string): string | null;
  /** Names in a folder; none when it cannot be read. */
  list(path: string): readonly string[];
  exists(path: string): boolean;
  /** Whether files can be made in a folder. */
  isWritable(path: string): boolean;
  /** Whether a program runs with the rights of its owner. */
  isSetUserId(path: string): boolean;
  /** Opens a device for reading and writing, and closes it: null, or the name of the error. */
  tryOpen(path: string): string | null;
  /** Loads the foreign function interface: null, or the reason why it does not work. */
  tryKoffi(): Promise<string | null>;
  /** Creates sealed shared memory: null, or the reason why it does not work. */
  tryMemfd(): Promise<string | null>;
  /** Whether an io_uring can be created. */
  tryIoUring(): Promise<boolean>;
  /** Runs a program with a time limit; the output holds what it wrote to either stream. */
  run(program: string, args: readonly string[]): Promise<ProgramRun>;
}

function errorCode(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? firstLine(error);
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n', 1)[0];
}

/** The result of `call`, or `otherwise` where the file system refuses. */
function attempt<T>(call: () => T, otherwise: T): T {
  try {
    return call();
  } catch {
    return otherwise;
  }
}

/** Loaded late: where foreign calls do not work, the doctor still has to say so. */
const loadNative = () => import('../native/index.js');

async function reasonOfFailure(call: () => unknown): Promise<string | null> {
  try {
    await call();
    return null;
  } catch (error) {
    return firstLine(error);
  }
}

function tryOpen(path: string): string | null {
  const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants;
  try {
    closeSync(openSync(path, O_RDWR | O_NOCTTY | O_NONBLOCK));
    return null;
  } catch (error) {
    return errorCode(error);
  }
}

function isWritable(path: string): boolean {
  return attempt(() => {
    accessSync(path, constants.W_OK | constants.X_OK);
    return statSync(path).isDirectory();
  }, false);
}

function run(program: string, args: readonly string[]): Promise<ProgramRun> {
  const options = { timeout: RUN_LIMIT_MS, killSignal: 'SIGKILL', encoding: 'utf8' } as const;
  return new Promise((resolve) => {
    const ended = (error: Error | null, stdout: string, stderr: string): void => {
      const code = error === null ? 0 : (error as { code?: unknown }).code;
      resolve({ status: typeof code === 'number' ? code : null, output: stdout + stderr });
    };
    // A few failures, such as a file that is no program, are thrown instead of reported.
    try {
      execFile(program, args, options, ended).stdin?.end();
    } catch {
      resolve({ status: null, output: '' });
    }
  });
}

/** The machine that this process runs on. */
export function thisMachine(): Machine {
  return {
    architecture: process.arch,
    isLittleEndian: endianness() === 'LE',
    kernelRelease: release(),
    nodeVersion: process.versions.node,
    userId: process.geteuid?.() ?? -1,
    processorCount: availableParallelism(),
    environment: process.env,
    readText: (path) => attempt(() => readFileSync(path, 'utf8'), null),
    list: (path) => attempt(() => readdirSync(path).sort(), []),
    exists: existsSync,
    isWritable,
    isSetUserId: (path) => attempt(() => (statSync(path).mode & 0o4000) !== 0, false),
    tryOpen,
    tryKoffi: () => reasonOfFailure(loadNative),
    tryMemfd: () =>
      reasonOfFailure(async () => (await loadNative()).createMemfd('vlo-doctor', 4096).close()),
    tryIoUring: async () => {
      try {
        const ring = (await loadNative()).IoUring.create(2);
        ring?.close();
        return ring !== null;
      } catch {
        return false;
      }
    },
    run,
  };
}

/** Folders in which programs are looked for. */
function programFolders(machine: Machine): string[] {
  const folders = (machine.environment.PATH ?? '').split(delimiter).filter((name) => name !== '');
  return [...new Set([...folders, ...ADMINISTRATOR_FOLDERS])];
}

/** Path of a program in PATH or an administrator's folder; null when it is in none. */
export function findProgram(machine: Machine, name: string): string | null {
  const paths = programFolders(machine).map((folder) => join(folder, name));
  return paths.find((path) => machine.exists(path)) ?? null;
}

/** Paths of all programs whose name fits, the first of each name. */
export function findPrograms(machine: Machine, pattern: RegExp): string[] {
  const byName = new Map<string, string>();
  for (const folder of programFolders(machine)) {
    for (const name of machine.list(folder)) {
      if (pattern.test(name) && !byName.has(name)) byName.set(name, join(folder, name));
    }
  }
  return [...byName.values()];
}

/** Capabilities of Linux by number. */
export const CAPABILITY = { netAdmin: 12, sysAdmin: 21 } as const;

/** Whether this process has a capability now. */
export function hasCapability(machine: Machine, capability: number): boolean {
  const status = machine.readText('/proc/self/status') ?? '';
  const digits = /^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0';
  return Math.floor(Number.parseInt(digits, 16) / 2 ** capability) % 2 === 1;
}

/** Whether a version such as `6.14.0-rc1` is at least `major.minor`. */
export function isAtLeast(version: string, major: number, minor: number): boolean {
  const [first, second] = version.split('.').map((part) => Number.parseInt(part, 10));
  return first > major || (first === major && second >= minor);
}

/** Where a module of the running kernel can come from. */
export type ModuleState = 'loadable' | 'none' | 'unknown';

/** Whether the running kernel's own folder has a module; unknown where it has no such folder. */
export function moduleState(machine: Machine, name: string): ModuleState {
  const index = machine.readText(`/lib/modules/${machine.kernelRelease}/modules.dep`);
  if (index === null) return 'unknown';
  // File names have dashes or underscores as their authors liked; to the kernel both are the same.
  const pattern = new RegExp(`(^|/)${name.replace(/[-_]/g, '[-_]')}\\.ko(\\.\\w+)?:`, 'm');
  return pattern.test(index) ? 'loadable' : 'none';
}
