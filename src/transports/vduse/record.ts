/**
 * What a successor of this process has to know of a device and the kernel keeps nothing of: what it
 * was made with, and how far its rings are served. A file for that, one that is the in-flight
 * memory itself, and one for where there is none: what only descriptors hold is lost with the last
 * process that has one.
 */
import {
  constants,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { VloError } from '../../errors.js';
import { Fd, Mapping } from '../../native/index.js';
import type { RelayPast } from '../../vhost-user/index.js';
import { deviceNode } from './device.js';

/** In memory on all distributions, and for root alone, as VDUSE is. */
const FOLDER = '/run/vlo-vduse';

const { O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;

const Base64 = v.pipe(v.string(), v.base64());
const RecordFile = v.object({
  /** Inode of the device's node: another device of the same name has another. */
  node: v.number(),
  deviceId: v.number(),
  /** Hexadecimal, without what is VDUSE's. */
  features: v.pipe(v.string(), v.hexadecimal()),
  queueSizes: v.array(v.number()),
  config: Base64,
  /** Null: no ring is served. Without a note: nobody keeps track of the requests. */
  past: v.nullable(v.object({ note: v.nullable(Base64) })),
});
type RecordValue = v.InferOutput<typeof RecordFile>;

/** What a device was made with. */
export interface DeviceFacts {
  readonly deviceId: number;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
}

const inode = (name: string): number => statSync(deviceNode(name)).ino;
const toBase64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
const fromBase64 = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'));

export class DeviceRecord {
  private readonly name: string;
  private readonly folder: string;
  private value: RecordValue;
  /** The in-flight memory that lies in our file; whoever it was given to closes it. */
  private kept: Fd | null = null;

  private constructor(name: string, folder: string, value: RecordValue) {
    this.name = name;
    this.folder = folder;
    this.value = value;
  }

  /** Begins the record of a device that was just made. @throws VloError VLO_RUN_DIR */
  static create(name: string, facts: DeviceFacts, folder = FOLDER, node = inode(name)) {
    const record = new DeviceRecord(name, folder, {
      node,
      deviceId: facts.deviceId,
      features: facts.features.toString(16),
      queueSizes: [...facts.queueSizes],
      config: toBase64(facts.config),
      past: null,
    });
    try {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
      record.remove();
      record.save();
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      const why = 'an adapter after this one finds there how far requests are';
      throw new VloError('VLO_RUN_DIR', `cannot write to '${folder}' (${code}): ${why}`);
    }
    return record;
  }

  /** The record of a device that is there; null when it is not one of ours. */
  static load(name: string, folder = FOLDER, node = inode(name)): DeviceRecord | null {
    try {
      const text = readFileSync(join(folder, `${name}.json`), 'utf8');
      const value = v.parse(RecordFile, JSON.parse(text));
      return value.node === node ? new DeviceRecord(name, folder, value) : null;
    } catch {
      return null;
    }
  }

  get facts(): DeviceFacts {
    const { deviceId, features, queueSizes, config } = this.value;
    return {
      deviceId,
      features: BigInt(`0x${features}`),
      queueSizes,
      config: fromBase64(config),
    };
  }

  /** Config space has changed. */
  setConfig(config: Uint8Array): void {
    this.value = { ...this.value, config: toBase64(config) };
    this.save();
  }

  /**
   * Puts in-flight memory into a file of ours. The descriptor is the caller's.
   * @throws Error as files do; SystemError
   */
  keep(memory: Fd, size: number): Fd {
    rmSync(this.inflightFile, { force: true });
    const flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
    const fd = new Fd(openSync(this.inflightFile, flags, 0o600));
    try {
      ftruncateSync(fd.number, size);
      const [from, to] = [Mapping.shared(memory.number, size), Mapping.shared(fd.number, size)];
      to.bytes(0, size).set(from.bytes(0, size));
      from.retire();
      to.retire();
    } catch (error) {
      fd.close();
      throw error;
    }
    this.kept = fd;
    return fd;
  }

  /**
   * Maps a file beside, all zero at first, that a successor finds as it was.
   * @throws Error as files do; SystemError
   */
  mapRequests(size: number): Mapping {
    const fd = new Fd(openSync(this.requestsFile, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600));
    try {
      ftruncateSync(fd.number, size);
      return Mapping.shared(fd.number, size);
    } finally {
      fd.close();
    }
  }

  setPast(past: RelayPast | null): void {
    const memory = past?.memory ?? null;
    const note = memory !== null && memory.fd === this.kept ? toBase64(memory.note) : null;
    this.value = { ...this.value, past: past === null ? null : { note } };
    this.save();
  }

  /** What a dead process left. The descriptor is the caller's. @throws Error as files do */
  openPast(): RelayPast | null {
    const { past } = this.value;
    if (past === null || past.note === null) return past === null ? null : { memory: null };
    this.kept = new Fd(openSync(this.inflightFile, O_RDWR | O_NOFOLLOW));
    return { memory: { fd: this.kept, note: fromBase64(past.note) } };
  }

  /** The device is no more. */
  remove(): void {
    rmSync(this.recordFile, { force: true });
    rmSync(this.inflightFile, { force: true });
    rmSync(this.requestsFile, { force: true });
  }

  private get recordFile(): string {
    return join(this.folder, `${this.name}.json`);
  }

  private get inflightFile(): string {
    return join(this.folder, `${this.name}.inflight`);
  }

  private get requestsFile(): string {
    return join(this.folder, `${this.name}.requests`);
  }

  /** At once: who reads it sees the old one or the new one. */
  private save(): void {
    const file = `${this.recordFile}.new`;
    writeFileSync(file, JSON.stringify(this.value), { mode: 0o600 });
    renameSync(file, this.recordFile);
  }
}
