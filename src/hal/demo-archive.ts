/**
 * The demonstration where nothing can be mounted: the files as an archive on the disk itself.
 *
 *   block 0    length of the index, in decimal digits
 *   block 1…   the index as JSON: path, offset, size and checksum of each file
 *   then       each file, from the start of a block
 */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { demoFailed } from './demo-program.js';
import type { DemoStand } from './demo-stand.js';
import { checkFile, type DemoFile, forEachFile, totalBytes } from './demo-tree.js';

const BLOCK = 4096;
/** A piece, wherever it lies in memory, is one request: the kernel cuts O_DIRECT at 256 pages. */
const PIECE = 512 * 1024;

const blocks = (size: number): number => Math.ceil(size / BLOCK) * BLOCK;

/** A disk that whole blocks are written to and read from. */
export interface DemoDisk {
  readonly size: number;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  read(offset: number, bytes: Uint8Array): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** The disk's file, past the page cache; without FUSE, the driver. */
export async function openDisk(stand: DemoStand): Promise<DemoDisk> {
  const { diskPath, driver } = stand;
  if (diskPath !== null) return fileDisk(await openDirect(diskPath));
  return {
    size: driver!.size,
    async write(offset, bytes) {
      await driver!.write(offset, bytes);
      stand.count(0, bytes.length);
    },
    async read(offset, bytes) {
      await driver!.read(offset, bytes);
      stand.count(bytes.length, 0);
    },
    async flush() {
      await driver!.flush();
      stand.count(0, 0);
    },
    close: async () => {},
  };
}

function openDirect(path: string): Promise<FileHandle> {
  const { O_DIRECT, O_RDWR } = constants;
  return open(path, O_RDWR | O_DIRECT).catch(() => open(path, O_RDWR));
}

async function fileDisk(handle: FileHandle): Promise<DemoDisk> {
  const { size } = await handle.stat();
  return {
    size,
    async write(offset, bytes) {
      const { bytesWritten } = await handle.write(bytes, 0, bytes.length, offset);
      if (bytesWritten !== bytes.length) throw demoFailed(`short write at ${offset}`);
    },
    async read(offset, bytes) {
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, offset);
      if (bytesRead !== bytes.length) throw demoFailed(`short read at ${offset}`);
    },
    flush: () => handle.sync(),
    close: () => handle.close(),
  };
}

interface IndexEntry {
  readonly path: string;
  readonly offset: number;
  readonly size: number;
  readonly sha256: string;
}

export class DemoArchive {
  private readonly disk: DemoDisk;
  private readonly check: () => void;

  /** @param check throws when the demonstration was interrupted */
  constructor(disk: DemoDisk, check: () => void) {
    this.disk = disk;
    this.check = check;
  }

  async write(files: readonly DemoFile[], atHalf: () => void): Promise<void> {
    // Offsets make the index longer by a few digits each.
    const indexSize = blocks(files.reduce((sum, { path }) => sum + path.length + 160, 2));
    let end = BLOCK + indexSize;
    const index = new Map<DemoFile, IndexEntry>();
    for (const file of files) {
      const { path, bytes, sha256 } = file;
      index.set(file, { path, offset: end, size: bytes.length, sha256 });
      end += blocks(bytes.length);
    }
    if (end > this.disk.size) throw demoFailed(`${totalBytes(files)} bytes do not fit on the disk`);
    const text = Buffer.from(JSON.stringify([...index.values()]));
    await this.put(0, Buffer.from(String(text.length)));
    await this.put(BLOCK, text);
    const writeOne = (file: DemoFile): Promise<void> =>
      this.put(index.get(file)!.offset, file.bytes);
    await forEachFile(files, writeOne, atHalf);
    await this.disk.flush();
  }

  async verify(files: readonly DemoFile[], atHalf: () => void): Promise<void> {
    const size = Number(text(await this.get(0, BLOCK)));
    const index = parseIndex(text(await this.get(BLOCK, Math.min(size, this.disk.size))));
    const checkOne = async (file: DemoFile): Promise<void> => {
      const entry = index.get(file.path);
      if (entry === undefined) throw demoFailed(`'${file.path}' is not in the index of the disk`);
      checkFile(file, await this.get(entry.offset, entry.size));
    };
    await forEachFile(files, checkOne, atHalf);
  }

  private async put(offset: number, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; at += PIECE) {
      this.check();
      const piece = bytes.subarray(at, at + PIECE);
      const whole = new Uint8Array(blocks(piece.length));
      whole.set(piece);
      await this.disk.write(offset + at, whole);
    }
  }

  private async get(offset: number, size: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(blocks(size));
    for (let at = 0; at < bytes.length; at += PIECE) {
      this.check();
      await this.disk.read(offset + at, bytes.subarray(at, at + PIECE));
    }
    return bytes.subarray(0, size);
  }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString().replace(/\0+$/, '');
}

function parseIndex(json: string): Map<string, IndexEntry> {
  try {
    return new Map((JSON.parse(json) as IndexEntry[]).map((entry) => [entry.path, entry]));
  } catch (cause) {
    throw demoFailed('the index of the disk is not what was written', cause);
  }
}
