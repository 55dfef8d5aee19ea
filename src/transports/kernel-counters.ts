/** What the kernel has counted of a device that it serves applications with. */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { newCounters, type PresentationCounters } from '../present/index.js';

/** Unit of the statistics of disks, in bytes. */
const SECTOR_SIZE = 512;

/** Fields of a disk's `stat` (the kernel's Documentation/block/stat.rst), from 0. */
const STAT = { reads: 0, sectorsRead: 2, writes: 4, sectorsWritten: 6, discards: 11, flushes: 15 };

/**
 * Counters of a node: of disks what was asked for and moved. The kernel counts no failures of a
 * disk, and nothing for other nodes: what is not known is 0.
 */
export function countersOf(node: string | null, sys = '/sys'): PresentationCounters {
  const counters = newCounters();
  if (node === null || !node.startsWith('/dev/vd')) return counters;
  let text: string;
  try {
    text = readFileSync(`${sys}/class/block/${basename(node)}/stat`, 'utf8');
  } catch {
    return counters;
  }
  const fields = text.trim().split(/\s+/).map(Number);
  const field = (index: number): number => fields[index] ?? 0;
  counters.requests =
    field(STAT.reads) + field(STAT.writes) + field(STAT.discards) + field(STAT.flushes);
  counters.bytesRead = field(STAT.sectorsRead) * SECTOR_SIZE;
  counters.bytesWritten = field(STAT.sectorsWritten) * SECTOR_SIZE;
  return counters;
}
