/**
 * The transport that needs no kernel module: a driver of ours in this process, and a presentation
 * of what it drives.
 */
import {
  BlkDriver,
  type BlkDriverOptions,
  CanDriver,
  ConsoleDriver,
  GpioDriver,
  InputDriver,
  RngDriver,
  SoundDriver,
} from '../devices/index.js';
import { VloError } from '../errors.js';
import type { DriverOptions } from '../kit/driver-host.js';
import {
  CanInterface,
  ConsoleTerminals,
  DISK_DEPTH,
  DISK_SLOT_SLACK,
  DISK_TRANSFER_MAX,
  DiskFile,
  FusePresentation,
  GpioLines,
  InputNode,
  InputPipe,
  newCounters,
  type Presentation,
  RANDOM_TRANSFER_MAX,
  RandomFifo,
  RandomFile,
  SoundPipes,
} from '../present/index.js';
import type { Attachment, AttachmentState, AttachOptions } from './attachment.js';

/** A driver, and how it is shown. */
interface Attached {
  readonly queueCount: number;
  abandon(error: VloError): void;
  close(): Promise<void>;
  /** @throws VloError VLO_FUSE_UNAVAILABLE or VLO_CAN_INTERFACE where it cannot be shown */
  present(options: AttachOptions): Promise<Presentation>;
  /** What is shown then; null: nothing, and the socket is left to others. */
  presentWithoutFuse(options: AttachOptions): Presentation | null;
}

type Connect = (options: DriverOptions) => Promise<Attached>;

async function connectBlk(options: DriverOptions): Promise<Attached> {
  let shown: FusePresentation | null = null;
  const blkOptions: BlkDriverOptions = {
    ...options,
    depth: DISK_DEPTH,
    slotSize: DISK_TRANSFER_MAX + DISK_SLOT_SLACK,
    onResize: () => shown?.resized(),
  };
  const driver = await BlkDriver.connect(blkOptions);
  const transferSizeMax = Math.min(DISK_TRANSFER_MAX, floorToPage(driver.transferSizeMax));
  if (transferSizeMax === 0) {
    await driver.close();
    const limit = `no request of more than ${driver.transferSizeMax} bytes`;
    throw new VloError('VLO_BACKEND_FEATURES', `the device takes ${limit}; 4096 are needed`);
  }
  return {
    queueCount: driver.queueCount,
    abandon: (error) => driver.abandon(error),
    close: () => driver.close(),
    async present({ folder, name, log }) {
      const plan = { folder, transferSizeMax, source: name, log };
      shown = await FusePresentation.open(plan, new DiskFile(driver), driver.loop);
      return shown;
    },
    presentWithoutFuse: () => null,
  };
}

/** The kernel asks for whole pages. */
const floorToPage = (size: number): number => size - (size % 4096);

async function connectRng(options: DriverOptions): Promise<Attached> {
  const driver = await RngDriver.connect(options);
  return {
    queueCount: 1,
    abandon: (error) => driver.abandon(error),
    close: () => driver.close(),
    present({ folder, name, log }) {
      const plan = { folder, transferSizeMax: RANDOM_TRANSFER_MAX, source: name, log };
      return FusePresentation.open(plan, new RandomFile(driver), driver.loop);
    },
    presentWithoutFuse: ({ folder }) => new RandomFifo(driver, folder),
  };
}

/** What all drivers have. */
interface Driver {
  readonly queueCount: number;
  abandon(error: VloError): void;
  close(): Promise<void>;
}

/** Connects a driver whose presentation is no file of FUSE. */
function shownBy<D extends Driver>(
  kind: { connect(options: DriverOptions): Promise<D> },
  present: (driver: D, options: AttachOptions) => Presentation | Promise<Presentation>,
): Connect {
  return async (options) => {
    const driver = await kind.connect(options);
    return {
      queueCount: driver.queueCount,
      abandon: (error) => driver.abandon(error),
      close: () => driver.close(),
      present: async (attachOptions) => present(driver, attachOptions),
      presentWithoutFuse: () => null,
    };
  };
}

/** An event device, or a pipe where there is no uinput. */
function presentInput(driver: InputDriver, { folder, log }: AttachOptions): Presentation {
  try {
    return new InputNode(driver);
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'unknown error';
    log(`no event device, but a pipe with JSON lines: ${reason}`);
    return new InputPipe(driver, folder);
  }
}

const CONNECT: Readonly<Record<string, Connect>> = {
  blk: connectBlk,
  rng: connectRng,
  console: shownBy(ConsoleDriver, (driver, { folder, log }) =>
    ConsoleTerminals.open(driver, folder, log),
  ),
  gpio: shownBy(GpioDriver, (driver, { folder }) => new GpioLines(driver, folder)),
  input: shownBy(InputDriver, presentInput),
  can: shownBy(CanDriver, (driver, { name, log }) => CanInterface.open(driver, name, log)),
  sound: shownBy(SoundDriver, (driver, { folder, log }) => new SoundPipes(driver, folder, log)),
};

/** What this machine may lack to show a device, whose socket is of use all the same. */
const UNSHOWN: Readonly<Record<string, string>> = {
  VLO_FUSE_UNAVAILABLE: 'no FUSE file',
  VLO_CAN_INTERFACE: 'no interface',
};

/** Types of devices that the user transport can drive. */
export const USER_TYPES: readonly string[] = Object.keys(CONNECT);

/**
 * Attaches a back end: connects a driver to it and shows it in the folder.
 * @throws VloError VLO_TRANSPORT_UNAVAILABLE for a type without a driver; what the driver's
 * `connect` throws
 */
export async function attachUser(options: AttachOptions): Promise<Attachment> {
  const connect = CONNECT[options.type];
  if (connect === undefined) {
    throw new VloError(
      'VLO_TRANSPORT_UNAVAILABLE',
      `there is no user-space driver for '${options.type}'; there is one for ${USER_TYPES.join(', ')}`,
    );
  }
  const attachment = new UserAttachment(options);
  await attachment.open(connect);
  return attachment;
}

class UserAttachment implements Attachment {
  readonly transport = 'user';
  state: AttachmentState = 'ready';
  note: string | null = null;
  private readonly options: AttachOptions;
  private attached!: Attached;
  private shown: Presentation | null = null;

  constructor(options: AttachOptions) {
    this.options = options;
  }

  async open(connect: Connect): Promise<void> {
    const { options } = this;
    const { socket, pollUs, log, reconnectMs = Number.POSITIVE_INFINITY } = options;
    this.attached = await connect({
      path: socket,
      ...(pollUs === undefined ? {} : { pollUs }),
      reconnect: { limitMs: reconnectMs },
      log,
      onConnection: (isConnected) => {
        this.shown?.connectionChanged(isConnected);
        this.change(isConnected ? 'ready' : 'waiting', null);
      },
      onFail: (error) => {
        this.shown?.driverFailed();
        this.change('failed', error);
      },
    });
    try {
      this.shown = await this.present();
    } catch (error) {
      await this.attached.close();
      throw error;
    }
  }

  private async present(): Promise<Presentation | null> {
    const { attached, options } = this;
    try {
      return await attached.present(options);
    } catch (error) {
      if (!(error instanceof VloError) || !(error.code in UNSHOWN)) throw error;
      const shown = attached.presentWithoutFuse(options);
      this.note = `${UNSHOWN[error.code]}: ${error.message}`;
      options.log(this.note);
      // A back end serves one front end at a time.
      if (shown === null) await attached.close();
      return shown;
    }
  }

  private change(state: AttachmentState, error: VloError | null): void {
    if (this.state === 'failed' || this.state === state) return;
    this.state = state;
    this.options.onState?.(state, error);
  }

  get presentation(): string | null {
    return this.shown?.path ?? null;
  }

  get queueCount(): number {
    return this.attached.queueCount;
  }

  get counters() {
    return this.shown?.counters ?? NO_COUNTERS;
  }

  abandon(error: VloError): void {
    this.attached.abandon(error);
  }

  async close(): Promise<void> {
    // Nothing more comes from applications before the rings go.
    try {
      await this.shown?.close();
    } finally {
      await this.attached.close();
    }
  }
}

const NO_COUNTERS = newCounters();
