/**
 * The in-flight memory as a front end keeps it (section Inflight I/O tracking): asked of one back
 * end, handed to its successors. What is in it is between them.
 */
import { VloError } from '../errors.js';
import type { Fd } from '../native/index.js';
import { closeAll } from './connection.js';
import type { FrontEndQueue } from './front-end-queue.js';
import type { FrontEndSession } from './front-end-session.js';
import type { Payload } from './messages.js';

export class FrontEndInflight {
  private fd: Fd | null = null;
  private description: Payload<'SET_INFLIGHT_FD'> | null = null;

  /** Asks for memory that holds all queues, before the first of them is started. */
  async prepare(session: FrontEndSession, queues: readonly FrontEndQueue[]): Promise<void> {
    if (this.fd !== null || queues.length === 0 || !session.has('INFLIGHT_SHMFD')) return;
    if (queues.some((queue) => queue.isStarted)) return;
    const queueSize = Math.max(...queues.map((queue) => queue.ring.size));
    const { payload, fds } = await session.link.request('GET_INFLIGHT_FD', {
      mmapSize: 0,
      mmapOffset: 0,
      queueCount: queues.length,
      queueSize,
    });
    const fd = fds.shift();
    closeAll(fds);
    // Some back ends offer the feature and have no memory to give: as good as not offered.
    if (fd === undefined || payload.mmapSize === 0) {
      fd?.close();
      return;
    }
    this.fd = fd;
    // Back ends may leave the numbers of queues and entries out of the reply.
    this.description = { ...payload, queueCount: queues.length, queueSize };
    await session.link.ack('SET_INFLIGHT_FD', this.description, [fd]);
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

  /** Lets the memory go. */
  forget(): void {
    this.fd?.close();
    this.fd = null;
    this.description = null;
  }
}
