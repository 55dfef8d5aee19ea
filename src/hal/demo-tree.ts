/** The files that the demonstration stores: this package's own, and some of random bytes. */
import { createHash } from 'node:crypto';
import { type FileHandle, open, readdir, readFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { demoFailed } from './demo-program.js';

const PACKAGE = dirname(dirname(fileURLToPath(import.meta.url)));
const RANDOM_FILES = 64;
/** Sizes that fit no block and no transfer. */
const RANDOM_UNIT = 10_007;

export interface DemoFile {
  /** Relative to the root of the tree. */
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly sha256: string;
}

export const sha256 = (bytes: Uint8Array): string =>
  createHash('sha256').update(bytes).digest('hex');

export const totalBytes = (files: readonly DemoFile[]): number =>
  files.reduce((sum, { bytes }) => sum + bytes.length, 0);

/** @throws VloError VLO_DEMO_FAILED when a file does not have the bytes that were stored */
export function checkFile(file: DemoFile, bytes: Uint8Array): void {
  if (bytes.length === file.bytes.length && sha256(bytes) === file.sha256) return;
  throw demoFailed(`the checksum of '${file.path}' is not that of what was written`);
}

/** Fills memory from an entropy source, which may give less than was asked for. */
export async function readEntropy(source: FileHandle, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  for (let length = 0; length < size; ) {
    const { bytesRead } = await source.read(bytes, length, size - length, null);
    if (bytesRead === 0) throw demoFailed('the entropy source ended');
    length += bytesRead;
  }
  return bytes;
}

/** The files, with their checksums; they stay in memory, whatever happens to their originals. */
export async function collectTree(randomPath: string): Promise<DemoFile[]> {
  const files: DemoFile[] = [];
  const add = (path: string, bytes: Uint8Array): void => {
    files.push({ path, bytes, sha256: sha256(bytes) });
  };
  const entries = await readdir(PACKAGE, { recursive: true, withFileTypes: true });
  for (const entry of entries.filter((candidate) => candidate.isFile())) {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    // One that is gone by now is none of the tree.
    const bytes = await readFile(path).catch(() => null);
    if (bytes !== null) add(join('package', relative(PACKAGE, path)), bytes);
  }
  const random = await open(randomPath, 'r');
  try {
    for (let i = 0; i < RANDOM_FILES; i += 1) {
      const size = (((i * 37) % RANDOM_FILES) + 1) * RANDOM_UNIT;
      add(join('random', `${i}.bin`), await readEntropy(random, size));
    }
  } finally {
    await random.close();
  }
  return files;
}

/** Calls `act` for each file, a few at a time, and `atHalf` once while one of them goes on. */
export async function forEachFile(
  files: readonly DemoFile[],
  act: (file: DemoFile) => Promise<void>,
  atHalf: () => void,
): Promise<void> {
  const total = totalBytes(files);
  const queue = files.values();
  let started = 0;
  let isHalf = false;
  const work = async (): Promise<void> => {
    for (const file of queue) {
      const acting = act(file);
      started += file.bytes.length;
      if (!isHalf && started * 2 >= total) {
        isHalf = true;
        atHalf();
      }
      await acting;
    }
  };
  const workers = [work(), work(), work()];
  // All have ended before anybody cleans up behind them.
  const results = await Promise.allSettled(workers);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
