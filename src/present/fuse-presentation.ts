/** A served file, mounted, between the loop of a driver and the kernel. */
import { join } from 'node:path';
import { fuseMountsBelow, mountFuse, unmountFuse } from '../fuse/index.js';
import type { DriverLoop, LoopSource } from '../kit/driver-loop.js';
import { Watch } from '../native/index.js';
import { FileMount, type ServedFile } from './file-mount.js';
import type { Presentation, PresentationCounters } from './presentation.js';

/** Longest time in milliseconds that an unmount may take. */
const UNMOUNT_MS_MAX = 5000;

/** What a file needs to be mounted. */
export interface MountPlan {
  readonly folder: string;
  /** Most bytes of one READ or WRITE; a multiple of 4096. */
  readonly transferSizeMax: number;
  /** Name in the list of mounts. */
  readonly source: string;
  readonly log: (line: string) => void;
}

/** A file as its presentation sees it. */
export interface PresentedFile extends ServedFile {
  readonly counters: PresentationCounters;
  connectionChanged(isConnected: boolean): void;
  /** Frees what it has; nothing is asked of it any more. */
  close?(): void;
}

export class FusePresentation implements Presentation {
  readonly path: string;
  readonly counters: PresentationCounters;
  private readonly plan: MountPlan;
  private readonly folder: string;
  private readonly file: PresentedFile;
  private readonly mount: FileMount;
  private readonly loop: DriverLoop;
  private ring: LoopSource | null = null;
  private readonly watches: Watch[] = [];
  private isClosed = false;

  private constructor(plan: MountPlan, file: PresentedFile, mount: FileMount, loop: DriverLoop) {
    this.path = join(plan.folder, file.name);
    this.counters = file.counters;
    this.plan = plan;
    this.folder = plan.folder;
    this.file = file;
    this.mount = mount;
    this.loop = loop;
    mount.onEnd = () => {
      if (this.isClosed) return;
      plan.log(`somebody unmounted '${this.folder}'`);
      this.stopServing();
    };
    mount.onRing = (ring) => {
      plan.log('FUSE over io_uring is in use');
      this.ring = {
        fd: ring.descriptor,
        isCheap: true,
        isReady: true,
        poll: () => mount.pollRing(ring),
      };
      loop.addSource(this.ring);
    };
    loop.addSource(mount);
  }

  /**
   * Mounts a file on a folder that is there, and serves it in the loop of its driver.
   * @throws VloError VLO_FUSE_UNAVAILABLE
   */
  static async open(
    plan: MountPlan,
    file: PresentedFile,
    loop: DriverLoop,
  ): Promise<FusePresentation> {
    const { source, transferSizeMax } = plan;
    const channel = await mountFuse(plan.folder, { readSizeMax: transferSizeMax, source });
    const mount = new FileMount(channel, file, transferSizeMax);
    return new FusePresentation(plan, file, mount, loop);
  }

  /** The size of the file has changed. */
  resized(): void {
    if (!this.isClosed) this.mount.resized();
  }

  connectionChanged(isConnected: boolean): void {
    this.file.connectionChanged(isConnected);
  }

  driverFailed(): void {
    // The driver's loop has ended; whoever asks now has to hear that the device is gone.
    if (this.isClosed) return;
    for (const source of [this.mount, this.ring]) {
      if (source !== null) this.watches.push(new Watch(source.fd, () => pollAll(source)));
    }
  }

  private stopServing(): void {
    this.loop.removeSource(this.mount);
    if (this.ring !== null) this.loop.removeSource(this.ring);
    for (const watch of this.watches.splice(0)) watch.close();
  }

  async close(): Promise<void> {
    if (this.isClosed) return;
    this.isClosed = true;
    const { folder, mount, plan } = this;
    const isGone = !fuseMountsBelow(folder).includes(folder);
    // The kernel writes back what it holds, so the requests are served until the mount is gone;
    // but without a back end that would be for ever.
    if (!isGone && !(await within(UNMOUNT_MS_MAX, unmountFuse(folder, false)))) {
      plan.log(`'${this.path}' is still in use: whoever uses it gets errors from now on`);
      await within(UNMOUNT_MS_MAX, unmountFuse(folder, true));
    }
    this.stopServing();
    // Programs that have the file open get ENOTCONN from now on, and do not wait for ever.
    mount.channel.close();
    this.file.close?.();
  }
}

/** Takes all that is there; what is answered meanwhile, and later in this turn, goes out too. */
function pollAll(source: LoopSource): void {
  while (source.poll());
  setImmediate(() => {
    while (source.poll());
  });
}

/** The result of a promise; false when it takes longer. */
async function within(limitMs: number, promise: Promise<boolean>): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, limitMs, false);
  });
  const result = await Promise.race([promise, late]);
  clearTimeout(timer);
  return result;
}
