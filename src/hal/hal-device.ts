/** One device of a HAL: attached when its back end serves, and kept attached. */
import { setTimeout as sleep } from 'node:timers/promises';
import { attach } from '../adapter/attach.js';
import { VloError } from '../errors.js';
import type { Attachment } from '../transports/attachment.js';
import type { DeviceConfig } from './config-model.js';
import type { DeviceUnit } from './device-unit.js';
import type { DeviceState, DeviceStatus } from './status.js';

/** Pauses in milliseconds between attempts to attach a back end that somebody else runs. */
const RETRY_MS_FIRST = 100;
const RETRY_MS_MAX = 2000;

/** Errors after which another attempt may succeed. */
const TRANSIENT = new Set(['VLO_DISCONNECTED', 'VLO_TIMEOUT']);

/** What a device is given by its HAL. */
export interface HalDeviceContext {
  readonly socket: string;
  readonly folder: string;
  /** The process behind it; null when somebody else runs it. */
  readonly unit: () => DeviceUnit | null;
  readonly log: (line: string) => void;
  /** Something that the status shows has changed. */
  readonly onChange: () => void;
}

export class HalDevice {
  /** Resolves when it is ready for the first time; rejects when it fails before that. */
  readonly firstReady: Promise<void>;
  private readonly config: DeviceConfig;
  private readonly context: HalDeviceContext;
  private attachment: Attachment | null = null;
  private attaching: Promise<void> | null = null;
  private state: DeviceState = 'starting';
  private error: VloError | null = null;
  private readyAt = 0;
  private isClosed = false;
  private readonly aborter = new AbortController();
  private resolveReady!: () => void;
  private rejectReady!: (error: VloError) => void;

  constructor(config: DeviceConfig, context: HalDeviceContext) {
    this.config = config;
    this.context = context;
    this.firstReady = new Promise((resolve, reject) => {
      this.resolveReady = resolve;
      this.rejectReady = reject;
    });
    // Whoever is interested asks; nobody has to.
    this.firstReady.catch(() => {});
  }

  get name(): string {
    return this.config.name;
  }

  /** The back end serves: attach it, unless it is attached and reconnects by itself. */
  serving(): void {
    if (this.isClosed || this.attaching !== null) return;
    if (this.attachment !== null && this.attachment.state !== 'failed') return;
    if (this.state === 'failed') this.change('starting', null);
    this.attaching = this.attachSoon().finally(() => {
      this.attaching = null;
    });
  }

  private async attachSoon(): Promise<void> {
    await this.detach();
    for (let pauseMs = RETRY_MS_FIRST; this.isWanted; pauseMs *= 2) {
      try {
        await this.attachOnce();
        return;
      } catch (error) {
        if (!(error instanceof VloError)) throw error;
        if (!this.isWanted) return;
        if (!TRANSIENT.has(error.code)) {
          this.context.log(`${error.code}: ${error.message}`);
          this.givenUp(error);
          return;
        }
        if (pauseMs === RETRY_MS_FIRST) this.context.log(`waiting for it: ${error.message}`);
        this.error = error;
        this.context.onChange();
      }
      const { signal } = this.aborter;
      await sleep(Math.min(pauseMs, RETRY_MS_MAX), undefined, { signal }).catch(() => {});
    }
  }

  /** Neither taken down nor given up. */
  private get isWanted(): boolean {
    return !this.isClosed && this.state !== 'failed';
  }

  private async attachOnce(): Promise<void> {
    const { config, context } = this;
    const attachment = await attach(config.transport, {
      name: config.name,
      type: config.type,
      socket: context.socket,
      folder: context.folder,
      kernel: config.kernel,
      log: context.log,
      onState: (state, error) => {
        if (state === 'failed' && error !== null) this.givenUp(error);
        else this.change(state, null);
      },
    });
    if (this.isClosed) {
      await attachment.close();
      return;
    }
    this.attachment = attachment;
    if (this.readyAt === 0) this.readyAt = Date.now();
    this.change('ready', null);
    this.resolveReady();
  }

  /** Nothing will serve it any more, until somebody restarts it. */
  givenUp(error: VloError): void {
    if (this.isClosed || this.state === 'failed') return;
    this.change('failed', error);
    this.attachment?.abandon(error);
    this.rejectReady(error);
  }

  private change(state: DeviceState, error: VloError | null): void {
    this.state = state;
    this.error = error;
    this.context.onChange();
  }

  /** Has its process replaced, or tries again to attach it. */
  async restart(): Promise<void> {
    const unit = this.context.unit();
    if (this.state === 'failed') this.change('starting', null);
    if (unit === null) this.serving();
    else await unit.restart();
  }

  private async detach(): Promise<void> {
    const { attachment } = this;
    this.attachment = null;
    await attachment?.close();
  }

  /** Takes it down, but for an attempt to attach it: see {@link settled}. Idempotent. */
  async close(): Promise<void> {
    this.isClosed = true;
    this.aborter.abort();
    await this.detach();
    this.rejectReady(new VloError('VLO_CLOSED', `${this.name} was taken down`));
  }

  /** Resolves when no attempt to attach it goes on; soon, once its back end is gone. */
  async settled(): Promise<void> {
    await this.attaching;
  }

  status(): DeviceStatus {
    const { config, context, attachment, error } = this;
    const unit = context.unit();
    const { requests, errors, bytesRead, bytesWritten } = attachment?.counters ?? NOTHING;
    return {
      name: config.name,
      type: config.type,
      transport: attachment?.transport ?? null,
      backEnd: {
        kind: config.source.kind,
        socket: context.socket,
        process: unit?.identity ?? null,
        group: config.group,
      },
      presentation: attachment?.presentation ?? null,
      state: this.state,
      note: error === null ? (attachment?.note ?? null) : `${error.code}: ${error.message}`,
      queues: attachment?.queueCount ?? 0,
      ...{ requests, errors, bytesRead, bytesWritten },
      restarts: unit?.restartCount ?? 0,
      uptimeMs: this.readyAt === 0 ? 0 : Date.now() - this.readyAt,
    };
  }
}

const NOTHING = { requests: 0, errors: 0, bytesRead: 0, bytesWritten: 0 };
