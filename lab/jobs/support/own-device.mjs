/**
 * A device of the module whose back end is this very process, without vhost-user: each request and
 * each byte of the shared memory is the job's. Rings are split, and polled.
 */

import { closeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  consumeEvent,
  createEventFd,
  Mapping,
  PAGE_SIZE,
  signalEvent,
} from '../../../dist/native/index.js';
import { featureBytes } from '../../../dist/transports/loopback/control.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { describeDevice, ModuleFile } from './module-file.mjs';
import { waitFor } from './programs.mjs';

const DESC_NEXT = 1;
const DESC_WRITE = 2;
const DESC_INDIRECT = 4;
const DESC_BYTES = 16;
const DRIVER_OK = 4;
const POLL_MS = 1;
const READY_MS = 20_000;
export const INDIRECT = 1n << 28n;

/** A request: buffers as views of the session's memory. */
class Request {
  constructor(ring, head) {
    this.ring = ring;
    this.head = head;
    /** @type {Uint8Array[]} */
    this.readable = [];
    /** @type {Uint8Array[]} */
    this.writable = [];
    /** The indirect table; null: there is none. @type {Uint8Array | null} */
    this.table = null;
  }

  /** All that the driver sends. */
  get bytes() {
    return Buffer.concat(this.readable);
  }

  /** Tells the driver, or claims to have written `length` bytes. */
  complete(length) {
    this.ring.use(this.head, length);
  }
}

/** A split ring of a session, from the device's side. */
class OwnRing {
  constructor(session, { index, size, base, descriptor, driver, device }, call) {
    this.session = session;
    this.index = index;
    this.size = size;
    this.call = call;
    this.next = base;
    const area = (address, length) => session.view(address, length);
    this.descriptors = area(descriptor, size * DESC_BYTES);
    const avail = area(driver, 6 + 2 * size);
    const used = area(device, 6 + 8 * size);
    this.avail = new Uint16Array(avail.buffer, avail.byteOffset, 3 + size);
    this.used = new Uint16Array(used.buffer, used.byteOffset, 3 + 4 * size);
    this.elements = new Uint32Array(used.buffer, used.byteOffset + 4, 2 * size);
    /** Where the last area ends, from the start of the memory. */
    this.end = device - session.address + 6 + 8 * size;
  }

  /** The next request of the driver; null when there is none. */
  take() {
    if (Atomics.load(this.avail, 1) === this.next) return null;
    const head = this.avail[2 + (this.next & (this.size - 1))];
    this.next = (this.next + 1) & 0xffff;
    const request = new Request(this, head);
    this.walk(request, this.descriptors, head);
    return request;
  }

  walk(request, table, first) {
    const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
    for (let index = first, flags = DESC_NEXT; (flags & DESC_NEXT) !== 0; ) {
      const at = index * DESC_BYTES;
      const bytes = this.session.view(
        Number(view.getBigUint64(at, true)),
        view.getUint32(at + 8, true),
      );
      flags = view.getUint16(at + 12, true);
      index = view.getUint16(at + 14, true);
      if ((flags & DESC_INDIRECT) !== 0) {
        request.table = bytes;
        this.walk(request, bytes, 0);
      } else if ((flags & DESC_WRITE) !== 0) request.writable.push(bytes);
      else request.readable.push(bytes);
    }
  }

  /** Writes a used entry, and calls. */
  use(id, length) {
    const count = this.used[1];
    const at = 2 * (count & (this.size - 1));
    this.elements[at] = id;
    this.elements[at + 1] = length;
    this.skip(1);
  }

  /** Says that so many more entries are used, and calls. */
  skip(count) {
    Atomics.store(this.used, 1, (this.used[1] + count) & 0xffff);
    signalEvent(this.call.number);
  }
}

/** A session: memory and rings. It stays mapped when others have followed. */
class OwnSession {
  constructor(device, { number, replayed, failed }) {
    Object.assign(this, { number, replayed, failed });
    const { fd, address, size } = device.file.must('GET_MEMORY', { index: 0, fd: -1 });
    this.address = address;
    this.size = size;
    this.mapping = Mapping.shared(fd, size);
    closeSync(fd);
    this.rings = device.calls.flatMap((call, index) => {
      const queue = device.file.must('GET_QUEUE', { index });
      return queue.state === VLO.QUEUE_STARTED ? [new OwnRing(this, queue, call)] : [];
    });
  }

  /** Memory at a guest address. */
  view(address, size) {
    return this.mapping.bytes(address - this.address, size);
  }

  /** All memory behind the rings: where buffers are, and where those of other requests were. */
  get buffers() {
    const end = Math.max(...this.rings.map((ring) => ring.end));
    const start = Math.ceil(end / PAGE_SIZE) * PAGE_SIZE;
    return this.mapping.bytes(start, this.size - start);
  }
}

export class OwnDevice {
  /** @type {OwnSession | null} */
  session = null;
  /** Every session that there was. @type {OwnSession[]} */
  sessions = [];
  status = 0;
  /** VLO_EVENT_* since the last look. */
  events = 0;
  /** Resets are answered. */
  acknowledges = true;
  #serving = false;

  /** @param {Parameters<typeof describeDevice>[0] & { ringFeatures?: bigint }} what */
  constructor({ ringFeatures = 0n, ...what }) {
    this.what = what;
    this.ringFeatures = ringFeatures;
    this.file = ModuleFile.open();
    this.calls = (what.queues ?? [8]).map(() => createEventFd());
    this.kicks = this.calls.map(() => createEventFd());
    this.file.must('CREATE', describeDevice(what));
    for (const [index, { number }] of this.calls.entries()) {
      this.file.must('SET_CALL', { index, fd: number });
      this.file.must('SET_KICK', { index, fd: this.kicks[index].number });
    }
    /** Name of the platform device. */
    this.parent = `virtio-loopback.${this.file.must('GET_INFO').id}`;
  }

  /** Reads what the driver did. */
  look() {
    for (let event = this.file.event(); event !== null; event = this.file.event()) {
      this.status = event.status;
      this.events |= event.events;
      if (event.unacked !== 0 && this.acknowledges) this.file.acknowledge(event.sequence);
    }
  }

  /** Waits for a driver that is ready. */
  async driven(ms = READY_MS) {
    const isReady = () => {
      this.look();
      return (this.status & DRIVER_OK) !== 0;
    };
    await waitFor(isReady, `driver of ${this.what.name}`, ms);
    return this;
  }

  /** Begins a session. */
  start({ flags = 0 } = {}) {
    const ringFeatures = featureBytes(this.ringFeatures);
    const answer = this.file.must('START', { flags, ringFeatures });
    this.session = new OwnSession(this, answer);
    this.sessions.push(this.session);
    return this.session;
  }

  /**
   * Has requests handled from now on, until {@link pause}.
   * @param {(request: Request, queue: number) => void} handle
   */
  serve(handle) {
    this.handle = handle;
    if (this.#serving) return;
    this.#serving = true;
    void this.#poll();
  }

  pause() {
    this.#serving = false;
  }

  async #poll() {
    while (this.#serving) {
      for (const ring of this.session?.rings ?? []) {
        consumeEvent(this.kicks[ring.index].number);
        for (let request = ring.take(); request !== null; request = ring.take()) {
          this.handle(request, ring.index);
        }
      }
      await sleep(POLL_MS);
    }
  }

  /** Requests that lie in a ring, unanswered. */
  async requests(queue, count = 1, ms = READY_MS) {
    const found = [];
    const ring = this.session.rings.find(({ index }) => index === queue);
    const hasAll = () => {
      for (let request = ring.take(); request !== null; request = ring.take()) found.push(request);
      return found.length >= count;
    };
    await waitFor(hasAll, `${count} requests in queue ${queue}`, ms);
    return found;
  }

  /** Lets all go: the device has no time for a takeover, or waits for one. */
  close() {
    this.pause();
    this.file.close();
    for (const { mapping } of this.sessions) mapping.retire();
    for (const fd of [...this.calls, ...this.kicks]) fd.close();
  }
}
