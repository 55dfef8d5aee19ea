/** The lab's kernels: their names, the table of a run on several, the drivers that they lack. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { MATRIX, readKernels } from '../../lab/host/kernels.mjs';
import { isMatrixGood, matrixTable, runMatrix } from '../../lab/host/matrix.mjs';
import { LabError, NotThereError } from '../../lab/host/places.mjs';
import { driversFor, isSince, lackOf } from '../../lab/jobs/support/drivers.mjs';

describe('readKernels', () => {
  test('all: every number, also as a real-time kernel', () => {
    expect(readKernels('all').kernels).toEqual(MATRIX);
    expect(MATRIX.slice(0, 4)).toEqual(['5.10', '5.10-rt', '6.1', '6.1-rt']);
    expect(MATRIX).toHaveLength(10);
  });

  test('a list, each kernel once', () => {
    expect(readKernels('6.1-rt,newest,6.1-rt,debug')).toEqual({
      kernels: ['6.1-rt', 'newest', 'debug'],
      unknown: undefined,
    });
    expect(readKernels('6.1,all').kernels).toHaveLength(MATRIX.length);
  });

  test.each(['5.4', '6.1,', 'debug-rt', '', '6.1-rt-rt'])("not '%s'", (text) => {
    expect(readKernels(text).unknown).toBeDefined();
  });
});

describe('runMatrix', () => {
  const kernels = ['5.10', '6.1', '7.2'];
  const architectures = ['x86-64', 'arm64'];
  const outcomes = (cells: { outcome: string }[]) => cells.map(({ outcome }) => outcome);

  beforeEach(() => void vi.spyOn(process.stderr, 'write').mockReturnValue(true));
  afterEach(() => vi.restoreAllMocks());

  test('goes on after a failure, and after a kernel that is not there', async () => {
    const action = async (kernel: string, arch: string) => {
      if (kernel === '6.1') throw new NotThereError('bookworm has none');
      if (kernel === '7.2' && arch === 'arm64') throw new LabError('it does not build');
      return kernel !== '5.10' || arch === 'x86-64';
    };
    const cells = await runMatrix(kernels, architectures, action);
    expect(outcomes(cells)).toEqual(['ok', 'FAIL', 'not there', 'not there', 'ok', 'FAIL']);
    expect(isMatrixGood(kernels, architectures, cells)).toBe(false);
    const table = matrixTable('smoke', kernels, architectures, cells).replace(/\d+\.\d s/g, 'T');
    expect(table).toBe(
      [
        '| smoke | x86-64 | arm64 |',
        '|---|---|---|',
        '| 5.10 | ok, T | FAIL, T |',
        '| 6.1 | not there | not there |',
        '| 7.2 | ok, T | FAIL, T |',
        '',
        '6.1 on x86-64: not there: bookworm has none',
        '6.1 on arm64: not there: bookworm has none',
        '7.2 on arm64: FAIL: it does not build',
        '',
      ].join('\n'),
    );
  });

  test('is good with kernels that are not there, but not with nothing else', async () => {
    const none = () => Promise.reject(new NotThereError('none'));
    const old = await runMatrix(kernels, architectures, (kernel) =>
      kernel === '5.10' ? none() : Promise.resolve(true),
    );
    expect(isMatrixGood(kernels, architectures, old)).toBe(true);
    const nothing = await runMatrix(kernels, architectures, none);
    expect(isMatrixGood(kernels, architectures, nothing)).toBe(false);
  });

  test('a signal ends it: the rest is not run, and not good', async () => {
    const action = async () => {
      process.emit('SIGTERM');
      return true;
    };
    const cells = await runMatrix(kernels, architectures, action);
    expect(cells).toHaveLength(1);
    expect(isMatrixGood(kernels, architectures, cells)).toBe(false);
    expect(matrixTable('smoke', kernels, architectures, cells)).toMatch('| not run | not run |');
  });

  test('a mistake of the lab itself is not an outcome', async () => {
    const action = () => Promise.reject(new TypeError('mistake'));
    await expect(runMatrix(kernels, architectures, action)).rejects.toThrow('mistake');
  });
});

describe('drivers', () => {
  test.each([
    ['5.10.0-46-amd64', '6.1', false],
    ['6.1.0-57-rt-amd64', '6.1', true],
    ['6.12.118+deb13-amd64', '6.2', true],
    ['6.12.118+deb13-amd64', '7.2', false],
    ['7.3.4+deb13-arm64', '7.2', true],
    ['10.0.1', '7.2', true],
  ])('%s is since %s: %s', (release, version, is) => {
    expect(isSince(release, version)).toBe(is);
  });

  test('a job that needs a driver says since when there is one', () => {
    expect(lackOf('can', '6.12.1')).toBe(
      'can needs the driver virtio_can, which is in Linux 7.2 and newer',
    );
    expect(lackOf('can', '7.2.13')).toBeNull();
    expect(lackOf('smoke', '5.10.0')).toBeNull();
  });

  test('all devices have those that there are', () => {
    expect(driversFor('devices', '5.10.0')).toEqual([]);
    expect(driversFor('devices', '6.12.1')).toEqual(['gpio-virtio']);
    expect(driversFor('devices', '7.3.4')).toEqual(['gpio-virtio', 'virtio_can']);
    expect(driversFor('smoke', '7.3.4')).toEqual([]);
  });
});
