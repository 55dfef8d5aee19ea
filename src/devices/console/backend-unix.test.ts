/** A Unix socket of a port when the process is out of descriptors. */
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { SystemError } from '../../errors.js';
import { acceptUnix } from '../../native/index.js';
import { eventually } from '../../native/test-utils.js';
import { UnixEnd } from './backend-unix.js';

vi.mock(import('../../native/index.js'), async (original) => {
  const native = await original();
  return { ...native, acceptUnix: vi.fn(native.acceptUnix) };
});

test('a client that cannot be accepted waits, is told of once, and gets its turn', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'vlo-end-'));
  const log: string[] = [];
  const events = { ready: () => {}, changed: () => {}, log: (line: string) => log.push(line) };
  const accept = vi.mocked(acceptUnix);
  for (let i = 0; i < 2; i += 1) {
    accept.mockImplementationOnce(() => {
      throw new SystemError('accept4', 'EMFILE');
    });
  }
  const end = new UnixEnd(join(folder, 'socket'), events);
  const client = connect(end.place);
  await eventually(() => end.isOpen);
  // Once for each look, and not as often as the loop turns.
  expect(accept).toHaveBeenCalledTimes(3);
  expect(log).toEqual(['nobody can be accepted now: accept4 failed: EMFILE']);
  client.destroy();
  end.close();
  rmSync(folder, { recursive: true });
});
