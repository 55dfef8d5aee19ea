/** virtiofsd: a shared folder on a RAM disk, mounted by the kernel's own virtiofs. */

import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fact } from './checks.mjs';
import { runFio, startFio } from './fio.mjs';
import { run, start } from './programs.mjs';
import { mustBeUntouched, readAsNobody, Secret } from './stale-data.mjs';
import { modprobe, PROJECT } from './system.mjs';
import { cell, keepOffers } from './third-matrix.mjs';
import { ThirdParty } from './third-party.mjs';
import { probeFs } from './third-probes.mjs';
import { offersOf } from './third-survey.mjs';

export const VIRTIOFSD = 'virtiofsd';
export const VIRTIOFSD_PROGRAM = '/usr/libexec/virtiofsd';
const RAM_DISK = '/dev/ram0';
const RAM_DISK_KIB = 192 * 1024;
const READER_BYTES = 128 * 1024;
const MOUNT_MS = 20_000;
/** An operation on a file system that does not hang has ended after this, with or without error. */
const ANSWER_MS = 20_000;

/** Name and fio's options; the last one needs more memory in flight than a device's pool has. */
const LOADS = {
  '4 KiB, 4 jobs, depth 4': { rw: 'randrw', bs: '4k', size: '1m', numjobs: 4, iodepth: 4 },
  '64 KiB, 2 jobs, depth 16': { rw: 'randrw', bs: '64k', size: '8m', numjobs: 2, iodepth: 16 },
  '1 MiB, 1 job, depth 8': { rw: 'write', bs: '1m', size: '16m', numjobs: 1, iodepth: 8 },
};
const FULL_POOL = { rw: 'write', bs: '480k', size: '38400k', numjobs: 2, iodepth: 64 };

class Share extends ThirdParty {
  constructor() {
    super('fs', (socket) => [
      ...[VIRTIOFSD_PROGRAM, '--shared-dir', this.shared, '--socket-path', socket],
      ...['--allow-direct-io', '--log-level', 'warn'],
    ]);
    this.shared = this.path('shared');
    this.mounted = this.path('mounted');
  }

  /** O_DIRECT is the medium's to take: a RAM disk with a file system that has it. */
  async prepare() {
    for (const path of [this.shared, this.mounted]) mkdirSync(path);
    await modprobe('brd', 'rd_nr=1', `rd_size=${RAM_DISK_KIB}`);
    await run(['mkfs.ext4', '-q', RAM_DISK]);
    await run(['mount', '-t', 'ext4', RAM_DISK, this.shared]);
  }

  mount() {
    return run(['mount', '-t', 'virtiofs', this.node, this.mounted], { timeout: MOUNT_MS });
  }

  unmount() {
    return run(['umount', this.mounted], { timeout: MOUNT_MS });
  }

  file(name) {
    return `${this.mounted}/${name}`;
  }
}

/** Checksums of all files below a folder, by path. */
async function checksums(folder) {
  const line = 'find . -type f -print0 | sort -z | xargs -0 sha256sum';
  return (await run(['bash', '-c', line], { cwd: folder })).stdout;
}

async function copyTree(share, source) {
  await run(['cp', '-r', source, share.file('tree')]);
  const wanted = await checksums(source);
  await run(['sh', '-c', 'echo 3 > /proc/sys/vm/drop_caches']);
  if ((await checksums(share.file('tree'))) !== wanted) throw new Error('the copy differs');
  // What is there is what virtiofsd wrote, too.
  if ((await checksums(`${share.shared}/tree`)) !== wanted) throw new Error('the original differs');
  return `${wanted.trim().split('\n').length} files`;
}

/** fio's own options for files of its own on the share. */
const fioWords = (share, name) => ({ name, directory: share.mounted });

async function load(share, options) {
  const { requests } = await runFio({ ...fioWords(share, 'load'), ...options, verify: 'crc32c' });
  const files = (await readdir(share.mounted)).filter((name) => name.startsWith('load.'));
  for (const name of files) await rm(share.file(name));
  return `${requests} requests, verified`;
}

async function readStale(share) {
  const secret = await Secret.make(share.file('secret'));
  await writeFile(share.file('five'), 'hello', { mode: 0o644 });
  await secret.spread();
  const result = await readAsNobody(share.file('five'), READER_BYTES, secret);
  if (result.error !== null || result.text !== 'hello') throw new Error(JSON.stringify(result));
  mustBeUntouched(result, READER_BYTES);
  return '5 bytes read, the rest of 128 KiB as before';
}

/** What a program says that ends, in time: 'ok', or the error. */
async function tell(program) {
  const { command, ended } = program;
  const status = await ended;
  if (status === 0) return 'ok';
  const text = program.stderr.trim();
  const why = /: ([A-Z][^:]*)$/.exec(text)?.[1];
  if (why === undefined) throw new Error(`${command.join(' ')}: ${status} ${text}`);
  return why;
}

/** A program that is killed when it hangs. */
const bounded = (...command) => start(['timeout', '-s', 'KILL', `${ANSWER_MS / 1000}`, ...command]);

/** A program that has a file open, and reads it when it is told to. */
class Holder {
  constructor(share, name) {
    this.sign = share.path('read-now');
    rmSync(this.sign, { force: true });
    const line = 'exec 3<"$0"; echo open; while [ ! -e "$1" ]; do sleep 0.1; done; cat <&3';
    this.program = bounded('bash', '-c', line, share.file(name), this.sign);
  }

  open() {
    return this.program.waitForOutput(/open/);
  }

  read() {
    writeFileSync(this.sign, '');
    return tell(this.program);
  }
}

/**
 * virtiofsd keeps nothing of its clients: a successor knows neither the mount nor open files, and
 * answers EBADF until all is unmounted and mounted anew.
 */
async function killOnce(share) {
  const holder = new Holder(share, 'five');
  await holder.open();
  const busy = startFio({
    ...fioWords(share, 'busy'),
    ...{ rw: 'randrw', bs: '64k', size: '8m', iodepth: 16, time_based: 1, runtime: 30 },
  });
  await sleep(1000);
  await share.replace();
  const { errors } = await busy.result();
  const seen = {
    'requests in flight': errors.join(', '),
    'open file': await holder.read(),
    'new open': await tell(bounded('cat', share.file('five'))),
  };
  await share.unmount();
  await share.mount();
  return seen;
}

async function killed(share, rounds) {
  const wanted = await checksums(share.file('tree'));
  let seen = {};
  for (let round = 0; round < rounds; round += 1) {
    seen = await killOnce(share);
    if ((await checksums(share.file('tree'))) !== wanted) throw new Error('the tree has changed');
  }
  share.mustBeAttached();
  fact('virtiofsd: what a client sees of its death', seen);
  const words = Object.entries(seen).map(([what, result]) => `${what}: ${result}`);
  return `${words.join('; ')}; all is well after umount and mount`;
}

async function use(share, put, isShort) {
  await put('data', 'a tree is copied', () =>
    copyTree(share, `${PROJECT}/dist/${isShort ? 'vhost-user' : ''}`),
  );
  for (const [title, options] of Object.entries(LOADS)) {
    await put('load', `O_DIRECT, ${title}`, () => load(share, options));
  }
  await put('load', 'O_DIRECT, 480 KiB, 2 jobs, depth 64: a full pool', () =>
    load(share, FULL_POOL),
  );
  await put('stale data', 'a short read leaves nothing behind its end', () => readStale(share));
  await put('killed and back', 'killed and back', () => killed(share, isShort ? 1 : 3));
}

/** @param {{ isShort: boolean }} options */
export async function virtiofsd({ isShort }) {
  const share = new Share();
  const put = (column, title, action) => cell(VIRTIOFSD, column, title, action);
  await modprobe('virtiofs');
  await share.prepare();
  await put('data', 'what it offers', async () => {
    writeFileSync(`${share.shared}/five`, 'hello', { mode: 0o644 });
    const offers = await share.survey(offersOf);
    return keepOffers(VIRTIOFSD, offers, await share.survey((socket) => probeFs(socket, 'five')));
  });
  await share.start();
  const isThere = await put('data', 'a mount', async () => {
    await share.attach();
    await share.mount();
    return share.node;
  });
  if (isThere) await use(share, put, isShort);
  await put('data', 'it goes', async () => {
    await run(['umount', '-l', share.mounted], { status: null });
    await share.stop();
    await run(['umount', share.shared]);
  });
}
