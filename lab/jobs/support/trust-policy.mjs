/** Checks of `trust`: who may make, take over and use which device. */

import { chmodSync, chownSync, closeSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { LOOPBACK_NODE } from '../../../dist/transports/loopback/control.js';
import { VLO } from '../../../dist/transports/loopback/uapi.js';
import { Actor, NODE_GROUP } from './actor.mjs';
import { check, skip } from './checks.mjs';
import { describeDevice, ModuleFile } from './module-file.mjs';
import { OwnDevice } from './own-device.mjs';
import { run, waitFor } from './programs.mjs';
import { devicesLeft, waitForNoDevices } from './stand.mjs';
import { insertModule, modprobe, removeModule } from './system.mjs';

/** Two ordinary users, in the group that may open the node. */
const ALICE = 1000;
const BOB = 1001;
const NET = 1;
const RNG = 4;
const TAKEOVER_MS = 120_000;
const LOCKDOWN = '/sys/kernel/security/lockdown';
const PARAMETERS = '/sys/module/virtio_loopback/parameters';

/** The types that the module takes, by the capability that each needs; and no others. */
const ALLOWED = {
  net_admin: [1, 36, 40],
  sys_admin: [2, 3, 4, 8, 17, 18, 19, 20, 25, 26, 32, 34, 41, 45],
};
const allowed = (id) => Object.values(ALLOWED).some((ids) => ids.includes(id));
/** All ids of virtio 1.3 and some beyond, and numbers that only look like one of them. */
const IDS = [
  ...Array.from({ length: 64 }, (_, id) => id),
  65535,
  65536 + RNG,
  2 ** 31,
  2 ** 32 - 1,
];
/** Those that would be the worst. */
const WORST = { 5: 'balloon', 16: 'gpu', 23: 'iommu', 24: 'mem', 27: 'pmem' };

/** @param {string} what @param {string | null} found @param {string | null} expected */
export function mustBe(what, found, expected) {
  if (found === expected) return;
  throw new Error(`${what}: ${found ?? 'no error'} instead of ${expected ?? 'no error'}`);
}

/** Sets a parameter of the module for the time of an action. */
export async function withParameter(name, value, action) {
  const path = `${PARAMETERS}/${name}`;
  const before = readFileSync(path, 'utf8').trim();
  writeFileSync(path, value);
  try {
    return await action();
  } finally {
    writeFileSync(path, before);
  }
}

/** Runs an action with an actor, and ends that in any case. */
export async function withActor(options, action) {
  const actor = await Actor.start(options);
  try {
    return await action(actor);
  } finally {
    await actor.end();
  }
}

const device = (id, name, more = {}) => ({ id, name, queues: [8, 8], ...more });
const direct = (name, more = {}) => device(RNG, name, { flags: VLO.F_DIRECT, ...more });

/** What is made of each id: its errors. */
async function outcomes(actor, ids) {
  const file = await actor.open();
  const errors = new Map();
  for (const id of ids) {
    const error = await actor.call(file, 'CREATE', describeDevice(device(id, `type${id}`)));
    errors.set(id, error);
    if (error !== null) continue;
    throw new Error(`a device of type ${id} was made by a user who may not`);
  }
  return errors;
}

/** Root, of whom the module asks for nothing but the list. */
async function typesOfRoot() {
  const taken = [];
  for (const id of IDS) {
    const file = ModuleFile.open();
    const { error } = file.call('CREATE', describeDevice(device(id, `type${id}`)));
    file.close();
    mustBe(`type ${id}${id in WORST ? ` (${WORST[id]})` : ''}`, error, expectedOf(id));
    if (error === null) taken.push(id);
  }
  await waitForNoDevices();
  return `${taken.length} of ${IDS.length} types: ${taken.join(' ')}`;
}

const expectedOf = (id) => (allowed(id) ? null : 'EAFNOSUPPORT');

/** An ordinary user with one capability, or with none. */
async function typesOf(capability) {
  const all = Object.values(ALLOWED).flat();
  const own = ALLOWED[capability] ?? [];
  const others = all.filter((id) => !own.includes(id));
  const capabilities = capability === null ? [] : [capability];
  await withActor({ uid: ALICE, capabilities }, async (actor) => {
    for (const [id, error] of await outcomes(actor, others)) mustBe(`type ${id}`, error, 'EPERM');
    for (const id of own) {
      const { error, file } = await actor.create(device(id, `own${id}`));
      mustBe(`type ${id}`, error, null);
      await actor.close(file);
    }
  });
  await waitForNoDevices();
  return `${own.length} made, ${others.length} refused`;
}

/** Capabilities that a user has in a namespace of its own do not count. */
async function inNamespace() {
  await withActor({ prefix: ['unshare', '--user', '--map-root-user'] }, async (actor) => {
    for (const id of [NET, RNG]) {
      const { error } = await actor.create(device(id, `ns${id}`));
      mustBe(`type ${id}`, error, 'EPERM');
    }
  });
}

/** types=4 of the module. */
async function narrowed() {
  await removeModule();
  await insertModule(`types=${RNG}`);
  const file = ModuleFile.open();
  for (const id of [NET, 2, 16]) {
    const { error } = file.call('CREATE', describeDevice(device(id, 'narrow')));
    mustBe(`type ${id}`, error, 'EAFNOSUPPORT');
  }
  mustBe(`type ${RNG}`, file.call('CREATE', describeDevice(device(RNG, 'narrow'))).error, null);
  file.close();
  await waitForNoDevices();
  await removeModule();
  await insertModule();
  openNode();
}

/** The node is for a group, as an administrator may set it. */
export function openNode() {
  chownSync(LOOPBACK_NODE, 0, NODE_GROUP);
  chmodSync(LOOPBACK_NODE, 0o660);
}

/** An adapter of root's dies; its device waits for another one. Others try to be that. */
async function takeover(flags) {
  const name = `orphan${flags}`;
  const what = device(RNG, name, { flags, takeoverMs: TAKEOVER_MS });
  const others = {
    'a member of the group': { uid: ALICE },
    'with CAP_NET_ADMIN': { uid: ALICE, capabilities: ['net_admin'] },
    'root of a namespace': { prefix: ['unshare', '--user', '--map-root-user'] },
  };
  await withActor({}, async (actor) => mustBe('made', (await actor.create(what)).error, null));
  for (const [who, options] of Object.entries(others)) {
    await withActor(options, async (actor) => mustBe(who, await actor.attach(name), 'EPERM'));
  }
  await withActor({}, async (actor) => {
    const file = await actor.open();
    mustBe('root', (await actor.ask({ file, attach: name })).error, null);
    mustBe('removed', await actor.call(file, 'REMOVE'), null);
  });
  // The file of the adapter keeps its device in sysfs.
  await waitForNoDevices();
  return `${Object.keys(others).length} refused`;
}

/** A device of an ordinary user: the same user takes it over, and needs the same capability. */
async function ownTakeover() {
  const what = device(NET, 'mine', { takeoverMs: TAKEOVER_MS });
  const capabilities = ['net_admin'];
  const making = (actor) => actor.create(what);
  mustBe('made', (await withActor({ uid: ALICE, capabilities }, making)).error, null);
  const attach = (actor) => actor.attach('mine');
  mustBe('another user', await withActor({ uid: BOB, capabilities }, attach), 'EPERM');
  mustBe('without capability', await withActor({ uid: ALICE }, attach), 'EPERM');
  const inNamespace = ['unshare', '--user', '--map-root-user'];
  mustBe('in a namespace', await withActor({ prefix: inNamespace }, attach), 'EPERM');
  await withActor({ uid: ALICE, capabilities }, async (actor) => {
    const file = await actor.open();
    mustBe('the owner', (await actor.ask({ file, attach: 'mine' })).error, null);
    mustBe('removed', await actor.call(file, 'REMOVE'), null);
  });
  await waitForNoDevices();
  return '3 refused, the owner got it';
}

/** As many as a user may have, and one more. */
async function fillQuota(alice) {
  const capabilities = ['net_admin'];
  const made = [];
  for (let i = 0; i < 3; i += 1) made.push(await alice.create(device(NET, `quota${i}`)));
  for (const { error } of made) mustBe('within the limit', error, null);
  mustBe('one more', (await alice.create(device(NET, 'more'))).error, 'EDQUOT');
  await withActor({ uid: BOB, capabilities }, async (bob) => {
    mustBe('another user', (await bob.create(device(NET, 'other'))).error, null);
  });
  await withActor({}, async (root) => {
    mustBe('root', (await root.create(device(NET, 'root'))).error, null);
  });
  await waitFor(() => devicesLeft().length === 3, 'end of the others');
  await alice.close(made[0].file);
  await waitFor(() => devicesLeft().length === 2, 'end of one');
  mustBe('again', (await alice.create(device(NET, 'again'))).error, null);
  return 'the fourth is refused';
}

/** No more devices for a user than the parameter says. */
async function quota() {
  try {
    return await withParameter('devices_per_user', '3', () =>
      withActor({ uid: ALICE, capabilities: ['net_admin'] }, fillQuota),
    );
  } finally {
    await waitForNoDevices();
  }
}

/** Calls that hand out the memory of a direct device. */
const MEMORY_CALLS = [
  ['GET_MEMORY', { index: 0, fd: -1 }],
  ['GET_MEMORY', { index: 1, fd: -1 }],
  ['START', {}],
];

/** A direct device with a driver and a session, for the time of an action. */
async function withDirect(action) {
  await modprobe('virtio_net');
  const what = { id: NET, name: 'direct', queues: [8, 8], flags: VLO.F_DIRECT, stopMs: 100 };
  const own = new OwnDevice(what);
  try {
    await own.driven();
    own.start();
    for (const [call, value] of MEMORY_CALLS) {
      const { error, value: answer } = own.file.call(call, value);
      mustBe(call, error, null);
      // A file of RAM holds the module.
      if (call === 'GET_MEMORY') closeSync(answer.fd);
    }
    return await action(own);
  } finally {
    own.close();
    await waitForNoDevices();
  }
}

/** Each call that gives memory asks again. */
async function withoutRawio() {
  await withActor({ capabilities: ['sys_rawio'] }, async (actor) => {
    mustBe('CREATE', (await actor.create(direct('denied'))).error, 'EPERM');
  });
  return withDirect((own) =>
    withActor({ capabilities: ['sys_rawio'], inherits: own.file.fd }, async (actor) => {
      for (const [call, value] of MEMORY_CALLS) {
        mustBe(`${call} ${value.index ?? ''}`, await actor.call(0, call, value), 'EPERM');
      }
      mustBe('GET_INFO', await actor.call(0, 'GET_INFO'), null);
      return 'refused to a process that has the open file and not CAP_SYS_RAWIO';
    }),
  );
}

/** All ways to the RAM are closed, for a device that is there and for new ones. */
function mustBeDenied(own) {
  for (const [call, value] of MEMORY_CALLS) {
    mustBe(`${call} ${value.index ?? ''}`, own.file.call(call, value).error, 'EACCES');
  }
  const file = ModuleFile.open();
  mustBe('CREATE', file.call('CREATE', describeDevice(direct('new'))).error, 'EACCES');
  mustBe('bounce', file.call('CREATE', describeDevice(device(RNG, 'new'))).error, null);
  file.close();
}

const notWanted = () => withDirect((own) => withParameter('direct', '0', () => mustBeDenied(own)));

/** The kernel is locked down, which cannot be taken back. */
async function lockedDown() {
  if (!existsSync(LOCKDOWN)) {
    await run(['mount', '-t', 'securityfs', 'securityfs', '/sys/kernel/security']);
  }
  if (!existsSync(LOCKDOWN)) skip('this kernel cannot be locked down');
  return withDirect((own) => {
    writeFileSync(LOCKDOWN, 'integrity');
    mustBeDenied(own);
    return readFileSync(LOCKDOWN, 'utf8').trim();
  });
}

/** Who may make and use which device. */
export async function checkPolicy() {
  await check('root makes devices of the types in the list, and of no other', typesOfRoot);
  await check('types: a user without capabilities', () => typesOf(null));
  await check('types: CAP_NET_ADMIN', () => typesOf('net_admin'));
  await check('types: CAP_SYS_ADMIN', () => typesOf('sys_admin'));
  await check('types: root in a user namespace', inNamespace);
  await check('types= makes the list shorter', narrowed);
  await check("root's device is not taken over by another user", () => takeover(0));
  await check("root's direct device is not either", () => takeover(VLO.F_DIRECT));
  await check('a device is taken over by the user who made it', ownTakeover);
  await check('devices_per_user', quota);
  await check('direct: CAP_SYS_RAWIO, at each call', withoutRawio);
  await check('direct=0', notWanted);
}

/** The last check: nothing that is not signed can be loaded afterwards. */
export const checkLockdown = () => check('direct: a kernel that is locked down', lockedDown);
