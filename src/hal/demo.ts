/**
 * `vlo demo`: a disk and an entropy source are brought up, used, hurt, verified and taken down.
 *
 * Everything runs as it does under `vlo up`, in this process; nothing is left behind, however the
 * demonstration ends.
 */

import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { deflateSync } from 'node:zlib';
import { VloError } from '../errors.js';
import { DemoArchive, type DemoDisk, openDisk } from './demo-archive.js';
import { DemoFileSystem } from './demo-filesystem.js';
import { demoFailed, mustRun } from './demo-program.js';
import { lookAtSpeed, type SpeedRow } from './demo-speed.js';
import { DemoStand, DISK_MIB } from './demo-stand.js';
import { layerLines, layerPicture, mib, speedLines, wrapped } from './demo-text.js';
import { collectTree, type DemoFile, readEntropy, totalBytes } from './demo-tree.js';
import { type Machine, thisMachine } from './doctor-machine.js';

const PROBE = fileURLToPath(new URL('./demo-probe.js', import.meta.url));
const ENTROPY_SIZE = 1024 * 1024;
/** Random bytes do not get smaller. */
const DEFLATED_MIN = 0.99;
/** Longest time of a step, in milliseconds; an interrupted one gets the second. */
const STEP_MS_MAX = 60_000;
const SETTLE_MS_MAX = 3000;
const LOG_LINES = 12;

export interface DemoOptions {
  /** Keep the folder with the image and the empty run directory; default false. */
  readonly keep?: boolean;
  /** Ends the demonstration early; all is taken down. */
  readonly signal?: AbortSignal;
  /** A step that was done, or failed, and the seconds it took. */
  readonly onStep: (isGood: boolean, seconds: number, text: string) => void;
  readonly onText: (line: string) => void;
  /** What this machine has; tests hide some of it. */
  readonly machine?: Machine;
  /** Called with the path of the image between writing and verifying, for tests. */
  readonly afterWriting?: (image: string) => Promise<void>;
}

/**
 * Runs the demonstration.
 * @throws VloError VLO_DEMO_FAILED with the step and what did not verify
 */
export async function runDemo(options: DemoOptions): Promise<void> {
  const startedAt = performance.now();
  const folder = await mkdtemp(join(tmpdir(), 'vlo-demo-'));
  const demo = new Demo(folder, options);
  let failure: unknown = null;
  try {
    await demo.run();
  } catch (error) {
    failure = error;
    demo.tellLog();
  }
  try {
    await demo.clean();
  } catch (error) {
    failure ??= error;
  }
  if (failure !== null) throw failure;
  const seconds = (performance.now() - startedAt) / 1000;
  options.onText('');
  const what = demo.hasFileSystem ? 'every checksum and the file system' : 'every checksum';
  options.onText(`verified: ${what}, twice killed, nothing left; ${seconds.toFixed(1)} s`);
}

class Demo {
  private readonly folder: string;
  private readonly options: DemoOptions;
  private readonly stand: DemoStand;
  private readonly log: string[] = [];
  private fileSystem: DemoFileSystem | null = null;
  private disk: DemoDisk | null = null;
  private files: DemoFile[] = [];
  private isOver = false;

  constructor(folder: string, options: DemoOptions) {
    this.folder = folder;
    this.options = options;
    this.stand = new DemoStand(folder, (line) => this.log.push(line));
  }

  async run(): Promise<void> {
    const { stand } = this;
    await this.step('up', () => this.up());
    if (stand.note !== null) this.remark(stand.note);
    await this.step('entropy', () => this.entropy());
    await this.step('collect files', () => this.collect());
    // Before anything is stored: it overwrites a part of the disk.
    let rows: SpeedRow[] = [];
    await this.step('speed', async () => {
      rows = await this.speed();
      return 'looked at the speed: quickly, and with one request at a time';
    });
    const why = await this.useFileSystem();
    if (why !== null) this.remark(`no file system: ${why}`);
    if (this.fileSystem === null) await this.useArchive();
    else await this.useMount(this.fileSystem);
    const above = this.fileSystem === null ? [] : [this.fileSystem.layer()];
    const layers = [...above, ...stand.layers()];
    for (const line of ['', ...layerLines(layers), '', ...speedLines(rows), '']) {
      this.options.onText(line);
    }
    await this.step('counters', async () => {
      const errors = layers.reduce((sum, layer) => sum + (layer.errors ?? 0), 0);
      if (errors > 0) throw demoFailed(`${errors} requests failed`);
      const { kills, restarts } = stand;
      if (restarts !== kills) throw demoFailed(`${kills} kills, ${restarts} restarts`);
      return `${kills} kills, ${restarts} restarts, no request failed`;
    });
  }

  /** Runs a step, tells how it ended, and gives failures their name. */
  private async step(name: string, work: () => Promise<string>): Promise<void> {
    const { onStep } = this.options;
    const startedAt = performance.now();
    const seconds = (): number => (performance.now() - startedAt) / 1000;
    try {
      this.check();
      const text = await this.limited(work());
      onStep(true, seconds(), text);
    } catch (error) {
      onStep(false, seconds(), name);
      throw named(name, error);
    }
  }

  /** The result of a step, unless it is interrupted or takes too long. */
  private async limited(work: Promise<string>): Promise<string> {
    const { signal } = this.options;
    const aborter = new AbortController();
    const ended = new Promise<never>((_, reject) => {
      const late = setTimeout(() => reject(demoFailed('it took too long')), STEP_MS_MAX);
      const interrupted = (): void => reject(demoFailed('interrupted'));
      signal?.addEventListener('abort', interrupted, { once: true, signal: aborter.signal });
      aborter.signal.addEventListener('abort', () => clearTimeout(late));
    });
    try {
      return await Promise.race([work, ended]);
    } catch (error) {
      // What goes on would meet the cleaning up: it sees soon that it is over.
      this.isOver = true;
      await Promise.race([work.catch(() => {}), delay(SETTLE_MS_MAX)]);
      throw error;
    } finally {
      aborter.abort();
    }
  }

  /** @throws VloError when the demonstration is over. */
  private readonly check = (): void => {
    if (this.isOver || this.options.signal?.aborted === true) throw demoFailed('interrupted');
  };

  private async up(): Promise<string> {
    const { stand } = this;
    await stand.up();
    return `disk0, ${DISK_MIB} MiB, and rng0 are up in ${this.folder}`;
  }

  private async entropy(): Promise<string> {
    const source = await open(this.stand.randomPath, 'r');
    try {
      const bytes = await readEntropy(source, ENTROPY_SIZE);
      const share = deflateSync(bytes).length / bytes.length;
      if (share < DEFLATED_MIN) {
        throw demoFailed(`what '${this.stand.randomPath}' gives is not random`);
      }
      return `read ${mib(bytes.length)} of entropy; deflate does not make it smaller`;
    } finally {
      await source.close();
    }
  }

  private async collect(): Promise<string> {
    this.files = await collectTree(this.stand.randomPath);
    return `collected ${this.size}: this package, and random bytes`;
  }

  get hasFileSystem(): boolean {
    return this.fileSystem !== null;
  }

  private get size(): string {
    return `${this.files.length} files, ${mib(totalBytes(this.files))}`;
  }

  private remark(text: string): void {
    for (const line of wrapped(text, 5)) this.options.onText(`     ${line}`);
  }

  /** Makes a file system; null, or why there is none. */
  private async useFileSystem(): Promise<string | null> {
    const { machine = thisMachine() } = this.options;
    const { diskPath } = this.stand;
    if (diskPath === null) return 'the disk has no file; its driver is used instead';
    const plan = DemoFileSystem.plan(machine, diskPath, join(this.folder, 'mnt'), this.check);
    if (typeof plan === 'string') return `${plan}; the disk's file is used as it is`;
    this.fileSystem = plan;
    let why: string | null = null;
    await this.step('make a file system', async () => {
      why = await plan.create();
      return why === null ? `mkfs.ext4, mounted through ${plan.loop}` : 'mkfs.ext4';
    });
    if (why !== null) this.fileSystem = null;
    return why === null ? null : `${why}; the disk's file is used as it is`;
  }

  private async useMount(fileSystem: DemoFileSystem): Promise<void> {
    this.picture([
      ['application', 'this program writes and reads files'],
      ['ext4', `mounted from ${fileSystem.loop}`],
      ['loop device', 'of the kernel, on the disk’s file'],
    ]);
    await this.writeAll((atHalf) => fileSystem.write(this.files, atHalf));
    await this.step('check the file system', async () => {
      await fileSystem.leave();
      await fileSystem.examine();
      await this.options.afterWriting?.(this.stand.image);
      return 'unmounted, loop device dropped; e2fsck -fn: clean';
    });
    await this.verifyAll(async (atHalf) => {
      await fileSystem.reopen();
      await fileSystem.verify(this.files, atHalf);
    });
    await this.step('unmount', async () => {
      await fileSystem.leave();
      await fileSystem.examine();
      return 'unmounted again; e2fsck -fn: clean';
    });
  }

  private async useArchive(): Promise<void> {
    this.picture([['application', 'this program writes and reads an archive']]);
    this.disk ??= await openDisk(this.stand);
    const archive = new DemoArchive(this.disk, this.check);
    await this.writeAll((atHalf) => archive.write(this.files, atHalf));
    await this.options.afterWriting?.(this.stand.image);
    await this.verifyAll((atHalf) => archive.verify(this.files, atHalf));
  }

  private picture(above: readonly (readonly [string, string])[]): void {
    for (const line of ['', ...layerPicture(above, this.stand), '']) this.options.onText(line);
  }

  private writeAll(write: (atHalf: () => void) => Promise<void>): Promise<void> {
    return this.step('write files', async () => {
      await write(() => this.stand.kill());
      await this.stand.replaced();
      return `wrote ${this.size}; half-way: kill -9 of its process`;
    });
  }

  private verifyAll(verify: (atHalf: () => void) => Promise<void>): Promise<void> {
    return this.step('verify files', async () => {
      await verify(() => this.stand.kill());
      await this.stand.replaced();
      return `read ${this.files.length} files, checksums right; half-way: kill -9 again`;
    });
  }

  private async speed(): Promise<SpeedRow[]> {
    const { diskPath } = this.stand;
    if (diskPath === null) {
      this.disk = await openDisk(this.stand);
      return lookAtSpeed(this.disk);
    }
    return JSON.parse(await mustRun(process.execPath, [PROBE, diskPath])) as SpeedRow[];
  }

  /** The last lines of the HAL's log: they often say why. */
  tellLog(): void {
    for (const line of this.log.slice(-LOG_LINES)) this.remark(line);
  }

  /** Takes all down, whatever is up. @throws VloError VLO_DEMO_FAILED when something is left */
  async clean(): Promise<void> {
    const startedAt = performance.now();
    const { folder, fileSystem, options, stand } = this;
    this.isOver = true;
    const problems: string[] = [];
    const close = async (work: () => Promise<void> | undefined): Promise<void> => {
      try {
        await work();
      } catch (error) {
        problems.push((error as Error).message);
      }
    };
    await close(() => this.disk?.close());
    await close(() => fileSystem?.leave());
    await close(() => stand.down());
    const left = await stand.leftovers();
    // Removing a folder with a mount in it would remove what is mounted.
    if (left.length === 0 && options.keep !== true) {
      await close(() => rm(folder, { recursive: true, force: true }));
    }
    const seconds = (performance.now() - startedAt) / 1000;
    const isGood = left.length + problems.length === 0;
    if (isGood) {
      const place = options.keep === true ? `; kept: ${folder}` : '';
      options.onStep(
        true,
        seconds,
        `all is down: no mount, process, socket or loop device left${place}`,
      );
      return;
    }
    const what = [...problems, ...left.map((name) => `left: ${name}`)].join('; ');
    options.onStep(false, seconds, `clean up: ${what}`);
    throw demoFailed(`step 'clean up': ${what}`);
  }
}

const delay = (ms: number): Promise<void> =>
  new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });

/** The failure of a step with its name; a bug stays as it is. */
function named(step: string, error: unknown): unknown {
  const isSystemError = error instanceof Error && 'syscall' in error;
  if (!(error instanceof VloError) && !isSystemError) return error;
  const code = error instanceof VloError && error.code !== 'VLO_DEMO_FAILED' ? error.code : '';
  const text = code === '' ? error.message : `${code}: ${error.message}`;
  return demoFailed(`step '${step}': ${text}`, error);
}
