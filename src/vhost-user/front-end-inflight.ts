/**
 * The in-flight memory as a front end keeps it (section Inflight I/O tracking): asked of one back
 * end, handed to its successors. What is in it is between them.
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import { decodeRequest, encodeRequest } from './codec.js';
import { closeAll } from './connection.js';
import type { FrontEndSession } from './front-end-session.js';
import type { Payload } from './messages.js';
import { HEADER_BYTES } from './messages-constants.js';
import type { StashedInflight } from './relay-types.js';

export class FrontEndInflight {
  private readonly keep: ((memory: Fd, size: number) => Fd | null) | null;
  private fd: Fd | null = null;
  private description: Payload<'SET_INFLIGHT_FD'> | null = null;

  /** @param keep puts the memory into another file, for whom it has to outlive this process */
  constructor(keep: ((memory: Fd, size: number) => Fd | null) | null = null) {
    this.keep = keep;
  }

  /** Asks for memory that holds all queues, before the first of them is started. */
  async prepare(session: FrontEndSession, queueCount: number, queueSize: number): Promise<void> {
    if (this.fd !== null || !session.has('INFLIGHT_SHMFD')) return;
    const { payload, fds } = await session.link.request('GET_INFLIGHT_FD', {
      mmapSize: 0,
      mmapOffset: 0,
      queueCount,
      queueSize,
    });
    const fd = fds.shift();
    closeAll(fds);
    // Some back ends offer the feature and have no memory to give: as good as not offered.
    if (fd === undefined || payload.mmapSize === 0) {
      fd?.close();
      return;
    }
    const kept = this.keep?.(fd, payload.mmapOffset + payload.mmapSize) ?? null;
    if (kept !== null) fd.close();
    this.fd = kept ?? fd;
    // Back ends may leave the numbers of queues and entries out of the reply.
    this.description = { ...payload, queueCount, queueSize };
    await session.link.ack('SET_INFLIGHT_FD', this.description, [this.fd]);
  }

  /**
   * Hands the memory to a new back end. False when it knows nothing of requests in flight: then the
   * rings have to start anew.
   */
  async handOver(session: FrontEndSession): Promise<boolean> {
    const { fd, description } = this;
    if (fd === null || description === null) return false;
    if (!session.has('INFLIGHT_SHMFD')) {
      this.forget();
      return false;
    }
    try {
      await session.link.ack('SET_INFLIGHT_FD', description, [fd]);
      return true;
    } catch (error) {
      if (!(error instanceof VloError) || error.code !== 'VLO_BACKEND_REFUSED') throw error;
      // Another kind of back end, whose layout differs.
      this.forget();
      return false;
    }
  }

  /** What a successor of this process needs to go on; null without. The descriptor stays ours. */
  get stash(): StashedInflight | null {
    const { fd, description } = this;
    if (fd === null || description === null) return null;
    return { fd, note: encodeRequest('SET_INFLIGHT_FD', description).subarray(HEADER_BYTES) };
  }

  /**
   * Goes on with the memory of another process's back end; takes its descriptor over.
   * @throws VloError VLO_PROTOCOL when the note makes no sense
   */
  adopt({ fd, note }: StashedInflight): void {
    try {
      this.description = decodeRequest('SET_INFLIGHT_FD', note, 1);
      this.fd = fd;
    } catch (error) {
      fd.close();
      throw error;
    }
  }

  /** Lets the memory go. */
  forget(): void {
    this.fd?.close();
    this.fd = null;
    this.description = null;
  }
}
