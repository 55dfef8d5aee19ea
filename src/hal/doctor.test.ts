import { describe, expect, test } from 'vitest';
import { CHECK_GROUPS, CHECKS, type CheckResult, type DoctorReport, examine } from './doctor.js';
import { type Machine, type ProgramRun, thisMachine } from './doctor-machine.js';

const RELEASE = '6.18.1-test';
const MODULES = `/lib/modules/${RELEASE}/modules.dep`;
const ROOT_STATUS = 'CapEff:\t000001ffffffffff\nSeccomp:\t0\n';
const USER_STATUS = 'CapEff:\t0000000000000000\nSeccomp:\t0\n';

interface Fake extends Partial<Machine> {
  /** Texts of files by path. */
  readonly files?: Readonly<Record<string, string>>;
  /** Error of opening by path; devices that are not named open well. */
  readonly openErrors?: Readonly<Record<string, string>>;
  /** Runs by program. */
  readonly runs?: Readonly<Record<string, ProgramRun>>;
}

/** A Debian machine that has everything, for root; `changes` takes something away. */
function fakeMachine(changes: Fake = {}): Machine {
  const { files = {}, openErrors = {}, runs = {}, ...own } = changes;
  const texts: Record<string, string> = {
    '/etc/os-release': 'NAME="Debian"\nID=debian\nVERSION_ID="13"\n',
    '/proc/self/status': ROOT_STATUS,
    '/proc/self/limits':
      'Max open files            20000                20000                files\n',
    '/proc/meminfo': 'MemTotal:        8388608 kB\nMemAvailable:    4194304 kB\n',
    '/proc/filesystems': 'nodev\tproc\nnodev\tfuse\nnodev\tfusectl\n',
    '/sys/module/fuse/parameters/enable_uring': 'Y\n',
    [MODULES]: 'kernel/fs/fuse/fuse.ko.xz:\nkernel/drivers/block/loop.ko:\n',
    '/sys/module/virtio_loopback/version': '2.0\n',
    ...files,
  };
  return {
    architecture: 'x64',
    isLittleEndian: true,
    kernelRelease: RELEASE,
    nodeVersion: '20.20.2',
    userId: 0,
    processorCount: 2,
    environment: { PATH: '/usr/bin' },
    readText: (path) => texts[path] ?? null,
    list: () => [],
    exists: (path) => openErrors[path] !== 'ENOENT',
    isWritable: () => true,
    isSetUserId: () => true,
    tryOpen: (path) => openErrors[path] ?? null,
    tryKoffi: async () => null,
    tryMemfd: async () => null,
    tryIoUring: async () => true,
    run: async (program, args) =>
      runs[program] ?? {
        status: 0,
        output: args[0] === '--version' ? '7.2.11' : 'virtio-blk-vhost-user',
      },
    ...own,
  };
}

/** The same machine for an ordinary user. */
function userMachine(changes: Fake = {}): Machine {
  return fakeMachine({
    userId: 1000,
    environment: { PATH: '/usr/bin', XDG_RUNTIME_DIR: '/run/user/1000' },
    ...changes,
    files: { '/proc/self/status': USER_STATUS, ...changes.files },
  });
}

function only(...paths: string[]): (path: string) => boolean {
  return (path) => paths.includes(path);
}

function resultOf(report: DoctorReport, id: string): CheckResult {
  const result = report.checks.find((check) => check.id === id);
  expect(result, `a check named ${id}`).toBeDefined();
  return result!;
}

async function resultOn(machine: Machine, id: string): Promise<CheckResult> {
  return resultOf(await examine(machine), id);
}

describe('the report', () => {
  test('a machine that has everything misses nothing', async () => {
    const report = await examine(fakeMachine());
    const missing = report.checks.filter(({ state }) => state !== 'yes').map(({ id }) => id);
    expect(missing).toEqual([]);
    expect(report.checks.every(({ command }) => command === null)).toBe(true);
    expect(report.works).toBe(true);
    expect(report.transports).toEqual({
      user: { state: 'yes', ways: ['FUSE file', 'API', 'socket'] },
      loopback: { state: 'yes', ways: [] },
      vduse: { state: 'yes', ways: [] },
    });
  });

  test('names are unique and the order is that of the lists', async () => {
    const ids = CHECK_GROUPS.flatMap((group) => CHECKS[group].map(({ id }) => id));
    expect(new Set(ids).size).toBe(ids.length);
    expect((await examine(fakeMachine())).checks.map(({ id }) => id)).toEqual(ids);
  });

  test.each([
    ['node', { nodeVersion: '20.18.9' }],
    ['koffi', { tryKoffi: async () => 'no prebuilt file' }],
    ['memfd', { tryMemfd: async () => 'memfd_create failed: ENOSYS' }],
  ])('nothing works without %s', async (id, changes: Fake) => {
    const report = await examine(fakeMachine(changes));
    expect(resultOf(report, id).state).toBe('no');
    expect(report.works).toBe(false);
    for (const { state } of Object.values(report.transports)) expect(state).toBe('no');
  });

  test('this machine: every check answers, fast, and nothing is left open', async () => {
    const machine = thisMachine();
    await examine(machine); // Loads the native layer, whose own descriptors stay.
    const before = machine.list('/proc/self/fd').length;
    const start = performance.now();
    const report = await examine(machine);
    expect(performance.now() - start).toBeLessThan(1500);
    expect(machine.list('/proc/self/fd').length).toBe(before);
    for (const check of report.checks) {
      expect(check).toEqual({
        id: expect.stringMatching(/^[a-z][a-z0-9-]*$/),
        group: expect.toBeOneOf([...CHECK_GROUPS]),
        title: expect.stringMatching(/./),
        state: expect.toBeOneOf(['yes', 'no', 'partly']),
        detail: expect.stringMatching(/^\S(.*\S)?$/),
        gives: expect.stringMatching(/^\S.*[^\s.]$/),
        command: expect.toBeOneOf([null, expect.stringMatching(/^\S.*\S$/)]),
      });
      if (check.state === 'yes') expect(check.command).toBeNull();
    }
    // The tests themselves need the core.
    expect(report.works).toBe(true);
  });
});

describe('the machine', () => {
  test('io_uring switched off', async () => {
    const off = { tryIoUring: async () => false };
    const files = { '/proc/sys/kernel/io_uring_disabled': '2\n' };
    expect(await resultOn(fakeMachine({ ...off, files }), 'io-uring')).toMatchObject({
      state: 'no',
      detail: 'switched off by kernel.io_uring_disabled=2; threads are used instead',
      command: 'sysctl kernel.io_uring_disabled=0',
    });
    const status = { '/proc/sys/kernel/io_uring_disabled': '1\n' };
    expect(await resultOn(userMachine({ ...off, files: status }), 'io-uring')).toMatchObject({
      command: 'sudo sysctl kernel.io_uring_disabled=0',
    });
  });

  test('io_uring forbidden by a container, or not there at all', async () => {
    const off = { tryIoUring: async () => false };
    const files = { '/proc/self/status': ROOT_STATUS.replace('Seccomp:\t0', 'Seccomp:\t2') };
    const forbidden = await resultOn(fakeMachine({ ...off, files }), 'io-uring');
    expect(forbidden.detail).toContain('seccomp');
    expect(forbidden.command).toMatch(/^# /);
    const missing = await resultOn(fakeMachine(off), 'io-uring');
    expect(missing).toMatchObject({ state: 'no', command: null });
    expect(missing.detail).toContain('threads');
  });

  test('few descriptors', async () => {
    const files = { '/proc/self/limits': 'Max open files            256      256      files\n' };
    expect(await resultOn(userMachine({ files }), 'open-files')).toMatchObject({
      state: 'partly',
      detail: '256, room for about 25 devices',
      command: 'sudo prlimit --pid $$ --nofile=65536',
    });
  });

  test('root of a container is no administrator', async () => {
    const files = { '/proc/self/status': 'CapEff:\t00000000a80425fb\n' };
    expect((await resultOn(fakeMachine({ files }), 'privileges')).state).toBe('partly');
    expect(await resultOn(userMachine(), 'privileges')).toMatchObject({
      state: 'no',
      command: 'sudo vlo up',
    });
  });
});

describe('the user transport', () => {
  const noFuse = {
    openErrors: { '/dev/fuse': 'ENOENT' },
    files: { '/proc/filesystems': 'nodev\tproc\n\tfuseblk\n' },
  };

  test('no FUSE', async () => {
    const report = await examine(userMachine(noFuse));
    for (const id of ['fuse', 'dev-fuse']) {
      expect(resultOf(report, id)).toMatchObject({ state: 'no', command: 'sudo modprobe fuse' });
    }
    expect(report.works).toBe(true);
    expect(report.transports.user).toEqual({ state: 'partly', ways: ['API', 'socket'] });
  });

  test('a kernel that comes without FUSE, and a container without modules', async () => {
    const files = { ...noFuse.files, [MODULES]: 'kernel/drivers/block/loop.ko:\n' };
    const without = await resultOn(fakeMachine({ ...noFuse, files }), 'fuse');
    expect(without).toMatchObject({ state: 'no', command: null });
    const container = fakeMachine({ ...noFuse, kernelRelease: '6.1.0-elsewhere' });
    expect((await resultOn(container, 'fuse')).command).toMatch(
      /^# .* on its host: modprobe fuse$/,
    );
  });

  test('no permission for /dev/fuse', async () => {
    const report = await examine(userMachine({ openErrors: { '/dev/fuse': 'EACCES' } }));
    expect(resultOf(report, 'dev-fuse')).toMatchObject({
      state: 'no',
      detail: '/dev/fuse: no permission (EACCES)',
      command: 'sudo chmod 666 /dev/fuse',
    });
    expect(report.transports.user.ways).not.toContain('FUSE file');
  });

  test('a container without /dev/fuse', async () => {
    const missing = fakeMachine({ openErrors: { '/dev/fuse': 'ENOENT' } });
    expect((await resultOn(missing, 'dev-fuse')).command).toBe('mknod -m 666 /dev/fuse c 10 229');
    const forbidden = fakeMachine({ openErrors: { '/dev/fuse': 'EPERM' } });
    expect((await resultOn(forbidden, 'dev-fuse')).command).toBe(
      '# start the container with --device /dev/fuse',
    );
  });

  test('not root without fusermount3', async () => {
    expect(await resultOn(userMachine({ exists: () => false }), 'fusermount3')).toMatchObject({
      state: 'no',
      command: 'sudo apt-get install -y fuse3',
    });
    expect(await resultOn(userMachine({ isSetUserId: () => false }), 'fusermount3')).toMatchObject({
      state: 'no',
      command: 'sudo chmod u+s /usr/bin/fusermount3',
    });
    const root = { exists: () => false };
    expect((await resultOn(fakeMachine(root), 'fusermount3')).state).toBe('yes');
    const files = { '/proc/self/status': USER_STATUS };
    expect((await resultOn(fakeMachine({ ...root, files }), 'fusermount3')).state).toBe('no');
  });

  test.each([
    ['ID=fedora', 'sudo dnf install -y fuse3'],
    ['ID="rocky"\nID_LIKE="rhel centos fedora"', 'sudo dnf install -y fuse3'],
    ['ID=alpine', 'sudo apk add fuse3'],
    ['ID=arch', 'sudo pacman -S --needed fuse3'],
    ['ID="opensuse-leap"\nID_LIKE="suse opensuse"', 'sudo zypper install -y fuse3'],
    ['ID=linuxmint\nID_LIKE="ubuntu debian"', 'sudo apt-get install -y fuse3'],
    ['ID=poky', "# install fuse3 with this system's package manager, or from its source"],
  ])('the command that installs on %j', async (text, command) => {
    const files = { '/etc/os-release': `${text}\n` };
    const machine = userMachine({ exists: () => false, files });
    expect((await resultOn(machine, 'fusermount3')).command).toBe(command);
  });

  test('FUSE over io_uring', async () => {
    const path = '/sys/module/fuse/parameters/enable_uring';
    const off = userMachine({ files: { [path]: 'N\n' } });
    expect(await resultOn(off, 'fuse-io-uring')).toMatchObject({
      state: 'no',
      command: `echo 1 | sudo tee ${path}`,
    });
    const old = {
      kernelRelease: '6.12.9',
      readText: (file: string) => (file === path ? null : fakeMachine().readText(file)),
    };
    expect((await resultOn(fakeMachine(old), 'fuse-io-uring')).detail).toBe(
      'needs Linux 6.14; this is 6.12.9',
    );
    const forbidden = fakeMachine({ tryIoUring: async () => false });
    expect((await resultOn(forbidden, 'fuse-io-uring')).state).toBe('no');
  });

  test('the run directory', async () => {
    expect((await resultOn(fakeMachine(), 'run-directory')).detail).toBe('/run/vlo');
    expect((await resultOn(userMachine(), 'run-directory')).detail).toBe('/run/user/1000/vlo');
    const unset = userMachine({ environment: {} });
    expect((await resultOn(unset, 'run-directory')).detail).toContain('--run-dir');
    // Not made yet: what counts is whether it can be made.
    const fresh = { exists: () => false, isWritable: only('/run/user/1000') };
    expect((await resultOn(userMachine(fresh), 'run-directory')).state).toBe('yes');
    const sealed = await examine(userMachine({ isWritable: () => false }));
    expect(resultOf(sealed, 'run-directory').state).toBe('no');
    expect(sealed.transports.user).toEqual({ state: 'partly', ways: ['FUSE file', 'API'] });
  });

  test('vcan is a module, and its interfaces need a right', async () => {
    expect((await resultOn(fakeMachine(), 'vcan')).state).toBe('yes');
    expect(await resultOn(userMachine(), 'vcan')).toMatchObject({
      state: 'partly',
      command: 'sudo vlo up',
    });
    const openErrors = { '/sys/module/vcan': 'ENOENT' };
    expect((await resultOn(fakeMachine({ openErrors }), 'vcan')).command).toBeNull();
    const files = { [MODULES]: 'kernel/drivers/net/can/vcan.ko:\n' };
    const loadable = await resultOn(fakeMachine({ openErrors, files }), 'vcan');
    expect(loadable).toMatchObject({ state: 'no', command: 'modprobe vcan' });
  });

  test('uinput is given to one user, as who has it can type for everybody', async () => {
    const path = '/dev/uinput';
    expect(await resultOn(fakeMachine(), 'uinput')).toMatchObject({ state: 'yes', detail: path });
    const openErrors = { [path]: 'EACCES' };
    expect(await resultOn(userMachine({ openErrors }), 'uinput')).toMatchObject({
      state: 'no',
      command: `sudo chown 1000 ${path}`,
    });
    const absent = { [path]: 'ENOENT' };
    const without = await resultOn(fakeMachine({ openErrors: absent }), 'uinput');
    expect(without.detail).toContain('this kernel comes without the module uinput');
    const files = { [MODULES]: 'kernel/drivers/input/misc/uinput.ko:\n' };
    const loadable = await resultOn(fakeMachine({ openErrors: absent, files }), 'uinput');
    expect(loadable).toMatchObject({ state: 'no', command: 'modprobe uinput' });
  });

  test('TAP and loop devices need rights beyond their device files', async () => {
    const report = await examine(userMachine());
    expect(resultOf(report, 'tap')).toMatchObject({
      state: 'partly',
      command: 'sudo ip tuntap add dev vlo0 mode tap user 1000',
    });
    expect(resultOf(report, 'loop').state).toBe('partly');
  });
});

describe('the kernel transports', () => {
  const openErrors = { '/dev/virtio-loopback': 'ENOENT', '/dev/vduse/control': 'ENOENT' };
  const onModules = (...names: string[]): Machine =>
    userMachine({
      openErrors,
      files: { [MODULES]: names.map((n) => `kernel/${n}.ko:\n`).join('') },
    });

  test('our module is built, or loaded', async () => {
    const absent = await resultOn(fakeMachine({ openErrors }), 'loopback');
    expect(absent).toMatchObject({ state: 'no' });
    expect(absent.command).toMatch(/make -C \S+\/kernel && insmod \S+\/virtio_loopback\.ko/);
    const installed = await resultOn(onModules('virtio_loopback'), 'loopback');
    expect(installed).toMatchObject({ state: 'no', command: 'sudo modprobe virtio_loopback' });
  });

  test('our module cannot be built here', async () => {
    const old = await resultOn(fakeMachine({ openErrors, kernelRelease: '5.4.0' }), 'loopback');
    expect(old).toMatchObject({
      state: 'no',
      detail: 'the module needs Linux 5.10; this is 5.4.0',
      command: null,
    });
    const build = `/lib/modules/${RELEASE}/build`;
    const bare = fakeMachine({ openErrors: { ...openErrors, [build]: 'ENOENT' } });
    const found = await resultOn(bare, 'loopback');
    expect(found).toMatchObject({ state: 'no' });
    expect(found.detail).toContain('headers to build the module are not installed');
    expect(found.command).toContain(`linux-headers-${RELEASE}`);
  });

  test('our module is there, of this version or another', async () => {
    const withVersion = (version: string): Machine =>
      fakeMachine({ files: { '/sys/module/virtio_loopback/version': `${version}\n` } });
    expect(await resultOn(withVersion('2.3'), 'loopback')).toMatchObject({
      state: 'yes',
      detail: '/dev/virtio-loopback, module 2.3',
      command: null,
    });
    const other = await resultOn(withVersion('3.0'), 'loopback');
    expect(other.state).toBe('no');
    expect(other.detail).toContain('3.0');
    expect(other.command).toContain('rmmod virtio_loopback');
  });

  test('VDUSE can be loaded, or the kernel comes without a part of it', async () => {
    const both = await resultOn(onModules('vduse', 'virtio_vdpa'), 'vduse');
    expect(both.command).toBe('sudo modprobe --all vduse virtio-vdpa');
    const container = userMachine({ openErrors, kernelRelease: '6.1.0-elsewhere' });
    expect((await resultOn(container, 'vduse')).command).toMatch(/^# .*vduse virtio-vdpa$/);
    for (const modules of [['virtio_vdpa'], ['vduse'], []]) {
      const result = await resultOn(onModules(...modules), 'vduse');
      expect(result).toMatchObject({ state: 'no', command: null });
      expect(result.detail).toContain('this kernel comes without');
    }
  });

  test('VDUSE is loaded without the driver of its bus', async () => {
    const files = { [MODULES]: 'kernel/drivers/virtio/virtio_vdpa.ko.zst: kernel/vdpa.ko.zst\n' };
    const machine = userMachine({ files, exists: only('/dev/vduse/control') });
    expect(await resultOn(machine, 'vduse')).toMatchObject({
      state: 'partly',
      command: 'sudo modprobe virtio-vdpa',
    });
  });

  test('VDUSE for root only', async () => {
    const denied = { '/dev/vduse/control': 'EACCES' };
    const machine = userMachine({ openErrors: denied });
    expect((await resultOn(machine, 'vduse')).command).toBe('sudo vlo up');
  });
});

describe('tools', () => {
  const qemu = '/usr/bin/qemu-system-x86_64';
  const image = '/usr/bin/qemu-img';

  test('QEMU: missing, old, without vhost-user, broken', async () => {
    expect(await resultOn(userMachine({ exists: () => false }), 'qemu')).toMatchObject({
      state: 'no',
      command: 'sudo apt-get install -y qemu-system-x86',
    });
    const old = { [qemu]: { status: 0, output: 'QEMU emulator version 4.2.1 (Debian)' } };
    expect((await resultOn(fakeMachine({ runs: old }), 'qemu')).state).toBe('partly');
    const run = async (_program: string, args: readonly string[]): Promise<ProgramRun> =>
      args[0] === '--version' ? { status: 0, output: 'version 9.0' } : { status: 0, output: '' };
    expect((await resultOn(fakeMachine({ run }), 'qemu')).detail).toContain('without vhost-user');
    const broken = { [qemu]: { status: null, output: '' } };
    expect((await resultOn(fakeMachine({ runs: broken }), 'qemu')).detail).toContain(
      'does not run',
    );
  });

  test('the libblkio driver of qemu-img', async () => {
    const folder = '/usr/lib/x86_64-linux-gnu/qemu';
    const list = (path: string): string[] => (path === folder ? ['block-curl.so'] : []);
    const runs = { [image]: { status: 0, output: 'Supported formats: virtio-blk-vhost-user' } };
    // The list of formats names drivers whose modules are not installed.
    const without = fakeMachine({ list, runs, exists: only(image) });
    expect(await resultOn(without, 'qemu-img')).toMatchObject({
      state: 'partly',
      command: 'apt-get install -y qemu-utils qemu-block-extra',
    });
    const installed = fakeMachine({ list, exists: only(image, `${folder}/block-blkio.so`) });
    expect((await resultOn(installed, 'qemu-img')).state).toBe('yes');
    const builtIn = fakeMachine({ runs, exists: only(image) });
    expect((await resultOn(builtIn, 'qemu-img')).state).toBe('yes');
    const files = { '/etc/os-release': 'ID=debian\nVERSION_ID="12"\n' };
    const old = fakeMachine({ files, exists: () => false });
    expect((await resultOn(old, 'qemu-img')).command).toMatch(/^# move to Debian 13/);
  });

  test('a program named linux need not be User-Mode Linux', async () => {
    const exists = only('/usr/bin/linux');
    const other = { '/usr/bin/linux': { status: 0, output: 'linux: a game, version 2.0' } };
    const machine = fakeMachine({ exists, runs: other });
    expect(await resultOn(machine, 'user-mode-linux')).toMatchObject({
      state: 'no',
      command: 'apt-get install -y user-mode-linux',
    });
    const uml = { '/usr/bin/linux': { status: 0, output: '7.2.0\n' } };
    const found = await resultOn(fakeMachine({ exists, runs: uml }), 'user-mode-linux');
    expect(found.detail).toBe('7.2.0, /usr/bin/linux');
  });

  test('back ends of others, also outside of PATH', async () => {
    const list = (path: string): string[] =>
      path === '/usr/bin' ? ['passt', 'vhost-device-can', 'vhost-device-can.1'] : [];
    const machine = fakeMachine({ list, exists: only('/usr/libexec/virtiofsd') });
    const { detail } = await resultOn(machine, 'back-ends');
    expect(detail).toBe('passt, vhost-device-can, virtiofsd');
  });

  test('a program that hangs or is none is given up', async () => {
    const machine = thisMachine();
    const start = performance.now();
    expect((await machine.run('/bin/sh', ['-c', 'sleep 30'])).status).toBeNull();
    expect(performance.now() - start).toBeLessThan(1500);
    expect((await machine.run('/dev/null', [])).status).toBeNull();
    expect(await machine.run('/bin/sh', ['-c', 'echo out; exit 3'])).toEqual({
      status: 3,
      output: 'out\n',
    });
  });
});
